//! The engine over a network in memory, with the clock paused: what readers get from holders that
//! are good, bad, dead or slow.

mod support;

use std::time::Duration;

use byhash::holders::PeerState;
use byhash::ids::{BlobRange, ContentHash};
use byhash::transfer::{BlobSource, BlobState, FetchError, Priority};
use byhash::transport::memory::{Fault, MemoryNetwork};
use support::hostile::{self, VICES, Vice};
use support::{TestNode, content, node_id};
use tokio::time::Instant;

const MIB: usize = 1 << 20;
const GROUP: usize = 16 * 1024;

/// Sizes at which something changes: nothing, one byte, around one group (no outboard), around
/// the first exchange (64 KiB), around a segment (256 KiB), more than one piece (4 MiB).
const SIZES: &[usize] = &[
    1,
    GROUP - 1,
    GROUP,
    GROUP + 1,
    4 * GROUP,
    4 * GROUP + 1,
    50_000,
    16 * GROUP,
    17 * GROUP + 5,
    2 * MIB,
    9 * MIB + 1,
];

#[tokio::test(start_paused = true)]
async fn blobs_of_every_kind_of_size_arrive_are_kept_and_are_served_on() {
    for &size in SIZES {
        let network = MemoryNetwork::new();
        let first = TestNode::start(&network, 1, &[]);
        let second = TestNode::start(&network, 2, &[1]);
        let third = TestNode::start(&network, 3, &[1, 2]);
        let bytes = content(size as u64, size);
        let hash = first.hold(&bytes);
        assert!(second.read(hash, 128 * 1024).await.unwrap() == bytes, "size {size}");
        second.engine.fetch(hash, |_, _| {}).await.unwrap();
        assert_eq!(second.engine.state(&hash), BlobState::Complete, "size {size}");
        network.set_fault(node_id(1), Fault::Refuse);
        network.cut(node_id(1));
        assert!(third.read(hash, MIB as u64).await.unwrap() == bytes, "size {size}, from the second");
        assert_eq!(second.metrics.served_bytes.get(), third.metrics.fetched_bytes.get(), "content alone");
        second.assert_at_rest().await;
        third.assert_at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_empty_blob_needs_nobody() {
    let network = MemoryNetwork::new();
    let node = TestNode::start(&network, 1, &[2]);
    assert_eq!(node.read(ContentHash::EMPTY, 10).await.unwrap(), b"");
    assert_eq!(node.metrics.have_queries.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reader_is_told_whether_a_blob_is_lost_or_its_holders_are() {
    let network = MemoryNetwork::new();
    let _holder = TestNode::start(&network, 1, &[]);
    let node = TestNode::start(&network, 2, &[1, 9]);
    let hash = ContentHash::of(b"nobody has this");
    let size = async || {
        let start = Instant::now();
        let size = node.engine.size(hash).await;
        assert!(start.elapsed() < Duration::from_secs(2), "{size:?} after {:?}", start.elapsed());
        size
    };
    assert_eq!(size().await, Err(FetchError::NotFound));
    network.set_fault(node_id(1), Fault::Refuse);
    network.cut(node_id(1));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(size().await, Err(FetchError::Unreachable));
    network.set_fault(node_id(1), Fault::BlackHole);
    assert!(matches!(size().await, Err(FetchError::Unreachable | FetchError::TimedOut)));
    node.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn one_honest_holder_is_enough_whatever_the_other_does() {
    for &vice in VICES {
        let network = MemoryNetwork::new();
        let bytes = content(7, 3 * MIB + 5);
        hostile::start(&network, 1, &bytes, vice);
        let honest = TestNode::start(&network, 2, &[]);
        let node = TestNode::start(&network, 3, &[1, 2]);
        let hash = honest.hold(&bytes);
        let start = Instant::now();
        let read = node.read(hash, 128 * 1024).await;
        assert!(read.as_ref().is_ok_and(|read| *read == bytes), "{vice:?}: {:?}", read.map(|read| read.len()));
        assert!(start.elapsed() < Duration::from_secs(10), "{vice:?} took {:?}", start.elapsed());
        node.assert_at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_bad_holder_alone_a_reader_gets_an_error_and_never_wrong_bytes() {
    for &vice in VICES {
        let network = MemoryNetwork::new();
        let bytes = content(8, 3 * MIB + 5);
        hostile::start(&network, 1, &bytes, vice);
        let node = TestNode::start(&network, 3, &[1]);
        let hash = ContentHash::of(&bytes);
        // A bad holder that keeps moving is given up after 30 s without a verified byte.
        let limit = Duration::from_secs(32);
        let read = node.read_each_within(hash, 128 * 1024, limit).await;
        match (vice, read) {
            (_, Some(Ok(read))) => assert!(read == bytes, "{vice:?}: wrong bytes came through"),
            (Vice::FlipsByte(_) | Vice::FlipsInLong | Vice::ClaimsLess(_), Some(Err(error))) => {
                assert_eq!(error, FetchError::WrongBytes, "{vice:?}");
            }
            // It claims more than it sends: the reader waits for the rest, or the proof is wrong.
            (Vice::ClaimsMore(_), Some(Err(error))) => {
                assert!(matches!(error, FetchError::WrongBytes | FetchError::TimedOut), "{vice:?}: {error:?}");
            }
            (
                Vice::SilentToRequests
                | Vice::SilentAfter(_)
                | Vice::SilentToQuestions
                | Vice::Trickles(_)
                | Vice::AlwaysBusy,
                Some(Err(error)),
            ) => {
                assert_eq!(error, FetchError::TimedOut, "{vice:?}");
            }
            (Vice::ChangesItsMind, Some(Err(error))) => assert_eq!(error, FetchError::NotFound),
            (_, Some(Err(_))) => {}
            (_, None) => panic!("{vice:?}: no answer within {limit:?}"),
        }
        node.assert_at_rest().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_lies_is_quarantined() {
    let network = MemoryNetwork::new();
    let node = TestNode::start(&network, 9, &[1]);
    let is_quarantined = || node.holders.snapshots()[0].state == PeerState::Quarantined;
    let lie = async |seed| {
        let bytes = content(seed, MIB);
        hostile::start(&network, 1, &bytes, Vice::FlipsByte(0));
        network.cut(node_id(1));
        assert!(node.read(ContentHash::of(&bytes), 1000).await.is_err());
    };
    for seed in 0..2 {
        lie(seed).await;
        assert!(!is_quarantined(), "after {} replies", seed + 1);
    }
    lie(2).await;
    assert!(is_quarantined());
    // It has changed its ways, and after a while it gets to show that; the second time after twice as long.
    for (first_lie, quarantine) in [(3, 60), (6, 120)] {
        let honest = TestNode::start(&network, 1, &[]);
        let bytes = content(100 + quarantine, MIB);
        let hash = honest.hold(&bytes);
        tokio::time::sleep(Duration::from_secs(quarantine - 2)).await;
        assert!(node.read(hash, MIB as u64).await.is_err(), "before {quarantine} s are over");
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(node.read(hash, MIB as u64).await.unwrap() == bytes, "after {quarantine} s");
        for seed in first_lie..first_lie + 3 {
            lie(seed).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_sends_more_than_it_declared_is_quarantined_too() {
    let network = MemoryNetwork::new();
    let node = TestNode::start(&network, 9, &[1]);
    for round in 0..4 {
        let bytes = content(round, 3 * MIB);
        hostile::start(&network, 1, &bytes, Vice::Surplus(1));
        network.cut(node_id(1));
        let _ = node.read(ContentHash::of(&bytes), 128 * 1024).await;
    }
    assert_eq!(node.holders.snapshots()[0].state, PeerState::Quarantined);
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_dies_in_the_middle_is_replaced_at_once() {
    let network = MemoryNetwork::new();
    let (first, second) = (TestNode::start(&network, 1, &[]), TestNode::start(&network, 2, &[]));
    let node = TestNode::start(&network, 3, &[1, 2]);
    let bytes = content(3, 20 * MIB);
    let hash = first.hold(&bytes);
    second.hold(&bytes);
    for fault in [Fault::Refuse, Fault::BlackHole] {
        let reader = node.open(hash).await.unwrap();
        let mut read = Vec::new();
        while read.len() < bytes.len() {
            let at = read.len() as u64;
            if at == (5 * MIB) as u64 {
                network.set_fault(node_id(1), fault);
                if fault == Fault::Refuse {
                    network.cut(node_id(1));
                }
            }
            let start = Instant::now();
            let range = BlobRange::new(at, at + MIB as u64);
            read.extend_from_slice(&reader.read(range, Priority::Foreground).await.unwrap());
            assert!(start.elapsed() < Duration::from_secs(1), "{fault:?}: a read took {:?}", start.elapsed());
        }
        assert!(read == bytes);
        network.set_fault(node_id(1), Fault::None);
        node.store.remove(&hash).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn readers_of_the_same_bytes_share_one_fetch() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let node = TestNode::start(&network, 2, &[1]);
    let bytes = content(4, 4 * MIB);
    let hash = holder.hold(&bytes);
    let reader = node.open(hash).await.unwrap();
    let reads = (0..16).map(|_| {
        let reader = reader.clone();
        tokio::spawn(async move { reader.read(BlobRange::new(MIB as u64, 2 * MIB as u64), Priority::Foreground).await })
    });
    for read in reads.collect::<Vec<_>>() {
        assert!(read.await.unwrap().unwrap() == bytes[MIB..2 * MIB]);
    }
    assert!(holder.metrics.served_bytes.get() < (MIB + MIB / 4) as u64, "{}", holder.metrics.served_bytes.get());
}

#[tokio::test(start_paused = true)]
async fn a_random_read_fetches_little_more_than_its_group() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let node = TestNode::start(&network, 2, &[1]);
    let bytes = content(5, 40 * MIB);
    let hash = holder.hold(&bytes);
    let reader = node.open(hash).await.unwrap();
    let at = 33 * MIB + 100;
    let read = reader.read(BlobRange::new(at as u64, at as u64 + 4096), Priority::Foreground).await.unwrap();
    assert!(read == bytes[at..at + 4096]);
    assert!(node.metrics.fetched_wire_bytes.get() <= 128 * 1024, "{}", node.metrics.fetched_wire_bytes.get());
}

#[tokio::test(start_paused = true)]
async fn a_part_is_served_and_completed_from_others() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let part = TestNode::start(&network, 2, &[1]);
    let node = TestNode::start(&network, 3, &[1, 2]);
    let bytes = content(6, 8 * MIB);
    let hash = holder.hold(&bytes);
    let range = BlobRange::new(2 * MIB as u64, 4 * MIB as u64);
    part.open(hash).await.unwrap().read(range, Priority::Foreground).await.unwrap();
    // Bytes reach the reader before they are written.
    part.assert_at_rest().await;
    assert_eq!(part.engine.state(&hash), BlobState::Partial);
    network.set_fault(node_id(1), Fault::Refuse);
    network.cut(node_id(1));
    let reader = node.open(hash).await.unwrap();
    assert!(reader.read(range, Priority::Foreground).await.unwrap() == bytes[2 * MIB..4 * MIB]);
    let beyond = BlobRange::new(5 * MIB as u64, 6 * MIB as u64);
    assert!(reader.read(beyond, Priority::Foreground).await.is_err(), "nobody who is there has this");
    network.set_fault(node_id(1), Fault::None);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(node.read(hash, MIB as u64).await.unwrap() == bytes);
}

#[tokio::test(start_paused = true)]
async fn a_full_cache_does_not_stop_readers() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let node = TestNode::with_capacity(&network, 2, &[1], 4 * MIB as u64);
    let bytes = content(9, 40 * MIB);
    let hash = holder.hold(&bytes);
    assert!(node.read(hash, 128 * 1024).await.unwrap() == bytes);
    assert!(node.engine.usage().used <= 4 * MIB as u64);
    node.assert_at_rest().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_disk_lost_or_altered_is_fetched_again() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let node = TestNode::start(&network, 2, &[1]);
    let bytes = content(10, 30 * MIB);
    let hash = holder.hold(&bytes);
    node.engine.fetch(hash, |_, _| {}).await.unwrap();
    let file = node.dir().join("blobs").join(&hash.to_string()[..2]).join(hash.to_string());
    let damage: &[(&str, &dyn Fn())] = &[
        ("a byte altered", &|| {
            make_writable(&file);
            let mut altered = std::fs::read(&file).unwrap();
            altered[3 * MIB] ^= 1;
            std::fs::write(&file, altered).unwrap();
        }),
        ("cut short", &|| {
            make_writable(&file);
            std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(MIB as u64).unwrap();
        }),
        ("removed", &|| std::fs::remove_file(&file).unwrap()),
        ("its outboard altered", &|| {
            let outboard = file.with_extension("obao4");
            make_writable(&outboard);
            let mut altered = std::fs::read(&outboard).unwrap();
            altered.iter_mut().for_each(|byte| *byte ^= 1);
            std::fs::write(&outboard, altered).unwrap();
        }),
    ];
    for (what, damage) in damage {
        damage();
        assert!(node.read(hash, MIB as u64).await.unwrap() == bytes, "{what}");
        node.engine.fetch(hash, |_, _| {}).await.unwrap();
        assert_eq!(node.engine.state(&hash), BlobState::Complete, "{what}: not whole again");
    }
}

fn make_writable(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_transfer_can_be_seen_and_cancelled_and_leaves_nothing() {
    let network = MemoryNetwork::new();
    let (holder, node) = (TestNode::start(&network, 1, &[]), TestNode::start(&network, 2, &[1, 3]));
    let bytes = content(8, 9 * MIB);
    let hash = holder.hold(&bytes);
    let silent = hostile::start(&network, 3, &bytes, Vice::SilentToRequests);
    // Only the silent one can be reached: the transfer would take its time.
    network.set_fault(node_id(1), Fault::BlackHole);
    let opened = node.engine.open(hash, bytes.len() as u64);
    let (engine, wanted) = (node.engine.clone(), hash);
    let fetch = tokio::spawn(async move { engine.fetch(wanted, |_, _| {}).await });
    let status = loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let status = node.engine.transfers().pop();
        if let Some(status) = status.filter(|status| status.peers.iter().any(|share| share.exchanges > 0)) {
            break status;
        }
    };
    assert_eq!((status.hash, status.done, status.total), (hash, 0, None));
    assert_eq!(status.peers[0].peer, node_id(3));
    assert!(node.engine.cancel(status.id.parse().unwrap()));
    assert_eq!(fetch.await.unwrap(), Err(FetchError::Cancelled));
    node.assert_at_rest().await;
    assert!(!node.engine.cancel(status.id.parse().unwrap()), "it is over");
    // What was cancelled may be wanted again, but not by who had it open and noticed nothing yet.
    network.set_fault(node_id(1), Fault::None);
    silent.abort();
    opened.prefetch(BlobRange::new(0, MIB as u64));
    assert_eq!(node.engine.transfers(), []);
    assert_eq!(opened.read(BlobRange::new(0, 1), Priority::Foreground).await, Err(FetchError::Cancelled));
    assert!(node.read(hash, MIB as u64).await.unwrap() == bytes);
    node.assert_at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_group_that_proves_the_size_is_not_asked_for_again_while_it_is_passed_on() {
    const BLOBS: u64 = 400;
    let network = MemoryNetwork::new();
    let (holder, node) = (TestNode::start(&network, 1, &[]), TestNode::start(&network, 2, &[1]));
    let size = 6 * GROUP as u64;
    for seed in 0..BLOBS {
        let hash = holder.hold(&content(seed, size as usize));
        assert_eq!(node.engine.size(hash).await, Ok(size));
        let last = BlobRange::new(size - 1, size);
        node.engine.open(hash, size).read(last, Priority::Foreground).await.unwrap();
    }
    // The last group of each.
    assert_eq!(node.metrics.fetched_bytes.get(), BLOBS * GROUP as u64);
}
