//! The engine: one fetch task a blob that is wanted, and what they all share.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dashmap::{DashMap, Entry};
use lru::LruCache;
use parking_lot::Mutex;
use rangemap::RangeSet;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::cancelled::Cancelled;
use super::fetch::{self, Command, Destination, Filled};
use super::reader::Reader;
use super::recent::RecentSegments;
use super::status::{Direction, TransferStatus};
use super::table::TransferTable;
use super::{BlobReader, BlobSource, BlobState, BoxFuture, FetchError, Priority, SpaceUsage};
use crate::buffers::BufferBudget;
use crate::holders::{Holders, PIECE_LEN};
use crate::ids::{BlobRange, ContentHash, PeerId, TransferId};
use crate::metrics::Metrics;
use crate::permits::{Permit, Permits};
use crate::store::{Blob, Store, StoreError};
use crate::verify::{group_count, groups_of};
use crate::wire::MAX_RANGE_LEN;

/// Blobs whose proven size is remembered in memory.
const MAX_SIZES: usize = 64 * 1024;

/// Fetch tasks at the same time; whoever needs another waits, the most urgent first. Each is a few
/// kilobytes, and those without work leave at once when half of the places are taken.
const MAX_FETCHES: usize = 16 * 1024;

/// How long cancelled fetches may take at shutdown: what they are writing is written.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// Bytes that [`Engine::fetch`] keeps wanting ahead of what is in the store, in order. Several times
/// what the lanes of a few holders carry at a time: the first piece may be the last to come, and
/// meanwhile nobody should run out of work. Costs no memory.
const FETCH_WINDOW_LEN: u64 = 16 * MAX_RANGE_LEN;

/// What the parts of the engine share.
pub struct Shared {
    pub(super) store: Store,
    pub(super) holders: Arc<Holders>,
    pub(super) budget: BufferBudget,
    pub(super) recent: RecentSegments,
    /// A place for each segment that may lie unwritten.
    pub(super) unwritten: Arc<Semaphore>,
    pub(super) whole_writes: fetch::WholeWrites,
    pub(super) transfers: Arc<TransferTable>,
    pub(super) metrics: Arc<Metrics>,
    sizes: Mutex<LruCache<ContentHash, u64>>,
    pub(super) cancelled: Cancelled,
    fetches: DashMap<ContentHash, mpsc::Sender<Command>>,
    /// A permit a fetch task.
    places: Permits,
    phase: watch::Sender<Phase>,
    warned: AtomicBool,
    /// Blobs checked in the background at the same time: one, for the disk is there for readers.
    pub(super) checking: Arc<Semaphore>,
    /// Blobs checked at the same time at all.
    pub(super) checks: Semaphore,
}

/// How far the engine is from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It fetches what is wanted.
    Open,
    /// What is on its way may come; nothing more is asked for.
    Draining,
    /// Nothing is fetched any more.
    Closed,
}

/// Blobs that are checked at the same time: each keeps a thread of those that read the disk for as long as it takes.
const MAX_CHECKS: usize = 8;

impl Shared {
    /// What the store has of `hash`.
    pub(super) async fn blob(&self, hash: ContentHash) -> Option<Arc<Blob>> {
        self.store.blob_soon(hash).await.ok().flatten()
    }

    /// Remembers a proven size.
    pub(super) fn remember_size(&self, hash: ContentHash, size: u64) {
        self.sizes.lock().put(hash, size);
    }

