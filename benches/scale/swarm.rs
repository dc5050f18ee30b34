//! One blob, many nodes at once.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use byhash::ids::PeerSpec;

use crate::support::mounted::read;
use crate::support::running::{NodeProcess, Seat};
use crate::{blobs, file};

/// How long a node may take to have opened a lane to each other one.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn swarm(dir: &Path, len: usize, count: usize, rate: usize) {
    std::fs::create_dir(dir).unwrap();
    let seed_seat = Seat::new(&dir.join("seed"));
    let hash = blobs(&seed_seat, dir, len, 1)[0];
    let limit = [format!("--serve-rate={rate}MB")];
    let seed = seed_seat.serve_with(&[], if rate > 0 { &limit } else { &[] });
    let seats: Vec<(Seat, PeerSpec)> = (0..count).map(|number| seat(dir, number)).collect();
    let mounts: Vec<PathBuf> = (0..count).map(|number| dir.join(format!("mount-{number}"))).collect();
    let start_one = |number: usize| {
        let others = seats.iter().enumerate().filter(|(other, _)| *other != number).map(|(_, (_, peer))| peer);
        let peers: Vec<PeerSpec> = others.chain([&seed.peer]).cloned().collect();
        seats[number].0.mount(&mounts[number], &peers)
    };
    let nodes: Vec<NodeProcess> = (0..count).map(start_one).collect();
    // All are to know each other before it begins.
    for (seat, _) in &seats {
        let start = Instant::now();
        while seat.metric("lanes_dialled") < count as u64 {
            assert!(start.elapsed() < PATIENCE, "{} does not reach all others", seat.listen);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let start = Instant::now();
    let times: Vec<f64> = std::thread::scope(|scope| {
        let one = |mount: &PathBuf| {
            let file = file(mount, hash);
            scope.spawn(move || read(&file, len).as_secs_f64())
        };
        let readers: Vec<_> = mounts.iter().map(one).collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    let elapsed = start.elapsed().as_secs_f64();
    let copies = |bytes: u64| bytes as f64 / len as f64;
    let sent = seed_seat.metric("served_bytes");
    let served: u64 = seats.iter().map(|(seat, _)| seat.metric("served_bytes")).sum();
    let fetched: u64 = seats.iter().map(|(seat, _)| seat.metric("fetched_bytes")).sum();
    let memory = nodes.iter().map(|node| node.process.peak_memory()).max().unwrap_or(0);
    let (first, last) = (times.iter().copied().fold(f64::MAX, f64::min), times.iter().copied().fold(0.0, f64::max));
    let limited = if rate > 0 { format!("at {rate} MB/s at most") } else { "as fast as it goes".to_owned() };
    println!(
        "swarm: {count} nodes read {} MiB at once from each other and one seed, which sends {limited}:\n\
         the seed sent it {:.2} times over, the others {:.2} times; fetched {:.2} times in all\n\
         done after {first:.1} to {last:.1} s, {:.0} MB/s in all; memory {} MiB at most\n",
        len >> 20,
        copies(sent),
        copies(served),
        copies(fetched),
        (len * count) as f64 / 1e6 / elapsed,
        memory >> 20
    );
    drop((nodes, seed));
    std::fs::remove_dir_all(dir).unwrap();
}

/// A place for a node, and its name for others before it runs.
fn seat(dir: &Path, number: usize) -> (Seat, PeerSpec) {
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let seat = Seat { listen, ..Seat::new(&dir.join(format!("node-{number}"))) };
    let id = seat.output(&["id"]);
    let peer = format!("{}@{}", id.trim(), seat.listen).parse().unwrap();
    (seat, peer)
}
