//! `byhash unmount`.

use std::path::PathBuf;

use clap::Args;

use super::failure::{CommandError, complain};
use crate::fuse::{MountError, Unmounted, clear_dead, unmount};

/// The arguments of `byhash unmount`.
#[derive(Debug, Args)]
pub(super) struct Unmount {
    /// Where the filesystem is mounted; a mount whose node has died is detached too
    mountpoint: PathBuf,

    /// Only a mount whose node has died; that there is none is no failure
    #[arg(long)]
    dead: bool,
}

impl Unmount {
    pub(super) fn run(self) -> Result<(), CommandError> {
        let failed = |error: MountError| {
            CommandError::Failed(match error {
                MountError::Missing(path) => format!("nothing is mounted at '{}': it does not exist", path.display()),
                error => error.to_string(),
            })
        };
        if self.dead {
            return clear_dead(&self.mountpoint).map_err(failed);
        }
        if unmount(&self.mountpoint).map_err(failed)? == Unmounted::FilesOpen {
            complain(&format_args!(
                "'{}' is unmounted, but files of it are still open, and its node ends once they are closed; \
                 kill the node to break them off",
                self.mountpoint.display()
            ));
        }
        Ok(())
    }
}
