//! Nodes of a test: their directories, their processes, their mounts.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Deref;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::skip::skip;

/// How long anything may take that is only awaited: long enough for a machine that is busy with
/// other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether nodes can mount here. A test returns if not; in CI it fails.
pub fn fuse_is_here(test: &str) -> bool {
    let here = File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if !here {
        skip(test, "/dev/fuse cannot be opened");
    }
    here
}

/// Whether `program` is installed. A test, or its part, is left out if not; in CI it fails.
pub fn program_is_here(program: &str) -> bool {
    let here = Command::new(program).arg("--version").output().is_ok();
    if !here {
        skip(&format!("what needs {program}"), "it is not installed");
    }
    here
}

/// An address to listen on later, or again. Its IP belongs to this test process, so that no
/// connection that others make takes the port meanwhile.
pub fn address_for_later() -> String {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, 100 + a % 100, b, c.clamp(1, 254));
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap().to_string()
}

/// Looks again and again whether `done`, for a limited time; for what no event tells.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}: not in {} s", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a successful command printed.
pub fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Runs a program of the system to its successful end and gives what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The sentence of a command that failed with exit code 1.
pub fn failure(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said.lines()
        .find(|line| line.starts_with("byhash: "))
        .unwrap_or_else(|| panic!("no sentence in: {said}"))
        .to_owned()
}

/// The directory of a test. It must outlive the nodes in it, so it is to be made first.
pub struct Sandbox(tempfile::TempDir);

impl Sandbox {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file of the test.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub fn make_dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// A place for a node, with its key.
    pub fn seat(&self, name: &str) -> Seat {
        let dir = self.make_dir(name);
        let (state, mount_point) = (dir.join("state"), dir.join("mnt"));
        let mut seat = Seat { state, mount_point, id: String::new(), network: None };
        std::fs::create_dir(&seat.mount_point).unwrap();
        seat.id = stdout(&seat.run(["id"])).trim_end().to_owned();
        seat
    }

    /// A node without a mount that lets everybody in and holds `blobs`.
    pub fn holder(&self, name: &str, blobs: &[&[u8]]) -> Node {
        let seat = self.seat(name);
        for blob in blobs {
            seat.add(blob);
        }
        seat.serve(["--open"])
    }

    /// A node with a mount, which lets everybody in and asks `peers`.
    pub fn reader(&self, name: &str, peers: &[&Node]) -> Node {
        self.seat(name).mount(asking(peers))
    }
}

impl Drop for Sandbox {
    /// Takes off all that is still mounted here, dead or alive, or it could not be removed.
    fn drop(&mut self) {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        for point in points.filter(|point| Path::new(point).starts_with(self.0.path())) {
            let Ok(point) = CString::new(point) else { continue };
            // SAFETY: the pointer is to a string that ends in zero and outlives the call.
            unsafe { libc::umount2(point.as_ptr(), libc::MNT_DETACH) };
        }
    }
}

/// The flags of a node that lets everybody in and asks `peers`.
pub fn asking<'a>(peers: &[&'a Node]) -> Vec<&'a str> {
    let named = peers.iter().flat_map(|node| ["--peer", node.peer.as_str()]);
    std::iter::once("--open").chain(named).collect()
}

/// Where a node lives; it may run there or not.
#[derive(Clone)]
pub struct Seat {
    pub state: PathBuf,
    pub mount_point: PathBuf,
    pub id: String,
    /// The network namespace in which it runs, if not that of the test.
    pub network: Option<String>,
}

