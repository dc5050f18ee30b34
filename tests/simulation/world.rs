//! A world in motion: nodes, faults, readers, and what must be left of it in the end.

use std::sync::Arc;
use std::time::Duration;

use byhash::transport::memory::{Fault, MemoryNetwork};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};

use crate::plan::{FaultKind, Plan};
use crate::readers::{self, Wanted};
use crate::support::hostile::{self, Vice};
use crate::support::slow::{Link, SlowDialer};
use crate::support::{TestNode, content, node_id};

/// How long after the last reader a node may still have something to do: a server is patient for
/// 30 s with a requester that takes nothing, all else ends long before.
const REST_LIMIT: Duration = Duration::from_secs(40);

/// Runs a world, on a runtime of its own so that a task left behind can be seen.
pub fn run(plan: &Plan) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let handle = runtime.handle().clone();
    runtime.block_on(async {
        let network = MemoryNetwork::new();
        let world = World::start(&network, plan);
        world.live(&network, plan).await;
        world.end(&network, &handle, plan.seed).await;
    });
}

struct World {
    holders: Vec<TestNode>,
    readers: Vec<TestNode>,
    hostile: Vec<AbortHandle>,
    blobs: Vec<Wanted>,
}

impl World {
    fn start(network: &MemoryNetwork, plan: &Plan) -> Self {
        let holders: Vec<_> = (1..=plan.holders).map(|number| TestNode::start(network, number, &[])).collect();
        let wanted = |(index, blob): (usize, &crate::plan::BlobPlan)| {
            let content = content(plan.seed.wrapping_mul(1000) + index as u64, blob.size as usize);
            let hash = byhash::ids::ContentHash::of(&content);
            for holder in &blob.held_by {
                holders[usize::from(*holder) - 1].hold(&content);
            }
            let maligned = plan.hostile.iter().any(|(vice, of)| *of == index && lies(*vice));
            Wanted { hash, content: Arc::new(content), certain: blob.steady.is_some(), maligned }
        };
        let blobs: Vec<_> = plan.blobs.iter().enumerate().map(wanted).collect();
        let start = |(index, (vice, blob)): (usize, &(Vice, usize))| {
            hostile::start(network, plan.hostile_number(index), &blobs[*blob].content, *vice)
        };
        let hostile = plan.hostile.iter().enumerate().map(start).collect();
        let readers = (0..plan.readers.len()).map(|index| start_reader(network, plan, index)).collect();
        Self { holders, readers, hostile, blobs }
    }

    /// Lets faults happen and readers read until the last reader is done.
    async fn live(&self, network: &MemoryNetwork, plan: &Plan) {
        let mut reads = JoinSet::new();
        for (node, node_plan) in self.readers.iter().zip(&plan.readers) {
            for read in &node_plan.reads {
                reads.spawn(readers::read(node.engine.clone(), read.clone(), self.blobs[read.blob].clone()));
            }
        }
        let start = Instant::now();
        for fault in &plan.faults {
            sleep_until(start + fault.at).await;
            match fault.kind {
                FaultKind::Set(kind) => {
                    network.set_fault(node_id(fault.node), kind);
                    if kind == Fault::Refuse {
                        network.cut(node_id(fault.node));
                    }
                }
                FaultKind::Cut => network.cut(node_id(fault.node)),
                FaultKind::Withdraw { blob } => {
                    // Refused where it is being served just now: then it stays.
                    let _ = self.holders[usize::from(fault.node) - 1].store.remove(&self.blobs[blob].hash);
                }
            }
        }
        while let Some(read) = reads.join_next().await {
            if let Err(error) = read {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }

    /// Takes the world down and checks that nothing is left of it.
    async fn end(self, network: &MemoryNetwork, runtime: &tokio::runtime::Handle, seed: u64) {
        sleep(REST_LIMIT).await;
        let metrics: Vec<_> = self.readers.iter().map(|node| node.metrics.clone()).collect();
        for node in &self.readers {
            assert!(node.engine.transfers().is_empty(), "seed {seed}: exchanges left in the table");
            assert_eq!(node.metrics.transfers_pending.get(), 0, "seed {seed}: the gauge of exchanges");
        }
        // While they live: with a node goes all that it should have given back.
        for node in self.readers.iter().chain(&self.holders) {
            node.assert_at_rest().await;
        }
        self.hostile.iter().for_each(AbortHandle::abort);
        drop((self.readers, self.holders));
        // Serving ends when its lanes have heard of it; nobody has to wait for a deadline.
        sleep(Duration::from_millis(10)).await;
        assert_eq!(runtime.metrics().num_alive_tasks(), 0, "seed {seed}: tasks left");
        assert_eq!(network.open_lanes(), 0, "seed {seed}: lanes left");
        for metrics in metrics {
            assert_eq!(metrics.budget_used_bytes.get(), 0, "seed {seed}: bytes of the budget left");
        }
    }
}

fn start_reader(network: &MemoryNetwork, plan: &Plan, index: usize) -> TestNode {
    let node = &plan.readers[index];
    let number = plan.reader_number(index);
    let mut peers: Vec<u8> = (1..=plan.holders).collect();
    peers.extend((0..plan.hostile.len()).map(|index| plan.hostile_number(index)));
    if node.knows_readers {
        peers.extend((0..plan.readers.len()).map(|other| plan.reader_number(other)).filter(|other| *other != number));
    }
    let link = Link::new(node.link.round_trip, node.link.rate);
    let dialer = SlowDialer::new(network.dialer(node_id(number)), link);
    TestNode::with_dialer(network, number, &peers, node.capacity, Arc::new(dialer))
}

/// Whether a holder with this vice sends bytes, proofs or sizes that are not those of the blob.
fn lies(vice: Vice) -> bool {
    matches!(
        vice,
        Vice::FlipsByte(_)
            | Vice::FlipsInLong
            | Vice::ClaimsMore(_)
            | Vice::ClaimsLess(_)
            | Vice::FlipsEnd(_)
            | Vice::AnswersMore(_)
            | Vice::AnswersLess(_)
    )
}
