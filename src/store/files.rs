//! The two files of a blob, open.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rangemap::RangeSet;

use super::StoreError;
use super::error::io_error;
use super::layout::{Layout, PRIVATE_MODE, REPAIR_PREFIX, create_with_mode, remove_if_there};
use super::record::{BLOCK_LEN, content_charge};
use super::space::blocks_of;
use crate::ids::{BlobRange, ContentHash};
use crate::verify::{bytes_of, group_count, outboard_len};

/// The mode of a content file once it is complete: it is never written to again.
pub(super) const COMPLETE_MODE: u32 = 0o444;

/// The bit of the mode that marks the content of a blob that was added here, so that a new index knows
/// it: the sticky bit, which means nothing for a file and is kept by copies and backups.
pub(super) const KEPT_BIT: u32 = 0o1000;

/// The bit of the mode that marks the content of a fetched blob that is pinned, for the same purpose: others may
/// execute it, which means nothing in a directory that is this user's only. Unlike the other bits that have no
/// meaning here, writing to the file leaves it alone.
pub(super) const PIN_BIT: u32 = 0o0001;

/// The bit of the mode that marks the content of a blob that was lost in part or wholly and is not whole again, so that
/// one that is pinned is told from one of which no more was ever fetched. One that is still as it was when it was
/// complete needs no mark. Of no other meaning, like [`PIN_BIT`].
pub(super) const LOST_BIT: u32 = 0o0010;

/// The mode of a complete content file.
pub(super) const fn complete_mode(kept: bool) -> u32 {
    COMPLETE_MODE | marks(kept, false)
}

/// Nanoseconds that a file must have been left alone before its times tell it from a later state.
/// Times of files advance with the kernel's tick, at most 10 ms; five of those.
const STAMP_AGE_NS: i128 = 50_000_000;

/// Content and outboard of a blob, open.
#[derive(Debug)]
pub(super) struct Files {
    pub content: ManuallyDrop<Arc<File>>,
    pub content_path: PathBuf,
    /// None for a blob of one group.
    pub outboard: Option<File>,
    pub outboard_path: PathBuf,
    /// The content file belongs to the user: it is only read.
    pub in_place: bool,
    /// The content file was complete: it must not be written to.
    pub sealed: AtomicBool,
    /// Writes under way; changes under the lock of the blob's state.
    pub writers: AtomicUsize,
    /// The names are not yet durable.
    unnamed: AtomicBool,
}

/// What changes whenever a file is changed, by whomever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Drop for Files {
    fn drop(&mut self) {
        // SAFETY: it is taken nowhere but here, and nobody can use it afterwards.
        let content = unsafe { ManuallyDrop::take(&mut self.content) };
        if self.in_place {
            // To close it may take as long as its file system hangs, and whoever is the last to let go of it may be one
            // that must not wait. Without a thread it is closed here.
            drop(std::thread::Builder::new().name("byhash-close".to_owned()).spawn(move || drop(content)));
        }
    }
}

impl Files {
    /// Makes the files of a blob of which nothing is held, the content with `marks`. What lies in their place is
    /// unlinked.
    pub fn create(layout: &Layout, hash: &ContentHash, size: u64, marks: u32) -> Result<Self, StoreError> {
        let (content_path, outboard_path) = (layout.content(hash), layout.outboard(hash));
        let content = match group_count(size) {
            // Its first write is all of it: the file has the length then, and the mode that it is to have from the start.
            // The file of one that is marked is made as any other.
            1 if marks == 0 => create_anew(&content_path, COMPLETE_MODE)?,
            _ => create_file(&content_path, size)?,
        };
        if marks != 0 {
            set_marks(&content, &content_path, marks)?;
        }
        let outboard = match outboard_len(size) {
            0 => None,
            len => Some(create_file(&outboard_path, len)?),
        };
        Ok(Self {
            content: ManuallyDrop::new(Arc::new(content)),
            content_path,
            outboard,
            outboard_path,
            in_place: false,
            sealed: false.into(),
            writers: 0.into(),
            unnamed: true.into(),
        })
    }

