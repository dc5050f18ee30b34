//! What the user configured: flags over environment over file over defaults.
//!
//! What was typed, in whatever place, is a [`RawConfig`]; [`Layers`] stacks the three of them; the
//! validated [`NodeConfig`] is made from the layers in one place. A value that is set in a higher
//! layer replaces that of the lower ones, lists too: `--peer` on the command line means exactly
//! those peers.

mod error;
mod layers;
mod node;
mod raw;
mod state_dir;

pub use error::ConfigError;
pub use layers::{Layers, Surroundings};
pub use node::{
    DEFAULT_CACHE_SIZE, DEFAULT_LISTEN, KEEP_FREE, MAX_CACHE_SIZE, MIN_CACHE_SIZE, MountConfig, NodeConfig, Verify,
    store_config,
};
pub use raw::{RawConfig, SETTINGS, unknown_variables};
pub use state_dir::StateDir;