    /// Notes that the cache could not take something: once in the log.
    pub(super) fn note_store_failure(&self, error: &StoreError) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!("the cache does not take what was fetched; reads go on uncached: {error}");
        }
    }

    /// The size of `hash`, if it is proven.
    fn known_size(&self, hash: &ContentHash) -> Option<u64> {
        if *hash == ContentHash::EMPTY {
            return Some(0);
        }
        if let Some(size) = self.sizes.lock().get(hash) {
            return Some(*size);
        }
        let size = self.store.lookup(hash).ok().flatten()?.size;
        self.remember_size(*hash, size);
        Some(size)
    }

    /// Sends a command to the fetch task of `hash`, starting one if there is none. When the engine is
    /// closing the command is dropped, and with it the sender of its reply.
    async fn command(self: &Arc<Self>, hash: ContentHash, mut command: Command, priority: Priority) {
        while *self.phase.borrow() == Phase::Open {
            let task = match self.task(&hash) {
                Some(task) => task,
                None => self.start_task(hash, self.places.acquire(1, priority).await),
            };
            match task.send(command).await {
                Ok(()) => return,
                Err(unsent) => {
                    command = unsent.0;
                    self.task_ended(&hash);
                }
            }
        }
    }

    /// The fetch task of `hash`, if there is one.
    fn task(&self, hash: &ContentHash) -> Option<mpsc::Sender<Command>> {
        self.fetches.get(hash).filter(|task| !task.is_closed()).map(|task| task.clone())
    }

    /// Starts the fetch task of `hash`, unless somebody else just did.
    fn start_task(self: &Arc<Self>, hash: ContentHash, place: Permit) -> mpsc::Sender<Command> {
        // What the store knows of it the task finds out.
        let size = self.sizes.lock().get(&hash).copied();
        let start = || fetch::spawn(self.clone(), hash, size, place, self.phase.subscribe());
        match self.fetches.entry(hash) {
            Entry::Occupied(mut entry) => {
                if entry.get().is_closed() {
                    entry.insert(start());
                }
                entry.get().clone()
            }
            Entry::Vacant(entry) => entry.insert(start()).clone(),
        }
    }

    /// Whether fetch tasks without work had better leave: others need, or will need, their places.
    pub(super) fn is_crowded(&self) -> bool {
        self.places.available() < MAX_FETCHES / 2
    }

    /// The fetch task of `hash` has ended.
    pub(super) fn task_ended(&self, hash: &ContentHash) {
        self.fetches.remove_if(hash, |_, sender| sender.is_closed());
    }

    /// Wants groups; see [`Command::Want`].
    pub(super) async fn want(
        self: &Arc<Self>,
        hash: ContentHash,
        destination: Option<Destination>,
        left: RangeSet<u64>,
        priority: Priority,
        unreadable: bool,
    ) -> Result<Filled, FetchError> {
        let (reply, answer) = oneshot::channel();
        self.command(hash, Command::Want { destination, left, priority, unreadable, reply }, priority).await;
        answer.await.unwrap_or(Err(FetchError::Cancelled))
    }

    /// Starts fetching `range` ahead, as long as the reader of the token lives. A hint: dropped
    /// when the task has more to do than it can note.
    pub(super) fn prefetch(self: &Arc<Self>, hash: ContentHash, size: u64, range: BlobRange, reader: &Arc<()>) {
        let groups = groups_of(size, range);
        if !groups.is_empty() {
            let command = Command::Prefetch { groups, reader: Arc::downgrade(reader) };
            let start = || Some(self.start_task(hash, self.places.try_acquire(1)?));
            if *self.phase.borrow() == Phase::Open
                && let Some(task) = self.task(&hash).or_else(start)
            {
                let _ = task.try_send(command);
            }
        }
    }
}

/// The transfer engine of a node. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(super) shared: Arc<Shared>,
}

