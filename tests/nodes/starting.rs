//! A node that is told to end while it starts.

use std::process::{Child, Stdio};
use std::sync::Arc;

use byhash::store::{Config, Store};

use super::hanging_files::HangingFiles;
use super::node::{Sandbox, Seat, eventually, fuse_is_here};

fn start(seat: &Seat, args: &[&str]) -> Child {
    seat.command(args).args(["--open", "--listen", "127.0.0.1:0"]).stdout(Stdio::null()).spawn().unwrap()
}

fn tell_to_end(child: &Child, signal: i32) {
    // SAFETY: kill has no memory preconditions; the child is not reaped, so the id is its own.
    assert_eq!(unsafe { libc::kill(child.id().cast_signed(), signal) }, 0);
}

/// The exit code, `None` if a signal has ended it.
fn exit_code(child: &mut Child) -> Option<i32> {
    let mut code = None;
    eventually("the node ends", || {
        let ended = child.try_wait().unwrap();
        code = ended.and_then(|status| status.code());
        ended.is_some()
    });
    code
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
        let mut node = start(&seat, &["serve"]);
        eventually("it is about to open the store", || key.exists());
        tell_to_end(&node, signal);
        assert_eq!(exit_code(&mut node), Some(0));
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
    let files = HangingFiles::mount(&sandbox.make_dir("files"), b"");
    let mount_point = files.file();
    files.hang();
    // The kernel lets nobody go whose question was taken; those behind it can be ended.
    let dir = sandbox.path("files");
    let first = std::thread::spawn(move || dir.metadata().unwrap());
    files.wait_until_asked();
    for background in [false, true] {
        let foreground = if background { None } else { Some("-f") };
        let args: Vec<_> = ["mount", mount_point.to_str().unwrap()].into_iter().chain(foreground).collect();
        let mut node = start(&seat, &args);
        let socket = seat.state.join("control.sock");
        eventually("it is about to mount", || socket.exists());
        tell_to_end(&node, libc::SIGINT);
        assert_eq!(exit_code(&mut node), Some(i32::from(background)), "in the background: {background}");
        eventually("its socket is gone", || !socket.exists());
    }
    files.go_on();
    first.join().unwrap();
}
