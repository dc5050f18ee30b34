//! Inode numbers: derived from the hash, so that they are the same after a restart.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::ids::ContentHash;

/// A FUSE node id. 1 is the root, 2 is `by-hash`. A blob has a pair from 4 on, because the kernel
/// does not mix cached and passed-through opens of one node: the even number is its node, the odd one
/// above it a second one, for opens that do not go together with those that the first one has. The even
/// one is what `stat` shows for both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory; the number is FUSE's.
    pub const ROOT: Self = Self(1);
    /// The directory of blobs.
    pub const BY_HASH: Self = Self(2);
    /// The lowest number of a blob.
    const FIRST_BLOB: u64 = 4;

    /// The number that `hash` gets unless another blob has it already.
    pub(super) fn first_choice(hash: &ContentHash) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        Self::blob(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }

    /// The next number to try.
    fn next_choice(self) -> Self {
        Self::blob(self.0.wrapping_add(2))
    }

    /// The blob number made of `raw`.
    fn blob(raw: u64) -> Self {
        Self((raw & !1).max(Self::FIRST_BLOB))
    }

    /// What `stat` shows: one number for both nodes of a blob.
    pub fn shown(self) -> Self {
        if self.0 > Self::FIRST_BLOB { Self(self.0 & !1) } else { self }
    }

    /// The nodes of the pair with the shown number `self`.
    fn pair(self) -> [Self; 2] {
        [self, Self(self.0 + 1)]
    }
}

/// What an inode stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blob {
    /// Its name.
    pub hash: ContentHash,
    /// Its proven size in bytes, if it is known.
    pub size: Option<u64>,
}

struct Inode {
    blob: Blob,
    /// Since when the size is asked for, or was.
    asked: Option<Instant>,
    /// References the kernel holds: one a lookup, taken back by FORGET.
    lookups: u64,
    /// Opens whose reads come to us.
    streamed: u64,
    /// Opens that are passed through. There are never both kinds.
    passed: u64,
}

impl Inode {
    /// Whether an open can be passed through, or streamed.
    fn has_room_for(&self, passed: bool) -> bool {
        if passed { self.streamed == 0 } else { self.passed == 0 }
    }
}

/// The inodes the kernel knows, in both directions. It holds exactly what was looked up and not
/// yet forgotten, so the kernel bounds it.
#[derive(Default)]
pub(super) struct Inodes {
    by_ino: HashMap<Ino, Inode>,
    /// The shown number of a blob.
    by_hash: HashMap<ContentHash, Ino>,
}

impl Inodes {
    /// Gives `hash` a number, or finds the one it has, and counts one reference to the node of the pair whose
    /// next open can be passed through, if the blob is `whole`, or streamed: the first one, if it can.
    pub fn look_up(&mut self, hash: ContentHash, size: impl Into<Option<u64>>, whole: bool) -> Ino {
        let shown = self.by_hash.get(&hash).copied().unwrap_or_else(|| self.vacant(&hash));
        let has_room = |ino: &Ino| self.by_ino.get(ino).is_none_or(|inode| inode.has_room_for(whole));
        let ino = match shown.pair().into_iter().find(has_room) {
            Some(ino) => ino,
            // Both are streamed just now, and so will this open be.
            None if whole => shown,
            // Both are passed through, and the blob is not whole any more.
            None => self.vacant(&hash),
        };
        self.by_hash.insert(hash, ino.shown());
        let new = Inode { blob: Blob { hash, size: None }, asked: None, lookups: 0, streamed: 0, passed: 0 };
        let inode = self.by_ino.entry(ino).or_insert(new);
        inode.blob.size = inode.blob.size.or(size.into());
        inode.lookups += 1;
        ino
    }

    /// Notes the size of the blob that `ino` is.
    pub fn set_size(&mut self, ino: Ino, size: u64) {
        if let Some(inode) = self.by_ino.get_mut(&ino) {
            inode.blob.size = Some(size);
        }
    }

    /// Notes that the size of `ino` is asked for since `begun`.
    pub fn note_asked(&mut self, ino: Ino, begun: Instant) {
        if let Some(inode) = self.by_ino.get_mut(&ino) {
            inode.asked = Some(begun);
        }
    }

    /// Until when somebody who comes `now` is to wait for the size of `ino`: within `limit` of those who wait
    /// for it already, or else of `now`.
    pub fn wait_for_size(&mut self, ino: Ino, now: Instant, limit: Duration) -> Instant {
        let Some(inode) = self.by_ino.get_mut(&ino) else { return now + limit };
        let begun = inode.asked.filter(|begun| *begun + limit > now).unwrap_or(now);
        inode.asked = Some(begun);
        begun + limit
    }

