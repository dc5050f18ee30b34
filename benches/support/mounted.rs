//! A mounted node in a process of its own, and reading through it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use byhash::ids::{ContentHash, PeerSpec};

/// A mounted node in a process of its own.
pub struct Mounted {
    pub dir: PathBuf,
    state: PathBuf,
    child: Child,
}

impl Mounted {
    /// Mounts a node on directories below `state` that asks `peer`.
    pub fn start(state: &Path, peer: &PeerSpec) -> Self {
        let dir = state.join("mount");
        std::fs::create_dir_all(&dir).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_byhash"))
            .arg("mount")
            .arg(&dir)
            .args(["-f", "--listen", "127.0.0.1:0", "--cache-size", "64GiB", "--peer", &peer.to_string(), "--state"])
            .arg(state.join("mounted"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        assert!(ready.starts_with("ready "), "the mounted node said {ready:?}");
        Self { dir, state: state.join("mounted"), child }
    }
}

impl Mounted {
    /// The processor time that the node has used.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // Behind the name in parentheses: user and system time are the 12th and 13th field, in ticks.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        // SAFETY: sysconf has no preconditions.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        Duration::from_secs_f64(ticks as f64 / per_second as f64)
    }
}

impl Mounted {
    /// The file of a blob.
    pub fn file(&self, hash: ContentHash) -> PathBuf {
        self.dir.join("by-hash").join(hash.to_string())
    }

    /// The file in which its cache has the content of a blob.
    pub fn content_file(&self, hash: ContentHash) -> PathBuf {
        let name = hash.to_string();
        self.state.join("cache/blobs").join(&name[..2]).join(name)
    }

    /// What the node tells of itself.
    pub fn status(&self) -> serde_json::Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_byhash"));
        let output = command.args(["status", "--json", "--state"]).arg(&self.state).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// One of its metrics.
    pub fn metric(&self, name: &str) -> u64 {
        self.status()["metrics"][name].as_u64().unwrap()
    }

    /// The most memory that it ever had resident, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        println!("mounted node, peak resident memory: {} MiB", self.peak_memory() >> 20);
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

/// Reads a file to its end as `cat` does.
pub fn read(path: &Path, len: usize) -> Duration {
    let mut buf = vec![0; 128 << 10];
    // Before the open, which fetches what a lookup needs.
    let start = Instant::now();
    let mut file = File::open(path).unwrap();
    let mut total = 0;
    loop {
        match file.read(&mut buf).unwrap() {
            0 => break,
            n => total += n,
        }
    }
    let elapsed = start.elapsed();
    assert_eq!(total, len);
    elapsed
}
