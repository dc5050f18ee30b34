//! The thread that makes writes durable and tells the index, and after a crash removes orphans.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::StoreError;
use super::layout::SHARDS;
use super::shared::Shared;
use super::sweep::sweep_shard;

/// How long nothing must have been written for a flush to be due, and the time between two steps of
/// a sweep.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);

/// The time from a write to its flush at most, however much is written meanwhile. Syncing a file
/// that is being written to holds its writer up: measured, a fetch of 1 GiB takes a quarter longer
/// when it is synced every half second. Five seconds is what ext4 takes for its own journal.
const MAX_FLUSH_DELAY: Duration = Duration::from_secs(5);

/// The time until the next try after a flush that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// The time between two flushes when only uses are to be noted.
const TOUCH_FLUSH_INTERVAL: Duration = Duration::from_secs(30);

/// The running thread. Dropped, it flushes a last time and ends.
#[derive(Debug)]
pub(super) struct Flusher {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Flusher {
    /// Starts the thread; `sweep` if there may be orphans.
    pub fn start(shared: Arc<Shared>, sweep: bool) -> Result<Self, StoreError> {
        let todo = if sweep { 0..SHARDS } else { 0..0 };
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("store-flusher".into())
            .spawn(move || run(&of_thread, todo))
            .map_err(super::error::io_error("start the flusher of", shared.layout.dir()))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Ends the thread after a last flush.
    pub fn stop(&self) {
        self.shared.pending.lock().closing = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the store's flusher has panicked; the last writes may be forgotten");
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(shared: &Shared, mut to_sweep: std::ops::Range<u16>) {
    let mut failed = false;
    loop {
        let idle = if to_sweep.is_empty() { TOUCH_FLUSH_INTERVAL } else { FLUSH_INTERVAL };
        let closing = wait(shared, idle, failed);
        let flushed = shared.flush().and_then(|()| shared.trim());
        failed = flushed.is_err();
        if let Err(error) = &flushed {
            tracing::error!(%error, "writes to the cache could not be made durable; they may be forgotten at a restart");
        }
        if closing {
            let noted = shared.write_index(|batch| batch.set_clean(flushed.is_ok() && to_sweep.is_empty()));
            if let Err(error) = noted {
                tracing::error!(%error, "the cache could not be closed in order");
            }
            return;
        }
        if let Some(shard) = to_sweep.next()
            && let Err(error) = sweep_shard(shared, shard as u8)
        {
            tracing::warn!(%error, "files left over from a crash could not be removed");
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
        let until = if failed {
            first + RETRY_INTERVAL
        } else {
            (shared.last_write() + FLUSH_INTERVAL).clamp(first, first + MAX_FLUSH_DELAY)
        };
        if until <= Instant::now() {
            break;
        }
        shared.wake.wait_until(&mut pending, until);
    }
    pending.closing
}
