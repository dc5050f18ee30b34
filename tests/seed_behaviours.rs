//! What the published tests of the seed's engine check, on this one.

mod support;

use std::sync::Arc;
use std::time::Duration;

use byhash::ids::ContentHash;
use byhash::transfer::{BlobSource, BlobState, FetchError};
use byhash::transport::memory::MemoryNetwork;
use support::breaking::BreakingDialer;
use support::slow::{Link, SlowDialer};
use support::{TestNode, content, node_id};
use tokio::task::JoinSet;
use tokio::time::Instant;

const MIB: usize = 1 << 20;

/// How many blobs of a tree are fetched at the same time.
const TREE_READERS: usize = 8;

fn pair() -> (TestNode, TestNode) {
    let network = MemoryNetwork::new();
    (TestNode::start(&network, 1, &[]), TestNode::start(&network, 2, &[1]))
}

/// Fetches `hashes`, at most `width` at the same time; when each was complete, in the order of `hashes`.
async fn fetch_all(node: &TestNode, hashes: &[ContentHash], width: usize) -> Vec<Duration> {
    let start = Instant::now();
    let mut times = vec![Duration::ZERO; hashes.len()];
    let (mut running, mut next) = (JoinSet::new(), hashes.iter().copied().enumerate());
    loop {
        for (number, hash) in next.by_ref().take(width - running.len()) {
            let engine = node.engine.clone();
            running.spawn(async move { (number, engine.fetch(hash, |_, _| {}).await) });
        }
        let Some(ended) = running.join_next().await else { return times };
        let (number, fetched) = ended.unwrap();
        fetched.unwrap_or_else(|error| panic!("blob {number}: {error}"));
        times[number] = start.elapsed();
    }
}

#[tokio::test(start_paused = true)]
async fn small_and_large_blobs_make_the_round_trip() {
    let (holder, node) = pair();
    for len in [50_000, 2 * MIB] {
        let bytes = content(len as u64, len);
        let hash = holder.hold(&bytes);
        assert_eq!(node.engine.fetch(hash, |_, _| {}).await, Ok(len as u64));
        assert_eq!(node.engine.state(&hash), BlobState::Complete);
        assert!(node.read(hash, 300_000).await.unwrap() == bytes);
    }
    node.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn of_two_peers_the_one_that_holds_it_is_found() {
    for holding in [1, 2] {
        let network = MemoryNetwork::new();
        let peers = [TestNode::start(&network, 1, &[]), TestNode::start(&network, 2, &[])];
        let node = TestNode::start(&network, 3, &[1, 2]);
        let bytes = content(3, 2 * MIB);
        let hash = peers[holding - 1].hold(&bytes);
        assert!(node.read(hash, MIB as u64).await.unwrap() == bytes);
        assert_eq!(node.holders.snapshots()[2 - holding].fetched_bytes, 0);
        node.assert_at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_no_peer_holds_is_not_found() {
    let network = MemoryNetwork::new();
    let _peers = [TestNode::start(&network, 1, &[]), TestNode::start(&network, 2, &[])];
    let node = TestNode::start(&network, 3, &[1, 2]);
    let hash = ContentHash::of(b"nobody holds it");
    assert_eq!(node.engine.fetch(hash, |_, _| {}).await, Err(FetchError::NotFound));
    assert_eq!(node.metrics.exchanges_started.get(), 0, "the hash itself was told to nobody");
    node.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn exchanges_that_break_off_in_the_middle_are_made_up_for() {
    for every in [3, 4] {
        let network = MemoryNetwork::new();
        let holder = TestNode::start(&network, 1, &[]);
        let dialer = BreakingDialer::new(network.dialer(node_id(2)), every);
        let counts = dialer.counts();
        let node = TestNode::with_dialer(&network, 2, &[1], 1 << 30, Arc::new(dialer));
        let blobs: Vec<_> = (0..6).map(|seed| content(seed, 4 * MIB + 1)).collect();
        for bytes in &blobs {
            let hash = holder.hold(bytes);
            assert!(node.read(hash, 128 * 1024).await.expect("it goes on where it broke") == *bytes);
        }
        assert!(counts.broken() >= 6, "every {every}: {} broken", counts.broken());
        node.assert_at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn several_transfers_at_once_all_arrive() {
    for count in [2, 4, 6, 8] {
        let (holder, node) = pair();
        let blobs: Vec<_> = (0..count).map(|seed| content(seed, 4 * MIB)).collect();
        let hashes: Vec<_> = blobs.iter().map(|bytes| holder.hold(bytes)).collect();
        fetch_all(&node, &hashes, hashes.len()).await;
        for (hash, bytes) in hashes.iter().zip(&blobs) {
            assert!(node.read(*hash, MIB as u64).await.unwrap() == *bytes);
        }
        assert_eq!(node.metrics.fetched_bytes.get(), count * 4 * MIB as u64, "each byte once");
        node.assert_at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_transfers_finish_fairly() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let link = Link::new(Duration::from_millis(1), 20_000_000);
    let dialer = SlowDialer::new(network.dialer(node_id(2)), link);
    let node = TestNode::with_dialer(&network, 2, &[1], 1 << 30, Arc::new(dialer));
    let hashes = [1, 2].map(|seed| holder.hold(&content(seed, 32 * MIB)));
    let times = fetch_all(&node, &hashes, 2).await;
    let (first, last) = (times[0].min(times[1]), times[0].max(times[1]));
    // Served one after the other, the first would be done in half the time.
    assert!(last < first.mul_f64(1.3), "{times:?}");
    node.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_tree_of_small_and_large_files_arrives_whole() {
    for every in [usize::MAX, 4] {
        let network = MemoryNetwork::new();
        let holder = TestNode::start(&network, 1, &[]);
        let dialer = BreakingDialer::new(network.dialer(node_id(2)), every);
        let node = TestNode::with_dialer(&network, 2, &[1], 1 << 30, Arc::new(dialer));
        let lens = (0..200).map(|i| 1 + i * 157).chain([4 * MIB; 6]).chain([9 * MIB]);
        let tree: Vec<_> = lens.enumerate().map(|(seed, len)| content(seed as u64, len)).collect();
        let hashes: Vec<_> = tree.iter().map(|bytes| holder.hold(bytes)).collect();
        fetch_all(&node, &hashes, TREE_READERS).await;
        for (hash, bytes) in hashes.iter().zip(&tree) {
            assert!(node.read(*hash, MIB as u64).await.unwrap() == *bytes);
        }
        node.assert_at_rest().await;
    }
}
