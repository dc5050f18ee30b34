//! One exchange under way, and where its bytes go: to those who wait, and to the store.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::actor::group_total;
use super::waiters::slice_of_groups;
use crate::buffers::{BUDGET_LEN, SEGMENT_LEN};
use crate::holders::Peer;
use crate::ids::{ContentHash, PeerId, Priority};
use crate::transfer::engine::Shared;
use crate::transfer::exchange::{Ask, Exchange, ExchangeError, Sink};
use crate::transfer::recent::RECENT_LEN;
use crate::transfer::serve::SERVING_LEN;
use crate::transfer::table::{Progress, Transfer};
use crate::verify::{GROUP_LEN, Proof, group_count, groups_from};

/// Bytes that are written in one go: handing work to another thread costs as much as writing a
/// segment or two.
const WRITE_LEN: usize = 4 * SEGMENT_LEN;

/// Segments of all exchanges together that may lie unwritten until more have come: else all of the
/// budget might lie with exchanges that wait for more of it.
pub(in crate::transfer) const MAX_UNWRITTEN: usize = BUDGET_LEN / 4 / SEGMENT_LEN;

// What is remembered, what is being served, what lies unwritten, and then at least as much again for
// what moves.
const _: () = assert!(RECENT_LEN + SERVING_LEN + 2 * MAX_UNWRITTEN * SEGMENT_LEN <= BUDGET_LEN);

/// Writes of one exchange under way at the same time: one to be filled while one is written.
const MAX_WRITES: usize = 2;

/// What an exchange reports to the fetch task.
#[derive(Debug)]
pub(super) enum Event {
    /// The size is proven; `groups` have come with it, and `flight` passes them on next.
    Size { flight: u64, size: u64, groups: Vec<Range<u64>> },
    /// Verified whole groups from `first` on have come with `flight`.
    Segment { flight: u64, first: u64, bytes: Bytes },
    /// These groups are in the store, or could not be written and never will be.
    Stored(Vec<Range<u64>>),
    /// `flight` is over. News of its writes may still come.
    Ended { flight: u64, result: Result<(), ExchangeError> },
}

/// Where an exchange's bytes go.
#[derive(Clone)]
pub(super) struct Outlet {
    /// Held by whoever writes to the blob.
    pub turn: Arc<Mutex<()>>,
    /// To the fetch task.
    pub events: mpsc::Sender<Event>,
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
    /// When a group's worth of bytes had come last, and how many bytes had by then.
    pub fed: (Instant, u64),
    /// When bytes were verified last, or it waited for something of this node.
    pub verified_at: Instant,
    /// Nothing, or next to nothing, came for too long: its groups may be asked of others.
    pub stalled: bool,
    /// Nobody wanted what was left of it at the last look.
    pub unwanted: bool,
    /// Content bytes verified at the last look.
    pub received: u64,
    pub launched: Instant,
    /// Another holder has been asked for what is left of it.
    pub doubled: bool,
    pub priority: Priority,
    pub task: AbortHandle,
}

impl Flight {
    /// Seconds until the rest will be here, if it goes on as it has.
    pub fn expected_secs(&self, now: Instant) -> f64 {
        let left = group_total(&self.left) * GROUP_LEN;
        let received = self.progress.received.load(Ordering::Relaxed);
        self.secs_for(left, received.max(GROUP_LEN), now)
    }

    /// The same before the first bytes are verified: all of it is short, and checked when it has come.
    pub fn expected_secs_of_first(&self, now: Instant) -> f64 {
        let come = self.progress.wire.load(Ordering::Relaxed);
        let left = (group_total(&self.left) * GROUP_LEN).saturating_sub(come);
        self.secs_for(left, come.max(1), now)
    }

