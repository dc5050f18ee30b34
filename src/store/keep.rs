//! What is kept and what goes, as people decide it: pins, removal, collection.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{RwLockUpgradableReadGuard, RwLockWriteGuard};
use serde::{Deserialize, Serialize};

use super::blob::renew_stamp;
use super::error::io_error;
use super::files::mark_pinned;
use super::layout::{SYNC_FILE_SYSTEM_FROM, sync_file_system};
use super::record::{Origin, Record};
use super::room::Unlinked;
use super::shared::Shared;
use super::{Store, StoreError, claim};
use crate::ids::ContentHash;

/// Blobs that one step of a collection removes at most: it keeps others from opening blobs for some
/// tens of milliseconds.
const COLLECT_STEP: usize = 256;

/// What became of the wish to pin a blob, or to pin it no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PinOutcome {
    /// It is as wished, durably.
    Done,
    /// Nothing of the blob is held.
    NotHeld,
    /// It was added here, so it stays until it is removed, whatever its pin.
    Local,
}

/// What a step of a collection has removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// The blobs that went, with the bytes on disk that each was charged for; the least recently used first.
    pub removed: Vec<(ContentHash, u64)>,
    /// Bytes that the store takes now.
    pub used: u64,
    /// Bytes that the store takes beyond what was asked for.
    pub excess: u64,
    /// Whether another step may remove more.
    pub more: bool,
}

impl Store {
    /// Keeps `hashes` from eviction, or no longer, durably: an outcome each, in their order. A blob held
    /// in part is kept as far as it is held.
    pub fn set_pinned(&self, hashes: &[ContentHash], pinned: bool) -> Result<Vec<PinOutcome>, StoreError> {
        self.shared.set_pinned(hashes, pinned)
    }

    /// Removes `hashes`, pinned or not, added here or not: for each, in their order, the bytes on disk
    /// that it was charged for, or `None` if nothing of it was held. Whoever has one open can go on reading what of it
    /// was held ([`Blob::read_removed`](super::Blob::read_removed)).
    pub fn remove_all(&self, hashes: &[ContentHash]) -> Result<Vec<Option<u64>>, StoreError> {
        self.shared.remove_all(hashes)
    }

    /// Takes a step towards a store that takes `target` bytes, or, without one, keeps within its capacity
    /// and leaves the disk its free space: removes the least recently used of what is neither pinned,
    /// nor added here, nor in use, and the files that adding left behind when it was interrupted.
    pub fn collect(&self, target: Option<u64>) -> Result<Collected, StoreError> {
        self.shared.collect(target)
    }
}

impl Shared {
    fn set_pinned(self: &Arc<Self>, hashes: &[ContentHash], pinned: bool) -> Result<Vec<PinOutcome>, StoreError> {
        self.claim_all(hashes)?;
        // So that the index knows what is held.
        self.flush()?;
        // A flush under way has taken down the old pins already.
        let _flushing = self.flushing.lock();
        let structure = self.structure.upgradable_read();
        if pinned {
            self.mark_pinned(hashes.iter(), true)?;
        }
        let structure = RwLockUpgradableReadGuard::upgrade(structure);
        let outcomes: Vec<PinOutcome> = self.write_index(|batch| {
            let set = |hash: &ContentHash| match batch.get(hash)? {
                None => Ok(PinOutcome::NotHeld),
                Some(record) if record.origin != Origin::Fetched && !pinned => Ok(PinOutcome::Local),
                Some(record) => {
                    if record.pinned != pinned {
                        batch.put(hash, &Record { pinned, ..record })?;
                    }
                    Ok(PinOutcome::Done)
                }
            };
            hashes.iter().map(set).collect()
        })?;
        for (hash, outcome) in hashes.iter().zip(&outcomes) {
            if *outcome == PinOutcome::Done
                && let Some(blob) = self.opened(hash)
            {
                blob.state().pinned = pinned;
            }
        }
        self.nothing_to_evict.store(false, Ordering::Relaxed);
        let _structure = RwLockWriteGuard::downgrade_to_upgradable(structure);
        if !pinned {
            let done = hashes.iter().zip(&outcomes).filter(|(_, outcome)| **outcome == PinOutcome::Done);
            self.mark_pinned(done.map(|(hash, _)| hash), false)?;
        }
        Ok(outcomes)
    }

