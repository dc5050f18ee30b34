//! `byhash secret`.

use clap::Args;

use super::failure::CommandError;

/// The arguments of `byhash secret`: none.
#[derive(Debug, Args)]
pub(super) struct Secret {}

impl Secret {
    pub(super) fn run(self) -> Result<(), CommandError> {
        Err(CommandError::Failed("this build has no secrets".to_owned()))
    }
}
