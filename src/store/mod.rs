//! Bytes on disk: content files, their outboards, and the index of what is held.
//!
//! ```text
//! <dir>/blobs/ab/<hash>         exactly the content; sparse while partial, mode 0444 once complete (of one group:
//!                               from the start), 01444 (sticky) if it was added here, 0445 if it is pinned
//!                               (0601 while partial, 0611 if it was whole before); or a link to a file of the
//!                               user's that has it, which is only read
//! <dir>/blobs/ab/<hash>.obao4   the outboard; none for a blob of one group
//! <dir>/index.redb              by hash: size, verified groups, origin, pin, last use
//! <dir>/index.redb.damaged      one that was damaged, as it was found
//! <dir>/tmp/                    files on their way in, each under a lock of its writer
//! <dir>/lock                    held by the process that has the store open; its number
//! ```
//!
//! # What is promised
//!
//! After `kill -9` at any point, and after a power cut as far as fsync keeps its word:
//!
//! * Every group that the index claims is in the files, and verifies. (Reading checks it all the same.)
//! * What [`Store::adopt`], [`Store::flush`] or [`Store::close`] had returned for is still there, unless it
//!   was removed or evicted since. What was fetched in the last five seconds may be lost.
//! * An index that is damaged or gone is made anew from the files, each as far as it verifies. What was added
//!   here or is pinned is known by its mode, or is a link, and stays. A partial blob stays if its last group is
//!   there, which is the first that a fetch gets; without it the size cannot be proven, so it goes (see `claim`).
//! * All that lies on the disk stays below the capacity: who writes reserves first, and so does who adds, from
//!   another process ([`Store::make_room`]). Except for what a crash brings back: files whose removal
//!   was not yet durable, and what was written of a partial blob in the last five seconds, go as soon as
//!   they are found. What a failed write has left is given back at once (where the file system can). Not counted
//!   are directories, the lock, and damaged groups of a blob that was complete, until they are fetched again.
//! * A file of the user's that is served in place may change at any time: nothing is promised of it but that no
//!   byte leaves unchecked.
//!
//! What a disk turns into something else after it was written is found by the next read or check of it.
//!
//! # The order of writes
//!
//! Bytes, then proof, then index. What the index claims *must* be true after a crash at any
//! point; what it does not claim is only lost work. *Before* means that a sync stands between the two.
//!
//! * A group: the content file and the outboard ([`Blob::write`] writes the content, then the nodes of
//!   the proof, and counts the groups as held in memory), and their names if the files are new, *before* the
//!   index says so. The flusher does that.
//! * Added blobs: contents and outboards under names in `tmp`, with the mode that says that they were added;
//!   *before* their renaming, each outboard first; *before* the index. Each step is one for all that are added
//!   together. For a file served in place, the content is a link.
//! * A pin: the mark on the content file *before* the index. No pin any more: the index *before* the mark. So what
//!   the index claims to be pinned is marked; a mark too many says something only to a new index.
//! * An outboard that is made anew: over the wrong one, of which what is right stays as it is; where there is none of its
//!   length, under a name in `tmp`, *before* its renaming. The index claims nothing new.
//! * A blob that goes: its entry in the index *before* its files. Files without an entry are harmless; after a
//!   crash they are removed in the background, a directory at a time.
//! * Files without an entry are never reused: the first write to a blob unlinks them. Only while the index
//!   is made anew they are verified instead, and synced *before* the index claims what is right of them;
//!   that all have been looked at stands in the index itself, so that a rebuild goes on after a crash.
//! * A file that was complete (mode 0444) is never written to again, for the kernel may be reading
//!   it directly. If groups of it turn out damaged, the rest is copied to a new file, synced, and put in its
//!   place *before* the first write.
//! * The index is changed in transactions, each durable when it returns (redb's checksums tell a torn one).
//!
//! These are tried: `tests/crash_points` cuts recorded lives of a store at every call and drops or tears what
//! was not synced, `tests/killed_store.rs` kills a real process.
//!
//! # Locks
//!
//! In this order, never the other way round: `mending`, `evicting`, `staging`, `flushing`, `structure` (which files and
//! entries exist), the index's write transaction, the state of a blob. What takes long, the copy of a damaged file and the
//! making of an outboard, is done under `mending` alone. The file system of a user's file may hang, so such a file is
//! opened, looked for and closed under none but that.
//!
//! All of it blocks; asynchronous callers have [`Store::blocking`].

mod adopt;
mod blob;
mod blocking;
mod claim;
mod error;
mod files;
mod flush;
mod flusher;
pub mod import;
mod in_place;
mod index;
mod keep;
mod layout;
mod lingering;
mod list;
mod loss;
mod outboard;
mod read;
mod record;
mod recovery;
mod room;
mod scrub;
mod shared;
mod space;
mod sweep;
mod write;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use blob::{Blob, WholeFile};
pub use blocking::MAX_IN_PLACE_THREADS;
pub use error::StoreError;
pub use in_place::{InPlace, InPlaceState};
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
    /// What all of it may take on the disk, in bytes: content, outboards, files on their way in, the index.
    pub capacity: u64,
    /// What is left free on the file system, in bytes.
    pub keep_free: u64,
}