    /// Seconds that `left` bytes take at the speed at which `come` have come.
    fn secs_for(&self, left: u64, come: u64, now: Instant) -> f64 {
        (now - self.launched).as_secs_f64() * left as f64 / come as f64
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.peer.sub_outstanding(self.outstanding);
        let received = self.progress.received.load(Ordering::Relaxed);
        // What came and was not checked yet says how slow the holder is, not how fast.
        let trickled = || Some(self.progress.wire.load(Ordering::Relaxed)).filter(|_| self.stalled || self.doubled);
        let come = Some(received).filter(|received| *received > 0).or_else(trickled);
        if let Some(come) = come.filter(|_| !self.left.is_empty()) {
            // Broken off: what came says how fast the holder is, all the same.
            self.peer.note_rate(come, self.launched.elapsed());
        }
        self.task.abort();
    }
}

/// Starts an exchange with `peer`.
pub(super) fn launch(
    shared: &Arc<Shared>,
    transfer: &Transfer,
    number: u64,
    peer_index: usize,
    peer: Arc<Peer>,
    ask: Ask,
    outlet: Outlet,
) -> Flight {
    let id = transfer.id();
    // A peer that was never reached is listed under zeroes.
    let guard = transfer.exchange(peer.id().unwrap_or(PeerId::from_bytes([0; 32])));
    let progress = guard.progress.clone();
    let outstanding = (ask.groups.end - ask.groups.start) * GROUP_LEN;
    peer.add_outstanding(outstanding);
    shared.metrics.exchanges_started.inc();
    let (left, priority) = (rangemap::RangeSet::from_iter([ask.groups.clone()]), ask.priority);
    let (task_shared, task_peer) = (shared.clone(), peer.clone());
    let task = tokio::spawn(async move {
        let shared = task_shared;
        let exchange =
            Exchange { peer: &task_peer, guard: &guard, id, budget: &shared.budget, metrics: &shared.metrics };
        let mut delivery = Delivery {
            shared: shared.clone(),
            number,
            hash: ask.hash,
            size_known: ask.size.is_some(),
            held_back: Vec::new(),
            proof: None,
            unwritten: Vec::new(),
            places: Vec::new(),
            writes: Arc::new(Semaphore::new(MAX_WRITES)),
            outlet: outlet.clone(),
        };
        let result = exchange.run(&ask, &mut delivery).await;
        if result.is_err() {
            shared.metrics.exchanges_failed.inc();
        }
        drop((delivery, guard));
        let _ = outlet.events.send(Event::Ended { flight: number, result }).await;
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
        fed: (Instant::now(), 0),
        verified_at: Instant::now(),
        stalled: false,
        unwanted: false,
        received: 0,
        launched: Instant::now(),
        doubled: false,
        priority,
        task,
    }
}

/// Passes verified bytes on as they come.
struct Delivery {
    shared: Arc<Shared>,
    number: u64,
    hash: ContentHash,
    /// False until the size is proven; content is held back until then.
    size_known: bool,
    held_back: Vec<(u64, Bytes)>,
    proof: Option<Arc<Proof>>,
    /// What has been passed on and is to be written with the next go.
    unwritten: Vec<(u64, Bytes)>,
    /// Its share of what may lie unwritten.
    places: Vec<OwnedSemaphorePermit>,
    /// Bounds the writes under way.
    writes: Arc<Semaphore>,
    outlet: Outlet,
}

impl Sink for Delivery {
    async fn begin(&mut self, proof: Arc<Proof>) {
        self.proof = Some(proof);
    }

    async fn segment(&mut self, first: u64, bytes: Bytes) {
        let Some(size) = self.proof.as_ref().map(|proof| proof.size()) else { return };
        if self.size_known {
            return self.pass_on(first, bytes).await;
        }
        let last = groups_from(first, bytes.len()).end == group_count(size);
        self.held_back.push((first, bytes));
        if last {
            self.size_known = true;
            let held_back = std::mem::take(&mut self.held_back);
            let groups = held_back.iter().map(|(first, bytes)| groups_from(*first, bytes.len())).collect();
            let _ = self.outlet.events.send(Event::Size { flight: self.number, size, groups }).await;
            for (first, bytes) in held_back {
                self.pass_on(first, bytes).await;
            }
        }
    }
}

impl Delivery {
    /// Hands verified bytes to those who wait, and to the store when enough have come together.
    async fn pass_on(&mut self, first: u64, bytes: Bytes) {
        self.shared.recent.insert(self.hash, first, bytes.clone());
        let event = Event::Segment { flight: self.number, first, bytes: bytes.clone() };
        // From here on the fetch task waits for news of the write: `drop` sees to it that there is one.
        self.unwritten.push((first, bytes));
        let _ = self.outlet.events.send(event).await;
        let place = self.shared.unwritten.clone().try_acquire_owned().ok();
        let all_taken = place.is_none();
        self.places.extend(place);
        if all_taken || self.unwritten.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() >= WRITE_LEN {
            let permit = self.writes.clone().acquire_owned().await.ok();
            self.start_write(permit);
        }
    }

    /// Starts writing what has been passed on. It goes on by itself.
    fn start_write(&mut self, permit: Option<OwnedSemaphorePermit>) {
        let segments = std::mem::take(&mut self.unwritten);
        self.places.clear();
        let Some(proof) = self.proof.clone().filter(|_| !segments.is_empty()) else { return };
        store_behind(&self.shared, self.hash, proof, segments, &self.outlet, permit);
    }
}

/// Writes verified segments, and tells of it. Goes on by itself, and keeps `permit` as long.
pub(super) fn store_behind(
    shared: &Arc<Shared>,
    hash: ContentHash,
    proof: Arc<Proof>,
    segments: Vec<(u64, Bytes)>,
    outlet: &Outlet,
    permit: Option<OwnedSemaphorePermit>,
) {
    let shared = shared.clone();
    let Outlet { turn, events } = outlet.clone();
    tokio::spawn(async move {
        // Writers of one file would only spin for its lock.
        let turn = turn.lock_owned().await;
        write_each(&shared, &[hash], vec![Write { hash, proof, segments, turn, permit, events }]).await;
    });
}

/// Verified segments to be written.
pub(super) struct Write {
    pub hash: ContentHash,
    pub proof: Arc<Proof>,
    pub segments: Vec<(u64, Bytes)>,
    /// Nobody else writes to the blob.
    pub turn: OwnedMutexGuard<()>,
    /// Kept until it is written.
    pub permit: Option<OwnedSemaphorePermit>,
    /// To the fetch task, which is told then.
    pub events: mpsc::Sender<Event>,
}

/// Has one thread carry `writes` out, one after the other; only those of `in_place` may have to do with files of users.
pub(super) async fn write_each(shared: &Arc<Shared>, in_place: &[ContentHash], writes: Vec<Write>) {
    let (mut work, mut told) = (Vec::with_capacity(writes.len()), Vec::with_capacity(writes.len()));
    for Write { hash, proof, segments, turn, permit, events } in writes {
        let groups = segments.iter().map(|(first, bytes)| groups_from(*first, bytes.len())).collect();
        told.push((turn, permit, events, groups));
        work.push((hash, segments, proof));
    }
    let writing = shared.clone();
    let carry_out = move || work.iter().for_each(|(hash, segments, proof)| write(&writing, *hash, segments, proof));
    let _ = shared.store.blocking(in_place, carry_out).await;
    for (turn, permit, events, groups) in told {
        drop((turn, permit));
        let _ = events.send(Event::Stored(groups)).await;
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.start_write(None);
    }
}

/// Writes those of the groups that the store has not got.
fn write(shared: &Shared, hash: ContentHash, segments: &[(u64, Bytes)], proof: &Proof) {
    let written = shared.store.create_partial(hash, proof.size()).and_then(|blob| {
        let was_complete = blob.is_complete();
        for (first, bytes) in segments {
            for missing in blob.missing(groups_from(*first, bytes.len())) {
                let part = &bytes[slice_of_groups(blob.size(), *first, &missing)];
                blob.write(missing.start, part, proof)?;
            }
        }
        Ok(!was_complete && blob.is_complete())
    });
    match written {
        Ok(true) => shared.metrics.fetched_blobs.inc(),
        Ok(false) => {}
        Err(error) => shared.note_store_failure(&error),
    }
}
