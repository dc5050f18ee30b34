//! Nodes with a mount that end, in order or not, and start again.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use super::content::{MIB, content, hash_of, hash_of_file};
use super::node::{Sandbox, asking, eventually, fuse_is_here};
use super::skip::skip;

fn is_mounted(path: &std::path::Path) -> usize {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().filter(|line| line.contains(path.to_str().unwrap())).count()
}

#[test]
fn after_a_crash_in_the_middle_of_a_read_the_node_goes_on_where_it_was() {
    if !fuse_is_here("after_a_crash_in_the_middle_of_a_read_the_node_goes_on_where_it_was") {
        return;
    }
    const LEN: usize = 200 * MIB;
    const BEFORE: usize = 80 * MIB;
    let sandbox = Sandbox::new();
    let big = content(40, LEN);
    let hash = hash_of(&big);
    let holder = sandbox.seat("a");
    holder.add(&big);
    holder.add(b"small");
    // So slowly that nobody has read it to its end before the node is killed.
    let holder = holder.serve(["--open", "--serve-rate", "40MB"]);
    let reader = sandbox.reader("b", &[&holder]);
    let mut file = File::open(reader.file(&hash)).unwrap();
    let mut buffer = vec![0; BEFORE];
    file.read_exact(&mut buffer).unwrap();
    assert!(buffer == big[..BEFORE]);
    // Read-ahead has gone further than what was read, so that is written by now, or soon.
    assert_eq!(std::fs::read(reader.file(&hash_of(b"small"))).unwrap(), b"small");
    eventually("the store is flushed", || {
        let listed =
            |name: &str| std::fs::read_dir(reader.by_hash()).unwrap().any(|entry| entry.unwrap().file_name() == *name);
        listed(&hash_of(b"small")) && reader.metric("store_unflushed_blobs") == 0
    });
    // Somebody is in the middle of reading when the node is killed.
    let reading = std::thread::spawn(move || {
        let mut rest = Vec::new();
        let error = file.read_to_end(&mut rest).unwrap_err().raw_os_error();
        (rest, error)
    });
    eventually("the reader has gone on", || reader.metric("read_bytes") > (BEFORE + 4 * MIB) as u64);
    let seat = reader.crash();
    let (rest, error) = reading.join().unwrap();
    assert!(matches!(error, Some(libc::ENOTCONN | libc::ECONNABORTED | libc::EIO)), "{error:?}");
    assert!(rest == big[BEFORE..BEFORE + rest.len()], "what came before the error is right");

    assert_eq!(is_mounted(&seat.mount_point), 1, "the dead mount is in the way");
    let reader = seat.mount(asking(&[&holder]));
    assert_eq!(is_mounted(&seat.mount_point), 1, "the dead mount is replaced");
    assert_eq!(hash_of_file(&reader.file(&hash)).unwrap(), hash);
    let fetched = reader.metric("fetched_bytes");
    assert!(fetched > 0 && fetched <= (LEN - BEFORE) as u64, "{fetched} bytes fetched after the crash");
}

#[test]
fn what_is_complete_is_read_without_peers_after_a_crash() {
    if !fuse_is_here("what_is_complete_is_read_without_peers_after_a_crash") {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = content(41, 5 * MIB);
    let hash = hash_of(&bytes);
    let holder = sandbox.holder("a", &[&bytes]);
    let reader = sandbox.reader("b", &[&holder]);
    assert!(std::fs::read(reader.file(&hash)).unwrap() == bytes);
    eventually("the store is flushed", || {
        std::fs::read_dir(reader.by_hash()).unwrap().count() == 1 && reader.metric("store_unflushed_blobs") == 0
    });
    let seat = reader.crash();
    holder.stop();
    let reader = seat.mount([]);
    assert!(std::fs::read(reader.file(&hash)).unwrap() == bytes);
    assert_eq!(reader.metric("fetched_bytes"), 0);
}

#[test]
fn told_to_end_a_node_takes_its_mount_off_although_a_file_is_open() {
    if !fuse_is_here("told_to_end_a_node_takes_its_mount_off_although_a_file_is_open") {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = content(42, 30 * MIB);
    let holder = sandbox.holder("a", &[&bytes]);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let reader = sandbox.reader(&format!("b{signal}"), &[&holder]);
        let seat = std::ops::Deref::deref(&reader).clone();
        let file = File::open(reader.file(&hash_of(&bytes))).unwrap();
        file.read_exact_at(&mut [0; 4096], 7 << 20).unwrap();
        assert_eq!(reader.end(signal), Some(0));
        assert_eq!(is_mounted(&seat.mount_point), 0);
        assert!(!seat.state.join("control.sock").exists());
        assert!(file.read_exact_at(&mut [0; 4096], 15 << 20).is_err());
    }
}

#[test]
fn a_mount_that_is_cut_off_ends_the_node_as_a_failure_and_is_not_left_behind() {
    let test = "a_mount_that_is_cut_off_ends_the_node_as_a_failure_and_is_not_left_behind";
    if !fuse_is_here(test) {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = content(43, 30 * MIB);
    let holder = sandbox.holder("a", &[&bytes]);
    let reader = sandbox.reader("b", &[&holder]);
    let seat = std::ops::Deref::deref(&reader).clone();
    let file = File::open(reader.file(&hash_of(&bytes))).unwrap();
    file.read_exact_at(&mut [0; 4096], 7 << 20).unwrap();
    // By force, and in vain, since a file is open: the kernel cuts the connection and leaves the mount.
    let forced = std::process::Command::new("umount").arg("--force").arg(&seat.mount_point).output().unwrap();
    let said = String::from_utf8_lossy(&forced.stderr);
    if said.contains("must be superuser") || said.contains("not permitted") {
        return skip(test, "only root can unmount by force");
    }
    assert!(!forced.status.success(), "{forced:?}");
    let log = reader.log_file();
    assert_eq!(reader.ended(), Some(1), "so that a supervisor starts it anew");
    assert_eq!(is_mounted(&seat.mount_point), 0);
    assert!(std::fs::read_to_string(log).unwrap().contains("has cut the connection"));
    drop(file);
}
