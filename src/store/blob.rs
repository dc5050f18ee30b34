//! The handle of a blob: what is held of it, and its files.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use rangemap::RangeSet;

use super::StoreError;
use super::error::io_error;
use super::files::{Files, Stamp};
use super::record::{BlobInfo, Origin, Record, content_bytes, outboard_charge};
use super::shared::{Shared, Snapshot, wall_clock_ms};
use crate::ids::ContentHash;
use crate::verify::group_count;

/// Reads note a use at most this often (in milliseconds): a use is a write to the index.
const TOUCH_INTERVAL_MS: u64 = 60_000;

/// The stamp that a complete content file had, and the groups that were found right while it had
/// it. Says nothing of a file with another stamp.
pub(super) type Checked = (Stamp, RangeSet<u64>);

/// What was found right stays so where this store has changed the mode of the file, and with it its stamp.
pub(super) fn renew_stamp(checked: Option<&mut Checked>, before: Stamp, after: Stamp) {
    if let Some((stamp, _)) = checked.filter(|(stamp, _)| *stamp == before) {
        *stamp = after;
    }
}

/// The content file of a blob that is whole, for whoever reads it without us.
#[derive(Debug, Clone)]
pub struct WholeFile {
    /// Open for reading; nobody may write to it.
    pub file: Arc<File>,
    /// Its device and inode number: a blob that was mended has another.
    pub identity: (u64, u64),
}

/// A blob of which something is held, or is about to be. All handles to a blob are this one.
#[derive(Debug)]
pub struct Blob {
    hash: ContentHash,
    size: u64,
    pub(super) shared: Arc<Shared>,
    state: Mutex<State>,
    last_use: AtomicU64,
}

/// What was held of a blob that was removed while it was open. The files have no names any more, take room on the disk
/// that nothing is charged for, and go with the handle of the blob.
#[derive(Debug)]
pub(super) struct Removed {
    pub files: Arc<Files>,
    pub held: RangeSet<u64>,
}

/// What changes about a blob.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The verified groups that are on disk.
    pub held: RangeSet<u64>,
    /// How many those are.
    pub held_groups: u64,
    /// All are held, and the content file is closed for writing.
    pub complete: bool,
    /// Nodes of the outboard, by pre-order index, that are known to be written.
    pub nodes: RangeSet<u64>,
    /// What of the complete content file was found right.
    pub checked: Option<Checked>,
    /// The groups of an incomplete blob that were written to these files by this handle, and so verified.
    pub fresh: RangeSet<u64>,
    /// The stamp that the last write has left an incomplete content file with, while nobody writes: if it has another
    /// when the next one begins, others have altered it, and nothing of it is fresh any more. What they alter while this
    /// store writes is not told from that, nor is what they alter at once, where the times of files advance only with the
    /// kernel's tick (before Linux 6.13).
    pub written: Option<Stamp>,
    /// Groups of an incomplete blob that a write has failed at, and may have left something of.
    pub torn: RangeSet<u64>,
    pub origin: Origin,
    pub pinned: bool,
    /// Bytes charged for; none while nothing is on disk.
    pub charged: Option<u64>,
    /// It is on the list of the next flush.
    pub queued: bool,
    pub files: Option<Arc<Files>>,
    /// What was held when the blob was removed, for those who had it open then; until all of it is held anew.
    pub removed: Option<Arc<Removed>>,
    /// How often files were taken away or replaced while they were not open here. Who opens them without the lock
    /// tells by it whether they are still those of the blob.
    pub replaced: u64,
}

impl State {
    /// What was found right or written stays so where this store has changed the mode of the file.
    pub fn renew_stamp(&mut self, before: Stamp, after: Stamp) {
        renew_stamp(self.checked.as_mut(), before, after);
        self.written = self.written.map(|written| if written == before { after } else { written });
    }

    /// The state in which nothing is held any more, with what outlives that.
    fn emptied(&mut self) -> Self {
        Self { queued: self.queued, replaced: self.replaced + 1, removed: self.removed.take(), ..Self::default() }
    }
}

impl Blob {
    /// A blob of which nothing is held yet.
    pub(super) fn empty(hash: ContentHash, size: u64, shared: Arc<Shared>) -> Self {
        let last_use = shared.time_of_use().into();
        Self { hash, size, shared, state: Mutex::default(), last_use }
    }

