//! Those who wait for a turn, and whose it is: deficit round robin.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use tokio::sync::oneshot;

use super::MAX_LANES;
use super::turns::Turn;
use crate::buffers::SEGMENT_LEN;
use crate::ids::TransferId;

/// Bytes that a requester may send in one round.
const REQUESTER_QUANTUM: i64 = SEGMENT_LEN as i64;

/// Bytes that a transfer of weight 1 may send in one round of its requester's: a segment for 16.
const TRANSFER_QUANTUM: i64 = REQUESTER_QUANTUM / 16;

/// Requesters without anything waiting that keep their place in a round, or they would go first each time: more than
/// can be here at a time.
const MAX_EMPTY_REQUESTERS: usize = 1024;

const _: () = assert!(MAX_EMPTY_REQUESTERS >= MAX_LANES);

/// Transfers of one requester without anything waiting that keep their place in a round.
const MAX_EMPTY_TRANSFERS: usize = 64;

/// Someone who waits for a turn.
pub(super) struct Waiting {
    pub number: u64,
    pub len: usize,
    pub weight: u8,
    pub grant: oneshot::Sender<Turn>,
}

/// Something that those who wait can be taken from, one by one.
pub(super) trait Flow: Default {
    /// Bytes in one round for a weight of 1.
    const QUANTUM: i64;
    /// Flows of this kind without anything waiting that keep their place in a round.
    const MAX_EMPTY: usize;
    fn pop_next(&mut self) -> Option<Waiting>;
    fn is_empty(&self) -> bool;
}

/// Those who wait for one transfer: the weightier first, then in the order in which they came.
#[derive(Default)]
pub(super) struct Queue(VecDeque<Waiting>);

impl Queue {
    pub fn push(&mut self, waiting: Waiting) {
        let at = self.0.partition_point(|other| other.weight >= waiting.weight);
        self.0.insert(at, waiting);
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes the one with this number out; tells whether it was there.
    pub fn remove(&mut self, number: u64) -> bool {
        let at = self.0.iter().position(|waiting| waiting.number == number);
        at.and_then(|at| self.0.remove(at)).is_some()
    }
}

impl Flow for Queue {
    const QUANTUM: i64 = TRANSFER_QUANTUM;
    const MAX_EMPTY: usize = MAX_EMPTY_TRANSFERS;

    fn pop_next(&mut self) -> Option<Waiting> {
        self.0.pop_front()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Flow for Rounds<TransferId, Queue> {
    const QUANTUM: i64 = REQUESTER_QUANTUM;
    const MAX_EMPTY: usize = MAX_EMPTY_REQUESTERS;

    fn pop_next(&mut self) -> Option<Waiting> {
        self.pop()
    }

    fn is_empty(&self) -> bool {
        self.flows.values().all(|place| place.flow.is_empty())
    }
}

/// Flows that take turns.
pub(super) struct Rounds<K, F> {
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
    pub fn flow(&mut self, key: K, weight: u8) -> &mut F {
        let place = self.flows.entry(key).or_insert_with(|| {
            self.fresh.push_back(key);
            Place { flow: F::default(), weight, deficit: F::QUANTUM * i64::from(weight) }
        });
        place.weight = weight;
        &mut place.flow
    }

    /// All flows that have a place.
    #[cfg(test)]
    pub fn iter(&self) -> impl Iterator<Item = &F> {
        self.flows.values().map(|place| &place.flow)
    }

    /// The flow `key`, if it has a place.
    pub fn existing(&mut self, key: &K) -> Option<&mut F> {
        self.flows.get_mut(key).map(|place| &mut place.flow)
    }

    /// Takes the one whose turn it is.
    pub fn pop(&mut self) -> Option<Waiting> {
        loop {
            let is_fresh = !self.fresh.is_empty();
            let list = if is_fresh { &mut self.fresh } else { &mut self.round };
            let key = *list.front()?;
            let place = self.flows.get_mut(&key)?;
            if place.flow.is_empty() {
                list.pop_front();
                if is_fresh && self.round.len() < F::MAX_EMPTY {
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
    use crate::ids::PeerId;

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
            transfers.flow(TransferId::from_nonce(transfer), weight).push(Waiting { number: 0, len, weight, grant });
            self.receivers.push(granted);
        }

        fn pop(&mut self) -> Option<usize> {
            self.rounds.pop().map(|waiting| waiting.len)
        }
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
        assert!(places <= 2 * MAX_EMPTY_TRANSFERS, "{places} places");
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
}
