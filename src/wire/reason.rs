//! Why a peer turned a lane or a request away.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a peer turned a lane or a request away; one byte on the wire. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusedReason {
    /// 1: the asker's key is not on the allow-list, or this hash is not for it.
    NotAllowed,
    /// 2: the asker's proof of the network secret does not match.
    WrongSecret,
    /// 3: the asker speaks another version of the protocol.
    UnsupportedVersion,
    /// 4: the node is going down.
    ShuttingDown,
    /// 5: the holder's user ended this transfer.
    Cancelled,
    /// A reason of a later version: any other number.
    Other(u8),
}

impl RefusedReason {
    /// The reason with this number on the wire.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::NotAllowed,
            2 => Self::WrongSecret,
            3 => Self::UnsupportedVersion,
            4 => Self::ShuttingDown,
            5 => Self::Cancelled,
            other => Self::Other(other),
        }
    }

    /// The number on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::NotAllowed => 1,
            Self::WrongSecret => 2,
            Self::UnsupportedVersion => 3,
            Self::ShuttingDown => 4,
            Self::Cancelled => 5,
            Self::Other(number) => number,
        }
    }
}

impl fmt::Display for RefusedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllowed => f.write_str("this node is not allowed there"),
            Self::WrongSecret => f.write_str("the network secrets differ"),
            Self::UnsupportedVersion => f.write_str("it speaks another version of the protocol"),
            Self::ShuttingDown => f.write_str("it is shutting down"),
            Self::Cancelled => f.write_str("its user ended the transfer"),
            Self::Other(number) => write!(f, "reason {number}, unknown to this version"),
        }
    }
}

impl Serialize for RefusedReason {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u8(self.number())
    }
}

impl<'de> Deserialize<'de> for RefusedReason {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        u8::deserialize(d).map(Self::from_number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_round_trips() {
        for number in 0..=u8::MAX {
            assert_eq!(RefusedReason::from_number(number).number(), number);
        }
    }
}
