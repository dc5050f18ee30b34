//! How fast, in one run on one machine, both ends on it:
//!
//! * floor: bare TLS lanes, 4 MiB requests, the bytes hashed as they arrive and thrown away;
//! * engine: one node fetches a blob from another into its store;
//! * cold: the blob is read through a mount whose node has to fetch it;
//! * warm: it is read there again;
//! * disk: the same bytes are read from a plain file that is in memory;
//! * write: the same bytes are written to a plain file, as the store has to;
//! * fuse: as many are read through a file system in user space that does nothing for them.
//!
//! Where the processors limit, what can be reached is what the parts leave: the last lines say how much of the floor a
//! fetch and a cold read could have that took no time for anything but the floor's work, the disk's, the write and the FUSE.
//!
//! The holder has read the blob before: it is in memory, and known to be right. Before each part that fills memory, memory is touched (see `support::touch_memory`).
//!
//! `cargo bench --bench transfer`; BYHASH_BENCH_MIB sets the blob's size in MiB (1024) and
//! BYHASH_BENCH_ROUNDS the number of rounds (3), BYHASH_BENCH_ONLY the part of a row's name that a
//! row must have to be run. Prints each round and the medians; the ratios are what counts.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use byhash::daemon::Node;
use byhash::ids::{ContentHash, PeerSpec};
use byhash::transfer::BlobSource;
use support::bare_fuse::BareFuse;
use support::mounted::{Mounted, read};
use support::{LANES, Served, add, config, cpu_time, floor, median, pseudo_random, setting, touch_memory, write};

/// What one part of a round took.
#[derive(Clone, Copy)]
struct Spent {
    elapsed: Duration,
    /// Of both ends together.
    processor: Duration,
}

/// What a part took in each round.
struct Row {
    name: &'static str,
    rounds: Vec<Spent>,
}

impl Row {
    const fn new(name: &'static str) -> Self {
        Self { name, rounds: Vec::new() }
    }

    fn rate(&self, len: usize) -> f64 {
        self.median(|spent| len as f64 / 1e6 / spent.elapsed.as_secs_f64())
    }

    /// Nanoseconds of processor time a byte.
    fn cost(&self, len: usize) -> f64 {
        self.median(|spent| spent.processor.as_secs_f64() * 1e9 / len as f64)
    }

    fn median(&self, of: impl Fn(&Spent) -> f64) -> f64 {
        if self.rounds.is_empty() { f64::NAN } else { median(&self.rounds.iter().map(of).collect::<Vec<_>>()) }
    }
}

fn main() {
    let mib: usize = setting("BYHASH_BENCH_MIB", 1024);
    let rounds: usize = setting("BYHASH_BENCH_ROUNDS", 3);
    let only = std::env::var("BYHASH_BENCH_ONLY").unwrap_or_default();
    let len = mib << 20;
    let runtime = byhash::daemon::runtime().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    std::fs::write(&plain, pseudo_random(len)).unwrap();

    let holder = runtime.block_on(Served::start(&dir.path().join("holder"), Vec::new()));
    let hash = add(&holder.node, &holder.state, &plain);
    runtime.block_on(holder.read_all(hash));
    let peer = holder.spec();
    let has_fuse = Path::new("/dev/fuse").exists();

    let [mut one, mut four, mut fetched, mut cold, mut warm, mut disk, mut written, mut bare] =
        ["floor, 1 lane", "floor, 4 lanes", "engine", "cold mount", "warm mount", "disk", "write", "fuse"]
            .map(Row::new);
    for round in 0..rounds {
        let state = dir.path().join(format!("round-{round}"));
        std::fs::create_dir(&state).unwrap();
        let wanted = |row: &Row| row.name.contains(&only);
        let note = |row: &mut Row, spent: Spent| {
            row.rounds.push(spent);
            let rate = len as f64 / 1e6 / spent.elapsed.as_secs_f64();
            let cores = spent.processor.as_secs_f64() / spent.elapsed.as_secs_f64();
            println!("round {round}: {:<14} {rate:>7.0} MB/s, {cores:.2} cores busy", row.name);
        };
        for (row, lanes) in [(&mut one, 1), (&mut four, LANES)] {
            if wanted(row) {
                note(row, measured(|| runtime.block_on(floor(lanes, len))));
            }
        }
        if wanted(&fetched) {
            touch_memory(&state, len);
            note(&mut fetched, engine(&runtime, &state.join("engine"), &peer, hash));
        }
        if has_fuse && (wanted(&cold) || wanted(&warm)) {
            touch_memory(&state, len);
            let mount = Mounted::start(&state, &peer);
            for row in [&mut cold, &mut warm] {
                let nodes = mount.cpu_time();
                let own = measured(|| read(&mount.file(hash), len));
                note(row, Spent { processor: own.processor + mount.cpu_time() - nodes, ..own });
            }
        }
        if wanted(&disk) {
            read(&plain, len);
            note(&mut disk, measured(|| read(&plain, len)));
        }
        if wanted(&written) {
            write(&state.join("scratch"), len);
            note(&mut written, measured(|| write(&state.join("scratch"), len)));
        }
        if has_fuse && wanted(&bare) {
            touch_memory(&state, len);
            let mount = BareFuse::mount(&state.join("bare"), len);
            note(&mut bare, measured(|| read(&mount.file(), len)));
        }
        std::fs::remove_dir_all(&state).unwrap();
    }
    println!("\nmedian of {rounds} rounds, {mib} MiB");
    for row in [&one, &four, &fetched, &cold, &warm, &disk, &written, &bare] {
        println!(
            "{:<14} {:>7.0} MB/s   {:>5.2} of the floor of {LANES} lanes   {:.2} ns of processor time a byte",
            row.name,
            row.rate(len),
            row.rate(len) / four.rate(len),
            row.cost(len)
        );
    }
    let least = four.cost(len) + disk.cost(len) + written.cost(len);
    println!("a fetch that took what floor, disk and write take: {:.2} of the floor", four.cost(len) / least);
    let least = least + bare.cost(len);
    println!("a cold read that took what they and fuse take: {:.2} of the floor", four.cost(len) / least);
    runtime.block_on(holder.node.shutdown());
}

/// What `part`, which says how long it was about it, took of this process.
fn measured(part: impl FnOnce() -> Duration) -> Spent {
    let before = cpu_time();
    let elapsed = part();
    Spent { elapsed, processor: cpu_time() - before }
}

/// A fresh node fetches the blob into its store.
fn engine(runtime: &tokio::runtime::Runtime, state: &Path, peer: &PeerSpec, hash: ContentHash) -> Spent {
    runtime.block_on(async {
        let node = Node::start(&config(state, vec![peer.clone()])).await.unwrap();
        let (start, cpu) = (Instant::now(), cpu_time());
        node.engine().fetch(hash, |_, _| {}).await.unwrap();
        let spent = Spent { elapsed: start.elapsed(), processor: cpu_time() - cpu };
        assert_eq!(node.engine().state(&hash), byhash::transfer::BlobState::Complete);
        node.shutdown().await;
        spent
    })
}
