//! Open files.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::failures::Failures;
use super::readahead::ReadAhead;
use super::{Filesystem, FsError, Ino};
use crate::ids::ContentHash;
use crate::transfer::{BlobReader, BlobState, WholeFile};

/// The largest blob, in bytes, that is read and checked as a whole because somebody opened it, so that
/// later opens pass it through. A larger one is passed through once all of it has been read.
const MAX_CHECKED_AHEAD: u64 = 256 << 20;

/// How long an open waits for those to be told of as closed that it does not go together with.
const RELEASE_WAIT: Duration = Duration::from_millis(50);

/// The time between two looks at whether they are.
const RELEASE_POLL: Duration = Duration::from_millis(1);

/// One open file: a reader, and what is remembered of how it is read. A few hundred bytes; the
/// bytes of the blob are never kept here.
pub(super) struct OpenFile {
    pub hash: ContentHash,
    pub reader: Arc<dyn BlobReader>,
    pub read_ahead: Mutex<ReadAhead>,
    pub failures: Mutex<Failures>,
    ino: Ino,
    passed: bool,
}

/// What came of an open, each with a handle for [`Filesystem::read`] and [`Filesystem::release`].
#[derive(Debug)]
pub enum Opened {
    /// Its reads come to us.
    Streamed(u64),
    /// The blob is to be fetched first, by [`Filesystem::hydrate`]; then its reads come to us.
    Unfetched(u64),
    /// It is read from this content file.
    Whole(u64, WholeFile),
}

impl Opened {
    /// The handle.
    pub fn handle(&self) -> u64 {
        match self {
            Self::Streamed(handle) | Self::Unfetched(handle) | Self::Whole(handle, _) => *handle,
        }
    }
}

/// The open files by handle. As many as the kernel holds open.
#[derive(Default)]
pub(super) struct OpenFiles {
    files: DashMap<u64, Arc<OpenFile>>,
    next: AtomicU64,
}

impl OpenFiles {
    fn insert(&self, file: OpenFile) -> u64 {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.files.insert(handle, Arc::new(file));
        handle
    }

    /// The file with this handle. Reads in flight keep it alive after its release.
    pub fn get(&self, handle: u64) -> Result<Arc<OpenFile>, FsError> {
        self.files.get(&handle).map(|file| Arc::clone(&file)).ok_or(FsError::BadHandle)
    }

    pub fn clear(&self) {
        self.files.clear();
    }

    pub fn len(&self) -> usize {
        self.files.len()
    }
}

impl Filesystem {
    /// [`Filesystem::open`] of what others seem to have open otherwise. That they have closed it may still be on its
    /// way: the kernel tells us after it has told them.
    pub async fn open_in_a_moment(&self, ino: Ino, flags: i32) -> Result<Opened, FsError> {
        let end = Instant::now() + RELEASE_WAIT;
        loop {
            match self.open(ino, flags) {
                Err(FsError::OpenOtherwise) if Instant::now() < end => sleep(RELEASE_POLL).await,
                opened => return opened,
            }
        }
    }

    /// Opens `ino` with the flags of open(2). Never waits. [`FsError::ReadOnly`] for anything but
    /// reading; [`FsError::Stale`] where the size is not known, which the kernel asks for first;
    /// [`FsError::OpenOtherwise`] for a blob that is not whole any more while opens of this node are passed through: a
    /// new lookup gives another node.
    pub fn open(&self, ino: Ino, flags: i32) -> Result<Opened, FsError> {
        if matches!(ino, Ino::ROOT | Ino::BY_HASH) {
            return Err(FsError::IsADirectory);
        }
        if flags & libc::O_ACCMODE != libc::O_RDONLY || flags & (libc::O_TRUNC | libc::O_CREAT) != 0 {
            return Err(FsError::ReadOnly);
        }
        let blob = self.inodes.lock().blob(ino).ok_or(FsError::Stale)?;
        let size = blob.size.ok_or(FsError::Stale)?;
        let reader = self.source.open(blob.hash, size);
        let whole = if self.passes_through(size) { reader.whole_file() } else { None };
        let passed = self.inodes.lock().begin_open(ino, whole.is_some()).ok_or(FsError::OpenOtherwise)?;
        let handle = self.files.insert(OpenFile {
            hash: blob.hash,
            reader,
            read_ahead: Mutex::new(ReadAhead::new(size)),
            failures: Mutex::default(),
            ino,
            passed,
        });
        if let Some(file) = whole.filter(|_| passed) {
            self.metrics.opens_passed_through.inc();
            return Ok(Opened::Whole(handle, file));
        }
        self.metrics.opens_streamed.inc();
        match self.state(&blob.hash) {
            BlobState::Complete => {
                if self.passes_through(size) && size <= MAX_CHECKED_AHEAD {
                    self.source.check_soon(blob.hash);
                }
                Ok(Opened::Streamed(handle))
            }
            _ if self.hydrates => Ok(Opened::Unfetched(handle)),
            _ => Ok(Opened::Streamed(handle)),
        }
    }

    /// The kernel has the node of a whole blob open with another file than it has now: new lookups get
    /// another node.
    pub fn retire(&self, ino: Ino) {
        self.inodes.lock().retire(ino);
    }

    /// Closes `handle`; tells whether it was passed through.
    pub fn release(&self, handle: u64) -> bool {
        let Some((_, file)) = self.files.files.remove(&handle) else { return false };
        self.inodes.lock().end_open(file.ino, file.passed);
        file.passed
    }
}
