//! Open files.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use parking_lot::Mutex;

use super::failures::Failures;
use super::readahead::ReadAhead;
use super::{Filesystem, FsError, Ino};
use crate::transfer::BlobReader;

/// One open file: a reader, and what is remembered of how it is read. A few hundred bytes; the
/// bytes of the blob are never kept here.
pub(super) struct OpenFile {
    pub reader: Arc<dyn BlobReader>,
    pub read_ahead: Mutex<ReadAhead>,
    pub failures: Mutex<Failures>,
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
    /// Opens `ino` with the flags of open(2) and returns a handle for [`Filesystem::read`] and
    /// [`Filesystem::release`]. Never waits. [`FsError::ReadOnly`] for anything but reading.
    pub fn open(&self, ino: Ino, flags: i32) -> Result<u64, FsError> {
        if matches!(ino, Ino::ROOT | Ino::BY_HASH) {
            return Err(FsError::IsADirectory);
        }
        if flags & libc::O_ACCMODE != libc::O_RDONLY || flags & (libc::O_TRUNC | libc::O_APPEND | libc::O_CREAT) != 0 {
            return Err(FsError::ReadOnly);
        }
        let blob = self.inodes.lock().blob(ino).ok_or(FsError::Stale)?;
        Ok(self.files.insert(OpenFile {
            reader: self.source.open(blob.hash, blob.size),
            read_ahead: Mutex::new(ReadAhead::new(blob.size)),
            failures: Mutex::default(),
        }))
    }

    /// Closes `handle`.
    pub fn release(&self, handle: u64) {
        self.files.files.remove(&handle);
    }
}
