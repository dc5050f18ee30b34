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
use crate::store::import::{Source, Staged, stage};

/// The arguments of `byhash add`.
#[derive(Debug, Args)]
pub(super) struct Add {
    /// Files; - is standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    #[command(flatten)]
    store: StoreFlags,
}

/// How many files are staged at most before they are handed over; each keeps a file open.
const BATCH_FILES: usize = 64;
/// From how many staged bytes on they are handed over, so that little is lost when it is interrupted.
const BATCH_BYTES: u64 = 64 << 20;

impl Add {
    pub(super) fn run(self) -> Result<(), CommandError> {
        let (state, cache_size) = self.store.store()?;
        state.create()?;
        let mut all_done = true;
        let mut batch = Vec::new();
        for path in &self.paths {
            match stage_path(&state, path) {
                Ok(staged) => batch.push((path.as_path(), staged)),
                Err(error) => all_done = not_added(path, &error),
            }
            let bytes: u64 = batch.iter().map(|(_, staged)| staged.blob().size).sum();
            if batch.len() >= BATCH_FILES || bytes >= BATCH_BYTES {
                all_done &= hand_over(&state, cache_size, std::mem::take(&mut batch))?;
            }
        }
        all_done &= hand_over(&state, cache_size, batch)?;
        if all_done { Ok(()) } else { Err(CommandError::AlreadySaid) }
    }
}

/// Says why `path` was not added; the answer is that not all is done.
fn not_added(path: &Path, error: &CommandError) -> bool {
    complain(&format_args!("{}: {error}", path.display()));
    false
}

/// Copies and hashes the content of `path`.
fn stage_path(state: &StateDir, path: &Path) -> Result<Staged, CommandError> {
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
    Ok(stage(&state.cache(), source, &|done| bar.0.set_position(done))?)
}

/// Puts what is staged into the store and prints the hash of each; tells whether all of it is
/// there. Whoever keeps the store is reached once for all, and only now that they are staged, so
/// that a big file does not keep others from the store.
fn hand_over(state: &StateDir, cache_size: u64, batch: Vec<(&Path, Staged)>) -> Result<bool, CommandError> {
    if batch.is_empty() {
        return Ok(true);
    }
    block_on(async {
        let mut keeper = match Keeper::reach(state, cache_size).await {
            Ok(keeper) => keeper,
            Err(error) => return Ok(batch.iter().fold(true, |_, (path, _)| not_added(path, &error))),
        };
        let mut all_done = true;
        for (path, staged) in batch {
            match keeper.adopt(staged.blob()).await {
                Ok(()) => print(&checksum_line(&staged.blob().hash, path))?,
                Err(error) => all_done = not_added(path, &error),
            }
        }
        Ok(all_done)
    })
}
