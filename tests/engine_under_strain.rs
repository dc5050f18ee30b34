//! The engine where something is scarce: memory, the link, lanes, room, honest holders.

mod support;

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use byhash::ids::{BlobRange, ContentHash};
use byhash::transfer::{BlobSource, BlobState, FetchError, Priority};
use byhash::transport::memory::{Fault, MemoryNetwork};
use support::hostile::{self, Vice};
use support::slow::{Link, SlowDialer};
use support::{TestNode, content, node_id};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Longer than the engine may take to give up.
const LIMIT: Duration = Duration::from_secs(60);

/// A node behind a link.
fn behind(link: Link, network: &MemoryNetwork, number: u8, peers: &[u8]) -> TestNode {
    let dialer = SlowDialer::new(network.dialer(node_id(number)), link);
    TestNode::with_dialer(network, number, peers, 1 << 30, Arc::new(dialer))
}

/// At 20 ms a round trip the four lanes for small things carry 300 questions within the deadline.
#[tokio::test(start_paused = true)]
async fn a_thousand_names_can_be_looked_up_at_once_over_a_long_way() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let node = behind(Link::new(Duration::from_millis(20), u64::MAX), &network, 2, &[1]);
    let held = holder.hold(b"held");
    let mut lookups = JoinSet::new();
    for i in 0..1000u32 {
        let engine = node.engine.clone();
        lookups.spawn(async move { engine.size(ContentHash::of(&i.to_le_bytes())).await });
    }
    let start = Instant::now();
    while let Some(found) = lookups.join_next().await {
        assert_eq!(found.unwrap(), Err(FetchError::NotFound));
    }
    assert!(start.elapsed() < Duration::from_millis(1800), "{:?}", start.elapsed());
    assert_eq!(node.engine.size(held).await, Ok(4));
    assert!(node.metrics.have_queries.get() < 100, "{} messages", node.metrics.have_queries.get());
}

#[tokio::test(start_paused = true)]
async fn a_silent_holder_is_hedged_while_another_delivers() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    // Four lanes bring a segment each every 20 ms or so: the honest holder never pauses for long.
    let node = behind(Link::new(Duration::from_millis(1), 60_000_000), &network, 3, &[1, 2]);
    let bytes = content(1, 60 * MIB);
    let hash = holder.hold(&bytes);
    hostile::start(&network, 2, &bytes, Vice::SilentToRequests);
    let reader = node.open(hash).await.unwrap();
    reader.prefetch(BlobRange::new(0, 60 * MIB as u64));
    for at in (0..60 * MIB).step_by(MIB) {
        let start = Instant::now();
        let range = BlobRange::new(at as u64, (at + MIB) as u64);
        assert!(reader.read(range, Priority::Foreground).await.unwrap() == bytes[at..at + MIB]);
        assert!(start.elapsed() < Duration::from_millis(400), "the read at {at} took {:?}", start.elapsed());
    }
}

