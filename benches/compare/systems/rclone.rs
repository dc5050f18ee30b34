//! `rclone mount` of what nginx serves, with its cache on disk and without.

use std::path::Path;

use super::nginx::{self, Nginx};
use super::{Offered, Profile, System};
use crate::content::Content;
use crate::processes::{MountPoint, first_line, missing, program};
use crate::readings::{Files, Reached};

/// What is the same with the cache and without: names and sizes are believed for an hour, requests go out
/// in parallel, and buffers and read-ahead are larger than they are by themselves.
const FLAGS: [&str; 12] = [
    "--read-only",
    "--no-modtime",
    "--no-checksum",
    "--dir-cache-time=1h",
    "--attr-timeout=1h",
    "--poll-interval=0",
    "--max-read-ahead=1Mi",
    "--buffer-size=64Mi",
    "--vfs-read-ahead=64Mi",
    "--vfs-fast-fingerprint",
    "--checkers=16",
    "--log-level=ERROR",
];

const NEEDS: &[&str] = &["rclone", "nginx", "fusermount3"];

pub fn cached() -> Offered {
    Offered {
        profile: Profile {
            name: "rclone (HTTP), cache",
            settings: "rclone mount --vfs-cache-mode=full, the cache empty at the start, --buffer-size=64Mi --vfs-read-ahead=64Mi --max-read-ahead=1Mi --dir-cache-time=1h --attr-timeout=1h --no-modtime --no-checksum --vfs-fast-fingerprint --poll-interval=0 --checkers=16 --read-only --log-level=ERROR",
            abilities: ["no", "no", "no", "no", "yes, on disk", "not here (HTTPS does)"],
        },
        missing: || missing(NEEDS),
        version,
        make: |dir, content| make(&dir.join("rclone-cache"), content, "full"),
    }
}

pub fn uncached() -> Offered {
    Offered {
        profile: Profile {
            name: "rclone (HTTP)",
            settings: "the same with --vfs-cache-mode=off",
            abilities: ["no", "no", "no", "no", "no", "not here (HTTPS does)"],
        },
        missing: || missing(NEEDS),
        version,
        make: |dir, content| make(&dir.join("rclone"), content, "off"),
    }
}

fn version() -> String {
    format!("{}, {}", first_line(program("rclone").arg("version")), nginx::version())
}

fn make(home: &Path, content: &Content, mode: &'static str) -> Box<dyn System> {
    Box::new(Rclone { nginx: Nginx::start(home, &content.dir), mode, content: content.clone() })
}

struct Rclone {
    nginx: Nginx,
    mode: &'static str,
    content: Content,
}

impl System for Rclone {
    fn start(&self, home: &Path) -> Box<dyn Reached> {
        let config = home.join("rclone.conf");
        std::fs::write(&config, "").unwrap();
        let mount = MountPoint::start(home.join("mount"), "rclone", |dir| {
            let mut command = program("rclone");
            command.args(["mount", ":http:"]).arg(dir).arg("--http-url").arg(&self.nginx.url);
            command.arg("--config").arg(config).arg("--cache-dir").arg(home.join("cache"));
            command.args(FLAGS).arg(format!("--vfs-cache-mode={}", self.mode));
            command
        });
        Box::new(Files::below(&mount.dir.clone(), &self.content, mount))
    }
}
