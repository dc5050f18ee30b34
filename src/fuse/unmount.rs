//! Unmounting, of live and of dead mounts.

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::mount_point::{ask, resolve};
use super::mount_table::MountEntry;
use super::{FS_TYPE, MountError, fusermount};
use crate::fs::CONTROL_ATTRIBUTE;

/// The longest path that the kernel takes, in bytes (`PATH_MAX` of linux/limits.h).
const MAX_PATH_LEN: usize = 4096;

/// Unmounts the byhash mount at `path`, dead or alive: at once for those who come later, while
/// files that are open stay readable as long as their node lives. A mount of another kind is left
/// alone.
pub fn unmount(path: &Path) -> Result<(), MountError> {
    let path = resolve(path)?;
    match MountEntry::at(&path).map_err(|source| MountError::Inspect { path: path.clone(), source })? {
        None => Err(MountError::NotMounted(path)),
        Some(entry) if entry.kind != FS_TYPE => Err(MountError::NotOurs { path, kind: entry.kind }),
        Some(_) => detach(&path),
    }
}

/// The socket on which the node of the byhash mount at `path` takes commands, if it lives and has one. Blocks for some
/// seconds at most.
pub fn control_socket(path: &Path) -> Option<PathBuf> {
    let path = resolve(path).ok()?;
    let entry = MountEntry::at(&path).ok()??;
    if entry.kind != FS_TYPE {
        return None;
    }
    ask(&path, control_attribute)?
}

fn control_attribute(path: &CStr) -> Option<PathBuf> {
    let name = CString::new(CONTROL_ATTRIBUTE).ok()?;
    let mut value = vec![0_u8; MAX_PATH_LEN];
    // SAFETY: both strings end in zero, and the length is that of the buffer.
    let len = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(usize::try_from(len).ok()?);
    Some(OsString::from_vec(value).into())
}

/// Where the kernel lets the connection behind the mount with this device number be controlled.
pub(super) fn connection_dir(device: &str) -> PathBuf {
    Path::new("/sys/fs/fuse/connections").join(device.rsplit(':').next().unwrap_or_default())
}

/// Takes the topmost mount off `path`, which has been looked up in the mount table.
pub(super) fn detach(path: &Path) -> Result<(), MountError> {
    let failed = |source| MountError::Detach { path: path.to_owned(), source };
    let target = CString::new(path.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
    // SAFETY: the pointer is to a string that ends in zero and outlives the call.
    if unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EPERM) => fusermount::unmount(path).map_err(|helper| match helper.kind() {
            io::ErrorKind::NotFound => failed(error),
            _ => failed(helper),
        }),
        _ => Err(failed(error)),
    }
}
