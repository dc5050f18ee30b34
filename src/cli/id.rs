//! `byhash id`.

use clap::Args;

use super::failure::CommandError;
use super::flags::StateFlags;
use super::output::print;
use crate::transport::Identity;

/// The arguments of `byhash id`.
#[derive(Debug, Args)]
pub(super) struct Id {
    #[command(flatten)]
    which: StateFlags,
}

impl Id {
    pub(super) fn run(self) -> Result<(), CommandError> {
        let state = self.which.state()?;
        state.create()?;
        let identity =
            Identity::load_or_create(&state.key()).map_err(|error| CommandError::Failed(error.to_string()))?;
        print(&format!("{}\n", identity.peer_id()))
    }
}