    /// Opens the files of a blob that the index knows; only if its content is `in_place`, a link to it is
    /// followed. [`StoreError::Missing`] if one is not there or has another length.
    pub fn open(layout: &Layout, hash: &ContentHash, size: u64, in_place: bool) -> Result<Self, StoreError> {
        let (content_path, outboard_path) = (layout.content(hash), layout.outboard(hash));
        let content = open_content(&content_path, size, in_place)?;
        let missing = |path: &Path| StoreError::Missing { hash: *hash, path: path.to_owned() };
        let (mut content, metadata) = content.ok_or_else(|| missing(&content_path))?;
        let sealed = in_place || metadata.mode() & 0o222 == 0;
        if !sealed {
            (content, _) = open_file(&content_path, true)?.ok_or_else(|| missing(&content_path))?;
        }
        let outboard = match outboard_len(size) {
            0 => None,
            len => {
                let file = open_file(&outboard_path, true)?.filter(|(_, metadata)| metadata.len() == len);
                Some(file.ok_or_else(|| missing(&outboard_path))?.0)
            }
        };
        Ok(Self {
            content: ManuallyDrop::new(Arc::new(content)),
            content_path,
            outboard,
            outboard_path,
            in_place,
            sealed: sealed.into(),
            writers: 0.into(),
            unnamed: false.into(),
        })
    }

    /// Copies the groups of `held` to a new file, durably, which can take the place of this one.
    pub fn copy(
        &self,
        layout: &Layout,
        hash: &ContentHash,
        size: u64,
        held: &RangeSet<u64>,
    ) -> Result<ContentCopy, StoreError> {
        let path = layout.tmp().join(format!("{REPAIR_PREFIX}{hash}"));
        remove_if_there(&path)?;
        let copy = ContentCopy { file: create_file(&path, size)?, path, marks: self.marks() | LOST_BIT };
        // Abandoned, if a crash comes now: the sweep of tmp takes it away.
        let locked = copy.file.try_lock().map_err(|error| io_error("lock", &copy.path)(error.into()));
        // The index already claims these groups.
        let copied = locked
            .and_then(|()| held.iter().try_for_each(|groups| self.copy_range(&copy, bytes_of(size, groups))))
            .and_then(|()| set_marks(&copy.file, &copy.path, copy.marks))
            .and_then(|()| copy.file.sync_all().map_err(io_error("sync", &copy.path)));
        if let Err(error) = copied {
            copy.remove()?;
            return Err(error);
        }
        Ok(copy)
    }

    /// The content file's mode; 0 if it cannot be told.
    fn mode(&self) -> u32 {
        self.content.metadata().map_or(0, |metadata| metadata.mode() & 0o7777)
    }

    /// The bits of it that are marks.
    fn marks(&self) -> u32 {
        self.mode() & (KEPT_BIT | PIN_BIT | LOST_BIT)
    }

