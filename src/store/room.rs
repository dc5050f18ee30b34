//! Making room: whoever writes reserves first, and what was used least recently goes.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::StoreError;
use super::layout::sync_file_system;
use super::recovery::{ADD_WAIT, WRITE_WAIT};
use super::shared::Shared;
use super::sweep;
use crate::ids::ContentHash;

/// Files on their way in are counted at most this often, in milliseconds, while something is written.
const STAGED_INTERVAL_MS: u64 = 100;

/// A file from this size on, in bytes, takes the file system long to give back (16 MiB).
const LARGE_FILE: u64 = 16 << 20;

/// Large files that are kept open at most until they may be given back.
const MAX_UNLINKED: usize = 64;

/// Large files that have no name any more, kept open: it is only when they are closed that the file system gives
/// their blocks back, which takes up to a second for one of 10 GiB.
#[derive(Debug, Default)]
pub(super) struct Unlinked(Vec<File>);

impl Unlinked {
    /// Keeps the file at `path`, which is about to be unlinked, if it is large.
    fn keep(&mut self, path: &Path, len: u64) {
        if len >= LARGE_FILE && self.0.len() < MAX_UNLINKED {
            self.0.extend(File::open(path));
        }
    }
}

impl Shared {
    /// Charges `bytes`, evicting blobs if need be. The caller gives back what it does not use.
    pub fn reserve(&self, bytes: u64) -> Result<(), StoreError> {
        if bytes == 0 {
            return Ok(());
        }
        self.reserve_if(bytes, WRITE_WAIT, || self.space.disk_shortfall(bytes) == 0)
    }

    /// Charges `bytes` that are already on the disk, evicting blobs if need be.
    pub fn reserve_on_disk(&self, bytes: u64) -> Result<(), StoreError> {
        self.reserve_if(bytes, ADD_WAIT, || true).map_err(|error| self.say_what_is_in_the_way(error))
    }

    /// See [`super::Store::make_room`].
    pub fn make_room(&self, batch: &str, bytes: u64) -> Result<(), StoreError> {
        if bytes > self.space.most() {
            return Err(StoreError::LargerThanCache { wanted: bytes, capacity: self.space.usage().capacity });
        }
        let lock = self.layout.staged_batch(batch)?;
        self.count_staged()?;
        let so_far = sweep::staged_room(&self.layout, Some(batch))?.taken;
        let more = bytes.saturating_sub(so_far);
        // What would not be enough does not go in vain.
        let short = self.space.shortfall(more);
        if short > 0 && self.could_evict(short)? < short {
            return Err(self.say_what_is_in_the_way(StoreError::Full { wanted: more }));
        }
        self.reserve_if(more, ADD_WAIT, || self.space.disk_shortfall(more) == 0)
            .map_err(|error| self.say_what_is_in_the_way(error))?;
        let _staging = self.staging.lock();
        // The length of the batch's lock says how much it may take, to whoever counts. It takes nothing itself.
        let noted = self.layout.note_room(&lock, batch, bytes.max(so_far));
        let staged = sweep::staged_room(&self.layout, None);
        // For a moment it counts twice, rather than not at all.
        if let Ok(staged) = &staged {
            self.space.set_staged(*staged);
        }
        self.space.release(more);
        noted.and(staged).map(drop)
    }

    fn reserve_if(&self, bytes: u64, patience: Duration, disk_has_room: impl Fn() -> bool) -> Result<(), StoreError> {
        if !self.recovery.wait_until_counted(patience) {
            return Err(StoreError::Full { wanted: bytes });
        }
        self.look_at_staged()?;
        if disk_has_room() && self.space.charge(bytes) {
            return Ok(());
        }
        if self.space.could_fit(bytes) && self.may_evict() {
            self.evict(bytes)?;
            if disk_has_room() && self.space.charge(bytes) {
                return Ok(());
            }
        }
        Err(StoreError::Full { wanted: bytes })
    }

    /// Whether trying to evict something may help.
    fn may_evict(&self) -> bool {
        !self.nothing_to_evict.load(Ordering::Relaxed) || !self.lingering.is_empty()
    }

    /// What to tell somebody who adds something and could make room.
    fn say_what_is_in_the_way(&self, error: StoreError) -> StoreError {
        let StoreError::Full { wanted } = error else { return error };
        match self.space.free_on_disk() {
            Some(free) if self.space.disk_shortfall(wanted) > 0 => {
                StoreError::DiskFull { wanted, free, keep_free: self.space.keep_free() }
            }
            _ => StoreError::NoRoom { wanted, capacity: self.space.usage().capacity, used: self.space.usage().used },
        }
    }

