//! What to ask of whom next.

use std::ops::Range;
use std::sync::Arc;

use rangemap::RangeSet;
use tokio::time::Instant;

use super::actor::{Actor, group_total};
use super::candidates::Candidates;
use super::flight::{Flight, launch};
use super::patience::stall_of;
use super::swarm::SWARM_GROUPS;
use super::waiters::Waiter;
use crate::buffers::SEGMENT_LEN;
use crate::holders::{LaneKind, PIECE_LEN, Peer};
use crate::transfer::Priority;
use crate::transfer::exchange::{Ask, SMALL_LEN};
use crate::transfer::recent::SEGMENT_GROUPS;
use crate::transfer::table::Transfer;
use crate::verify::GROUP_LEN;

/// The groups that the exchange asks for that proves the size, where that has not come with an answer; the last comes
/// with them. Few, for nobody may want them, and the holder may be slow.
pub(super) const FIRST_GROUPS: Range<u64> = 0..1;

/// Bytes up to which an exchange is lengthened by what is wanted behind it, however little that is
/// to be shared by: each exchange has a cost of its own, and its bytes come in order anyway.
const MIN_PIECE_LEN: u64 = 4 * SEGMENT_LEN as u64;

/// Seconds that an exchange should take at most where there are other peers, beside its round trip: what has been
/// asked of one holder is not asked of a better one that turns up.
const PIECE_SECS: f64 = 0.25;

/// Exchanges of one blob under way at the same time, those not counted that make no progress.
const MAX_FLIGHTS: usize = 32;

/// Bytes that may come twice because a second holder was asked before nobody is asked so any more: where
/// this node's own link is what is slow, that only makes it slower.
const MAX_WASTED: u64 = SEGMENT_LEN as u64;

/// How much longer an exchange has to take than the other holder would, for that.
const DOUBLING_FACTOR: f64 = 2.0;

/// What an exchange has to take for that at least, in seconds: two looks at all exchanges.
const MIN_DOUBLED_SECS: f64 = 0.1;

/// What an exchange has to take for a holder to be asked of whose speed nothing is known, in seconds.
const MIN_DOUBLED_UNKNOWN_SECS: f64 = 1.0;

/// Pieces that nobody can take now and that are passed over, in one round of planning.
const MAX_PASSED: usize = 64;

const _: () = assert!(PIECE_LEN.is_multiple_of(SEGMENT_LEN as u64));

impl Actor {
    /// Gives what is wanted and not under way to holders, as far as they can take it.
    pub(super) fn plan(&mut self, now: Instant) {
        let Some(transfer) = self.transfer.clone().filter(|_| !self.is_closing()) else { return };
        self.recall_overtaken();
        self.note_let_down(now);
        let mut passed = 0;
        let mut moving = self.flights.values().filter(|flight| !flight.stalled).count();
        let mut covered = self.landing.clone();
        for flight in self.flights.values().filter(|flight| !flight.stalled) {
            covered.extend(flight.left.iter().cloned());
        }
        while moving < MAX_FLIGHTS && passed < MAX_PASSED {
            let Some((groups, priority)) = self.next_piece(&covered, now) else {
                return match self.size {
                    Some(_) => self.double_slowest(&transfer, now),
                    None => self.double_first(&transfer, now),
                };
            };
            let is_bulk = priority > Priority::Foreground;
            if is_bulk && moving >= self.candidates.bulk_lanes() || !self.candidates.any_free(priority, now) {
                return;
            }
            let is_first = self.size.is_none();
            let stalled = || self.flights.values().filter(|flight| flight.stalled);
            let silent: Vec<usize> = stalled().map(|flight| flight.peer_index).collect();
            let hedged: Vec<usize> = stalled()
                .filter(|flight| is_first || flight.left.overlaps(&groups))
                .map(|flight| flight.peer_index)
                .collect();
            let candidates = &mut self.candidates;
            let mut choose = |without: &[usize]| match is_first {
                true => candidates.choose_first(priority, without, now),
                false => candidates.choose(&groups, priority, without, now),
            };
            // Rather somebody who is not silent, if there is one.
            let chosen = choose(&silent).or_else(|| choose(&hedged));
            let Some((index, peer, groups)) = chosen else {
                // What stands behind it may be had.
                covered.insert(groups.start..self.candidates.next_held(&groups));
                passed += 1;
                continue;
            };
            if !hedged.is_empty() {
                self.shared.metrics.exchanges_hedged.inc();
            }
            let (lane, groups) = lane_for(&peer, groups, priority);
            let ask = Ask { hash: self.hash, groups, size: self.size, lane, priority };
            covered.insert(ask.groups.clone());
            moving += 1;
            self.launch(&transfer, index, peer, ask);
        }
    }

