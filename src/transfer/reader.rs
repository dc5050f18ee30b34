//! An open blob: its bytes from memory, from the store, from peers, in that order.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rangemap::RangeSet;
use tokio::time::Instant;

use super::engine::Shared;
use super::fetch::Destination;
use super::source::{FAR_AHEAD_LEN, NEAR_AHEAD_LEN};
use super::{BlobReader, BoxFuture, FetchError, Priority, WholeFile};
use crate::ids::{BlobRange, ContentHash};
use crate::store::{Blob, StoreError};
use crate::verify::{GROUP_LEN, bytes_of, groups_from, groups_of};

/// How often in a row one read goes back to the store and the peers without a byte more. Each such
/// round follows a change in the store (groups that went or proved corrupt), so few are ever needed.
const MAX_ROUNDS: u32 = 16;

/// The time between two looks at a blob whose outboard waits to be made anew.
const MENDING_REST: Duration = Duration::from_millis(50);

/// A reader of one blob.
pub(super) struct Reader {
    shared: Arc<Shared>,
    hash: ContentHash,
    size: u64,
    opened: Instant,
    /// Lives as long as the reader: what is fetched ahead is fetched for it.
    token: Arc<()>,
    /// From the open on, if something is held by then: so the bytes stay readable when the blob is removed.
    blob: Mutex<Option<Arc<Blob>>>,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, hash: ContentHash, size: u64) -> Self {
        let blob = Mutex::new(shared.store.blob_at_once(&hash).flatten());
        Self { shared, hash, size, opened: Instant::now(), token: Arc::new(()), blob }
    }

    /// Whether nothing is fetched for it, since somebody has just cancelled that.
    fn is_cancelled(&self) -> bool {
        self.shared.cancelled.is_over(&self.hash, self.opened, Instant::now())
    }

    /// The bytes of `range` if remembered segments have them all.
    fn remembered(&self, range: BlobRange) -> Option<Bytes> {
        if self.shared.store.checks_every_read() && self.blob_at_once().is_some_and(|blob| blob.is_complete()) {
            return None;
        }
        let mut joined: Vec<u8> = Vec::new();
        let mut start = range.start;
        while start < range.end {
            let (first, segment) =
                self.shared.recent.get(&self.hash, start / GROUP_LEN..range.end.div_ceil(GROUP_LEN))?;
            let at = first * GROUP_LEN;
            let end = range.end.min(at + segment.len() as u64);
            let part = (start - at) as usize..(end - at) as usize;
            if start == range.start && end == range.end {
                return Some(segment.slice(part));
            }
            joined.reserve(range.len() as usize - joined.len());
            joined.extend_from_slice(&segment[part]);
            start = end;
        }
        Some(Bytes::from(joined))
    }

    /// The store's blob, if it has one.
    async fn blob(&self) -> Option<Arc<Blob>> {
        match self.blob_at_once() {
            Some(blob) => Some(blob),
            None => self.keep(self.shared.blob(self.hash).await),
        }
    }

    /// The same if nobody has to be waited for.
    fn blob_at_once(&self) -> Option<Arc<Blob>> {
        let known = self.blob.lock().clone();
        known.or_else(|| self.keep(self.shared.store.blob_at_once(&self.hash).flatten()))
    }

    /// Keeps `blob` as long as this lives, or what is kept already.
    fn keep(&self, blob: Option<Arc<Blob>>) -> Option<Arc<Blob>> {
        let mut kept = self.blob.lock();
        *kept = kept.take().or(blob);
        kept.clone()
    }

    /// Fills in what memory and the store have of `left`, if it was removed, too, as long as this is open. True if the
    /// store could not read what it has.
    async fn fill(&self, destination: &mut Destination, left: &mut RangeSet<u64>) -> bool {
        for groups in left.clone().iter() {
            let mut group = groups.start;
            while group < groups.end {
                let Some((first, bytes)) = self.shared.recent.get(&self.hash, group..groups.end) else {
                    group += 1;
                    continue;
                };
                let come = groups_from(first, bytes.len());
                destination.take_from(first * GROUP_LEN, &bytes);
                group = come.end;
                left.remove(come);
            }
        }
        let Some(blob) = self.blob().await else { return false };
        let mut unreadable = false;
        for groups in left.clone().iter() {
            let missing: RangeSet<u64> = blob.missing(groups.clone()).into_iter().collect();
            for held in missing.gaps(groups) {
                let range = bytes_of(self.size, &held);
                match self.read_stored(&blob, range).await {
                    Some(bytes) => {
                        destination.take_from(range.start, &bytes);
                        left.remove(held);
                    }
                    // Damaged groups are no longer held; what is, cannot be read.
                    None => unreadable |= blob.has(held),
                }
            }
            for removed in blob.removed_parts(groups.clone()) {
                let part = removed.clone();
                let read = blob.blocking(move |blob| blob.read_removed(&part)).await;
                if let Ok(Some(bytes)) = read {
                    destination.take_from(bytes_of(self.size, &removed).start, &bytes);
                    left.remove(removed);
                }
            }
        }
        unreadable
    }

    /// See [`BlobReader::read_here`].
    async fn read_range_here(&self, range: BlobRange) -> Option<Bytes> {
        let range = range.clip(self.size);
        if range.is_empty() {
            return Some(Bytes::new());
        }
        let mut destination = Destination::new(range);
        let mut left = RangeSet::from_iter([groups_of(self.size, range)]);
        self.fill(&mut destination, &mut left).await;
        left.is_empty().then(|| destination.into_bytes())
    }

    /// Reads from the store; `None` if what is there turns out wrong or unreadable.
    async fn read_stored(&self, blob: &Arc<Blob>, range: BlobRange) -> Option<Bytes> {
        if let Some(bytes) = read_cached(blob, range) {
            return Some(bytes);
        }
        loop {
            match blob.blocking(move |blob| blob.read(range)).await {
                Ok(Ok(bytes)) => return Some(bytes),
                Ok(Err(StoreError::Mending { .. })) => tokio::time::sleep(MENDING_REST).await,
                Ok(Err(error)) => {
                    tracing::warn!("fetched again, since the cache failed: {error}");
                    return None;
                }
                Err(_) => return None,
            }
        }
    }

    async fn read_range(&self, range: BlobRange, priority: Priority) -> Result<Bytes, FetchError> {
        let range = range.clip(self.size);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if let Some(bytes) = self.remembered(range) {
            return Ok(bytes);
        }
        let groups = groups_of(self.size, range);
        if let Some(blob) = self.blob().await.filter(|blob| blob.has(groups.clone()))
            && let Some(bytes) = self.read_stored(&blob, range).await
        {
            return Ok(bytes);
        }
        let mut destination = Destination::new(range);
        let mut left = RangeSet::from_iter([groups]);
        let (mut rounds, mut least) = (0, u64::MAX);
        while rounds < MAX_ROUNDS {
            let unreadable = self.fill(&mut destination, &mut left).await;
            if left.is_empty() {
                return Ok(destination.into_bytes());
            }
            if self.is_cancelled() {
                return Err(FetchError::Cancelled);
            }
            let now = left.iter().map(|groups| groups.end - groups.start).sum();
            rounds = if now < least { 0 } else { rounds + 1 };
            least = now;
            let filled = self.shared.want(self.hash, Some(destination), left, priority, unreadable).await?;
            left = filled.left;
            destination = filled.destination.ok_or(FetchError::Cancelled)?;
            if left.is_empty() {
                return Ok(destination.into_bytes());
            }
        }
        // The store kept losing what it had just been given.
        Err(FetchError::WrongBytes)
    }
}

