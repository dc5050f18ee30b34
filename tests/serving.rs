//! The holder's side, with the clock paused: who is served when, and what is left of it afterwards.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use byhash::ids::{BlobRange, ContentHash};
use byhash::transfer::{BlobSource, Direction, FetchError, Priority, ServeConfig, Server, TransferStatus};
use byhash::transport::memory::MemoryNetwork;
use support::{TestNode, ask_and_take_nothing, content, node_id};
use tokio::time::{Instant, sleep};

const MIB: usize = 1 << 20;

/// Bytes a second, where a test limits them.
const RATE: u64 = 20_000_000;

/// Node 1, which sends at most `rate` bytes a second.
fn holder(network: &MemoryNetwork, rate: Option<u64>) -> TestNode {
    let dialer = Arc::new(network.dialer(node_id(1)));
    let server = |store, budget, metrics| Server::new(store, ServeConfig { rate }, budget, metrics);
    TestNode::with_server(network, 1, &[], 1 << 30, dialer, server)
}

/// Starts fetching `count` blobs of 16 MiB, all different from those of other nodes.
fn start_bulk(holder: &TestNode, node: &TestNode, count: u64) -> Vec<tokio::task::JoinHandle<Result<u64, FetchError>>> {
    let seed = u64::from(node.id.as_bytes()[0]) * 1000;
    let start = |i| {
        let hash = holder.hold(&content(seed + i, 16 * MIB));
        let engine = node.engine.clone();
        tokio::spawn(async move { engine.fetch(hash, |_, _| {}).await })
    };
    (0..count).map(start).collect()
}

/// The longest that one of 20 reads of 4 KiB, each of another blob, took.
async fn slowest_small_read(holder: &TestNode, node: &TestNode, seed: u64) -> Duration {
    let mut slowest = Duration::ZERO;
    for i in 0..20 {
        let bytes = content(seed + i, 4096);
        let hash = holder.hold(&bytes);
        let start = Instant::now();
        let size = node.engine.size(hash).await.unwrap();
        let read = node.engine.open(hash, size).read(BlobRange::new(0, 4096), Priority::Foreground).await;
        assert!(read.unwrap() == bytes);
        slowest = slowest.max(start.elapsed());
        sleep(Duration::from_millis(7)).await;
    }
    slowest
}

#[tokio::test(start_paused = true)]
async fn a_small_read_is_not_held_up_by_bulk_of_anybody() {
    let network = MemoryNetwork::new();
    let holder = holder(&network, Some(RATE));
    let (bulky, other) = (TestNode::start(&network, 2, &[1]), TestNode::start(&network, 3, &[1]));
    let bulk = [start_bulk(&holder, &bulky, 8), start_bulk(&holder, &other, 8)];
    sleep(Duration::from_millis(500)).await;
    // One slice of 256 KiB takes 13 ms at this rate; in front of a small read there may be the one that
    // overdrew the rate, and one of the other requester.
    let slice = Duration::from_secs_f64(262_144.0 / RATE as f64);
    let own = slowest_small_read(&holder, &bulky, 50_000).await;
    assert!(own < slice * 3, "beside bulk of its own and of another requester: {own:?}");
    let fresh = TestNode::start(&network, 4, &[1]);
    let fresh = slowest_small_read(&holder, &fresh, 60_000).await;
    assert!(fresh < slice * 2, "of a requester that has nothing else: {fresh:?}");
    bulk.into_iter().flatten().for_each(|fetch| fetch.abort());
}

#[tokio::test(start_paused = true)]
async fn at_a_low_rate_nothing_is_asked_for_twice() {
    let network = MemoryNetwork::new();
    // A segment takes four seconds.
    let holder = holder(&network, Some(64 << 10));
    let reader = TestNode::start(&network, 2, &[1]);
    let bytes = content(90_000, 2 * MIB);
    let hash = holder.hold(&bytes);
    let size = reader.engine.size(hash).await.unwrap();
    let read = reader.engine.open(hash, size).read(BlobRange::new(0, size), Priority::Foreground).await;
    assert!(read.unwrap() == bytes);
    let served = holder.metrics.served_bytes.get();
    assert!(served < size + size / 8, "{served} bytes for {size}");
}

#[tokio::test(start_paused = true)]
async fn requesters_share_a_rate_evenly_however_much_they_ask_for() {
    let network = MemoryNetwork::new();
    let holder = holder(&network, Some(RATE));
    let (greedy, modest) = (TestNode::start(&network, 2, &[1]), TestNode::start(&network, 3, &[1]));
    let bulk = [start_bulk(&holder, &greedy, 8), start_bulk(&holder, &modest, 1)];
    let start = Instant::now();
    sleep(Duration::from_secs(1)).await;
    let got = |node: &TestNode| node.metrics.fetched_bytes.get() as f64;
    let (many, one) = (got(&greedy), got(&modest));
    assert!((0.8..1.25).contains(&(many / one)), "{many} and {one} bytes");
    let rate = (many + one) / start.elapsed().as_secs_f64();
    assert!((0.85..1.05).contains(&(rate / RATE as f64)), "{rate} bytes a second");
    bulk.into_iter().flatten().for_each(|fetch| fetch.abort());
}

