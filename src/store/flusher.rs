//! The thread that makes writes durable and tells the index; and the one of [`recovery`] beside it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::StoreError;
use super::recovery::{self, Work};
use super::shared::Shared;
use crate::descriptors;

/// How long nothing must have been written for a flush to be due.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);

/// The time from a write to its flush at most, however much is written meanwhile. Syncing a file
/// that is being written to holds its writer up: measured, a fetch of 1 GiB takes a quarter longer
/// when it is synced every half second. Five seconds is what ext4 takes for its own journal.
const MAX_FLUSH_DELAY: Duration = Duration::from_secs(5);

/// Blobs that wait for a flush at most: whoever writes to another one flushes first. Measured, eight readers of 10,000
/// small files get 1.15 times as many a second with it as with 256, for the index is changed and the disk synced once
/// for all that wait.
const MAX_UNFLUSHED: u64 = 1024;

/// What part of the descriptors that the process may have those blobs may be; each keeps two at most.
const UNFLUSHED_PART: u64 = 8;

/// See [`MAX_UNFLUSHED`].
pub(super) fn max_unflushed() -> usize {
    (descriptors::limit() / UNFLUSHED_PART).clamp(2, MAX_UNFLUSHED) as usize
}

/// The time until the next try after a flush that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// The time between two flushes when only uses are to be noted.
const TOUCH_FLUSH_INTERVAL: Duration = Duration::from_secs(30);

/// The running threads. Dropped, they end, after a last flush.
#[derive(Debug)]
pub(super) struct Flusher {
    shared: Arc<Shared>,
    threads: Mutex<Option<[JoinHandle<()>; 2]>>,
}

impl Flusher {
    /// Starts the threads.
    pub fn start(shared: Arc<Shared>) -> Result<Self, StoreError> {
        let start = |name: &str, run: fn(&Arc<Shared>)| {
            let of_thread = shared.clone();
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&of_thread));
            thread.map_err(super::error::io_error("start the flusher of", shared.layout.dir()))
        };
        let recovery = start("store-recovery", recovery::run)?;
        let threads = [recovery, start("store-flusher", run).inspect_err(|_| shared.recovery.close())?];
        Ok(Self { shared, threads: Mutex::new(Some(threads)) })
    }

    /// Ends the threads after a last flush.
    pub fn stop(&self) {
        self.shared.recovery.close();
        self.shared.pending.lock().closing = true;
        self.shared.wake.notify_all();
        // They hold what they are held by.
        self.shared.lingering.close();
        for thread in self.threads.lock().take().into_iter().flatten() {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                tracing::error!("the thread {name} has panicked; the last writes may be forgotten");
            }
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(shared: &Arc<Shared>) {
    let mut failed = false;
    loop {
        let closing = wait(shared, TOUCH_FLUSH_INTERVAL, failed);
        let flushed = shared.flush().and_then(|()| shared.trim());
        // Once, however often it fails until it works again; the metric counts all.
        if let Err(error) = &flushed
            && !failed
        {
            tracing::error!(%error, "writes to the cache could not be made durable; they may be forgotten at a restart");
        }
        failed = flushed.is_err();
        if closing {
            if let Err(error) = shared.note_closed(flushed.is_ok() && shared.recovery.work() == Work::Nothing) {
                tracing::error!(%error, "the cache could not be closed in order");
            }
            return;
        }
    }
}

/// Waits until a flush is due: when writing has paused, or after `idle` without any; long after one
/// that `failed`. Tells whether it is the last.
fn wait(shared: &Shared, idle: Duration, failed: bool) -> bool {
    let mut pending = shared.pending.lock();
    let idle_until = Instant::now() + idle;
    while !pending.closing && pending.blobs.is_empty() {
        if shared.wake.wait_until(&mut pending, idle_until).timed_out() {
            return pending.closing;
        }
    }
    let first = Instant::now();
    while !pending.closing {
        if pending.blobs.len() >= shared.enough_unflushed() && !failed {
            break;
        }
        let until = due(first, shared.last_write(), failed);
        if until <= Instant::now() {
            break;
        }
        shared.wake.wait_until(&mut pending, until);
    }
    pending.closing
}

/// When a flush is due of what was written from `first` on, and at `last` for the last time; after one that `failed`,
/// not soon.
fn due(first: Instant, last: Instant, failed: bool) -> Instant {
    if failed { first + RETRY_INTERVAL } else { (last + FLUSH_INTERVAL).clamp(first, first + MAX_FLUSH_DELAY) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long after its first write a flush comes if there is one every `pause`, `writes` in all.
    fn flushed_after(pause: Duration, writes: u32, failed: bool) -> Duration {
        let first = Instant::now();
        let (mut now, mut last) = (first, first);
        for _ in 1..writes {
            if due(first, last, failed) <= now {
                return now - first;
            }
            now += pause;
            last = now;
        }
        due(first, last, failed) - first
    }

    #[test]
    fn what_is_written_without_a_pause_is_flushed_after_five_seconds_all_the_same() {
        let often = Duration::from_millis(10);
        assert_eq!(flushed_after(often, 10_000, false), Duration::from_secs(5));
        assert_eq!(flushed_after(often, 1, false), FLUSH_INTERVAL);
        assert_eq!(flushed_after(often, 10, false), often * 9 + FLUSH_INTERVAL, "once it pauses");
        assert_eq!(flushed_after(often, 10_000, true), RETRY_INTERVAL);
        // The last write may have come before the flusher saw that there is one.
        let now = Instant::now();
        assert_eq!(due(now + FLUSH_INTERVAL * 2, now, false), now + FLUSH_INTERVAL * 2);
    }
}
