//! Where things lie below the cache directory.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::StoreError;
use super::error::io_error;
use crate::ids::ContentHash;

/// The suffix of outboard files: an outboard in pre-order over blocks of 2^4 chunks.
pub(super) const OUTBOARD_SUFFIX: &str = ".obao4";

/// How the names of files in `tmp` begin that are to take the place of damaged ones.
pub(super) const REPAIR_PREFIX: &str = "repair-";

/// From this many files on, one `syncfs` is cheaper than an `fdatasync` each.
pub(super) const SYNC_FILE_SYSTEM_FROM: usize = 16;

/// How many directories the blobs are spread over, by the first byte of the hash.
pub(super) const SHARDS: u16 = 256;

/// The paths of a cache directory.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// Makes the directories that do not exist yet, for this user only.
    pub fn create(dir: &Path) -> Result<Self, StoreError> {
        let layout = Self { dir: std::path::absolute(dir).map_err(io_error("find", dir))? };
        make_dir(&layout.dir)?;
        make_dir(&layout.tmp())?;
        make_dir(&layout.blobs())?;
        for shard in 0..SHARDS {
            make_dir(&layout.shard(shard as u8))?;
        }
        sync_dir(&layout.blobs())?;
        sync_dir(&layout.dir)?;
        Ok(layout)
    }

    /// The same paths, whether there is anything or not.
    pub fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Files on their way in.
    pub fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    /// The index.
    pub fn index(&self) -> PathBuf {
        self.dir.join("index.redb")
    }

    /// The directory of the blobs whose hash begins with `shard`.
    pub fn shard(&self, shard: u8) -> PathBuf {
        self.blobs().join(format!("{shard:02x}"))
    }

    /// The content of a blob.
    pub fn content(&self, hash: &ContentHash) -> PathBuf {
        self.shard(hash.as_bytes()[0]).join(hash.to_string())
    }

    /// The outboard of a blob.
    pub fn outboard(&self, hash: &ContentHash) -> PathBuf {
        self.shard(hash.as_bytes()[0]).join(format!("{hash}{OUTBOARD_SUFFIX}"))
    }

    /// Removes the files of a blob, as far as they exist.
    pub fn unlink(&self, hash: &ContentHash) -> Result<(), StoreError> {
        remove_if_there(&self.content(hash))?;
        remove_if_there(&self.outboard(hash))
    }

    /// Makes the names in the directory of `hash` durable.
    pub fn sync_shard(&self, hash: &ContentHash) -> Result<(), StoreError> {
        self.sync_shard_of(hash.as_bytes()[0])
    }

    /// Makes the names in a shard durable.
    pub fn sync_shard_of(&self, shard: u8) -> Result<(), StoreError> {
        sync_dir(&self.shard(shard))
    }

    /// Takes the lock on the directory; it is held as long as the file is open.
    pub fn lock(&self) -> Result<File, StoreError> {
        let path = lock_file(&self.dir);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(StoreError::Locked { dir: self.dir.clone(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(io_error("lock", &path)(source)),
        }
        file.set_len(0).map_err(io_error("write", &path))?;
        writeln!(file, "{}", std::process::id()).map_err(io_error("write", &path))?;
        Ok(file)
    }

    /// The lock of a batch of files on their way in. [`StoreError::NotStaged`] if there is none of this name.
    pub fn staged_batch(&self, batch: &str) -> Result<File, StoreError> {
        let refused = || StoreError::NotStaged(batch.to_owned());
        if !is_plain(batch) {
            return Err(refused());
        }
        let options = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let path = self.tmp().join(batch);
        let file = OpenOptions::new().read(true).write(true).custom_flags(options).open(path).map_err(|_| refused())?;
        if file.metadata().is_ok_and(|metadata| metadata.is_file()) { Ok(file) } else { Err(refused()) }
    }

    /// Notes in the length of its lock how many bytes a batch of files on their way in may take.
    pub fn note_room(&self, lock: &File, batch: &str, bytes: u64) -> Result<(), StoreError> {
        lock.set_len(bytes).map_err(|error| io_error("set the length of", &self.tmp().join(batch))(error))
    }

    fn blobs(&self) -> PathBuf {
        self.dir.join("blobs")
    }
}

/// The batch that a file in `tmp` belongs to; it is also the name of the batch's lock.
pub(super) fn batch_of(name: &str) -> &str {
    name.split_once('.').map_or(name, |(batch, _)| batch)
}

/// Whether a part of a name in `tmp` stays there, whoever it comes from.
pub(super) fn is_plain(part: &str) -> bool {
    !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// The mode of a file for this user only.
pub(super) const PRIVATE_MODE: u32 = 0o600;

/// Makes a file that is not there yet, for this user only.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    create_with_mode(path, PRIVATE_MODE)
}

/// Makes a file that is not there yet, and opens it for reading and writing whatever its mode.
pub(super) fn create_with_mode(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path)
}

/// Removes a file; that it is not there is no error.
pub(super) fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(io_error("sync", path))
}

/// Makes all that has been written to the file system of `dir` durable.
pub(super) fn sync_file_system(dir: &Path) -> Result<(), StoreError> {
    let file = File::open(dir).map_err(io_error("open", dir))?;
    // SAFETY: syncfs takes a file descriptor, which `file` keeps open for the call, and no pointer.
    match unsafe { libc::syncfs(file.as_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io_error("sync", dir)(io::Error::last_os_error())),
    }
}

fn make_dir(path: &Path) -> Result<(), StoreError> {
    let made = if path.exists() { Ok(()) } else { DirBuilder::new().recursive(true).mode(0o700).create(path) };
    made.map_err(io_error("make the directory", path))
}

/// The file that is locked while the store in `dir` is open.
pub(super) fn lock_file(dir: &Path) -> PathBuf {
    dir.join("lock")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn directories_are_private_and_blobs_are_spread_by_their_first_byte() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(&dir.path().join("deep/cache")).unwrap();
        let mode = fs::metadata(layout.dir()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let name = ContentHash::EMPTY.to_string();
        assert_eq!(layout.content(&ContentHash::EMPTY), layout.dir().join("blobs/af").join(&name));
        assert_eq!(layout.outboard(&ContentHash::EMPTY), layout.dir().join("blobs/af").join(name + ".obao4"));
        Layout::create(layout.dir()).unwrap();
    }

    #[test]
    fn a_second_lock_is_refused_and_names_the_first_process() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let held = layout.lock().unwrap();
        let refused = layout.lock().unwrap_err();
        assert!(matches!(refused, StoreError::Locked { pid, .. } if pid == Some(std::process::id())), "{refused}");
        drop(held);
        layout.lock().unwrap();
    }
}
