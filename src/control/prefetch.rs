//! Filling the cache ahead: some blobs at once, told of as they come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::frame::{write_end, write_message};
use super::{ControlError, ControlHandler, Failure, FailureKind, PrefetchEvent, Response};
use crate::ids::ContentHash;

/// Blobs that one prefetch has under way at once: enough to hide the round trips of small ones. Memory
/// is bounded by the engine's budget, however many there are.
const BLOBS_AT_ONCE: usize = 16;

/// How often it tells how far it is.
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);

/// Bytes of the blobs whose size is known so far.
#[derive(Debug, Default)]
struct Tally {
    done: AtomicU64,
    total: AtomicU64,
}

impl Tally {
    fn now(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }
}

/// What one blob has added to the tally.
#[derive(Debug, Default)]
struct Share {
    done: AtomicU64,
    total: AtomicU64,
}

/// Fetches `hashes` into the store and tells of each, then ends the answer. What is not done when the
/// future is dropped is broken off.
pub(super) async fn prefetch(
    to: &mut (impl AsyncWrite + Unpin),
    handler: &Arc<dyn ControlHandler>,
    hashes: Vec<ContentHash>,
) -> Result<(), ControlError> {
    let tally = Arc::new(Tally::default());
    let mut waiting = hashes.iter().copied();
    let mut running = JoinSet::new();
    let mut fetched = Vec::new();
    let mut ticks = interval(PROGRESS_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = (0, 0);
    loop {
        while running.len() < BLOBS_AT_ONCE
            && let Some(hash) = waiting.next()
        {
            running.spawn(fetch(handler.clone(), hash, tally.clone()));
        }
        tokio::select! {
            ended = running.join_next() => match ended {
                Some(Ok((hash, Ok(())))) => fetched.push(hash),
                Some(Ok((hash, Err(failure)))) => tell(to, hash, Some(failure)).await?,
                Some(Err(error)) => {
                    let failure = Failure { kind: FailureKind::Other, error: format!("fetching failed inside the node: {error}") };
                    return write_message(to, &Response::Error(failure)).await;
                }
                None => break,
            },
            _ = ticks.tick() => {
                let now = tally.now();
                if now != told {
                    write_message(to, &Response::Prefetch(PrefetchEvent::Progress { done: now.0, total: now.1 })).await?;
                    told = now;
                }
            }
        }
    }
    // What has come of one that failed is still being written, and pushes others out.
    handler.land(Some(&hashes)).await;
    for hash in fetched {
        let kept = handler.is_held(hash);
        let error =
            "it was fetched, but had to make room for others: the cache is too small for all of them".to_owned();
        tell(to, hash, (!kept).then_some(Failure { kind: FailureKind::Other, error })).await?;
    }
    write_end(to).await
}

async fn tell(
    to: &mut (impl AsyncWrite + Unpin),
    hash: ContentHash,
    failure: Option<Failure>,
) -> Result<(), ControlError> {
    write_message(to, &Response::Prefetch(PrefetchEvent::Fetched { hash, failure })).await
}

async fn fetch(
    handler: Arc<dyn ControlHandler>,
    hash: ContentHash,
    tally: Arc<Tally>,
) -> (ContentHash, Result<(), Failure>) {
    let share = Share::default();
    let progress = move |done: u64, total: u64| {
        let grown = |by: u64, own: &AtomicU64, all: &AtomicU64| {
            all.fetch_add(by.saturating_sub(own.swap(by, Ordering::Relaxed)), Ordering::Relaxed);
        };
        grown(total, &share.total, &tally.total);
        grown(done, &share.done, &tally.done);
    };
    let fetched = handler.fetch(hash, Box::new(progress)).await;
    (hash, fetched)
}