    /// Counts an open of `ino`, and tells whether it is passed through, which the blob must be `whole` for; `None` if
    /// it can be neither passed through nor streamed.
    pub fn begin_open(&mut self, ino: Ino, whole: bool) -> Option<bool> {
        let inode = self.by_ino.get_mut(&ino)?;
        let passed = whole && inode.has_room_for(true);
        if !inode.has_room_for(passed) {
            return None;
        }
        *(if passed { &mut inode.passed } else { &mut inode.streamed }) += 1;
        Some(passed)
    }

    /// An open of `ino` that was `passed` through, or not, is closed.
    pub fn end_open(&mut self, ino: Ino, passed: bool) {
        if let Some(inode) = self.by_ino.get_mut(&ino) {
            let opens = if passed { &mut inode.passed } else { &mut inode.streamed };
            *opens = opens.saturating_sub(1);
        }
    }

    /// Whether the kernel knows one of the two nodes.
    fn is_used(&self, shown: Ino) -> bool {
        shown.pair().iter().any(|ino| self.by_ino.contains_key(ino))
    }

    fn vacant(&self, hash: &ContentHash) -> Ino {
        let mut ino = Ino::first_choice(hash);
        while self.is_used(ino) {
            ino = ino.next_choice();
        }
        ino
    }

    /// Takes back `count` references; the last one frees the number.
    pub fn forget(&mut self, ino: Ino, count: u64) {
        let Some(inode) = self.by_ino.get_mut(&ino) else { return };
        inode.lookups = inode.lookups.saturating_sub(count);
        if inode.lookups == 0 {
            let hash = inode.blob.hash;
            self.by_ino.remove(&ino);
            if self.by_hash.get(&hash) == Some(&ino.shown()) && !self.is_used(ino.shown()) {
                self.by_hash.remove(&hash);
            }
        }
    }

    /// Leaves the nodes of the pair to those who have them open: later lookups of the blob get others.
    pub fn retire(&mut self, ino: Ino) {
        if let Some(blob) = self.blob(ino)
            && self.by_hash.get(&blob.hash) == Some(&ino.shown())
        {
            self.by_hash.remove(&blob.hash);
        }
    }

    /// What `ino` stands for.
    pub fn blob(&self, ino: Ino) -> Option<Blob> {
        self.by_ino.get(&ino).map(|inode| inode.blob)
    }

    /// The size of `hash`, if the kernel knows it.
    pub fn size(&self, hash: &ContentHash) -> Option<u64> {
        let shown = *self.by_hash.get(hash)?;
        shown.pair().iter().find_map(|ino| self.blob(*ino)?.size)
    }

    /// Whether the kernel knows `hash`.
    pub fn knows(&self, hash: &ContentHash) -> bool {
        self.by_hash.contains_key(hash)
    }