impl Config {
    /// A file that lies where the blobs lie and is there as long as the store is open.
    pub fn lock_file(&self) -> PathBuf {
        layout::lock_file(&self.dir)
    }
}

/// The store's figures, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// What the store may hold.
    pub capacity: u64,
    /// What it takes on the disk, reserved room included.
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
        let shared = Shared::open(config, metrics)?;
        let flusher = Arc::new(Flusher::start(shared.clone())?);
        Ok(Self { shared, flusher })
    }

    /// A store that holds nothing and takes nothing, for a directory that cannot be written to: reads go on from
    /// memory. Nothing on the disk is touched, nor looked at.
    pub fn uncached(config: &Config, metrics: Arc<Metrics>) -> Result<Self, StoreError> {
        metrics.store_uncached.inc();
        let shared = Shared::uncached(config, metrics)?;
        let flusher = Arc::new(Flusher::start(shared.clone())?);
        Ok(Self { shared, flusher })
    }

    /// From now on, every read checks every group that it touches, also one found right before.
    /// To be called before blobs are opened.
    pub fn check_every_read(&self) {
        self.shared.check_every_read();
    }

    /// Whether [`Store::check_every_read`] was called.
    pub fn checks_every_read(&self) -> bool {
        self.shared.checks_every_read()
    }

    /// The blob `hash` if any of it is held. All handles to a blob are one; while one lives, the
    /// blob is not evicted and what it holds stays readable. Its files are opened when needed.
    pub fn blob(&self, hash: &ContentHash) -> Result<Option<Arc<Blob>>, StoreError> {
        Ok(self.held(self.shared.open_blob(hash)?))
    }

    /// `blob` if any of it is held; it lingers from now on.
    fn held(&self, blob: Option<Arc<Blob>>) -> Option<Arc<Blob>> {
        let blob = blob.filter(|blob| blob.holds_any());
        // What is served in place is looked for anew each time.
        if let Some(blob) = blob.as_ref().filter(|blob| blob.is_complete() && !blob.is_in_place()) {
            self.shared.lingering.keep(blob);
        }
        blob
    }

    /// The same if that takes neither the disk nor waiting for others, as those who evict; `None` otherwise. May be
    /// called where blocking is not allowed.
    pub fn blob_at_once(&self, hash: &ContentHash) -> Option<Option<Arc<Blob>>> {
        Some(self.held(self.shared.open_at_once(hash)?))
    }

    /// The blob `hash`, whose size is proven to be `size` bytes, to be written to. If none of it
    /// is held, nothing is made on disk before the first write.
    pub fn create_partial(&self, hash: ContentHash, size: u64) -> Result<Arc<Blob>, StoreError> {
        self.shared.create_partial(hash, size)
    }

    /// Whether all of its files are counted: until then whoever writes waits for that, and is refused after a while.
    pub fn is_counted(&self) -> bool {
        self.shared.recovery.wait_until_counted(Duration::ZERO)
    }

    /// What is known of `hash`; opens no file. A blob of which only the size is known has no held bytes.
    pub fn lookup(&self, hash: &ContentHash) -> Result<Option<BlobInfo>, StoreError> {
        self.shared.lookup(hash)
    }

    /// The blob that `key` is the have-key of, if any bytes of it are held.
    pub fn find(&self, key: &HaveKey) -> Result<Option<(ContentHash, BlobInfo)>, StoreError> {
        self.shared.find(key)
    }

    /// Makes room for a batch of files on their way in ([`import::Batch`]), evicting blobs if need be, and
    /// keeps it for them: `bytes` together, as [`import::room_for`] counts, what was asked for before included.
    /// [`StoreError::LargerThanCache`], [`StoreError::NoRoom`] or [`StoreError::DiskFull`] if there is none to be made;
    /// then nothing is kept, nor evicted.
    pub fn make_room(&self, batch: &str, bytes: u64) -> Result<(), StoreError> {
        self.shared.make_room(batch, bytes)
    }

    /// Takes over files that [`import::Batch`] has put in `tmp`, as blobs of this node: pinned, and durable
    /// when this returns. What is already held of them is kept or replaced. A result each, in their order.
    pub fn adopt_all(&self, staged: &[import::StagedBlob]) -> Vec<Result<(), StoreError>> {
        adopt::adopt_all(&self.shared, staged)
    }

    /// See [`Store::adopt_all`].
    pub fn adopt(&self, staged: &import::StagedBlob) -> Result<(), StoreError> {
        self.adopt_all(std::slice::from_ref(staged)).pop().expect("a result each")
    }

    /// Removes a blob, pinned or not. Whoever has its content file open can go on reading that.
    pub fn remove(&self, hash: &ContentHash) -> Result<(), StoreError> {
        match self.shared.open_blob(hash)? {
            Some(blob) => self.shared.forget(&blob),
            None => self.shared.remove_unknown(hash),
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

    /// Whether all files are known: nothing is left to be looked at after a crash, or for a new index.
    pub fn is_settled(&self) -> bool {
        self.shared.recovery.work() == recovery::Work::Nothing
    }

    /// Whether the index had to be made anew and does not know yet all that is held.
    pub fn is_rebuilding(&self) -> bool {
        self.shared.recovery.is_rebuilding()
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
