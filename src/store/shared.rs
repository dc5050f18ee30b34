//! What the parts of a store have in common: the open blobs, the clock, room and flushing.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dashmap::DashMap;
use lru::LruCache;
use parking_lot::{Condvar, Mutex};

use super::blob::{Blob, Checked};
use super::files::Files;
use super::index::Index;
use super::layout::{Layout, sync_file_system};
use super::record::{BlobInfo, Record};
use super::space::Space;
use super::{Config, StoreError, sweep};
use crate::ids::{ContentHash, HaveKey};
use crate::metrics::Metrics;
use crate::verify::MAX_BLOB_LEN;

/// From this many files on, one `syncfs` is cheaper than an `fdatasync` each.
const SYNC_FILE_SYSTEM_FROM: usize = 16;

/// Blobs that nobody has open of which it is remembered what was found right.
const MAX_CHECKED: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// The store behind its handles.
#[derive(Debug)]
pub(super) struct Shared {
    pub layout: Layout,
    pub index: Index,
    pub space: Space,
    pub metrics: Arc<Metrics>,
    /// Held while files or entries of blobs come or go.
    pub structure: Mutex<()>,
    pub pending: Mutex<Pending>,
    pub wake: Condvar,
    /// What was found right of blobs that nobody has open now, the ones closed last.
    pub checked: Mutex<LruCache<ContentHash, Checked>>,
    open: DashMap<ContentHash, Weak<Blob>>,
    open_by_key: DashMap<HaveKey, ContentHash>,
    /// Held while what changed is made durable and told to the index.
    pub flushing: Mutex<()>,
    clock: AtomicU64,
    opened_at: Instant,
    /// When something was written last, in milliseconds from `opened_at`.
    last_write: AtomicU64,
    /// The last eviction freed too little, and nothing has changed since: no need to try again.
    pub nothing_to_evict: AtomicBool,
    _lock: File,
}

/// What the next flush has to do.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Blobs with bytes or states that the index does not know yet.
    pub blobs: Vec<Arc<Blob>>,
    /// Uses that the index does not know yet.
    pub touches: HashMap<ContentHash, u64>,
    /// The flusher is asked to end.
    pub closing: bool,
}

/// A blob as it was at one moment, and the files that have to be durable before the index says so.
pub(super) struct Snapshot {
    pub blob: Arc<Blob>,
    pub files: Arc<Files>,
    pub record: Record,
}

impl Shared {
    /// Opens the store; the second value tells whether it was closed in order.
    pub fn open(config: Config, metrics: Arc<Metrics>) -> Result<(Arc<Self>, bool), StoreError> {
        let layout = Layout::create(&config.dir)?;
        let lock = layout.lock()?;
        let index = Index::open(&layout.index())?;
        let (was_clean, (bytes, blobs), latest_use) =
            index.write(|batch| Ok((batch.set_clean(false)?, batch.totals()?, batch.latest_use()?)))?;
        sweep::sweep_tmp(&layout)?;
        let shared = Self {
            space: Space::new(layout.dir(), &config, bytes, blobs, metrics.clone()),
            layout,
            index,
            metrics,
            structure: Mutex::default(),
            pending: Mutex::default(),
            wake: Condvar::new(),
            checked: Mutex::new(LruCache::new(MAX_CHECKED)),
            open: DashMap::new(),
            open_by_key: DashMap::new(),
            flushing: Mutex::default(),
            clock: AtomicU64::new(latest_use),
            opened_at: Instant::now(),
            last_write: AtomicU64::new(0),
            nothing_to_evict: AtomicBool::new(false),
            _lock: lock,
        };
        Ok((Arc::new(shared), was_clean))
    }

