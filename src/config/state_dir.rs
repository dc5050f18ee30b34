//! The directory that is a node: its key, its cache, its control socket.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::ConfigError;
use super::node::{MAX_CACHE_SIZE, MIN_CACHE_SIZE};

/// A node's state directory, mode 0700, and what lies where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// The directory at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The node's private key, PEM.
    pub fn key(&self) -> PathBuf {
        self.0.join("key.pem")
    }

    /// The store's directory.
    pub fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }

    /// The socket by which commands talk to the running node.
    pub fn control_socket(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// What was known of the peers' speed when the node ended last.
    pub fn peer_hints(&self) -> PathBuf {
        self.0.join("peer-hints.json")
    }

    /// How far scrubbing in the background had come.
    pub fn scrub_position(&self) -> PathBuf {
        self.0.join("scrub-position")
    }

    /// What the cache of the node that ran here last may hold on disk, in bytes; `None` if that is not known. So that
    /// commands that use the cache while no node runs keep to its limit.
    pub fn noted_cache_size(&self) -> Option<u64> {
        let size = std::fs::read_to_string(self.cache_size()).ok()?.trim().parse().ok()?;
        (MIN_CACHE_SIZE..=MAX_CACHE_SIZE).contains(&size).then_some(size)
    }

    /// Notes what the cache of the node that runs here may hold on disk, in bytes.
    ///
    /// # Errors
    /// As for writing and renaming a file.
    pub fn note_cache_size(&self, size: u64) -> std::io::Result<()> {
        if self.noted_cache_size() == Some(size) {
            return Ok(());
        }
        let fresh = self.cache_size().with_extension("new");
        std::fs::write(&fresh, format!("{size}\n"))?;
        std::fs::rename(&fresh, self.cache_size())
    }

    fn cache_size(&self) -> PathBuf {
        self.0.join("cache-size")
    }

    /// What a node in the background logs to.
    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// Makes the directory (mode 0700) and its parents unless it exists. An existing one keeps
    /// its mode: it may be a mount or a directory that a service manager made.
    pub fn create(&self) -> Result<(), ConfigError> {
        let failed = |what| {
            let path = self.0.clone();
            move |source| ConfigError::StateDir { path, what, source }
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.0).map_err(failed("made"))?;
        std::fs::read_dir(&self.0).map(drop).map_err(failed("used"))
    }

    /// The same directory, which must exist, by its own path: without links and `..`.
    pub fn resolved(&self) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::StateDir { path: self.0.clone(), what: "found", source };
        self.0.canonicalize().map(Self).map_err(failed)
    }

    /// What a node opens by name while it runs, each of which may be a link to elsewhere.
    pub fn places(&self) -> [PathBuf; 5] {
        [self.0.clone(), self.key(), self.cache(), self.control_socket(), self.log()]
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_made_for_its_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::new(parent.path().join("a/b"));
        state.create().unwrap();
        state.create().unwrap();
        let mode = std::fs::metadata(state.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn the_limit_of_the_cache_is_noted_and_nonsense_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::new(dir.path());
        assert_eq!(state.noted_cache_size(), None);
        for size in [MIN_CACHE_SIZE, 100 << 30] {
            state.note_cache_size(size).unwrap();
            assert_eq!(state.noted_cache_size(), Some(size));
        }
        for nonsense in ["", "1", "much", "99999999999999999999999"] {
            std::fs::write(state.cache_size(), nonsense).unwrap();
            assert_eq!(state.noted_cache_size(), None, "{nonsense}");
        }
    }

    #[test]
    fn a_file_in_its_place_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        std::fs::write(&path, "").unwrap();
        let error = StateDir::new(&path).create().unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert!(!error.is_misuse());
    }
}
