//! `byhash add`.

use std::io::Seek;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::Args;

use super::checksum_line::checksum_line;
use super::failure::{CommandError, complain};
use super::flags::StoreFlags;
use super::keeper::{Keeper, out_of_place};
use super::node::block_on;
use super::output::Output;
use super::progress::{Shown, bytes_bar};
use crate::config::StateDir;
use crate::control::{MAX_STAGED, Order, Report};
use crate::store::StoreError;
use crate::store::import::{Batch, Source, StagedBlob, room_for};

/// The arguments of `byhash add`.
#[derive(Debug, Args)]
pub(super) struct Add {
    /// Files; - is standard input
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Do not copy, but serve the files from where they lie, as long as they are what they were
    #[arg(long)]
    reference: bool,

    #[command(flatten)]
    store: StoreFlags,
}

/// What the files of a batch have together at most, in bytes (64 MiB), so that little is lost when it is
/// interrupted. A larger file is a batch of its own.
const BATCH_BYTES: u64 = 64 << 20;

/// Bytes (1 MiB) from which on a file gets a progress bar: with less it is there before it could be seen.
const MIN_SHOWN: u64 = 1 << 20;

/// A file to be added.
struct File<'a> {
    path: &'a Path,
    /// Its length in bytes, if that is known before it is read.
    len: Option<u64>,
}

impl Add {
    pub(super) fn run(self) -> Result<(), CommandError> {
        let (state, cache_size) = self.store.store()?;
        state.create()?;
        let mut adding = Adding { state, cache_size, reference: self.reference, printed: Output::default() };
        let mut all_done = true;
        let mut files = self.paths.iter().peekable();
        while files.peek().is_some() {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while let Some(path) = files.peek() {
                let file = match adding.look_at(path) {
                    Ok(file) => file,
                    Err(error) => {
                        all_done = not_added(path, &error);
                        files.next();
                        continue;
                    }
                };
                let len = if self.reference { Some(0) } else { file.len };
                let fits = len.is_some_and(|len| bytes + room_for(len) <= BATCH_BYTES);
                if !batch.is_empty() && (!fits || batch.len() == MAX_STAGED) {
                    break;
                }
                files.next();
                batch.push(file);
                bytes += len.map_or(0, room_for);
                if !fits {
                    break;
                }
            }
            all_done &= adding.batch(&batch, bytes)?;
        }
        adding.printed.conclude(if all_done { Ok(()) } else { Err(CommandError::AlreadySaid) })
    }
}

/// Says why `path` was not added; the answer is that not all is done.
fn not_added(path: &Path, error: &CommandError) -> bool {
    let (name, said) = (path.display().to_string(), error.to_string());
    let is_named = said.starts_with(&format!("{name} ")) || said.contains(&format!(" {name}: "));
    if is_named {
        complain(&said);
    } else {
        complain(&format_args!("{name}: {said}"));
    }
    false
}

/// Where it is added to, and how.
struct Adding {
    state: StateDir,
    cache_size: u64,
    reference: bool,
    printed: Output,
}

