//! The identity of a transfer.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::ParseIdError;

/// Marks a transfer id. From the seed: bit 61 is set in every transfer id.
const TRANSFER_FLAG: u64 = 1 << 61;
/// Clear in every transfer id (the seed keeps it for other kinds of stream).
const CHANNEL_BIT: u64 = 1 << 48;
/// The low 48 bits carry the nonce.
const NONCE_MASK: u64 = CHANNEL_BIT - 1;

/// The next nonce. A monotonic counter is enough: 2^48 ids pass before one comes back. It starts
/// anywhere, so that the ids of different nodes differ for people who compare them.
static NEXT_NONCE: LazyLock<AtomicU64> = LazyLock::new(|| {
    let mut start = [0; 8];
    // Without randomness the ids are merely those that another node uses too.
    let _ = getrandom::fill(&mut start);
    AtomicU64::new(u64::from_le_bytes(start) & NONCE_MASK)
});

/// The identity and cancel handle of one transfer, chosen by the requester: bit 61 set, bit 48
/// clear, a 48-bit nonce below. Unique among the transfers of one process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferId(u64);

impl TransferId {
    /// A fresh id, unlike all others of this process for the next 2^48 calls.
    pub fn next() -> Self {
        Self::from_nonce(NEXT_NONCE.fetch_add(1, Ordering::Relaxed))
    }

    /// The id with the low 48 bits of `nonce`.
    pub const fn from_nonce(nonce: u64) -> Self {
        Self(TRANSFER_FLAG | (nonce & NONCE_MASK))
    }

    /// The id that is `raw` on the wire, or `None` if `raw` has not the layout of one.
    pub const fn from_raw(raw: u64) -> Option<Self> {
        if raw & !NONCE_MASK == TRANSFER_FLAG { Some(Self(raw)) } else { None }
    }

    /// The number on the wire.
    pub const fn raw(self) -> u64 {
        self.0
    }
}

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TransferId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        u64::from_str_radix(text, 16)
            .ok()
            .and_then(Self::from_raw)
            .ok_or_else(|| ParseIdError::Transfer(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_has_bit_61_and_not_bit_48() {
        for nonce in [0, 1, 42, 0xffff, NONCE_MASK, NONCE_MASK + 1, u64::MAX] {
            let raw = TransferId::from_nonce(nonce).raw();
            assert_ne!(raw & TRANSFER_FLAG, 0);
            assert_eq!(raw & CHANNEL_BIT, 0);
            assert_eq!(TransferId::from_raw(raw), Some(TransferId::from_nonce(nonce)));
        }
    }

    #[test]
    fn other_numbers_are_not_transfer_ids() {
        for raw in [0, 0x1100, u64::MAX, TRANSFER_FLAG | CHANNEL_BIT, CHANNEL_BIT | 5, TRANSFER_FLAG | 1 << 62] {
            assert_eq!(TransferId::from_raw(raw), None, "{raw:#x}");
        }
    }

    #[test]
    fn fresh_ids_differ_and_print_what_they_parse() {
        let (a, b) = (TransferId::next(), TransferId::next());
        assert_ne!(a, b);
        assert_eq!(a.to_string().parse::<TransferId>().unwrap(), a);
    }
}