    /// Takes back exchanges that still wait for a lane and of which somebody more urgent wants a part:
    /// it is asked for anew, at the front.
    fn recall_overtaken(&mut self) {
        let urgent: RangeSet<u64> = (self.waiters.iter())
            .take_while(|waiter| waiter.priority == Priority::Foreground)
            .flat_map(|waiter| waiter.left.iter().cloned())
            .collect();
        let overlaps = |flight: &Flight| flight.left.iter().any(|groups| urgent.overlaps(groups));
        if !urgent.is_empty() {
            self.recall(|flight| flight.priority > Priority::Foreground && overlaps(flight));
        }
    }

    fn launch(&mut self, transfer: &Transfer, index: usize, peer: Arc<Peer>, ask: Ask) {
        let number = self.next_flight;
        self.next_flight += 1;
        let flight = launch(&self.shared, transfer, number, index, peer, ask, self.outlet.clone());
        self.flights.insert(number, flight);
    }

    /// Near the end, when nothing is left to give out: asks a holder that has nothing to do for the
    /// later part of what the slowest exchange still owes, so that both are done at the same time.
    fn double_slowest(&mut self, transfer: &Transfer, now: Instant) {
        // One at a time, and only while that is of use.
        let under_way = self.flights.values().any(|flight| flight.doubled);
        if under_way || self.wasted > MAX_WASTED {
            return;
        }
        let owing = self.flights.values_mut().filter(|flight| !flight.doubled && !flight.stalled && !flight.unwanted);
        let slowest = owing.max_by(|a, b| a.expected_secs(now).total_cmp(&b.expected_secs(now)));
        let Some((flight, rest)) = slowest.and_then(|flight| {
            let rest = flight.left.last()?.clone();
            Some((flight, rest))
        }) else {
            return;
        };
        let slow = flight.expected_secs(now);
        let without = [flight.peer_index];
        let Some(fast) = secs_of_faster(&self.candidates, slow, &rest, &without, now) else { return };
        let groups = rest.end - rest.start;
        let mut share = (groups as f64 * slow / (slow + fast)).ceil() as u64;
        if share + SEGMENT_GROUPS > groups {
            // The slow one hands over a segment at a time.
            share = groups;
        }
        flight.doubled = true;
        let later = rest.end - share..rest.end;
        let Some((index, peer, groups)) = self.candidates.choose(&later, Priority::ReadAhead, &without, now) else {
            return;
        };
        self.shared.metrics.exchanges_doubled.inc();
        let ask = Ask { hash: self.hash, groups, size: self.size, lane: LaneKind::Bulk, priority: Priority::ReadAhead };
        self.launch(transfer, index, peer, ask);
    }

    /// Asks another holder for the size if the exchange that is to prove it is slow: a reader waits for nothing else, and
    /// it is short.
    fn double_first(&mut self, transfer: &Transfer, now: Instant) {
        if !self.has_demand() || self.may_be_coming(now) {
            return;
        }
        let asked: Vec<usize> = self.flights.values().map(|flight| flight.peer_index).collect();
        let is_slow = |flight: &&mut Flight| {
            !flight.doubled && now - flight.launched >= stall_of(&flight.peer) && !flight.stalled
        };
        for flight in self.flights.values_mut().filter(is_slow) {
            let slow = flight.expected_secs_of_first(now);
            if secs_of_faster(&self.candidates, slow, &FIRST_GROUPS, &asked, now).is_none() {
                continue;
            }
            let chosen = self.candidates.choose(&FIRST_GROUPS, Priority::Foreground, &asked, now);
            let Some((index, peer, groups)) = chosen else { continue };
            flight.doubled = true;
            self.shared.metrics.exchanges_doubled.inc();
            let (lane, groups) = lane_for(&peer, groups, Priority::Foreground);
            let ask = Ask { hash: self.hash, groups, size: None, lane, priority: Priority::Foreground };
            return self.launch(transfer, index, peer, ask);
        }
    }

