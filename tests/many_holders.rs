//! One blob from several holders at once, on links of different speed, with the clock paused: what
//! takes how long is simulated time.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use byhash::holders::PeerState;
use byhash::ids::{BlobRange, ContentHash};
use byhash::transfer::Priority;
use byhash::transport::memory::{Fault, MemoryNetwork};
use byhash::transport::{Acceptor, read_message, write_message};
use byhash::wire::{GROUP_LEN, HaveAnswer, HaveReply, Message};
use support::modest::ModestDialer;
use support::slow::{Link, SlowDialer};
use support::{TestNode, content, node_id};
use tokio::time::Instant;

const ROUND_TRIP: Duration = Duration::from_millis(1);

/// Node 9, which reaches node 1, 2 and so on over links of these rates, in bytes a second.
fn reader(network: &MemoryNetwork, rates: &[u64]) -> TestNode {
    let mut dialer = SlowDialer::new(network.dialer(node_id(9)), Link::new(ROUND_TRIP, u64::MAX));
    let peers: Vec<u8> = (1..=rates.len() as u8).collect();
    for (peer, rate) in peers.iter().zip(rates) {
        dialer = dialer.with(node_id(*peer), Link::new(ROUND_TRIP, *rate));
    }
    TestNode::with_dialer(network, 9, &peers, 1 << 30, Arc::new(dialer))
}

async fn time_of_fetch(node: &TestNode, hash: ContentHash) -> Duration {
    let start = Instant::now();
    node.engine.fetch(hash, |_, _| {}).await.unwrap();
    start.elapsed()
}

/// Content bytes that each peer sent.
fn shares(node: &TestNode) -> Vec<u64> {
    node.holders.snapshots().iter().map(|peer| peer.fetched_bytes).collect()
}

