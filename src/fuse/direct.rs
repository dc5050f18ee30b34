//! Mounting with the system call, for those who may.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{DEVICE, FS_TYPE, MountOptions, shared_options};

/// Opens the FUSE device; its error tells whether the helper is worth trying.
pub(super) fn open_device() -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).write(true).open(DEVICE)?.into())
}

/// Mounts at `path` and returns the device on which the kernel now sends requests.
pub(super) fn mount(path: &Path, options: &MountOptions) -> io::Result<OwnedFd> {
    let device = open_device()?;
    // SAFETY: these calls have no preconditions and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let fd = device.as_raw_fd();
    let data = format!("fd={fd},rootmode=40000,user_id={uid},group_id={gid},{}", shared_options(options));
    let (source, kind) = (CString::new(options.source.as_str())?, CString::new(FS_TYPE)?);
    let (target, data) = (CString::new(path.as_os_str().as_bytes())?, CString::new(data)?);
    let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV;
    // SAFETY: all four pointers are to strings that end in zero and outlive the call.
    let result = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
    if result == 0 { Ok(device) } else { Err(io::Error::last_os_error()) }
}
