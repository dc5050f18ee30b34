//! `byhash secret`.

use clap::Args;

use super::failure::CommandError;
use super::output::print;
use crate::transport::NetworkSecret;

/// The arguments of `byhash secret`: none.
#[derive(Debug, Args)]
pub(super) struct Secret {}

impl Secret {
    pub(super) fn run(self) -> Result<(), CommandError> {
        let secret = NetworkSecret::generate().map_err(|error| CommandError::Failed(error.to_string()))?;
        print(&format!("{}\n", *secret.reveal()))
    }
}
