//! Failed reads and lookups, remembered briefly.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use crate::ids::{BlobRange, ContentHash};
use crate::transfer::FetchError;

/// How long a failed range fails again without being tried. The kernel repeats a failed
/// read-ahead page by page: without this memory a reader would wait a deadline for each page.
/// Long enough for those repetitions, short enough that a person who tries again is served.
pub(super) const FAILURE_MEMORY: Duration = Duration::from_secs(1);

/// How many failed ranges are remembered for an open file; the kernel has about this many reads
/// of one file in flight. The oldest gives way.
const MAX_FAILURES: usize = 64;

/// What is remembered about a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// Why it failed.
    pub error: FetchError,
    /// A longer range failed, of which this one may be a part that is at hand.
    pub of_more: bool,
}

/// The ranges of one open file that failed within the last [`FAILURE_MEMORY`].
#[derive(Default)]
pub(super) struct Failures {
    recent: VecDeque<(Instant, BlobRange, FetchError)>,
}

impl Failures {
    /// Remembers that `range` failed at `now`.
    pub fn note(&mut self, range: BlobRange, error: FetchError, now: Instant) {
        self.expire(now);
        if self.recent.len() == MAX_FAILURES {
            self.recent.pop_front();
        }
        self.recent.push_back((now, range, error));
    }

    /// The remembered failure of any byte of `range`; of several, the one of the shortest range,
    /// which says most.
    pub fn of(&mut self, range: BlobRange, now: Instant) -> Option<Failure> {
        self.expire(now);
        let overlaps = |failed: &BlobRange| failed.start < range.end && range.start < failed.end;
        let failed = self.recent.iter().filter(|(_, failed, _)| overlaps(failed));
        let (_, failed, error) = failed.min_by_key(|(_, failed, _)| failed.len())?;
        Some(Failure { error: error.clone(), of_more: failed.len() > range.len() })
    }

    /// Does not count `waited`, which ended `now`, as time that has passed since the failures.
    pub fn discount(&mut self, waited: Duration, now: Instant) {
        for (then, ..) in &mut self.recent {
            *then = now.min(*then + waited);
        }
    }

    fn expire(&mut self, now: Instant) {
        while self.recent.front().is_some_and(|(then, ..)| now.duration_since(*then) >= FAILURE_MEMORY) {
            self.recent.pop_front();
        }
    }
}

/// How long it is remembered that nobody has a blob: short, for somebody may get it. What is added here is found at
/// once all the same.
const ABSENCE_MEMORY: Duration = Duration::from_secs(1);

/// How many failed lookups are remembered; the one used last stays longest.
const MAX_FAILED_LOOKUPS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// The lookups that failed a moment ago. The kernel has one process at a time look for a name, and the others
/// wait, uninterruptibly, to do the same after it: without this memory each would wait for a failure of its
/// own. It lasts as long as the failure was in coming, which is time enough for all who waited, and what fails
/// at once is tried again each time. That nobody has it is remembered for [`ABSENCE_MEMORY`].
pub(super) struct FailedLookups {
    /// Why, and how long that holds.
    recent: LruCache<ContentHash, (FetchError, Instant)>,
}

impl Default for FailedLookups {
    fn default() -> Self {
        Self { recent: LruCache::new(MAX_FAILED_LOOKUPS) }
    }
}

impl FailedLookups {
    /// Remembers that the lookup of `hash`, begun at `begun`, failed at `now`.
    pub fn note(&mut self, hash: ContentHash, error: FetchError, begun: Instant, now: Instant) {
        let memory = match error {
            FetchError::NotFound => ABSENCE_MEMORY,
            _ => now.duration_since(begun),
        };
        self.recent.put(hash, (error, now + memory));
    }

    /// The remembered failure of looking `hash` up.
    pub fn of(&mut self, hash: &ContentHash, now: Instant) -> Option<FetchError> {
        self.recent.get(hash).filter(|(_, until)| now < *until).map(|(error, _)| error.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_covers_its_range_for_its_time() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        failures.note(BlobRange::new(100, 200), FetchError::TimedOut, start);
        let just_before = start + FAILURE_MEMORY - Duration::from_nanos(1);
        let failure = |of_more| Some(Failure { error: FetchError::TimedOut, of_more });
        assert_eq!(failures.of(BlobRange::new(199, 300), just_before), failure(false));
        assert_eq!(failures.of(BlobRange::new(100, 200), just_before), failure(false));
        assert_eq!(failures.of(BlobRange::new(100, 199), just_before), failure(true));
        assert_eq!(failures.of(BlobRange::new(200, 300), start), None);
        assert_eq!(failures.of(BlobRange::new(0, 100), start), None);
        assert_eq!(failures.of(BlobRange::new(100, 200), start + FAILURE_MEMORY), None);
    }

    #[test]
    fn time_spent_waiting_does_not_make_it_forget() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        failures.note(BlobRange::new(0, 9), FetchError::TimedOut, start);
        let waited = FAILURE_MEMORY / 2;
        failures.discount(waited, start + waited);
        assert!(failures.of(BlobRange::new(0, 9), start + waited + FAILURE_MEMORY / 2).is_some());
        assert!(failures.of(BlobRange::new(0, 9), start + waited + FAILURE_MEMORY).is_none());
        failures.note(BlobRange::new(0, 9), FetchError::TimedOut, start);
        failures.discount(FAILURE_MEMORY, start);
        assert!(failures.of(BlobRange::new(0, 9), start + FAILURE_MEMORY).is_none(), "never later than now");
    }

    #[test]
    fn failed_lookups_are_remembered_for_as_long_as_they_took_and_not_without_end() {
        let (mut failed, begun) = (FailedLookups::default(), Instant::now());
        let (fast, slow) = (ContentHash::of(b"fast"), ContentHash::of(b"slow"));
        let took = Duration::from_millis(300);
        let end = begun + took;
        failed.note(fast, FetchError::Unreachable, end, end);
        failed.note(slow, FetchError::Unreachable, begun, end);
        assert_eq!(failed.of(&fast, end), None);
        assert_eq!(failed.of(&slow, end + took - Duration::from_nanos(1)), Some(FetchError::Unreachable));
        assert_eq!(failed.of(&slow, end + took), None);
        failed.note(fast, FetchError::NotFound, end, end);
        assert!(failed.of(&fast, end + ABSENCE_MEMORY / 2).is_some());
        assert_eq!(failed.of(&fast, end + ABSENCE_MEMORY), None);
        for n in 0..2000_u32 {
            failed.note(ContentHash::of(&n.to_le_bytes()), FetchError::TimedOut, begun, end);
        }
        assert_eq!(failed.recent.len(), MAX_FAILED_LOOKUPS.get());
        assert!(failed.of(&ContentHash::of(&1999_u32.to_le_bytes()), end).is_some());
    }

    #[test]
    fn the_memory_is_bounded_and_keeps_the_newest() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        for n in 0..1000 {
            failures.note(BlobRange::new(n, n + 1), FetchError::Unreachable, now);
        }
        assert_eq!(failures.recent.len(), MAX_FAILURES);
        assert!(failures.of(BlobRange::new(999, 1000), now).is_some());
        assert!(failures.of(BlobRange::new(0, 1), now).is_none());
    }
}