impl Adding {
    fn look_at<'a>(&self, path: &'a Path) -> Result<File<'a>, CommandError> {
        if path == Path::new("-") {
            if self.reference {
                return Err(CommandError::Failed("standard input does not lie anywhere: leave --reference out".into()));
            }
            return Ok(File { path, len: rest_of_stdin() });
        }
        let metadata = std::fs::metadata(path).map_err(|error| CommandError::Failed(error.to_string()))?;
        if metadata.is_dir() {
            return Err(CommandError::Failed("it is a directory: name the files in it".to_owned()));
        }
        Ok(File { path, len: metadata.is_file().then_some(metadata.len()) })
    }

    /// Adds files that have `bytes` bytes together and prints the hash of each; tells whether all of them are
    /// there. Whoever keeps the store makes room for all of them before anything is written, and takes them
    /// over together when all are staged.
    fn batch(&mut self, files: &[File], bytes: u64) -> Result<bool, CommandError> {
        let mut all_done = true;
        let mut batch = match Batch::create(&self.state.cache()) {
            Ok(batch) => batch,
            Err(error) => return Ok(all_not_added(files, &error.into())),
        };
        let mut kept = None;
        let is_small = !self.reference && bytes <= BATCH_BYTES && files.iter().all(|file| file.len.is_some());
        if is_small {
            // A store that no node has open stays open here meanwhile, for it takes but a moment.
            let room = &mut |batch: &str, bytes| self.make_room(&mut kept, batch, bytes);
            // If there is no room for all, there may be for some.
            let _ = batch.reserve(bytes, room);
        }
        let mut staged: Vec<&Path> = Vec::new();
        for file in files {
            match self.stage(&mut batch, file, &mut kept) {
                Ok(()) => staged.push(file.path),
                Err(error) => all_done = not_added(file.path, &error),
            }
        }
        if staged.is_empty() {
            return Ok(all_done);
        }
        let outcomes = batch.sync().map_err(CommandError::from).and_then(|()| self.adopt(kept, batch.blobs()));
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes,
            Err(error) => {
                return Ok(staged.iter().fold(true, |_, path| not_added(path, &error)));
            }
        };
        let mut printed = String::new();
        for ((path, blob), failure) in staged.iter().zip(batch.blobs()).zip(outcomes) {
            match failure {
                None => printed += &checksum_line(&blob.hash, path),
                Some(error) => all_done = not_added(path, &CommandError::Failed(error)),
            }
        }
        self.printed.print(&printed);
        Ok(all_done)
    }

    /// Copies and hashes the content of a file, or only hashes it.
    fn stage(&self, batch: &mut Batch, file: &File, kept: &mut Option<Keeper>) -> Result<(), CommandError> {
        let mut stdin = std::io::stdin().lock();
        let source = match file.path {
            path if path == Path::new("-") => Source::Stream(&mut stdin),
            path if self.reference => Source::InPlace(path),
            path => Source::File(path),
        };
        let name = file.path.file_name().unwrap_or(file.path.as_os_str()).to_string_lossy();
        let is_long = file.len.is_none_or(|len| len >= MIN_SHOWN);
        let bar = is_long.then(|| Shown(bytes_bar(file.len, &name)));
        let room = &mut |batch: &str, bytes| self.make_room(kept, batch, bytes);
        if let (Source::Stream(_), Some(len)) = (&source, file.len) {
            // Else some would be made for the beginning of what there is no room for as a whole.
            batch.reserve(room_for(len), room)?;
        }
        batch.stage(source, room, &|done| bar.iter().for_each(|bar| bar.0.set_position(done)))?;
        Ok(())
    }

    /// Has room made for a batch. A store that no node has open is kept open for what comes next if `kept` says so.
    fn make_room(&self, kept: &mut Option<Keeper>, batch: &str, bytes: u64) -> Result<(), StoreError> {
        let asked = block_on(async {
            let mut keeper = match kept.take() {
                Some(keeper) => keeper,
                None => Keeper::reach(&self.state, self.cache_size).await?,
            };
            let order = Order::MakeRoom { batch: batch.to_owned(), bytes };
            let report = keeper.order(order).await;
            // A node's connection does not last as long as staging may take.
            *kept = Some(keeper).filter(|keeper| bytes <= BATCH_BYTES && keeper.is_here());
            match report? {
                Report::Room => Ok(()),
                _ => Err(out_of_place()),
            }
        });
        asked.map_err(|error| StoreError::Said(error.to_string()))
    }

    /// Has what is staged taken over; why each is not there, if it is not.
    fn adopt(&self, kept: Option<Keeper>, blobs: &[StagedBlob]) -> Result<Vec<Option<String>>, CommandError> {
        block_on(async {
            let mut keeper = match kept {
                Some(keeper) => keeper,
                None => Keeper::reach(&self.state, self.cache_size).await?,
            };
            match keeper.order(Order::Adopt { blobs: blobs.to_vec() }).await? {
                Report::Adopted { failures } if failures.len() == blobs.len() => Ok(failures),
                _ => Err(out_of_place()),
            }
        })
    }
}

/// How much standard input has to give, if it is a file; a pipe does not say.
fn rest_of_stdin() -> Option<u64> {
    let mut stdin = std::fs::File::from(std::io::stdin().as_fd().try_clone_to_owned().ok()?);
    let metadata = stdin.metadata().ok()?;
    // Files that the kernel makes up as they are read say that they are empty.
    let is_sized = metadata.is_file() && metadata.len() > 0;
    is_sized.then(|| stdin.stream_position().ok()).flatten().map(|at| metadata.len().saturating_sub(at))
}

fn all_not_added(files: &[File], error: &CommandError) -> bool {
    files.iter().fold(true, |_, file| not_added(file.path, error))
}
