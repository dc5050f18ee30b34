//! byhash: a node that holds the files, and one that mounts and fetches.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Offered, Profile, System};
use crate::content::Content;
use crate::processes::{MountPoint, Running, first_line, missing, output, program};
use crate::readings::{Files, Reached};

const PROGRAM: &str = env!("CARGO_BIN_EXE_byhash");

/// Files that are added with one command.
const ADDED_AT_ONCE: usize = 1000;

const ABILITIES: [&str; 6] =
    ["yes, every 16 KiB by its name", "yes, within the read", "yes", "yes", "yes, on disk", "yes, TLS 1.3"];

/// Mounted by root, so that the kernel reads what is complete from the cache's files.
pub fn passed_through() -> Offered {
    Offered {
        profile: Profile {
            name: "byhash",
            settings: "byhash mount, as root; the cache is empty at the start and on the same disk",
            abilities: ABILITIES,
        },
        missing: Vec::new,
        version: || first_line(Command::new(PROGRAM).arg("--version")),
        make: |dir, content| Box::new(Holder::start(&dir.join("byhash"), content, false)),
    }
}

/// With a cache that the kernel does not read directly.
pub fn streamed() -> Offered {
    Offered {
        profile: Profile {
            name: "byhash, streamed",
            settings: "the same with its cache on overlayfs, so without passthrough: every read comes through the node",
            abilities: ABILITIES,
        },
        missing: || if Overlay::can_be_mounted() { Vec::new() } else { vec!["overlayfs"] },
        version: || first_line(Command::new(PROGRAM).arg("--version")),
        make: |dir, content| Box::new(Holder::start(&dir.join("byhash-streamed"), content, true)),
    }
}

/// A node that holds the content and serves it.
struct Holder {
    peer: String,
    large: String,
    small: Vec<String>,
    stacked: bool,
    _node: Running,
}

impl Holder {
    fn start(state: &Path, content: &Content, stacked: bool) -> Self {
        let (mut serve, log) = (byhash(state), state.with_extension("log"));
        serve.args(["serve", "--open", "--listen", "127.0.0.1:0", "--cache-size", "64GiB"]).stdout(Stdio::piped());
        let mut node = Running::start(&mut serve, &log);
        let line = node.first_line();
        let peer = line.strip_prefix("ready ").unwrap_or_else(|| panic!("the holder said {line:?}")).to_owned();
        let large = add(state, &[content.large()]).remove(0);
        let small: Vec<PathBuf> = content.small.iter().map(|path| content.dir.join(path)).collect();
        let small = small.chunks(ADDED_AT_ONCE).flat_map(|files| add(state, files)).collect();
        Self { peer, large, small, stacked, _node: node }
    }
}

/// A byhash command on the node at `state`, cut off from the surroundings.
fn byhash(state: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BYHASH_")) {
        command.env_remove(name);
    }
    command.env("BYHASH_CONFIG", "/dev/null").env("BYHASH_STATE", state);
    command
}

/// Adds files to the node at `state` and gives their hashes.
fn add(state: &Path, files: &[PathBuf]) -> Vec<String> {
    let printed = output(byhash(state).arg("add").args(files));
    printed.lines().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
}

impl System for Holder {
    fn start(&self, home: &Path) -> Box<dyn Reached> {
        let state = home.join("state");
        let overlay = self.stacked.then(|| Overlay::mount(home, &state).expect("it could be mounted before"));
        let mut mount = MountPoint::start(home.join("mount"), "byhash", |dir| {
            let mut command = byhash(&state);
            command.arg("mount").arg(dir);
            command.args(["-f", "--listen", "127.0.0.1:0", "--cache-size", "64GiB", "--peer", &self.peer]);
            command
        });
        let line = mount.process.first_line();
        assert!(line.starts_with("ready "), "the mounted node said {line:?}");
        let status = output(byhash(&state).arg("status"));
        let mode = status.lines().find(|line| line.contains("passthrough")).unwrap_or(&status).trim();
        assert!(!self.stacked || mode.starts_with("no "), "overlayfs is passed through");
        println!("byhash: {mode}");
        let by_hash = mount.dir.join("by-hash");
        let small = self.small.iter().map(|hash| by_hash.join(hash)).collect();
        Box::new(Files::new(by_hash.join(&self.large), small, (mount, overlay)))
    }
}

/// A directory on overlayfs, until this is dropped.
struct Overlay(PathBuf);

impl Overlay {
    /// At `dir`, with what is written to it below `home`.
    fn mount(home: &Path, dir: &Path) -> Option<Self> {
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| home.join(name));
        for dir in [&lower, &upper, &work, dir] {
            std::fs::create_dir(dir).unwrap();
        }
        let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        let done = program("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(dir).output().unwrap();
        done.status.success().then(|| Self(dir.to_owned()))
    }

    /// It takes root, and a file system that is not stacked itself.
    fn can_be_mounted() -> bool {
        let dir = tempfile::tempdir().unwrap();
        missing(&["mount", "umount"]).is_empty() && Self::mount(dir.path(), &dir.path().join("top")).is_some()
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        output(program("umount").arg(&self.0));
    }
}
