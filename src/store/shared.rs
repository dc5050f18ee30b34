//! What the parts of a store have in common: the open blobs, the clock, the index.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dashmap::{DashMap, Entry};
use lru::LruCache;
use parking_lot::{Condvar, Mutex, RwLock};
use tokio::sync::Semaphore;

use super::blob::{Blob, Checked};
use super::blocking::MAX_IN_PLACE_THREADS;
use super::files::Files;
use super::index::{Batch, Index};
use super::layout::Layout;
use super::lingering::Lingering;
use super::record::{BlobInfo, Record};
use super::recovery::{Recovery, Work};
use super::space::Space;
use super::{Config, StoreError, claim, flusher, sweep};
use crate::ids::{ContentHash, HaveKey};
use crate::metrics::Metrics;
use crate::verify::MAX_BLOB_LEN;

/// Blobs that nobody has open of which it is remembered what was found right: more than the files of a
/// toolchain or a large build, which would else be checked again each time they are opened. At about
/// 400 bytes each they take 13 MB.
const MAX_CHECKED: NonZeroUsize = NonZeroUsize::new(32 * 1024).expect("not zero");

/// How long those wait for the others who may not block: time enough for files to be made, and not for a sync.
const SHORT_WAIT: Duration = Duration::from_millis(2);

/// The store behind its handles.
#[derive(Debug)]
pub(super) struct Shared {
    pub layout: Layout,
    pub index: Index,
    pub space: Space,
    pub recovery: Arc<Recovery>,
    pub metrics: Arc<Metrics>,
    /// Held for writing while files or entries of blobs go or are replaced. Opening a blob only reads, and so do the first
    /// write to one and a flush, which tells the index what open blobs hold: nobody waits for its commit to open another,
    /// nor for the file system to make the files of another.
    pub structure: RwLock<()>,
    pub pending: Mutex<Pending>,
    /// Blobs that wait for a flush at most.
    pub max_unflushed: usize,
    pub wake: Condvar,
    /// What was found right of blobs that nobody has open now, the ones closed last.
    pub checked: Mutex<LruCache<ContentHash, Checked>>,
    pub lingering: Lingering,
    open: DashMap<ContentHash, Weak<Blob>>,
    open_by_key: DashMap<HaveKey, ContentHash>,
    /// Held while what changed is made durable and told to the index.
    pub flushing: Mutex<()>,
    /// Held while an outboard is made anew, or the content that is right of a damaged file copied.
    pub mending: Mutex<()>,
    /// Reads that mend, or wait for that.
    pub menders: AtomicUsize,
    /// Held while blobs are evicted to make room.
    pub evicting: Mutex<()>,
    /// Held while files on their way in are counted, and while they become blobs.
    pub staging: Mutex<()>,
    /// A place for each thread that may have to do with files of users.
    pub in_place_threads: Arc<Semaphore>,
    clock: AtomicU64,
    pub opened_at: Instant,
    /// When the files on their way in were counted last, in milliseconds from `opened_at`.
    pub staged_looked_at: AtomicU64,
    /// When something was written last, in milliseconds from `opened_at`.
    pub last_write: AtomicU64,
    /// The last eviction freed too little, and nothing has changed since: no need to try again.
    pub nothing_to_evict: AtomicBool,
    /// Nothing that was found right is remembered.
    check_every_read: AtomicBool,
    /// The index says that the store was closed. Changes under `structure`.
    closed: AtomicBool,
    /// None if nothing is kept on the disk.
    _lock: Option<File>,
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
    /// Opens the store.
    pub fn open(config: Config, metrics: Arc<Metrics>) -> Result<Arc<Self>, StoreError> {
        let layout = Layout::create(&config.dir)?;
        let lock = layout.lock()?;
        let recovery = Arc::new(Recovery::new());
        let of_index = recovery.clone();
        let index = Index::open(&layout.index(), move || of_index.want(Work::Rebuild))?;
        let begin = || index.write(|batch| Ok((batch.set_clean(false)?, batch.totals()?, batch.latest_use()?)));
        let (was_clean, (bytes, blobs), latest_use) = match begin() {
            // It is set aside by now.
            Err(StoreError::IndexDamaged { .. }) => begin()?,
            begun => begun?,
        };
        if !was_clean {
            recovery.want(Work::Sweep);
        }
        let space = Space::new(layout.dir(), &config, bytes, blobs, metrics.clone());
        space.set_index(index.bytes_on_disk());
        space.set_staged(sweep::sweep_tmp(&layout)?);
        Ok(Arc::new(Self::new(layout, index, space, recovery, metrics, latest_use, Some(lock))))
    }