impl Engine {
    /// An engine over `store` that fetches from `holders` into memory of `budget`. Must be used within
    /// a tokio runtime.
    pub fn new(store: Store, holders: Arc<Holders>, budget: BufferBudget, metrics: Arc<Metrics>) -> Self {
        let sizes = NonZeroUsize::new(MAX_SIZES).expect("the constant is not zero");
        let shared = Shared {
            store,
            holders,
            budget,
            recent: RecentSegments::new(metrics.clone()),
            unwritten: Arc::new(Semaphore::new(fetch::MAX_UNWRITTEN)),
            whole_writes: fetch::WholeWrites::default(),
            transfers: TransferTable::new(Direction::Fetch, metrics.clone()),
            metrics,
            sizes: Mutex::new(LruCache::new(sizes)),
            cancelled: Cancelled::default(),
            fetches: DashMap::new(),
            places: Permits::new(MAX_FETCHES),
            phase: watch::Sender::new(Phase::Open),
            warned: AtomicBool::new(false),
            checking: Arc::new(Semaphore::new(1)),
            checks: Semaphore::new(MAX_CHECKS),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The blobs that are being fetched, the oldest transfer first.
    pub fn transfers(&self) -> Vec<TransferStatus> {
        self.shared.transfers.list()
    }

    /// Ends the transfer with this id: exchanges are broken off, and whoever waits for bytes of it is
    /// told [`FetchError::Cancelled`], for some time also who has the blob open and does not wait just now. False if
    /// there is none. Other reads begin a new one.
    pub fn cancel(&self, id: TransferId) -> bool {
        let cancelled = self.shared.transfers.cancel(id);
        if let Some(hash) = cancelled {
            self.shared.cancelled.note(hash, Instant::now());
        }
        cancelled.is_some()
    }

    /// Ends fetching: nothing new is asked for, what is on its way may still come for `drain`, the rest
    /// is broken off. Whoever waits for what does not come, or wants something later, is told
    /// [`FetchError::Cancelled`]; what is in memory or in the store can still be read.
    pub async fn close(&self, drain: Duration) {
        let phase = &self.shared.phase;
        phase.send_replace(Phase::Draining);
        // Each fetch task holds a receiver.
        if timeout(drain, phase.closed()).await.is_err() {
            tracing::info!("{} fetches did not end in time and are broken off", self.shared.fetches.len());
            phase.send_replace(Phase::Closed);
            let _ = timeout(CLOSE_DEADLINE, phase.closed()).await;
        }
    }

    /// Returns when all that has come by now of `hashes` (`None`: of all blobs), which readers may have got already, is in
    /// the store, or never will be.
    pub async fn land(&self, hashes: Option<&[ContentHash]>) {
        let shared = &self.shared;
        let tasks: Vec<_> = match hashes {
            Some(hashes) => hashes.iter().filter_map(|hash| shared.task(hash)).collect(),
            None => shared.fetches.iter().map(|task| task.value().clone()).collect(),
        };
        let mut landing = Vec::with_capacity(tasks.len());
        for task in tasks {
            let (reply, landed) = oneshot::channel();
            // A task that has ended had nothing left to do.
            landing.extend(task.send(Command::Land(reply)).await.is_ok().then_some(landed));
        }
        for landed in landing {
            let _ = landed.await;
        }
    }

    /// Fetches what is missing of a blob into the store and returns when it is complete there.
    /// `progress` is told how many bytes of the size are done.
    ///
    /// # Errors
    /// As for reads. When the store cannot take the blob, the fetch ends early and without an error;
    /// whether the blob is held is for [`BlobSource::state`] to say.
    pub async fn fetch(&self, hash: ContentHash, progress: impl Fn(u64, u64)) -> Result<u64, FetchError> {
        self.fetch_as(Priority::Prefetch, hash, progress).await
    }

    /// [`Engine::fetch`] as urgently as `priority` says.
    pub(super) async fn fetch_as(
        &self,
        priority: Priority,
        hash: ContentHash,
        progress: impl Fn(u64, u64),
    ) -> Result<u64, FetchError> {
        let size = self.size(hash).await?;
        let token = Arc::new(());
        let (groups, mut done, mut asked) = (group_count(size), 0, 0);
        let step = PIECE_LEN / crate::verify::GROUP_LEN;
        while done < groups && size > 0 {
            let end = groups.min(done + step);
            let start = done * crate::verify::GROUP_LEN;
            if end < groups {
                // Each group is asked for once: what the store does not take would come again.
                let window = BlobRange::new(start.max(asked), start + FETCH_WINDOW_LEN);
                self.shared.prefetch(hash, size, window, &token);
                asked = window.end;
            }
            let left = RangeSet::from_iter(std::iter::once(done..end));
            self.shared.want(hash, None, left, priority, false).await?;
            if !self.shared.blob(hash).await.is_some_and(|blob| blob.has(done..end)) {
                // The store does not take it. There is no use in fetching the rest.
                break;
            }
            done = end;
            progress((done * crate::verify::GROUP_LEN).min(size), size);
        }
        Ok(size)
    }
}

impl Engine {
    /// Fetches what is missing of `groups` of a blob into the store, after everything that anybody has
    /// asked for. When the store cannot take it, the fetch ends early and without an error.
    ///
    /// # Errors
    /// As for reads.
    pub async fn mend(&self, hash: ContentHash, groups: &[(u64, u64)]) -> Result<(), FetchError> {
        let count = group_count(self.size(hash).await?);
        let step = PIECE_LEN / crate::verify::GROUP_LEN;
        for (start, end) in groups.iter().map(|(start, end)| (*start, count.min(*end))) {
            for at in (start..end).step_by(step as usize) {
                let part = at..end.min(at + step);
                let missing =
                    self.shared.blob(hash).await.map_or_else(|| vec![part.clone()], |blob| blob.missing(part.clone()));
                if missing.is_empty() {
                    continue;
                }
                self.shared.want(hash, None, missing.into_iter().collect(), Priority::Scrub, false).await?;
                if !self.shared.blob(hash).await.is_some_and(|blob| blob.has(part)) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl BlobSource for Engine {
    fn known_size(&self, hash: &ContentHash) -> Option<u64> {
        self.shared.known_size(hash)
    }

    fn size(&self, hash: ContentHash) -> BoxFuture<'_, Result<u64, FetchError>> {
        Box::pin(async move {
            if let Some(size) = self.shared.known_size(&hash) {
                return Ok(size);
            }
            let (reply, answer) = oneshot::channel();
            self.shared.command(hash, Command::Size(reply), Priority::Foreground).await;
            answer.await.unwrap_or(Err(FetchError::Cancelled))
        })
    }

    fn open(&self, hash: ContentHash, size: u64) -> Arc<dyn BlobReader> {
        Arc::new(Reader::new(self.shared.clone(), hash, size))
    }

    fn is_whole(&self, hash: &ContentHash) -> bool {
        self.has_whole(hash)
    }

    fn make_whole(&self, hash: ContentHash) -> BoxFuture<'_, Result<bool, FetchError>> {
        Box::pin(self.make_it_whole(hash))
    }

    fn check_soon(&self, hash: ContentHash) {
        self.check_in_background(hash);
    }

    fn held_bytes(&self, hash: &ContentHash) -> u64 {
        self.shared.store.lookup(hash).ok().flatten().map_or(0, |info| info.held_bytes)
    }

    fn progress(&self, hash: &ContentHash) -> u64 {
        let (done, asked) = self.shared.transfers.progress(hash);
        done.wrapping_add(self.shared.holders.fetched_from(&asked))
    }

    fn state(&self, hash: &ContentHash) -> BlobState {
        if *hash == ContentHash::EMPTY {
            return BlobState::Complete;
        }
        match self.shared.store.lookup(hash) {
            Ok(Some(info)) if info.complete => BlobState::Complete,
            Ok(Some(_)) => BlobState::Partial,
            Ok(None) | Err(_) => BlobState::Absent,
        }
    }

    fn known_holders(&self, hash: &ContentHash) -> Vec<PeerId> {
        self.shared.holders.known_holders(hash)
    }

    fn complete_blobs(&self, after: Option<ContentHash>, limit: usize) -> Vec<(ContentHash, u64)> {
        self.shared.store.complete_blobs(after, limit).unwrap_or_else(|error| {
            tracing::error!("the index cannot be read: {error}");
            Vec::new()
        })
    }

    fn usage(&self) -> SpaceUsage {
        let usage = self.shared.store.usage();
        SpaceUsage { capacity: usage.capacity, used: usage.used, available: usage.available, blobs: usage.blobs }
    }
}
