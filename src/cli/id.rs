//! `byhash id`.

use clap::Args;

use super::failure::CommandError;
use super::flags::StateFlags;
use super::output::print;

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
        let _ = print;
        Err(CommandError::Failed("this build has no keys".to_owned()))
    }
}
