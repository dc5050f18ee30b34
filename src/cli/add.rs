//! `byhash add`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::checksum_line::checksum_line;
use super::failure::{CommandError, complain};
use super::flags::StoreFlags;
use super::keeper::Keeper;
use super::node::block_on;
use super::output::print;
use super::progress::{Shown, bytes_bar};
use crate::config::StateDir;
use crate::ids::ContentHash;
use crate::store::import::{Source, stage};

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

/// Puts the content of `path` into the store. Whoever keeps the store is reached only once the
/// content is staged, so that a big file does not keep others from the store.
fn add(state: &StateDir, cache_size: u64, path: &Path) -> Result<ContentHash, CommandError> {
    let mut stdin = std::io::stdin().lock();
    let (source, len) = if path == Path::new("-") {
        (Source::Stream(&mut stdin), None)
    } else {
        let metadata = std::fs::metadata(path).map_err(|error| CommandError::Failed(error.to_string()))?;
        if metadata.is_dir() {
            return Err(CommandError::Failed("it is a directory: name the files in it".to_owned()));
        }
        (Source::File(path), metadata.is_file().then_some(metadata.len()))
    };
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
    let bar = Shown(bytes_bar(len, &name));
    let staged = stage(&state.cache(), source, &|done| bar.0.set_position(done))?;
    drop(bar);
    block_on(async { Keeper::reach(state, cache_size).await?.adopt(staged.blob()).await })?;
    Ok(staged.blob().hash)
}