/// Node 9, which reads from a slow holder (1) and a good one (2) that is further away.
fn between(network: &MemoryNetwork, slow: Link) -> TestNode {
    let near = Link::new(Duration::from_millis(5), 100_000_000);
    let dialer = SlowDialer::new(network.dialer(node_id(9)), near).with(node_id(1), slow);
    TestNode::with_dialer(network, 9, &[1, 2], 1 << 30, Arc::new(dialer))
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_trickles_keeps_nobody_from_what_another_has() {
    for period in [10, 100, 190] {
        let network = MemoryNetwork::new();
        let node = between(&network, Link::new(Duration::ZERO, 100_000_000));
        let bytes = content(20, 3 * MIB);
        hostile::start(&network, 1, &bytes, Vice::Trickles(period));
        let honest = TestNode::start(&network, 2, &[]);
        let hash = honest.hold(&bytes);
        let start = Instant::now();
        assert_eq!(node.engine.size(hash).await, Ok(3 * MIB as u64));
        assert!(start.elapsed() < Duration::from_secs(1), "{period} ms: the size took {:?}", start.elapsed());
        let reader = node.open(hash).await.unwrap();
        for at in (0..3 * MIB).step_by(128 * KIB) {
            let start = Instant::now();
            let range = BlobRange::new(at as u64, (at + 128 * KIB) as u64);
            assert!(reader.read(range, Priority::Foreground).await.unwrap() == bytes[at..at + 128 * KIB]);
            assert!(
                start.elapsed() < Duration::from_secs(1),
                "{period} ms: the read at {at} took {:?}",
                start.elapsed()
            );
        }
        drop(reader);
        node.assert_at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_size_does_not_wait_for_a_slow_link() {
    let network = MemoryNetwork::new();
    let node = between(&network, Link::new(Duration::ZERO, 10_000));
    let bytes = content(21, MIB);
    let (slow, fast) = (TestNode::start(&network, 1, &[]), TestNode::start(&network, 2, &[]));
    slow.hold(&bytes);
    let hash = fast.hold(&bytes);
    let start = Instant::now();
    assert_eq!(node.engine.size(hash).await, Ok(MIB as u64));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(node.read(hash, MIB as u64).await.unwrap() == bytes);
}

/// What is checked together elsewhere would take longer than anybody waits for a verified byte.
#[tokio::test(start_paused = true)]
async fn a_very_slow_link_brings_what_four_readers_want_in_the_end() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let node = behind(Link::new(Duration::from_millis(50), 3000), &network, 2, &[1]);
    let bytes = Arc::new(content(22, 5 * MIB));
    let hash = holder.hold(&bytes);
    let reader = node.open(hash).await.unwrap();
    let mut reads = JoinSet::new();
    for at in (MIB..5 * MIB).step_by(MIB) {
        let (reader, bytes) = (reader.clone(), bytes.clone());
        reads.spawn(async move {
            let range = BlobRange::new(at as u64, (at + 64 * KIB) as u64);
            assert!(reader.read(range, Priority::Foreground).await.unwrap() == bytes[at..at + 64 * KIB]);
        });
    }
    reads.join_all().await;
    assert!(node.metrics.fetched_wire_bytes.get() < 400 * KIB as u64, "{}", node.metrics.fetched_wire_bytes.get());
}

#[tokio::test(start_paused = true)]
async fn a_holder_far_away_that_falls_silent_is_hedged_all_the_same() {
    let network = MemoryNetwork::new();
    let node = between(&network, Link::new(Duration::from_millis(700), 100_000_000));
    let bytes = content(23, 8 * MIB);
    hostile::start(&network, 1, &bytes, Vice::SilentAfter(100_000));
    let honest = TestNode::start(&network, 2, &[]);
    let hash = honest.hold(&bytes);
    let start = Instant::now();
    assert!(node.read(hash, MIB as u64).await.unwrap() == bytes);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn one_wrong_blob_is_one_strike_and_its_holder_is_not_asked_for_it_again() {
    let network = MemoryNetwork::new();
    let node = TestNode::start(&network, 9, &[1]);
    let bytes = content(24, 20 * MIB);
    let hash = ContentHash::of(&bytes);
    hostile::start(&network, 1, &bytes, Vice::FlipsInLong);
    let reader = node.open(hash).await.unwrap();
    reader.prefetch(BlobRange::new(0, 20 * MIB as u64));
    let mut reads = JoinSet::new();
    for i in 1..9 {
        let reader = reader.clone();
        let range = BlobRange::new(i * MIB as u64, (i + 1) * MIB as u64);
        reads.spawn(async move { reader.read(range, Priority::Foreground).await });
    }
    for read in reads.join_all().await {
        assert_eq!(read, Err(FetchError::WrongBytes));
    }
    drop(reader);
    node.assert_at_rest().await;
    assert!(node.metrics.exchanges_started.get() > 3, "several exchanges at the same time");
    let wire = node.metrics.fetched_wire_bytes.get();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let reader = node.open(hash).await.unwrap();
        let read = reader.read(BlobRange::new(9 * MIB as u64, 10 * MIB as u64), Priority::Foreground).await;
        assert_eq!(read, Err(FetchError::WrongBytes));
    }
    assert_eq!(node.metrics.fetched_wire_bytes.get(), wire, "it was asked again");
    assert_eq!(node.metrics.wrong_bytes.get(), 1);
    assert_ne!(node.holders.snapshots()[0].state, byhash::holders::PeerState::Quarantined);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_has_holds_up_no_other_reader_of_the_blob() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let part = TestNode::start(&network, 2, &[1]);
    let node = behind(Link::new(Duration::from_millis(1), 1_000_000), &network, 3, &[2]);
    let bytes = content(2, 20 * MIB);
    let hash = holder.hold(&bytes);
    let reader = part.open(hash).await.unwrap();
    reader.read(BlobRange::new(4 * MIB as u64, 20 * MIB as u64), Priority::Foreground).await.unwrap();
    let reader = node.open(hash).await.unwrap();
    let lost = tokio::spawn({
        let reader = reader.clone();
        async move {
            let start = Instant::now();
            let read = reader.read(BlobRange::new(MIB as u64, MIB as u64 + 1), Priority::Foreground).await;
            assert_eq!(read, Err(FetchError::NotFound), "somebody is there, and has none of it");
            assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        }
    });
    tokio::task::yield_now().await;
    for i in 4..14 {
        let range = BlobRange::new(i * MIB as u64, (i + 1) * MIB as u64);
        assert!(reader.read(range, Priority::Foreground).await.unwrap() == bytes[i as usize * MIB..][..MIB]);
    }
    assert!(lost.is_finished(), "the reader of what nobody has waits for the others");
    lost.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_always_busy_ends_in_an_error_and_hides_nobody() {
    let network = MemoryNetwork::new();
    let bytes = content(3, MIB);
    let honest = TestNode::start(&network, 1, &[]);
    hostile::start(&network, 2, &bytes, Vice::AlwaysBusy);
    let node = TestNode::start(&network, 3, &[1, 2]);
    let hash = honest.hold(&bytes);
    network.set_fault(node_id(1), Fault::Refuse);
    let read = timeout(LIMIT, node.read(hash, MIB as u64)).await.expect("an answer within a minute");
    assert_eq!(read, Err(FetchError::TimedOut));
    let back = async {
        tokio::time::sleep(Duration::from_millis(900)).await;
        network.set_fault(node_id(1), Fault::None);
    };
    let (read, ()) = tokio::join!(node.read(hash, MIB as u64), back);
    assert!(read.unwrap() == bytes, "the honest one came back while the other was busy");
}

#[tokio::test(start_paused = true)]
async fn what_came_before_a_lane_broke_is_kept() {
    let network = MemoryNetwork::new();
    let bytes = content(4, MIB);
    hostile::start(&network, 1, &bytes, Vice::CutsAfter(200_000));
    let node = TestNode::start(&network, 2, &[1]);
    let read = node.read(ContentHash::of(&bytes), MIB as u64).await;
    assert!(read.expect("each lane brings some of it") == bytes);
    assert!(node.metrics.fetched_wire_bytes.get() < 2 * MIB as u64, "{}", node.metrics.fetched_wire_bytes.get());
    node.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn lanes_that_keep_breaking_are_opened_again_as_long_as_something_comes() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let node = behind(Link::new(Duration::from_millis(5), 200_000), &network, 2, &[1]);
    let bytes = content(12, 2 * MIB);
    let hash = holder.hold(&bytes);
    let reader = node.open(hash).await.unwrap();
    let cuts = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(700)).await;
            network.cut(node_id(1));
        }
    });
    // One read that takes 10 s: far more breaks than a holder is forgiven that sends nothing.
    let read = reader.read(BlobRange::new(0, bytes.len() as u64), Priority::Foreground).await;
    assert!(read.expect("the holder is there all the time") == bytes);
    cuts.abort();
    node.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn names_are_found_while_a_slow_link_is_full() {
    let network = MemoryNetwork::new();
    let holders: Vec<_> = (1..4).map(|number| TestNode::start(&network, number, &[])).collect();
    let node = behind(Link::new(Duration::from_millis(30), 300_000), &network, 4, &[1, 2, 3]);
    let bytes = content(5, 2 * MIB);
    let hash = ContentHash::of(&bytes);
    holders.iter().for_each(|holder| assert_eq!(holder.hold(&bytes), hash));
    let reader = node.open(hash).await.unwrap();
    reader.prefetch(BlobRange::new(0, 2 * MIB as u64));
    let other = tokio::spawn({
        let engine = node.engine.clone();
        async move {
            tokio::time::sleep(Duration::from_secs(2)).await;
            timeout(Duration::from_millis(1800), engine.size(ContentHash::of(b"nobody has this"))).await
        }
    });
    for at in (0..2 * MIB).step_by(128 * KIB) {
        let range = BlobRange::new(at as u64, (at + 128 * KIB) as u64);
        assert!(reader.read(range, Priority::Foreground).await.unwrap() == bytes[at..at + 128 * KIB]);
    }
    assert_eq!(other.await.unwrap(), Ok(Err(FetchError::NotFound)));
    let carried = node.metrics.fetched_wire_bytes.get();
    // One exchange may have been doubled, as long as the link is not known to be what is slow.
    assert!(carried < bytes.len() as u64 * 8 / 5, "{carried} bytes for {}", bytes.len());
}