#[tokio::test(start_paused = true)]
async fn two_transfers_of_one_requester_end_at_about_the_same_time() {
    let network = MemoryNetwork::new();
    let holder = holder(&network, Some(RATE));
    let node = TestNode::start(&network, 2, &[1]);
    let start = Instant::now();
    let mut ends = Vec::new();
    for fetch in start_bulk(&holder, &node, 2) {
        fetch.await.unwrap().unwrap();
        ends.push(start.elapsed());
    }
    let (first, last) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
    assert!(last.as_secs_f64() < 1.1 * first.as_secs_f64(), "{ends:?}");
    node.assert_at_rest().await;
    holder.assert_at_rest().await;
}

/// The one transfer that `holder` serves, once it does.
async fn served(holder: &TestNode) -> TransferStatus {
    for _ in 0..1000 {
        sleep(Duration::from_millis(5)).await;
        if let [status] = &holder.server.transfers()[..]
            && status.done > 0
        {
            return status.clone();
        }
    }
    panic!("nothing is served");
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_is_listed_under_the_requesters_id_and_can_be_cancelled() {
    let network = MemoryNetwork::new();
    let holder = holder(&network, Some(RATE));
    let node = TestNode::start(&network, 2, &[1]);
    let fetch = start_bulk(&holder, &node, 1).pop().unwrap();
    let status = served(&holder).await;
    assert_eq!((status.direction, status.total), (Direction::Serve, Some(16 * MIB as u64)));
    assert_eq!(status.peers[0].peer, node.id);
    assert_eq!(node.engine.transfers()[0].id, status.id);
    assert!(holder.server.cancel(status.id.parse().unwrap()));
    assert_eq!(fetch.await.unwrap(), Err(FetchError::Unreachable), "its only holder refuses it");
    node.assert_at_rest().await;
    holder.assert_at_rest().await;
    // Another transfer of the same blob is not concerned.
    let hash = status.hash;
    sleep(Duration::from_secs(3)).await;
    assert!(node.engine.fetch(hash, |_, _| {}).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_requester_that_goes_away_is_forgotten_at_once() {
    let network = MemoryNetwork::new();
    let holder = holder(&network, Some(RATE));
    let node = TestNode::start(&network, 2, &[1]);
    let fetch = start_bulk(&holder, &node, 1).pop().unwrap();
    let status = served(&holder).await;
    assert!(node.engine.cancel(status.id.parse().unwrap()));
    assert_eq!(fetch.await.unwrap(), Err(FetchError::Cancelled));
    sleep(Duration::from_millis(100)).await;
    assert_eq!(holder.server.transfers(), []);
    holder.assert_at_rest().await;
    let before = holder.metrics.served_bytes.get();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(holder.metrics.served_bytes.get(), before, "it goes on sending");
}

#[tokio::test(start_paused = true)]
async fn a_peer_gets_only_what_the_policy_lets_it_have_and_a_fault_in_it_leaves_nothing() {
    let network = MemoryNetwork::new();
    let (secret, bytes) = (content(1, MIB), content(2, MIB));
    let (hidden, faulty) = (ContentHash::of(&secret), Arc::new(AtomicBool::new(false)));
    let is_faulty = faulty.clone();
    let policy = move |_: &_, hash: &ContentHash| {
        assert!(!is_faulty.load(Ordering::Relaxed), "a fault, on purpose");
        *hash != hidden
    };
    let dialer = Arc::new(network.dialer(node_id(1)));
    let server = |store, budget, metrics| {
        Server::with_policy(store, ServeConfig::default(), budget, metrics, Some(Arc::new(policy)))
    };
    let holder = TestNode::with_server(&network, 1, &[], 1 << 30, dialer, server);
    holder.hold(&secret);
    let shown = holder.hold(&bytes);
    let node = TestNode::start(&network, 2, &[1]);
    assert_eq!(node.read(hidden, MIB as u64).await, Err(FetchError::NotFound));
    let lane = ask_and_take_nothing(&network.dialer(node_id(3)), node_id(1), hidden, 16384).await;
    sleep(Duration::from_millis(10)).await;
    assert_eq!(holder.metrics.served_not_found.get(), 1, "one who knows the hash is told no more");
    faulty.store(true, Ordering::Relaxed);
    drop(lane);
    let _lane = ask_and_take_nothing(&network.dialer(node_id(3)), node_id(1), shown, 16384).await;
    sleep(Duration::from_millis(10)).await;
    holder.assert_at_rest().await;
    faulty.store(false, Ordering::Relaxed);
    assert!(node.read(shown, MIB as u64).await.unwrap() == bytes);
    holder.assert_at_rest().await;
}
