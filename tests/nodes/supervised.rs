//! A node under a supervisor that speaks sd_notify(3), as systemd does.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::node::{Sandbox, eventually, fuse_is_here};

/// Receives messages until one has the line `wanted`.
fn receive(socket: &UnixDatagram, wanted: &str) {
    let mut buffer = [0; 1024];
    loop {
        let len = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{wanted} did not come: {error}"));
        if buffer[..len].split(|byte| *byte == b'\n').any(|line| line == wanted.as_bytes()) {
            return;
        }
    }
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: kill has no memory preconditions; the child is not reaped, so the id is its own.
    assert_eq!(unsafe { libc::kill(child.id().cast_signed(), signal) }, 0);
}

#[test]
fn a_supervisor_is_told_of_start_life_and_end() {
    if !fuse_is_here("a_supervisor_is_told_of_start_life_and_end") {
        return;
    }
    let sandbox = Sandbox::new();
    let seat = sandbox.seat("a");
    let path = sandbox.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut node = seat.command(["mount", "-f", "--listen", "127.0.0.1:0"]);
    node.arg(&seat.mount_point).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "300000");
    let mut node = node.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    receive(&socket, "READY=1");
    assert_eq!(std::fs::read_dir(&seat.mount_point).unwrap().count(), 1, "ready is ready");
    for _ in 0..3 {
        receive(&socket, "WATCHDOG=1");
    }
    signal(&node, libc::SIGTERM);
    receive(&socket, "STOPPING=1");
    assert_eq!(node.wait().unwrap().code(), Some(0));
}

/// What `Restart=on-failure` does, in a loop of a shell.
#[test]
fn a_node_that_is_killed_is_there_again_and_nothing_is_written_below_the_mount_point() {
    if !fuse_is_here("a_node_that_is_killed_is_there_again_and_nothing_is_written_below_the_mount_point") {
        return;
    }
    let sandbox = Sandbox::new();
    let seat = sandbox.seat("a");
    let hash = seat.add(b"here");
    let script = "until \"$0\" mount \"$1\" -f --listen 127.0.0.1:0; do :; done";
    let mut supervisor = Command::new("sh");
    supervisor.args(["-c", script, env!("CARGO_BIN_EXE_byhash")]).arg(&seat.mount_point);
    supervisor.env("BYHASH_STATE", &seat.state).env("BYHASH_CONFIG", "/dev/null").stderr(Stdio::null());
    let mut supervisor = supervisor.stdout(Stdio::null()).spawn().unwrap();
    let file = seat.mount_point.join("by-hash").join(hash);
    let pid = || {
        let output = seat.run(["status", "--json"]);
        let status: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
        status.and_then(|status| status["pid"].as_i64())
    };
    let mut killed = None;
    for _ in 0..3 {
        let mut now = None;
        eventually("the node is there", || {
            now = pid().filter(|pid| Some(*pid) != killed);
            now.is_some() && std::fs::read(&file).is_ok_and(|bytes| bytes == b"here")
        });
        killed = now;
        // SAFETY: kill has no memory preconditions; this is the node that was just asked.
        assert_eq!(unsafe { libc::kill(now.unwrap() as i32, libc::SIGKILL) }, 0);
    }
    eventually("the node is there", || pid().is_some_and(|pid| Some(pid) != killed) && file.exists());
    // SAFETY: as above; told to end, the node ends well, and so does the loop.
    assert_eq!(unsafe { libc::kill(pid().unwrap() as i32, libc::SIGTERM) }, 0);
    assert_eq!(supervisor.wait().unwrap().code(), Some(0));
    assert_eq!(std::fs::read_dir(&seat.mount_point).unwrap().count(), 0);
}
