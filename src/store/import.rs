//! Staging a file to be added: done by the process that the user has started, even while another
//! one has the store open, which then [adopts](super::Store::adopt) it.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::error::io_error;
use super::files::complete_mode;
use super::layout::{Layout, OUTBOARD_SUFFIX};
use crate::ids::ContentHash;
use crate::verify::{MAX_BLOB_LEN, OutboardBuilder, OutboardPiece, PIECE_LEN, VerifyError, outboard_len};

/// What is to be added.
pub enum Source<'a> {
    /// A file.
    File(&'a Path),
    /// A stream, to its end; of a length that need not be known.
    Stream(&'a mut dyn Read),
}

/// A file staged in `tmp`, as another process is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedBlob {
    /// The hash of the staged bytes.
    pub hash: ContentHash,
    /// Their number.
    pub size: u64,
    /// The file's name in `tmp`.
    pub name: String,
}

/// A staged file. Dropped, it takes away what has not been adopted.
#[derive(Debug)]
pub struct Staged {
    blob: StagedBlob,
    content: PathBuf,
    outboard: PathBuf,
    /// Keeps the sweep of `tmp` away.
    _lock: File,
}

impl Staged {
    /// What to hand to [`super::Store::adopt`], here or in another process. Keep `self` until that is done.
    pub fn blob(&self) -> &StagedBlob {
        &self.blob
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        remove(&self.content);
        remove(&self.outboard);
    }
}

/// Copies what `source` holds to `dir/tmp` (without copying bytes where the file system can share
/// them), hashes the copy on all cores and writes its outboard; both are durable when it returns.
/// `progress` is told the number of bytes hashed so far. Because the copy is hashed, a file that
/// changes meanwhile cannot get a wrong name.
pub fn stage(dir: &Path, source: Source<'_>, progress: &dyn Fn(u64)) -> Result<Staged, StoreError> {
    let layout = Layout::create(dir)?;
    let (name, content) = create_tmp(&layout)?;
    let blob = StagedBlob { hash: ContentHash::EMPTY, size: 0, name };
    let path = layout.tmp().join(&blob.name);
    let outboard = layout.tmp().join(format!("{}{OUTBOARD_SUFFIX}", blob.name));
    let mut staged = Staged { blob, content: path, outboard, _lock: content };
    let content = &staged._lock;
    (staged.blob.hash, staged.blob.size) = match source {
        Source::File(path) => stage_file(path, content, &staged, progress)?,
        Source::Stream(stream) => {
            let size = spool(stream, content, &staged.content)?;
            (hash_copy(content, size, &staged, progress)?, size)
        }
    };
    // With the bytes the mode becomes durable, by which the file is known as added.
    let mode = Permissions::from_mode(complete_mode(true));
    staged._lock.set_permissions(mode).map_err(io_error("set the mode of", &staged.content))?;
    staged._lock.sync_all().map_err(io_error("sync", &staged.content))?;
    Ok(staged)
}

fn stage_file(
    path: &Path,
    content: &File,
    staged: &Staged,
    progress: &dyn Fn(u64),
) -> Result<(ContentHash, u64), StoreError> {
    let mut file = File::open(path).map_err(io_error("open", path))?;
    let metadata = file.metadata().map_err(io_error("stat", path))?;
    if metadata.is_dir() {
        return Err(StoreError::Directory(path.to_owned()));
    }
    if !metadata.is_file() {
        let size = spool(&mut file, content, &staged.content)?;
        return Ok((hash_copy(content, size, staged, progress)?, size));
    }
    if share_blocks(&file, content) {
        let size = content.metadata().map_err(io_error("stat", &staged.content))?.len();
        return Ok((hash_copy(content, size, staged, progress)?, size));
    }
    let size = metadata.len();
    let hash = hash_pieces(size, staged, progress, |piece, at| {
        file.read_exact(piece).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => StoreError::Shrank(path.to_owned()),
            _ => io_error("read", path)(error),
        })?;
        content.write_all_at(piece, at).map_err(io_error("write", &staged.content))
    })?;
    Ok((hash, size))
}

/// Hashes the copy, of `size` bytes.
fn hash_copy(content: &File, size: u64, staged: &Staged, progress: &dyn Fn(u64)) -> Result<ContentHash, StoreError> {
    hash_pieces(size, staged, progress, |piece, at| {
        content.read_exact_at(piece, at).map_err(io_error("read", &staged.content))
    })
}

/// Hashes the pieces that `fill` hands over (a buffer, and where it begins) and writes the outboard.
fn hash_pieces(
    size: u64,
    staged: &Staged,
    progress: &dyn Fn(u64),
    mut fill: impl FnMut(&mut [u8], u64) -> Result<(), StoreError>,
) -> Result<ContentHash, StoreError> {
    let mut builder = OutboardBuilder::new(size).map_err(|_| StoreError::TooBig(size))?;
    let mut buffer = vec![0; builder.next_len()];
    let outboard = match outboard_len(size) {
        0 => None,
        _ => Some(create_private(&staged.outboard).map_err(io_error("create", &staged.outboard))?),
    };
    let put = |piece: &OutboardPiece| match &outboard {
        Some(file) => file.write_all_at(&piece.nodes, piece.offset).map_err(io_error("write", &staged.outboard)),
        None => Ok(()),
    };
    // The pieces have the lengths that the builder asks for.
    let unreachable = |error: VerifyError| io_error("hash", &staged.content)(io::Error::other(error));
    let mut at = 0;
    while builder.next_len() > 0 {
        let piece = &mut buffer[..builder.next_len()];
        fill(piece, at)?;
        put(&builder.update(piece).map_err(unreachable)?)?;
        at += piece.len() as u64;
        progress(at);
    }
    let (hash, above) = builder.finish().map_err(unreachable)?;
    above.iter().try_for_each(put)?;
    if let Some(file) = outboard {
        file.sync_all().map_err(io_error("sync", &staged.outboard))?;
    }
    Ok(hash)
}

/// Copies a stream to its end and returns its length.
fn spool(stream: &mut dyn Read, mut content: &File, path: &Path) -> Result<u64, StoreError> {
    let mut buffer = vec![0; PIECE_LEN / 16];
    let mut size = 0u64;
    content.seek(SeekFrom::Start(0)).map_err(io_error("write", path))?;
    loop {
        let len = match stream.read(&mut buffer) {
            Ok(0) => return Ok(size),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(io_error("read what is to become", path)(error)),
        };
        size += len as u64;
        if size > MAX_BLOB_LEN {
            return Err(StoreError::TooBig(size));
        }
        content.write_all(&buffer[..len]).map_err(io_error("write", path))?;
    }
}

/// Makes `copy` share the blocks of `original`, where the file system can do that.
fn share_blocks(original: &File, copy: &File) -> bool {
    // SAFETY: FICLONE takes two file descriptors, which both files keep open, and no pointer.
    unsafe { libc::ioctl(copy.as_raw_fd(), libc::FICLONE, original.as_raw_fd()) == 0 }
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

fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Removes a staged file that nobody has adopted; a failure leaves it to the sweep of `tmp`.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(path = %path.display(), %error, "a staged file stays behind");
    }
}
