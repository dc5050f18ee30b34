//! `byhash unmount`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::failure::{CommandError, complain};
use super::flags::StateFlags;
use super::leaving::{Leaving, lingering};
use super::node::block_on;
use super::status::GOES_ON;
use crate::fuse::{MountError, clear_dead, unmount};

/// The arguments of `byhash unmount`.
///
/// A mount tells itself which node is its own. Where nothing is mounted any more, and the node goes on for files that are
/// open, --state names the node, if it is not the default.
#[derive(Debug, Args)]
pub(super) struct Unmount {
    /// Where the filesystem is mounted; a mount whose node has died is detached too
    mountpoint: PathBuf,

    /// Only a mount whose node has died; that there is none is no failure
    #[arg(long)]
    dead: bool,

    #[command(flatten)]
    which: StateFlags,
}

impl Unmount {
    pub(super) fn run(self) -> Result<(), CommandError> {
        if self.dead {
            return clear_dead(&self.mountpoint).map_err(|error| self.not_unmounted(error));
        }
        let node = Leaving::of(&self.mountpoint);
        unmount(&self.mountpoint).map_err(|error| self.not_unmounted(error))?;
        if let Some(sentence) = node.and_then(|node| node.wait()) {
            complain(&format_args!("'{}' is unmounted, but {sentence}", self.mountpoint.display()));
        }
        Ok(())
    }

    fn not_unmounted(&self, error: MountError) -> CommandError {
        CommandError::Failed(match error {
            MountError::Missing(path) => format!("nothing is mounted at '{}': it does not exist", path.display()),
            MountError::NotMounted(path) if self.is_lingering(&path) => {
                format!("nothing is mounted at '{}' any more, but {GOES_ON}", path.display())
            }
            error => error.to_string(),
        })
    }

    /// Whether the node that is meant was mounted at `path`, and goes on for files that are open. Others cannot be found
    /// by a mount point that is none any more.
    fn is_lingering(&self, path: &Path) -> bool {
        let state = self.which.state();
        let lingering = state.and_then(|state| block_on(async { Ok(lingering(&state).await) }));
        lingering.is_ok_and(|mountpoint| mountpoint.as_deref() == Some(path))
    }
}
