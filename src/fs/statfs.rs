//! What `df` shows: the cache's real figures.

use super::{BLOCK_SIZE, Filesystem};

/// The longest name in bytes: a hash in hexadecimal digits.
const NAME_MAX: u32 = 64;

/// The figures of statfs(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statfs {
    /// The unit of the next three, in bytes.
    pub block_size: u32,
    /// What the cache may hold.
    pub blocks: u64,
    /// What of that it does not hold.
    pub free: u64,
    /// What could still be written: within the cap and on the disk below.
    pub available: u64,
    /// Longest name in bytes.
    pub name_max: u32,
}

impl Filesystem {
    /// The cache's figures. No network.
    pub fn statfs(&self) -> Statfs {
        let usage = self.source.usage();
        let block = u64::from(BLOCK_SIZE);
        Statfs {
            block_size: BLOCK_SIZE,
            blocks: usage.capacity / block,
            free: usage.capacity.saturating_sub(usage.used) / block,
            available: usage.available / block,
            name_max: NAME_MAX,
        }
    }
}
