//! Copying and hashing what is staged.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::super::StoreError;
use super::super::error::io_error;
use super::super::layout::create_private;
use super::super::outboard::{hash_pieces, put};
use super::room_for;
use crate::ids::ContentHash;
use crate::verify::{MAX_BLOB_LEN, PIECE_LEN, outboard_len};

/// The least room that is asked for at a time for a stream whose length is not known, in bytes (16 MiB) ...
const MIN_STEP: u64 = 16 << 20;

/// ... and the most (1 GiB). In between it is a quarter of what has come so far.
const MAX_STEP: u64 = 1 << 30;

/// Bytes (1 MiB) of which the kernel is told to begin to write them: of less, many files at a time are written faster
/// than one by one.
const MIN_WRITE_BACK: usize = 1 << 20;

/// Asks for room for so many bytes of the file in all.
type Reserve<'a> = &'a mut dyn FnMut(u64) -> Result<(), StoreError>;

/// A copy that is being made.
pub(super) struct Copying<'a> {
    pub content: &'a File,
    pub content_path: &'a Path,
    pub outboard_path: PathBuf,
    /// Room that was made before, in bytes.
    pub room: u64,
    pub progress: &'a dyn Fn(u64),
}

impl Copying<'_> {
    /// Copies a file, or what it gives until its end if it is a pipe or a device, or does not know its size.
    pub fn file(&mut self, path: &Path, reserve: Reserve<'_>) -> Result<(ContentHash, u64), StoreError> {
        let mut file = File::open(path).map_err(io_error("open", path))?;
        let metadata = file.metadata().map_err(io_error("stat", path))?;
        if metadata.is_dir() {
            return Err(StoreError::Directory(path.to_owned()));
        }
        // Files that the kernel makes up as they are read say that they are empty.
        if !metadata.is_file() || metadata.size() == 0 {
            return self.stream(&mut file, reserve);
        }
        // Blocks that are shared take no more of the disk, so they need no room there.
        if share_blocks(&file, self.content) {
            let size = self.content.metadata().map_err(io_error("stat", self.content_path))?.len();
            reserve(room_for(size))?;
            return Ok((self.hash_copy(size)?, size));
        }
        let size = metadata.size();
        reserve(room_for(size))?;
        let hash = write_outboard(size, &self.outboard_path, self.progress, |piece, at| {
            file.read_exact(piece).map_err(|error| cut_short(error, path))?;
            self.content.write_all_at(piece, at).map_err(io_error("write", self.content_path))?;
            begin_write_back(self.content, at, piece.len());
            Ok(())
        })?;
        Ok((hash, size))
    }

    /// Copies a stream to its end.
    pub fn stream(&mut self, stream: &mut dyn Read, reserve: Reserve<'_>) -> Result<(ContentHash, u64), StoreError> {
        let (mut content, path) = (self.content, self.content_path);
        let mut buffer = vec![0; PIECE_LEN / 16];
        let (mut size, mut reserved) = (0u64, 0u64);
        content.seek(SeekFrom::Start(0)).map_err(io_error("write", path))?;
        loop {
            let len = match stream.read(&mut buffer) {
                Ok(0) => return Ok((self.hash_copy(size)?, size)),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(io_error("read what is to become", path)(error)),
            };
            size += len as u64;
            if size > MAX_BLOB_LEN {
                return Err(StoreError::TooBig(size));
            }
            if size > reserved && room_for(size) > self.room {
                // If there is no room for that much, there may still be enough.
                let ample = size.saturating_add((size / 4).clamp(MIN_STEP, MAX_STEP)).min(MAX_BLOB_LEN);
                reserved = match reserve(room_for(ample)) {
                    Ok(()) => ample,
                    Err(_) => reserve(room_for(size)).map(|()| size)?,
                };
            }
            content.write_all(&buffer[..len]).map_err(io_error("write", path))?;
        }
    }

    /// Hashes the copy, of `size` bytes.
    fn hash_copy(&self, size: u64) -> Result<ContentHash, StoreError> {
        write_outboard(size, &self.outboard_path, self.progress, |piece, at| {
            self.content.read_exact_at(piece, at).map_err(io_error("read", self.content_path))
        })
    }
}

/// Hashes a file of `size` bytes that is to stay in place, and writes its outboard.
pub(super) fn hash_in_place(
    file: &File,
    path: &Path,
    size: u64,
    outboard: &Path,
    progress: &dyn Fn(u64),
) -> Result<ContentHash, StoreError> {
    write_outboard(size, outboard, progress, |piece, at| {
        file.read_exact_at(piece, at).map_err(|error| cut_short(error, path))
    })
}

fn cut_short(error: io::Error, path: &Path) -> StoreError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => StoreError::Shrank(path.to_owned()),
        _ => io_error("read", path)(error),
    }
}

/// Hashes the pieces that `fill` hands over (a buffer, and where it begins) and writes the outboard.
fn write_outboard(
    size: u64,
    path: &Path,
    progress: &dyn Fn(u64),
    mut fill: impl FnMut(&mut [u8], u64) -> Result<(), StoreError>,
) -> Result<ContentHash, StoreError> {
    let outboard = match outboard_len(size) {
        0 => None,
        _ => Some(create_private(path).map_err(io_error("create", path))?),
    };
    let handed_over = Cell::new(0);
    let fill = |piece: &mut [u8], at| {
        handed_over.set(at + piece.len() as u64);
        fill(piece, at).map(|()| true)
    };
    let hash = hash_pieces(size, path, fill, &mut |piece| {
        progress(handed_over.get());
        outboard.as_ref().map_or(Ok(()), |file| put(file, piece, path))
    })?;
    Ok(hash.expect("all pieces were handed over"))
}

/// Has the kernel begin to write to the disk what was written just now, if it is much, so that the sync in the end
/// finds little to wait for. That it does not is no failure.
fn begin_write_back(file: &File, at: u64, len: usize) {
    if len < MIN_WRITE_BACK {
        return;
    }
    let (Ok(at), Ok(len)) = (i64::try_from(at), i64::try_from(len)) else { return };
    // SAFETY: no pointers, and the descriptor is open while `file` is borrowed.
    unsafe { libc::sync_file_range(file.as_raw_fd(), at, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Makes `copy` share the blocks of `original`, where the file system can do that.
fn share_blocks(original: &File, copy: &File) -> bool {
    // SAFETY: FICLONE takes two file descriptors, which both files keep open, and no pointer.
    unsafe { libc::ioctl(copy.as_raw_fd(), libc::FICLONE, original.as_raw_fd()) == 0 }
}
