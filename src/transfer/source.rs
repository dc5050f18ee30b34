//! What the layers above see of the engine: blobs that can be sized and read.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::holders::{FAR_BULK_LANES, PIECE_LEN};
use crate::ids::{BlobRange, ContentHash, PeerId, Priority};
pub use crate::store::WholeFile;

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why bytes could not be had. Each variant is told apart by users (errno, exit message).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Every reachable peer said that it has none, and at least one was reachable.
    #[error("no reachable peer has it")]
    NotFound,
    /// No peer could be reached (or none is configured).
    #[error("no peer that could have it can be reached")]
    Unreachable,
    /// Holders were reached but sent nothing in time.
    #[error("its holders fell silent")]
    TimedOut,
    /// Only bytes that do not match the hash were to be had.
    #[error("only wrong bytes were to be had")]
    WrongBytes,
    /// The node is shutting down, or the transfer was cancelled.
    #[error("the transfer was cancelled")]
    Cancelled,
}

/// How much of a blob is on this node's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobState {
    /// None of it.
    Absent,
    /// Some verified groups.
    Partial,
    /// All of it.
    Complete,
}

/// Room on the cache's disk, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SpaceUsage {
    /// What the cache may hold.
    pub capacity: u64,
    /// What it holds now.
    pub used: u64,
    /// What could still be written: within the cap and on the file system.
    pub available: u64,
    /// How many blobs it holds, partial ones included.
    pub blobs: u64,
}

/// Where blobs come from: the engine, or a stand-in in tests. No method blocks its thread.
pub trait BlobSource: Send + Sync + 'static {
    /// The size of `hash` if it is already proven here, without network or waiting.
    fn known_size(&self, hash: &ContentHash) -> Option<u64>;

    /// Proves the size of `hash`, asking peers if need be. The caller sets the deadline by
    /// dropping the future; the work then stops unless somebody else waits for it too.
    fn size(&self, hash: ContentHash) -> BoxFuture<'_, Result<u64, FetchError>>;

    /// A reader of `hash`, whose proven size is `size`. Does not touch the network. While it
    /// lives, the cache does not evict what it holds of the blob by now or when it is first read, and that stays
    /// readable even if it is removed.
    fn open(&self, hash: ContentHash, size: u64) -> Arc<dyn BlobReader>;

    /// Whether `hash` is complete here and known to be right as it lies on disk. No waiting.
    fn is_whole(&self, _hash: &ContentHash) -> bool {
        false
    }

    /// Makes `hash` whole: fetches what is missing of it and checks what is here but was not looked
    /// at yet. False if that cannot be (no room in the cache). Dropping the future withdraws the wish.
    fn make_whole(&self, _hash: ContentHash) -> BoxFuture<'_, Result<bool, FetchError>> {
        Box::pin(std::future::ready(Ok(false)))
    }

    /// Has a complete blob checked in the background, so that it becomes whole. A hint.
    fn check_soon(&self, _hash: ContentHash) {}

    /// How many bytes of `hash` are held here, verified when they came.
    fn held_bytes(&self, _hash: &ContentHash) -> u64 {
        0
    }

    /// Something that changes as long as bytes come from those who have been asked for `hash`: of it, or of what
    /// they send before that. No network.
    fn progress(&self, _hash: &ContentHash) -> u64 {
        0
    }

    /// How much of `hash` is held here.
    fn state(&self, hash: &ContentHash) -> BlobState;

    /// The peers that said they hold `hash`, as far as this node remembers. No network.
    fn known_holders(&self, hash: &ContentHash) -> Vec<PeerId>;

    /// Up to `limit` complete blobs held here, in the order of their hashes, beginning after
    /// `after`: hash and size in bytes. No network.
    fn complete_blobs(&self, after: Option<ContentHash>, limit: usize) -> Vec<(ContentHash, u64)>;

    /// The cache's figures. No network.
    fn usage(&self) -> SpaceUsage;
}

/// What a stream wants ahead in a local network: at 1 GB/s it covers a round trip of 16 ms, more than such
/// a network has; and all of it is still in memory when it is read.
pub const NEAR_AHEAD_LEN: u64 = 16 << 20;

/// What it wants ahead of holders that are far: twice what all lanes to one of them carry at a time, so
/// that the next exchange of each is known when one ends.
pub const FAR_AHEAD_LEN: u64 = 2 * FAR_BULK_LANES as u64 * PIECE_LEN;

/// An open blob.
pub trait BlobReader: Send + Sync + 'static {
    /// The proven size in bytes.
    fn size(&self) -> u64;

    /// Reads the bytes of `range` (clipped to the size): all of them verified, none missing.
    /// Dropping the future withdraws the wish.
    fn read(&self, range: BlobRange, priority: Priority) -> BoxFuture<'_, Result<Bytes, FetchError>>;

    /// The bytes of `range` (clipped to the size) if they are at hand: verified, in memory, to be had
    /// without waiting. `None` says nothing but that [`BlobReader::read`] is to be used.
    fn read_at_hand(&self, _range: BlobRange) -> Option<Bytes> {
        None
    }

    /// The bytes of `range` (clipped to the size) if all of them are here, in memory or on disk: verified. Asks nobody.
    fn read_here(&self, range: BlobRange) -> BoxFuture<'_, Option<Bytes>> {
        Box::pin(std::future::ready(self.read_at_hand(range)))
    }

    /// The content file, if the blob is whole (see [`BlobSource::is_whole`]), for whoever reads it
    /// without us. While the reader lives, the cache does not evict the blob.
    fn whole_file(&self) -> Option<WholeFile> {
        None
    }

    /// Keeps the cache from evicting what it has of the blob while the reader lives.
    fn hold(&self) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }

    /// Starts fetching what is missing of `range` and returns at once. A hint: it may do less.
    fn prefetch(&self, range: BlobRange);

    /// Bytes that a stream may want ahead of itself at most: so many as keep those busy who have them.
    fn most_ahead(&self) -> u64 {
        NEAR_AHEAD_LEN
    }
}
