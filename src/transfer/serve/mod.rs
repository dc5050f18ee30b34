//! Serving: peers' lanes, their questions and requests.
//!
//! A task a lane reads a message, answers it, reads the next. A frame that breaks the protocol
//! closes the lane and nothing else. What is sent has been checked against the hash first: a holder
//! never passes on bytes it has reason to doubt, it says that it has none.

mod answer;
mod have;
mod lanes;
mod rounds;
mod sending;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::lanes::Lanes;
use self::sending::Sending;
use self::turns::Turns;
use super::TransferStatus;
use crate::buffers::{BufferBudget, SEGMENT_LEN};
use crate::holders::{FAR_BULK_LANES, FAR_SMALL_LANES};
use crate::ids::{ContentHash, PeerId, TransferId};
use crate::metrics::Metrics;
use crate::seldom::Seldom;
use crate::store::Store;
use crate::transport::{Acceptor, BoxLane, TransportError, read_message, write_message};
use crate::wire::{Busy, Message, Refused, RefusedReason};

/// Lanes of all peers together.
const MAX_LANES: usize = 1024;

/// Lanes beyond those that are just being closed.
const MAX_CLOSING: usize = 64;

/// Lanes of one peer.
const MAX_LANES_PER_PEER: usize = 64;

/// Requests answered at the same time; a segment of memory each.
const MAX_SERVING: usize = 64;

/// Bytes of the buffer budget that serving may take.
pub(super) const SERVING_LEN: usize = MAX_SERVING * SEGMENT_LEN;

/// Requests of one peer answered at the same time. As many as a node of ours that is far has under way, and twice what
/// one that is near has.
const MAX_SERVING_PER_PEER: usize = 16;

/// Places for peers of whom no request is being answered.
const FIRST_PLACES: usize = 16;

// So that two requesters together get all they can use.
const _: () = assert!(MAX_SERVING_PER_PEER * 3 + FIRST_PLACES <= MAX_SERVING);
const _: () = assert!(MAX_SERVING_PER_PEER >= FAR_BULK_LANES + FAR_SMALL_LANES);

/// What a peer that came too many is told to wait.
const BUSY_PAUSE_MS: u32 = 50;

/// How long a peer may take nothing of a reply before its lane is closed. The seed's bound on a
/// transfer.
const SEND_DEADLINE: Duration = Duration::from_secs(30);

/// How long exchanges under way may take to end when the node shuts down.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// The serving side of a node.
pub struct Server {
    store: Store,
    budget: BufferBudget,
    metrics: Arc<Metrics>,
    serving: Semaphore,
    lanes: Arc<Lanes>,
    closings: Seldom,
    serving_of: DashMap<PeerId, usize>,
    turns: Arc<Turns>,
    sending: Sending,
    policy: Option<Arc<ServePolicy>>,
}

/// Whether a peer may have a blob. Asked before a question about it is answered, and before a request.
pub type ServePolicy = dyn Fn(&PeerId, &ContentHash) -> bool + Send + Sync;

/// What the serving side is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServeConfig {
    /// The most that is sent, in bytes a second; `None`: as fast as it goes.
    pub rate: Option<u64>,
}

impl Server {
    /// A server of what `store` holds, with memory of `budget`, for all who are let in.
    pub fn new(store: Store, config: ServeConfig, budget: BufferBudget, metrics: Arc<Metrics>) -> Arc<Self> {
        Self::with_policy(store, config, budget, metrics, None)
    }

