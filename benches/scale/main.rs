//! How it scales on one machine: many readers, many nodes, blobs of every size; and what memory that takes.
//!
//! * readers: 1 to 64 of them at once, each with a cold blob of its own, 1 GiB in all;
//! * swarm: one blob, read at once by 16 nodes that have nothing of it, know each other and the one node that
//!   has it (the seed): how many times over the seed sends it, and how long they take. The seed sends at a
//!   limited rate, as over a link that all of them share;
//! * sizes: blobs from a byte on, read to their end, cold and warm. Large ones are zeros but for their
//!   beginning and end, so that they take room on the disk once.
//!
//! `cargo bench --bench scale`. BYHASH_BENCH_MIB sets the size in all of the readers' blobs in MiB (1024),
//! BYHASH_BENCH_SWARM_MIB that of the swarm's (256), BYHASH_BENCH_NODES the nodes of the swarm (16),
//! BYHASH_BENCH_SEED_MB what the seed sends in a second, in MB (125, as over 1 Gbit/s; 0: as fast as it goes),
//! BYHASH_BENCH_LARGE_MIB the largest size (4096), BYHASH_BENCH_ONLY which of the three is run. Memory is the
//! most that was resident (VmHWM), of the node that reads and of the one that serves.

mod sizes;
mod swarm;

#[path = "../support/mod.rs"]
mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use byhash::ids::ContentHash;
use support::mounted::read;
use support::running::Seat;
use support::{pseudo_random, setting};

/// How many read at once.
const READERS: [usize; 6] = [1, 2, 4, 8, 16, 64];

fn main() {
    let only = std::env::var("BYHASH_BENCH_ONLY").unwrap_or_default();
    let dir = tempfile::tempdir().unwrap();
    if "readers".contains(&only) {
        readers(&dir.path().join("readers"), setting("BYHASH_BENCH_MIB", 1024) << 20);
    }
    if "swarm".contains(&only) {
        let len = setting("BYHASH_BENCH_SWARM_MIB", 256) << 20;
        let (nodes, rate) = (setting("BYHASH_BENCH_NODES", 16), setting("BYHASH_BENCH_SEED_MB", 125));
        swarm::swarm(&dir.path().join("swarm"), len, nodes, rate);
    }
    if "sizes".contains(&only) {
        sizes::sizes(&dir.path().join("sizes"), (setting("BYHASH_BENCH_LARGE_MIB", 4096) as u64) << 20);
    }
}

/// Each with a blob of its own, through one mount that has nothing yet.
fn readers(dir: &Path, all: usize) {
    std::fs::create_dir(dir).unwrap();
    let holder = Seat::new(&dir.join("holder"));
    let node = holder.serve(&[]);
    println!("readers  MB/s in all  memory of the reader  of the holder");
    for count in READERS {
        let len = all / count;
        let home = dir.join(count.to_string());
        std::fs::create_dir(&home).unwrap();
        let blobs = blobs(&holder, &home, len, count);
        let seat = Seat::new(&home.join("reader"));
        let mount = home.join("mount");
        let reader = seat.mount(&mount, std::slice::from_ref(&node.peer));
        node.process.forget_peak();
        let start = Instant::now();
        std::thread::scope(|scope| {
            for hash in &blobs {
                scope.spawn(|| read(&file(&mount, *hash), len));
            }
        });
        let rate = (len * count) as f64 / 1e6 / start.elapsed().as_secs_f64();
        println!(
            "{count:>7}  {rate:>11.0}  {:>16} MiB  {:>9} MiB",
            reader.process.peak_memory() >> 20,
            node.process.peak_memory() >> 20
        );
        blobs.iter().for_each(|hash| drop(holder.output(&["rm", &hash.to_string()])));
        drop(reader);
        std::fs::remove_dir_all(home).unwrap();
    }
    println!();
    drop(node);
    std::fs::remove_dir_all(dir).unwrap();
}

/// The file of a blob in a mount.
fn file(mount: &Path, hash: ContentHash) -> PathBuf {
    mount.join("by-hash").join(hash.to_string())
}

/// Adds `count` blobs of `len` bytes, none like another, to the node at `seat`.
fn blobs(seat: &Seat, dir: &Path, len: usize, count: usize) -> Vec<ContentHash> {
    let path = dir.join("plain");
    std::fs::write(&path, pseudo_random(len)).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    let add = |number: usize| {
        file.write_all_at(&(number as u64).to_le_bytes()[..len.min(8)], 0).unwrap();
        seat.add(std::slice::from_ref(&path))[0]
    };
    let hashes = (0..count).map(add).collect();
    std::fs::remove_file(path).unwrap();
    hashes
}
