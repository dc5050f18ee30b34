//! `byhash get`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use clap::Args;

use super::destination::Destination;
use super::failure::CommandError;
use super::flags::StoreFlags;
use super::keeper::{Keeper, Who};
use super::node::block_on;
use super::progress::{Shown, bytes_bar};
use super::signals::interrupted;
use super::why::ADD_AGAIN;
use crate::config::StateDir;
use crate::control::{BlobStream, ControlError};
use crate::daemon::LOCK_WAIT;
use crate::ids::{BlobRange, ContentHash};
use crate::store::{Blob, Store};

/// Without a node, the store is read in pieces of this many bytes (1 MiB).
const LOCAL_PIECE_LEN: u64 = 1 << 20;

/// The arguments of `byhash get`.
#[derive(Debug, Args)]
pub(super) struct Get {
    /// The blob's name: 64 hexadecimal digits
    hash: String,

    /// Write to FILE, which appears only once it is whole, instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    #[command(flatten)]
    store: StoreFlags,
}

impl Get {
    pub(super) fn run(self) -> Result<(), CommandError> {
        let hash = self.hash.parse::<ContentHash>()?;
        let (state, cache_size) = self.store.store()?;
        let open = || Destination::open(self.output.as_deref());
        if hash == ContentHash::EMPTY {
            return open()?.finish();
        }
        // Asking must not make a store.
        if !state.path().exists() {
            return Err(not_held(&state, hash));
        }
        block_on(async {
            let mut keeper = Keeper::reach_existing(&state, cache_size).await?;
            let deadline = Instant::now() + LOCK_WAIT;
            loop {
                match keeper.who() {
                    // Nothing is written before the node has the blob.
                    Who::Node(node) => match node.get(hash).await {
                        Err(ControlError::Closing) if Instant::now() < deadline => {}
                        Err(error) => return Err(why(hash, error)),
                        Ok(stream) => return deliver(hash, stream.size(), Source::Node(stream), open()?).await,
                    },
                    Who::Store(store) => {
                        let blob = store.blob(&hash)?.filter(|blob| blob.is_complete());
                        let blob = blob.ok_or_else(|| lost(store, hash).unwrap_or_else(|| not_held(&state, hash)))?;
                        return deliver(hash, blob.size(), Source::Store { store, blob, at: 0 }, open()?).await;
                    }
                }
                keeper.reach_again().await?;
            }
        })
    }
}

/// Where the bytes come from.
enum Source<'a> {
    Node(BlobStream<'a>),
    /// The next byte to read is `at`.
    Store {
        store: &'a Store,
        blob: Arc<Blob>,
        at: u64,
    },
}

impl Source<'_> {
    /// The next bytes; `None` after the last.
    async fn next(&mut self, hash: ContentHash) -> Result<Option<Bytes>, CommandError> {
        match self {
            Self::Node(stream) => Ok(stream.next().await.map_err(|error| why(hash, error))?.map(Bytes::from)),
            Self::Store { store, blob, at } => {
                let range = BlobRange::new(*at, at.saturating_add(LOCAL_PIECE_LEN)).clip(blob.size());
                if range.is_empty() {
                    return Ok(None);
                }
                *at = range.end;
                // Lets an interrupt be noticed.
                tokio::task::yield_now().await;
                let read = blob.read(range);
                read.map(Some).map_err(|error| lost(store, hash).unwrap_or_else(|| error.into()))
            }
        }
    }
}

/// Writes what comes. Where an interrupt would leave a temporary file, it is awaited; where not,
/// the process just ends by it, even if stdout is stuck.
async fn deliver(
    hash: ContentHash,
    size: u64,
    mut source: Source<'_>,
    mut destination: Destination,
) -> Result<(), CommandError> {
    let bar = Shown(bytes_bar(Some(size), &format!("{hash:.10}")));
    let cleaning = destination.needs_cleaning();
    let copy = async {
        while let Some(bytes) = source.next(hash).await? {
            destination.write(&bytes)?;
            bar.0.inc(bytes.len() as u64);
        }
        destination.finish()
    };
    tokio::select! {
        // Signals first: they must be listened for before anything is written.
        biased;
        asked = interrupted(), if cleaning => asked.and(Err(CommandError::Failed("interrupted".to_owned()))),
        copied = copy => copied,
    }
}

fn not_held(state: &StateDir, hash: ContentHash) -> CommandError {
    CommandError::Failed(format!(
        "{hash}: the store in {dir} does not hold it, and no node runs there that could fetch it: \
         start one with 'byhash serve --state {dir} --peer <id>@<host>:<port>'",
        dir = state.path().display()
    ))
}

/// What has become of the user's file from which the blob was served, if that is why it is not held.
fn lost(store: &Store, hash: ContentHash) -> Option<CommandError> {
    let complaint = store.show(&[hash]).ok()?.pop()?.in_place?.complaint()?;
    Some(CommandError::Failed(format!("{hash}: {complaint}{ADD_AGAIN}")))
}

/// Why the node could not send the blob; the hash says which one is meant.
fn why(hash: ContentHash, error: ControlError) -> CommandError {
    CommandError::Failed(format!("{hash}: {error}"))
}