    /// Marks the content files of fetched blobs as pinned, or not, durably, so that a new index knows it. A file
    /// system that knows no such mark is no reason to refuse a pin. The caller holds `structure`.
    fn mark_pinned<'a>(&self, hashes: impl Iterator<Item = &'a ContentHash>, pinned: bool) -> Result<(), StoreError> {
        let (mut marked, mut unsynced) = (0, Vec::new());
        for hash in hashes {
            let is_fetched = |record: &Record| record.origin == Origin::Fetched;
            if !self.index.get(hash)?.as_ref().is_some_and(is_fetched) {
                continue;
            }
            let path = self.layout.content(hash);
            let opened = self.opened(hash);
            // Else it might become complete in between, which sets the mode too.
            let mut state = opened.as_ref().map(|blob| blob.state());
            match mark_pinned(&path, pinned) {
                Ok(Some((file, before, after))) => {
                    match &mut state {
                        Some(state) => state.renew_stamp(before, after),
                        None => renew_stamp(self.checked.lock().peek_mut(hash), before, after),
                    }
                    marked += 1;
                    if marked < SYNC_FILE_SYSTEM_FROM {
                        unsynced.push((file, path));
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "should the index be lost, this pin is not remembered"),
            }
        }
        if marked >= SYNC_FILE_SYSTEM_FROM {
            return sync_file_system(self.layout.dir());
        }
        unsynced.iter().try_for_each(|(file, path)| file.sync_all().map_err(io_error("sync", path)))
    }

    /// First from the index and memory, then from disk, as [`Shared::forget`].
    fn remove_all(self: &Arc<Self>, hashes: &[ContentHash]) -> Result<Vec<Option<u64>>, StoreError> {
        self.claim_all(hashes)?;
        // What nobody has open need not stay readable.
        hashes.iter().for_each(|hash| self.lingering.let_go_of(hash));
        // Before the lock: the file system of a user's file may hang.
        let in_use: Vec<_> =
            hashes.iter().map(|hash| self.opened(hash).map(|blob| (blob.open_files().ok(), blob))).collect();
        let _structure = self.structure.write();
        let records =
            self.write_index(|batch| hashes.iter().map(|hash| batch.take(hash)).collect::<Result<Vec<_>, _>>())?;
        let mut failed = None;
        let mut removed = Vec::with_capacity(hashes.len());
        for ((hash, in_use), record) in hashes.iter().zip(in_use).zip(records) {
            // Somebody may have opened it meanwhile; what he has no files of yet, he fetches.
            let in_use = in_use.or_else(|| self.opened(hash).map(|blob| (blob.opened_files(), blob)));
            let cleared = in_use.and_then(|(files, blob)| blob.remove(files));
            let charged = cleared.or(record.as_ref().map(Record::charge));
            if let Some(bytes) = charged {
                self.pending.lock().touches.remove(hash);
                if let Err(error) = self.layout.unlink(hash) {
                    failed = Some(error);
                }
                self.space.release(bytes);
                self.space.remove_blob();
            }
            removed.push(charged);
        }
        self.nothing_to_evict.store(false, Ordering::Relaxed);
        failed.map_or(Ok(removed), Err)
    }

    /// While the index is made anew, it may not know them yet.
    fn claim_all(self: &Arc<Self>, hashes: &[ContentHash]) -> Result<(), StoreError> {
        hashes.iter().try_for_each(|hash| claim::on_demand(self, hash, true))
    }

    fn collect(&self, target: Option<u64>) -> Result<Collected, StoreError> {
        // So that the index knows the last uses, and blobs waiting to be flushed are not in use.
        self.flush()?;
        self.lingering.let_go();
        self.sweep_staged()?;
        let excess = || match target {
            Some(target) => self.space.usage().used.saturating_sub(target),
            None => self.space.shortfall(0),
        };
        // Dropped after the lock.
        let mut unlinked = Unlinked::default();
        let _structure = self.structure.write();
        let step = COLLECT_STEP.min(self.space.entries_per_commit());
        let removed = match excess() {
            0 => Vec::new(),
            bytes => self.evict_step(bytes, step, &mut unlinked)?,
        };
        let (used, excess) = (self.space.usage().used, excess());
        Ok(Collected { used, excess, more: removed.len() == step && excess > 0, removed })
    }
}