    /// A blob that the index knows.
    pub(super) fn held(hash: ContentHash, record: &Record, shared: Arc<Shared>) -> Self {
        let blob = Self::empty(hash, record.size, shared);
        {
            let mut state = blob.state.lock();
            state.held = record.held();
            state.held_groups = state.held.iter().map(|range| range.end - range.start).sum();
            state.complete = record.is_complete();
            state.charged = Some(record.charge());
            (state.origin, state.pinned) = (record.origin, record.pinned);
            state.checked = blob.shared.checked.lock().pop(&hash);
        }
        blob.last_use.store(record.last_use, Ordering::Relaxed);
        blob
    }

    /// Its name.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Its proven size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether all of it is held.
    pub fn is_complete(&self) -> bool {
        self.state.lock().complete
    }

    /// Whether any group is held.
    pub(super) fn holds_any(&self) -> bool {
        self.state.lock().held_groups > 0
    }

    /// Whether all of `groups` are held.
    pub fn has(&self, groups: Range<u64>) -> bool {
        groups.is_empty() || self.state.lock().held.gaps(&groups).next().is_none()
    }

    /// The groups of `groups` that are not held: in order, disjoint.
    pub fn missing(&self, groups: Range<u64>) -> Vec<Range<u64>> {
        let groups = groups.start..groups.end.min(group_count(self.size));
        if groups.is_empty() { Vec::new() } else { self.state.lock().held.gaps(&groups).collect() }
    }

    /// The groups that are held now.
    pub fn verified(&self) -> RangeSet<u64> {
        self.state.lock().held.clone()
    }

    /// The first `most` ranges of groups that are held now.
    pub fn first_verified(&self, most: usize) -> Vec<Range<u64>> {
        self.state.lock().held.iter().take(most).cloned().collect()
    }

    /// What is known of it.
    pub fn info(&self) -> BlobInfo {
        let state = self.state.lock();
        BlobInfo {
            size: self.size,
            complete: state.complete,
            held_bytes: content_bytes(self.size, state.held.iter()),
            origin: state.origin,
            pinned: state.pinned,
        }
    }

    /// The content file of a complete blob, opened anew for reading only. What it holds was
    /// verified when it was written; [`Self::check`] tells whether it still is right. A file of the user's,
    /// which may change at any moment, is not given out.
    pub fn content_file(&self) -> Result<File, StoreError> {
        if !self.is_complete() || self.is_in_place() {
            return Err(self.not_held(0..group_count(self.size)));
        }
        self.files()?;
        let path = self.shared.layout.content(&self.hash);
        File::open(&path).map_err(io_error("open", &path))
    }

    /// Whether it is served from a file of the user's.
    pub fn is_in_place(&self) -> bool {
        self.state.lock().origin == Origin::Reference
    }

    /// When it was last used, in milliseconds since 1970.
    pub(super) fn last_use(&self) -> u64 {
        self.last_use.load(Ordering::Relaxed)
    }

    /// Notes that it is used, unless that was noted a short time ago.
    pub(super) fn touch_sometimes(&self) {
        let now = wall_clock_ms();
        if now.saturating_sub(self.last_use.load(Ordering::Relaxed)) >= TOUCH_INTERVAL_MS {
            self.touch();
        }
    }

    /// Notes that it is used.
    pub(super) fn touch(&self) {
        let now = self.shared.time_of_use();
        self.last_use.store(now, Ordering::Relaxed);
        let mut pending = self.shared.pending.lock();
        if !pending.closing {
            pending.touches.insert(self.hash, now);
        }
    }

    /// Its files, opened if they are not yet. If one is missing, the blob is dropped; but an outboard is made
    /// anew from the content, if all of that is there.
    pub(super) fn files(&self) -> Result<Arc<Files>, StoreError> {
        let mut opened = self.open_files();
        if let Err(StoreError::Missing { .. }) = opened
            && self.restore_outboard()?
        {
            opened = self.open_files();
        }
        if let Err(StoreError::Missing { .. }) = opened {
            self.drop_missing()?;
            opened = self.open_files();
        }
        opened
    }

    /// Whether a write to its files is under way.
    pub(super) fn is_being_written(&self) -> bool {
        self.opened_files().is_some_and(|files| files.writers.load(Ordering::Relaxed) > 0)
    }

    /// Its files, if they are open.
    pub(super) fn opened_files(&self) -> Option<Arc<Files>> {
        self.state.lock().files.clone()
    }

    /// Its files, opened if they are not yet. To be called without a lock that others may need: the file system of a
    /// user's file may hang.
    pub(super) fn open_files(&self) -> Result<Arc<Files>, StoreError> {
        loop {
            let (replaced, opened) = self.look_for_files();
            let mut state = self.state.lock();
            if let Some(files) = &state.files {
                return Ok(files.clone());
            }
            if state.replaced == replaced {
                return opened.inspect(|files| state.files = Some(files.clone()));
            }
        }
    }

