//! What a seed draws: a world, before anything of it exists.

use std::time::Duration;

use byhash::transport::memory::Fault;

use crate::dice::Dice;
use crate::support::hostile::{VICES, Vice};

const KIB: u64 = 1024;
const GROUP: u64 = 16 * KIB;

/// Sizes around which something changes: one group, the first exchange, a segment, a few of them.
const SIZES: &[u64] = &[GROUP, 4 * GROUP, 16 * GROUP, 2048 * KIB, 5000 * KIB];

/// How many of 100 worlds have about twenty nodes and more.
const LARGE_PERCENT: u64 = 5;

/// How long faults go on happening.
const FAULTY_TIME_MS: u64 = 8000;

/// A world.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub blobs: Vec<BlobPlan>,
    /// How many honest holders there are. They are nodes 1, 2 and so on.
    pub holders: u8,
    /// The nodes with readers; their numbers follow.
    pub readers: Vec<NodePlan>,
    /// Holders that misbehave, each with one blob: what it does and the blob's index.
    pub hostile: Vec<(Vice, usize)>,
    /// In order of time.
    pub faults: Vec<FaultPlan>,
}

#[derive(Debug, Clone)]
pub struct BlobPlan {
    pub size: u64,
    /// The honest holders that have it.
    pub held_by: Vec<u8>,
    /// One of them that no fault touches: reading the blob must not fail.
    pub steady: Option<u8>,
}

#[derive(Debug, Clone)]
pub struct NodePlan {
    /// Bytes of its cache.
    pub capacity: u64,
    pub link: LinkPlan,
    /// Whether it may also fetch from the other nodes with readers.
    pub knows_readers: bool,
    pub reads: Vec<ReadPlan>,
}

/// What is between a node and all its peers.
#[derive(Debug, Clone, Copy)]
pub struct LinkPlan {
    pub round_trip: Duration,
    /// Bytes a second, over all lanes.
    pub rate: u64,
}

#[derive(Debug, Clone)]
pub struct ReadPlan {
    pub start: Duration,
    pub blob: usize,
    pub kind: ReadKind,
    pub seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadKind {
    /// From beginning to end in steps of so many bytes, with read-ahead if told so.
    Stream { step: u64, ahead: bool },
    /// So many ranges anywhere.
    Random { reads: u64 },
    /// So many readers of the same range at once.
    Crowd { readers: u64 },
    /// A stream whose reader goes away after so many milliseconds.
    Quits { after_ms: u64 },
    /// Into the cache, as `byhash get` does.
    Fetch,
}

#[derive(Debug, Clone)]
pub struct FaultPlan {
    pub at: Duration,
    pub node: u8,
    pub kind: FaultKind,
}

#[derive(Debug, Clone, Copy)]
pub enum FaultKind {
    Set(Fault),
    Cut,
    /// It no longer has the blob with this index.
    Withdraw {
        blob: usize,
    },
}

impl Plan {
    pub fn draw(seed: u64) -> Self {
        let dice = &mut Dice::new(seed);
        let large = dice.chance(LARGE_PERCENT);
        let holders = if large { dice.number(10..13) } else { dice.number(1..5) } as u8;
        let steady: Vec<u8> = (1..=holders).filter(|_| dice.chance(50)).collect();
        let blobs: Vec<_> = (0..dice.number(1..6)).map(|_| draw_blob(dice, holders, &steady)).collect();
        let crowd = if large { dice.number(8..12) } else { dice.number(1..4) };
        let readers = (0..crowd).map(|_| draw_node(dice, blobs.len())).collect();
        let vicious = if large { dice.number(2..6) } else { dice.number(0..4) };
        let hostile = (0..vicious).map(|_| (dice.pick(VICES), draw_index(dice, blobs.len()))).collect();
        let mut faults = draw_faults(dice, holders, &steady);
        if dice.chance(40) {
            faults.extend(draw_partition(dice, holders, &steady));
        }
        faults.extend(draw_withdrawals(dice, &blobs));
        faults.sort_by_key(|fault| fault.at);
        Self { seed, blobs, holders, readers, hostile, faults }
    }

    /// The number of the reading node with index `index`.
    pub fn reader_number(&self, index: usize) -> u8 {
        self.holders + 1 + index as u8
    }

