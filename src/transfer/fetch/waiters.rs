//! Who waits for which groups of a blob.

use std::ops::Range;

use bytes::Bytes;
use rangemap::RangeSet;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::ids::BlobRange;
use crate::transfer::{FetchError, Priority};
use crate::verify::{GROUP_LEN, bytes_of, groups_from};

/// The bytes that a read has so far.
#[derive(Debug)]
pub struct Destination {
    range: BlobRange,
    content: Content,
}

/// Memory is taken only when bytes have to be put together.
#[derive(Debug)]
enum Content {
    Nothing,
    /// All of the range, shared with who received it.
    Whole(Bytes),
    /// Some of the range; what has not come is zero.
    Parts(Vec<u8>),
}

impl Destination {
    /// Room for `range`.
    pub fn new(range: BlobRange) -> Self {
        Self { range, content: Content::Nothing }
    }

    /// Takes what `content`, which begins at byte `at` of the blob, has of the range.
    pub fn take_from(&mut self, at: u64, content: &Bytes) {
        let range = self.range;
        let start = at.max(range.start);
        let end = (at + content.len() as u64).min(range.end);
        if start >= end || matches!(self.content, Content::Whole(_)) {
            return;
        }
        let from = (start - at) as usize..(end - at) as usize;
        if start == range.start && end == range.end {
            self.content = Content::Whole(content.slice(from));
            return;
        }
        if matches!(self.content, Content::Nothing) {
            self.content = Content::Parts(vec![0; range.len() as usize]);
        }
        if let Content::Parts(bytes) = &mut self.content {
            bytes[(start - range.start) as usize..(end - range.start) as usize].copy_from_slice(&content[from]);
        }
    }

    /// The bytes, once all of them have come.
    pub fn into_bytes(self) -> Bytes {
        match self.content {
            Content::Nothing => Bytes::new(),
            Content::Whole(bytes) => bytes,
            Content::Parts(bytes) => Bytes::from(bytes),
        }
    }
}

/// The answer to a want: what was filled in, and what is still to be had. A non-empty `left` means
/// that those groups have reached the store in the meantime and are to be read from there.
#[derive(Debug)]
pub struct Filled {
    /// As it was sent, with more bytes in it.
    pub destination: Option<Destination>,
    /// The groups not filled in.
    pub left: RangeSet<u64>,
}

/// One who waits.
pub(super) struct Waiter {
    /// Where the bytes go; `None` waits until they are in the store instead.
    pub destination: Option<Destination>,
    /// The groups that have not come yet.
    pub left: RangeSet<u64>,
    pub priority: Priority,
    /// How many surveys had been begun when it came, or last got a part of what it waits for.
    pub born: u64,
    /// When it came.
    pub since: Instant,
    pub reply: oneshot::Sender<Result<Filled, FetchError>>,
}

impl Waiter {
    fn answer(self) {
        let _ = self.reply.send(Ok(Filled { destination: self.destination, left: self.left }));
    }
}

/// All who wait for groups of one blob.
#[derive(Default)]
pub(super) struct Waiters {
    waiting: Vec<Waiter>,
}

