//! The filesystem on the engine, over links that are slow, or shared by many.

mod support;

use std::sync::Arc;
use std::time::Duration;

use byhash::fs::{AttrStep, Filesystem, FsError, Ino, Lookup, LookupStep, Opened, Owner};
use byhash::ids::ContentHash;
use byhash::transport::memory::MemoryNetwork;
use support::slow::{Link, SlowDialer};
use support::{TestNode, content, node_id};
use tokio::task::JoinSet;

const MIB: usize = 1 << 20;

/// What the kernel asks for at most, in bytes.
const READ_LEN: usize = 256 << 10;

/// Requests of its own that it has under way for one stream.
const READS: usize = 8;

/// A node behind a link, and its filesystem.
fn behind(link: Link, network: &MemoryNetwork) -> (TestNode, Arc<Filesystem>) {
    let dialer = SlowDialer::new(network.dialer(node_id(2)), link);
    let node = TestNode::with_dialer(network, 2, &[1], 1 << 30, Arc::new(dialer));
    let source = Arc::new(node.engine.clone());
    let fs = Filesystem::new(source, node.metrics.clone(), Owner { uid: 0, gid: 0 });
    (node, Arc::new(fs))
}

async fn look_up(fs: &Filesystem, hash: ContentHash) -> Ino {
    let found = match fs.lookup(Ino::BY_HASH, hash.to_string().as_bytes()) {
        LookupStep::Done(found) => found,
        LookupStep::Ask(hash) => fs.ask_size(hash).await,
        LookupStep::Check(hash, size) => fs.check_small(hash, size).await,
    };
    let Ok(Lookup::Found(entry)) = found else { panic!("{found:?}") };
    // As the kernel does for those that have no size yet.
    if let AttrStep::Ask(hash) = fs.attr(entry.node).unwrap() {
        fs.ask_attr(entry.node, hash).await.unwrap();
    }
    entry.node
}

/// Reads `hash` from beginning to end as the kernel does for a stream.
async fn read_all(fs: Arc<Filesystem>, hash: ContentHash, expected: Arc<Vec<u8>>) -> Result<(), FsError> {
    let opened = fs.open(look_up(&fs, hash).await, libc::O_RDONLY).unwrap();
    if let Opened::Unfetched(handle) = opened {
        fs.hydrate(handle).await?;
    }
    let handle = opened.handle();
    let mut under_way = JoinSet::new();
    let mut at = 0;
    while at < expected.len() || !under_way.is_empty() {
        while at < expected.len() && under_way.len() < READS {
            let (fs, expected, start) = (fs.clone(), expected.clone(), at);
            under_way.spawn(async move {
                let bytes = fs.read(handle, start as u64, READ_LEN as u32).await?;
                assert!(bytes[..] == expected[start..expected.len().min(start + READ_LEN)]);
                Ok::<(), FsError>(())
            });
            at += READ_LEN;
        }
        under_way.join_next().await.expect("some are").unwrap()?;
    }
    fs.release(handle);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn one_stream_over_a_slow_link_is_read_to_its_end() {
    for (rate, round_trip) in [(100_000, 1), (100_000, 80), (40_000, 20)] {
        let network = MemoryNetwork::new();
        let holder = TestNode::start(&network, 1, &[]);
        let (_node, fs) = behind(Link::new(Duration::from_millis(round_trip), rate), &network);
        let bytes = Arc::new(content(1, 4 * MIB + 5));
        let hash = holder.hold(&bytes);
        assert_eq!(read_all(fs, hash, bytes).await, Ok(()), "{rate} bytes a second, {round_trip} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn many_streams_over_one_link_are_read_to_their_ends() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    // 100 Mbit/s.
    let (_node, fs) = behind(Link::new(Duration::from_millis(1), 12_500_000), &network);
    let mut streams = JoinSet::new();
    for number in 0..48 {
        let bytes = Arc::new(content(10 + number, 12 * MIB));
        streams.spawn(read_all(fs.clone(), holder.hold(&bytes), bytes));
    }
    while let Some(outcome) = streams.join_next().await {
        assert_eq!(outcome.unwrap(), Ok(()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_blob_is_fetched_whole_over_a_slow_link_before_its_open() {
    let network = MemoryNetwork::new();
    let holder = TestNode::start(&network, 1, &[]);
    let (node, _) = behind(Link::new(Duration::from_millis(20), 60_000), &network);
    let fs = Filesystem::new(Arc::new(node.engine.clone()), node.metrics.clone(), Owner { uid: 0, gid: 0 });
    let bytes = Arc::new(content(2, 4 * MIB + 5));
    let hash = holder.hold(&bytes);
    assert_eq!(read_all(Arc::new(fs.hydrating()), hash, bytes).await, Ok(()));
}
