//! The segments verified last, still in memory.
//!
//! A reader that follows the network closely finds its bytes here and needs neither the disk nor a
//! second verification. When the cache cannot take a blob (full, failing), this is also what keeps
//! read-ahead useful.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;

use crate::buffers::SEGMENT_LEN;
use crate::ids::ContentHash;
use crate::metrics::Metrics;
use crate::verify::{GROUP_LEN, groups_from};

/// Bytes of memory the segments may take, counted as the buffers they pin. A quarter of the budget;
/// twice as much made reading no faster.
pub(super) const RECENT_LEN: usize = crate::buffers::BUDGET_LEN / 4;

/// Groups in one segment.
pub const SEGMENT_GROUPS: u64 = SEGMENT_LEN as u64 / GROUP_LEN;

/// A cache of verified bytes, by blob and segment number. What has been read to its end is given up first, and then what
/// came first: as many bytes as this holds may be fetched ahead of a reader, and what it has read already must not push
/// them out.
pub struct RecentSegments {
    inner: Mutex<Inner>,
    metrics: Arc<Metrics>,
}

struct Inner {
    segments: LruCache<(ContentHash, u64), Part>,
    pinned: usize,
}

/// Some whole groups of one segment, beginning at group `first`.
struct Part {
    first: u64,
    bytes: Bytes,
}

/// Bytes of the budget that a part pins, however short it is.
fn pinned_len(bytes: &Bytes) -> usize {
    crate::buffers::charge_len(bytes.len())
}

impl RecentSegments {
    /// An empty cache.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { inner: Mutex::new(Inner { segments: LruCache::unbounded(), pinned: 0 }), metrics }
    }

    /// Remembers `bytes`, verified, which begin at group `first` and do not cross a segment's end.
    /// A longer part of the same segment that is already here stays.
    pub fn insert(&self, hash: ContentHash, first: u64, bytes: Bytes) {
        let key = (hash, first / SEGMENT_GROUPS);
        let mut inner = self.inner.lock();
        if inner.segments.get(&key).is_some_and(|old| old.bytes.len() > bytes.len()) {
            return;
        }
        let before = inner.pinned;
        inner.pinned += pinned_len(&bytes);
        if let Some(old) = inner.segments.put(key, Part { first, bytes }) {
            inner.pinned -= pinned_len(&old.bytes);
        }
        while inner.pinned > RECENT_LEN {
            let Some((_, old)) = inner.segments.pop_lru() else { break };
            inner.pinned -= pinned_len(&old.bytes);
        }
        self.metrics.recent_bytes.add(inner.pinned as u64);
        self.metrics.recent_bytes.sub(before as u64);
    }

    /// The remembered bytes of the segment with the first of the `wanted` groups: their first group and the bytes.
    /// `None` when the first wanted group is not among them. What is wanted to its end has been of use, and is given
    /// up first from then on.
    pub fn get(&self, hash: &ContentHash, wanted: Range<u64>) -> Option<(u64, Bytes)> {
        let key = (*hash, wanted.start / SEGMENT_GROUPS);
        let mut inner = self.inner.lock();
        let part = inner.segments.peek(&key)?;
        let groups = groups_from(part.first, part.bytes.len());
        let found = groups.contains(&wanted.start).then(|| (part.first, part.bytes.clone()))?;
        if wanted.end >= groups.end {
            inner.segments.demote(&key);
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_where_it_was_put_and_only_there() {
        let recent = RecentSegments::new(Arc::default());
        let hash = ContentHash::of(b"a");
        recent.insert(hash, 18, Bytes::from(vec![7; 2 * GROUP_LEN as usize]));
        assert!(recent.get(&hash, 17..18).is_none());
        assert_eq!(recent.get(&hash, 18..19).unwrap().0, 18);
        assert_eq!(recent.get(&hash, 19..20).unwrap().0, 18);
        assert!(recent.get(&hash, 20..21).is_none());
        assert!(recent.get(&ContentHash::of(b"b"), 18..19).is_none());
    }

    #[test]
    fn what_is_kept_stays_within_its_bound() {
        let recent = RecentSegments::new(Arc::default());
        let hash = ContentHash::of(b"a");
        let count = (2 * RECENT_LEN / SEGMENT_LEN) as u64;
        for i in 0..count {
            recent.insert(hash, i * SEGMENT_GROUPS, Bytes::from(vec![0; SEGMENT_LEN]));
        }
        assert!(recent.inner.lock().pinned <= RECENT_LEN);
        assert!(recent.get(&hash, 0..1).is_none(), "the oldest goes first");
        assert!(recent.get(&hash, (count - 1) * SEGMENT_GROUPS..count * SEGMENT_GROUPS).is_some());
    }

    #[test]
    fn what_was_read_does_not_push_out_what_was_fetched_ahead() {
        let recent = RecentSegments::new(Arc::default());
        let hash = ContentHash::of(b"a");
        let groups = |segment: u64| segment * SEGMENT_GROUPS..(segment + 1) * SEGMENT_GROUPS;
        let count = (RECENT_LEN / SEGMENT_LEN) as u64;
        for come in 0..4 * count {
            // As a stream does that is as far behind as it can be.
            if let Some(read) = (come + 1).checked_sub(count) {
                let (first, half) = (groups(read).start, groups(read).start + SEGMENT_GROUPS / 2);
                assert!(recent.get(&hash, first..half).is_some(), "segment {read}, its first half");
                assert!(recent.get(&hash, half..groups(read).end).is_some(), "segment {read}, its second half");
            }
            recent.insert(hash, groups(come).start, Bytes::from(vec![0; SEGMENT_LEN]));
        }
    }

    #[tokio::test]
    async fn parts_of_any_length_leave_most_of_the_budget_to_others() {
        let budget = crate::buffers::BufferBudget::new(Default::default());
        let recent = RecentSegments::new(Arc::default());
        for i in 0..2 * (crate::buffers::BUDGET_LEN as u64 / GROUP_LEN) {
            let len = if i % 3 == 0 { SEGMENT_LEN / 2 + 1 } else { 1 };
            let bytes = budget.buffer(len, crate::ids::Priority::Prefetch).await.freeze();
            recent.insert(ContentHash::of(&i.to_le_bytes()), 0, bytes);
            assert!(budget.available() >= crate::buffers::BUDGET_LEN - RECENT_LEN, "after {i} parts");
        }
    }
}
