//! One exchange under way, and where its bytes go: to those who wait, and to the store.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::waiters::slice_of_groups;
use crate::holders::Peer;
use crate::ids::TransferId;
use crate::store::Blob;
use crate::transfer::engine::Shared;
use crate::transfer::exchange::{Ask, Exchange, ExchangeError, Sink};
use crate::transfer::pending::Progress;
use crate::verify::{GROUP_LEN, Proof, group_count};

/// Writes of one exchange under way at the same time: one to be filled while one is written.
const MAX_WRITES: usize = 2;

/// What an exchange reports to the fetch task.
#[derive(Debug)]
pub(super) enum Event {
    /// The size is proven.
    Size(u64),
    /// Verified whole groups from `first` on have come with `flight`.
    Segment { flight: u64, first: u64, bytes: Bytes },
    /// These groups are in the store, or could not be written and never will be.
    Stored(Range<u64>),
    /// `flight` is over, all its writes included.
    Ended { flight: u64, result: Result<(), ExchangeError> },
}

/// What the fetch task knows of an exchange.
pub(super) struct Flight {
    pub peer_index: usize,
    pub peer: Arc<Peer>,
    /// The groups that have not come yet.
    pub left: rangemap::RangeSet<u64>,
    /// Bytes counted as outstanding with the peer.
    pub outstanding: u64,
    pub progress: Arc<Progress>,
    /// The last value of `progress` seen, and when it changed.
    pub seen: (bool, u64),
    pub changed: Instant,
    /// Nothing came for too long: its groups may be asked of others.
    pub stalled: bool,
    /// Nobody wanted what was left of it at the last look.
    pub unwanted: bool,
    /// Content bytes verified at the last look.
    pub received: u64,
    pub task: AbortHandle,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.peer.sub_outstanding(self.outstanding);
        self.task.abort();
    }
}

/// Starts an exchange with `peer`.
pub(super) fn launch(
    shared: &Arc<Shared>,
    number: u64,
    peer_index: usize,
    peer: Arc<Peer>,
    ask: Ask,
    events: mpsc::Sender<Event>,
) -> Flight {
    let id = TransferId::next();
    let listed_peer = peer.id().unwrap_or(crate::ids::PeerId::from_bytes([0; 32]));
    let pending = shared.pending.enter(id, listed_peer, ask.hash);
    let progress = pending.progress.clone();
    let outstanding = (ask.groups.end - ask.groups.start) * GROUP_LEN;
    peer.add_outstanding(outstanding);
    shared.metrics.exchanges_started.inc();
    let left = rangemap::RangeSet::from_iter([ask.groups.clone()]);
    let (task_shared, task_peer) = (shared.clone(), peer.clone());
    let task = tokio::spawn(async move {
        let shared = task_shared;
        let exchange =
            Exchange { peer: &task_peer, pending: &pending, id, budget: &shared.budget, metrics: &shared.metrics };
        let mut delivery = Delivery {
            shared: shared.clone(),
            number,
            size_known: ask.size.is_some(),
            held_back: Vec::new(),
            proof: None,
            blob: BlobChoice::Unasked,
            writes: JoinSet::new(),
            events: events.clone(),
            ask: ask.clone(),
        };
        let result = exchange.run(&ask, &mut delivery).await;
        if result.is_err() {
            shared.metrics.exchanges_failed.inc();
        }
        delivery.finish().await;
        drop(pending);
        let _ = events.send(Event::Ended { flight: number, result }).await;
    })
    .abort_handle();
    Flight {
        peer_index,
        peer,
        left,
        outstanding,
        progress,
        seen: (false, 0),
        changed: Instant::now(),
        stalled: false,
        unwanted: false,
        received: 0,
        task,
    }
}

/// Where the exchange's content is written.
enum BlobChoice {
    Unasked,
    /// The store has no room or failed: memory only.
    Nowhere,
    Store(Arc<Blob>),
}

/// Passes verified bytes on as they come.
struct Delivery {
    shared: Arc<Shared>,
    number: u64,
    ask: Ask,
    /// False until the size is proven; content is held back until then.
    size_known: bool,
    held_back: Vec<(u64, Bytes)>,
    proof: Option<Arc<Proof>>,
    blob: BlobChoice,
    writes: JoinSet<()>,
    events: mpsc::Sender<Event>,
}

impl Sink for Delivery {
    async fn begin(&mut self, proof: Arc<Proof>) {
        self.proof = Some(proof);
    }

    async fn segment(&mut self, first: u64, bytes: Bytes) {
        let Some(proof) = self.proof.clone() else { return };
        let size = proof.size();
        if !self.size_known {
            let last = slice_end(first, &bytes) == group_count(size);
            self.held_back.push((first, bytes));
            if last {
                self.size_known = true;
                let _ = self.events.send(Event::Size(size)).await;
                for (first, bytes) in std::mem::take(&mut self.held_back) {
                    self.pass_on(first, bytes, &proof).await;
                }
            }
        } else {
            self.pass_on(first, bytes, &proof).await;
        }
    }
}

/// One past the last group of `bytes`, which begin at group `first`.
fn slice_end(first: u64, bytes: &[u8]) -> u64 {
    first + (bytes.len() as u64).div_ceil(GROUP_LEN).max(1)
}

impl Delivery {
    /// Hands verified bytes to those who wait and to the store. Waits while writes pile up.
    async fn pass_on(&mut self, first: u64, bytes: Bytes, proof: &Arc<Proof>) {
        let groups = first..slice_end(first, &bytes);
        self.shared.recent.insert(self.ask.hash, first, bytes.clone());
        let _ = self.events.send(Event::Segment { flight: self.number, first, bytes: bytes.clone() }).await;
        if matches!(self.blob, BlobChoice::Unasked) {
            self.blob = self.choose_blob(proof.size()).await;
        }
        let BlobChoice::Store(blob) = &self.blob else {
            let _ = self.events.send(Event::Stored(groups)).await;
            return;
        };
        while self.writes.len() >= MAX_WRITES {
            self.writes.join_next().await;
        }
        let (blob, proof, shared) = (blob.clone(), proof.clone(), self.shared.clone());
        let events = self.events.clone();
        let write = tokio::task::spawn_blocking(move || write(&shared, &blob, first, &bytes, &proof));
        self.writes.spawn(async move {
            let _ = write.await;
            let _ = events.send(Event::Stored(groups)).await;
        });
    }

    async fn choose_blob(&self, size: u64) -> BlobChoice {
        let (shared, hash) = (self.shared.clone(), self.ask.hash);
        let created = tokio::task::spawn_blocking(move || shared.store.create_partial(hash, size)).await;
        match created {
            Ok(Ok(blob)) => BlobChoice::Store(blob),
            Ok(Err(error)) => {
                self.shared.note_store_failure(&error);
                BlobChoice::Nowhere
            }
            Err(_) => BlobChoice::Nowhere,
        }
    }

    /// Waits for the writes under way.
    async fn finish(&mut self) {
        while self.writes.join_next().await.is_some() {}
    }
}

/// Writes those of the groups that the blob has not got.
fn write(shared: &Shared, blob: &Arc<Blob>, first: u64, bytes: &Bytes, proof: &Proof) {
    let was_complete = blob.is_complete();
    for missing in blob.missing(first..slice_end(first, bytes)) {
        let part = &bytes[slice_of_groups(blob.size(), first, &missing)];
        if let Err(error) = blob.write(missing.start, part, proof) {
            shared.note_store_failure(&error);
            return;
        }
    }
    if !was_complete && blob.is_complete() {
        shared.metrics.fetched_blobs.inc();
    }
}