    /// See [`super::Store::uncached`].
    pub fn uncached(config: &Config, metrics: Arc<Metrics>) -> Result<Arc<Self>, StoreError> {
        let layout = Layout::of(&config.dir);
        let index = Index::in_memory(&layout.index())?;
        let nothing = Config { capacity: 0, keep_free: 0, ..config.clone() };
        let space = Space::new(layout.dir(), &nothing, 0, 0, metrics.clone());
        Ok(Arc::new(Self::new(layout, index, space, Arc::new(Recovery::new()), metrics, 0, None)))
    }

    fn new(
        layout: Layout,
        index: Index,
        space: Space,
        recovery: Arc<Recovery>,
        metrics: Arc<Metrics>,
        latest_use: u64,
        lock: Option<File>,
    ) -> Self {
        Self {
            space,
            recovery,
            layout,
            index,
            metrics,
            structure: RwLock::default(),
            pending: Mutex::default(),
            max_unflushed: flusher::max_unflushed(),
            wake: Condvar::new(),
            checked: Mutex::new(LruCache::new(MAX_CHECKED)),
            lingering: Lingering::new(),
            open: DashMap::new(),
            open_by_key: DashMap::new(),
            flushing: Mutex::default(),
            mending: Mutex::default(),
            menders: AtomicUsize::new(0),
            evicting: Mutex::default(),
            staging: Mutex::default(),
            in_place_threads: Arc::new(Semaphore::new(MAX_IN_PLACE_THREADS)),
            clock: AtomicU64::new(latest_use),
            opened_at: Instant::now(),
            staged_looked_at: AtomicU64::new(0),
            last_write: AtomicU64::new(0),
            nothing_to_evict: AtomicBool::new(false),
            check_every_read: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            _lock: lock,
        }
    }

    /// See [`super::Store::check_every_read`].
    pub fn check_every_read(&self) {
        self.check_every_read.store(true, Ordering::Relaxed);
        self.checked.lock().clear();
    }

    /// Whether nothing that was found right is remembered.
    pub fn checks_every_read(&self) -> bool {
        self.check_every_read.load(Ordering::Relaxed)
    }

