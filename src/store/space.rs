//! How much the store holds, and how much it may.

use std::ffi::CString;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Usage;
use super::layout::SHARDS;
use super::sweep::StagedRoom;
use crate::metrics::Metrics;

/// What an eviction frees beyond the need in a store of [`SURPLUS_FROM`] or more, in bytes (16 MiB).
const SURPLUS: u64 = 16 << 20;

/// The capacity, in bytes, from which a surplus is evicted (1 GiB, 64 times the surplus).
const SURPLUS_FROM: u64 = 1 << 30;

/// What part of the capacity the index may grow by in one commit.
const HEADROOM_PART: u64 = 64;

/// The least that the index may grow by in one commit, in bytes (256 KiB). A new one takes 108 KiB.
const MIN_HEADROOM: u64 = 256 << 10;

/// The most that the index may grow by in one commit, in bytes (16 MiB).
const MAX_HEADROOM: u64 = 16 << 20;

/// What one changed entry may cost in the index until the commit after the next, in bytes: two pages
/// of 4 KiB, copied for its keys are hashes, and as much again for its place by last use and for inner
/// pages. Measured: eight commits of 1000 new entries each, among 60,000, made the file grow by 7 MiB.
const ENTRY_COST: u64 = 16 << 10;

/// How long the file system is believed what it says of its free space.
const FREE_AGE: Duration = Duration::from_millis(100);

/// Bytes that must be free beyond all that is wanted for that (256 MiB): what others may write in that time.
const FREE_MARGIN: u64 = 256 << 20;

/// The bytes charged for, reserved ones included, under the cap.
///
/// The index is charged for what it takes after each commit. A commit cannot be reserved to the byte,
/// so the cap is kept away from it by what one commit may add, and commits are kept small accordingly.
#[derive(Debug)]
pub(super) struct Space {
    dir: PathBuf,
    capacity: u64,
    keep_free: u64,
    /// What blobs take.
    used: AtomicU64,
    /// What the index takes.
    index: AtomicU64,
    /// What files on their way in take, as of the last look.
    staged: AtomicU64,
    /// What of that is reserved, but not on the disk yet.
    unwritten: AtomicU64,
    /// What those of them take that are being made blobs, and charged for as such.
    moving: AtomicU64,
    /// What files take that the index does not know, by the first byte of their hashes; part of `used`.
    unknown: Mutex<[u64; SHARDS as usize]>,
    /// Bytes that may be written without asking the file system again, and until when.
    spare: Mutex<(u64, Instant)>,
    blobs: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Space {
    /// Room below `dir` of which `used` bytes are already taken by `blobs` blobs.
    pub fn new(dir: &Path, config: &super::Config, used: u64, blobs: u64, metrics: Arc<Metrics>) -> Self {
        metrics.store_bytes.add(used);
        metrics.store_blobs.add(blobs);
        let (capacity, keep_free) = (config.capacity, config.keep_free);
        Self {
            dir: dir.to_owned(),
            capacity,
            keep_free,
            used: used.into(),
            index: AtomicU64::new(0),
            staged: AtomicU64::new(0),
            unwritten: AtomicU64::new(0),
            moving: AtomicU64::new(0),
            unknown: Mutex::new([0; SHARDS as usize]),
            spare: Mutex::new((0, Instant::now())),
            blobs: blobs.into(),
            metrics,
        }
    }

    /// Takes `bytes` for a blob if the cap allows it.
    pub fn charge(&self, bytes: u64) -> bool {
        let limit = self.blob_limit();
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit);
        let charged = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok();
        if charged {
            self.metrics.store_bytes.add(bytes);
        }
        charged
    }