impl Waiters {
    pub fn push(&mut self, waiter: Waiter) {
        let at = self.waiting.partition_point(|other| other.priority <= waiter.priority);
        self.waiting.insert(at, waiter);
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The most urgent first, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = &Waiter> {
        self.waiting.iter()
    }

    /// Forgets those who no longer listen.
    pub fn prune(&mut self) {
        self.waiting.retain(|waiter| !waiter.reply.is_closed());
    }

    /// Verified `content`, which begins at group `first`, has come, after so many `surveys` were begun.
    pub fn deliver(&mut self, first: u64, content: &Bytes, surveys: u64) {
        let groups = groups_from(first, content.len());
        self.settle(|waiter| {
            if !waiter.left.overlaps(&groups) {
                return false;
            }
            waiter.born = surveys;
            let Some(destination) = &mut waiter.destination else { return false };
            // Groups that were there before are the same bytes again.
            destination.take_from(first * GROUP_LEN, content);
            waiter.left.remove(groups.clone());
            waiter.left.is_empty()
        });
    }

    /// `groups` can be read from the store (or, if it failed, will never be there).
    pub fn stored(&mut self, groups: &Range<u64>) {
        self.settle(|waiter| {
            let overlaps = waiter.left.overlaps(groups);
            if waiter.destination.is_some() {
                return overlaps;
            }
            waiter.left.remove(groups.clone());
            waiter.left.is_empty()
        });
    }

    /// Tells those for which `lost` says so that it cannot be done.
    pub fn fail_if(&mut self, error: &FetchError, mut lost: impl FnMut(&Waiter) -> bool) {
        for waiter in self.waiting.extract_if(.., |waiter| lost(waiter)) {
            let _ = waiter.reply.send(Err(error.clone()));
        }
    }

    /// Answers the waiters for which `done` says so.
    fn settle(&mut self, mut done: impl FnMut(&mut Waiter) -> bool) {
        let mut i = 0;
        while i < self.waiting.len() {
            if done(&mut self.waiting[i]) {
                self.waiting.remove(i).answer();
            } else {
                i += 1;
            }
        }
    }
}

/// The part of `bytes`, which are groups from `first` on, that is group range `groups`.
pub(super) fn slice_of_groups(size: u64, first: u64, groups: &Range<u64>) -> Range<usize> {
    let all = bytes_of(size, groups);
    (all.start - first * GROUP_LEN) as usize..(all.end - first * GROUP_LEN) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiter(
        range: BlobRange,
        groups: Range<u64>,
        priority: Priority,
    ) -> (Waiter, oneshot::Receiver<Result<Filled, FetchError>>) {
        let (reply, answer) = oneshot::channel();
        let left = RangeSet::from_iter([groups]);
        (
            Waiter {
                destination: Some(Destination::new(range)),
                left,
                priority,
                born: 0,
                since: Instant::now(),
                reply,
            },
            answer,
        )
    }

    #[test]
    fn a_waiter_is_answered_when_its_last_group_has_come_in_any_order() {
        let mut waiters = Waiters::default();
        let (first, mut answer) = waiter(BlobRange::new(100, 2 * GROUP_LEN + 5), 0..3, Priority::Foreground);
        waiters.push(first);
        waiters.deliver(2, &Bytes::from(vec![3; 5]), 0);
        waiters.deliver(0, &Bytes::from(vec![1; GROUP_LEN as usize]), 0);
        assert!(answer.try_recv().is_err());
        waiters.deliver(1, &Bytes::from(vec![2; GROUP_LEN as usize]), 0);
        let filled = answer.try_recv().unwrap().unwrap();
        let bytes = filled.destination.unwrap().into_bytes();
        assert!(filled.left.is_empty());
        assert_eq!(bytes.len() as u64, 2 * GROUP_LEN + 5 - 100);
        assert_eq!((bytes[0], bytes[GROUP_LEN as usize], bytes[bytes.len() - 1]), (1, 2, 3));
        assert!(waiters.is_empty());
    }

    #[test]
    fn one_piece_that_has_it_all_is_shared_and_not_copied() {
        let mut waiters = Waiters::default();
        let (first, mut answer) = waiter(BlobRange::new(10, 20), 0..1, Priority::Foreground);
        waiters.push(first);
        let piece = Bytes::from(vec![1; GROUP_LEN as usize]);
        waiters.deliver(0, &piece, 0);
        let bytes = answer.try_recv().unwrap().unwrap().destination.unwrap().into_bytes();
        assert_eq!(bytes.as_ptr(), piece[10..].as_ptr());
        assert_eq!(bytes.len(), 10);
    }

    #[test]
    fn what_reached_the_store_meanwhile_is_read_from_there() {
        let mut waiters = Waiters::default();
        let (first, mut answer) = waiter(BlobRange::new(0, 2 * GROUP_LEN), 0..2, Priority::Foreground);
        waiters.push(first);
        waiters.deliver(0, &Bytes::from(vec![1; GROUP_LEN as usize]), 0);
        waiters.stored(&(1..2));
        assert!(answer.try_recv().unwrap().unwrap().left.contains(&1));
    }

    #[test]
    fn the_urgent_stand_in_front_and_those_who_left_are_forgotten() {
        let mut waiters = Waiters::default();
        let (ahead, _ahead) = waiter(BlobRange::new(0, 1), 0..1, Priority::ReadAhead);
        let (now, now_answer) = waiter(BlobRange::new(0, 1), 0..1, Priority::Foreground);
        waiters.push(ahead);
        waiters.push(now);
        let order: Vec<_> = waiters.iter().map(|waiter| waiter.priority).collect();
        assert_eq!(order, [Priority::Foreground, Priority::ReadAhead]);
        drop(now_answer);
        waiters.prune();
        assert_eq!(waiters.iter().count(), 1);
    }
}
