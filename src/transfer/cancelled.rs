//! Blobs whose transfer somebody has cancelled, for readers who did not wait for bytes just then: the kernel reads ahead
//! for them, and they would go on with a new transfer and notice nothing.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::ids::ContentHash;

/// How long a blob that is open while its transfer is cancelled is not fetched for whoever has it open.
const MEMORY: Duration = Duration::from_secs(30);

/// So many are remembered at most; of more, the oldest are forgotten early.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// The blobs, and when their transfer was last cancelled.
pub(super) struct Cancelled(Mutex<LruCache<ContentHash, Instant>>);

impl Default for Cancelled {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_REMEMBERED)))
    }
}

impl Cancelled {
    /// Remembers that the transfer of `hash` was cancelled `now`.
    pub fn note(&self, hash: ContentHash, now: Instant) {
        self.0.lock().put(hash, now);
    }

    /// Whether that was since `opened`, and not long before `now`.
    pub fn is_over(&self, hash: &ContentHash, opened: Instant, now: Instant) -> bool {
        self.0.lock().peek(hash).is_some_and(|then| *then >= opened && now.duration_since(*then) < MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_for_who_was_there_already_and_for_its_time() {
        let (cancelled, start) = (Cancelled::default(), Instant::now());
        let (hash, moment) = (ContentHash::of(b"it"), Duration::from_millis(1));
        let then = start + moment;
        assert!(!cancelled.is_over(&hash, start, then));
        cancelled.note(hash, then);
        assert!(cancelled.is_over(&hash, start, then + MEMORY - moment));
        assert!(!cancelled.is_over(&hash, start, then + MEMORY));
        assert!(!cancelled.is_over(&hash, then + moment, then + moment), "opened since");
        assert!(!cancelled.is_over(&ContentHash::of(b"another"), start, then));
    }

    #[test]
    fn the_memory_is_bounded() {
        let (cancelled, now) = (Cancelled::default(), Instant::now());
        (0..2000_u32).for_each(|n| cancelled.note(ContentHash::of(&n.to_le_bytes()), now));
        assert_eq!(cancelled.0.lock().len(), MAX_REMEMBERED.get());
    }
}