#[tokio::test(start_paused = true)]
async fn what_another_holder_brought_is_not_waited_for_a_second_time() {
    let network = MemoryNetwork::new();
    let holders: Vec<_> = (1..3).map(|number| TestNode::start(&network, number, &[])).collect();
    let node = behind(Link::new(Duration::from_millis(1), 4_000_000), &network, 3, &[1, 2]);
    let bytes = content(9, 30 * MIB);
    let hash = ContentHash::of(&bytes);
    holders.iter().for_each(|holder| assert_eq!(holder.hold(&bytes), hash));
    let reader = node.open(hash).await.unwrap();
    reader.prefetch(BlobRange::new(0, 30 * MIB as u64));
    tokio::time::sleep(Duration::from_secs(1)).await;
    network.set_fault(node_id(1), Fault::BlackHole);
    // Long enough for the other to be done with its own pieces and to begin with these.
    tokio::time::sleep(Duration::from_millis(4500)).await;
    network.set_fault(node_id(1), Fault::None);
    for at in (0..30 * MIB).step_by(MIB) {
        let range = BlobRange::new(at as u64, (at + MIB) as u64);
        assert!(reader.read(range, Priority::Foreground).await.unwrap() == bytes[at..at + MIB]);
    }
    let carried = node.metrics.fetched_wire_bytes.get();
    assert!(carried < 36 * MIB as u64, "{carried} bytes for {}", bytes.len());
}

