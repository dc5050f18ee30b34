//! Files that only their owner may read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The longest key or secret file read, in bytes; a key takes 119, a secret 65.
const MAX_KEY_FILE_LEN: u64 = 16 << 10;
/// The mode of a file with a key in it.
const PRIVATE_MODE: u32 = 0o600;
/// The permission bits of everyone but the owner.
const OTHERS: u32 = 0o077;

/// Why a key or secret file cannot be used. The messages name the file and never show its content.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("{} cannot be read: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It cannot be written.
    #[error("{} cannot be written: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Others than its owner may read or write it.
    #[error("{} has mode {mode:04o}, so that others can read or change it: run chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds something else.
    #[error("{} does not hold {wanted}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
    },
    /// The system has no randomness to give.
    #[error("no random bytes for a new key: {0}")]
    NoRandomness(getrandom::Error),
}

/// Reads a file that only its owner may touch; `Ok(None)` if there is none.
///
/// # Errors
///
/// [`KeyFileError::Read`], [`KeyFileError::Exposed`]; [`KeyFileError::Malformed`] if it is no
/// plain file or far too long for something `wanted`.
pub(super) fn read_private(path: &Path, wanted: &'static str) -> Result<Option<Zeroizing<Vec<u8>>>, KeyFileError> {
    let unreadable = |error| KeyFileError::Read { path: path.to_owned(), error };
    // A pipe or device in the place of the file must not make this wait.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() || metadata.len() > MAX_KEY_FILE_LEN {
        return Err(KeyFileError::Malformed { path: path.to_owned(), wanted });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(KeyFileError::Exposed { path: path.to_owned(), mode });
    }
    let mut content = Zeroizing::new(Vec::with_capacity(MAX_KEY_FILE_LEN as usize));
    file.take(MAX_KEY_FILE_LEN).read_to_end(&mut content).map_err(unreadable)?;
    Ok(Some(content))
}

/// Creates `path` with `content` and mode 0600, whole or not at all; `Ok(false)` if there is a
/// file already, which is left as it is. The directory must exist.
///
/// # Errors
///
/// [`KeyFileError::Write`], [`KeyFileError::NoRandomness`].
pub(super) fn create_private(path: &Path, content: &[u8]) -> Result<bool, KeyFileError> {
    let unwritable = |error| KeyFileError::Write { path: path.to_owned(), error };
    let mut nonce = [0; 8];
    getrandom::fill(&mut nonce).map_err(KeyFileError::NoRandomness)?;
    let temporary = path.with_added_extension(format!("{:016x}.tmp", u64::from_le_bytes(nonce)));
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };

    let create = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_MODE).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        // Unlike a rename, a link never replaces the file of another starter.
        fs::hard_link(&temporary, path)
    };
    let created = create();
    let removed = fs::remove_file(&temporary);
    match created {
        Ok(()) => {
            removed.map_err(unwritable)?;
            File::open(directory).and_then(|directory| directory.sync_all()).map_err(unwritable)?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(unwritable(error)),
    }
}
