//! `byhash unmount`.

use std::path::PathBuf;

use clap::Args;

use super::failure::CommandError;

/// The arguments of `byhash unmount`.
#[derive(Debug, Args)]
pub(super) struct Unmount {
    /// Where the filesystem is mounted; a mount whose node has died is detached too
    mountpoint: PathBuf,
}

impl Unmount {
    pub(super) fn run(self) -> Result<(), CommandError> {
        Err(CommandError::Failed(format!("this build cannot unmount {}", self.mountpoint.display())))
    }
}
