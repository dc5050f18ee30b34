//! What the tests of the engine share: nodes on a network in memory, and holders that misbehave.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod breaking;
pub mod hostile;
pub mod modest;
pub mod slow;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use byhash::buffers::{BUDGET_LEN, BufferBudget};
use byhash::holders::Holders;
use byhash::ids::{BlobRange, ContentHash, PeerId, TransferId};
use byhash::metrics::Metrics;
use byhash::store::import::{Source, stage};
use byhash::store::{Config, Store};
use byhash::transfer::{BlobReader, BlobSource, Engine, FetchError, Priority, ServeConfig, Server};
use byhash::transport::memory::{MemoryDialer, MemoryNetwork};
use byhash::transport::{BoxLane, Dialer, write_message};
use byhash::wire::{GROUP_LEN, Message, Request};
use tokio::sync::watch;
use tokio::time::timeout;

/// Bytes that no compressor or accident makes: the output of BLAKE3 for `seed`.
pub fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// The id of the node with this number.
pub fn node_id(number: u8) -> PeerId {
    PeerId::from_bytes([number; 32])
}

/// Asks for the first `len` bytes of a blob over a new lane, and leaves the answer there.
pub async fn ask_and_take_nothing(dialer: &MemoryDialer, holder: PeerId, hash: ContentHash, len: u64) -> BoxLane {
    let mut lane = dialer.dial(&MemoryNetwork::spec(holder)).await.unwrap();
    let (transfer_id, len) = (TransferId::next(), len.next_multiple_of(GROUP_LEN));
    let request = Request { transfer_id, hash, start: 0, len, weight: 1, prove_size: false };
    write_message(&mut lane, &Message::Request(request)).await.unwrap();
    lane
}

/// A directory that goes when it is dropped; in memory where there is such a file system, since what is
/// tested is not the disk.
fn scratch_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A node of a memory network, with a store of its own.
pub struct TestNode {
    pub id: PeerId,
    pub store: Store,
    pub engine: Engine,
    pub server: Arc<Server>,
    pub metrics: Arc<Metrics>,
    pub holders: Arc<Holders>,
    pub budget: BufferBudget,
    stop: watch::Sender<bool>,
    _dir: tempfile::TempDir,
}

impl TestNode {
    /// Node `number`, which serves and knows `peers`.
    pub fn start(network: &MemoryNetwork, number: u8, peers: &[u8]) -> Self {
        Self::with_capacity(network, number, peers, 1 << 30)
    }

    /// The same with a cache of `capacity` bytes.
    pub fn with_capacity(network: &MemoryNetwork, number: u8, peers: &[u8], capacity: u64) -> Self {
        let dialer = Arc::new(network.dialer(node_id(number)));
        Self::with_dialer(network, number, peers, capacity, dialer)
    }

    /// The same that dials its own way.
    pub fn with_dialer(
        network: &MemoryNetwork,
        number: u8,
        peers: &[u8],
        capacity: u64,
        dialer: Arc<dyn Dialer>,
    ) -> Self {
        Self::with_server(network, number, peers, capacity, dialer, |store, budget, metrics| {
            Server::new(store, ServeConfig::default(), budget, metrics)
        })
    }

    /// The same that serves its own way.
    pub fn with_server(
        network: &MemoryNetwork,
        number: u8,
        peers: &[u8],
        capacity: u64,
        dialer: Arc<dyn Dialer>,
        server: impl FnOnce(Store, BufferBudget, Arc<Metrics>) -> Arc<Server>,
    ) -> Self {
        let dir = scratch_dir();
        let (id, metrics) = (node_id(number), Arc::new(Metrics::default()));
        let config = Config { dir: dir.path().to_owned(), capacity, keep_free: 0 };
        let store = Store::open(config, metrics.clone()).unwrap();
        let specs = peers.iter().map(|peer| MemoryNetwork::spec(node_id(*peer))).collect();
        let budget = BufferBudget::new(metrics.clone());
        let holders = Holders::new(specs, dialer, budget.clone(), metrics.clone());
        let engine = Engine::new(store.clone(), holders.clone(), budget.clone(), metrics.clone());
        let (stop, stopped) = watch::channel(false);
        let server = server(store.clone(), budget.clone(), metrics.clone());
        tokio::spawn(server.clone().run(network.listen(id), stopped));
        Self { id, store, engine, server, metrics, holders, budget, stop, _dir: dir }
    }

    /// The directory of its store.
    pub fn dir(&self) -> &Path {
        self._dir.path()
    }

    /// Puts `bytes` into its store.
    pub fn hold(&self, bytes: &[u8]) -> ContentHash {
        let staged = stage(self.dir(), Source::Stream(&mut &bytes[..]), &|_| {}).unwrap();
        self.store.adopt(staged.blob()).unwrap();
        ContentHash::of(bytes)
    }

    /// Opens a blob, asking peers for its size.
    pub async fn open(&self, hash: ContentHash) -> Result<Arc<dyn BlobReader>, FetchError> {
        let size = self.engine.size(hash).await?;
        Ok(self.engine.open(hash, size))
    }

    /// Reads a whole blob in pieces of `step` bytes.
    pub async fn read(&self, hash: ContentHash, step: u64) -> Result<Vec<u8>, FetchError> {
        self.read_each_within(hash, step, Duration::MAX).await.expect("there is no limit")
    }

    /// The same; `None` if the size or one of the pieces takes longer than `limit`.
    pub async fn read_each_within(
        &self,
        hash: ContentHash,
        step: u64,
        limit: Duration,
    ) -> Option<Result<Vec<u8>, FetchError>> {
        let reader = match timeout(limit, self.open(hash)).await.ok()? {
            Ok(reader) => reader,
            Err(error) => return Some(Err(error)),
        };
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < reader.size() {
            let at = bytes.len() as u64;
            let range = BlobRange::new(at, at + step);
            match timeout(limit, reader.read(range, Priority::Foreground)).await.ok()? {
                Ok(piece) => bytes.extend_from_slice(&piece),
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(bytes))
    }

    /// Waits until nothing is under way any more, and checks that nothing was left behind: no entry in a
    /// table, no task, no lane in use, no byte of the budget but those of the segments remembered.
    pub async fn assert_at_rest(&self) {
        for _ in 0..400 {
            if self.left_behind().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("left behind by node {}: {}", self.id.short(), self.left_behind().join("; "));
    }

    fn left_behind(&self) -> Vec<String> {
        let metrics = &self.metrics;
        let counts = [
            ("exchanges", metrics.transfers_pending.get()),
            ("exchanges served", metrics.serving_pending.get()),
            ("fetch tasks", metrics.fetch_tasks.get()),
            ("lanes in use", self.holders.snapshots().iter().map(|peer| peer.lanes_in_use as u64).sum()),
            ("bytes of the budget", metrics.budget_used_bytes.get() - metrics.recent_bytes.get()),
            ("bytes taken", (BUDGET_LEN - self.budget.available()) as u64 - metrics.recent_bytes.get()),
        ];
        let mut left: Vec<_> =
            counts.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{count} {name}")).collect();
        left.extend(self.engine.transfers().iter().map(|transfer| format!("{transfer:?}")));
        left.extend(self.server.transfers().iter().map(|transfer| format!("{transfer:?}")));
        left
    }

    /// Tells its server to end.
    pub fn stop_serving(&self) {
        let _ = self.stop.send(true);
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}
