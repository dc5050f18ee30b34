//! Nodes as processes: the ready line, the control socket, the background, the end, the demo.

#[path = "support/skip.rs"]
mod skip;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use skip::skip;

fn byhash(state: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_byhash"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BYHASH_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command.env("BYHASH_STATE", state).env("BYHASH_CONFIG", "/dev/null").env("BYHASH_LISTEN", "127.0.0.1:0");
    command.args(args).stdin(Stdio::null());
    command
}

fn run(state: &Path, args: &[&str]) -> Output {
    byhash(state, args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Whether mounts can be made here. In CI they must be.
fn can_mount() -> bool {
    let can = Path::new("/dev/fuse").exists();
    if !can {
        skip("what mounts", "there is no /dev/fuse");
    }
    can
}

/// A node in the foreground; killed when dropped.
struct Node {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    ready: String,
}

impl Node {
    fn start(state: &Path, args: &[&str]) -> Self {
        Self::start_with(state, args, Stdio::null())
    }

    fn start_with(state: &Path, args: &[&str], stderr: Stdio) -> Self {
        let mut child = byhash(state, args).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut ready = String::new();
        stdout.read_line(&mut ready).unwrap();
        Self { child, stdout, ready }
    }

    /// Sends a signal, waits, and gives the exit code and what else was printed on stdout.
    fn end(mut self, signal: i32) -> (Option<i32>, String) {
        // SAFETY: kill has no memory preconditions; the child is not reaped, so the id is its own.
        unsafe { libc::kill(self.child.id().cast_signed(), signal) };
        let mut rest = String::new();
        while self.stdout.read_line(&mut rest).unwrap() > 0 {}
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let closed = || std::io::pipe().unwrap().1.into();
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap().into();
    let logs: [&dyn Fn() -> Stdio; 2] = [&closed, &full];
    for log in logs {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let node = Node::start_with(&state, &["serve", "--verbose"], log());
        let address = node.ready.trim_end().rsplit('@').next().unwrap().to_owned();
        for _ in 0..3 {
            // Each is turned away, and that is logged.
            let mut stranger = std::net::TcpStream::connect(&address).unwrap();
            stranger.write_all(b"not TLS").unwrap();
            while stranger.read(&mut [0; 100]).is_ok_and(|read| read > 0) {}
        }
        assert!(stdout(&run(&state, &["status"])).contains(&address));
        assert_eq!(node.end(libc::SIGTERM).0, Some(0));
    }
}

#[test]
fn a_node_says_one_line_answers_and_ends_in_order() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let id = stdout(&run(&state, &["id"]));
        let node = Node::start(&state, &["serve"]);
        assert!(node.ready.starts_with(&format!("ready {}@127.0.0.1:", id.trim_end())), "{}", node.ready);
        let status = stdout(&run(&state, &["status"]));
        assert!(status.contains(id.trim_end()) && status.contains("no peer may connect"), "{status}");
        let file = dir.path().join("file");
        std::fs::write(&file, "content").unwrap();
        stdout(&run(&state, &["add", file.to_str().unwrap()]));
        let hash = blake3::hash(b"content").to_string();
        assert_eq!(stdout(&run(&state, &["get", &hash])), "content");
        assert_eq!(node.end(signal), (Some(0), String::new()));
        assert!(!state.join("control.sock").exists());
        assert_eq!(stdout(&run(&state, &["get", &hash])), "content");
    }
}

#[test]
fn a_node_that_was_told_to_ignore_hangups_outlives_them() {
    let state = tempfile::tempdir().unwrap();
    for (ignored, ends_by) in [("HUP", libc::SIGINT), ("INT", libc::SIGHUP), ("HUP INT", libc::SIGTERM)] {
        let mut command = Command::new("sh");
        // As nohup(1) does, and shells without job control do for what runs in the background.
        command.args(["-c", &format!("trap '' {ignored}; exec \"$0\" serve"), env!("CARGO_BIN_EXE_byhash")]);
        command.env("BYHASH_STATE", state.path()).env("BYHASH_CONFIG", "/dev/null").env("BYHASH_LISTEN", "127.0.0.1:0");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut ready = String::new();
        stdout.read_line(&mut ready).unwrap();
        let node = Node { child, stdout, ready };
        for signal in ignored.split(' ').map(|name| if name == "HUP" { libc::SIGHUP } else { libc::SIGINT }) {
            // SAFETY: kill has no memory preconditions; the child is not reaped, so the id is its own.
            unsafe { libc::kill(node.child.id().cast_signed(), signal) };
        }
        assert!(run(state.path(), &["status"]).status.success(), "it still runs");
        assert_eq!(node.end(ends_by).0, Some(0));
    }
}

#[test]
fn a_second_node_is_refused_with_the_firsts_number() {
    let (dir, mountpoint) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let node = Node::start(dir.path(), &["serve"]);
    for args in [&["serve"][..], &["mount", mountpoint.path().to_str().unwrap()]] {
        let output = run(dir.path(), args);
        assert_eq!(output.status.code(), Some(1));
        let said = stderr(&output);
        let sentence = said.lines().find(|line| line.starts_with("byhash: ")).unwrap_or_default();
        assert!(sentence.contains(&node.child.id().to_string()), "{said}");
    }
    stdout(&run(dir.path(), &["status"]));
}

/// Whether the process with this directory in /proc has ended; its parent may not have noticed yet.
fn has_ended(process: &str) -> bool {
    let stat = std::fs::read_to_string(format!("{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('Z'))
}

#[test]
fn a_mount_goes_to_the_background_and_ends_when_unmounted() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (state, mnt) = (dir.path().join("state"), dir.path().join("mnt"));
    let (state_dir, mountpoint) = (state.as_path(), mnt.to_str().unwrap());
    std::fs::create_dir(&mnt).unwrap();
    // Relative, and started elsewhere than it will run.
    let output = byhash(state_dir, &["mount", "mnt"]).current_dir(dir.path()).output().unwrap();
    assert!(stdout(&output).starts_with("ready ") && stderr(&output).is_empty(), "{}", stderr(&output));
    let file = dir.path().join("file");
    std::fs::write(&file, "content").unwrap();
    stdout(&run(state_dir, &["add", file.to_str().unwrap()]));
    let named = mnt.join("by-hash").join(blake3::hash(b"content").to_string());
    assert_eq!(std::fs::read(&named).unwrap(), b"content");
    assert!(stdout(&run(state_dir, &["status"])).contains(mountpoint));
    let status: serde_json::Value = serde_json::from_str(&stdout(&run(state_dir, &["status", "--json"]))).unwrap();
    let process = format!("/proc/{}", status["pid"]);
    assert_eq!(std::fs::read_link(format!("{process}/cwd")).unwrap(), Path::new("/"));

    let output = run(&dir.path().join("other"), &["mount", mountpoint]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("byhash: ") && stderr(&output).contains(mountpoint), "{}", stderr(&output));

    let output = run(state_dir, &["unmount", mountpoint]);
    assert!(stdout(&output).is_empty() && stderr(&output).is_empty(), "{output:?}");
    assert!(!named.exists());
    assert!(has_ended(&process), "unmount does not wait for the node");
    assert!(!state.join("control.sock").exists());
}

#[test]
fn a_mount_point_that_is_none_is_named_from_the_background_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for bad in [dir.path().join("missing"), file] {
        for foreground in [&["-f"][..], &[]] {
            let mut args = vec!["mount", bad.to_str().unwrap()];
            args.extend(foreground);
            let output = run(&dir.path().join("state"), &args);
            assert_eq!(output.status.code(), Some(1));
            let said = stderr(&output);
            assert!(said.lines().any(|line| line.starts_with("byhash: ") && line.contains(args[1])), "{said}");
        }
    }
}

/// A directory for `TMPDIR`, and what is left in it.
fn leftovers(dir: &Path) -> Vec<std::ffi::OsString> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn the_demo_holds_and_leaves_nothing() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = byhash(dir.path(), &["demo"]).env("TMPDIR", dir.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", stderr(&output));
    for part in ["$ byhash serve", "$ byhash mount", "$ kill -KILL", "All of it held."] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert!(leftovers(dir.path()).is_empty());
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut child = byhash(dir.path(), &["demo"])
        .env("TMPDIR", dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The third node is ready: there is a mount.
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.by_ref().map_while(Result::ok).filter(|line| line.starts_with("ready ")).take(3).count(), 3);
    // SAFETY: kill has no memory preconditions; the child is not reaped, so the id is its own.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGINT) };
    lines.for_each(drop);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "byhash: interrupted: cleaning up\n");
    assert!(leftovers(dir.path()).is_empty());
}

