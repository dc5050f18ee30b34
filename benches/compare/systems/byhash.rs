//! byhash: a node that holds the files, and one that mounts and fetches.

use std::path::{Path, PathBuf};
use std::process::Command;

use byhash::ids::ContentHash;

use super::{Offered, Profile, System};
use crate::content::Content;
use crate::processes::{first_line, missing, program};
use crate::readings::{Files, Reached};
use crate::support::running::{NodeProcess, Seat, printed};

const PROGRAM: &str = env!("CARGO_BIN_EXE_byhash");

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
    large: ContentHash,
    small: Vec<ContentHash>,
    stacked: bool,
    node: NodeProcess,
}

impl Holder {
    fn start(state: &Path, content: &Content, stacked: bool) -> Self {
        let seat = Seat::new(state);
        let node = seat.serve(&[]);
        let large = seat.add(&[content.large()])[0];
        let small: Vec<PathBuf> = content.small.iter().map(|path| content.dir.join(path)).collect();
        Self { large, small: seat.add(&small), stacked, node }
    }
}

impl System for Holder {
    fn start(&self, home: &Path) -> Box<dyn Reached> {
        let seat = Seat::new(&home.join("state"));
        let overlay = self.stacked.then(|| Overlay::mount(home, &seat.state).expect("it could be mounted before"));
        let dir = home.join("mount");
        let mounted = seat.mount(&dir, std::slice::from_ref(&self.node.peer));
        let status = seat.output(&["status"]);
        let mode = status.lines().find(|line| line.contains("passthrough")).unwrap_or(&status).trim();
        assert!(!self.stacked || mode.starts_with("no "), "overlayfs is passed through");
        println!("byhash: {mode}");
        let file = |hash: &ContentHash| dir.join("by-hash").join(hash.to_string());
        Box::new(Files::new(file(&self.large), self.small.iter().map(file).collect(), (mounted, overlay)))
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
        printed(program("umount").arg(&self.0));
    }
}
