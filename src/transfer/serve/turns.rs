//! Who sends next: deficit round robin over requesters, then over each one's transfers by weight.
//!
//! What is handed out are slots: so many slices are encrypted and sent at one time, and no more, so
//! that a small read finds a short queue. A slice whose peer takes it slowly gives its slot back at
//! once: what is scheduled is this node's work (and its rate, if one is set), and a slow peer holds
//! nobody up. As in DRR++ (RFC 8290, section 4), whoever had nothing waiting goes first, for one
//! quantum: that is the small read beside the bulk.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use super::rounds::{Queue, Rounds, Waiting};
use crate::buffers::SEGMENT_LEN;
use crate::ids::{PeerId, TransferId};
use crate::verify::GROUP_LEN;

/// Slots, if the processor has no more cores than that.
const MIN_SLOTS: usize = 2;

/// How much of an unused rate is made up for later.
const BURST: Duration = Duration::from_millis(50);

/// The time that a slice takes at most at a rate that allows for a group in it. Less than the shortest time after
/// which a requester takes an exchange for stalled.
const SLICE_TIME: Duration = Duration::from_millis(100);

/// Hands out turns.
pub(super) struct Turns(Mutex<Inner>);

struct Inner {
    free: usize,
    waiting: usize,
    /// The number of the next one who has to wait.
    next_number: u64,
    requesters: Rounds<PeerId, Rounds<TransferId, Queue>>,
    rate: Option<Bucket>,
}

impl Turns {
    /// Turns at `rate` bytes a second, or as fast as they are used.
    pub fn new(rate: Option<u64>) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(MIN_SLOTS, usize::from);
        let rate = rate.map(Bucket::new);
        let (free, requesters) = (cores.max(MIN_SLOTS), Rounds::default());
        Arc::new(Self(Mutex::new(Inner { free, waiting: 0, next_number: 0, requesters, rate })))
    }

    /// What is sent at a time, in bytes: whole groups, a segment at most, and no more than a low rate allows for in
    /// [`SLICE_TIME`], or it would look to whoever waits as if nothing came.
    pub fn slice_len(&self) -> u64 {
        let rate = self.0.lock().rate.as_ref().map_or(f64::INFINITY, |bucket| bucket.rate);
        let groups = (rate * SLICE_TIME.as_secs_f64()) as u64 / GROUP_LEN;
        groups.clamp(1, SEGMENT_LEN as u64 / GROUP_LEN) * GROUP_LEN
    }

    /// Whether the rate allows somebody to send now: what keeps others waiting then is soon over.
    pub fn allow_sending(&self) -> bool {
        self.0.lock().rate.as_mut().is_none_or(Bucket::may_send)
    }

    /// Waits for `requester`'s turn to send `len` bytes of `transfer`. Dropped, it gives up its place.
    pub async fn turn(self: &Arc<Self>, requester: PeerId, transfer: TransferId, weight: u8, len: usize) -> Turn {
        let (mut granted, number) = {
            let mut inner = self.0.lock();
            if inner.waiting == 0 && inner.may_send() {
                inner.take(len);
                return Turn(self.clone());
            }
            let (grant, granted) = oneshot::channel();
            let number = inner.next_number;
            inner.next_number += 1;
            inner.waiting += 1;
            let transfers = inner.requesters.flow(requester, 1);
            transfers.flow(transfer, weight.max(1)).push(Waiting { number, len, weight, grant });
            (granted, number)
        };
        let _place = PlaceInQueue { turns: self, requester, transfer, number };
        loop {
            self.hand_out();
            let refilled = self.0.lock().refilled_at();
            tokio::select! {
                biased;
                turn = &mut granted => return turn.expect("a place in the queue is kept until it is served"),
                () = until(refilled) => {}
            }
        }
    }

    /// Gives free slots to those whose turn it is.
    fn hand_out(self: &Arc<Self>) {
        loop {
            let next = self.0.lock().next();
            let Some(waiting) = next else { return };
            // Refused by one who has left meanwhile, the turn comes back when it is dropped.
            let _ = waiting.grant.send(Turn(self.clone()));
        }
    }
}

/// The place of one who waits, given up when dropped.
struct PlaceInQueue<'a> {
    turns: &'a Turns,
    requester: PeerId,
    transfer: TransferId,
    number: u64,
}

