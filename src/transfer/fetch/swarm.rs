//! Many who fetch the same blob at the same time, from few who have all of it.
//!
//! All would ask for the same bytes at the same time, and each be sent all of them by those few. So pieces are
//! shared out, by rendezvous hashing over the ids of all who are seen to fetch the blob: without a word all
//! agree, but for what they have not heard of one another yet, who fetches a piece. The others have it from
//! that one. Who is waited for in vain is not counted on any more.

use std::ops::Range;
use std::time::Duration;

use rangemap::RangeSet;
use tokio::time::Instant;

use super::actor::Actor;
use super::waiters::Waiter;
use crate::buffers::SEGMENT_LEN;
use crate::ids::{PeerId, Priority};
use crate::verify::GROUP_LEN;

/// Groups of a piece: pieces are cut at multiples of this. Four segments, as many as are written at a time.
pub(super) const SWARM_GROUPS: u64 = 4 * SEGMENT_LEN as u64 / GROUP_LEN;

/// How long somebody who waits for bytes waits for another node to fetch them, beside the time that it takes
/// to fetch them oneself.
const PATIENCE: Duration = Duration::from_millis(500);

/// The longest that is waited for another in all: what is read is answered in time even so.
const MAX_PATIENCE: Duration = Duration::from_secs(3);

/// How long is waited where nobody waits for the bytes themselves.
const CALM_PATIENCE: Duration = Duration::from_secs(10);

impl Actor {
    /// The next piece that nobody waits for at this moment, or not urgently, if others fetch the same blob: what
    /// one of them has, else what is this node's to fetch.
    pub(super) fn next_in_swarm(&self, covered: &RangeSet<u64>, now: Instant) -> Option<Range<u64>> {
        let waited_for = self.waiters.iter().flat_map(|waiter| waiter.left.iter());
        let gaps = self.ahead.iter().chain(waited_for).flat_map(|range| covered.gaps(range));
        let place = |piece: &Range<u64>| match self.candidates.part_is_free(piece.start, now) {
            Some(free) => free.then_some((0, piece.start)),
            None => self.other(piece.start, now).is_none().then_some((1, piece.start)),
        };
        gaps.flat_map(pieces)
            .filter_map(|piece| Some((place(&piece)?, piece)))
            .min_by_key(|(place, _)| *place)
            .map(|(_, piece)| piece)
    }

    /// The first of what `waiter` waits for that is not in `covered`, nor to be fetched by another node of
    /// whom it may still be expected.
    pub(super) fn next_for(&self, waiter: &Waiter, covered: &RangeSet<u64>, now: Instant) -> Option<Range<u64>> {
        let mut gaps = waiter.left.iter().flat_map(|range| covered.gaps(range));
        if !self.candidates.is_swarm(now) {
            return gaps.next();
        }
        let in_time = now < waiter.since + self.patience_with_others(waiter.priority);
        gaps.flat_map(pieces).find(|piece| !(in_time && self.is_others(piece.start, now)))
    }

    /// Counts no more on those who have not fetched in time what somebody waits for.
    pub(super) fn note_let_down(&mut self, now: Instant) {
        if !self.candidates.is_swarm(now) {
            return;
        }
        let is_late = |waiter: &&Waiter| now >= waiter.since + self.patience_with_others(waiter.priority);
        let late = self.waiters.iter().filter(is_late);
        let starts: Vec<u64> =
            late.flat_map(|waiter| waiter.left.iter().cloned()).flat_map(pieces).map(|piece| piece.start).collect();
        for start in starts {
            if self.candidates.part_is_free(start, now).is_none()
                && let Some(index) = self.other(start, now)
            {
                self.candidates.note_let_down(index);
            }
        }
    }

    /// Whether another node is to fetch this group, and nobody but those who have all of it has it yet.
    fn is_others(&self, group: u64, now: Instant) -> bool {
        self.candidates.part_is_free(group, now).is_none() && self.other(group, now).is_some()
    }

    /// The index of the other node that is to fetch this group; `None` if it is this one.
    fn other(&self, group: u64, now: Instant) -> Option<usize> {
        let piece = group / SWARM_GROUPS;
        let own = (weight(piece, self.shared.holders.own_id()), None);
        let others = self.candidates.swarm(now).map(|(index, id)| (weight(piece, id), Some(index)));
        others.chain([own]).max_by_key(|(weight, _)| *weight)?.1
    }

    /// How long is waited for another node to fetch a piece.
    fn patience_with_others(&self, priority: Priority) -> Duration {
        if priority > Priority::Foreground {
            return CALM_PATIENCE;
        }
        let twice = 2.0 * self.candidates.secs_of_whole(SWARM_GROUPS * GROUP_LEN);
        (PATIENCE + Duration::from_secs_f64(twice.min(MAX_PATIENCE.as_secs_f64()))).min(MAX_PATIENCE)
    }
}

/// Cuts at the ends of pieces.
fn pieces(gap: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut start = gap.start;
    std::iter::from_fn(move || {
        let piece = start..gap.end.min((start / SWARM_GROUPS + 1) * SWARM_GROUPS);
        start = piece.end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Who has the most of all fetches the piece.
fn weight(piece: u64, id: PeerId) -> u64 {
    // FNV-1a (Fowler, Noll and Vo).
    let add = |mixed: u64, byte: &u8| (mixed ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let id = id.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, add);
    // The end of splitmix64 (Steele, Lea and Flood): each bit depends on each.
    let mut mixed = id ^ piece.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_shared_out_evenly_and_are_another_s_only_if_that_one_goes() {
        let ids: Vec<PeerId> = (1..=16).map(|number| PeerId::from_bytes([number; 32])).collect();
        let owner = |piece, ids: &[PeerId]| ids.iter().copied().max_by_key(|id| weight(piece, *id)).unwrap();
        let mut counts = [0; 17];
        for piece in 0..1600 {
            let id = owner(piece, &ids);
            counts[usize::from(id.as_bytes()[0])] += 1;
            if id != ids[0] {
                assert_eq!(owner(piece, &ids[1..]), id);
            }
        }
        assert!(counts[1..].iter().all(|count| (60..150).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_gap_is_cut_at_multiples() {
        let cut = |gap| pieces(gap).collect::<Vec<_>>();
        assert_eq!(cut(3..65), [3..64, 64..65]);
        assert_eq!(cut(60..130), [60..64, 64..128, 128..130]);
    }
}