    /// The next groups to ask for that are not in `covered`.
    fn next_piece(&self, covered: &RangeSet<u64>, now: Instant) -> Option<(Range<u64>, Priority)> {
        if self.size.is_none() {
            let wanted = (self.has_demand() || !self.ahead.is_empty()) && covered.is_empty();
            let wanted = wanted && !self.may_be_coming(now);
            return wanted.then_some((FIRST_GROUPS, Priority::Foreground));
        }
        let in_swarm = self.candidates.is_swarm(now);
        let in_order = |waiter: &&Waiter| !in_swarm || waiter.priority == Priority::Foreground;
        for waiter in self.waiters.iter().take_while(in_order) {
            if let Some(start) = self.next_for(waiter, covered, now) {
                return Some((self.extend(start, covered, now), waiter.priority));
            }
        }
        let start = if in_swarm {
            self.next_in_swarm(covered, now)?.start
        } else {
            self.ahead.iter().find_map(|range| covered.gaps(range).next())?.start
        };
        Some((self.extend(start..start + 1, covered, now), Priority::ReadAhead))
    }

    /// Lengthens `piece` by what is wanted behind it, up to the length that spreads the work.
    fn extend(&self, piece: Range<u64>, covered: &RangeSet<u64>, now: Instant) -> Range<u64> {
        let lanes = self.candidates.bulk_lanes().max(1) as u64;
        let share = group_total(&self.ahead) / lanes;
        let others = self.shared.holders.peers().len() > 1;
        let soon = if others { self.candidates.brought_in(PIECE_SECS) / GROUP_LEN } else { u64::MAX };
        let mut longest = share.min(soon).clamp(MIN_PIECE_LEN / GROUP_LEN, PIECE_LEN / GROUP_LEN);
        if self.next_flight < lanes && self.candidates.are_far() {
            // The first are of different lengths. Else all lanes would be done at the same time, again and
            // again, and the link idle for a round trip.
            longest = longest * (self.next_flight + 1) / lanes;
        }
        let most = piece.start + longest.max((piece.end - piece.start).min(PIECE_LEN / GROUP_LEN));
        let most = if self.candidates.is_swarm(now) {
            most.min((piece.start / SWARM_GROUPS + 1) * SWARM_GROUPS)
        } else {
            most
        };
        // Cut where segments end.
        let most = (most / SEGMENT_GROUPS * SEGMENT_GROUPS).max((piece.start / SEGMENT_GROUPS + 1) * SEGMENT_GROUPS);
        let mut end = piece.end.min(most);
        if let Some(behind) = self.ahead.get(&end).or_else(|| self.ahead.get(&(end - 1))) {
            end = end.max(behind.end.min(most));
        }
        let free = covered.gaps(&(piece.start..end)).next().map_or(end, |gap| gap.end);
        piece.start..free.max(piece.start + 1)
    }
}

/// Seconds that the fastest of those who can be asked beside `without` takes for `groups`, if that is so much less than
/// `slow` that it is worth asking.
fn secs_of_faster(
    candidates: &Candidates,
    slow: f64,
    groups: &Range<u64>,
    without: &[usize],
    now: Instant,
) -> Option<f64> {
    let fast = candidates.expected_secs(groups, without, slow >= MIN_DOUBLED_UNKNOWN_SECS, now)?;
    (slow >= DOUBLING_FACTOR * fast && slow >= MIN_DOUBLED_SECS).then_some(fast)
}

/// The kind of lane for an exchange, and its groups: of what is urgent, no more than a lane kept free of
/// bulk takes, if all others are in use; and one of those, if all of the former are.
fn lane_for(peer: &Peer, groups: Range<u64>, priority: Priority) -> (LaneKind, Range<u64>) {
    let most = groups.start + SMALL_LEN / GROUP_LEN;
    let has_free = |kind| peer.has_free_lane(kind);
    let fits = groups.end <= most && has_free(LaneKind::Small);
    if priority > Priority::Foreground || !fits && has_free(LaneKind::Bulk) {
        return (LaneKind::Bulk, groups);
    }
    (LaneKind::Small, groups.start..groups.end.min(most))
}