impl Drop for PlaceInQueue<'_> {
    fn drop(&mut self) {
        let mut inner = self.turns.0.lock();
        let transfers = inner.requesters.existing(&self.requester);
        let queue = transfers.and_then(|transfers| transfers.existing(&self.transfer));
        if queue.is_some_and(|queue| queue.remove(self.number)) {
            inner.note_one_less();
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl Inner {
    /// Whether there is a slot, and the rate allows for another slice.
    fn may_send(&mut self) -> bool {
        // Filled in any case: when somebody is to wake next is reckoned from there.
        let allowed = self.rate.as_mut().is_none_or(Bucket::may_send);
        self.free > 0 && allowed
    }

    /// Takes a slot for `len` bytes.
    fn take(&mut self, len: usize) {
        self.free -= 1;
        if let Some(rate) = &mut self.rate {
            rate.tokens -= len as f64;
        }
    }

    /// The one whose turn it is, with a slot taken for it.
    fn next(&mut self) -> Option<Waiting> {
        while self.waiting > 0 && self.may_send() {
            let waiting = self.requesters.pop()?;
            self.note_one_less();
            if !waiting.grant.is_closed() {
                self.take(waiting.len);
                return Some(waiting);
            }
        }
        None
    }

    /// One of those who waited waits no more.
    fn note_one_less(&mut self) {
        self.waiting -= 1;
        if self.waiting == 0 {
            // Whoever comes next comes afresh.
            self.requesters = Rounds::default();
        }
    }

    /// When the rate allows somebody to send. Also while all slots are taken: when they come back, it may be the
    /// rate that one has to wait for.
    fn refilled_at(&self) -> Option<Instant> {
        self.rate.as_ref().map(Bucket::refilled_at)
    }
}

/// The right to send one slice.
pub(super) struct Turn(Arc<Turns>);

impl Turn {
    /// Sends: carries `write` out, and gives the slot back as soon as it has to wait for the peer.
    pub async fn spend<F: Future>(self, write: F) -> F::Output {
        let mut turn = Some(self);
        let mut write = pin!(write);
        poll_fn(|context| {
            let polled = write.as_mut().poll(context);
            turn = turn.take().filter(|_| polled.is_ready());
            polled
        })
        .await
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.0.lock().free += 1;
        self.0.hand_out();
    }
}

/// A rate, in bytes a second, and what it allows now.
struct Bucket {
    rate: f64,
    tokens: f64,
    filled_at: Instant,
}

impl Bucket {
    fn new(rate: u64) -> Self {
        Self { rate: rate.max(1) as f64, tokens: 0.0, filled_at: Instant::now() }
    }

    /// Whether a slice may be sent now; it may overdraw the account.
    fn may_send(&mut self) -> bool {
        let now = Instant::now();
        let more = self.rate * (now - self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + more).min(self.rate * BURST.as_secs_f64());
        self.filled_at = now;
        self.tokens >= 0.0
    }

    fn refilled_at(&self) -> Instant {
        // The clock of the runtime counts milliseconds: never wake a little too early.
        self.filled_at + Duration::from_secs_f64((-self.tokens).max(0.0) / self.rate) + Duration::from_millis(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLICE: usize = SEGMENT_LEN;

    fn peer(number: u8) -> PeerId {
        PeerId::from_bytes([number; 32])
    }

    #[tokio::test(start_paused = true)]
    async fn who_came_while_all_slots_were_taken_is_served_once_the_rate_allows() {
        let turns = Turns::new(Some(SLICE as u64));
        let transfer = TransferId::from_nonce(1);
        let slots = turns.0.lock().free;
        let mut held = Vec::new();
        for slot in 1..=slots {
            // The last one overdraws the rate.
            held.push(turns.turn(peer(1), transfer, 1, if slot == slots { SLICE } else { 0 }).await);
        }
        let mut late = pin!(turns.turn(peer(2), transfer, 1, SLICE));
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut late).await.is_err());
        drop(held);
        assert!(tokio::time::timeout(Duration::from_secs(2), late).await.is_ok(), "nobody woke it");
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_takes_its_place_along() {
        let turns = Turns::new(Some(1));
        let slots = turns.0.lock().free;
        let transfer = TransferId::from_nonce;
        // The rate is overdrawn for a long time.
        let held = turns.turn(peer(1), transfer(0), 1, SLICE).await;
        let mut stays = pin!(turns.turn(peer(2), transfer(1), 1, 1));
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut stays).await.is_err());
        for number in 0..100 {
            let left = tokio::time::timeout(Duration::from_millis(1), turns.turn(peer(3), transfer(number), 1, SLICE));
            assert!(left.await.is_err());
        }
        {
            let mut inner = turns.0.lock();
            assert_eq!((inner.waiting, inner.free), (1, slots - 1));
            let queues = inner.requesters.iter().flat_map(|transfers| transfers.iter());
            assert_eq!(queues.map(Queue::len).sum::<usize>(), 1);
            inner.rate = None;
        }
        drop(held);
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut stays).await.is_ok());
    }

    #[test]
    fn slices_are_whole_groups_and_shorter_at_low_rates() {
        let len = |rate: Option<u64>| Turns::new(rate).slice_len();
        assert_eq!((len(None), len(Some(u64::MAX))), (SEGMENT_LEN as u64, SEGMENT_LEN as u64));
        assert_eq!((len(Some(1)), len(Some(10 * GROUP_LEN))), (GROUP_LEN, GROUP_LEN));
        assert_eq!(len(Some(39 * GROUP_LEN)), 3 * GROUP_LEN);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_and_slots_come_back_from_those_who_leave() {
        let turns = Turns::new(Some(1 << 20));
        let start = Instant::now();
        let id = TransferId::next();
        for _ in 0..40 {
            let left = tokio::time::timeout(Duration::from_millis(3), turns.turn(peer(1), id, 1, SLICE));
            drop(left.await);
        }
        let before = start.elapsed();
        for _ in 0..40 {
            turns.turn(peer(1), id, 1, SLICE).await.spend(std::future::ready(())).await;
        }
        let spent = start.elapsed() - before;
        assert!((Duration::from_secs(9)..Duration::from_secs(11)).contains(&spent), "10 MiB took {spent:?}");
    }

    #[tokio::test]
    async fn one_who_waits_for_its_peer_holds_nobody_up() {
        let turns = Turns::new(None);
        let id = TransferId::next();
        let mut stuck = Vec::new();
        for number in 0..100 {
            let turn = turns.turn(peer(number), id, 1, SLICE).await;
            let mut spend = Box::pin(turn.spend(std::future::pending::<()>()));
            assert!(spend.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_pending());
            stuck.push(spend);
        }
    }
}