/// Reads from the store what it takes neither the disk nor hashing to read.
fn read_cached(blob: &Arc<Blob>, range: BlobRange) -> Option<Bytes> {
    if !blob.is_complete() {
        return None;
    }
    let mut bytes = vec![0; range.len() as usize];
    blob.read_at_once(range.start, &mut bytes).then(|| Bytes::from(bytes))
}

impl BlobReader for Reader {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, range: BlobRange, priority: Priority) -> BoxFuture<'_, Result<Bytes, FetchError>> {
        Box::pin(self.read_range(range, priority))
    }

    fn read_at_hand(&self, range: BlobRange) -> Option<Bytes> {
        let range = range.clip(self.size);
        self.remembered(range).or_else(|| {
            let blob = self.blob.lock().clone()?;
            read_cached(&blob, range)
        })
    }

    fn read_here(&self, range: BlobRange) -> BoxFuture<'_, Option<Bytes>> {
        Box::pin(self.read_range_here(range))
    }

    fn whole_file(&self) -> Option<WholeFile> {
        self.blob_at_once()?.whole_file()
    }

    fn hold(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move { drop(self.blob().await) })
    }

    fn prefetch(&self, range: BlobRange) {
        if self.is_cancelled() {
            return;
        }
        self.shared.prefetch(self.hash, self.size, range, &self.token);
    }

    fn most_ahead(&self) -> u64 {
        let holders = &self.shared.holders;
        // Among those who fetch it too, the more each wants the more they have for one another.
        let much = holders.are_far(&self.hash) || holders.some_part(&self.hash);
        if much { FAR_AHEAD_LEN } else { NEAR_AHEAD_LEN }
    }
}
