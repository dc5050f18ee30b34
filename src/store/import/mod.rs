//! Staging files to be added: done by the process that the user has started, even while another
//! one has the store open, which then [adopts](super::Store::adopt) them.
//!
//! Files are staged in batches. A batch is a file in `tmp` that its process keeps under a lock, and that is
//! as long as what the batch may take on the disk (it takes nothing itself); its files have its name, a dot
//! and a number. When the process is gone, the sweep of `tmp` takes all of them away.

mod copy;

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::error::io_error;
use super::files::{Stamp, complete_mode};
use super::in_place::note_time;
use super::layout::{Layout, OUTBOARD_SUFFIX, SYNC_FILE_SYSTEM_FROM, batch_of, create_private, sync_file_system};
use super::record::{BLOCK_LEN, outboard_charge, reference_charge};
use crate::ids::ContentHash;
use crate::verify::{MAX_BLOB_LEN, outboard_len};
use copy::{Copying, hash_in_place};

/// The attribute that files of a byhash mount have.
const MOUNT_ATTRIBUTE: &std::ffi::CStr = c"user.byhash.state";

/// What is to be added.
pub enum Source<'a> {
    /// A file, of which a copy is made.
    File(&'a Path),
    /// A stream, to its end; of a length that need not be known.
    Stream(&'a mut dyn Read),
    /// A file that is to stay where it is and to be served from there, as long as it is what it was.
    InPlace(&'a Path),
}

/// A staged file, as another process is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedBlob {
    /// The hash of the staged bytes.
    pub hash: ContentHash,
    /// Their number.
    pub size: u64,
    /// The file's name in `tmp`.
    pub name: String,
    /// Whether that is a link to a file of the user's that has the bytes.
    #[serde(default)]
    pub reference: bool,
}

impl StagedBlob {
    /// The batch that it belongs to.
    pub(super) fn batch(&self) -> &str {
        batch_of(&self.name)
    }
}

/// Asks for room for a batch: so many bytes in all, what was asked for before included.
pub type MakeRoom<'a> = &'a mut dyn FnMut(&str, u64) -> Result<(), StoreError>;

/// Bytes on the disk that a file of `size` bytes takes once it is added.
pub fn room_for(size: u64) -> u64 {
    size.next_multiple_of(BLOCK_LEN).saturating_add(outboard_charge(size.min(MAX_BLOB_LEN)))
}

/// Files on their way in together. Dropped, it takes away what has not been adopted.
#[derive(Debug)]
pub struct Batch {
    layout: Layout,
    name: String,
    /// Keeps the sweep of `tmp` away.
    lock: File,
    blobs: Vec<StagedBlob>,
    /// How many files were begun.
    begun: usize,
    /// Bytes that those which are staged take.
    taken: u64,
    /// Bytes that were asked for.
    reserved: u64,
}

impl Batch {
    /// An empty batch for the store in `dir`, which need not exist yet.
    pub fn create(dir: &Path) -> Result<Self, StoreError> {
        let layout = Layout::create(dir)?;
        let (name, lock) = create_tmp(&layout)?;
        Ok(Self { layout, name, lock, blobs: Vec::new(), begun: 0, taken: 0, reserved: 0 })
    }

    /// What was staged so far, to be handed to [`super::Store::adopt_all`], here or in another process, after
    /// [`Batch::sync`]. Keep the batch until that is done.
    pub fn blobs(&self) -> &[StagedBlob] {
        &self.blobs
    }

    /// Asks for room for `bytes` more than what is staged, unless it is there.
    pub fn reserve(&mut self, bytes: u64, room: MakeRoom<'_>) -> Result<(), StoreError> {
        let wanted = self.taken.saturating_add(bytes);
        if wanted > self.reserved {
            room(&self.name, wanted)?;
            self.reserved = wanted;
        }
        Ok(())
    }

    /// Copies what `source` holds to `tmp` (without copying bytes where the file system can share them), hashes
    /// the copy on all cores and writes its outboard; of a file that is to stay in place, only the latter. Room
    /// is asked for before anything is written. `progress` is told the number of bytes hashed so far. Because
    /// the copy is hashed, a file that changes meanwhile cannot get a wrong name.
    pub fn stage(
        &mut self,
        source: Source<'_>,
        room: MakeRoom<'_>,
        progress: &dyn Fn(u64),
    ) -> Result<&StagedBlob, StoreError> {
        let name = format!("{}.{}", self.name, self.begun);
        self.begun += 1;
        let reserved = self.reserved;
        let staged = self.stage_as(&name, source, room, progress);
        let (hash, size, reference) = staged.inspect_err(|_| self.remove(&name, true))?;
        self.taken += if reference { reference_charge(size) } else { room_for(size) };
        self.blobs.push(StagedBlob { hash, size, name, reference });
        // What a stream has not used of its room.
        if self.reserved > reserved.max(self.taken) {
            self.reserved = reserved.max(self.taken);
            self.layout.note_room(&self.lock, &self.name, self.reserved)?;
        }
        Ok(&self.blobs[self.blobs.len() - 1])
    }

    fn stage_as(
        &mut self,
        name: &str,
        source: Source<'_>,
        room: MakeRoom<'_>,
        progress: &dyn Fn(u64),
    ) -> Result<(ContentHash, u64, bool), StoreError> {
        let content_path = self.content(name);
        let outboard_path = self.outboard(name);
        if let Source::InPlace(path) = source {
            let (place, file, size) = find_in_place(path)?;
            self.reserve(reference_charge(size), room)?;
            let stamp = || Stamp::of(&file).map_err(io_error("stat", path));
            let before = stamp()?;
            let hash = hash_in_place(&file, path, size, &outboard_path, progress)?;
            if stamp()? != before {
                return Err(StoreError::NotInPlace { path: path.to_owned(), why: "it changed while it was read" });
            }
            symlink(place, &content_path).map_err(io_error("make the link", &content_path))?;
            note_time(&content_path, before.modified_ns()).map_err(io_error("set the time of", &content_path))?;
            return Ok((hash, size, true));
        }
        let content = create_private(&content_path).map_err(io_error("create", &content_path))?;
        let room_made = self.reserved.saturating_sub(self.taken);
        let mut copying =
            Copying { content: &content, content_path: &content_path, outboard_path, room: room_made, progress };
        let mut reserve = |bytes| self.reserve(bytes, room);
        let (hash, size) = match source {
            Source::File(path) => copying.file(path, &mut reserve)?,
            Source::Stream(stream) => copying.stream(stream, &mut reserve)?,
            Source::InPlace(_) => unreachable!("it was staged above"),
        };
        // With the bytes the mode becomes durable, by which the file is known as added.
        let mode = Permissions::from_mode(complete_mode(true));
        content.set_permissions(mode).map_err(io_error("set the mode of", &content_path))?;
        Ok((hash, size, false))
    }

    /// Makes durable what was staged.
    pub fn sync(&self) -> Result<(), StoreError> {
        if self.blobs.len() >= SYNC_FILE_SYSTEM_FROM && sync_file_system(self.layout.dir()).is_ok() {
            return Ok(());
        }
        let sync = |path: PathBuf| File::open(&path).and_then(|file| file.sync_all()).map_err(io_error("sync", &path));
        for blob in &self.blobs {
            if outboard_charge(blob.size) > 0 {
                sync(self.outboard(&blob.name))?;
            }
            if !blob.reference {
                sync(self.content(&blob.name))?;
            }
        }
        Ok(())
    }

    fn content(&self, name: &str) -> PathBuf {
        self.layout.tmp().join(name)
    }

    fn outboard(&self, name: &str) -> PathBuf {
        self.layout.tmp().join(format!("{name}{OUTBOARD_SUFFIX}"))
    }

    /// Takes the files of `name` away, which may have an outboard; a failure leaves them to the sweep of `tmp`.
    fn remove(&self, name: &str, with_outboard: bool) {
        let outboard = with_outboard.then(|| self.outboard(name));
        for path in std::iter::once(self.content(name)).chain(outboard) {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::debug!(path = %path.display(), %error, "a staged file stays behind");
            }
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.blobs.iter().for_each(|blob| self.remove(&blob.name, outboard_len(blob.size) > 0));
        self.remove(&self.name, false);
    }
}

/// A file staged by itself.
#[derive(Debug)]
pub struct Staged(Batch);

impl Staged {
    /// What to hand to [`super::Store::adopt`], here or in another process. Keep `self` until that is done.
    pub fn blob(&self) -> &StagedBlob {
        &self.0.blobs()[0]
    }
}

/// Stages `source` for the store in `dir`, durably; without asking for room, which is made when it is adopted.
/// See [`Batch::stage`].
pub fn stage(dir: &Path, source: Source<'_>, progress: &dyn Fn(u64)) -> Result<Staged, StoreError> {
    let mut batch = Batch::create(dir)?;
    batch.stage(source, &mut |_, _| Ok(()), progress)?;
    batch.sync()?;
    Ok(Staged(batch))
}

/// The place of a file that is to be served from there, the file, open, and its size.
fn find_in_place(path: &Path) -> Result<(PathBuf, File, u64), StoreError> {
    let refused = |why| StoreError::NotInPlace { path: path.to_owned(), why };
    let place = fs::canonicalize(path).map_err(io_error("open", path))?;
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&place);
    let file = file.map_err(io_error("open", path))?;
    let metadata = file.metadata().map_err(io_error("stat", path))?;
    if metadata.is_dir() {
        return Err(StoreError::Directory(path.to_owned()));
    }
    if !metadata.is_file() {
        return Err(refused("it is not a regular file"));
    }
    // A node that serves it would ask itself.
    if has_attribute(&file, MOUNT_ATTRIBUTE) {
        return Err(refused("it lies in a byhash mount"));
    }
    if metadata.size() == 0 && file.read_at(&mut [0], 0).is_ok_and(|read| read > 0) {
        return Err(refused("it says that it is empty, and is not"));
    }
    Ok((place, file, metadata.size()))
}

fn has_attribute(file: &File, name: &std::ffi::CStr) -> bool {
    use std::os::fd::AsRawFd;
    // SAFETY: `name` ends in NUL and lives through the call, no buffer is given, and `file` keeps the
    // descriptor open.
    unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), std::ptr::null_mut(), 0) >= 0 }
}

/// Makes a file of a new name in `tmp`, under a lock.
fn create_tmp(layout: &Layout) -> Result<(String, File), StoreError> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    loop {
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let name = format!("add-{}-{count}-{now}", std::process::id());
        let path = layout.tmp().join(&name);
        let file = match create_private(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            created => created.map_err(io_error("create", &path))?,
        };
        // Between creation and lock a sweep may have taken it for abandoned.
        match file.try_lock() {
            Ok(()) if path.exists() => return Ok((name, file)),
            Ok(()) | Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => return Err(io_error("lock", &path)(source)),
        }
    }
}
