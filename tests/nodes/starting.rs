//! A node that is told to end while it starts.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use byhash::store::{Config, Store};

use super::hanging_files::HangingFiles;
use super::node::{Sandbox, Seat, eventually, fuse_is_here};

/// A node that has not started yet. Dropped, it is killed.
struct Starting(Child);

impl Starting {
    fn new(seat: &Seat, args: &[&str]) -> Self {
        let mut command = seat.command(args);
        Self(command.args(["--open", "--listen", "127.0.0.1:0"]).stdout(Stdio::null()).spawn().unwrap())
    }

    /// The exit code after it was told to end by `signal`; `None` if that has killed it.
    fn end(mut self, signal: i32) -> Option<i32> {
        // SAFETY: kill has no memory preconditions; the child is not reaped, so the id is its own.
        assert_eq!(unsafe { libc::kill(self.0.id().cast_signed(), signal) }, 0);
        eventually("the node ends", || self.0.try_wait().unwrap().is_some());
        self.0.wait().unwrap().code()
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_does_not_go_on_waiting_for_a_cache_that_is_in_use() {
    let sandbox = Sandbox::new();
    let seat = sandbox.seat("a");
    let config = Config { dir: seat.state.join("cache"), capacity: 1 << 30, keep_free: 0 };
    let store = Store::open(config, Arc::default()).unwrap();
    let key = seat.state.join("key.pem");
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // It makes one before it opens the store, and listens for signals before that.
        std::fs::remove_file(&key).unwrap();
        let node = Starting::new(&seat, &["serve"]);
        eventually("it is about to open the store", || key.exists());
        assert_eq!(node.end(signal), Some(0));
    }
    drop(store);
}

#[test]
fn it_does_not_go_on_waiting_for_a_mount_point_that_hangs() {
    if !fuse_is_here("it_does_not_go_on_waiting_for_a_mount_point_that_hangs") {
        return;
    }
    let sandbox = Sandbox::new();
    let seat = sandbox.seat("a");
    let config = Config { dir: seat.state.join("cache"), capacity: 1 << 30, keep_free: 0 };
    let (key, socket) = (seat.state.join("key.pem"), seat.state.join("control.sock"));
    let files = HangingFiles::mount(&sandbox.make_dir("files"), b"");
    let mount_point = files.dir();
    for background in [false, true] {
        // It has looked at the mount point before it makes anything, and a key before it opens the store.
        let store = Store::open(config.clone(), Arc::default()).unwrap();
        std::fs::remove_file(&key).unwrap();
        let foreground = if background { None } else { Some("-f") };
        let args: Vec<_> = ["mount", mount_point.to_str().unwrap()].into_iter().chain(foreground).collect();
        let node = Starting::new(&seat, &args);
        eventually("it is about to open the store", || key.exists());
        files.hang();
        // The kernel lets nobody go whose question was taken; those behind it can be ended.
        let mut first = Command::new("stat").arg(sandbox.path("files")).stdout(Stdio::null()).spawn().unwrap();
        files.wait_until_asked();
        drop(store);
        eventually("it is about to mount", || socket.exists());
        assert_eq!(node.end(libc::SIGINT), Some(i32::from(background)), "in the background: {background}");
        eventually("its socket is gone", || !socket.exists());
        files.go_on();
        assert!(first.wait().unwrap().success());
    }
}

/// The process that `command` has started, once there is one.
fn background_of(command: u32) -> u32 {
    let mut found = None;
    eventually("the command has started its node", || {
        let children = std::fs::read_to_string(format!("/proc/{command}/task/{command}/children")).unwrap_or_default();
        found = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn a_node_in_the_background_does_not_outlive_a_command_that_has_not_seen_it_ready() {
    if !fuse_is_here("a_node_in_the_background_does_not_outlive_a_command_that_has_not_seen_it_ready") {
        return;
    }
    let sandbox = Sandbox::new();
    let seat = sandbox.seat("a");
    let config = Config { dir: seat.state.join("cache"), capacity: 1 << 30, keep_free: 0 };
    let (point, key) = (seat.mount_point.to_str().unwrap(), seat.state.join("key.pem"));
    // By Ctrl-C as soon as there is a node, by what leaves it no time to say anything, and while the node waits.
    for (signal, code, at_once) in [(libc::SIGINT, Some(1), true), (libc::SIGKILL, None, false)] {
        let store = Store::open(config.clone(), Arc::default()).unwrap();
        // The node makes one before it opens the store.
        let _ = std::fs::remove_file(&key);
        let command = Starting::new(&seat, &["mount", point]);
        let node = background_of(command.0.id());
        if !at_once {
            eventually("it is about to open the store", || key.exists());
        }
        assert_eq!(command.end(signal), code);
        drop(store);
        eventually("the node ends", || {
            let stat = std::fs::read_to_string(format!("/proc/{node}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('Z'))
        });
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!table.contains(point) && !seat.state.join("control.sock").exists());
    }
}
