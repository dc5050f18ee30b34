//! Who sends next: deficit round robin over requesters, then over each one's transfers by weight.
//!
//! What is handed out are slots: so many slices are encrypted and sent at one time, and no more, so
//! that a small read finds a short queue. A slice whose peer takes it slowly gives its slot back at
//! once: what is scheduled is this node's work (and its rate, if one is set), and a slow peer holds
//! nobody up. As in DRR++ (RFC 8290, section 4), whoever had nothing waiting goes first, for one
//! quantum: that is the small read beside the bulk.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::hash::Hash;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::ids::{PeerId, TransferId};
use crate::transfer::buffers::SEGMENT_LEN;
use crate::verify::GROUP_LEN;

/// Bytes that a requester may send in one round.
const REQUESTER_QUANTUM: i64 = SEGMENT_LEN as i64;

/// Bytes that a transfer of weight 1 may send in one round of its requester's: a segment for 16.
const TRANSFER_QUANTUM: i64 = REQUESTER_QUANTUM / 16;

/// Slots, if the processor has no more cores than that.
const MIN_SLOTS: usize = 2;

/// How much of an unused rate is made up for later.
const BURST: Duration = Duration::from_millis(50);

/// The time that a slice takes at most at a rate that allows for a group in it. Less than the shortest time after
/// which a requester takes an exchange for stalled.
const SLICE_TIME: Duration = Duration::from_millis(100);

/// Flows without anything waiting that keep their place in a round.
const MAX_EMPTY_FLOWS: usize = 64;

/// Hands out turns.
pub(super) struct Turns(Mutex<Inner>);

struct Inner {
    free: usize,
    waiting: usize,
    requesters: Rounds<PeerId, Rounds<TransferId, Queue>>,
    rate: Option<Bucket>,
}

/// Someone who waits for a turn.
struct Waiting {
    len: usize,
    weight: u8,
    grant: oneshot::Sender<Turn>,
}

impl Turns {
    /// Turns at `rate` bytes a second, or as fast as they are used.
    pub fn new(rate: Option<u64>) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(MIN_SLOTS, usize::from);
        let rate = rate.map(Bucket::new);
        let (free, requesters) = (cores.max(MIN_SLOTS), Rounds::default());
        Arc::new(Self(Mutex::new(Inner { free, waiting: 0, requesters, rate })))
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
        let mut granted = {
            let mut inner = self.0.lock();
            if inner.waiting == 0 && inner.may_send() {
                inner.take(len);
                return Turn(self.clone());
            }
            let (grant, granted) = oneshot::channel();
            inner.waiting += 1;
            let transfers = inner.requesters.flow(requester, 1);
            transfers.flow(transfer, weight.max(1)).push(Waiting { len, weight, grant });
            granted
        };
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
            self.waiting -= 1;
            if self.waiting == 0 {
                // Whoever comes next comes afresh.
                self.requesters = Rounds::default();
            }
            if !waiting.grant.is_closed() {
                self.take(waiting.len);
                return Some(waiting);
            }
        }
        None
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

/// Something that those who wait can be taken from, one by one.
trait Flow: Default {
    /// Bytes in one round for a weight of 1.
    const QUANTUM: i64;
    fn pop_next(&mut self) -> Option<Waiting>;
    fn is_empty(&self) -> bool;
}

/// Those who wait for one transfer: the weightier first, then in the order in which they came.
#[derive(Default)]
struct Queue(VecDeque<Waiting>);

impl Queue {
    fn push(&mut self, waiting: Waiting) {
        let at = self.0.partition_point(|other| other.weight >= waiting.weight);
        self.0.insert(at, waiting);
    }
}

impl Flow for Queue {
    const QUANTUM: i64 = TRANSFER_QUANTUM;