    /// Lets go of files that others have removed from the store or replaced there, so that they are looked for anew.
    /// Whoever reads them just now goes on. To be called without a lock, as [`Self::open_files`].
    pub(super) fn let_go_of_unlinked(&self) {
        let Some(files) = self.opened_files() else { return };
        if files.are_in_their_places() {
            return;
        }
        // This store itself puts files in place under the lock, and takes note of them.
        let _structure = self.shared.structure.write();
        let mut state = self.state.lock();
        if state.files.as_ref().is_some_and(|now| Arc::ptr_eq(now, &files)) {
            state.files = None;
            state.replaced += 1;
        }
    }

    /// The files, which may have been opened just for this, and how often they had been replaced before.
    pub(super) fn look_for_files(&self) -> (u64, Result<Arc<Files>, StoreError>) {
        let (replaced, in_place) = {
            let state = self.state.lock();
            if let Some(files) = &state.files {
                return (state.replaced, Ok(files.clone()));
            }
            (state.replaced, state.origin == Origin::Reference)
        };
        (replaced, Files::open(&self.shared.layout, &self.hash, self.size, in_place).map(Arc::new))
    }

    /// Takes note that nothing is held any more, and returns what was charged for.
    pub(super) fn clear(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let empty = state.emptied();
        std::mem::replace(&mut *state, empty).charged
    }

    /// Takes note that it is removed, and returns what was charged for. Those who have it open can go on reading what
    /// of it is in `files`.
    pub(super) fn remove(&self, files: Option<Arc<Files>>) -> Option<u64> {
        let mut state = self.state.lock();
        let empty = state.emptied();
        let before = std::mem::replace(&mut *state, empty);
        if let Some(files) = files.filter(|_| before.held_groups > 0) {
            state.removed = Some(Arc::new(Removed { files, held: before.held }));
        }
        before.charged
    }

    /// Takes note that nothing is held any more of a blob that stays known. Returns what the index is to say, and
    /// the bytes that it is charged for no more.
    pub(super) fn lose_groups(&self) -> (Record, u64) {
        let mut state = self.state.lock();
        let (origin, pinned, before) = (state.origin, state.pinned, state.charged);
        let record = Record::new(self.size, &RangeSet::new(), origin, pinned, self.last_use());
        let charged = before.map(|_| record.charge());
        *state = State { origin, pinned, charged, ..state.emptied() };
        let freed = before.unwrap_or(0).saturating_sub(record.charge());
        (record, freed)
    }

    /// Takes note that complete files have been put in place, which are charged for, as `record` says,
    /// and returns what was charged for before.
    pub(super) fn replace_by_added(&self, record: &Record) -> Option<u64> {
        let before = self.clear();
        let mut state = self.state.lock();
        let all = 0..group_count(self.size);
        state.held_groups = all.end;
        state.held.insert(all);
        state.complete = true;
        state.removed = None;
        state.charged = Some(record.charge());
        (state.origin, state.pinned) = (record.origin, record.pinned);
        before
    }

    /// Marks it as added here and puts it on the list of the next flush.
    pub(super) fn make_local(self: &Arc<Self>) {
        let mut state = self.state.lock();
        (state.origin, state.pinned) = (Origin::Local, true);
        self.queue(&mut state);
    }

    /// Puts it on the list of the next flush.
    pub(super) fn queue(self: &Arc<Self>, state: &mut State) {
        if !std::mem::replace(&mut state.queued, true) {
            self.shared.queue(self.clone());
        }
    }

    /// What the index is to say once the files are durable; `None` if nothing is held.
    pub(super) fn snapshot(self: Arc<Self>) -> Option<Snapshot> {
        let mut state = self.state.lock();
        state.queued = false;
        let files = state.files.clone()?;
        let last_use = self.last_use.load(Ordering::Relaxed);
        let record = Record::new(self.size, &state.held, state.origin, state.pinned, last_use);
        drop(state);
        Some(Snapshot { blob: self, files, record })
    }

    /// Whether what is held is still in `files`.
    pub(super) fn is_backed_by(&self, files: &Arc<Files>) -> bool {
        self.state.lock().files.as_ref().is_some_and(|current| Arc::ptr_eq(current, files))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Bytes that the blob is charged for apart from its content.
    pub(super) fn outboard_charge(&self) -> u64 {
        outboard_charge(self.size)
    }

    pub(super) fn not_held(&self, groups: Range<u64>) -> StoreError {
        StoreError::NotHeld { hash: self.hash, groups }
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        if let Some(checked) = self.state.get_mut().checked.take() {
            self.shared.checked.lock().put(self.hash, checked);
        }
        self.shared.closed(&self.hash);
    }
}
