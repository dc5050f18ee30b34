//! What turns out damaged or missing is held no more.
//!
//! Whoever finds it out does so without a lock, and others may meanwhile have replaced the files by good ones. So each
//! loss is looked at again under `structure`, before anything goes.
//!
//! A blob that was added here or is pinned stays known with nothing held of it: what is fetched again is then
//! still kept from eviction.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::StoreError;
use super::blob::Blob;
use super::files::{Files, was_whole};
use super::in_place::InPlace;
use super::read::proof_from;
use super::record::{Origin, content_charge};
use super::scrub::parts;
use super::shared::Shared;

impl Blob {
    /// Takes `wrong` out of what is held, if it is still in `files`, and tells of it. If nothing is
    /// left, the files go too.
    pub(super) fn drop_groups(
        self: &Arc<Self>,
        files: &Arc<Files>,
        wrong: &[Range<u64>],
        groups: Range<u64>,
    ) -> StoreError {
        let hash = self.hash();
        if files.in_place {
            return self.drop_all(files).err().unwrap_or(StoreError::Corrupt { hash, groups });
        }
        let mut state = self.state();
        if state.files.as_ref().is_some_and(|now| Arc::ptr_eq(now, files)) {
            let mut dropped: Vec<Range<u64>> = Vec::new();
            for range in wrong {
                dropped.extend(
                    state.held.overlapping(range).map(|held| held.start.max(range.start)..held.end.min(range.end)),
                );
                state.held.remove(range.clone());
            }
            let count: u64 = dropped.iter().map(|range| range.end - range.start).sum();
            let bytes = content_charge(self.size(), &dropped);
            tracing::warn!(%hash, groups = count, "groups on disk are damaged; they are dropped and will be fetched again");
            self.shared.metrics.store_corrupt_groups.add(count);
            self.shared.space.release(bytes);
            state.charged = state.charged.map(|charged| charged - bytes);
            state.held_groups -= count;
            state.complete &= count == 0;
            state.nodes.clear();
            state.checked = None;
            state.fresh.clear();
            let is_empty = state.held.is_empty();
            self.queue(&mut state);
            drop(state);
            if is_empty && let Err(error) = self.drop_unused(files) {
                return error;
            }
        }
        StoreError::Corrupt { hash, groups }
    }

    /// Drops all that is held and is not proven by the outboard, if that does not prove `groups`: what a damaged
    /// outboard costs is told at once, and not part by part.
    pub(super) fn drop_unproven(self: &Arc<Self>, files: &Arc<Files>, groups: &Range<u64>) -> Result<(), StoreError> {
        let proof = |groups: &Range<u64>| proof_from(files, &self.hash(), self.size(), std::slice::from_ref(groups));
        if proof(groups)?.is_ok() {
            return Ok(());
        }
        let mut unproven = Vec::new();
        for part in parts(self.verified().iter(), 0) {
            if proof(&part)?.is_err() {
                unproven.push(part);
            }
        }
        Err(self.drop_groups(files, &unproven, groups.clone()))
    }

    /// Drops all that is held because `files` are not what the index says, if they are still those of the blob.
    pub(super) fn drop_all(&self, files: &Arc<Files>) -> Result<(), StoreError> {
        self.drop_if(|| self.is_backed_by(files))
    }

    /// Drops all that is held if a file is missing.
    pub(super) fn drop_missing(&self) -> Result<(), StoreError> {
        let (replaced, found) = self.look_for_files();
        let is_missing = matches!(found, Err(StoreError::Missing { .. }));
        self.drop_if(|| {
            let state = self.state();
            is_missing && state.files.is_none() && state.replaced == replaced
        })
    }

    /// Drops all that is held if `is_lost` says so, which is asked with `structure` held.
    fn drop_if(&self, is_lost: impl FnOnce() -> bool) -> Result<(), StoreError> {
        // Looked for before the lock, for its file system may hang.
        let in_place = self.is_in_place().then(|| self.shared.in_place(&self.hash(), self.size(), false)).flatten();
        let _structure = self.shared.structure.write();
        if !is_lost() {
            return Ok(());
        }
        self.shared.metrics.store_corrupt_groups.add(self.state().held_groups);
        if self.is_kept() { self.shared.lose_content(self, in_place) } else { self.shared.forget_locked(self) }
    }

    /// Removes `files` if they are those of the blob, which is not to be kept, no group is held and nobody writes.
    pub(super) fn drop_unused(&self, files: &Arc<Files>) -> Result<(), StoreError> {
        let _structure = self.shared.structure.write();
        let is_unused = self.is_backed_by(files)
            && !self.is_kept()
            && !self.holds_any()
            && files.writers.load(Ordering::Relaxed) == 0;
        if is_unused { self.shared.forget_locked(self) } else { Ok(()) }
    }

    /// Whether there is something to say of it: some of it is held, or should be.
    pub(super) fn is_known(&self) -> bool {
        self.holds_any() || self.is_kept()
    }

    /// Whether all of it should be held: it was added here or is pinned, and was whole once. What was pinned when only
    /// a part was held is kept as far as that goes.
    pub(super) fn is_to_be_whole(&self) -> bool {
        let is_added = self.state().origin != Origin::Fetched;
        self.is_kept() && (is_added || !self.holds_any() || was_whole(&self.shared.layout.content(&self.hash())))
    }

    /// Whether it was added here or is pinned.
    fn is_kept(&self) -> bool {
        let state = self.state();
        state.pinned || state.origin != Origin::Fetched
    }
}

impl Shared {
    /// Removes all that is held of `blob`: first from the index and memory, then from disk. The handle
    /// stays good for new writes.
    pub fn forget(&self, blob: &Blob) -> Result<(), StoreError> {
        let _structure = self.structure.write();
        self.forget_locked(blob)
    }

    /// The same, for a caller that holds `structure`.
    pub fn forget_locked(&self, blob: &Blob) -> Result<(), StoreError> {
        self.write_index(|batch| batch.take(&blob.hash()))?;
        self.pending.lock().touches.remove(&blob.hash());
        if let Some(bytes) = blob.clear() {
            self.space.release(bytes);
            self.space.remove_blob();
        }
        self.layout.unlink(&blob.hash())
    }

    /// Takes note that nothing is held any more of `blob`, which stays known and was served from the file `in_place`,
    /// if from one of the user's. The caller holds `structure`.
    fn lose_content(&self, blob: &Blob, in_place: Option<InPlace>) -> Result<(), StoreError> {
        if !blob.holds_any() {
            return Ok(());
        }
        let (record, freed) = blob.lose_groups();
        self.space.release(freed);
        let hash = blob.hash();
        if record.origin == Origin::Reference {
            let why = in_place.and_then(|place| place.complaint());
            tracing::warn!(%hash, "{}; it is served no more", why.as_deref().unwrap_or("the link to its file is gone"));
        } else {
            tracing::warn!(%hash, "its files on disk are missing or cut short; it is dropped and will be fetched again");
        }
        self.write_index(|batch| batch.put(&hash, &record)).map(drop)
    }
}
