//! However a transfer ends, on either side: no entry, task, lane or byte of memory stays behind.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use byhash::ids::{BlobRange, ContentHash, TransferId};
use byhash::transfer::{BlobSource, FetchError, Priority, ServeConfig, Server};
use byhash::transport::memory::{Fault, MemoryNetwork};
use support::slow::{Link, SlowDialer};
use support::{TestNode, content, node_id};
use tokio::time::{Instant, sleep};

const MIB: usize = 1 << 20;
const LEN: usize = 16 * MIB;

/// Bytes a second between the two nodes: the blob takes 1.6 s.
const RATE: u64 = 10_000_000;

/// A holder, and a node on a link to it.
struct Pair {
    network: MemoryNetwork,
    holder: TestNode,
    node: TestNode,
    bytes: Vec<u8>,
    hash: ContentHash,
}

impl Pair {
    fn new() -> Self {
        Self::with_server(|store, budget, metrics| Server::new(store, ServeConfig::default(), budget, metrics))
    }

    fn with_server(
        server: impl FnOnce(
            byhash::store::Store,
            byhash::buffers::BufferBudget,
            Arc<byhash::metrics::Metrics>,
        ) -> Arc<Server>,
    ) -> Self {
        let network = MemoryNetwork::new();
        let dialer = Arc::new(network.dialer(node_id(1)));
        let holder = TestNode::with_server(&network, 1, &[], 1 << 30, dialer, server);
        let link = Link::new(Duration::from_millis(1), RATE);
        let dialer = Arc::new(SlowDialer::new(network.dialer(node_id(2)), link));
        let node = TestNode::with_dialer(&network, 2, &[1], 1 << 30, dialer);
        let bytes = content(1, LEN);
        let hash = holder.hold(&bytes);
        Self { network, holder, node, bytes, hash }
    }

    /// Starts fetching the blob, and comes back when a part of it has come.
    async fn start(&self) -> tokio::task::JoinHandle<Result<u64, FetchError>> {
        let (engine, hash) = (self.node.engine.clone(), self.hash);
        let fetch = tokio::spawn(async move { engine.fetch(hash, |_, _| {}).await });
        sleep(Duration::from_millis(500)).await;
        assert!(!fetch.is_finished() && self.node.metrics.fetched_bytes.get() > 0);
        assert!(self.node.metrics.budget_used_bytes.get() > 0 && self.node.metrics.fetch_tasks.get() == 1);
        assert!(!self.holder.server.transfers().is_empty());
        fetch
    }