    /// The same that asks `policy` who may have what; a peer that may not have a blob is told that it
    /// is not here.
    pub fn with_policy(
        store: Store,
        config: ServeConfig,
        budget: BufferBudget,
        metrics: Arc<Metrics>,
        policy: Option<Arc<ServePolicy>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            budget,
            serving: Semaphore::new(MAX_SERVING),
            lanes: Arc::default(),
            closings: Seldom::default(),
            serving_of: DashMap::new(),
            turns: Turns::new(config.rate),
            sending: Sending::new(metrics.clone()),
            policy,
            metrics,
        })
    }

    /// The blobs that are being sent, the oldest transfer first.
    pub fn transfers(&self) -> Vec<TransferStatus> {
        self.sending.list()
    }

    /// Ends the transfer with this id: the lanes that carry it are closed, and for a while its requester
    /// is refused when it asks again. False if there is none.
    pub fn cancel(&self, id: TransferId) -> bool {
        self.sending.cancel(id)
    }

    /// Whether `peer` may have `hash`.
    fn may_have(&self, peer: &PeerId, hash: &ContentHash) -> bool {
        self.policy.as_ref().is_none_or(|policy| policy(peer, hash))
    }

    /// Serves the lanes that `acceptor` brings until `shutdown` becomes true; then lets what is
    /// under way end, for a bounded time.
    pub async fn run(self: Arc<Self>, mut acceptor: impl Acceptor, shutdown: watch::Receiver<bool>) {
        let mut lanes = JoinSet::new();
        let mut stop = shutdown.clone();
        loop {
            tokio::select! {
                lane = acceptor.accept(), if lanes.len() < MAX_LANES + MAX_CLOSING => match lane {
                    Ok(lane) => {
                        let (server, shutdown) = (self.clone(), shutdown.clone());
                        lanes.spawn(async move { server.lane(lane, shutdown).await });
                    }
                    Err(error) => {
                        tracing::error!("no more peers can be served: {error}");
                        break;
                    }
                },
                Some(ended) = lanes.join_next() => note_end(ended),
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        drop(acceptor);
        let drained = timeout(DRAIN_DEADLINE, async {
            while let Some(ended) = lanes.join_next().await {
                note_end(ended);
            }
        });
        if drained.await.is_err() {
            tracing::warn!("gave up on {} peers' lanes that did not end in time", lanes.len());
        }
    }

    async fn lane(self: Arc<Self>, mut lane: BoxLane, mut shutdown: watch::Receiver<bool>) {
        let peer = lane.peer();
        let place = match self.lanes.enter(peer) {
            Ok(place) => place,
            Err(why) => {
                if let Some(untold) = self.closings.tell() {
                    tracing::warn!(peer = %peer.short(), untold, "lane closed: {why}");
                }
                return;
            }
        };
        loop {
            let message = tokio::select! {
                message = place.idle(read_message(&mut lane)) => message,
                _ = shutdown.wait_for(|stop| *stop) => return,
            };
            let result = match message {
                Some(Ok(Some(message))) => self.answer(&mut lane, message).await,
                Some(Ok(None)) => return,
                Some(Err(error)) => Err(error.into()),
                None => {
                    tracing::debug!(peer = %peer.short(), "an idle lane is closed, to make room for another");
                    return;
                }
            };
            if let Err(error) = result {
                let told = if error.is_hostile() { self.closings.tell() } else { None };
                self.metrics.hostile_frames.add(error.is_hostile().into());
                match told {
                    Some(untold) => tracing::warn!(peer = %peer.short(), untold, "lane closed: {error}"),
                    None => tracing::debug!(peer = %peer.short(), "lane closed: {error}"),
                }
                return;
            }
        }
    }

    /// One of the places for those who are sent something; `None` if `peer` has its share of them, or all are taken.
    /// Beside his first, nobody may have more than are left free and not set aside, so that there is one for whoever
    /// comes next although others take their time.
    fn place(&self, peer: PeerId) -> Option<(Place<'_>, SemaphorePermit<'_>)> {
        let free = self.serving.available_permits();
        let share = free.saturating_sub(FIRST_PLACES).clamp(1, MAX_SERVING_PER_PEER);
        let place = Place::take(&self.serving_of, peer, share)?;
        Some((place, self.serving.try_acquire().ok()?))
    }

    async fn answer(self: &Arc<Self>, lane: &mut BoxLane, message: Message) -> Result<(), ServeError> {
        match message {
            Message::Have(have) => self.answer_have(lane, have).await,
            Message::Request(request) => match self.place(lane.peer()) {
                Some(_place) => match self.sending.enter(lane.peer(), request.transfer_id, request.hash) {
                    Some(sent) => tokio::select! {
                        answered = self.answer_request(lane, request, &sent) => answered,
                        () = sent.cancelled() => Err(ServeError::Cancelled),
                    },
                    None => {
                        let (transfer_id, reason) = (Some(request.transfer_id), RefusedReason::Cancelled);
                        send(lane, &Message::Refused(Refused { transfer_id, reason })).await
                    }
                },
                None => {
                    let busy = Busy { transfer_id: request.transfer_id, retry_after_ms: BUSY_PAUSE_MS };
                    send(lane, &Message::Busy(busy)).await
                }
            },
            _ => Err(ServeError::OutOfTurn),
        }
    }
}

/// Why a peer's lane is closed.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("it sent a message that only a holder sends")]
    OutOfTurn,
    #[error("it asked for a range beyond the end of the blob")]
    BeyondTheEnd,
    #[error("it went away")]
    Gone,
    #[error("the transfer was cancelled here")]
    Cancelled,
    #[error("it took nothing for {} s", SEND_DEADLINE.as_secs())]
    Stuck,
    #[error("the blob could not be read to the end: {0}")]
    Store(String),
    #[error(transparent)]
    Lane(#[from] TransportError),
}

impl ServeError {
    /// Whether the peer broke the protocol.
    fn is_hostile(&self) -> bool {
        matches!(self, Self::OutOfTurn | Self::BeyondTheEnd | Self::Lane(TransportError::Wire(_)))
    }
}

/// Sends a message to a peer that has to take it in time.
async fn send(lane: &mut BoxLane, message: &Message) -> Result<(), ServeError> {
    timeout(SEND_DEADLINE, write_message(lane, message)).await.map_err(|_| ServeError::Stuck)?.map_err(ServeError::from)
}

fn note_end(ended: Result<(), tokio::task::JoinError>) {
    if ended.is_err_and(|error| error.is_panic()) {
        tracing::error!("serving a peer ended in a fault of this program; its lane is closed");
    }
}

/// A peer's claim to one of the few things counted, given back when dropped.
struct Place<'a> {
    counts: &'a DashMap<PeerId, usize>,
    peer: PeerId,
}

impl<'a> Place<'a> {
    fn take(counts: &'a DashMap<PeerId, usize>, peer: PeerId, most: usize) -> Option<Self> {
        let mut count = counts.entry(peer).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Self { counts, peer })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(mut count) = self.counts.get_mut(&self.peer) {
            *count -= 1;
        }
        self.counts.remove_if(&self.peer, |_, count| *count == 0);
    }
}
