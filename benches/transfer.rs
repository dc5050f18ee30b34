//! How fast, in one run on one machine, both ends on it:
//!
//! * floor: bare TLS lanes, 4 MiB requests, the bytes hashed as they arrive and thrown away;
//! * engine: one node fetches a blob from another into its store;
//! * cold: the blob is read through a mount whose node has to fetch it;
//! * warm: it is read there again;
//! * disk: the same bytes are read from a plain file that is in memory;
//! * write: the same bytes are written to a plain file, as the store has to.
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
use support::mounted::{Mounted, read};
use support::{
    LANES, Served, add, config, cpu_time, floor, median, pseudo_random, report_cpu, setting, touch_memory, write,
};

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
    let fuse = Path::new("/dev/fuse").exists();

    let names = ["floor, 1 lane", "floor, 4 lanes", "engine", "cold mount", "warm mount", "disk", "write"];
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); names.len()];
    for round in 0..rounds {
        let state = dir.path().join(format!("round-{round}"));
        std::fs::create_dir(&state).unwrap();
        let wanted = |row: usize| names[row].contains(&only);
        let mut times = [
            wanted(0).then(|| runtime.block_on(floor(1, len))),
            wanted(1).then(|| runtime.block_on(floor(LANES, len))),
            wanted(2).then(|| {
                touch_memory(&state, len);
                engine(&runtime, &state.join("engine"), &peer, hash)
            }),
        ]
        .to_vec();
        if fuse && (wanted(3) || wanted(4)) {
            touch_memory(&state, len);
            let mount = Mounted::start(&state, &peer);
            let file = mount.dir.join("by-hash").join(hash.to_string());
            let (own, nodes) = (cpu_time(), mount.cpu_time());
            let cold = read(&file, len);
            report_cpu("cold, holder and reader", cpu_time() - own, cold, len as u64);
            report_cpu("cold, mounted node", mount.cpu_time() - nodes, cold, len as u64);
            times.push(Some(cold));
            times.push(Some(read(&file, len)));
        } else {
            times.extend([None, None]);
        }
        read(&plain, len);
        times.push(wanted(5).then(|| read(&plain, len)));
        write(&state.join("scratch"), len);
        times.push(wanted(6).then(|| write(&state.join("scratch"), len)));
        for ((rate, time), name) in rates.iter_mut().zip(times).zip(names) {
            if let Some(time) = time {
                rate.push(len as f64 / 1e6 / time.as_secs_f64());
                println!("round {round}: {name:<14} {:>7.0} MB/s", rate[rate.len() - 1]);
            }
        }
        std::fs::remove_dir_all(&state).unwrap();
    }
    println!("\nmedian of {rounds} rounds, {mib} MiB");
    let floor = if rates[1].is_empty() { f64::NAN } else { median(&rates[1]) };
    for (name, rates) in names.iter().zip(&rates).filter(|(_, rates)| !rates.is_empty()) {
        println!(
            "{name:<14} {:>7.0} MB/s   {:>5.2} of the floor of {LANES} lanes",
            median(rates),
            median(rates) / floor
        );
    }
    runtime.block_on(holder.node.shutdown());
}

/// A fresh node fetches the blob into its store.
fn engine(runtime: &tokio::runtime::Runtime, state: &Path, peer: &PeerSpec, hash: ContentHash) -> Duration {
    runtime.block_on(async {
        let node = Node::start(&config(state, vec![peer.clone()])).await.unwrap();
        let (start, cpu) = (Instant::now(), cpu_time());
        node.engine().fetch(hash, |_, _| {}).await.unwrap();
        let elapsed = start.elapsed();
        report_cpu("engine", cpu_time() - cpu, elapsed, node.engine().known_size(&hash).unwrap_or(0));
        assert_eq!(node.engine().state(&hash), byhash::transfer::BlobState::Complete);
        node.shutdown().await;
        elapsed
    })
}
