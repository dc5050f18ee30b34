//! Unmounting, of live and of dead mounts.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::mount_point::resolve;
use super::mount_table::MountEntry;
use super::{FS_TYPE, MountError, fusermount};

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
