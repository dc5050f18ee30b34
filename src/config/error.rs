//! What can be wrong with a configuration.

use std::path::PathBuf;

/// Why there is no valid configuration. Each message is a sentence that names the value and the
/// place where it was given.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A value that cannot be what it should be.
    #[error("{place}: {reason}")]
    Value {
        /// `--peer`, `BYHASH_PEER` or `peer in /etc/byhash.toml`.
        place: String,
        /// Names the value and what is wanted.
        reason: String,
    },
    /// A configuration file that cannot be read.
    #[error("the configuration file {} cannot be read: {source}", path.display())]
    FileUnreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A configuration file that is not valid.
    #[error("{}:{line}: {reason}", path.display())]
    FileInvalid {
        /// The file.
        path: PathBuf,
        /// The line of the error, counted from 1.
        line: usize,
        /// Names the key.
        reason: String,
    },
    /// Neither given nor to be derived.
    #[error("no state directory: HOME is not set, so give one with --state DIR")]
    NoStateDir,
    /// The state directory cannot be made or used.
    #[error("the state directory {} cannot be {what}: {source}", path.display())]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// `made`, `used` or `found`.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl ConfigError {
    /// Whether the user's words are at fault, as against the state of the machine.
    pub fn is_misuse(&self) -> bool {
        match self {
            Self::Value { .. } | Self::FileUnreadable { .. } | Self::FileInvalid { .. } | Self::NoStateDir => true,
            Self::StateDir { .. } => false,
        }
    }
}
