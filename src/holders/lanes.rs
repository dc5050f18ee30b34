//! The lanes to one peer, kept open between exchanges.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, ReadBuf};

use crate::ids::Priority;
use crate::permits::{Permit, Permits};
use crate::transport::{BoxLane, TransportError};
use crate::wire::MAX_RANGE_LEN;

/// Lanes to one peer that may carry bulk at the same time. Measured: four lanes of TLS over TCP
/// carry twice what one does on two cores; more gain nothing.
pub const BULK_LANES: usize = 4;

/// Bytes of the longest exchange. A quarter of what the wire allows: short enough to be spread
/// over holders, long enough that a round trip more does not matter.
pub const PIECE_LEN: u64 = MAX_RANGE_LEN / 4;

/// Bulk lanes to a peer that is far: a lane is idle for a round trip between two exchanges, and the others
/// have to fill the link meanwhile. Measured through a relay with a round trip of 100 ms: 75 MB/s with four
/// lanes and 16 MiB read ahead, 140 to 160 with eight and 64 MiB.
pub const FAR_BULK_LANES: usize = 2 * BULK_LANES;

/// Lanes to one peer that are kept free of bulk, so that a small read never queues behind one.
pub const SMALL_LANES: usize = 4;

/// The same to a peer that is far: who waits for a lane waits for a round trip of somebody else's. Measured through a
/// relay with 20 ms, 1000 small files by eight readers: 186 round trips with four, 155 with eight.
pub const FAR_SMALL_LANES: usize = 2 * SMALL_LANES;

/// Idle lanes kept open to one peer.
const MAX_IDLE_LANES: usize = FAR_BULK_LANES + FAR_SMALL_LANES;

/// What a lane to a near peer takes of the permits for its kind; one to a far peer takes one.
const NEAR_SHARE: usize = FAR_BULK_LANES / BULK_LANES;

const _: () = assert!(NEAR_SHARE == FAR_SMALL_LANES / SMALL_LANES);

/// What a lane is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneKind {
    /// Much content.
    Bulk,
    /// A question or a little content.
    Small,
}

/// The open lanes to one peer.
pub(super) struct LanePool {
    idle: Mutex<Vec<BoxLane>>,
    bulk: Permits,
    small: Permits,
    /// Stands for each lane in use or being opened.
    taken: Arc<()>,
    /// Stands for each lane in use that is really open.
    open: Arc<()>,
    /// Something came on an idle lane.
    talked: AtomicBool,
}

impl LanePool {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            idle: Mutex::new(Vec::new()),
            bulk: Permits::new(FAR_BULK_LANES),
            small: Permits::new(FAR_SMALL_LANES),
            taken: Arc::default(),
            open: Arc::default(),
            talked: AtomicBool::new(false),
        })
    }

    /// An idle lane, or the one that `dial` opens. While as many as may are in use it waits, the most
    /// urgent first; more may be if the peer is `far`.
    pub(super) async fn lane<F>(
        self: &Arc<Self>,
        kind: LaneKind,
        far: bool,
        priority: Priority,
        dial: F,
    ) -> Result<PooledLane, TransportError>
    where
        F: Future<Output = Result<BoxLane, TransportError>>,
    {
        let (slots, share) = self.slots(kind, far);
        let permit = slots.acquire(share, priority).await;
        let taken = self.taken.clone();
        let lane = match self.take_idle() {
            Some(lane) => lane,
            None => dial.await?,
        };
        Ok(PooledLane { lane, pool: self.clone(), _open: self.open.clone(), _taken: taken, _permit: permit })
    }

    /// The idle lane used last, the others being the likelier to have been closed meanwhile.
    fn take_idle(&self) -> Option<BoxLane> {
        loop {
            let mut lane = self.idle.lock().pop()?;
            match poll_idle(&mut lane) {
                Idle::Quiet => return Some(lane),
                Idle::Closed => {}
                Idle::Talking => self.talked.store(true, Ordering::Relaxed),
            }
        }
    }

    /// Whether the peer has sent something on an idle lane since this was asked last: more than it
    /// had declared, or without being asked.
    pub(super) fn has_talked(&self) -> bool {
        self.talked.swap(false, Ordering::Relaxed)
    }

    /// Keeps an open lane for later, unless there are enough.
    pub(super) fn keep(&self, lane: BoxLane) {
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE_LANES {
            idle.push(lane);
        }
    }

    /// Whether at least one lane is open and quiet; lanes found closed are dropped.
    pub(super) fn has_idle(&self) -> bool {
        match self.take_idle() {
            Some(lane) => {
                self.keep(lane);
                true
            }
            None => false,
        }
    }

    /// Whether a lane of this kind is to be had at once.
    pub(super) fn has_free(&self, kind: LaneKind, far: bool) -> bool {
        let (slots, share) = self.slots(kind, far);
        slots.available() >= share
    }

    /// The permits for lanes of this kind, and how many of them one takes.
    fn slots(&self, kind: LaneKind, far: bool) -> (&Permits, usize) {
        let share = if far { 1 } else { NEAR_SHARE };
        match kind {
            LaneKind::Bulk => (&self.bulk, share),
            LaneKind::Small => (&self.small, share),
        }
    }

    /// How many lanes are open: idle, in use (or about to be).
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.idle.lock().len(), Arc::strong_count(&self.taken) - 1)
    }

    /// Whether any open lane is in use.
    pub(super) fn any_in_use(&self) -> bool {
        Arc::strong_count(&self.open) > 1
    }

    /// Closes the idle lanes.
    pub(super) fn close_idle(&self) {
        self.idle.lock().clear();
    }
}

/// What a lane that ought to be idle does.
enum Idle {
    Quiet,
    Closed,
    Talking,
}

fn poll_idle(lane: &mut BoxLane) -> Idle {
    let mut byte = [0];
    let mut buf = ReadBuf::new(&mut byte);
    let mut context = Context::from_waker(Waker::noop());
    match Pin::new(lane).poll_read(&mut context, &mut buf) {
        Poll::Pending => Idle::Quiet,
        Poll::Ready(Ok(())) if !buf.filled().is_empty() => Idle::Talking,
        Poll::Ready(_) => Idle::Closed,
    }
}

/// A lane in use. [`PooledLane::release`] keeps it for the next exchange; merely dropped, it is
/// closed, which is how an exchange is broken off.
pub struct PooledLane {
    lane: BoxLane,
    pool: Arc<LanePool>,
    _open: Arc<()>,
    _taken: Arc<()>,
    _permit: Permit,
}

impl PooledLane {
    /// The lane itself.
    pub fn io(&mut self) -> &mut BoxLane {
        &mut self.lane
    }

    /// Gives the lane back: its last exchange ended in order, and nothing more is to come on it.
    pub fn release(self) {
        self.pool.keep(self.lane);
    }
}
