//! Reading: no byte leaves that is not known to be right.
//!
//! Each read checks the groups it touches against the outboard, and that up to the hash. For a
//! complete blob the groups found right are remembered together with the stamp of the content
//! file; as long as the file bears it, they are read without hashing.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rangemap::RangeSet;

use super::StoreError;
use super::blob::{Blob, WholeFile};
use super::error::io_error;
use super::files::{Files, Stamp};
use super::in_place::note_time_if_possible;
use super::record::Origin;
use crate::ids::{BlobRange, ContentHash};
use crate::verify::{
    GROUP_LEN, Proof, VerifyError, build_outboard, bytes_of, group_count, group_len, groups_of, outboard_len,
    proof_len, proof_runs,
};

/// Groups that are read and checked at a time, where much is checked (1 MiB).
pub(super) const CHECK_GROUPS: u64 = 64;

/// Groups of a blob up to which it is read and hashed where blocking is not allowed (64 KiB): that takes less than
/// another thread to do it.
const MAX_AT_ONCE_GROUPS: u64 = 4;

/// Fills `buf` from what the kernel has of the file in memory; false if that is not all.
fn read_cached(file: &File, start: u64, buf: &mut [u8]) -> bool {
    let Ok(offset) = i64::try_from(start) else { return false };
    let part = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: the one part lies within `buf`, which is borrowed mutably for the call, and the
    // descriptor is open while `file` is borrowed.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), &raw const part, 1, offset, libc::RWF_NOWAIT) };
    usize::try_from(read).is_ok_and(|read| read == buf.len())
}

/// Opens the file at `path` for reading, if all that takes is in the kernel's memory; `None` otherwise.
fn open_cached(path: &Path) -> Option<File> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: zeroes are good values for all of its fields.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW).cast_unsigned().into();
    how.resolve = libc::RESOLVE_CACHED;
    // SAFETY: the path ends with a zero and the structure is as long as is said; both outlive the call.
    let opened =
        unsafe { libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, path.as_ptr(), &raw const how, size_of_val(&how)) };
    let descriptor = i32::try_from(opened).ok().filter(|descriptor| *descriptor >= 0)?;
    // SAFETY: it is new, open and nobody else's.
    Some(unsafe { File::from_raw_fd(descriptor) })
}

impl Blob {
    /// Reads the bytes of `range` (clipped to the size), all of them verified. The memory it takes
    /// is that of the groups touched.
    ///
    /// # Errors
    /// [`StoreError::NotHeld`] if some are not held; [`StoreError::Corrupt`] or
    /// [`StoreError::Missing`] if they were but turned out wrong: they are then no longer held,
    /// and the caller fetches them again.
    pub fn read(self: &Arc<Self>, range: BlobRange) -> Result<Bytes, StoreError> {
        let range = range.clip(self.size());
        let groups = groups_of(self.size(), range);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let whole = bytes_of(self.size(), &groups);
        self.with_files(std::slice::from_ref(&groups), |files| {
            self.touch_sometimes();
            let mut bytes = vec![0; range.len() as usize];
            if self.read_checked(files, &groups, range.start, &mut bytes)? {
                return Ok(bytes.into());
            }
            bytes.resize(whole.len() as usize, 0);
            self.read_and_check(files, &groups, &mut bytes)?;
            let skip = (range.start - whole.start) as usize;
            Ok(Bytes::from(bytes).slice(skip..skip + range.len() as usize))
        })
    }

    /// The parts of `groups` that were held when the blob was removed: in order, disjoint. Empty unless it was removed
    /// while this handle was open.
    pub fn removed_parts(&self, groups: Range<u64>) -> Vec<Range<u64>> {
        let Some(removed) = self.state().removed.clone() else { return Vec::new() };
        let overlapping = removed.held.overlapping(&groups);
        overlapping.map(|part| part.start.max(groups.start)..part.end.min(groups.end)).collect()
    }

