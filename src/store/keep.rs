//! What is kept and what goes, as people decide it: pins, removal, collection.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::record::{Origin, Record};
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
    /// that it was charged for, or `None` if nothing of it was held. Whoever has a content file open can
    /// go on reading that.
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
        let _structure = self.structure.write();
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
        Ok(outcomes)
    }

    /// First from memory and index, then from disk, as [`Shared::forget`].
    fn remove_all(self: &Arc<Self>, hashes: &[ContentHash]) -> Result<Vec<Option<u64>>, StoreError> {
        self.claim_all(hashes)?;
        let _structure = self.structure.write();
        let cleared: Vec<Option<u64>> =
            hashes.iter().map(|hash| self.opened(hash).and_then(|blob| blob.clear())).collect();
        let records =
            self.write_index(|batch| hashes.iter().map(|hash| batch.take(hash)).collect::<Result<Vec<_>, _>>());
        let mut failed = None;
        let mut removed = Vec::with_capacity(hashes.len());
        for (at, (hash, cleared)) in hashes.iter().zip(cleared).enumerate() {
            let record = records.as_ref().ok().and_then(|records| records[at].as_ref());
            let charged = cleared.or(record.map(Record::charge));
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
        records?;
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
        let _structure = self.structure.write();
        let step = COLLECT_STEP.min(self.space.entries_per_commit());
        let removed = match excess() {
            0 => Vec::new(),
            bytes => self.evict_step(bytes, step)?,
        };
        let (used, excess) = (self.space.usage().used, excess());
        Ok(Collected { used, excess, more: removed.len() == step && excess > 0, removed })
    }
}