#[tokio::test(start_paused = true)]
async fn a_blob_that_does_not_fit_is_not_fetched_again_and_again() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let node = TestNode::with_capacity(&network, 2, &[1], MIB as u64);
    let bytes = content(6, 50 * MIB);
    let hash = holder.hold(&bytes);
    node.engine.fetch(hash, |_, _| {}).await.unwrap();
    let fetched = node.metrics.fetched_bytes.get();
    assert!(fetched < 60 * MIB as u64, "{fetched}");
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_cannot_be_read_is_read_around() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let node = TestNode::start(&network, 2, &[1]);
    let bytes = content(7, 30 * MIB);
    let hash = holder.hold(&bytes);
    node.engine.fetch(hash, |_, _| {}).await.unwrap();
    node.store.flush().unwrap();
    // The fetch task lets go of its files; then a file stands where their directory was.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let shard = node.dir().join("blobs").join(&hash.to_string()[..2]);
    std::fs::rename(&shard, node.dir().join("away")).unwrap();
    std::fs::write(&shard, b"").unwrap();
    assert!(node.read(hash, MIB as u64).await.expect("the holder still has it") == bytes);
}

#[tokio::test(start_paused = true)]
async fn a_requester_that_takes_nothing_does_not_keep_others_from_being_served() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let node = TestNode::start(&network, 2, &[1]);
    let bytes = content(8, 4 * MIB);
    let hash = holder.hold(&bytes);
    let greedy = network.dialer(node_id(9));
    let mut lanes = Vec::new();
    for _ in 0..64 {
        lanes.push(support::ask_and_take_nothing(&greedy, node_id(1), hash, bytes.len() as u64).await);
    }
    let start = Instant::now();
    assert!(node.read(hash, MIB as u64).await.unwrap() == bytes);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_part_that_grows_is_asked_again() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let part = TestNode::start(&network, 2, &[1]);
    let node = TestNode::start(&network, 3, &[2]);
    let bytes = content(10, 8 * MIB);
    let hash = holder.hold(&bytes);
    let growing = part.open(hash).await.unwrap();
    growing.read(BlobRange::new(0, 1), Priority::Foreground).await.unwrap();
    part.assert_at_rest().await;
    let reader = node.open(hash).await.unwrap();
    let range = BlobRange::new(2 * MIB as u64, 4 * MIB as u64);
    growing.read(range, Priority::Foreground).await.unwrap();
    // What was said a moment ago, to prove the size, is no longer all there is.
    assert!(reader.read(range, Priority::Foreground).await.unwrap() == bytes[2 * MIB..4 * MIB]);
}

