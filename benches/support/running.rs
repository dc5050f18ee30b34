//! Processes that end with the bench, and nodes of byhash among them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use byhash::ids::{ContentHash, PeerSpec};

/// How long a program may take until it is ready, or has ended.
const PATIENCE: Duration = Duration::from_secs(30);

/// Files that are added with one command.
const ADDED_AT_ONCE: usize = 1000;

/// A process that runs until this is dropped, or the bench ends.
pub struct Running(Child);

impl Running {
    /// Starts it; what it says on stderr goes to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stderr(log);
        // SAFETY: prctl with these arguments is safe to call between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            })
        };
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// The first line that it prints.
    pub fn first_line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Waits until `ready`, as long as it runs.
    pub fn wait_until(mut self, what: &str, ready: impl Fn() -> bool) -> Self {
        let start = Instant::now();
        while !ready() {
            assert!(start.elapsed() < PATIENCE, "{what} was not ready in time");
            if let Some(status) = self.0.try_wait().unwrap() {
                panic!("{what} ended before it was ready: {status}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self
    }

    /// The most memory that it had resident since the start or the last [`Running::forget_peak`], in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Begins a new peak of memory at what it has now.
    pub fn forget_peak(&self) {
        // The number is that of proc(5), clear_refs.
        std::fs::write(format!("/proc/{}/clear_refs", self.id()), "5").unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SAFETY: kill has no memory preconditions; the child is not reaped, so the id is its own.
        unsafe { libc::kill(self.0.id().cast_signed(), libc::SIGTERM) };
        let start = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) {
            if start.elapsed() > PATIENCE {
                let _ = self.0.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Where a node lives.
#[derive(Debug, Clone)]
pub struct Seat {
    pub state: PathBuf,
    /// The network namespace that it runs in, if not that of the bench.
    pub network: Option<String>,
    /// Where it listens.
    pub listen: String,
}

impl Seat {
    /// On a free port of this machine.
    pub fn new(state: &Path) -> Self {
        Self { state: state.to_owned(), network: None, listen: "127.0.0.1:0".to_owned() }
    }

    /// The program, cut off from the surroundings.
    pub fn command(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_byhash");
        let mut command = match &self.network {
            None => Command::new(program),
            Some(network) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{network}")).arg(program);
                command
            }
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BYHASH_")) {
            command.env_remove(name);
        }
        command.env("BYHASH_CONFIG", "/dev/null").env("BYHASH_STATE", &self.state);
        command
    }

    /// What one of its commands prints, which has to end well.
    pub fn output(&self, args: &[&str]) -> String {
        printed(self.command().args(args))
    }

    /// Adds files and gives their hashes.
    pub fn add(&self, files: &[PathBuf]) -> Vec<ContentHash> {
        let hash = |line: &str| line.split(' ').next().unwrap_or_default().parse().unwrap();
        let add = |files: &[PathBuf]| printed(self.command().arg("add").args(files)).lines().map(hash).collect();
        files.chunks(ADDED_AT_ONCE).flat_map(|files| -> Vec<ContentHash> { add(files) }).collect()
    }

    /// One of the running node's metrics.
    pub fn metric(&self, name: &str) -> u64 {
        let status: serde_json::Value = serde_json::from_str(&self.output(&["status", "--json"])).unwrap();
        status["metrics"][name].as_u64().unwrap_or_else(|| panic!("no metric {name}"))
    }

    /// Runs `byhash serve` and lets everybody in.
    pub fn serve(&self, peers: &[PeerSpec]) -> NodeProcess {
        self.serve_with(peers, &[])
    }

    /// The same with further flags.
    pub fn serve_with(&self, peers: &[PeerSpec], flags: &[String]) -> NodeProcess {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        self.start(&[&["serve"], &flags[..]].concat(), peers)
    }

    /// Runs `byhash mount` at `dir`.
    pub fn mount(&self, dir: &Path, peers: &[PeerSpec]) -> NodeProcess {
        std::fs::create_dir_all(dir).unwrap();
        self.start(&["mount", "-f", &dir.to_string_lossy()], peers)
    }

    fn start(&self, args: &[&str], peers: &[PeerSpec]) -> NodeProcess {
        let mut command = self.command();
        command.args(args).args(["--open", "--listen", &self.listen, "--cache-size", "64GiB"]);
        for peer in peers {
            command.args(["--peer", &peer.to_string()]);
        }
        let mut process = Running::start(command.stdout(Stdio::piped()), &self.state.with_extension("log"));
        let line = process.first_line();
        let peer = line.strip_prefix("ready ").unwrap_or_else(|| panic!("the node said {line:?}"));
        NodeProcess { peer: peer.parse().unwrap(), process }
    }
}

/// A node that runs until this is dropped. A mount that it has goes with it.
pub struct NodeProcess {
    /// As others name it.
    pub peer: PeerSpec,
    pub process: Running,
}

/// What a command printed that ended well.
pub fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
