//! The flags that several commands share.

use std::path::PathBuf;

use clap::Args;

use super::failure::CommandError;
use crate::config::{Layers, NodeConfig, RawConfig, StateDir, Surroundings};
use crate::transport::NetworkSecret;

/// Which node is meant.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct StateFlags {
    /// The node's directory: its key, cache and control socket
    ///
    /// [default: /var/lib/byhash for root, else $XDG_STATE_HOME/byhash or ~/.local/state/byhash]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,

    /// Configuration file (TOML; its keys are the settings that 'byhash --help' names)
    ///
    /// [default: /etc/byhash.toml for root, else $XDG_CONFIG_HOME/byhash/config.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl StateFlags {
    /// The state directory. Nothing is made on disk.
    pub(super) fn state(&self) -> Result<StateDir, CommandError> {
        Ok(self.layers(RawConfig::default())?.state()?)
    }

    fn layers(&self, flags: RawConfig) -> Result<Layers, CommandError> {
        let flags = RawConfig { state: self.state.clone(), ..flags };
        Ok(Layers::load(flags, self.config.clone(), &Surroundings::of_this_process())?)
    }
}

/// Which node is meant, and how large its store may be if there is none yet.
#[derive(Debug, Clone, Args)]
pub(super) struct StoreFlags {
    #[command(flatten)]
    which: StateFlags,

    /// What the cache may hold on disk, where no node runs: 20G, 500MiB
    ///
    /// [default: what the last node there was given; if none ran, as configured, or 10GiB]
    #[arg(long, value_name = "SIZE")]
    cache_size: Option<String>,
}

impl StoreFlags {
    /// The state directory and the cache's size in bytes. Nothing is made on disk.
    pub(super) fn store(&self) -> Result<(StateDir, u64), CommandError> {
        let flags = RawConfig { cache_size: self.cache_size.clone(), ..RawConfig::default() };
        let layers = self.which.layers(flags)?;
        Ok((layers.state()?, layers.cache_size_without_node()?))
    }
}

/// How a node is to run.
#[derive(Debug, Clone, Args)]
pub(super) struct NodeFlags {
    #[command(flatten)]
    which: StateFlags,

    /// Address to listen on; port 0 takes any free one [default: 0.0.0.0:7117]
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<String>,

    /// A peer to fetch from (repeatable); its ID may be left out only with --secret-file
    #[arg(long, value_name = "[ID@]HOST:PORT")]
    peer: Vec<String>,

    /// Let the node with this id connect (repeatable)
    #[arg(long, value_name = "ID")]
    allow: Vec<String>,

    /// Let nodes connect that know the network secret in this file (mode 0600; see 'byhash secret')
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,

    /// Let any node connect, whatever its key
    #[arg(long)]
    open: bool,

    /// What the cache may hold on disk: 20G, 500MiB [default: 10GiB]
    #[arg(long, value_name = "SIZE")]
    cache_size: Option<String>,

    /// The most that is sent to peers in a second: 50MB, 1GiB [default: as much as goes]
    #[arg(long, value_name = "SIZE")]
    serve_rate: Option<String>,

    /// Check in the background what is held, once a day, this much in a second: 10MB [default: not]
    #[arg(long, value_name = "SIZE")]
    scrub_rate: Option<String>,
}

/// How a node is to mount.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct MountFlags {
    /// Let other users read the mount too, if it is not root's; /etc/fuse.conf must allow it
    #[arg(long)]
    allow_other: bool,

    /// Fetch a file whole when it is opened, for programs that cannot bear an error in the middle
    #[arg(long)]
    hydrate: bool,

    /// Check what is read from the cache once, or always: on every read, which is slower
    #[arg(long, value_name = "once|always")]
    verify: Option<String>,
}

impl NodeFlags {
    /// The node's configuration, checked, the secret's file too. Nothing is made on disk.
    pub(super) fn node(&self, mount: MountFlags) -> Result<NodeConfig, CommandError> {
        let given = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        let flags = RawConfig {
            state: None,
            listen: self.listen.clone(),
            peer: given(&self.peer),
            allow: given(&self.allow),
            secret_file: self.secret_file.clone(),
            open: self.open.then_some(true),
            cache_size: self.cache_size.clone(),
            serve_rate: self.serve_rate.clone(),
            allow_other: mount.allow_other.then_some(true),
            hydrate: mount.hydrate.then_some(true),
            verify: mount.verify,
            scrub_rate: self.scrub_rate.clone(),
        };
        let node = self.which.layers(flags)?.node()?;
        if let Some(file) = &node.secret_file {
            NetworkSecret::load(file).map_err(|error| CommandError::Misused(error.to_string()))?;
        }
        Ok(node)
    }
}
