//! Writing verified groups.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::StoreError;
use super::blob::{Blob, State};
use super::error::io_error;
use super::files::{Files, LOST_BIT, free_groups, marks};
use super::record::{Origin, content_charge};
use crate::verify::{GROUP_LEN, PARENT_LEN, Proof, bytes_of, group_count, groups_from};

/// What became of the wish to write to files.
enum Prepared {
    /// They are made, and charged for.
    Made,
    /// There are some, to be opened unless they are open.
    Opened,
    /// They are those of a blob that was complete.
    Sealed(Arc<Files>),
}

impl Blob {
    /// Writes `bytes`, whole groups from `first` on that `proof` has been found to cover, and the
    /// proof. When it returns, the groups are held; they are durable after the next flush. Groups
    /// already held are left alone. [`StoreError::Full`] if there is no room for them.
    pub fn write(self: &Arc<Self>, first: u64, bytes: &[u8], proof: &Proof) -> Result<(), StoreError> {
        self.try_to_write(first, bytes, proof).inspect_err(|_| self.shared.metrics.store_write_errors.inc())
    }

    fn try_to_write(self: &Arc<Self>, first: u64, bytes: &[u8], proof: &Proof) -> Result<(), StoreError> {
        let groups = self.whole_groups(first, bytes.len(), proof)?;
        if self.has(groups.clone()) {
            return Ok(());
        }
        self.shared.limit_unflushed()?;
        let reserved = content_charge(self.size(), [&groups]);
        self.shared.reserve(reserved)?;
        let files = match self.begin_write() {
            Ok(files) => files,
            Err(error) => {
                self.shared.space.release(reserved);
                if let StoreError::Missing { .. } = error {
                    self.drop_missing()?;
                }
                return Err(error);
            }
        };
        self.write_to(&files, first, bytes, proof, reserved)
    }

    /// The same to `files`, which have one writer more for this, with `reserved` bytes charged.
    pub(super) fn write_to(
        self: &Arc<Self>,
        files: &Arc<Files>,
        first: u64,
        bytes: &[u8],
        proof: &Proof,
        reserved: u64,
    ) -> Result<(), StoreError> {
        let groups = groups_from(first, bytes.len());
        let written = self.write_files(files, first, bytes, proof);
        let has_written = matches!(written, Ok(true));
        if !has_written {
            self.shared.space.release(reserved);
        }
        self.end_write(files, groups, has_written.then_some((reserved, proof)));
        if written.is_err() {
            self.drop_unused(files)?;
        }
        written.map(|_| ())
    }

    /// The groups that `len` bytes from `first` on are.
    fn whole_groups(&self, first: u64, len: usize, proof: &Proof) -> Result<Range<u64>, StoreError> {
        let groups = groups_from(first, len);
        let whole = groups.end <= group_count(self.size()) && bytes_of(self.size(), &groups).len() == len as u64;
        let covered = proof.size() == self.size()
            && proof.ranges().iter().any(|range| range.start <= groups.start && groups.end <= range.end);
        if whole && covered { Ok(groups) } else { Err(StoreError::NotGroups { hash: self.hash(), first, len }) }
    }

    /// The files, open for writing and with one writer more; made if there are none.
    pub(super) fn begin_write(&self) -> Result<Arc<Files>, StoreError> {
        let outboard = self.outboard_charge();
        loop {
            if let Some(files) = self.join_writers() {
                return Ok(files);
            }
            if self.holds_any() {
                self.open_files()?;
            }
            self.shared.reserve(outboard)?;
            let prepared = self.prepare_files();
            // Charged only if the files are new.
            if !matches!(prepared, Ok(Prepared::Made)) {
                self.shared.space.release(outboard);
            }
            if let Prepared::Sealed(files) = prepared? {
                self.mend_content(&files)?;
            }
        }
    }

    /// The files, if they are open for writing, with one writer more.
    fn join_writers(&self) -> Option<Arc<Files>> {
        let mut state = self.state();
        let files = state.files.clone().filter(|files| state.complete || !files.sealed.load(Ordering::Acquire))?;
        let writers = files.writers.fetch_add(1, Ordering::Relaxed);
        let is_as_left = || files.stamp().is_ok_and(|stamp| state.written == Some(stamp));
        if writers == 0 && !state.fresh.is_empty() && !is_as_left() {
            state.fresh.clear();
        }
        Some(files)
    }

    /// Makes the files if nothing is held.
    fn prepare_files(&self) -> Result<Prepared, StoreError> {
        {
            // Of what is new nothing goes, so others may come at the same time, and a flush may tell the index of others.
            let _structure = self.shared.structure.read();
            let mut state = self.state();
            if state.charged.is_none() && state.files.is_none() && state.origin != Origin::Reference {
                return self.make_files(&mut state);
            }
        }
        let _structure = self.shared.structure.write();
        if self.is_in_place() && !self.is_complete() {
            // Nothing is written to a file of the user's; what is fetched is ours.
            self.shared.forget_locked(self)?;
        }
        let mut state = self.state();
        let is_sealed = |files: &Arc<Files>| files.sealed.load(Ordering::Acquire);
        if state.held_groups == 0 && state.files.as_ref().is_none_or(is_sealed) {
            return self.make_files(&mut state);
        }
        let to_mend = state.files.clone().filter(|files| is_sealed(files) && !state.complete);
        Ok(to_mend.map_or(Prepared::Opened, Prepared::Sealed))
    }

