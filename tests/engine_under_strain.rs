//! The engine where something is scarce: memory, the link, lanes, room, honest holders.

mod support;

use std::sync::Arc;
use std::time::Duration;

use byhash::ids::{BlobRange, ContentHash};
use byhash::transfer::{BlobSource, FetchError, Priority};
use byhash::transport::memory::{Fault, MemoryNetwork};
use support::hostile::{self, Vice};
use support::slow::{Link, SlowDialer};
use support::{TestNode, content, node_id};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GROUP: u64 = 16 * 1024;

/// Longer than the engine may take to give up.
const LIMIT: Duration = Duration::from_secs(60);

/// A node behind a link.
fn behind(link: Link, network: &MemoryNetwork, number: u8, peers: &[u8]) -> TestNode {
    let dialer = SlowDialer::new(network.dialer(node_id(number)), link);
    TestNode::with_dialer(network, number, peers, 1 << 30, Arc::new(dialer))
}