    async fn assert_at_rest(&self) {
        self.node.assert_at_rest().await;
        self.holder.assert_at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_success() {
    let pair = Pair::new();
    assert_eq!(pair.start().await.await.unwrap(), Ok(LEN as u64));
    assert!(pair.node.read(pair.hash, MIB as u64).await.unwrap() == pair.bytes);
    pair.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn after_not_found() {
    let pair = Pair::new();
    assert_eq!(pair.node.engine.size(ContentHash::of(b"nobody has it")).await, Err(FetchError::NotFound));
    pair.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_timeout() {
    let pair = Pair::new();
    let fetch = pair.start().await;
    pair.network.set_fault(node_id(1), Fault::BlackHole);
    assert!(matches!(fetch.await.unwrap(), Err(FetchError::TimedOut | FetchError::Unreachable)));
    pair.node.assert_at_rest().await;
    // What the holder was still sending ends when the network says that nobody takes it.
    pair.network.cut(node_id(1));
    pair.network.set_fault(node_id(1), Fault::None);
    pair.holder.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_reset() {
    let pair = Pair::new();
    let fetch = pair.start().await;
    pair.network.set_fault(node_id(1), Fault::Refuse);
    pair.network.cut(node_id(1));
    assert_eq!(fetch.await.unwrap(), Err(FetchError::Unreachable));
    pair.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_cancel_and_the_holder_stops_at_once() {
    let pair = Pair::new();
    let fetch = pair.start().await;
    let id: TransferId = pair.node.engine.transfers()[0].id.parse().unwrap();
    assert!(pair.node.engine.cancel(id));
    assert_eq!(fetch.await.unwrap(), Err(FetchError::Cancelled));
    let (sent, start) = (pair.holder.metrics.served_bytes.get(), Instant::now());
    pair.holder.assert_at_rest().await;
    assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
    let more = pair.holder.metrics.served_bytes.get() - sent;
    assert!(more <= 4 * 256 * 1024, "{more} bytes sent after the end");
    pair.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_cancel_by_the_holder() {
    let pair = Pair::new();
    let fetch = pair.start().await;
    let id: TransferId = pair.holder.server.transfers()[0].id.parse().unwrap();
    assert!(pair.holder.server.cancel(id));
    assert!(fetch.await.unwrap().is_err());
    pair.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn after_the_reader_went_away() {
    let pair = Pair::new();
    let reader = pair.node.open(pair.hash).await.unwrap();
    reader.prefetch(BlobRange::new(0, LEN as u64));
    let read = reader.read(BlobRange::new(LEN as u64 - 1, LEN as u64), Priority::Foreground);
    assert!(tokio::time::timeout(Duration::from_millis(300), read).await.is_ok());
    drop(reader);
    let start = Instant::now();
    pair.holder.assert_at_rest().await;
    assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
    assert!(pair.node.metrics.fetched_bytes.get() < LEN as u64 / 2);
    pair.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn after_the_requester_shut_down() {
    let pair = Pair::new();
    let fetch = pair.start().await;
    let (before, start) = (pair.node.metrics.fetched_bytes.get(), Instant::now());
    pair.node.engine.close(Duration::from_secs(4)).await;
    // What had been asked for came, and no more was asked for.
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert!(pair.node.metrics.fetched_bytes.get() > before);
    assert_eq!(pair.node.metrics.exchanges_failed.get(), 0);
    let _ = fetch.await.unwrap();
    let unknown = pair.node.engine.size(ContentHash::of(b"something new")).await;
    assert_eq!(unknown, Err(FetchError::Cancelled), "nothing new is begun");
    pair.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_lane_at_shutdown_is_not_asked_for() {
    let pair = Pair::new();
    let start = |seed| {
        let (hash, engine) = (pair.holder.hold(&content(seed, LEN)), pair.node.engine.clone());
        tokio::spawn(async move { engine.fetch(hash, |_, _| {}).await })
    };
    let fetches: Vec<_> = (10..18).map(start).collect();
    sleep(Duration::from_millis(500)).await;
    let start = Instant::now();
    pair.node.engine.close(Duration::from_secs(10)).await;
    // Four lanes with 4 MiB each at most, at 10 MB/s.
    assert!(start.elapsed() < Duration::from_millis(1800), "{:?}", start.elapsed());
    for fetch in fetches {
        assert_eq!(fetch.await.unwrap(), Err(FetchError::Cancelled));
    }
    assert_eq!(pair.node.metrics.exchanges_failed.get(), 0);
    pair.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn after_the_requester_shut_down_while_its_holder_is_silent() {
    let pair = Pair::new();
    let fetch = pair.start().await;
    pair.network.set_fault(node_id(1), Fault::BlackHole);
    let start = Instant::now();
    pair.node.engine.close(Duration::from_secs(2)).await;
    assert!(start.elapsed() <= Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!(fetch.await.unwrap(), Err(FetchError::Cancelled));
    pair.node.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn after_the_holder_shut_down() {
    let pair = Pair::new();
    let fetch = pair.start().await;
    pair.holder.stop_serving();
    // The exchanges under way are answered to their end; then nobody is left to ask.
    let before = pair.node.metrics.fetched_bytes.get();
    assert_eq!(fetch.await.unwrap(), Err(FetchError::Unreachable));
    assert!(pair.node.metrics.fetched_bytes.get() - before > MIB as u64);
    pair.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_panic_of_the_task_that_serves() {
    let faulty = Arc::new(AtomicBool::new(false));
    let pair = Pair::with_server({
        let faulty = faulty.clone();
        let policy = move |_: &_, _: &_| {
            assert!(!faulty.load(Ordering::Relaxed), "a fault of the program, for this test");
            true
        };
        |store, budget, metrics| {
            Server::with_policy(store, ServeConfig::default(), budget, metrics, Some(Arc::new(policy)))
        }
    });
    let fetch = pair.start().await;
    faulty.store(true, Ordering::Relaxed);
    assert_eq!(fetch.await.unwrap(), Err(FetchError::Unreachable));
    faulty.store(false, Ordering::Relaxed);
    pair.assert_at_rest().await;
    // And the server goes on.
    assert!(pair.node.read(pair.hash, MIB as u64).await.unwrap() == pair.bytes);
    pair.assert_at_rest().await;
}