    /// How many bytes could be evicted; no more than `bytes` or a little more are looked for.
    fn could_evict(&self, bytes: u64) -> Result<u64, StoreError> {
        // So that the index knows what is held, and blobs waiting to be flushed are not in use.
        self.flush()?;
        self.lingering.let_go();
        self.index.evictable(bytes, |hash| self.opened(hash).is_some())
    }

    /// Evicts the least recently used blobs that nobody has open until there is room for `bytes`, or a little more.
    fn evict(&self, bytes: u64) -> Result<(), StoreError> {
        // What others evict meanwhile may be enough.
        let _evicting = self.evicting.lock();
        if self.space.shortfall(bytes) == 0 {
            return Ok(());
        }
        // So that the index knows the last uses, and blobs waiting to be flushed are not in use.
        self.flush()?;
        self.lingering.let_go();
        self.sweep_staged()?;
        let structure = self.structure.write();
        let (short, on_disk, free) =
            (self.space.shortfall(bytes), self.space.disk_shortfall(bytes) > 0, self.space.free_on_disk());
        let wanted = short.saturating_add(self.space.surplus());
        let (mut freed, mut unlinked) = (0, Unlinked::default());
        while freed < wanted {
            let step = self.evict_step(wanted - freed, usize::MAX, &mut unlinked)?;
            if step.is_empty() {
                break;
            }
            freed += step.iter().map(|(_, bytes)| bytes).sum::<u64>();
        }
        self.nothing_to_evict.store(freed < short, Ordering::Relaxed);
        drop(structure);
        drop(unlinked);
        // Some file systems (btrfs, ZFS) show what was freed only later: until then each write would evict as much
        // again.
        let is_shown = self.space.free_on_disk().zip(free).is_none_or(|(now, before)| now >= before + freed / 2);
        if on_disk && freed > 0 && !is_shown {
            sync_file_system(self.layout.dir())?;
        }
        Ok(())
    }

    /// Evicts the least recently used blobs that nobody has open: `bytes` bytes or a little more, but
    /// `limit` blobs, or what one commit may change, at most. Tells which, with the bytes of each. The
    /// caller holds `structure`, but no more when it drops what is `unlinked`.
    pub fn evict_step(
        &self,
        bytes: u64,
        limit: usize,
        unlinked: &mut Unlinked,
    ) -> Result<Vec<(ContentHash, u64)>, StoreError> {
        let limit = limit.min(self.space.entries_per_commit());
        let evicted = self.write_index(|batch| batch.evict(bytes, limit, |hash| self.opened(hash).is_some()))?;
        for (hash, record) in &evicted {
            unlinked.keep(&self.layout.content(hash), record.charge());
            if let Err(error) = self.layout.unlink(hash) {
                tracing::warn!(%error, "an evicted blob's files stay behind until a sweep");
            }
            self.space.release(record.charge());
            self.space.remove_blob();
            self.metrics.store_evicted_blobs.inc();
        }
        Ok(evicted.into_iter().map(|(hash, record)| (hash, record.charge())).collect())
    }

    /// Counts what files on their way in take, unless that was done a moment ago.
    fn look_at_staged(&self) -> Result<(), StoreError> {
        let now = self.opened_at.elapsed().as_millis() as u64;
        let last = self.staged_looked_at.load(Ordering::Relaxed);
        if now.saturating_sub(last) >= STAGED_INTERVAL_MS {
            self.staged_looked_at.store(now, Ordering::Relaxed);
            self.count_staged()?;
        }
        Ok(())
    }

    /// Counts what files on their way in take.
    pub fn count_staged(&self) -> Result<(), StoreError> {
        let _staging = self.staging.lock();
        self.space.set_staged(sweep::staged_room(&self.layout, None)?);
        Ok(())
    }

    /// Removes files on their way in whose writer is gone, and counts the others.
    pub fn sweep_staged(&self) -> Result<(), StoreError> {
        let _staging = self.staging.lock();
        self.space.set_staged(sweep::sweep_tmp(&self.layout)?);
        Ok(())
    }

    /// Evicts what is beyond the cap, where something that could not be reserved has taken more.
    pub fn trim(&self) -> Result<(), StoreError> {
        self.count_staged()?;
        match self.space.shortfall(0) {
            0 => Ok(()),
            _ if self.may_evict() => self.evict(0),
            _ => Ok(()),
        }
    }
}