    /// The number of the hostile holder with index `index`.
    pub fn hostile_number(&self, index: usize) -> u8 {
        self.reader_number(self.readers.len()) + index as u8
    }
}

fn draw_index(dice: &mut Dice, len: usize) -> usize {
    dice.number(0..len as u64) as usize
}

fn draw_blob(dice: &mut Dice, holders: u8, steady: &[u8]) -> BlobPlan {
    let size = match dice.number(0..3) {
        0 => (dice.pick(SIZES) + dice.number(0..3) - 1).max(1),
        1 => dice.number(1..300 * KIB),
        _ => dice.number(1..4000 * KIB),
    };
    let held_by: Vec<u8> = (1..=holders).filter(|_| dice.chance(60)).collect();
    let steady = held_by.iter().copied().find(|holder| steady.contains(holder));
    BlobPlan { size, held_by, steady }
}

fn draw_node(dice: &mut Dice, blobs: usize) -> NodePlan {
    let link = LinkPlan {
        round_trip: Duration::from_micros(dice.pick(&[0, 200, 5_000, 60_000])),
        rate: dice.pick(&[u64::MAX, 100_000_000, 5_000_000, 1_000_000]),
    };
    NodePlan {
        capacity: dice.pick(&[1 << 30, 1 << 30, 3 << 20, 300 << 10, 0]),
        link,
        knows_readers: dice.chance(50),
        reads: (0..dice.number(1..9)).map(|_| draw_read(dice, blobs)).collect(),
    }
}

fn draw_read(dice: &mut Dice, blobs: usize) -> ReadPlan {
    let kind = match dice.number(0..6) {
        0 | 1 => ReadKind::Stream { step: dice.pick(&[40_000, 128 * KIB, 1024 * KIB]), ahead: dice.chance(70) },
        2 => ReadKind::Random { reads: dice.number(1..12) },
        3 => ReadKind::Crowd { readers: dice.number(2..20) },
        4 => ReadKind::Quits { after_ms: dice.number(1..1500) },
        _ => ReadKind::Fetch,
    };
    let start = Duration::from_millis(dice.number(0..FAULTY_TIME_MS));
    ReadPlan { start, blob: draw_index(dice, blobs), kind, seed: dice.number(0..u64::MAX) }
}

/// Faults of all holders that are not steady; the lanes even of those may be cut.
fn draw_faults(dice: &mut Dice, holders: u8, steady: &[u8]) -> Vec<FaultPlan> {
    let mut faults = Vec::new();
    for node in 1..=holders {
        for _ in 0..dice.number(0..5) {
            let at = Duration::from_millis(dice.number(0..FAULTY_TIME_MS));
            let kind = if steady.contains(&node) || dice.chance(30) {
                FaultKind::Cut
            } else {
                FaultKind::Set(dice.pick(&[Fault::None, Fault::Refuse, Fault::BlackHole]))
            };
            faults.push(FaultPlan { at, node, kind });
        }
    }
    faults
}

/// Some of the holders that are not steady fall silent together, and come back together.
fn draw_partition(dice: &mut Dice, holders: u8, steady: &[u8]) -> Vec<FaultPlan> {
    let from = dice.number(0..FAULTY_TIME_MS);
    let until = from + dice.number(100..4000);
    let cut_off: Vec<u8> = (1..=holders).filter(|node| !steady.contains(node) && dice.chance(60)).collect();
    let both = [(from, Fault::BlackHole), (until, Fault::None)];
    let at = |(at, fault)| cut_off.iter().map(move |node| (Duration::from_millis(at), *node, FaultKind::Set(fault)));
    both.into_iter().flat_map(at).map(|(at, node, kind)| FaultPlan { at, node, kind }).collect()
}

/// Holders that are not the steady one of a blob lose it.
fn draw_withdrawals(dice: &mut Dice, blobs: &[BlobPlan]) -> Vec<FaultPlan> {
    let mut faults = Vec::new();
    for (index, blob) in blobs.iter().enumerate() {
        for node in blob.held_by.iter().filter(|node| blob.steady != Some(**node)) {
            if dice.chance(20) {
                let at = Duration::from_millis(dice.number(0..FAULTY_TIME_MS));
                faults.push(FaultPlan { at, node: *node, kind: FaultKind::Withdraw { blob: index } });
            }
        }
    }
    faults
}
