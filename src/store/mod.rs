//! Bytes on disk: content files, their outboards, and the index of what is held.
//!
//! ```text
//! <dir>/blobs/ab/<hash>         exactly the content; sparse while partial, mode 0444 once complete
//! <dir>/blobs/ab/<hash>.obao4   the outboard; none for a blob of one group
//! <dir>/index.redb              by hash: size, verified groups, origin, pin, last use
//! <dir>/tmp/                    files on their way in, each under a lock of its writer
//! <dir>/lock                    held by the process that has the store open; its number
//! ```
//!
//! # The order of writes
//!
//! Bytes, then proof, then index. What the index claims *must* be true after a crash at any
//! point; what it does not claim is only lost work.
//!
//! * [`Blob::write`] writes content, then the nodes of the proof, and then counts the groups as
//!   held in memory. The flusher makes both files durable and only then lets the index say so.
//! * A blob that goes loses its entry in the index first, then its files. Files without an entry
//!   are harmless; after a crash the flusher removes them, a directory at a time.
//! * Files without an entry are never reused: the first write to a blob unlinks them.
//! * A file that was complete (mode 0444) is never written to again, for the kernel may be reading
//!   it directly. If groups of it turn out damaged, the rest is copied to a new file before the
//!   first write.
//!
//! # Locks
//!
//! In this order, never the other way round: `flushing`, `structure` (which files and entries
//! exist), the index's write transaction, the state of a blob. Only the rare copy of a damaged file
//! does much under the lock of a blob.
//!
//! All of it blocks; asynchronous callers use `spawn_blocking`.

mod adopt;
mod blob;
mod error;
mod files;
mod flusher;
pub mod import;
mod index;
mod keep;
mod layout;
mod list;
mod read;
mod record;
mod scrub;
mod shared;
mod space;
mod sweep;
mod write;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

pub use blob::Blob;
pub use error::StoreError;
pub use keep::{Collected, PinOutcome};
pub use list::{HeldBlob, Page};
pub use record::{BlobInfo, Origin};
pub use scrub::Scrubbed;

use crate::ids::{ContentHash, HaveKey};
use crate::metrics::Metrics;
use flusher::Flusher;
use shared::Shared;

/// Where the store lies and how much it may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The cache directory; made if it is not there.
    pub dir: PathBuf,
    /// What content and outboards may take together, in bytes. The index is not counted.
    pub capacity: u64,
    /// What is left free on the file system, in bytes.
    pub keep_free: u64,
}

/// The store's figures, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// What the store may hold.
    pub capacity: u64,
    /// What it holds, reserved room included.
    pub used: u64,
    /// What could still be written without evicting: within the cap and on the file system.
    pub available: u64,
    /// How many blobs it holds, partial ones included.
    pub blobs: u64,
}

/// An open store. Clones share it; when the last one goes, what is pending is flushed.
#[derive(Debug, Clone)]
pub struct Store {
    shared: Arc<Shared>,
    flusher: Arc<Flusher>,
}

impl Store {
    /// Opens the store in `config.dir`, making it if need be. The time it takes does not depend on
    /// how much is held. [`StoreError::Locked`] if another process, or another `Store`, has it open.
    pub fn open(config: Config, metrics: Arc<Metrics>) -> Result<Self, StoreError> {
        let (shared, was_clean) = Shared::open(config, metrics)?;
        let flusher = Arc::new(Flusher::start(shared.clone(), !was_clean)?);
        Ok(Self { shared, flusher })
    }

    /// The blob `hash` if any of it is held. All handles to a blob are one; while one lives, the
    /// blob is not evicted and what it holds stays readable. Its files are opened when needed.
    pub fn blob(&self, hash: &ContentHash) -> Result<Option<Arc<Blob>>, StoreError> {
        Ok(self.shared.open_blob(hash)?.filter(|blob| blob.holds_any()))
    }

    /// The blob `hash`, whose size is proven to be `size` bytes, to be written to. If none of it
    /// is held, nothing is made on disk before the first write.
    pub fn create_partial(&self, hash: ContentHash, size: u64) -> Result<Arc<Blob>, StoreError> {
        self.shared.create_partial(hash, size)
    }

    /// What is known of `hash`; opens no file. A blob of which only the size is known has no held bytes.
    pub fn lookup(&self, hash: &ContentHash) -> Result<Option<BlobInfo>, StoreError> {
        self.shared.lookup(hash)
    }

    /// The blob that `key` is the have-key of, if any bytes of it are held.
    pub fn find(&self, key: &HaveKey) -> Result<Option<(ContentHash, BlobInfo)>, StoreError> {
        self.shared.find(key)
    }

    /// Takes over a file that [`import::stage`] has put in `tmp`, as a blob of this node: pinned,
    /// and durable when this returns. What is already held of it is kept or replaced.
    pub fn adopt(&self, staged: &import::StagedBlob) -> Result<(), StoreError> {
        adopt::adopt(&self.shared, staged)
    }

    /// Removes a blob, pinned or not. Whoever has its content file open can go on reading that.
    pub fn remove(&self, hash: &ContentHash) -> Result<(), StoreError> {
        match self.shared.open_blob(hash)? {
            Some(blob) => self.shared.forget(&blob),
            None => Ok(()),
        }
    }

    /// Up to `limit` complete blobs with their sizes in bytes, by hash, beginning after `after`.
    pub fn complete_blobs(
        &self,
        after: Option<ContentHash>,
        limit: usize,
    ) -> Result<Vec<(ContentHash, u64)>, StoreError> {
        self.shared.complete(after, limit)
    }

    /// The figures now.
    pub fn usage(&self) -> Usage {
        self.shared.space.usage()
    }

    /// Makes durable all that was written before the call. The flusher does so by itself half a
    /// second after the last write, and five after the first at most.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.shared.flush()
    }

    /// Flushes, and notes that the store was closed in order. What is written afterwards through
    /// handles that are still open is not remembered.
    pub fn close(&self) -> Result<(), StoreError> {
        let flushed = self.shared.flush();
        self.flusher.stop();
        flushed
    }
}