    /// A time of use: milliseconds since 1970, but later than all times of use before, whatever
    /// the system's clock does.
    pub fn time_of_use(&self) -> u64 {
        let now = wall_clock_ms();
        // A damaged index may have said anything.
        let tick = |last: u64| now.max(last.saturating_add(1));
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

    /// The same if nobody has to be waited for longer than [`SHORT_WAIT`]; else `None`.
    pub fn open_at_once(self: &Arc<Self>, hash: &ContentHash) -> Option<Option<Arc<Blob>>> {
        let blob = match self.opened(hash) {
            Some(blob) => blob,
            None => {
                let _structure = self.structure.try_read_recursive_for(SHORT_WAIT)?;
                match self.open_known(hash).ok()? {
                    Some(blob) => blob,
                    // It may be about to be known again.
                    None => return (self.recovery.work() != Work::Rebuild).then_some(None),
                }
            }
        };
        blob.touch();
        Some(Some(blob))
    }

    /// The same, but it does not count as a use.
    pub fn open_unused(self: &Arc<Self>, hash: &ContentHash) -> Result<Option<Arc<Blob>>, StoreError> {
        Ok(Some(match self.opened(hash) {
            Some(blob) => blob,
            None => {
                claim::on_demand(self, hash, false)?;
                let _structure = self.structure.read_recursive();
                match self.open_known(hash)? {
                    Some(blob) => blob,
                    None => return Ok(None),
                }
            }
        }))
    }

    /// See [`super::Store::create_partial`].
    pub fn create_partial(self: &Arc<Self>, hash: ContentHash, size: u64) -> Result<Arc<Blob>, StoreError> {
        if size > MAX_BLOB_LEN {
            return Err(StoreError::TooBig(size));
        }
        let (blob, is_new) = match self.opened(&hash) {
            Some(blob) => (blob, false),
            None => {
                // Writing to it removes what lies there.
                claim::on_demand(self, &hash, true)?;
                let _structure = self.structure.read_recursive();
                match self.open_known(&hash)? {
                    Some(blob) => (blob, false),
                    None => (self.insert(Blob::empty(hash, size, self.clone())), true),
                }
            }
        };
        // Of what is new the index knows nothing yet, and is told of its use with it.
        if !is_new {
            blob.touch();
        }
        if blob.size() != size {
            return Err(StoreError::OtherSize { hash, held: blob.size(), claimed: size });
        }
        Ok(blob)
    }

    /// Removes the files of a blob that neither the index knows nor anybody has open.
    pub fn remove_unknown(&self, hash: &ContentHash) -> Result<(), StoreError> {
        let _structure = self.structure.write();
        let known = self.opened(hash).is_some() || self.index.get(hash)?.is_some();
        if known { Ok(()) } else { self.layout.unlink(hash) }
    }

    /// Puts all that somebody has open on the list of the next flush, for an index that may know nothing of
    /// it. Returns bytes and number of the blobs that are counted although nobody has them open and the index
    /// does not know them. (A write that is under way just now is counted among them; so much may lie above
    /// the cap until the next start.)
    pub fn requeue_opened(&self) -> Result<(u64, u64), StoreError> {
        let (mut bytes, mut blobs) = (self.space.of_blobs(), self.space.blobs());
        // What a rebuild that was broken off has told the index is counted already.
        let (mut known_bytes, mut known_blobs) = self.index.totals()?;
        for blob in self.all_opened() {
            let opened = !blob.holds_any() || blob.files().is_ok();
            let known = self.index.get(&blob.hash())?;
            let mut state = blob.state();
            if let Some(charged) = state.charged.filter(|_| opened) {
                (bytes, blobs) = (bytes.saturating_sub(charged), blobs.saturating_sub(1));
                if let Some(record) = known {
                    (known_bytes, known_blobs) =
                        (known_bytes.saturating_sub(record.charge()), known_blobs.saturating_sub(1));
                }
                blob.queue(&mut state);
            }
        }
        Ok((bytes.saturating_sub(known_bytes), blobs.saturating_sub(known_blobs)))
    }

    /// The handle of a blob that somebody has open or that the index knows. The caller holds `structure`.
    fn open_known(self: &Arc<Self>, hash: &ContentHash) -> Result<Option<Arc<Blob>>, StoreError> {
        Ok(match (self.opened(hash), self.index.get(hash)?) {
            (Some(blob), _) => Some(blob),
            (None, Some(record)) => Some(self.insert(Blob::held(*hash, &record, self.clone()))),
            (None, None) => None,
        })
    }

    /// Makes `blob` the handle, unless there is one by now.
    fn insert(&self, blob: Blob) -> Arc<Blob> {
        let hash = blob.hash();
        let blob = Arc::new(blob);
        let known = match self.open.entry(hash) {
            Entry::Occupied(mut entry) => entry.get().upgrade().or_else(|| {
                entry.insert(Arc::downgrade(&blob));
                None
            }),
            Entry::Vacant(entry) => {
                entry.insert(Arc::downgrade(&blob));
                None
            }
        };
        // The guard of the map is gone: one of the two may be dropped.
        known.unwrap_or_else(|| {
            self.open_by_key.insert(hash.have_key(), hash);
            blob
        })
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
    /// next flush holds it, which may let go of it once it has told the index: so that is read last.
    pub fn complete(&self, after: Option<ContentHash>, limit: usize) -> Result<Vec<(ContentHash, u64)>, StoreError> {
        let opened = self.all_opened();
        let mut found: BTreeMap<ContentHash, u64> = self.index.complete(after, limit)?.into_iter().collect();
        // Of the very many that may be open, only those that belong to this page are looked at.
        let last = found.keys().next_back().copied().filter(|_| found.len() == limit);
        let is_next =
            |hash: ContentHash| after.is_none_or(|after| hash > after) && last.is_none_or(|last| hash <= last);
        let complete = opened.iter().filter(|blob| is_next(blob.hash()) && blob.is_complete());
        found.extend(complete.map(|blob| (blob.hash(), blob.size())));
        Ok(found.into_iter().take(limit).collect())
    }

    /// Runs `change` in one durable transaction of the index, and takes note of what that takes on the
    /// disk. It should change no more than [`Space::entries_per_commit`].
    pub fn write_index<T>(&self, change: impl FnOnce(&mut Batch) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        // What still goes on after the last flush may not come to its end.
        let closed = self.closed.load(Ordering::Relaxed);
        let written = self.index.write(|batch| {
            if closed {
                batch.set_clean(false)?;
            }
            change(batch)
        });
        self.space.set_index(self.index.bytes_on_disk());
        written
    }

    /// Notes in the index that the store was closed, in order if what was done before was `clean` and the index knows all
    /// that is on the disk. From then on no file comes to it.
    pub fn note_closed(&self, clean: bool) -> Result<(), StoreError> {
        let _structure = self.structure.write();
        self.closed.store(true, Ordering::Relaxed);
        let charged = |blob: &Blob| Ok::<_, StoreError>(self.index.get(&blob.hash())?.map(|record| record.charge()));
        let mut settled = clean;
        for blob in self.all_opened() {
            settled = settled && !blob.is_being_written() && charged(&blob)? == blob.state().charged;
        }
        self.index.write(|batch| batch.set_clean(settled)).map(drop)
    }

    /// Whether files may still be made. The caller holds `structure`.
    pub fn unless_closed(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Relaxed) { Err(StoreError::Closed) } else { Ok(()) }
    }
}

/// Milliseconds since 1970 by the system's clock.
pub(super) fn wall_clock_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}
