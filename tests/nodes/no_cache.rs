//! A cache that cannot be used.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::content::{MIB, content, hash_of};
use super::node::{Sandbox, asking, failure, fuse_is_here, stdout};
use super::skip::skip;

/// A file system that nobody may write to, mounted; unmounted when dropped.
struct ReadOnly(PathBuf);

impl ReadOnly {
    /// None, with a word about it, where nothing can be mounted.
    fn mount(point: PathBuf) -> Option<Self> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "ro", "byhash-test"]).arg(&point).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(point));
        }
        skip("what needs a cache that is read-only", "a tmpfs cannot be mounted without root");
        None
    }
}

impl ReadOnly {
    /// The same for `dir` with what is in it.
    fn freeze(dir: PathBuf) -> Option<Self> {
        let mount =
            |args: &[&str]| Command::new("mount").args(args).arg(&dir).output().is_ok_and(|run| run.status.success());
        if mount(&["--bind", dir.to_str().unwrap()]) {
            let frozen = Self(dir.clone());
            assert!(mount(&["-o", "remount,bind,ro"]));
            return Some(frozen);
        }
        skip("what needs a cache that is read-only", "a directory cannot be made so without root");
        None
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_node_whose_cache_is_read_only_reads_from_memory_and_says_so() {
    let sandbox = Sandbox::new();
    // More than is remembered in memory.
    let (large, small) = (content(130, 24 * MIB + 3), content(131, 1000));
    let holder = sandbox.holder("a", &[&large, &small]);
    let seat = sandbox.seat("b");
    // What the cache holds is there again once it can be written to.
    let kept = seat.add(b"kept");
    let cache = seat.content_file(&kept).ancestors().nth(3).unwrap().to_owned();
    assert!(cache.ends_with("cache"));
    let Some(read_only) = ReadOnly::mount(cache) else { return };
    let node = seat.serve(asking(&[&holder]));
    for blob in [&large, &small, &large] {
        assert!(node.run(["get", &hash_of(blob)]).stdout == *blob);
    }
    assert!(node.metric("fetched_bytes") > (24 + 7) * MIB as u64, "nothing is kept");
    assert_eq!((node.metric("store_uncached"), node.metric("store_blobs")), (1, 0));
    let status: Value = serde_json::from_str(&stdout(&node.run(["status", "--json"]))).unwrap();
    let notes = status["notes"].to_string();
    assert!(notes.contains("the cache cannot be used") && notes.contains("Read-only file system"), "{notes}");
    assert!(stdout(&node.run(["status"])).contains("the cache cannot be used"));
    assert_eq!(node.log().matches("the cache cannot be used").count(), 1);
    // What would have to be kept is refused in words.
    let file = sandbox.write("mine", b"mine");
    for args in [&["prefetch", &hash_of(&small)][..], &["add", file.to_str().unwrap()]] {
        let output = node.run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && said.contains("cache"), "{args:?}: {said}");
    }
    assert_eq!(stdout(&node.run(["ls"])), "");
    let seat = node.stop();
    drop(read_only);
    assert_eq!(seat.run(["get", &kept]).stdout, b"kept");
    let node = seat.serve(asking(&[&holder]));
    assert_eq!(node.metric("store_uncached"), 0);
    stdout(&node.run(["prefetch", &hash_of(&large)]));
}

#[test]
fn a_node_whose_state_directory_is_read_only_serves_its_mount() {
    let test = "a_node_whose_state_directory_is_read_only_serves_its_mount";
    if !fuse_is_here(test) {
        return;
    }
    let sandbox = Sandbox::new();
    let blob = content(132, MIB + 3);
    let holder = sandbox.holder("a", &[&blob]);
    let seat = sandbox.seat("b");
    let Some(read_only) = ReadOnly::freeze(sandbox.path("b/state")) else { return };
    let mountpoint = sandbox.make_dir("mnt");
    let refused = failure(&seat.run([&["mount", mountpoint.to_str().unwrap()][..], &asking(&[&holder])].concat()));
    assert!(refused.contains("log") && refused.contains("--foreground"), "{refused}");
    let node = seat.mount(asking(&[&holder]));
    assert!(std::fs::read(node.file(&hash_of(&blob))).unwrap() == blob);
    let log = node.log();
    assert!(log.contains("no command can reach this node") && log.contains("the cache cannot be used"), "{log}");
    assert!(failure(&node.run(["status"])).contains("no node runs"));
    assert_eq!(node.end(libc::SIGTERM), Some(0));
    drop(read_only);
}
