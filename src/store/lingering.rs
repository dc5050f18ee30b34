//! Blobs that nobody has open any more, kept as they were for whoever opens them next: their files open,
//! what is held of them in memory. A compiler opens the same files again and again, and to make a handle
//! anew costs as much as all the rest of an open. They do not count as used: the first need for room lets
//! all of them go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;
use parking_lot::Mutex;

use super::blob::Blob;
use crate::descriptors;
use crate::ids::ContentHash;
use crate::verify::group_count;

/// So many at most: more than the files of a toolchain or a large build. At about one kilobyte each they
/// take 16 MB.
const MAX_LINGERING: usize = 16 * 1024;

/// The files of all stores' may take this part of the descriptors which the process may have.
const DESCRIPTORS_PART: u64 = 2;

/// How many those of all stores of this process take.
static DESCRIPTORS: AtomicU64 = AtomicU64::new(0);

/// The lingering blobs.
#[derive(Debug)]
pub(super) struct Lingering {
    /// None once the store is closed: each blob keeps the store.
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    blobs: LruCache<ContentHash, Arc<Blob>>,
    /// How many descriptors these and those of others take.
    taken: &'static AtomicU64,
    /// How many they may take.
    most: u64,
}

impl Kept {
    fn new(taken: &'static AtomicU64, most: u64) -> Self {
        Self { blobs: LruCache::unbounded(), taken, most }
    }

    /// Keeps `blob` as the one used last; returns those that are kept no more.
    fn push(&mut self, blob: &Arc<Blob>) -> Vec<Arc<Blob>> {
        if self.blobs.get(&blob.hash()).is_some_and(|kept| Arc::ptr_eq(kept, blob)) {
            return Vec::new();
        }
        let mut gone = Vec::new();
        let mut taken = self.taken.fetch_add(descriptors(blob), Ordering::Relaxed) + descriptors(blob);
        let before = self.blobs.push(blob.hash(), blob.clone()).map(|(_, before)| before);
        gone.extend(before.inspect(|before| taken = self.give_back(before)));
        while self.blobs.len() > MAX_LINGERING || taken > self.most {
            let Some((_, oldest)) = self.blobs.pop_lru() else { break };
            taken = self.give_back(&oldest);
            gone.push(oldest);
        }
        gone
    }

    /// Keeps `hash` no longer; returns what was kept of it.
    fn let_go_of(&mut self, hash: &ContentHash) -> Option<Arc<Blob>> {
        self.blobs.pop(hash).inspect(|blob| _ = self.give_back(blob))
    }

    /// Counts the descriptors of `blob` as given back; tells how many are taken now.
    fn give_back(&self, blob: &Blob) -> u64 {
        self.taken.fetch_sub(descriptors(blob), Ordering::Relaxed) - descriptors(blob)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.blobs.iter().for_each(|(_, blob)| _ = self.give_back(blob));
    }
}

impl Lingering {
    pub fn new() -> Self {
        Self { kept: Mutex::new(Some(Kept::new(&DESCRIPTORS, descriptors::limit() / DESCRIPTORS_PART))) }
    }

    /// Keeps `blob`, which somebody has just opened, beyond its last handle.
    pub fn keep(&self, blob: &Arc<Blob>) {
        let gone = self.kept.lock().as_mut().map(|kept| kept.push(blob));
        // Dropped here, away from the lock.
        drop(gone);
    }

    /// Lets go of the blob `hash`.
    pub fn let_go_of(&self, hash: &ContentHash) {
        let gone = self.kept.lock().as_mut().and_then(|kept| kept.let_go_of(hash));
        // Dropped here, away from the lock.
        drop(gone);
    }

    pub fn is_empty(&self) -> bool {
        self.kept.lock().as_ref().is_none_or(|kept| kept.blobs.is_empty())
    }

    /// Lets all go: what nobody has open is not in use afterwards.
    pub fn let_go(&self) {
        let gone = self.kept.lock().as_mut().map(|kept| std::mem::replace(kept, Kept::new(kept.taken, kept.most)));
        // Dropped here, away from the lock.
        drop(gone);
    }

    /// Lets all go, and keeps none from now on.
    pub fn close(&self) {
        let gone = self.kept.lock().take();
        drop(gone);
    }
}

/// How many descriptors the files of `blob` take: a blob of one group has no outboard.
fn descriptors(blob: &Blob) -> u64 {
    1 + u64::from(group_count(blob.size()) > 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Config, Store};
    use crate::verify::GROUP_LEN;

    #[test]
    fn those_opened_last_are_kept_as_far_as_descriptors_go() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { dir: dir.path().to_owned(), capacity: 1 << 20, keep_free: 0 };
        let store = Store::open(config, Arc::default()).unwrap();
        let blob =
            |number: u8, size| Arc::new(Blob::empty(ContentHash::from_bytes([number; 32]), size, store.shared.clone()));
        let [a, b, c] = [1, 2, 3].map(|number| blob(number, GROUP_LEN));
        let large = blob(4, GROUP_LEN + 1);
        let taken: &'static AtomicU64 = Box::leak(Box::default());
        let mut kept = Kept::new(taken, 3);
        let mut hashes_gone = |blob: &Arc<Blob>| kept.push(blob).iter().map(|blob| blob.hash()).collect::<Vec<_>>();
        assert!(hashes_gone(&a).is_empty() && hashes_gone(&b).is_empty() && hashes_gone(&c).is_empty());
        assert!(hashes_gone(&a).is_empty(), "kept already, and now the one opened last");
        assert_eq!(hashes_gone(&large), [b.hash(), c.hash()], "two descriptors");
        assert_eq!(taken.load(Ordering::Relaxed), 3);
        let mut others = Kept::new(taken, 3);
        assert_eq!(others.push(&b).len(), 1, "another store takes from the same");
        drop((kept, others));
        assert_eq!(taken.load(Ordering::Relaxed), 0);
    }
}
