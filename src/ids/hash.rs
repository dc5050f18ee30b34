//! The name of a blob, and the blinded form of it that may be shown to strangers.

use std::fmt;
use std::str::FromStr;

use super::{ParseIdError, hex32, serde_as_hex, write_hex};

/// The BLAKE3 hash of a blob's content: its name, and the right to read it. Whoever presents it
/// may have the bytes, so it is sent only to peers that proved to know it, and it is not logged
/// above debug level.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// The hash of no bytes at all. The empty blob exists everywhere.
    pub const EMPTY: Self = Self([
        0xaf, 0x13, 0x49, 0xb9, 0xf5, 0xf9, 0xa1, 0xa6, 0xa0, 0x40, 0x4d, 0xea, 0x36, 0xdc, 0xc9, 0x49, 0x9b, 0xcb,
        0x25, 0xc9, 0xad, 0xc1, 0x12, 0xb7, 0xcc, 0x9a, 0x93, 0xca, 0xe4, 0x1f, 0x32, 0x62,
    ]);

    /// Wraps the 32 bytes of a BLAKE3 digest.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes of the digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Hashes `content`, which is at hand in memory.
    pub fn of(content: &[u8]) -> Self {
        Self(*blake3::hash(content).as_bytes())
    }

    /// Parses a file name: exactly 64 lower-case hexadecimal digits, nothing else.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        hex32(name).map(Self)
    }

    /// The id under which a have-query may ask for this blob without giving the hash away.
    pub fn have_key(&self) -> HaveKey {
        HaveKey(blake3::derive_key("byhash have v1", &self.0))
    }
}

impl From<blake3::Hash> for ContentHash {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl FromStr for ContentHash {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        Self::from_name(text.as_bytes()).ok_or_else(|| ParseIdError::Hash(text.to_owned()))
    }
}

serde_as_hex!(ContentHash);

/// A blinded [`ContentHash`]: `blake3::derive_key("byhash have v1", hash)`. Whoever has the blob
/// can tell which one is meant; nobody else can.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct HaveKey(pub [u8; 32]);

impl fmt::Debug for HaveKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_hash_is_that_of_no_bytes() {
        assert_eq!(ContentHash::of(b""), ContentHash::EMPTY);
    }

    #[test]
    fn a_name_round_trips_and_nothing_else_is_one() {
        let text = ContentHash::of(b"x").to_string();
        assert_eq!(text.parse::<ContentHash>().unwrap(), ContentHash::of(b"x"));
        for bad in
            [text.to_uppercase(), text[1..].to_owned(), format!("{text}0"), text.replace('a', "g"), String::new()]
        {
            if bad != text {
                assert!(bad.parse::<ContentHash>().is_err(), "{bad}");
            }
        }
    }

    #[test]
    fn json_shows_hex_and_postcard_plain_bytes() {
        let hash = ContentHash::of(b"x");
        let json = serde_json::to_string(&hash).unwrap();
        assert_eq!(json, format!("\"{hash}\""));
        assert_eq!(serde_json::from_str::<ContentHash>(&json).unwrap(), hash);
        let plain = postcard::to_allocvec(&hash).unwrap();
        assert_eq!(plain, hash.as_bytes());
        assert_eq!(postcard::from_bytes::<ContentHash>(&plain).unwrap(), hash);
    }

    #[test]
    fn the_have_key_does_not_show_the_hash() {
        let hash = ContentHash::of(b"x");
        assert_ne!(&hash.have_key().0, hash.as_bytes());
        assert_eq!(hash.have_key(), hash.have_key());
    }
}
