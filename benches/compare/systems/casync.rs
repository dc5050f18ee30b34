//! `casync mount` of an archive whose chunks nginx serves.

use std::path::Path;

use super::nginx::{self, Nginx};
use super::{Offered, Profile, System};
use crate::content::Content;
use crate::processes::{MountPoint, first_line, missing, output, program};
use crate::readings::{Files, Reached};

/// The names of the index and of the chunks below what nginx serves.
const INDEX: &str = "content.caidx";
const STORE: &str = "content.castr";

pub fn offered() -> Offered {
    Offered {
        profile: Profile {
            name: "casync (HTTP)",
            settings: "casync mount of a .caidx and its store of chunks of 64 KiB in the mean, zstd",
            abilities: [
                "yes, every chunk by its digest",
                "looks for a chunk in other stores",
                "no",
                "no",
                "in memory only",
                "not here (HTTPS does)",
            ],
        },
        missing: || missing(&["casync", "nginx", "fusermount3"]),
        version: || format!("{}, {}", first_line(program("casync").arg("--version")), nginx::version()),
        make: |dir, content| Box::new(Store::make(&dir.join("casync"), content)),
    }
}

struct Store {
    nginx: Nginx,
    content: Content,
}

impl Store {
    fn make(home: &Path, content: &Content) -> Self {
        let root = home.join("root");
        std::fs::create_dir_all(&root).unwrap();
        let store = format!("--store={}", root.join(STORE).display());
        output(program("casync").args(["make", "--with=unix"]).arg(store).arg(root.join(INDEX)).arg(&content.dir));
        Self { nginx: Nginx::start(home, &root), content: content.clone() }
    }
}

impl System for Store {
    fn start(&self, home: &Path) -> Box<dyn Reached> {
        let mount = MountPoint::start(home.join("mount"), "casync", |dir| {
            let mut command = program("casync");
            command.env("TMPDIR", home).arg("mount").arg(format!("--store={}/{STORE}", self.nginx.url));
            command.arg(format!("{}/{INDEX}", self.nginx.url)).arg(dir);
            command
        });
        Box::new(Files::below(&mount.dir.clone(), &self.content, mount))
    }
}
