//! Mounting with the setuid helper `fusermount3`, for those who may not do it themselves.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{MountError, MountOptions, SOURCE_NAME, shared_options};

/// The helper of libfuse 3.
const HELPER: &str = "fusermount3";

/// Its settings.
const CONF: &str = "/etc/fuse.conf";

/// The environment variable that tells the helper on which descriptor to send the device.
const SOCKET_VARIABLE: &str = "_FUSE_COMMFD";

/// Has the helper mount at `path` and returns the device on which the kernel now sends requests.
/// [`MountError::NoPrivilege`] if the helper is not installed.
pub(super) fn mount(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let failed = |message: String| MountError::Helper { path: path.to_owned(), message };
    // SAFETY: this call has no preconditions and cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    // What cannot be read is left to the helper to judge.
    if options.allow_other && !is_root && std::fs::read_to_string(CONF).is_ok_and(|conf| !allows_others(&conf)) {
        return Err(MountError::NotForOthers { conf: CONF });
    }
    let (ours, theirs) = UnixStream::pair().map_err(|error| failed(error.to_string()))?;
    let output = {
        // The helper finds the socket as its standard input. Both ends but ours are closed when
        // the block ends, so that receiving cannot wait for a helper that died.
        let mut command = Command::new(HELPER);
        command.arg("-o");
        let (source, shared) = (escaped(&options.source), shared_options(options));
        command.arg(format!("ro,nosuid,nodev,fsname={source},subtype={SOURCE_NAME},{shared}"));
        command.arg("--").arg(path).env(SOCKET_VARIABLE, "0").stdin(Stdio::from(OwnedFd::from(theirs)));
        command.output()
    };
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => MountError::NoPrivilege,
        _ => failed(error.to_string()),
    })?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    receive_descriptor(&ours).map_err(|error| failed(format!("it sent no device: {error}")))
}

/// A value among mount options, as libfuse's helper takes it.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace(',', r"\,")
}

/// Whether the helper's settings let users open their mounts to others (fuse(8)).
fn allows_others(conf: &str) -> bool {
    conf.lines().any(|line| line.trim() == "user_allow_other")
}

/// Has the helper detach what is mounted at `path`.
pub(super) fn unmount(path: &Path) -> io::Result<()> {
    let output = Command::new(HELPER).args(["-u", "-z", "--"]).arg(path).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// Receives one file descriptor, as unix(7) describes it.
fn receive_descriptor(socket: &UnixStream) -> io::Result<OwnedFd> {
    // SAFETY: computes a size; no preconditions.
    const SPACE: usize = unsafe { libc::CMSG_SPACE(mem::size_of::<RawFd>() as u32) } as usize;
    // Of u64, so that it is aligned as a cmsghdr must be.
    let mut control = [0_u64; SPACE.div_ceil(mem::size_of::<u64>())];
    let mut byte = 0_u8;
    let mut data = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: all zeros is a valid msghdr: null pointers and no lengths.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = SPACE as _;
    // SAFETY: the message points to one byte and to SPACE bytes of control data, both alive.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel filled the message in; CMSG_FIRSTHDR checks the length of its control data.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    // SAFETY: not null, so it points to a whole header inside `control`.
    let is_descriptor = !header.is_null()
        && unsafe {
            (*header).cmsg_level == libc::SOL_SOCKET
                && (*header).cmsg_type == libc::SCM_RIGHTS
                && (*header).cmsg_len as usize >= libc::CMSG_LEN(mem::size_of::<RawFd>() as u32) as usize
        };
    if !is_descriptor {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // SAFETY: the header says that its data holds a descriptor, which the kernel has just made
    // for this process and which nobody else owns. It may lie unaligned.
    Ok(unsafe { OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::mount_table::MountEntry;

    #[test]
    fn a_helper_that_dies_before_sending_is_an_error_and_not_a_wait() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert_eq!(receive_descriptor(&ours).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn only_a_line_of_its_own_allows_others() {
        assert!(allows_others("mount_max = 9\n  user_allow_other\n"));
        assert!(!allows_others("") && !allows_others("#user_allow_other\nuser_allow_others\n"));
    }

    #[test]
    fn a_source_stays_one_option() {
        assert_eq!(escaped(r"a,allow_other\b"), r"a\,allow_other\\b");
        assert_eq!(escaped("[2001:db8::1]:7117"), "[2001:db8::1]:7117");
    }

    #[test]
    fn a_byte_without_a_descriptor_is_an_error() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        io::Write::write_all(&mut theirs, b"x").unwrap();
        assert!(receive_descriptor(&ours).is_err());
    }

    #[test]
    fn the_helper_mounts_hands_over_the_device_and_unmounts() {
        let installed = Command::new(HELPER).arg("--version").output().is_ok();
        if !installed || !Path::new(crate::fuse::DEVICE).exists() {
            assert!(std::env::var_os("CI").is_none(), "CI must have fusermount3 and /dev/fuse");
            eprintln!("skipped: no fusermount3 or no /dev/fuse");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let device = mount(directory.path(), &MountOptions { allow_other: false, ..MountOptions::default() }).unwrap();
        let here = || MountEntry::at(directory.path()).unwrap().map(|entry| entry.kind);
        assert_eq!(here().as_deref(), Some(crate::fuse::FS_TYPE));
        // The kernel's first request waits on the device: at least a header of 40 bytes.
        let mut request = vec![0; 1 << 17];
        assert!(io::Read::read(&mut std::fs::File::from(device), &mut request).unwrap() >= 40);
        unmount(directory.path()).unwrap();
        assert_eq!(here(), None);
    }

    #[test]
    fn what_the_helper_complains_of_is_passed_on() {
        match mount(Path::new("/no/such/place"), &MountOptions { allow_other: false, ..MountOptions::default() }) {
            Err(MountError::Helper { message, .. }) => assert!(message.contains("/no/such/place"), "{message}"),
            Err(MountError::NoPrivilege) => eprintln!("skipped: no fusermount3"),
            other => panic!("{other:?}"),
        }
    }
}
