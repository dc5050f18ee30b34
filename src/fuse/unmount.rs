//! Unmounting, of live and of dead mounts.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::mount_point::resolve;
use super::mount_table::MountEntry;
use super::{FS_TYPE, MountError, fusermount};

/// How long it takes a mount to end once nobody has a file of it open any more, at most.
const END_WAIT: Duration = Duration::from_secs(1);

/// The time between two looks at whether it has ended.
const END_POLL: Duration = Duration::from_millis(10);

/// What came of unmounting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// The mount is gone, as far as can be told.
    Ended,
    /// Nobody new comes in, but somebody still has a file open.
    FilesOpen,
}

/// Unmounts the byhash mount at `path`, dead or alive: at once for those who come later, while
/// files that are open stay readable as long as their node lives. A mount of another kind is left
/// alone. Blocks for a second at most.
pub fn unmount(path: &Path) -> Result<Unmounted, MountError> {
    let path = resolve(path)?;
    match MountEntry::at(&path).map_err(|source| MountError::Inspect { path: path.clone(), source })? {
        None => Err(MountError::NotMounted(path)),
        Some(entry) if entry.kind != FS_TYPE => Err(MountError::NotOurs { path, kind: entry.kind }),
        Some(entry) => {
            detach(&path)?;
            Ok(wait_for_end(&entry.device))
        }
    }
}

/// Waits until the kernel knows nothing of the FUSE connection of `device` any more. Where its control file system
/// is not mounted, nothing can be told.
fn wait_for_end(device: &str) -> Unmounted {
    let connection = connection_dir(device);
    let until = Instant::now() + END_WAIT;
    while connection.exists() {
        if Instant::now() >= until {
            return Unmounted::FilesOpen;
        }
        std::thread::sleep(END_POLL);
    }
    Unmounted::Ended
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
