//! The life of a mount: where it may begin, how it ends.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use byhash::fuse::{MountError, unmount};
use tokio::runtime::Runtime;

use super::memory_source::MemorySource;
use super::mounted::{Mounted, fuse_is_here, mount};

/// What a killed node leaves behind: a mount whose device nobody holds.
fn leave_dead_mount(directory: &Path) {
    let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let data = CString::new(format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd())).unwrap();
    let target = CString::new(directory.as_os_str().as_bytes()).unwrap();
    // SAFETY: all pointers are to strings that end in zero.
    let mounted = unsafe {
        libc::mount(c"byhash".as_ptr(), target.as_ptr(), c"fuse.byhash".as_ptr(), libc::MS_RDONLY, data.as_ptr().cast())
    };
    assert_eq!(mounted, 0, "{}", std::io::Error::last_os_error());
    drop(device);
    assert_eq!(std::fs::metadata(directory).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
}

fn lines_of_mount_table(directory: &Path) -> usize {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| line.contains(directory.to_str().unwrap())).count()
}

/// Mounts where it must not succeed.
fn refused(directory: &Path) -> MountError {
    match mount(directory, &MemorySource::default(), &Runtime::new().unwrap()) {
        Ok(_) => panic!("mounted at {}", directory.display()),
        Err(error) => error,
    }
}

#[test]
fn a_mount_point_must_be_an_existing_directory() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    let error = refused(&missing);
    assert!(matches!(error, MountError::Missing(_)) && error.to_string().contains("mkdir -p"), "{error}");
    std::fs::write(&missing, "").unwrap();
    assert!(matches!(refused(&missing), MountError::NotADirectory(_)));
    assert!(matches!(refused(Path::new("/proc")), MountError::InUse { kind, .. } if kind == "proc"));
}

#[test]
fn a_live_mount_is_refused_and_left_alone() {
    let Some(m) = Mounted::new("a_live_mount_is_refused_and_left_alone") else { return };
    let error = refused(m.directory.path());
    assert!(matches!(&error, MountError::InUse { kind, .. } if kind == "fuse.byhash"), "{error}");
    assert_eq!(std::fs::read(m.file(m.source.add("abc"))).unwrap(), b"abc");
}

#[test]
fn dead_mounts_are_replaced() {
    if !fuse_is_here("dead_mounts_are_replaced") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    leave_dead_mount(directory.path());
    let (source, runtime) = (MemorySource::default(), Runtime::new().unwrap());
    let mount = mount(directory.path(), &source, &runtime).unwrap();
    assert_eq!(lines_of_mount_table(directory.path()), 1);
    let file = directory.path().join("by-hash").join(source.add("abc").to_string());
    assert_eq!(std::fs::read(file).unwrap(), b"abc");
    mount.unmount().unwrap();
    assert_eq!(lines_of_mount_table(directory.path()), 0);
}

#[test]
fn unmounting_leaves_the_directory_as_it_was() {
    let Some(m) = Mounted::new("unmounting_leaves_the_directory_as_it_was") else { return };
    assert_eq!(m.mount.path(), m.directory.path().canonicalize().unwrap());
    m.mount.unmount().unwrap();
    assert_eq!(lines_of_mount_table(m.directory.path()), 0);
    assert_eq!(std::fs::read_dir(m.directory.path()).unwrap().count(), 0);
}

#[test]
fn dropping_unmounts() {
    let Some(m) = Mounted::new("dropping_unmounts") else { return };
    let Mounted { mount, directory, .. } = m;
    drop(mount);
    assert_eq!(lines_of_mount_table(directory.path()), 0);
}

#[test]
fn unmounting_ends_though_a_file_is_open() {
    let Some(m) = Mounted::new("unmounting_ends_though_a_file_is_open") else { return };
    let file = File::open(m.file(m.source.add(vec![7; 1 << 20]))).unwrap();
    file.read_exact_at(&mut [0; 16], 0).unwrap();
    m.mount.unmount().unwrap();
    assert_eq!(lines_of_mount_table(m.directory.path()), 0);
}

#[test]
fn an_unmount_from_outside_is_noticed() {
    let Some(m) = Mounted::new("an_unmount_from_outside_is_noticed") else { return };
    assert!(Command::new("umount").arg(m.directory.path()).status().unwrap().success());
    m.runtime.block_on(m.mount.ended());
    // Somebody else's mount at the same place is not taken off.
    leave_dead_mount(m.directory.path());
    m.mount.unmount().unwrap();
    assert_eq!(lines_of_mount_table(m.directory.path()), 1);
    unmount(m.directory.path()).unwrap();
}

#[test]
fn unmount_takes_off_byhash_alive_or_dead_and_nothing_else() {
    let Some(m) = Mounted::new("unmount_takes_off_byhash_alive_or_dead_and_nothing_else") else { return };
    unmount(m.directory.path()).unwrap();
    m.runtime.block_on(m.mount.ended());
    assert!(matches!(unmount(m.directory.path()), Err(MountError::NotMounted(_))));
    leave_dead_mount(m.directory.path());
    unmount(m.directory.path()).unwrap();
    assert_eq!(lines_of_mount_table(m.directory.path()), 0);
    assert!(matches!(unmount(Path::new("/proc")), Err(MountError::NotOurs { kind, .. }) if kind == "proc"));
    assert!(matches!(unmount(Path::new("/no/such/place")), Err(MountError::Missing(_))));
}
