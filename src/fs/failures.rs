//! Failed reads, remembered briefly.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::ids::BlobRange;
use crate::transfer::FetchError;

/// How long a failed range fails again without being tried. The kernel repeats a failed
/// read-ahead page by page: without this memory a reader would wait a deadline for each page.
/// Long enough for those repetitions, short enough that a person who tries again is served.
pub(super) const FAILURE_MEMORY: Duration = Duration::from_secs(1);

/// How many failed ranges are remembered for an open file; the kernel has about this many reads
/// of one file in flight. The oldest gives way.
const MAX_FAILURES: usize = 64;

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

    /// The remembered failure of any byte of `range`.
    pub fn of(&mut self, range: BlobRange, now: Instant) -> Option<FetchError> {
        self.expire(now);
        let overlaps = |failed: &BlobRange| failed.start < range.end && range.start < failed.end;
        self.recent.iter().find(|(_, failed, _)| overlaps(failed)).map(|(_, _, error)| error.clone())
    }

    fn expire(&mut self, now: Instant) {
        while self.recent.front().is_some_and(|(then, ..)| now.duration_since(*then) >= FAILURE_MEMORY) {
            self.recent.pop_front();
        }
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
        assert_eq!(failures.of(BlobRange::new(199, 300), just_before), Some(FetchError::TimedOut));
        assert_eq!(failures.of(BlobRange::new(200, 300), start), None);
        assert_eq!(failures.of(BlobRange::new(0, 100), start), None);
        assert_eq!(failures.of(BlobRange::new(100, 200), start + FAILURE_MEMORY), None);
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
