//! `byhash mount`.

use std::path::PathBuf;

use clap::Args;

use super::background;
use super::failure::CommandError;
use super::flags::{MountFlags, NodeFlags};
use super::log_file;
use super::node::{Place, check_place, run_node};

/// The arguments of `byhash mount`.
#[derive(Debug, Args)]
pub(super) struct Mount {
    /// An existing directory; blobs appear as MOUNTPOINT/by-hash/HASH
    mountpoint: PathBuf,

    /// Stay in the foreground and log to stderr; otherwise the log is DIR/log
    #[arg(short, long)]
    foreground: bool,

    /// Set by the program itself for the process that it leaves in the background
    #[arg(long = background::DETACHED, hide = true)]
    detached: bool,

    /// What mount(8) and df(1) are to show as the source; 'mount -a' goes by it
    #[arg(long, value_name = "NAME", hide = true)]
    fsname: Option<String>,

    #[command(flatten)]
    mount: MountFlags,

    #[command(flatten)]
    node: NodeFlags,
}

impl Mount {
    pub(super) fn run(self) -> Result<(), CommandError> {
        let mut config = self.node.node(self.mount)?;
        let mountpoint = std::path::absolute(&self.mountpoint)
            .map_err(|error| CommandError::Misused(format!("'{}': {error}", self.mountpoint.display())))?;
        if !self.detached {
            // Before anything is made.
            check_place(&config, &mountpoint)?;
        }
        // By a path that does not lead through the mount point, if there is one.
        config.state.create()?;
        config.state = config.state.resolved()?;
        if self.detached {
            // A process in the background must not keep some directory's file system busy. All
            // paths are absolute by now.
            log_file::keep_small(config.state.log());
            std::env::set_current_dir("/").map_err(|error| CommandError::Failed(format!("/: {error}")))?;
        } else if !self.foreground {
            return background::start(&config.state);
        }
        run_node(&config, Some(Place { mountpoint, source: self.fsname, awaited: self.detached }))
    }
}
