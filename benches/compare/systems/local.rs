//! The local file system: what there is to be reached.

use std::path::{Path, PathBuf};

use super::{Offered, Profile, System};
use crate::content::Content;
use crate::facts::file_system;
use crate::processes::{first_line, missing};
use crate::readings::{Figure, Files, Limit, Reached, Reading};

pub fn offered() -> Offered {
    Offered {
        profile: Profile {
            name: "local file system",
            settings: "the files themselves; cold: taken out of memory before (POSIX_FADV_DONTNEED), so read from the disk",
            abilities: ["no", "-", "-", "no", "-", "-"],
        },
        missing: || missing(&["df", "uname"]),
        version: || {
            let kernel = first_line(std::process::Command::new("uname").arg("-r"));
            format!("{}, Linux {kernel}", file_system())
        },
        make: |_, content| {
            let small = content.small.iter().map(|path| content.dir.join(path)).collect();
            Box::new(Local { large: content.large(), small })
        },
    }
}

struct Local {
    large: PathBuf,
    small: Vec<PathBuf>,
}

impl System for Local {
    fn start(&self, _home: &Path) -> Box<dyn Reached> {
        Box::new(OnDisk(Files::new(self.large.clone(), self.small.clone(), ())))
    }
}

struct OnDisk(Files<()>);

impl Reached for OnDisk {
    fn read(&self, reading: Reading, content: &Content, limit: Limit) -> Figure {
        if !reading.warm {
            self.0.drop_from_memory();
        }
        self.0.read(reading, content, limit)
    }

    /// What all others are compared with.
    fn check(&self, _content: &Content) {}
}

impl Drop for OnDisk {
    /// The servers of the others are to have the files in memory.
    fn drop(&mut self) {
        self.0.read_all();
    }
}