    fn pop_next(&mut self) -> Option<Waiting> {
        self.0.pop_front()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Flow for Rounds<TransferId, Queue> {
    const QUANTUM: i64 = REQUESTER_QUANTUM;

    fn pop_next(&mut self) -> Option<Waiting> {
        self.pop()
    }

    fn is_empty(&self) -> bool {
        self.flows.values().all(|place| place.flow.is_empty())
    }
}

/// Flows that take turns.
struct Rounds<K, F> {
    flows: HashMap<K, Place<F>>,
    /// Those that had nothing waiting until now.
    fresh: VecDeque<K>,
    round: VecDeque<K>,
}

/// A flow, and what it may still send in this round, in bytes.
struct Place<F> {
    flow: F,
    weight: u8,
    deficit: i64,
}

impl<K, F> Default for Rounds<K, F> {
    fn default() -> Self {
        Self { flows: HashMap::new(), fresh: VecDeque::new(), round: VecDeque::new() }
    }
}

impl<K: Copy + Eq + Hash, F: Flow> Rounds<K, F> {
    /// The flow `key`, whose weight is `weight` from now on; a fresh one if it has no place.
    fn flow(&mut self, key: K, weight: u8) -> &mut F {
        let place = self.flows.entry(key).or_insert_with(|| {
            self.fresh.push_back(key);
            Place { flow: F::default(), weight, deficit: F::QUANTUM * i64::from(weight) }
        });
        place.weight = weight;
        &mut place.flow
    }

    /// Takes the one whose turn it is.
    fn pop(&mut self) -> Option<Waiting> {
        loop {
            let is_fresh = !self.fresh.is_empty();
            let list = if is_fresh { &mut self.fresh } else { &mut self.round };
            let key = *list.front()?;
            let place = self.flows.get_mut(&key)?;
            if place.flow.is_empty() {
                list.pop_front();
                if is_fresh && self.round.len() < MAX_EMPTY_FLOWS {
                    self.round.push_back(key);
                } else {
                    self.flows.remove(&key);
                }
                continue;
            }
            if place.deficit <= 0 {
                place.deficit += F::QUANTUM * i64::from(place.weight);
                list.pop_front();
                self.round.push_back(key);
                continue;
            }
            let waiting = place.flow.pop_next()?;
            place.deficit -= waiting.len as i64;
            return Some(waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SLICE: usize = SEGMENT_LEN;

    fn peer(number: u8) -> PeerId {
        PeerId::from_bytes([number; 32])
    }

    /// Those who wait for as long as there is a receiver, each known by the length of its slice.
    struct Crowd {
        rounds: Rounds<PeerId, Rounds<TransferId, Queue>>,
        receivers: Vec<oneshot::Receiver<Turn>>,
    }

    impl Crowd {
        fn new() -> Self {
            Self { rounds: Rounds::default(), receivers: Vec::new() }
        }

        fn push(&mut self, requester: u8, transfer: u64, weight: u8, len: usize) {
            let (grant, granted) = oneshot::channel();
            let transfers = self.rounds.flow(peer(requester), 1);
            transfers.flow(TransferId::from_nonce(transfer), weight).push(Waiting { len, weight, grant });
            self.receivers.push(granted);
        }

        fn pop(&mut self) -> Option<usize> {
            self.rounds.pop().map(|waiting| waiting.len)
        }
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

    #[test]
    fn slices_are_whole_groups_and_shorter_at_low_rates() {
        let len = |rate: Option<u64>| Turns::new(rate).slice_len();
        assert_eq!((len(None), len(Some(u64::MAX))), (SEGMENT_LEN as u64, SEGMENT_LEN as u64));
        assert_eq!((len(Some(1)), len(Some(10 * GROUP_LEN))), (GROUP_LEN, GROUP_LEN));
        assert_eq!(len(Some(39 * GROUP_LEN)), 3 * GROUP_LEN);
    }

    #[test]
    fn requesters_share_evenly_however_many_transfers_they_have() {
        let mut crowd = Crowd::new();
        for slice in 0..40 {
            crowd.push(1, slice % 8, 2, SLICE);
            crowd.push(2, 0, 2, SLICE - 1);
        }
        let first = (0..40).filter_map(|_| crowd.pop()).filter(|len| *len == SLICE).count();
        assert!((19..=21).contains(&first), "{first} of 40 slices");
    }

    #[test]
    fn transfers_of_one_requester_share_by_weight() {
        let mut crowd = Crowd::new();
        for _ in 0..200 {
            crowd.push(1, 1, 4, SLICE);
            crowd.push(1, 2, 1, SLICE - 1);
        }
        let heavy = (0..100).filter_map(|_| crowd.pop()).filter(|len| *len == SLICE).count();
        assert!((76..=84).contains(&heavy), "{heavy} of 100 slices");
    }

    #[test]
    fn a_small_request_among_bulk_of_the_same_requester_and_of_others_is_next_but_one() {
        let mut crowd = Crowd::new();
        for slice in 0..64 {
            crowd.push(1, slice % 8, 2, SLICE);
            crowd.push(2, slice % 8, 2, SLICE);
        }
        for _ in 0..20 {
            crowd.pop();
        }
        crowd.push(1, 100, 16, 4096);
        let wait = (0..).take_while(|_| crowd.pop() != Some(4096)).count();
        assert!(wait <= 2, "behind {wait} slices");
        crowd.push(3, 101, 16, 4095);
        assert_eq!(crowd.pop(), Some(4095), "a requester that had nothing waiting goes first");
    }

    #[test]
    fn the_weightier_request_of_a_transfer_overtakes() {
        let mut crowd = Crowd::new();
        for (weight, len) in [(2, 1), (2, 2), (16, 3)] {
            crowd.push(1, 1, weight, len);
        }
        assert_eq!([crowd.pop(), crowd.pop(), crowd.pop(), crowd.pop()], [Some(3), Some(1), Some(2), None]);
    }

    #[test]
    fn requests_under_ever_new_ids_do_not_pile_up() {
        let mut crowd = Crowd::new();
        crowd.push(1, 0, 1, SLICE);
        for id in 1..10_000 {
            crowd.push(1, id, 1, 1);
            crowd.pop();
        }
        let places = crowd.rounds.flows[&peer(1)].flow.flows.len();
        assert!(places <= 2 * MAX_EMPTY_FLOWS, "{places} places");
    }

    proptest! {
        /// Whoever always has something waiting gets his share of the bytes, up to a slice or two a round.
        #[test]
        fn nobody_starves(lens in prop::collection::vec(prop::collection::vec(1usize..=SLICE, 1..8), 2..6)) {
            let mut crowd = Crowd::new();
            let mut sent = vec![0; lens.len()];
            let mut at = vec![0; lens.len()];
            for (index, lens) in lens.iter().enumerate() {
                crowd.push(index as u8, 0, 1, lens[0]);
            }
            for _ in 0..500 {
                let key = { // Whose turn it was is seen by who has nothing waiting now.
                    crowd.pop().unwrap();
                    crowd.rounds.flows.iter().find(|(_, place)| place.flow.is_empty()).map(|(key, _)| *key).unwrap()
                };
                let index = usize::from(key.as_bytes()[0]);
                sent[index] += lens[index][at[index] % lens[index].len()];
                at[index] += 1;
                crowd.push(index as u8, 0, 1, lens[index][at[index] % lens[index].len()]);
            }
            let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
            prop_assert!(most - least <= 3 * SLICE, "{sent:?}");
        }
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