    /// Makes the files of a blob of which nothing is held. The caller holds `structure`.
    fn make_files(&self, state: &mut State) -> Result<Prepared, StoreError> {
        self.shared.unless_closed()?;
        let is_new = state.charged.is_none();
        let lost = if is_new { 0 } else { LOST_BIT };
        let marks = marks(state.origin == Origin::Local, state.pinned) | lost;
        state.files = Some(Arc::new(Files::create(&self.shared.layout, &self.hash(), self.size(), marks)?));
        if !is_new {
            return Ok(Prepared::Opened);
        }
        state.charged = Some(self.outboard_charge());
        self.shared.space.add_blob();
        Ok(Prepared::Made)
    }

    /// Puts a copy of what is held in the place of the content file, which was complete and must not be written to.
    /// That may take long, so nobody else is kept waiting meanwhile but others who mend.
    fn mend_content(&self, files: &Arc<Files>) -> Result<(), StoreError> {
        let _mending = self.shared.mending.lock();
        let is_wanted = |state: &State| {
            let is_current = state.files.as_ref().is_some_and(|now| Arc::ptr_eq(now, files));
            is_current && files.sealed.load(Ordering::Acquire) && !state.complete
        };
        let held = {
            let state = self.state();
            if !is_wanted(&state) {
                return Ok(());
            }
            state.held.clone()
        };
        // Until the copy has taken the place of the damaged file, there are two.
        let reserved = content_charge(self.size(), held.iter());
        self.shared.reserve(reserved)?;
        let (layout, hash) = (&self.shared.layout, self.hash());
        let mended = files.copy(layout, &hash, self.size(), &held).and_then(|copy| {
            let _structure = self.shared.structure.write();
            let mut state = self.state();
            // Less may be held by now: to what is sealed nothing is added.
            if !is_wanted(&state) {
                return copy.remove();
            }
            debug_assert!(state.fresh.is_empty(), "what is sealed was complete, and nothing was written to it since");
            state.files = Some(Arc::new(copy.put_in_place(files, layout, &hash, self.size())?));
            Ok(())
        });
        self.shared.space.release(reserved);
        mended
    }

    /// Bytes, then proof. False if others have completed the blob meanwhile: to a complete file nothing is
    /// written, so should it turn out damaged now, the groups are not held by this.
    fn write_files(&self, files: &Files, first: u64, bytes: &[u8], proof: &Proof) -> Result<bool, StoreError> {
        if files.sealed.load(Ordering::Acquire) {
            return Ok(false);
        }
        files.content.write_all_at(bytes, first * GROUP_LEN).map_err(io_error("write", &files.content_path))?;
        let Some(outboard) = &files.outboard else { return Ok(true) };
        let known = |nodes: &Range<u64>| self.state().nodes.gaps(nodes).next().is_none();
        for (offset, run) in proof.runs() {
            if !known(&nodes_of(offset, run)) {
                outboard.write_all_at(run, offset).map_err(io_error("write", &files.outboard_path))?;
            }
        }
        Ok(true)
    }

    /// Counts the groups as held, if they were `written` (with so many bytes reserved) to files that
    /// are still those of the blob, and completes the blob once all are held and no write is under way.
    fn end_write(self: &Arc<Self>, files: &Arc<Files>, groups: Range<u64>, written: Option<(u64, &Proof)>) {
        let mut state = self.state();
        let writers = files.writers.fetch_sub(1, Ordering::Relaxed) - 1;
        let current = state.files.as_ref().is_some_and(|now| Arc::ptr_eq(now, files));
        if let Some((reserved, proof)) = written {
            let gaps: Vec<_> = if current { state.held.gaps(&groups).collect() } else { Vec::new() };
            let added = content_charge(self.size(), &gaps);
            self.shared.space.release(reserved - added);
            if current {
                state.charged = state.charged.map(|charged| charged + added);
                state.held_groups += gaps.iter().map(|gap| gap.end - gap.start).sum::<u64>();
                for gap in gaps {
                    state.fresh.insert(gap);
                }
                state.held.insert(groups.clone());
                for (offset, run) in proof.runs() {
                    state.nodes.insert(nodes_of(offset, run));
                }
            }
        }
        if current && written.is_none() {
            state.torn.insert(groups.clone());
        }
        if current && writers == 0 && !state.complete && !state.torn.is_empty() {
            // Nobody writes now, nor begins to while the state is locked.
            let torn = std::mem::take(&mut state.torn);
            let left: Vec<_> = torn.iter().flat_map(|range| state.held.gaps(range).collect::<Vec<_>>()).collect();
            free_groups(&files.content, self.size(), left.iter());
        }
        if current && !state.complete && writers == 0 && state.held_groups == group_count(self.size()) {
            // If the mode cannot be set, the file is still never written to while it is open here.
            if let Err(error) = files.seal(state.origin == Origin::Local) {
                tracing::warn!(%error, "a complete blob could not be made read-only");
            }
            state.complete = true;
            state.removed = None;
            state.nodes.clear();
            // Who alters the file from now on alters the stamp.
            let fresh = std::mem::take(&mut state.fresh);
            state.checked = files.stamp().ok().filter(|_| !self.shared.checks_every_read()).map(|stamp| (stamp, fresh));
        }
        if current {
            let is_left = writers == 0 && !state.complete;
            state.written = if is_left { files.stamp().ok() } else { None };
        }
        if current && written.is_some() {
            self.shared.note_write();
            self.queue(&mut state);
        }
    }
}

/// The pre-order indices of the nodes in `run`, which lies at byte `offset` of the outboard.
fn nodes_of(offset: u64, run: &[u8]) -> Range<u64> {
    let first = offset / PARENT_LEN as u64;
    first..first + (run.len() / PARENT_LEN) as u64
}
