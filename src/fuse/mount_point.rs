//! Whether a directory can be mounted on; dead mounts are cleared away.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use super::MountError;
use super::mount_table::MountEntry;
use super::unmount::detach;

/// How long a mount that is there already may take to show that it lives. Longer than any
/// lookup; a mount that is silent for longer is refused as a live one.
const SIGN_OF_LIFE: Duration = Duration::from_secs(3);

/// How many dead mounts on top of each other are cleared away at most.
const MAX_DEAD: usize = 16;

/// The absolute path of the mount point `path`, without touching what is mounted there.
pub(super) fn resolve(path: &Path) -> Result<PathBuf, MountError> {
    let inspect = |source| MountError::Inspect { path: path.to_owned(), source };
    let absolute = std::path::absolute(path).map_err(inspect)?;
    if let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name())
        && let Ok(parent) = parent.canonicalize()
    {
        let direct = parent.join(name);
        if MountEntry::at(&direct).map_err(inspect)?.is_some() {
            return Ok(direct);
        }
    }
    absolute.canonicalize().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => MountError::Missing(path.to_owned()),
        _ => inspect(source),
    })
}

/// The absolute path of the mount point `path`, unless a mount there would hide one of `needed`.
fn resolve_beside(path: &Path, needed: &[PathBuf]) -> Result<PathBuf, MountError> {
    let path = resolve(path)?;
    match needed.iter().map(|needed| real(needed)).find(|needed| needed.starts_with(&path)) {
        Some(needed) => Err(MountError::Hides { path, needed }),
        None => Ok(path),
    }
}

/// The absolute `path` without links and `..`, as far as it exists; what does not is made where it is named.
fn real(path: &Path) -> PathBuf {
    let mut real = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(real.pop()),
            part => {
                real.push(part);
                real = real.canonicalize().unwrap_or(real);
            }
        }
    }
    real
}

/// Finds out, without changing anything, what there is to refuse at `path`: that it is no directory, that something lives
/// there, or that a mount would hide one of `needed`. Blocks as long as the file system there does.
pub fn check(path: &Path, needed: &[PathBuf]) -> Result<(), MountError> {
    let path = resolve_beside(path, needed)?;
    match what_is_at(&path)? {
        There::Live(entry) => Err(MountError::InUse { path, kind: entry.kind }),
        There::Dead | There::Automount => Ok(()),
        There::Nothing => must_be_directory(&path),
    }
}

/// What is mounted at a path.
enum There {
    Nothing,
    /// What has somebody mount there when it is asked for anything, such as `x-systemd.automount`: a directory, of which
    /// nothing may be asked. Whoever is not of the process group of that somebody would wait for the mount.
    Automount,
    /// A FUSE mount that nobody serves any more.
    Dead,
    Live(MountEntry),
}

fn what_is_at(path: &Path) -> Result<There, MountError> {
    let entry = MountEntry::at(path).map_err(|source| MountError::Inspect { path: path.to_owned(), source })?;
    Ok(match entry {
        None => There::Nothing,
        Some(entry) if entry.kind == "autofs" => There::Automount,
        Some(entry) if entry.is_fuse() && is_dead(path) => There::Dead,
        Some(entry) => There::Live(entry),
    })
}

fn must_be_directory(path: &Path) -> Result<(), MountError> {
    let path = path.to_owned();
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(MountError::NotADirectory(path)),
        Err(source) => Err(MountError::Inspect { path, source }),
    }
}

/// Makes sure that `path` is a directory on which nothing lives, detaching dead FUSE mounts, and that
/// none of `needed` lies there, and returns its absolute path. A directory that is not empty is allowed,
/// with a warning: what is in it is hidden, not lost.
pub(super) fn prepare(path: &Path, needed: &[PathBuf]) -> Result<PathBuf, MountError> {
    let path = resolve_beside(path, needed)?;
    let inspect = |source| MountError::Inspect { path: path.clone(), source };
    match detach_dead(&path)? {
        There::Live(entry) => return Err(MountError::InUse { path, kind: entry.kind }),
        There::Automount => return Ok(path),
        There::Dead | There::Nothing => {}
    }
    must_be_directory(&path)?;
    if std::fs::read_dir(&path).map_err(inspect)?.next().is_some() {
        tracing::warn!(mount_point = %path.display(), "the mount point is not empty; its content is hidden while mounted");
    }
    Ok(path)
}

/// Detaches the dead FUSE mounts at `path`; whatever else is there is left alone. Blocks for some seconds at most.
pub fn clear_dead(path: &Path) -> Result<(), MountError> {
    detach_dead(&resolve(path)?).map(drop)
}

/// Detaches the dead FUSE mounts at `path`, and tells what else is there: a dead one only if there are too many.
fn detach_dead(path: &Path) -> Result<There, MountError> {
    for _ in 0..MAX_DEAD {
        match what_is_at(path)? {
            There::Dead => {}
            other => return Ok(other),
        }
        tracing::warn!(mount_point = %path.display(), "a dead mount is in the way and is detached");
        detach(path)?;
    }
    Ok(There::Dead)
}

/// Whether nobody serves the mount at `path` any more.
pub(super) fn is_dead(path: &Path) -> bool {
    ask(path, statfs_finds_nobody).unwrap_or(false)
}

/// Asks something of what is mounted at `path`, on a thread of its own, because a hung server would hold the caller for
/// good. `None` if there is no answer in time.
pub(super) fn ask<T: Send + 'static>(path: &Path, question: fn(&CStr) -> T) -> Option<T> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let (tell, told) = mpsc::channel();
    let asked = std::thread::Builder::new().name("byhash-ask".to_owned()).spawn(move || {
        // The receiver is gone only if it waited no longer.
        let _ = tell.send(question(&path));
    });
    asked.ok()?;
    told.recv_timeout(SIGN_OF_LIFE).ok()
}

/// Statfs is never answered from the kernel's caches, as stat may be long after the server died.
fn statfs_finds_nobody(path: &CStr) -> bool {
    let mut figures = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the path ends in zero, and there is room for the answer, which is not looked at.
    let result = unsafe { libc::statfs(path.as_ptr(), figures.as_mut_ptr()) };
    result != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOTCONN)
}
