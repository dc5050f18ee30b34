//! The life of a mount: where it may begin, how it ends.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use byhash::fuse::{MountError, clear_dead, unmount};
use tokio::runtime::Runtime;

use super::memory_source::MemorySource;
use super::mounted::{Mounted, fuse_is_here, mount};

/// Tells a copy of this program to be a node and where to mount.
const BE_A_NODE: &str = "BYHASH_TEST_BE_A_NODE_AT";

/// Not a test of its own: the node that [`leave_dead_mount`] kills.
#[test]
fn be_a_node() {
    let Some(directory) = std::env::var_os(BE_A_NODE) else { return };
    let runtime = Runtime::new().unwrap();
    let mount = mount(Path::new(&directory), &MemorySource::default(), &runtime).unwrap();
    println!("\nready");
    runtime.block_on(mount.ended());
}

/// Leaves what a killed node leaves behind at `directory`.
fn leave_dead_mount(directory: &Path) {
    let mut node = Command::new(std::env::current_exe().unwrap());
    node.args(["--exact", "life::be_a_node", "--nocapture"]).env(BE_A_NODE, directory).stdout(Stdio::piped());
    let mut node = node.spawn().unwrap();
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "ready"), "the node did not come up");
    // Now the kernel has the root's attributes and believes them although the node is dead.
    assert!(std::fs::metadata(directory).unwrap().is_dir());
    node.kill().unwrap();
    node.wait().unwrap();
    assert_eq!(std::fs::read_dir(directory).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
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
    assert_eq!((m.fs.open_count(), m.fs.inode_count()), (1, 1));
    m.mount.unmount().unwrap();
    assert_eq!(lines_of_mount_table(m.directory.path()), 0);
    assert_eq!((m.fs.open_count(), m.fs.inode_count()), (0, 0), "the kernel did not take them back one by one");
    assert!(file.read_exact_at(&mut [0; 16], 1 << 19).is_err());
}

#[test]
fn an_unmount_from_outside_is_noticed() {
    let Some(m) = Mounted::new("an_unmount_from_outside_is_noticed") else { return };
    std::fs::read(m.file(m.source.add("abc"))).unwrap();
    unmount(m.directory.path()).unwrap();
    m.runtime.block_on(m.mount.ended());
    assert_eq!(m.fs.inode_count(), 0, "the kernel forgets nothing at the end");
    m.mount.unmount().unwrap();
}

#[test]
fn what_was_mounted_at_the_place_since_is_left_alone() {
    let Some(m) = Mounted::new("what_was_mounted_at_the_place_since_is_left_alone") else { return };
    // Open, so that our mount lives on, with its device number, after it was taken off.
    let _file = File::open(m.file(m.source.add("abc"))).unwrap();
    unmount(m.directory.path()).unwrap();
    assert!(!m.mount.at().is_there().unwrap());
    leave_dead_mount(m.directory.path());
    m.mount.unmount().unwrap();
    assert_eq!(lines_of_mount_table(m.directory.path()), 1);
    unmount(m.directory.path()).unwrap();
}

#[test]
fn only_dead_mounts_are_cleared_away() {
    let Some(m) = Mounted::new("only_dead_mounts_are_cleared_away") else { return };
    let file = m.file(m.source.add("abc"));
    clear_dead(m.directory.path()).unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"abc", "it lives");
    unmount(m.directory.path()).unwrap();
    clear_dead(m.directory.path()).unwrap();
    leave_dead_mount(m.directory.path());
    clear_dead(m.directory.path()).unwrap();
    assert_eq!(lines_of_mount_table(m.directory.path()), 0);
    assert!(matches!(clear_dead(Path::new("/no/such/place")), Err(MountError::Missing(_))));
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
