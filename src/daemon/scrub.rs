//! Scrubbing in the background: all that is held is checked, slowly, once a day, and damage mended.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rangemap::RangeSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::mend::{MendError, mend};
use super::scrub_position::{At, Position};
use super::status::ScrubStatus;
use crate::ids::ContentHash;
use crate::store::{HeldBlob, Origin, Page, Store, StoreError};
use crate::transfer::Engine;

/// Bytes that are checked before a pause (1 MiB).
const STEP: u64 = 1 << 20;

/// What a blob counts for at least, in bytes: opening it costs more than reading it, if it is small.
const MIN_COST: u64 = 16 << 10;

/// Blobs that are looked up at a time; how far it is, is noted after each time.
const PAGE_LEN: usize = 64;

/// How long it leaves the store alone after the index could not be read.
const RETRY_INTERVAL: Duration = Duration::from_secs(600);

/// The scrubber of a node.
pub(super) struct Scrubber {
    engine: Engine,
    store: Store,
    rate: u64,
    /// The file that says where the last pass was when the node ended.
    position: PathBuf,
    status: Mutex<ScrubStatus>,
    /// The groups that were found damaged and could not be fetched again, by blob.
    unmended: Mutex<HashMap<ContentHash, RangeSet<u64>>>,
}

impl Scrubber {
    /// A scrubber that checks `rate` bytes a second at most and begins where `position` says.
    pub fn new(engine: Engine, store: Store, rate: u64, position: PathBuf) -> Arc<Self> {
        let status = Mutex::new(ScrubStatus { rate, ..ScrubStatus::default() });
        Arc::new(Self { engine, store, rate, position, status, unmended: Mutex::default() })
    }

    /// How far it is.
    pub fn status(&self) -> ScrubStatus {
        self.status.lock().clone()
    }