#[tokio::test(start_paused = true)]
async fn how_fast_a_peer_was_is_known_after_a_restart() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let bytes = content(3, 2 << 20);
    let hash = holder.hold(&bytes);
    let node = behind(Link::new(Duration::from_millis(5), 10_000_000), &network, 2, &[1, 9]);
    assert_eq!(node.holders.hints(), []);
    node.engine.fetch(hash, |_, _| {}).await.unwrap();
    let hints = node.holders.hints();
    assert_eq!(hints.len(), 1, "nothing is known of a peer that was never there");
    assert!(hints[0].rate.is_some() && hints[0].round_trip_ms.is_some());
    let restarted = TestNode::start(&network, 3, &[9, 1]);
    restarted.holders.take_hints(&hints);
    assert_eq!(restarted.holders.hints(), hints);
}

#[tokio::test(start_paused = true)]
async fn what_a_reader_holds_stays_when_others_need_the_room_and_what_it_does_not_goes() {
    // One that is there before the blob holds it when it is told to, as an open with `--hydrate` does, or reads.
    for (is_there_before, is_told_to, stays) in [(true, true, true), (true, false, false), (false, false, true)] {
        let network = MemoryNetwork::new();
        let holder = TestNode::start(&network, 1, &[]);
        let node = TestNode::with_capacity(&network, 2, &[1], 12 * MIB as u64);
        let [bytes, others @ ..] = [1, 2, 3, 4].map(|seed| content(seed, 5 * MIB));
        let hash = holder.hold(&bytes);
        // Nothing is fetched by an open.
        let open = || node.engine.open(hash, bytes.len() as u64);
        let before = is_there_before.then(open);
        assert!(node.engine.make_whole(hash).await.unwrap());
        let reader = before.unwrap_or_else(open);
        if is_told_to {
            reader.hold().await;
        }
        for other in &others {
            let other = holder.hold(other);
            node.engine.fetch(other, |_, _| {}).await.unwrap();
        }
        let stayed = node.engine.state(&hash) == BlobState::Complete;
        assert_eq!(stayed, stays, "there before: {is_there_before}, told to: {is_told_to}");
    }
}

/// What is in memory was right when it came; whether it is on the disk is what the reader wants to know.
#[tokio::test(start_paused = true)]
async fn where_every_read_is_checked_what_the_disk_did_is_found_although_the_bytes_are_in_memory() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let node = TestNode::start(&network, 2, &[1]);
    node.store.check_every_read();
    let bytes = content(1, 100 * KIB);
    let hash = holder.hold(&bytes);
    assert!(node.read(hash, 64 << 10).await.unwrap() == bytes);
    node.assert_at_rest().await;
    let path = node.dir().join("blobs").join(&hash.to_string()[..2]).join(hash.to_string());
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[bytes[7] ^ 1], 7).unwrap();
    assert!(node.read(hash, 64 << 10).await.unwrap() == bytes);
    assert_eq!(node.metrics.store_corrupt_groups.get(), 1);
}