    fn copy_range(&self, copy: &ContentCopy, range: BlobRange) -> Result<(), StoreError> {
        let mut buffer = vec![0; COPY_LEN.min(range.len() as usize)];
        let mut at = range.start;
        while at < range.end {
            let part = &mut buffer[..(range.end - at).min(COPY_LEN as u64) as usize];
            self.content.read_exact_at(part, at).map_err(io_error("read", &self.content_path))?;
            copy.file.write_all_at(part, at).map_err(io_error("write", &copy.path))?;
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Makes both files durable, and their names if they are new.
    pub fn sync(&self, layout: &Layout, hash: &ContentHash) -> Result<(), StoreError> {
        if !self.in_place {
            self.content.sync_data().map_err(io_error("sync", &self.content_path))?;
        }
        if let Some(outboard) = &self.outboard {
            outboard.sync_data().map_err(io_error("sync", &self.outboard_path))?;
        }
        if self.unnamed.load(Ordering::Acquire) {
            layout.sync_shard(hash)?;
            self.unnamed.store(false, Ordering::Release);
        }
        Ok(())
    }

    /// Marks the content file as complete, and as one to be `kept`; that it is pinned stays marked. The caller
    /// holds the lock of the blob's state, or has just made the file.
    pub fn seal(&self, kept: bool) -> Result<(), StoreError> {
        self.sealed.store(true, Ordering::Release);
        if self.in_place {
            return Ok(());
        }
        let before = self.mode();
        let mode = COMPLETE_MODE | marks(kept, before & PIN_BIT != 0);
        if before == mode {
            return Ok(());
        }
        let set = self.content.set_permissions(Permissions::from_mode(mode));
        set.map_err(io_error("set the mode of", &self.content_path))
    }

    /// Marks a complete content file as one to be kept, durably; gives its stamps from before and after that.
    pub fn keep(&self) -> Result<(Stamp, Stamp), StoreError> {
        let before = self.stamp()?;
        let is_kept = |metadata: fs::Metadata| metadata.mode() & 0o7777 == complete_mode(true);
        if self.in_place || self.content.metadata().is_ok_and(is_kept) {
            return Ok((before, before));
        }
        self.seal(true)?;
        self.content.sync_all().map_err(io_error("sync", &self.content_path))?;
        Ok((before, self.stamp()?))
    }

    /// Whether both files are still those that their names lead to, as far as that can be told.
    pub fn are_in_their_places(&self) -> bool {
        let is_same = |file: &File, found: io::Result<Metadata>| match (file.metadata(), found) {
            (Ok(open), Ok(found)) => (open.dev(), open.ino()) == (found.dev(), found.ino()),
            (_, Err(error)) => error.kind() != io::ErrorKind::NotFound,
            (Err(_), _) => true,
        };
        let content = &self.content_path;
        is_same(&self.content, if self.in_place { fs::metadata(content) } else { fs::symlink_metadata(content) })
            && self.outboard.as_ref().is_none_or(|file| is_same(file, fs::symlink_metadata(&self.outboard_path)))
    }

    /// The content file's stamp.
    pub fn stamp(&self) -> Result<Stamp, StoreError> {
        Stamp::of(&self.content).map_err(io_error("stat", &self.content_path))
    }
}

/// See [`Files::copy`].
pub(super) struct ContentCopy {
    file: File,
    path: PathBuf,
    marks: u32,
}

impl ContentCopy {
    /// Takes the place of the content file of `old`, which stays as it is for those who have it open, and its marks.
    /// The caller holds `structure`.
    pub fn put_in_place(
        self,
        old: &Files,
        layout: &Layout,
        hash: &ContentHash,
        size: u64,
    ) -> Result<Files, StoreError> {
        let place = || {
            let marks = old.marks() | LOST_BIT;
            if marks != self.marks {
                set_marks(&self.file, &self.path, marks)?;
                self.file.sync_all().map_err(io_error("sync", &self.path))?;
            }
            fs::rename(&self.path, &old.content_path).map_err(io_error("rename", &self.path))
        };
        if let Err(error) = place() {
            self.remove()?;
            return Err(error);
        }
        layout.sync_shard(hash)?;
        Files::open(layout, hash, size, false)
    }

    /// Goes unused.
    pub fn remove(self) -> Result<(), StoreError> {
        remove_if_there(&self.path)
    }
}

impl Stamp {
    /// The stamp of `file` now.
    pub fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let ns = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// When the file was written last, in nanoseconds since 1970.
    pub fn modified_ns(&self) -> i128 {
        self.modified_ns
    }

    /// Device and inode number of the file.
    pub fn identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Whether a change from now on is sure to make another stamp.
    pub fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as i128);
        now - self.changed_ns >= STAMP_AGE_NS
    }
}

/// Marks the content file at `path` as `pinned`, or not, and hands it over to be synced, with its stamps from before and
/// after that; `None` if there is none, or only a link. The caller holds the lock of the blob's state.
pub(super) fn mark_pinned(path: &Path, pinned: bool) -> Result<Option<(File, Stamp, Stamp)>, StoreError> {
    let Some((content, metadata)) = open_file(path, false)? else { return Ok(None) };
    let stamp = || Stamp::of(&content).map_err(io_error("stat", path));
    let before = stamp()?;
    let mode = metadata.mode() & 0o7777;
    let marked = if pinned { mode | PIN_BIT } else { mode & !PIN_BIT };
    if marked != mode {
        content.set_permissions(Permissions::from_mode(marked)).map_err(io_error("set the mode of", path))?;
    }
    let after = stamp()?;
    Ok(Some((content, before, after)))
}

/// Whether the content file at `path`, of a blob that is not whole, says that the blob was.
pub(super) fn was_whole(path: &Path) -> bool {
    let mode = fs::symlink_metadata(path).map_or(0, |metadata| metadata.mode());
    mode & LOST_BIT != 0 || mode != 0 && mode & 0o222 == 0
}