/// A node that is closing: takes one connection at `socket`, reads of its question if `reads`, tells `says`, and is gone.
fn closing_node(socket: &Path, reads: bool, says: &'static [u8]) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    let socket = socket.to_owned();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        std::fs::remove_file(socket).unwrap();
        drop(listener);
        if reads {
            // All of it: its length, its kind, its text.
            let mut header = [0; 5];
            client.read_exact(&mut header).unwrap();
            let len = u32::from_le_bytes(header[..4].try_into().unwrap());
            client.read_exact(&mut vec![0; len as usize]).unwrap();
        }
        client.write_all(says).unwrap();
    })
}

#[test]
fn a_command_that_finds_a_closing_node_goes_to_the_store_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (state, file) = (dir.path().join("state"), dir.path().join("file"));
    std::fs::write(&file, "content").unwrap();
    let (file, hash) = (file.to_str().unwrap(), blake3::hash(b"content").to_string());
    stdout(&run(&state, &["add", file]));
    for reads in [false, true] {
        for (args, expected) in [
            (&["ls", &hash][..], "complete"),
            (&["get", &hash], "content"),
            (&["pin", &hash], ""),
            (&["verify", &hash], "no damage"),
            (&["gc", "--all"], "removed 0 blobs"),
            (&["rm", &hash], ""),
            (&["add", file], &hash),
        ] {
            let node = closing_node(&state.join("control.sock"), reads, b"");
            let output = run(&state, args);
            assert!(stdout(&output).contains(expected) && output.stderr.is_empty(), "{args:?}: {output:?}");
            node.join().unwrap();
        }
    }
}

/// What a node says before it carries out an order: a message frame, of 20 bytes.
const BEGUN: &[u8] = b"\x14\0\0\0\x01{\"response\":\"begun\"}";

#[test]
fn what_a_node_had_begun_when_it_ended_is_not_done_again_and_not_called_done() {
    let dir = tempfile::tempdir().unwrap();
    let (state, file) = (dir.path().join("state"), dir.path().join("file"));
    std::fs::write(&file, "content").unwrap();
    let hash = blake3::hash(b"content").to_string();
    stdout(&run(&state, &["add", file.to_str().unwrap()]));
    let node = closing_node(&state.join("control.sock"), true, BEGUN);
    let output = run(&state, &["rm", &hash]);
    node.join().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("may have been done or not"), "{}", stderr(&output));
    assert!(stdout(&run(&state, &["ls"])).contains(&hash));
}
