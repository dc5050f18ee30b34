//! The demo's second blob: big enough that a holder can die in the middle of it.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::super::failure::CommandError;
use super::sandbox::at;
use crate::config::KEEP_FREE;
use crate::ids::ContentHash;

/// Its size in bytes (256 MiB): many times what is read ahead at once.
pub(super) const SECOND_BLOB_LEN: u64 = 256 << 20;

/// The stores that have a copy of it, and of the first file.
const STORES: u64 = 3;

/// Room for all else, in bytes (64 MiB): proofs, which take less than a hundredth of the second blob, indexes, logs.
const OTHER_ROOM: u64 = 64 << 20;

/// Bytes made and written at a time (1 MiB).
const PIECE_LEN: usize = 1 << 20;

const _: () = assert!(SECOND_BLOB_LEN.is_multiple_of(PIECE_LEN as u64) && PIECE_LEN.is_multiple_of(8));

/// Room that the demo needs in its directory, in bytes, if it shares a file of `len` bytes: the second blob, the copies,
/// and what the stores leave free.
fn room_for(len: u64) -> u64 {
    // The proofs of the first file are in it.
    let copies = len.saturating_add(len / 100).saturating_mul(STORES);
    copies.saturating_add((1 + STORES) * SECOND_BLOB_LEN + KEEP_FREE + OTHER_ROOM)
}

/// Refuses if the file system of `dir` has no room for a demo that shares `file`.
pub(super) fn check_room(dir: &Path, file: &Path) -> Result<(), CommandError> {
    let room = room_for(std::fs::metadata(file).map_err(|error| at(file, &error))?.len());
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(dir.as_os_str().as_bytes())
        .map_err(|_| CommandError::Failed(format!("{}: it has a NUL in its name", dir.display())))?;
    // SAFETY: all-zero bytes are a valid statvfs, which has only integers.
    let mut figures: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in NUL and the struct is ours to write to.
    if unsafe { libc::statvfs(path.as_ptr(), &raw mut figures) } != 0 {
        return Err(at(dir, &std::io::Error::last_os_error()));
    }
    let free = figures.f_bavail.saturating_mul(figures.f_frsize);
    if free < room {
        let mib = |bytes: u64| bytes >> 20;
        return Err(CommandError::Failed(format!(
            "the demo needs {} MiB in {} and there are {}: set TMPDIR to a directory with more room",
            mib(room),
            dir.display(),
            mib(free)
        )));
    }
    Ok(())
}

/// Writes [`SECOND_BLOB_LEN`] bytes to `path` that no other file has and no compression shrinks;
/// gives their hash.
pub(super) fn write(path: &Path) -> Result<ContentHash, CommandError> {
    let mut state = [0; 8];
    getrandom::fill(&mut state).map_err(|error| CommandError::Failed(format!("no random numbers: {error}")))?;
    // Xorshift must not start at 0.
    let mut state = u64::from_le_bytes(state) | 1;
    let mut file = File::create_new(path).map_err(|error| at(path, &error))?;
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE_LEN];
    for _ in 0..SECOND_BLOB_LEN / PIECE_LEN as u64 {
        for word in piece.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        hasher.update(&piece);
        file.write_all(&piece).map_err(|error| at(path, &error))?;
    }
    Ok(hasher.finalize().into())
}