/// Gives the blocks of `groups`, of which nothing is held, back to the disk. Not to be done to a file that was
/// complete. Where the file system cannot, they stay until they are written to.
pub(super) fn free_groups<'a>(content: &File, size: u64, groups: impl Iterator<Item = &'a Range<u64>>) {
    for range in groups.map(|groups| bytes_of(size, groups)) {
        let len = range.len().next_multiple_of(BLOCK_LEN);
        let (Ok(start), Ok(len)) = (i64::try_from(range.start), i64::try_from(len)) else { continue };
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: no pointers, and the descriptor is open while `content` is borrowed.
        unsafe { libc::fallocate(content.as_raw_fd(), mode, start, len) };
    }
}

/// Gives the blocks that a crash has left in the holes of a partial blob back to the disk. Nobody may have it open.
pub(super) fn free_holes(path: &Path, size: u64, held: &RangeSet<u64>) -> Result<(), StoreError> {
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    let is_sealed = metadata.mode() & 0o222 == 0;
    if !metadata.is_file() || is_sealed || blocks_of(&metadata) <= content_charge(size, held.iter()) {
        return Ok(());
    }
    if let Some((content, _)) = open_file(path, true)? {
        free_groups(&content, size, held.gaps(&(0..group_count(size))).collect::<Vec<_>>().iter());
    }
    Ok(())
}

/// The bits of the mode that mark the content of a blob as one that was added here, or as pinned.
pub(super) const fn marks(added: bool, pinned: bool) -> u32 {
    match (added, pinned) {
        (true, _) => KEPT_BIT,
        (false, true) => PIN_BIT,
        (false, false) => 0,
    }
}

/// Gives a content file that is not complete its marks.
fn set_marks(content: &File, path: &Path, marks: u32) -> Result<(), StoreError> {
    content.set_permissions(Permissions::from_mode(0o600 | marks)).map_err(io_error("set the mode of", path))
}

/// Bytes copied at a time (1 MiB).
const COPY_LEN: usize = 1 << 20;

/// Makes a file of `len` zeroes, for this user only; what lies in its place is unlinked.
fn create_file(path: &Path, len: u64) -> Result<File, StoreError> {
    let file = create_anew(path, PRIVATE_MODE)?;
    file.set_len(len).map_err(io_error("set the length of", path))?;
    Ok(file)
}

/// Makes an empty file, open for writing whatever its `mode`; what lies in its place is unlinked.
fn create_anew(path: &Path, mode: u32) -> Result<File, StoreError> {
    let created = match create_with_mode(path, mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            remove_if_there(path)?;
            create_with_mode(path, mode)
        }
        created => created,
    };
    created.map_err(io_error("create", path))
}

/// Opens a file that is not a symbolic link; `None` if it is not there, or not a regular file.
fn open_file(path: &Path, write: bool) -> Result<Option<(File, Metadata)>, StoreError> {
    let options = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).write(write).custom_flags(options).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ELOOP) => {
            return Ok(None);
        }
        Err(error) => return Err(io_error("open", path)(error)),
    };
    regular(file, path)
}

/// Opens the content of a blob of `size` bytes for reading, following a link to it if it is `in_place`; `None` if
/// it is not there or has another length.
pub(super) fn open_content(path: &Path, size: u64, in_place: bool) -> Result<Option<(File, Metadata)>, StoreError> {
    let content = if in_place { follow_link(path)? } else { open_file(path, false)? };
    Ok(content.filter(|(_, metadata)| metadata.len() == size))
}

/// Opens the file that a link in the store leads to, for reading; `None` if there is none, or none that this
/// user may read.
fn follow_link(path: &Path) -> Result<Option<(File, Metadata)>, StoreError> {
    match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => regular(file, path),
        Err(error) => match error.raw_os_error() {
            Some(
                libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EACCES | libc::EPERM | libc::ENXIO | libc::ESTALE,
            ) => Ok(None),
            _ => Err(io_error("open", path)(error)),
        },
    }
}

/// The file with what is known of it, if it is a regular one.
fn regular(file: File, path: &Path) -> Result<Option<(File, Metadata)>, StoreError> {
    let metadata = file.metadata().map_err(io_error("stat", path))?;
    Ok(metadata.is_file().then_some((file, metadata)))
}