    /// Reads `groups`, verified, which were held when the blob was removed; `None` if they were not, or cannot be read.
    pub fn read_removed(&self, groups: &Range<u64>) -> Option<Bytes> {
        let removed = self.state().removed.clone()?;
        let mut bytes = vec![0; bytes_of(self.size(), groups).len() as usize];
        removed.files.content.read_exact_at(&mut bytes, groups.start * GROUP_LEN).ok()?;
        let is_right = check_groups(&removed.files, &self.hash(), self.size(), groups, &bytes).ok()?;
        is_right.then(|| Bytes::from(bytes))
    }

    /// Fills `buf` with the whole groups from byte `start` on, all of them verified.
    ///
    /// # Errors
    /// As for [`Blob::read`].
    ///
    /// # Panics
    /// If `buf` does not hold whole groups of the blob.
    pub fn read_into(self: &Arc<Self>, start: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        let range = BlobRange::new(start, start + buf.len() as u64);
        let groups = groups_of(self.size(), range);
        if range.is_empty() {
            return Ok(());
        }
        assert_eq!(bytes_of(self.size(), &groups), range, "whole groups");
        self.with_files(std::slice::from_ref(&groups), |files| {
            self.touch_sometimes();
            if !self.read_checked(files, &groups, start, buf)? {
                self.read_and_check(files, &groups, buf)?;
            }
            Ok(())
        })
    }

