//! What a reader waits for goes before what is only fetched ahead, on every lane. Times are simulated.

mod support;

use std::sync::Arc;
use std::time::Duration;

use byhash::ids::{BlobRange, ContentHash};
use byhash::transfer::{BlobSource, FetchError, Priority};
use byhash::transport::memory::MemoryNetwork;
use support::slow::{Link, SlowDialer};
use support::{TestNode, content, node_id};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

const MIB: usize = 1 << 20;

/// Bytes a second of the node's link.
const RATE: u64 = 10_000_000;

/// A node on a link to one holder.
fn pair() -> (TestNode, TestNode) {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let dialer = SlowDialer::new(network.dialer(node_id(2)), Link::new(Duration::from_millis(1), RATE));
    let node = TestNode::with_dialer(&network, 2, &[1], 1 << 30, Arc::new(dialer));
    (holder, node)
}

/// Starts fetching eight blobs of 16 MiB ahead of any reader: each lane for bulk has a queue.
fn start_bulk(holder: &TestNode, node: &TestNode) -> Vec<JoinHandle<Result<u64, FetchError>>> {
    let start = |seed| {
        let (hash, engine) = (holder.hold(&content(seed, 16 * MIB)), node.engine.clone());
        tokio::spawn(async move { engine.fetch(hash, |_, _| {}).await })
    };
    (1..9).map(start).collect()
}

async fn time_of_read(node: &TestNode, hash: ContentHash, range: BlobRange) -> Duration {
    let start = Instant::now();
    let reader = node.open(hash).await.unwrap();
    reader.read(range, Priority::Foreground).await.unwrap();
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_reader_overtakes_what_is_fetched_ahead_however_much_it_reads() {
    let (holder, node) = pair();
    // The link brings 1 MiB in 105 ms, and what a reader waits for has eight times the weight of the rest.
    for (seed, len, limit) in [(20, 4096, 60), (21, MIB, 300), (22, 4 * MIB, 1200)] {
        let bulk = start_bulk(&holder, &node);
        sleep(Duration::from_secs(1)).await;
        let hash = holder.hold(&content(seed, len));
        let took = time_of_read(&node, hash, BlobRange::new(0, len as u64)).await;
        assert!(took < Duration::from_millis(limit), "{len} bytes took {took:?}");
        bulk.iter().for_each(JoinHandle::abort);
        node.assert_at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_lane_is_taken_back_when_a_reader_wants_it() {
    let (holder, node) = pair();
    let hash = holder.hold(&content(30, 8 * MIB));
    // Its size is known, and its first lane is open.
    node.engine.size(hash).await.unwrap();
    let bulk = start_bulk(&holder, &node);
    sleep(Duration::from_secs(1)).await;
    let engine = node.engine.clone();
    let last = tokio::spawn(async move { engine.fetch(hash, |_, _| {}).await });
    sleep(Duration::from_millis(100)).await;
    let fetched = node.engine.transfers().into_iter().find(|transfer| transfer.hash == hash).unwrap();
    assert_eq!(fetched.done, 0, "it waits behind the others");
    let took = time_of_read(&node, hash, BlobRange::new(MIB as u64, 2 * MIB as u64)).await;
    assert!(took < Duration::from_millis(300), "{took:?}");
    bulk.iter().for_each(JoinHandle::abort);
    last.await.unwrap().unwrap();
    node.assert_at_rest().await;
}