    /// Goes through the store again and again, until it is dropped.
    pub async fn run(self: Arc<Self>) {
        let mut position = Position::load(&self.position).unwrap_or_else(Position::beginning);
        loop {
            if position.is_through() {
                self.status.lock().resting = true;
                sleep(position.until_next_pass()).await;
                position = Position::beginning();
            }
            {
                let mut status = self.status.lock();
                (status.checked_blobs, status.checked_bytes, status.resting) = (0, 0, false);
            }
            match self.pass(&mut position).await {
                Ok(()) => {
                    let status = {
                        let mut status = self.status.lock();
                        status.passes += 1;
                        status.clone()
                    };
                    tracing::info!(blobs = status.checked_blobs, bytes = status.checked_bytes, "scrubbing is through");
                }
                Err(error) => {
                    tracing::error!("scrubbing pauses: {error}");
                    sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    /// Checks all blobs behind `position`.
    async fn pass(&self, position: &mut Position) -> Result<(), StoreError> {
        while let At::Behind(after) = position.at {
            let store = self.store.clone();
            let Page { blobs, next } = blocking(move || store.list(after, PAGE_LEN)).await?;
            for blob in &blobs {
                self.scrub(blob).await?;
                self.status.lock().checked_blobs += 1;
            }
            // What is not listed where it would stand has been removed.
            let is_listed = |hash: &ContentHash| blobs.iter().any(|blob| blob.hash == *hash);
            let in_page =
                |hash: &ContentHash| after.is_none_or(|after| *hash > after) && next.is_none_or(|next| *hash <= next);
            self.note_unmended(|unmended| unmended.retain(|hash, _| !in_page(hash) || is_listed(hash)));
            position.at = next.map_or(At::Through, |next| At::Behind(Some(next)));
            if let Err(error) = position.save(&self.position) {
                tracing::warn!("{} cannot be written: {error}", self.position.display());
            }
        }
        Ok(())
    }

    /// Checks one blob, at the rate that is allowed, and mends it. A file of the user's that has changed or is gone
    /// is the user's affair: nothing is fetched in its place, and it counts only when that is found out.
    async fn scrub(&self, blob: &HeldBlob) -> Result<(), StoreError> {
        let hash = blob.hash;
        let (mut from, mut damaged, mut mended, mut failure) = (Some(0), 0, false, None);
        // What was found before; of what was merely fetched, only this node knows.
        let mut found_before = self.unmended.lock().get(&hash).cloned().unwrap_or_default();
        let mut lacking = RangeSet::new();
        while let Some(group) = from {
            let began = Instant::now();
            let store = self.store.clone();
            let Some(scrubbed) = blocking(move || store.scrub(&hash, group, STEP)).await? else { break };
            self.status.lock().checked_bytes += scrubbed.checked;
            from = scrubbed.next;
            if let Some(reason) = &scrubbed.failure {
                tracing::warn!(%hash, "scrubbing leaves out a blob: {reason}");
            }
            self.status.lock().damaged_bytes += scrubbed.dropped_bytes;
            damaged += scrubbed.dropped_bytes;
            let mut to_mend = std::mem::take(&mut found_before);
            to_mend.extend(scrubbed.to_mend().into_iter().map(|(start, end)| start..end));
            // It may have been added again in another way.
            if !to_mend.is_empty() && scrubbed.origin != Origin::Reference {
                match self.mend(hash, &to_mend, scrubbed.pinned).await {
                    Ok(()) => mended = true,
                    Err(error) => {
                        lacking.extend(to_mend);
                        failure = failure.or(Some(error));
                    }
                }
            }
            let cost = scrubbed.checked.max(MIN_COST);
            sleep_until(began + Duration::from_secs_f64(cost as f64 / self.rate as f64)).await;
        }
        self.note_unmended(|unmended| match failure {
            None => drop(unmended.remove(&hash)),
            Some(_) => drop(unmended.insert(hash, lacking)),
        });
        match failure {
            None if !mended => {}
            None => {
                tracing::info!(%hash, bytes = damaged, "what scrubbing found damaged, now or before, was fetched again")
            }
            Some(error) => {
                tracing::error!(%hash, bytes = damaged, "damage cannot be mended, which the next pass tries again: {error}");
            }
        }
        Ok(())
    }

    async fn mend(&self, hash: ContentHash, groups: &RangeSet<u64>, pinned: bool) -> Result<(), MendError> {
        let groups: Vec<_> = groups.iter().map(|range| (range.start, range.end)).collect();
        mend(&self.engine, &self.store, hash, &groups, pinned).await
    }

    fn note_unmended(&self, change: impl FnOnce(&mut HashMap<ContentHash, RangeSet<u64>>)) {
        let mut unmended = self.unmended.lock();
        change(&mut unmended);
        self.status.lock().unmended_blobs = unmended.len() as u64;
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(StoreError::Said(error.to_string())))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::buffers::BufferBudget;
    use crate::holders::Holders;
    use crate::ids::PeerId;
    use crate::metrics::Metrics;
    use crate::store::Config;
    use crate::store::import::{Batch, Source};
    use crate::transport::memory::MemoryNetwork;

    /// A store in `dir` with `count` blobs of `len` bytes.
    fn store_of(dir: &Path, count: u8, len: usize) -> Store {
        let config = Config { dir: dir.join("cache"), capacity: 1 << 30, keep_free: 0 };
        let store = Store::open(config, Arc::default()).unwrap();
        let mut batch = Batch::create(&dir.join("cache")).unwrap();
        for seed in 0..count {
            let content = vec![seed; len];
            batch.stage(Source::Stream(&mut &content[..]), &mut |_, _| Ok(()), &|_| {}).unwrap();
        }
        batch.sync().unwrap();
        assert!(store.adopt_all(batch.blobs()).iter().all(Result::is_ok));
        store
    }

    /// A scrubber of `store` that keeps its position in `dir`.
    fn scrubber_of(store: &Store, dir: &Path, rate: u64) -> Arc<Scrubber> {
        let metrics = Arc::new(Metrics::default());
        let dialer = Arc::new(MemoryNetwork::new().dialer(PeerId::from_bytes([1; 32])));
        let budget = BufferBudget::new(metrics.clone());
        let holders = Holders::new(Vec::new(), dialer, budget.clone(), metrics.clone());
        let engine = Engine::new(store.clone(), holders, budget, metrics);
        Scrubber::new(engine, store.clone(), rate, dir.join("position"))
    }

    /// The clock stands while the disk is read, so that only waiting takes time.
    #[tokio::test(start_paused = true)]
    async fn no_more_is_checked_in_a_second_than_the_rate_says() {
        const MB: u64 = 1_000_000;
        let dir = tempfile::tempdir().unwrap();
        // A blob is a step.
        let store = store_of(dir.path(), 10, MB as usize);
        let scrubber = scrubber_of(&store, dir.path(), MB);
        let running = tokio::spawn(scrubber.clone().run());
        let began = Instant::now();
        for second in 0..10 {
            sleep_until(began + Duration::from_secs(second) + Duration::from_millis(500)).await;
            let status = scrubber.status();
            assert_eq!((status.checked_bytes, status.passes), ((second + 1) * MB, 0), "{second}");
        }
        sleep(Duration::from_secs(1)).await;
        assert_eq!((scrubber.status().passes, scrubber.status().resting), (1, true));
        running.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_goes_on_from_the_last_page() {
        const REST: u64 = 36;
        let dir = tempfile::tempdir().unwrap();
        // At this rate each takes a second, however small it is.
        let store = store_of(dir.path(), PAGE_LEN as u8 + REST as u8, 100);
        let scrubber = scrubber_of(&store, dir.path(), MIN_COST);
        let running = tokio::spawn(scrubber.clone().run());
        // Some way into the second page.
        sleep(Duration::from_millis(PAGE_LEN as u64 * 1000 + 5500)).await;
        assert_eq!(scrubber.status().checked_blobs, PAGE_LEN as u64 + 5);
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
        let scrubber = scrubber_of(&store, dir.path(), MIN_COST);
        let running = tokio::spawn(scrubber.clone().run());
        sleep(Duration::from_millis(REST * 1000 + 500)).await;
        let status = scrubber.status();
        assert_eq!((status.checked_blobs, status.passes, status.resting), (REST, 1, true));
        running.abort();
    }
}