#[tokio::test(start_paused = true)]
async fn a_holder_twice_as_fast_sends_twice_as_much_and_the_rates_add_up() {
    let network = MemoryNetwork::new();
    let holders = [TestNode::start(&network, 1, &[]), TestNode::start(&network, 2, &[])];
    let bytes = content(1, 48 << 20);
    let hash = holders.each_ref().map(|holder| holder.hold(&bytes))[0];
    let node = reader(&network, &[10_000_000, 5_000_000]);
    let took = time_of_fetch(&node, hash).await;
    let ideal = Duration::from_secs_f64(bytes.len() as f64 / 15e6);
    assert!(took < ideal.mul_f64(1.15), "{took:?} instead of {ideal:?}");
    let shares = shares(&node);
    let ratio = shares[0] as f64 / shares[1] as f64;
    assert!((1.6..2.5).contains(&ratio), "{shares:?}");
    node.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn the_last_ranges_do_not_wait_for_a_slow_holder() {
    let network = MemoryNetwork::new();
    let holders = [TestNode::start(&network, 1, &[]), TestNode::start(&network, 2, &[])];
    let bytes = content(2, 8 << 20);
    let hash = holders.each_ref().map(|holder| holder.hold(&bytes))[0];
    let node = reader(&network, &[20_000_000, 200_000]);
    let took = time_of_fetch(&node, hash).await;
    // What the slow one was given at first, when nothing was known of it, would take it 20 s.
    assert!(took < Duration::from_millis(1500), "{took:?}");
    assert!(node.metrics.exchanges_doubled.get() > 0);
    let twice = node.metrics.fetched_bytes.get() as f64 / bytes.len() as f64;
    assert!(twice < 1.25, "{twice} times as many bytes as needed");
    node.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_gets_the_blob_during_a_transfer_is_used() {
    let network = MemoryNetwork::new();
    let (slow, fast) = (TestNode::start(&network, 1, &[]), TestNode::start(&network, 2, &[]));
    let bytes = content(3, 8 << 20);
    let hash = slow.hold(&bytes);
    let node = reader(&network, &[500_000, 20_000_000]);
    let engine = node.engine.clone();
    let start = Instant::now();
    let fetch = tokio::spawn(async move { engine.fetch(hash, |_, _| {}).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    fast.hold(&bytes);
    fetch.await.unwrap().unwrap();
    let took = start.elapsed();
    // Alone, the first would have needed 16 s.
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(shares(&node)[1] > 0);
    node.assert_at_rest().await;
}

/// Reads a blob to its end as a mounted file is read: more is wanted ahead when a quarter of it has been read.
async fn stream(node: &TestNode, hash: ContentHash) -> Duration {
    let start = Instant::now();
    let reader = node.open(hash).await.unwrap();
    let (mut at, mut ahead, step) = (0, 0, 1 << 20);
    while at < reader.size() {
        if ahead < at + reader.most_ahead() / 4 * 3 {
            let end = at + reader.most_ahead();
            reader.prefetch(BlobRange::new(ahead.max(at), end));
            ahead = end;
        }
        reader.read(BlobRange::new(at, at + step), Priority::Foreground).await.unwrap();
        at += step;
    }
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_holder_far_away_fills_its_link() {
    const RATE: u64 = 50_000_000;
    let (network, round_trip) = (MemoryNetwork::new(), Duration::from_millis(400));
    let holder = TestNode::start(&network, 1, &[]);
    let (first, bytes) = (content(4, 64 << 20), content(5, 96 << 20));
    let [first, hash] = [&first, &bytes].map(|bytes| holder.hold(bytes));
    let dialer = SlowDialer::new(network.dialer(node_id(9)), Link::new(round_trip, RATE));
    let node = TestNode::with_dialer(&network, 9, &[1], 1 << 30, Arc::new(dialer));
    // Opens all lanes.
    stream(&node, first).await;
    let took = stream(&node, hash).await;
    // The question, the size and the first piece take a round trip each; then the link is full, on which
    // 20 MB are under way at a time, but for the last pieces.
    let ideal = Duration::from_secs_f64(bytes.len() as f64 / RATE as f64) + 4 * round_trip;
    assert!(took < ideal.mul_f64(1.05), "{took:?} instead of {ideal:?}");
    node.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn those_who_fetch_the_same_blob_have_it_from_one_another() {
    let fetch = async |node: &TestNode, hash| {
        node.engine.fetch(hash, |_, _| {}).await.unwrap();
    };
    let (copies, took) = in_swarm(fetch).await;
    // Each for itself would have it sent eight times over, in 13 s.
    assert!(copies < 3.0 && took < 5.0, "the seed sent it {copies} times over, in {took} s");
}

#[tokio::test(start_paused = true)]
async fn those_who_read_the_same_blob_in_order_have_it_from_one_another() {
    let read = async |node: &TestNode, hash| {
        stream(node, hash).await;
    };
    let (copies, took) = in_swarm(read).await;
    assert!(copies < 4.0 && took < 8.0, "the seed sent it {copies} times over, in {took} s");
}

/// Eight nodes that know each other `get` the same blob at once, which only one more has. How many times over
/// that one sends it, and the seconds that it takes.
async fn in_swarm(get: impl AsyncFn(&TestNode, ContentHash)) -> (f64, f64) {
    let network = MemoryNetwork::new();
    let seed = TestNode::start(&network, 100, &[]);
    let bytes = content(6, 32 << 20);
    let hash = seed.hold(&bytes);
    // What all of them together get from it is bounded; among themselves they are near.
    let uplink = Link::new(ROUND_TRIP, 20_000_000);
    let node = |number: u8| {
        let peers: Vec<u8> = (1..=8).filter(|other| *other != number).chain([100]).collect();
        let dialer = SlowDialer::new(network.dialer(node_id(number)), Link::new(ROUND_TRIP, 100_000_000));
        let dialer = dialer.with(node_id(100), uplink.clone());
        TestNode::with_dialer(&network, number, &peers, 1 << 30, Arc::new(dialer))
    };
    let nodes = [1, 2, 3, 4, 5, 6, 7, 8].map(node);
    let start = Instant::now();
    let [a, b, c, d, e, f, g, h] = &nodes;
    let get = |node| get(node, hash);
    tokio::join!(get(a), get(b), get(c), get(d), get(e), get(f), get(g), get(h));
    let took = start.elapsed().as_secs_f64();
    for node in nodes {
        node.assert_at_rest().await;
    }
    (seed.metrics.served_bytes.get() as f64 / bytes.len() as f64, took)
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_for_a_longer_range_than_it_said_it_takes() {
    for longest in [GROUP_LEN, 3 * GROUP_LEN, 40 * GROUP_LEN] {
        let network = MemoryNetwork::new();
        let holders = [TestNode::start(&network, 1, &[]), TestNode::start(&network, 2, &[])];
        let bytes = content(7, (9 << 20) + 1);
        let hash = holders.each_ref().map(|holder| holder.hold(&bytes))[0];
        let dialer = ModestDialer::new(network.dialer(node_id(9)), longest);
        let asked = dialer.asked();
        let node = TestNode::with_dialer(&network, 9, &[1, 2], 1 << 30, Arc::new(dialer));
        assert!(node.read(hash, 1 << 20).await.unwrap() == bytes);
        assert_eq!(asked.load(Ordering::Relaxed), longest);
        node.assert_at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_switched_off_under_load_is_soon_known_to_be() {
    let network = MemoryNetwork::new();
    let holders = [TestNode::start(&network, 1, &[]), TestNode::start(&network, 2, &[])];
    let node = reader(&network, &[u64::MAX, u64::MAX]);
    let keeper = tokio::spawn(node.holders.clone().keep_warm());
    let read = async |number: u64| {
        let bytes = content(number, 1000);
        let hash = holders[1].hold(&bytes);
        if number < 10 {
            holders[0].hold(&bytes);
        }
        let start = Instant::now();
        assert!(node.read(hash, 1000).await.unwrap() == bytes);
        start.elapsed()
    };
    for number in 0..10 {
        read(number).await;
    }
    network.set_fault(node_id(1), Fault::BlackHole);
    network.cut(node_id(1));
    let start = Instant::now();
    // Questions come without a pause, so that one dial or another is always under way.
    let mut number = 10;
    while start.elapsed() < Duration::from_secs(4) {
        read(number).await;
        number += 1;
    }
    assert_eq!(node.holders.snapshots()[0].state, PeerState::Unreachable);
    assert!(read(number).await < Duration::from_millis(10), "nobody waits for it");
    keeper.abort();
}

/// Node 1, which first says that it has nothing and then more and more of `hash`, behind its end; it brings nothing.
fn pretend_to_fetch(network: &MemoryNetwork, hash: ContentHash, groups: u64) -> tokio::task::AbortHandle {
    let mut acceptor = network.listen(node_id(1));
    let task = tokio::spawn(async move {
        let mut lanes = tokio::task::JoinSet::new();
        let asked = Arc::new(AtomicU64::new(0));
        while let Ok(mut lane) = acceptor.accept().await {
            let asked = asked.clone();
            lanes.spawn(async move {
                while let Ok(Some(Message::Have(have))) = read_message(&mut lane).await {
                    let more = asked.fetch_add(1, Ordering::Relaxed);
                    let answer = match more {
                        0 => HaveAnswer::None,
                        _ => HaveAnswer::Partial { ranges: vec![(groups + 1, groups + 1 + more)] },
                    };
                    let answers = vec![answer.clone(); have.questions.len()];
                    let claims = if answer == HaveAnswer::None { 0 } else { answers.len() };
                    let proofs = vec![hash.holder_proof(lane.binding()); claims];
                    let _ = write_message(&mut lane, &Message::HaveReply(HaveReply { answers, proofs })).await;
                }
            });
        }
    });
    task.abort_handle()
}

#[tokio::test(start_paused = true)]
async fn who_pretends_to_fetch_it_too_holds_nobody_up() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 2, &[]);
    let bytes = content(8, 40 << 20);
    let hash = holder.hold(&bytes);
    let liar = pretend_to_fetch(&network, hash, bytes.len() as u64 / GROUP_LEN);
    let node = reader(&network, &[u64::MAX, 20_000_000]);
    let start = Instant::now();
    node.engine.fetch(hash, |_, _| {}).await.unwrap();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(4), "2 s on that link, and it took {took:?}");
    liar.abort();
}
