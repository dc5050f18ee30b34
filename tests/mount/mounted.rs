//! A real mount of blobs in memory, for one test.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use byhash::fs::{Deadlines, Filesystem, Owner};
use byhash::fuse::{Mount, MountError, MountOptions, Passthrough};
use byhash::ids::ContentHash;
use byhash::metrics::Metrics;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::kernel::skip_without_passthrough;
use super::memory_source::MemorySource;
use super::skip::skip;

/// Whether FUSE can be had. A test returns if not; in CI it fails.
pub fn fuse_is_here(test: &str) -> bool {
    let here = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok();
    if !here {
        skip(test, "/dev/fuse cannot be opened");
    }
    here
}

/// Mounts `source` at `directory`.
pub fn mount(directory: &Path, source: &MemorySource, runtime: &Runtime) -> Result<Mount, MountError> {
    Mount::new(directory, Arc::new(filesystem(source)), MountOptions::default(), runtime.handle().clone())
}

fn filesystem(source: &MemorySource) -> Filesystem {
    let owner = Owner { uid: 0, gid: 0 };
    Filesystem::new(Arc::new(source.clone()), Arc::new(Metrics::default()), owner)
}

/// The options of a mount that passes whole blobs through.
pub fn passing_through() -> MountOptions {
    MountOptions { passthrough: Passthrough::Like("/etc/hostname".into()), ..MountOptions::default() }
}

/// A mount in a directory of its own. Fields are dropped in this order.
pub struct Mounted {
    pub mount: Mount,
    pub runtime: Runtime,
    pub source: MemorySource,
    pub fs: Arc<Filesystem>,
    pub directory: TempDir,
    pub files: TempDir,
}

impl Mounted {
    /// Mounts blobs that the test adds to `source`; `None` where there is no FUSE.
    pub fn new(test: &str) -> Option<Self> {
        Self::with(test, MountOptions::default())
    }

    /// The same, passing whole blobs through. `None` also where that cannot be.
    pub fn passing_through(test: &str) -> Option<Self> {
        Self::with(test, passing_through())?.if_it_passes_through(test)
    }

    /// Itself, if it passes whole blobs through.
    pub fn if_it_passes_through(self, test: &str) -> Option<Self> {
        let said = self.mount.modes().sentences();
        if said[0].starts_with("passthrough: ") {
            return Some(self);
        }
        skip_without_passthrough(test, Path::new("/etc"), &said[0]);
        None
    }

    /// The same; opens fetch the whole blob first.
    pub fn hydrating(test: &str) -> Option<Self> {
        Self::start(test, MountOptions::default(), Filesystem::hydrating)
    }

    /// The same, as `options` say, and what waits is given up after ten minutes only.
    pub fn patient(test: &str, options: MountOptions, hydrates: bool) -> Option<Self> {
        let long = Duration::from_secs(600);
        Self::start(test, options, |fs| {
            let fs = fs.with_deadlines(Deadlines { lookup: long, size: long, read: long });
            if hydrates { fs.hydrating() } else { fs }
        })
    }

    /// Lookups are answered after some seconds, and the size that they could not tell is waited for ten minutes.
    pub fn patient_for_sizes(test: &str) -> Option<Self> {
        // Long enough for other programs to get into the same lookup.
        let lookup = Duration::from_secs(3);
        let deadlines = Deadlines { lookup, size: Duration::from_secs(600), ..Deadlines::default() };
        Self::start(test, MountOptions::default(), |fs| fs.with_deadlines(deadlines))
    }

    /// The same, as `options` say.
    pub fn with(test: &str, options: MountOptions) -> Option<Self> {
        Self::start(test, options, |fs| fs)
    }

    fn start(test: &str, options: MountOptions, alter: impl FnOnce(Filesystem) -> Filesystem) -> Option<Self> {
        if !fuse_is_here(test) {
            return None;
        }
        let source = MemorySource::default();
        let directory = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let fs = Arc::new(alter(filesystem(&source)));
        let mount = Mount::new(directory.path(), Arc::clone(&fs), options, runtime.handle().clone()).unwrap();
        Some(Self { mount, runtime, source, fs, directory, files: tempfile::tempdir().unwrap() })
    }

    /// Adds a blob that is whole, whose content file is `name` beside the mount point.
    pub fn add_whole(&self, name: &str, content: &[u8]) -> ContentHash {
        let path = self.beside(name, content);
        self.source.add_with(content.to_vec(), |blob| blob.whole = Some(path))
    }

    /// A file that does not lie in the mount.
    pub fn beside(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.files.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The directory of blobs.
    pub fn by_hash(&self) -> PathBuf {
        self.directory.path().join("by-hash")
    }

    /// The file of a blob.
    pub fn file(&self, hash: ContentHash) -> PathBuf {
        self.by_hash().join(hash.to_string())
    }
}
