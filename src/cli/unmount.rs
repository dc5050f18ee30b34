//! `byhash unmount`.

use std::path::PathBuf;

use clap::Args;

use super::failure::CommandError;
use crate::fuse::unmount;

/// The arguments of `byhash unmount`.
#[derive(Debug, Args)]
pub(super) struct Unmount {
    /// Where the filesystem is mounted; a mount whose node has died is detached too
    mountpoint: PathBuf,
}

impl Unmount {
    pub(super) fn run(self) -> Result<(), CommandError> {
        unmount(&self.mountpoint).map_err(|error| CommandError::Failed(error.to_string()))
    }
}
