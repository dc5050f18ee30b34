//! The names of things: content hashes, byte ranges, peers, transfers.

mod hash;
mod peer;
mod priority;
mod range;
mod transfer;

pub use hash::{ContentHash, HaveKey, KnowledgeProof, LaneBinding};
pub use peer::{PeerId, PeerSpec};
pub use priority::Priority;
pub use range::BlobRange;
pub use transfer::TransferId;

/// Why a text is not the id it should be. The message names the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// Not 64 lower-case hexadecimal digits.
    #[error("'{0}' is not a BLAKE3 hash: 64 lower-case hexadecimal digits are wanted, as b3sum prints them")]
    Hash(String),
    /// Not a node id.
    #[error("'{0}' is not a node id: 64 lower-case hexadecimal digits are wanted, as 'byhash id' prints them")]
    Peer(String),
    /// Not `[ID@]HOST:PORT`.
    #[error("'{0}' is not a peer: [ID@]HOST:PORT is wanted, for instance 192.0.2.7:7117 or <id>@[2001:db8::7]:7117")]
    PeerSpec(String),
    /// Not a transfer id.
    #[error("'{0}' is not a transfer id: 16 hexadecimal digits are wanted, as 'byhash transfers ls' prints them")]
    Transfer(String),
}

/// Decodes exactly 64 lower-case hexadecimal digits.
fn hex32(text: &[u8]) -> Option<[u8; 32]> {
    fn digit(c: u8) -> Option<u8> {
        match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        }
    }
    if text.len() != 64 {
        return None;
    }
    let mut out = [0; 32];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

/// Writes `bytes` as lower-case hexadecimal digits.
fn write_hex(f: &mut std::fmt::Formatter<'_>, bytes: &[u8]) -> std::fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0u8; 64];
    let text = &mut text[..bytes.len() * 2];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    f.pad(std::str::from_utf8(text).expect("hexadecimal digits are ASCII"))
}

/// Serde for a 32-byte id: a hex string where the format is for people (JSON, TOML), 32 plain
/// bytes where it is not (postcard).
macro_rules! serde_as_hex {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                if s.is_human_readable() { s.collect_str(self) } else { self.0.serialize(s) }
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                if d.is_human_readable() {
                    let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; 32]>::deserialize(d).map(Self)
                }
            }
        }
    };
}
use serde_as_hex;
