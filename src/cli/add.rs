//! `byhash add`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::checksum_line::checksum_line;
use super::failure::{CommandError, complain};
use super::flags::StoreFlags;
use super::local_store::{self, Input};
use super::node::block_on;
use super::output::print;
use super::progress::{Shown, bytes_bar};
use crate::config::StateDir;
use crate::control::{Client, StagedBlob};
use crate::ids::ContentHash;

/// The arguments of `byhash add`.
#[derive(Debug, Args)]
pub(super) struct Add {
    /// Files; - is standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    #[command(flatten)]
    store: StoreFlags,
}

impl Add {
    pub(super) fn run(self) -> Result<(), CommandError> {
        let (state, cache_size) = self.store.store()?;
        state.create()?;
        let mut all_done = true;
        for path in &self.paths {
            match add(&state, cache_size, path) {
                Ok(hash) => print(&checksum_line(&hash, path))?,
                Err(error) => {
                    complain(&format_args!("{}: {error}", path.display()));
                    all_done = false;
                }
            }
        }
        if all_done { Ok(()) } else { Err(CommandError::AlreadySaid) }
    }
}

/// Puts the content of `path` into the store.
fn add(state: &StateDir, cache_size: u64, path: &Path) -> Result<ContentHash, CommandError> {
    let (input, len) = if path == Path::new("-") {
        (Input::Stdin, None)
    } else {
        let metadata = std::fs::metadata(path).map_err(|error| CommandError::Failed(error.to_string()))?;
        if metadata.is_dir() {
            return Err(CommandError::Failed("it is a directory: name the files in it".to_owned()));
        }
        (Input::File(path), metadata.is_file().then_some(metadata.len()))
    };
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let bar = Shown(bytes_bar(len, &name));
    let staged = local_store::stage(state, input, &|done| bar.0.set_position(done))?;
    drop(bar);
    adopt(state, cache_size, staged.blob.clone())?;
    Ok(staged.blob.hash)
}

/// Has the running node adopt `blob`, or does it here where none runs.
fn adopt(state: &StateDir, cache_size: u64, blob: StagedBlob) -> Result<(), CommandError> {
    let by_node = block_on(async {
        match Client::connect(&state.control_socket()).await? {
            Some(mut node) => node.adopt(blob.clone()).await.map(Some).map_err(CommandError::from),
            None => Ok(None),
        }
    })?;
    match by_node {
        Some(()) => Ok(()),
        None => local_store::adopt(state, cache_size, &blob),
    }
}
