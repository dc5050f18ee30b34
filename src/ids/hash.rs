//! The name of a blob, and the blinded form of it that may be shown to strangers.

use std::fmt;
use std::str::FromStr;

use super::{ParseIdError, hex32, serde_as_hex, write_hex};

/// The BLAKE3 hash of a blob's content: its name, and the right to read it. Whoever presents it
/// may have the bytes, so it is sent only to peers that proved to know it. Above debug level it is
/// logged only where something is wrong with the blob on this node's own disk, whose files are named after it.
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

    /// Proves, on the lane that `binding` stands for and on no other, that one who asks for the blob knows the hash.
    pub fn knowledge_proof(&self, binding: &LaneBinding) -> KnowledgeProof {
        KnowledgeProof::cut(blake3::keyed_hash(&self.0, &binding.0))
    }

    /// The same of one who says to have the blob: what an asker has sent is no use for it.
    pub fn holder_proof(&self, binding: &LaneBinding) -> KnowledgeProof {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        KnowledgeProof::cut(hasher.update(&binding.0).update(b"holder").finalize())
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

/// What only the two ends of one lane know, and no lane before or after it has: a value exported from its
/// TLS session.
#[derive(Clone, Copy)]
pub struct LaneBinding(pub [u8; 32]);

impl fmt::Debug for LaneBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LaneBinding(..)")
    }
}

/// A proof of knowing a [`ContentHash`], good on one lane: the first bytes of BLAKE3 keyed with the hash, over
/// the lane's [`LaneBinding`]. Whoever does not know the hash learns nothing from it, and cannot use it elsewhere, as
/// one could a [`HaveKey`] that was heard. 128 bits, as much as TLS's tags.
#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
pub struct KnowledgeProof(pub [u8; Self::LEN]);

impl KnowledgeProof {
    /// Its length in bytes.
    pub const LEN: usize = 16;

    fn cut(mac: blake3::Hash) -> Self {
        let (proof, _) = mac.as_bytes().split_at(Self::LEN);
        Self(proof.try_into().expect("it is cut to that length"))
    }
}

impl PartialEq for KnowledgeProof {
    /// Takes the same time wherever they differ.
    fn eq(&self, other: &Self) -> bool {
        let differences = self.0.iter().zip(&other.0).fold(0, |all, (a, b)| all | (a ^ b));
        std::hint::black_box(differences) == 0
    }
}

impl Eq for KnowledgeProof {}

impl fmt::Debug for KnowledgeProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KnowledgeProof(..)")
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
    fn a_proof_of_knowledge_is_good_for_one_hash_and_one_lane() {
        let (hash, lane) = (ContentHash::of(b"x"), LaneBinding([3; 32]));
        let proof = hash.knowledge_proof(&lane);
        assert_eq!(proof, hash.knowledge_proof(&lane));
        assert_ne!(proof, ContentHash::of(b"y").knowledge_proof(&lane));
        assert_ne!(proof, hash.knowledge_proof(&LaneBinding([4; 32])));
        assert_ne!(proof, hash.holder_proof(&lane), "nor in the other role");
        assert_ne!(hash.holder_proof(&lane), ContentHash::of(b"y").holder_proof(&lane));
        assert_ne!(hash.holder_proof(&lane), hash.holder_proof(&LaneBinding([4; 32])));
        // From the key that is sent with it, it cannot be made.
        assert_ne!(proof, ContentHash::from_bytes(hash.have_key().0).knowledge_proof(&lane));
    }

    #[test]
    fn the_have_key_does_not_show_the_hash() {
        let hash = ContentHash::of(b"x");
        assert_ne!(&hash.have_key().0, hash.as_bytes());
        assert_eq!(hash.have_key(), hash.have_key());
    }
}