    /// What `read` makes of the files, if `ranges` are held. Once more if it found damage in files that a
    /// write had meanwhile replaced: that says nothing of what is held now.
    pub(super) fn with_files<T>(
        self: &Arc<Self>,
        ranges: &[Range<u64>],
        mut read: impl FnMut(&Arc<Files>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let absent = || ranges.iter().find(|range| !self.has((*range).clone()));
        loop {
            if let Some(absent) = absent() {
                return Err(self.not_held(absent.clone()));
            }
            let files = self.files()?;
            match read(&files) {
                Err(StoreError::Corrupt { .. }) if !self.is_backed_by(&files) && absent().is_none() => {}
                result => return result,
            }
        }
    }

    /// Fills `buf` from byte `start` on, which lies within `groups`, if they were found right before
    /// and the content file has not been touched since. False otherwise.
    fn read_checked(&self, files: &Files, groups: &Range<u64>, start: u64, buf: &mut [u8]) -> Result<bool, StoreError> {
        let Some(stamp) = self.stamp_of_checked(groups) else { return Ok(false) };
        // The stamp is taken after the bytes: if it is the old one, nothing had changed before.
        Ok(files.content.read_exact_at(buf, start).is_ok() && files.stamp()? == stamp)
    }

    /// Fills `buf` from byte `start` on if that takes neither the disk nor hashing: the groups were
    /// found right before and the kernel has them in memory. False otherwise; [`Blob::read`] then
    /// does what it takes. May be called where blocking is not allowed.
    pub fn read_at_once(self: &Arc<Self>, start: u64, buf: &mut [u8]) -> bool {
        let groups = groups_of(self.size(), BlobRange::new(start, start.saturating_add(buf.len() as u64)));
        let Some(stamp) = self.stamp_of_checked(&groups) else { return false };
        let Some(files) = self.opened_files() else { return false };
        self.touch_sometimes();
        read_cached(&files.content, start, buf) && files.stamp().is_ok_and(|now| now == stamp)
    }

    /// Fills `buf` with the proof of all groups of a complete blob of a few, and then with these, verified, if that does
    /// not take the disk. False otherwise; [`Blob::read_proof`] and [`Blob::read_into`] then do what it takes. May be
    /// called where blocking is not allowed.
    pub fn read_small_at_once(self: &Arc<Self>, buf: &mut [u8]) -> bool {
        let (complete, in_place, files) = {
            let state = self.state();
            (state.complete, state.origin == Origin::Reference, state.files.clone())
        };
        let proof_len = outboard_len(self.size());
        let is_small = self.size() > 0 && group_count(self.size()) <= MAX_AT_ONCE_GROUPS;
        if !complete || in_place || !is_small || buf.len() as u64 != proof_len + self.size() {
            return false;
        }
        let (proof, content) = buf.split_at_mut(proof_len as usize);
        self.touch_sometimes();
        let is_read = match files {
            Some(files) => read_cached(&files.content, 0, content),
            None => {
                let file = open_cached(&self.shared.layout.content(&self.hash()));
                file.is_some_and(|file| read_cached(&file, 0, content))
            }
        };
        // As cheap as to ask whether the file is still what was found right before, and to open and read the outboard.
        is_read && {
            let (hash, outboard) = build_outboard(content);
            proof.copy_from_slice(&outboard);
            hash == self.hash()
        }
    }

    /// Checks `groups`, which must be held, against the hash, as reading them would; groups found
    /// right before are skipped while the content file has not been touched. For scrubbing, and
    /// before somebody is given the file itself.
    pub fn check(self: &Arc<Self>, groups: Range<u64>) -> Result<(), StoreError> {
        let mut at = groups.start;
        self.with_files(std::slice::from_ref(&groups), |files| {
            while at < groups.end {
                let part = at..groups.end.min(at + CHECK_GROUPS);
                let known = self.stamp_of_checked(&part);
                if known.is_none() || known != Some(files.stamp()?) {
                    let mut bytes = vec![0; bytes_of(self.size(), &part).len() as usize];
                    self.read_and_check(files, &part, &mut bytes)?;
                }
                at = part.end;
            }
            Ok(())
        })
    }

    /// Whether all of it is held and was found right, or verified as it was written, and its content
    /// file has not been touched since. May be called where blocking is not allowed.
    pub fn is_whole(&self) -> bool {
        self.whole_file().is_some()
    }

    /// The content file of a blob that [is whole](Self::is_whole), for whoever reads it without us and
    /// does not write to it.
    /// `None` if it is not; then [`Blob::check`] finds out what it is. May be called where blocking is not allowed.
    pub fn whole_file(&self) -> Option<WholeFile> {
        let stamp = self.stamp_of_checked(&(0..group_count(self.size())))?;
        // What is missing is not looked after here.
        let files = self.open_files().ok()?;
        let whole = WholeFile { file: Arc::clone(&files.content), identity: stamp.identity() };
        (files.stamp().ok()? == stamp).then_some(whole)
    }

    /// The proof of `ranges` (groups: in order, disjoint, not empty) from the outboard, checked up
    /// to the hash. All of them must be held.
    pub fn read_proof(self: &Arc<Self>, ranges: &[Range<u64>]) -> Result<Vec<u8>, StoreError> {
        self.with_files(ranges, |files| {
            self.proof(files, ranges)?.map(Proof::into_bytes).map_err(|_| {
                let all = ranges.first().map_or(0, |range| range.start)..ranges.last().map_or(0, |range| range.end);
                self.drop_groups(files, ranges, all)
            })
        })
    }

    /// Fills `buf` with the groups, checked; the wrong ones are dropped if `files` are still those of the blob.
    pub(super) fn read_and_check(
        self: &Arc<Self>,
        files: &Arc<Files>,
        groups: &Range<u64>,
        buf: &mut [u8],
    ) -> Result<(), StoreError> {
        let wanted = std::slice::from_ref(groups);
        self.shared.metrics.store_checked_groups.add(groups.end - groups.start);
        let before = files.stamp()?;
        match files.content.read_exact_at(buf, groups.start * GROUP_LEN) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && self.is_backed_by(files) => {
                self.drop_all(files)?;
                return Err(StoreError::Missing { hash: self.hash(), path: files.content_path.clone() });
            }
            Err(error) if is_damage(&error) => {
                return Err(self.drop_groups(files, wanted, groups.clone()));
            }
            Err(error) => return Err(io_error("read", &files.content_path)(error)),
        }
        let Ok(proof) = self.proof(files, wanted)? else {
            return Err(self.drop_groups(files, wanted, groups.clone()));
        };
        if proof.check_groups(groups.start, buf).is_err() {
            let wrong = wrong_groups(&proof, groups, buf);
            return Err(self.drop_groups(files, &wrong, groups.clone()));
        }
        self.remember_checked(before, files.stamp()?, groups);
        Ok(())
    }

