//! Blobs that nobody has open any more, kept as they were for whoever opens them next: their files open,
//! what is held of them in memory. A compiler opens the same files again and again, and to make a handle
//! anew costs as much as all the rest of an open. They do not count as used: the first need for room lets
//! all of them go.

use std::mem::MaybeUninit;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::blob::Blob;
use crate::ids::ContentHash;

/// So many at most: more than the files of a toolchain or a large build. At about one kilobyte each they
/// take 16 MB.
const MAX_LINGERING: usize = 16 * 1024;

/// Their files, two of a blob, may take half of the descriptors which the process may have.
const DESCRIPTORS_EACH: u64 = 2 * 2;

/// The lingering blobs, the ones used last.
#[derive(Debug)]
pub(super) struct Lingering {
    /// None once the store is closed: each blob keeps the store.
    blobs: Mutex<Option<LruCache<ContentHash, Arc<Blob>>>>,
}

impl Lingering {
    pub fn new() -> Self {
        let blobs = usize::try_from(descriptor_limit() / DESCRIPTORS_EACH).unwrap_or(usize::MAX);
        let blobs = NonZeroUsize::new(blobs.min(MAX_LINGERING)).unwrap_or(NonZeroUsize::MIN);
        // It grows with what is put in.
        let mut cache = LruCache::unbounded();
        cache.resize(blobs);
        Self { blobs: Mutex::new(Some(cache)) }
    }

    /// Keeps `blob`, which somebody has just opened, beyond its last handle.
    pub fn keep(&self, blob: &Arc<Blob>) {
        let before = self.blobs.lock().as_mut().and_then(|blobs| blobs.push(blob.hash(), blob.clone()));
        // Dropped here, away from the lock.
        drop(before);
    }

    pub fn is_empty(&self) -> bool {
        self.blobs.lock().as_ref().is_none_or(LruCache::is_empty)
    }

    /// Lets all go: what nobody has open is not in use afterwards.
    pub fn let_go(&self) {
        let mut blobs = Vec::new();
        if let Some(lingering) = self.blobs.lock().as_mut() {
            while let Some((_, blob)) = lingering.pop_lru() {
                blobs.push(blob);
            }
        }
        // Dropped here, away from the lock.
        drop(blobs);
    }

    /// Lets all go, and keeps none from now on.
    pub fn close(&self) {
        let blobs = self.blobs.lock().take();
        drop(blobs);
    }
}

/// How many descriptors the process may have open.
fn descriptor_limit() -> u64 {
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: there is room for the answer, which is filled in on success.
    unsafe {
        match libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) {
            0 => limit.assume_init().rlim_cur,
            _ => 0,
        }
    }
}