impl Seat {
    /// A byhash command on this state, cut off from the surroundings.
    pub fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let program = env!("CARGO_BIN_EXE_byhash");
        let mut command = match &self.network {
            None => Command::new(program),
            Some(network) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{network}")).arg(program);
                command
            }
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BYHASH_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command.env("BYHASH_STATE", &self.state).env("BYHASH_CONFIG", "/dev/null");
        command.args(args).stdin(Stdio::null());
        command
    }

    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Output {
        self.command(args).output().unwrap()
    }

    /// Adds `bytes` from a pipe and gives the hash.
    pub fn add(&self, bytes: &[u8]) -> String {
        self.add_from(|to| to.write_all(bytes).unwrap())
    }

    /// Adds what `write` writes and gives the hash.
    pub fn add_from(&self, write: impl FnOnce(&mut dyn Write)) -> String {
        let mut child = self
            .command(["add", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        write(&mut child.stdin.take().unwrap());
        hash_in(&stdout(&child.wait_with_output().unwrap()))
    }

    pub fn add_file(&self, path: &Path) -> String {
        hash_in(&stdout(&self.run([OsStr::new("add"), path.as_os_str()])))
    }

    /// The running node's metric `name`.
    pub fn metric(&self, name: &str) -> u64 {
        let status: Value = serde_json::from_str(&stdout(&self.run(["status", "--json"]))).unwrap();
        status["metrics"][name].as_u64().unwrap_or_else(|| panic!("no metric {name}"))
    }

    /// Verified bytes that the running node has from the peer with this id.
    pub fn fetched_from(&self, id: &str) -> u64 {
        let peers: Value = serde_json::from_str(&stdout(&self.run(["peers", "--json"]))).unwrap();
        let peer = peers.as_array().unwrap().iter().find(|peer| peer["id"] == id);
        peer.unwrap_or_else(|| panic!("no peer {id}"))["fetched_bytes"].as_u64().unwrap()
    }

    /// Where the store keeps a blob's content.
    pub fn content_file(&self, hash: &str) -> PathBuf {
        self.state.join("cache/blobs").join(&hash[..2]).join(hash)
    }

    /// Where the store keeps a blob's outboard.
    pub fn outboard_file(&self, hash: &str) -> PathBuf {
        self.content_file(&format!("{hash}.obao4"))
    }

    /// Runs a node without a mount.
    pub fn serve<'a>(&self, flags: impl IntoIterator<Item = &'a str>) -> Node {
        self.start(vec!["serve".into()], flags)
    }

    /// Runs a node with a mount.
    pub fn mount<'a>(&self, flags: impl IntoIterator<Item = &'a str>) -> Node {
        self.start(vec!["mount".into(), "-f".into(), self.mount_point.clone().into()], flags)
    }

    fn start<'a>(&self, mut args: Vec<std::ffi::OsString>, flags: impl IntoIterator<Item = &'a str>) -> Node {
        args.extend(flags.into_iter().map(Into::into));
        if !args.iter().any(|arg| arg == "--listen") {
            args.extend(["--listen", "127.0.0.1:0"].map(Into::into));
        }
        let mut command = self.command(args);
        let log = self.state.with_extension("log");
        let log_file = File::options().create(true).append(true).open(&log).unwrap();
        command.arg("-v").stdout(Stdio::piped()).stderr(log_file);
        // SAFETY: prctl with these arguments is safe to call between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // It must not outlive the test, even if that is interrupted.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            })
        };
        let mut child = command.spawn().unwrap();
        let out = child.stdout.take().unwrap();
        // From here on, whatever happens, it is cleaned up.
        let mut node = Node { seat: self.clone(), child, peer: String::new(), log };
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(out).read_line(&mut line);
            let _ = tell.send(read.map(|_| line));
        });
        let line = told.recv_timeout(PATIENCE).expect("the node was not ready in time").unwrap();
        node.peer = line.trim_end().strip_prefix("ready ").expect("the node ended before it was ready").to_owned();
        node
    }
}

/// The first word of what `add` printed.
fn hash_in(printed: &str) -> String {
    printed.split(' ').next().unwrap().trim_start_matches('\\').to_owned()
}

/// A running node. Dropped, it is killed; its mount is taken off with the sandbox.
pub struct Node {
    seat: Seat,
    child: Child,
    /// `ID@IP:PORT`.
    pub peer: String,
    log: PathBuf,
}

impl Node {
    /// Where it logs.
    pub fn log_file(&self) -> PathBuf {
        self.log.clone()
    }

    /// What it has logged, in all its lives.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `IP:PORT`.
    pub fn address(&self) -> &str {
        self.peer.split_once('@').unwrap().1
    }

    pub fn by_hash(&self) -> PathBuf {
        self.mount_point.join("by-hash")
    }

    /// The file of a blob in its mount.
    pub fn file(&self, hash: &str) -> PathBuf {
        self.by_hash().join(hash)
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: kill has no memory preconditions; the child is not reaped, so the id is its own.
        assert_eq!(unsafe { libc::kill(self.child.id().cast_signed(), signal) }, 0);
    }

    /// Sends a signal and gives the exit code, `None` if it was killed.
    pub fn end(self, signal: i32) -> Option<i32> {
        self.signal(signal);
        self.ended()
    }

    /// Waits for its end and gives the exit code, `None` if it was killed.
    pub fn ended(mut self) -> Option<i32> {
        assert!(self.ends_within(PATIENCE), "the node did not end");
        self.child.wait().unwrap().code()
    }

    /// Kills it, leaving behind what a crash would: a dead mount, an unclean store.
    pub fn crash(self) -> Seat {
        self.seat.clone()
    }

    /// Ends it in order.
    pub fn stop(self) -> Seat {
        let seat = self.seat.clone();
        assert_eq!(self.end(libc::SIGTERM), Some(0));
        seat
    }

    fn ends_within(&self, limit: Duration) -> bool {
        // SAFETY: no pointers; the child is not reaped, so the id is its own.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, self.child.id(), 0) };
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: the descriptor was just opened and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure, and it outlives the call.
        unsafe { libc::poll(&raw mut poll, 1, limit.as_millis() as i32) == 1 }
    }

    /// The most memory it ever had resident, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Deref for Node {
    type Target = Seat;

    fn deref(&self) -> &Seat {
        &self.seat
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}:", self.log.display());
            eprintln!("{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}