    /// Gives `bytes` of a blob back.
    pub fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.metrics.store_bytes.sub(bytes);
    }

    /// Charges `bytes` for the files of a shard that the index does not know; in place of what was charged
    /// for them before. They are there, whatever the cap.
    pub fn set_unknown(&self, shard: u8, bytes: u64) {
        let before = std::mem::replace(&mut self.unknown.lock()[usize::from(shard)], bytes);
        self.used.fetch_add(bytes, Ordering::Relaxed);
        self.metrics.store_bytes.add(bytes);
        self.release(before);
    }

    /// What is charged for files that the index does not know.
    pub fn unknown(&self) -> u64 {
        self.unknown.lock().iter().sum()
    }

    /// Charges `bytes` for a blob that was found in a shard, and no more as for something unknown.
    pub fn charge_found(&self, shard: u8, bytes: u64) {
        let mut unknown = self.unknown.lock();
        let of_shard = &mut unknown[usize::from(shard)];
        let new = bytes.saturating_sub(*of_shard);
        *of_shard = of_shard.saturating_sub(bytes);
        self.used.fetch_add(new, Ordering::Relaxed);
        self.metrics.store_bytes.add(new);
    }

    /// Gives back what `blobs` blobs of `bytes` bytes together take, of which nothing is known any more.
    pub fn forget_blobs(&self, (bytes, blobs): (u64, u64)) {
        self.release(bytes);
        self.blobs.fetch_sub(blobs, Ordering::Relaxed);
        self.metrics.store_blobs.sub(blobs);
    }

    /// How many blobs are counted.
    pub fn blobs(&self) -> u64 {
        self.blobs.load(Ordering::Relaxed)
    }

    /// What blobs take, reserved room included, in bytes.
    pub fn of_blobs(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes note of what the index takes now.
    pub fn set_index(&self, bytes: u64) {
        self.set(&self.index, bytes);
    }

    /// Takes note of what files on their way in take now.
    pub fn set_staged(&self, staged: StagedRoom) {
        self.set(&self.staged, staged.taken);
        let mut spare = self.spare.lock();
        self.unwritten.store(staged.unwritten, Ordering::Relaxed);
        spare.0 = 0;
    }

    fn set(&self, part: &AtomicU64, bytes: u64) {
        let before = part.swap(bytes, Ordering::Relaxed);
        self.metrics.store_bytes.add(bytes);
        self.metrics.store_bytes.sub(before);
    }

    /// Entries of the index that one commit may change.
    pub fn entries_per_commit(&self) -> usize {
        (self.headroom() / ENTRY_COST) as usize
    }

    /// What the index may grow by in one commit.
    fn headroom(&self) -> u64 {
        (self.capacity / HEADROOM_PART).clamp(MIN_HEADROOM, MAX_HEADROOM)
    }

    /// What blobs may take together. Moves in steps, so that not every commit moves it.
    fn blob_limit(&self) -> u64 {
        let staged = self.staged.load(Ordering::Relaxed).saturating_sub(self.moving.load(Ordering::Relaxed));
        self.most().saturating_sub(staged)
    }

    /// What all but the index may take.
    pub fn most(&self) -> u64 {
        let steps = self.index.load(Ordering::Relaxed) / self.headroom() + 2;
        self.capacity.saturating_sub(steps * self.headroom())
    }

    /// While the result lives, `bytes` of what is on its way in are not counted as such.
    pub fn moving(&self, bytes: u64) -> Moving<'_> {
        self.moving.fetch_add(bytes, Ordering::Relaxed);
        Moving { space: self, bytes }
    }

    /// Counts one more blob.
    pub fn add_blob(&self) {
        self.blobs.fetch_add(1, Ordering::Relaxed);
        self.metrics.store_blobs.inc();
    }

    /// Counts one blob less.
    pub fn remove_blob(&self) {
        self.blobs.fetch_sub(1, Ordering::Relaxed);
        self.metrics.store_blobs.sub(1);
    }

    /// Bytes that have to go before `bytes` more fit within the cap and leave the disk the space to keep free.
    pub fn shortfall(&self, bytes: u64) -> u64 {
        let over = self.of_blobs().saturating_add(bytes).saturating_sub(self.blob_limit());
        over.max(self.disk_shortfall(bytes))
    }

    /// Whether `bytes` could fit if everything were evicted.
    pub fn could_fit(&self, bytes: u64) -> bool {
        bytes <= self.blob_limit()
    }

    /// Bytes that have to go before the disk has room for `bytes` beside the space to keep free.
    pub fn disk_shortfall(&self, bytes: u64) -> u64 {
        if self.keep_free == 0 {
            return 0;
        }
        // Held for as long as the file system takes to tell: it must not be about what was reserved meanwhile.
        let mut spare = self.spare.lock();
        if spare.0 > bytes && Instant::now() < spare.1 {
            spare.0 -= bytes;
            return 0;
        }
        // A file system that does not tell its space is written to until it refuses.
        let Some(free) = self.free_on_disk() else { return 0 };
        let wanted = self.keep_free.saturating_add(bytes);
        *spare = (free.saturating_sub(wanted.saturating_add(FREE_MARGIN)), Instant::now() + FREE_AGE);
        wanted.saturating_sub(free)
    }

    /// Bytes that are free on the file system and not reserved for files on their way in; `None` if it does
    /// not tell.
    pub fn free_on_disk(&self) -> Option<u64> {
        let unwritten = self.unwritten.load(Ordering::Relaxed);
        file_system_available(&self.dir).ok().map(|free| free.saturating_sub(unwritten))
    }

    /// Bytes that are to stay free on the file system.
    pub fn keep_free(&self) -> u64 {
        self.keep_free
    }

    /// What to evict beyond the need, so that commits are few: nothing in a small store.
    pub fn surplus(&self) -> u64 {
        if self.capacity < SURPLUS_FROM { 0 } else { SURPLUS }
    }

    /// The figures for people.
    pub fn usage(&self) -> Usage {
        let parts = [&self.used, &self.index, &self.staged];
        let used = parts.iter().map(|part| part.load(Ordering::Relaxed)).fold(0, u64::saturating_add);
        let room = self.blob_limit().saturating_sub(self.of_blobs());
        let on_disk = self.free_on_disk().map_or(u64::MAX, |free| free.saturating_sub(self.keep_free));
        Usage { capacity: self.capacity, used, available: room.min(on_disk), blobs: self.blobs.load(Ordering::Relaxed) }
    }
}