    /// A time of use: milliseconds since 1970, but later than all times of use before, whatever
    /// the system's clock does.
    pub fn time_of_use(&self) -> u64 {
        let now = wall_clock_ms();
        let tick = |last: u64| now.max(last + 1);
        match self.clock.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(tick(last))) {
            Ok(last) | Err(last) => tick(last),
        }
    }

    /// The handle of a blob that somebody has open.
    pub fn opened(&self, hash: &ContentHash) -> Option<Arc<Blob>> {
        // The guard of the map must be gone before the handle may be dropped: that takes the same lock.
        let weak = self.open.get(hash).map(|entry| entry.value().clone());
        weak?.upgrade()
    }

    /// The handles of all blobs that somebody has open.
    pub fn all_opened(&self) -> Vec<Arc<Blob>> {
        self.open.iter().filter_map(|entry| entry.value().upgrade()).collect()
    }

    /// See [`super::Store::blob`].
    pub fn open_blob(self: &Arc<Self>, hash: &ContentHash) -> Result<Option<Arc<Blob>>, StoreError> {
        let blob = self.open_unused(hash)?;
        if let Some(blob) = &blob {
            blob.touch();
        }
        Ok(blob)
    }

    /// The same, but it does not count as a use.
    pub fn open_unused(self: &Arc<Self>, hash: &ContentHash) -> Result<Option<Arc<Blob>>, StoreError> {
        Ok(Some(match self.opened(hash) {
            Some(blob) => blob,
            None => {
                let _structure = self.structure.lock();
                match (self.opened(hash), self.index.get(hash)?) {
                    (Some(blob), _) => blob,
                    (None, Some(record)) => self.insert(Blob::held(*hash, &record, self.clone())),
                    (None, None) => return Ok(None),
                }
            }
        }))
    }

    /// See [`super::Store::create_partial`].
    pub fn create_partial(self: &Arc<Self>, hash: ContentHash, size: u64) -> Result<Arc<Blob>, StoreError> {
        if size > MAX_BLOB_LEN {
            return Err(StoreError::TooBig(size));
        }
        let blob = match self.open_blob(&hash)? {
            Some(blob) => blob,
            None => {
                let _structure = self.structure.lock();
                match (self.opened(&hash), self.index.get(&hash)?) {
                    (Some(blob), _) => blob,
                    (None, Some(record)) => self.insert(Blob::held(hash, &record, self.clone())),
                    (None, None) => self.insert(Blob::empty(hash, size, self.clone())),
                }
            }
        };
        if blob.size() != size {
            return Err(StoreError::OtherSize { hash, held: blob.size(), claimed: size });
        }
        Ok(blob)
    }

    fn insert(&self, blob: Blob) -> Arc<Blob> {
        let blob = Arc::new(blob);
        self.open.insert(blob.hash(), Arc::downgrade(&blob));
        self.open_by_key.insert(blob.hash().have_key(), blob.hash());
        blob
    }

    /// Takes note that the last handle to `hash` is gone.
    pub fn closed(&self, hash: &ContentHash) {
        self.nothing_to_evict.store(false, Ordering::Relaxed);
        // A new handle may have been made meanwhile.
        if self.open.remove_if(hash, |_, weak| weak.strong_count() == 0).is_some() {
            self.open_by_key.remove(&hash.have_key());
            if self.open.contains_key(hash) {
                self.open_by_key.insert(hash.have_key(), *hash);
            }
        }
    }

    /// See [`super::Store::lookup`].
    pub fn lookup(&self, hash: &ContentHash) -> Result<Option<BlobInfo>, StoreError> {
        match self.opened(hash) {
            Some(blob) => Ok(Some(blob.info())),
            None => Ok(self.index.get(hash)?.as_ref().map(BlobInfo::from)),
        }
    }

    /// See [`super::Store::find`].
    pub fn find(&self, key: &HaveKey) -> Result<Option<(ContentHash, BlobInfo)>, StoreError> {
        let open = self.open_by_key.get(key).map(|entry| *entry.value());
        let Some(hash) = open.map_or_else(|| self.index.find(key), |hash| Ok(Some(hash)))? else {
            return Ok(None);
        };
        let holds = |info: &BlobInfo| info.complete || info.held_bytes > 0;
        Ok(self.lookup(&hash)?.filter(holds).map(|info| (hash, info)))
    }

    /// See [`super::Store::complete_blobs`]. What the index does not know yet is open: the list of the
    /// next flush holds it.
    pub fn complete(&self, after: Option<ContentHash>, limit: usize) -> Result<Vec<(ContentHash, u64)>, StoreError> {
        let mut found: BTreeMap<ContentHash, u64> = self.index.complete(after, limit)?.into_iter().collect();
        let open = self.all_opened();
        let is_next = |blob: &Arc<Blob>| blob.is_complete() && after.is_none_or(|after| blob.hash() > after);
        found.extend(open.iter().filter(|blob| is_next(blob)).map(|blob| (blob.hash(), blob.size())));
        Ok(found.into_iter().take(limit).collect())
    }

    /// Puts `blob` on the list of the next flush. The caller has noted in it that it is there.
    pub fn queue(&self, blob: Arc<Blob>) {
        let mut pending = self.pending.lock();
        if !pending.closing {
            pending.blobs.push(blob);
            self.metrics.store_unflushed_blobs.inc();
            drop(pending);
            self.wake.notify_all();
        }
    }

    /// Notes that something was written just now.
    pub fn note_write(&self) {
        self.last_write.store(self.opened_at.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// When something was written last.
    pub fn last_write(&self) -> Instant {
        self.opened_at + Duration::from_millis(self.last_write.load(Ordering::Relaxed))
    }

    /// See [`super::Store::flush`].
    pub fn flush(&self) -> Result<(), StoreError> {
        let _flushing = self.flushing.lock();
        let (blobs, touches) = {
            let mut pending = self.pending.lock();
            (std::mem::take(&mut pending.blobs), std::mem::take(&mut pending.touches))
        };
        let count = blobs.len() as u64;
        let flushed = self.flush_taken(blobs, &touches);
        self.metrics.store_unflushed_blobs.sub(count);
        flushed
    }

    fn flush_taken(&self, blobs: Vec<Arc<Blob>>, touches: &HashMap<ContentHash, u64>) -> Result<(), StoreError> {
        let mut snapshots: Vec<Snapshot> = blobs.into_iter().filter_map(Blob::snapshot).collect();
        if snapshots.is_empty() && touches.is_empty() {
            return Ok(());
        }
        let synced = self.sync(&mut snapshots);
        let _structure = self.structure.lock();
        let written = self.index.write(|batch| {
            for snapshot in snapshots.iter().filter(|snapshot| snapshot.blob.is_backed_by(&snapshot.files)) {
                batch.put(&snapshot.blob.hash(), &snapshot.record)?;
            }
            touches.iter().try_for_each(|(hash, last_use)| batch.touch(hash, *last_use))
        });
        self.nothing_to_evict.store(false, Ordering::Relaxed);
        if written.is_err() {
            for snapshot in &snapshots {
                snapshot.blob.queue(&mut snapshot.blob.state());
            }
        }
        written.and(synced)
    }

    /// Makes the files of `snapshots` durable. What could not be made durable may be lost even if a
    /// second try seems to succeed, so it is dropped, and the first error returned.
    fn sync(&self, snapshots: &mut Vec<Snapshot>) -> Result<(), StoreError> {
        if snapshots.len() >= SYNC_FILE_SYSTEM_FROM && sync_file_system(self.layout.dir()).is_ok() {
            return Ok(());
        }
        let mut result = Ok(());
        snapshots.retain(|snapshot| {
            let Err(error) = snapshot.files.sync(&self.layout, &snapshot.blob.hash()) else { return true };
            self.metrics.store_write_errors.inc();
            let forgotten = self.forget(&snapshot.blob);
            if result.is_ok() {
                result = forgotten.and(Err(error));
            }
            false
        });
        result
    }

    /// Charges `bytes`, evicting blobs if need be. The caller gives back what it does not use.
    pub fn reserve(&self, bytes: u64) -> Result<(), StoreError> {
        self.reserve_if(bytes, || self.space.disk_shortfall(bytes) == 0)
    }

    /// Charges `bytes` that are already on the disk, evicting blobs if need be.
    pub fn reserve_on_disk(&self, bytes: u64) -> Result<(), StoreError> {
        self.reserve_if(bytes, || true)
    }

    fn reserve_if(&self, bytes: u64, disk_has_room: impl Fn() -> bool) -> Result<(), StoreError> {
        if disk_has_room() && self.space.charge(bytes) {
            return Ok(());
        }
        if self.space.could_fit(bytes) && !self.nothing_to_evict.load(Ordering::Relaxed) {
            self.evict(self.space.shortfall(bytes))?;
            if disk_has_room() && self.space.charge(bytes) {
                return Ok(());
            }
        }
        Err(StoreError::Full { wanted: bytes })
    }

    /// Evicts the least recently used blobs that nobody has open, `bytes` bytes or a little more.
    fn evict(&self, bytes: u64) -> Result<(), StoreError> {
        // So that the index knows the last uses, and blobs waiting to be flushed are not in use.
        self.flush()?;
        sweep::sweep_tmp(&self.layout)?;
        let _structure = self.structure.lock();
        let wanted = bytes.saturating_add(self.space.surplus());
        self.nothing_to_evict.store(true, Ordering::Relaxed);
        let freed: u64 = self.evict_step(wanted, usize::MAX)?.iter().map(|(_, bytes)| bytes).sum();
        if freed >= bytes {
            self.nothing_to_evict.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Evicts the least recently used blobs that nobody has open: `bytes` bytes or a little more, but
    /// `limit` blobs at most. Tells which, with the bytes of each. The caller holds `structure`.
    pub fn evict_step(&self, bytes: u64, limit: usize) -> Result<Vec<(ContentHash, u64)>, StoreError> {
        let evicted = self.index.write(|batch| batch.evict(bytes, limit, |hash| self.opened(hash).is_some()))?;
        for (hash, record) in &evicted {
            if let Err(error) = self.layout.unlink(hash) {
                tracing::warn!(%error, "an evicted blob's files stay behind until a sweep");
            }
            self.space.release(record.charge());
            self.space.remove_blob();
            self.metrics.store_evicted_blobs.inc();
        }
        Ok(evicted.into_iter().map(|(hash, record)| (hash, record.charge())).collect())
    }

    /// Removes all that is held of `blob`: first from memory and index, then from disk. The handle
    /// stays good for new writes.
    pub fn forget(&self, blob: &Blob) -> Result<(), StoreError> {
        let _structure = self.structure.lock();
        let charged = blob.clear();
        self.index.write(|batch| batch.take(&blob.hash()))?;
        self.pending.lock().touches.remove(&blob.hash());
        self.layout.unlink(&blob.hash())?;
        if let Some(bytes) = charged {
            self.space.release(bytes);
            self.space.remove_blob();
        }
        Ok(())
    }
}

/// Milliseconds since 1970 by the system's clock.
pub(super) fn wall_clock_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}
