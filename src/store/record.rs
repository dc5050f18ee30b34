//! What the index says about a blob.

use rangemap::RangeSet;
use serde::{Deserialize, Serialize};

use crate::ids::BlobRange;
use crate::verify::{GROUP_LEN, bytes_of, group_count, outboard_len};

/// What a file takes on disk is a multiple of this, in bytes: the block of ext4, xfs, btrfs and tmpfs.
pub(super) const BLOCK_LEN: u64 = 4096;

// So that the ends of all groups but the last are ends of blocks, and charges can be added up.
const _: () = assert!(GROUP_LEN.is_multiple_of(BLOCK_LEN));

/// Where a blob came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Added here; never evicted.
    Local,
    /// Fetched from a peer.
    #[default]
    Fetched,
    /// Added here, and served from a file of the user's; never evicted.
    Reference,
}

/// The entry of a blob. Its encoding belongs to the index's format version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The proven size in bytes.
    pub size: u64,
    /// The verified groups: in order, disjoint.
    pub held: Vec<(u64, u64)>,
    /// Where it came from.
    pub origin: Origin,
    /// Not to be evicted.
    pub pinned: bool,
    /// When it was last used, in milliseconds since 1970, never twice the same.
    pub last_use: u64,
}

impl Record {
    /// A record of `held` groups.
    pub fn new(size: u64, held: &RangeSet<u64>, origin: Origin, pinned: bool, last_use: u64) -> Self {
        let held = held.iter().map(|range| (range.start, range.end)).collect();
        Self { size, held, origin, pinned, last_use }
    }

    /// The verified groups; what lies beyond the end is left out.
    pub fn held(&self) -> RangeSet<u64> {
        let count = group_count(self.size);
        let clipped = self.held.iter().map(|(start, end)| *start..(*end).min(count));
        clipped.filter(|range| !range.is_empty()).collect()
    }

    /// Whether all groups are held.
    pub fn is_complete(&self) -> bool {
        self.held == [(0, group_count(self.size))]
    }

    /// Bytes of content that are held.
    pub fn held_bytes(&self) -> u64 {
        self.held.iter().map(|(start, end)| bytes_of(self.size, &(*start..*end)).len()).sum()
    }

    /// Bytes that the blob is charged for: the blocks of what is held, and of the outboard. Content that lies in
    /// a file of the user's is not.
    pub fn charge(&self) -> u64 {
        if self.origin == Origin::Reference {
            return reference_charge(self.size);
        }
        let groups = self.held.iter().map(|(start, end)| *start..*end);
        groups.map(|range| content_charge(self.size, [&range])).sum::<u64>() + outboard_charge(self.size)
    }

    /// Whether it may be evicted.
    pub fn is_evictable(&self) -> bool {
        !self.pinned && self.origin == Origin::Fetched
    }
}

/// What is known of a blob without opening its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// The proven size in bytes.
    pub size: u64,
    /// Whether all of it is held.
    pub complete: bool,
    /// How many bytes of it are held.
    pub held_bytes: u64,
    /// Where it came from.
    pub origin: Origin,
    /// Whether it is kept from eviction.
    pub pinned: bool,
}

impl From<&Record> for BlobInfo {
    fn from(record: &Record) -> Self {
        Self {
            size: record.size,
            complete: record.is_complete(),
            held_bytes: record.held_bytes(),
            origin: record.origin,
            pinned: record.pinned,
        }
    }
}

/// Bytes on disk that `groups` of a blob of `size` bytes are charged for together.
pub(super) fn content_charge<'a>(size: u64, groups: impl IntoIterator<Item = &'a std::ops::Range<u64>>) -> u64 {
    content_bytes(size, groups).next_multiple_of(BLOCK_LEN)
}

/// Bytes on disk that a blob of `size` bytes is charged for that is served from a file of the user's: the
/// outboard, and a block for the link to that file.
pub(super) fn reference_charge(size: u64) -> u64 {
    outboard_charge(size) + BLOCK_LEN
}

/// Bytes on disk that the outboard of a blob of `size` bytes is charged for.
pub(super) fn outboard_charge(size: u64) -> u64 {
    outboard_len(size).next_multiple_of(BLOCK_LEN)
}

/// Bytes that `groups` of a blob of `size` bytes have together.
pub(super) fn content_bytes<'a>(size: u64, groups: impl IntoIterator<Item = &'a std::ops::Range<u64>>) -> u64 {
    groups.into_iter().map(|range| bytes_of(size, range)).map(|range: BlobRange| range.len()).sum()
}
