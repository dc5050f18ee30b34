//! The systems that are compared, each as its documentation says that it is fastest.

mod byhash;
mod casync;
mod curl;
mod local;
mod nginx;
mod rclone;
mod sshfs;

use std::path::Path;

use crate::content::Content;
use crate::readings::Reached;

/// What a system is, in words.
#[derive(Debug, Clone)]
pub struct Profile {
    pub name: &'static str,
    /// How it was run.
    pub settings: &'static str,
    /// Whether it can do each of [`ABILITIES`].
    pub abilities: [&'static str; ABILITIES.len()],
}

/// What else counts than speed.
pub const ABILITIES: [&str; 6] = [
    "checks the bytes it reads",
    "goes on with another source when one fails",
    "several sources at once",
    "serves on what it has read",
    "keeps what it has read",
    "encrypts",
];

/// A system that runs where nothing that it needs is missing.
pub struct Offered {
    pub profile: Profile,
    /// What it needs and is not here.
    pub missing: fn() -> Vec<&'static str>,
    pub version: fn() -> String,
    /// Starts its servers, which keep what they need below the path and have the content at hand.
    pub make: fn(&Path, &Content) -> Box<dyn System>,
}

/// A system whose servers run until it is dropped.
pub trait System {
    /// Starts a client that has nothing yet and keeps all it needs below `home`.
    fn start(&self, home: &Path) -> Box<dyn Reached>;
}

/// All of them, in the order of the table.
pub fn all() -> Vec<Offered> {
    vec![
        byhash::passed_through(),
        byhash::streamed(),
        sshfs::offered(),
        rclone::cached(),
        rclone::uncached(),
        casync::offered(),
        curl::offered(),
        local::offered(),
    ]
}