/// See [`Space::moving`].
pub(super) struct Moving<'a> {
    space: &'a Space,
    bytes: u64,
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.space.moving.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes that an ordinary user can still write to the file system of `path`.
fn file_system_available(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut figures = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` is a NUL-terminated string and `figures` has room for the result; both live through the call.
    if unsafe { libc::statvfs(path.as_ptr(), figures.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: statvfs has returned 0, so it has filled in the structure.
    let figures = unsafe { figures.assume_init() };
    Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
}

/// Bytes that the file at `path` takes on the disk; 0 if there is none.
pub(super) fn bytes_on_disk(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |metadata| blocks_of(&metadata))
}

/// Bytes that a file takes on the disk.
pub(super) fn blocks_of(metadata: &fs::Metadata) -> u64 {
    // `st_blocks` counts 512 bytes each, whatever the file system's block is.
    metadata.blocks() * 512
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `room` bytes for blobs beside an index that has just been made.
    fn space(room: u64, used: u64, metrics: &Arc<Metrics>) -> Space {
        let config = super::super::Config { dir: "/".into(), capacity: room + 2 * MIN_HEADROOM, keep_free: 0 };
        Space::new(&config.dir, &config, used, 1, metrics.clone())
    }

    #[test]
    fn the_cap_is_never_passed_and_gauges_follow() {
        let metrics = Arc::new(Metrics::default());
        let space = space(100, 60, &metrics);
        assert!(!space.charge(41));
        assert!(!space.charge(u64::MAX));
        assert!(space.charge(40));
        assert_eq!(space.shortfall(7), 7);
        assert_eq!(metrics.store_bytes.get(), 100);
        space.release(100);
        assert_eq!((space.usage().used, metrics.store_bytes.get()), (0, 0));
    }

    #[test]
    fn the_index_and_files_on_their_way_in_count() {
        let metrics = Arc::new(Metrics::default());
        let space = space(MIN_HEADROOM, 1000, &metrics);
        space.set_index(108 << 10);
        space.set_staged(StagedRoom { taken: 5000, unwritten: 0 });
        assert_eq!((space.usage().used, metrics.store_bytes.get()), (6000 + (108 << 10), 6000 + (108 << 10)));
        assert!(!space.charge(MIN_HEADROOM - 5999));
        let moving = space.moving(1000);
        assert_eq!(space.shortfall(MIN_HEADROOM - 5000), 0);
        drop(moving);
        assert!(space.charge(MIN_HEADROOM - 6000));
        // What the index may grow by before it is looked at again stays free.
        space.set_index(MIN_HEADROOM);
        assert_eq!(space.shortfall(0), MIN_HEADROOM - 5000);
        assert!(space.usage().used + MIN_HEADROOM <= space.usage().capacity);
    }

    #[test]
    fn that_there_was_room_a_moment_ago_is_not_believed_of_more_than_there_was() {
        let config = super::super::Config { dir: "/".into(), capacity: u64::MAX, keep_free: 1 << 20 };
        let space = Space::new(&config.dir, &config, 0, 0, Arc::default());
        let free = space.free_on_disk().unwrap();
        assert_eq!(space.disk_shortfall(1), 0);
        assert!(space.disk_shortfall(2 * free) > 0);
        // Nor once files on their way in want it.
        assert_eq!(space.disk_shortfall(1), 0);
        space.set_staged(StagedRoom { taken: 0, unwritten: u64::MAX / 2 });
        assert!(space.disk_shortfall(1) > 0);
    }

    #[test]
    fn the_disk_is_not_asked_again_for_a_moment_while_far_more_is_free_than_is_wanted() {
        let config = super::super::Config { dir: "/".into(), capacity: u64::MAX, keep_free: 1 << 20 };
        let space = Space::new(&config.dir, &config, 0, 0, Arc::default());
        let too_much = 2 * space.free_on_disk().unwrap();
        let spare = |until: Instant| *space.spare.lock() = (2 * too_much + 1, until);
        // Not what the disk would say: it is not asked, until that is used up,
        spare(Instant::now() + FREE_AGE * 100);
        assert_eq!([(); 3].map(|()| space.disk_shortfall(too_much) > 0), [false, false, true]);
        // or too old.
        spare(Instant::now());
        assert!(space.disk_shortfall(too_much) > 0);
        // What others may write meanwhile is not spare.
        let free = space.free_on_disk().unwrap();
        assert_eq!(space.disk_shortfall(1), 0);
        assert!(space.spare.lock().0 <= free.saturating_sub(FREE_MARGIN / 2));
    }

    #[test]
    fn the_disk_keeps_its_free_space() {
        let config = super::super::Config { dir: "/".into(), capacity: u64::MAX, keep_free: u64::MAX / 2 };
        let space = Space::new(&config.dir, &config, 0, 0, Arc::default());
        assert!(space.shortfall(1) > 0);
        assert_eq!(space.usage().available, 0);
    }
}