    /// The stamp with which all of `groups` were found right, if the blob is complete and ours: a program that has a
    /// file of the user's mapped may change it without a trace.
    fn stamp_of_checked(&self, groups: &Range<u64>) -> Option<Stamp> {
        let state = self.state();
        let (stamp, checked) =
            state.checked.as_ref().filter(|_| state.complete && state.origin != Origin::Reference)?;
        checked.gaps(groups).next().is_none().then_some(*stamp)
    }

    /// Takes note of the time of a file of the user's, if all of it was found right since it was written last.
    pub(super) fn note_time_if_right(&self) {
        let (stamp, files) = {
            let state = self.state();
            let is_right = |checked: &RangeSet<u64>| checked.gaps(&(0..group_count(self.size()))).next().is_none();
            let Some((stamp, checked)) = &state.checked else { return };
            let Some(files) = state.files.clone() else { return };
            if state.origin != Origin::Reference || !state.complete || !is_right(checked) {
                return;
            }
            (*stamp, files)
        };
        if files.stamp().is_ok_and(|now| now == stamp) {
            note_time_if_possible(&files.content_path, stamp.modified_ns());
        }
    }

    fn remember_checked(&self, before: Stamp, after: Stamp, groups: &Range<u64>) {
        let mut state = self.state();
        let lasting = state.origin == Origin::Reference || !self.shared.checks_every_read();
        if !state.complete || !lasting || before != after || !after.is_settled() {
            return;
        }
        match &mut state.checked {
            Some((stamp, checked)) if *stamp == after => checked.insert(groups.clone()),
            checked => *checked = Some((after, RangeSet::from_iter([groups.clone()]))),
        }
    }
}

/// The proof of `ranges` of the blob `hash` as it stands in the outboard; the inner error if it is wrong.
pub(super) fn proof_from(
    files: &Files,
    hash: &ContentHash,
    size: u64,
    ranges: &[Range<u64>],
) -> Result<Result<Proof, VerifyError>, StoreError> {
    let mut bytes = vec![0; proof_len(size, ranges)];
    let mut rest = bytes.as_mut_slice();
    for run in proof_runs(size, ranges) {
        let (nodes, after) = rest.split_at_mut(run.len);
        rest = after;
        let outboard = files.outboard.as_ref().map(|file| file.read_exact_at(nodes, run.offset));
        match outboard {
            Some(Ok(())) => {}
            // What cannot be read stays zero and does not verify.
            None => {}
            Some(Err(error)) if is_damage(&error) => {}
            Some(Err(error)) => return Err(io_error("read", &files.outboard_path)(error)),
        }
    }
    Ok(Proof::verify(hash, size, ranges, bytes))
}

/// Whether `bytes` are these groups of the blob `hash`, by its outboard.
pub(super) fn check_groups(
    files: &Files,
    hash: &ContentHash,
    size: u64,
    groups: &Range<u64>,
    bytes: &[u8],
) -> Result<bool, StoreError> {
    let proof = proof_from(files, hash, size, std::slice::from_ref(groups))?;
    Ok(proof.is_ok_and(|proof| proof.check_groups(groups.start, bytes).is_ok()))
}

/// The groups of `bytes` that are not what `proof` says, one range each.
fn wrong_groups(proof: &Proof, groups: &Range<u64>, bytes: &[u8]) -> Vec<Range<u64>> {
    let mut rest = bytes;
    let mut wrong = Vec::new();
    for group in groups.clone() {
        let (content, after) = rest.split_at(group_len(proof.size(), group).min(rest.len()));
        rest = after;
        if proof.check_group(group, content).is_err() {
            wrong.push(group..group + 1);
        }
    }
    wrong
}

/// Whether reading failed because the file is not what it was, or its place on the disk cannot be read.
pub(super) fn is_damage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof || error.raw_os_error() == Some(libc::EIO)
}