    pub fn len(&self) -> usize {
        self.by_ino.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash whose first eight bytes are `prefix`.
    fn hash(prefix: u64, rest: u8) -> ContentHash {
        let mut bytes = [rest; 32];
        bytes[..8].copy_from_slice(&prefix.to_le_bytes());
        ContentHash::from_bytes(bytes)
    }

    #[test]
    fn the_number_depends_on_the_hash_alone() {
        let (mut a, mut b) = (Inodes::default(), Inodes::default());
        b.look_up(hash(77, 9), 1, false);
        assert_eq!(a.look_up(hash(1000, 1), 5, false), b.look_up(hash(1000, 1), 5, false));
    }

    #[test]
    fn hashes_that_begin_alike_get_distinct_even_numbers() {
        let mut inodes = Inodes::default();
        let inos: Vec<_> = (0..4).map(|rest| inodes.look_up(hash(u64::MAX, rest), u64::from(rest), false)).collect();
        for (rest, ino) in (0..).zip(&inos) {
            assert_eq!(inodes.blob(*ino), Some(Blob { hash: hash(u64::MAX, rest), size: Some(u64::from(rest)) }));
            assert_eq!(ino.0 % 2, 0);
        }
        assert_eq!(inodes.len(), 4);
    }

    #[test]
    fn no_blob_takes_the_number_of_a_directory() {
        let mut inodes = Inodes::default();
        for prefix in 0..6 {
            assert!(inodes.look_up(hash(prefix, 0), 0, false).0 >= Ino::FIRST_BLOB);
        }
    }

    #[test]
    fn the_last_forget_frees_the_number_and_no_earlier_one() {
        let mut inodes = Inodes::default();
        let first = inodes.look_up(hash(8, 1), 3, false);
        let other = inodes.look_up(hash(8, 2), 4, false);
        assert_eq!(inodes.look_up(hash(8, 1), 3, false), first);
        inodes.forget(first, 1);
        assert_eq!(inodes.size(&hash(8, 1)), Some(3));
        inodes.forget(first, 1);
        assert_eq!(inodes.blob(first), None);
        assert_eq!(inodes.size(&hash(8, 1)), None);
        assert_eq!(inodes.look_up(hash(8, 2), 4, false), other, "kept although its first choice is free again");
        inodes.forget(Ino(12345), 1);
        inodes.forget(other, u64::MAX);
        assert_eq!(inodes.len(), 0);
    }

    #[test]
    fn the_two_nodes_of_a_blob_share_what_stat_shows_and_are_counted_apart() {
        let mut inodes = Inodes::default();
        let first = inodes.look_up(hash(8, 1), 3, false);
        assert_eq!(inodes.begin_open(first, false), Some(false));
        let second = inodes.look_up(hash(8, 1), 3, true);
        assert_eq!(second.0, first.0 + 1, "the first one is streamed");
        assert_eq!((first.shown(), second.shown()), (first, first));
        inodes.end_open(first, false);
        inodes.forget(first, 1);
        assert_eq!(inodes.size(&hash(8, 1)), Some(3), "the other node is still known");
        assert_ne!(inodes.look_up(hash(8, 2), 4, true).shown(), first);
        assert_eq!(inodes.look_up(hash(8, 1), 3, false), first);
        inodes.forget(first, 1);
        inodes.forget(second, 1);
        assert_eq!(inodes.size(&hash(8, 1)), None);
    }

    #[test]
    fn a_blob_keeps_its_node_unless_the_opens_of_it_are_of_the_other_kind() {
        let mut inodes = Inodes::default();
        let node = inodes.look_up(hash(8, 1), 3, false);
        assert_eq!(inodes.look_up(hash(8, 1), 3, true), node, "it became whole");
        assert_eq!(inodes.begin_open(node, true), Some(true));
        assert_eq!(inodes.begin_open(node, false), None, "the kernel would refuse it");
        let other = inodes.look_up(hash(8, 1), 3, false);
        assert_ne!(other, node);
        assert_eq!(inodes.begin_open(other, false), Some(false));
        assert_eq!(inodes.begin_open(other, true), Some(false), "streamed as long as that one is open");
        inodes.end_open(node, true);
        assert_eq!(inodes.look_up(hash(8, 1), 3, false), node);
        assert_eq!(inodes.begin_open(node, false), Some(false), "of a node that was passed through");
        assert_eq!(inodes.look_up(hash(8, 1), 3, true), node, "both are streamed");
        // Both passed through, and then damaged: who comes then gets another.
        for (ino, opens) in [(node, 1), (other, 2)] {
            (0..opens).for_each(|_| inodes.end_open(ino, false));
            assert_eq!(inodes.begin_open(ino, true), Some(true));
        }
        let third = inodes.look_up(hash(8, 1), 3, false);
        assert_ne!(third.shown(), node);
        assert_eq!(inodes.begin_open(third, false), Some(false));
    }

    #[test]
    fn a_size_is_learnt_and_waited_for_together() {
        let (mut inodes, start, limit) = (Inodes::default(), Instant::now(), Duration::from_secs(2));
        let ino = inodes.look_up(hash(8, 1), None, false);
        assert_eq!((inodes.knows(&hash(8, 1)), inodes.size(&hash(8, 1))), (true, None));
        assert_eq!(inodes.wait_for_size(ino, start, limit), start + limit);
        let just_before = start + limit - Duration::from_nanos(1);
        assert_eq!(inodes.wait_for_size(ino, just_before, limit), start + limit, "with those who wait already");
        assert_eq!(inodes.wait_for_size(ino, start + limit, limit), start + 2 * limit, "they have given up");
        inodes.note_asked(ino, start);
        assert_eq!(inodes.wait_for_size(ino, just_before, limit), start + limit);
        inodes.set_size(ino, 3);
        assert_eq!(inodes.look_up(hash(8, 1), None, false), ino);
        assert_eq!(inodes.size(&hash(8, 1)), Some(3), "a size that is known stays");
        inodes.forget(ino, 2);
        assert!(!inodes.knows(&hash(8, 1)));
    }

    #[test]
    fn a_retired_node_stays_what_it_was_and_is_given_to_nobody_else() {
        let mut inodes = Inodes::default();
        let old = inodes.look_up(hash(8, 1), 3, true);
        inodes.retire(old);
        let new = inodes.look_up(hash(8, 1), 3, true);
        assert_ne!(old, new);
        assert_eq!(inodes.blob(old), inodes.blob(new));
        inodes.forget(old, 1);
        assert_eq!(inodes.look_up(hash(8, 1), 3, true), new, "the old one's end changes nothing");
    }
}
