//! Telling of what happens again and again, only so often: nobody can fill a log by repeating something.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// So many are told of within [`INTERVAL`]; the others are counted.
const MAX_TOLD: u32 = 8;

/// See [`MAX_TOLD`].
const INTERVAL: Duration = Duration::from_secs(60);

/// Decides what of one kind of events is told.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    since: Option<Instant>,
    told: u32,
    untold: u64,
}

impl Seldom {
    /// Whether to tell of one that happens now, and if so, of how many nothing has been told since the last.
    pub fn tell(&self) -> Option<u64> {
        let mut inner = self.0.lock();
        let now = Instant::now();
        if inner.since.is_none_or(|since| now - since >= INTERVAL) {
            (inner.since, inner.told) = (Some(now), 0);
        }
        if inner.told == MAX_TOLD {
            inner.untold += 1;
            return None;
        }
        inner.told += 1;
        Some(std::mem::take(&mut inner.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_happens_again_and_again_is_counted_and_not_each_told_of() {
        let seldom = Seldom::default();
        let told: Vec<_> = (0..100).filter_map(|_| seldom.tell()).collect();
        assert_eq!(told, [0; MAX_TOLD as usize]);
        tokio::time::advance(INTERVAL).await;
        assert_eq!(seldom.tell(), Some(100 - u64::from(MAX_TOLD)));
        assert_eq!(seldom.tell(), Some(0));
    }
}
