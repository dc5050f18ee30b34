//! `byhash serve`.

use clap::Args;

use super::failure::CommandError;
use super::flags::{MountFlags, NodeFlags};
use super::node::run_node;

/// The arguments of `byhash serve`.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    node: NodeFlags,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), CommandError> {
        run_node(&self.node.node(MountFlags::default())?, None)
    }
}
