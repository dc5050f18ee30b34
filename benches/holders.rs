//! Several holders, small blobs, and small reads beside large ones, in one run on one machine with all
//! nodes in this process:
//!
//! * floor: bare TLS lanes, as in `transfer`;
//! * engine, 1, 2 and 4 holders: a node fetches a blob that so many have;
//! * small blobs: eight readers read blobs of 4 KiB, each for the first time, against as many requests
//!   of 4 KiB over eight bare lanes;
//! * a small read: the time of one of 4 KiB, with nothing else going on, beside eight fetches of large
//!   blobs by the same node, and beside those of another;
//! * a read here: the holder's own reads of a blob it has, alone and while it serves eight fetches.
//!
//! `cargo bench --bench holders`; BYHASH_BENCH_MIB sets the blob's size in MiB (1024),
//! BYHASH_BENCH_SMALL the number of small blobs (10000), BYHASH_BENCH_ROUNDS the number of rounds (3) and
//! BYHASH_BENCH_ONLY the part to be run: holders, small blobs or beside bulk.
//! Ratios count; all nodes share the cores of one machine.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use byhash::ids::{BlobRange, ContentHash};
use byhash::transfer::{BlobSource, Engine, Priority};
use support::{LANES, Served, bare_lanes, cpu_time, floor, median, pseudo_random, report_cpu, setting, touch_memory};
use tokio::task::{JoinHandle, JoinSet};

/// Bytes of a small blob.
const SMALL_LEN: usize = 4096;

/// Who reads small blobs at the same time.
const SMALL_READERS: usize = 8;

/// Large blobs fetched at the same time.
const BULK: usize = 8;

/// Small reads whose times are taken.
const SAMPLES: usize = 300;

/// Bytes of each large blob beside which small ones are read.
const BULK_LEN: usize = 128 << 20;

/// Bytes that the holder reads for itself at a time.
const LOCAL_READ: u64 = 128 << 10;

fn main() {
    let (mib, small) = (setting("BYHASH_BENCH_MIB", 1024), setting("BYHASH_BENCH_SMALL", 10_000));
    let rounds = setting("BYHASH_BENCH_ROUNDS", 3);
    let only = std::env::var("BYHASH_BENCH_ONLY").unwrap_or_default();
    let runtime = byhash::daemon::runtime().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let wanted = |part: &str| part.contains(&only);
        if wanted("holders") {
            many_holders(dir.path(), mib << 20, rounds).await;
        }
        if wanted("small blobs") {
            small_blobs(dir.path(), small, rounds).await;
        }
        if wanted("beside bulk") {
            beside_bulk(dir.path()).await;
        }
    });
}

async fn many_holders(dir: &Path, len: usize, rounds: usize) {
    let bytes = pseudo_random(len);
    let (mut holders, mut hash) = (Vec::new(), ContentHash::EMPTY);
    for number in 0..4 {
        let holder = Served::start(&dir.join(format!("holder{number}")), Vec::new()).await;
        hash = holder.hold(&bytes).await;
        holders.push(holder);
    }
    drop(bytes);
    let mut rates = [const { Vec::new() }; 4];
    for round in 0..rounds {
        rates[0].push(floor(LANES, len).await);
        for (row, count) in [1, 2, 4].into_iter().enumerate() {
            let state = dir.join("fetching");
            let peers = holders[..count].iter().map(Served::spec).collect();
            touch_memory(dir, len);
            // What a holder has to get from the disk would measure the disk.
            for holder in &holders[..count] {
                holder.read_all(hash).await;
            }
            let node = Served::start(&state, peers).await;
            let (start, cpu) = (Instant::now(), cpu_time());
            node.node.engine().fetch(hash, |_, _| {}).await.unwrap();
            let elapsed = start.elapsed();
            report_cpu(&format!("{count} holders"), cpu_time() - cpu, elapsed, len as u64);
            rates[row + 1].push(elapsed);
            node.node.shutdown().await;
            std::fs::remove_dir_all(state).unwrap();
        }
        println!("round {round}: {:?}", rates.each_ref().map(|times| times[round]));
    }
    let rate = |times: &[Duration]| {
        median(&times.iter().map(|time| len as f64 / 1e6 / time.as_secs_f64()).collect::<Vec<_>>())
    };
    println!("\nmedian of {rounds} rounds, {} MiB", len >> 20);
    let floor = rate(&rates[0]);
    for (name, times) in ["floor, 4 lanes", "1 holder", "2 holders", "4 holders"].iter().zip(&rates) {
        println!("{name:<14} {:>7.0} MB/s   {:>5.2} of the floor", rate(times), rate(times) / floor);
    }
    for holder in holders {
        holder.node.shutdown().await;
    }
}

/// Reads all of a blob, as a program does that has its name only.
async fn read_whole(engine: &Engine, hash: ContentHash) -> usize {
    let size = engine.size(hash).await.unwrap();
    engine.open(hash, size).read(BlobRange::new(0, size), Priority::Foreground).await.unwrap().len()
}

async fn small_blobs(dir: &Path, count: usize, rounds: usize) {
    let holder = Served::start(&dir.join("small-holder"), Vec::new()).await;
    let mut hashes = Vec::with_capacity(count);
    let mut bytes = vec![0; SMALL_LEN];
    for number in 0..count as u64 {
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        hashes.push(holder.hold(&bytes).await);
    }
    let hashes: Arc<[ContentHash]> = hashes.into();
    let (mut floors, mut engines) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        floors.push(bare_lanes(SMALL_READERS, count, SMALL_LEN).await.as_secs_f64());
        // Not removed until the end: ext4 without a journal is slow to make files where some have just gone.
        let state = dir.join(format!("small-reader{round}"));
        let node = Served::start(&state, vec![holder.spec()]).await;
        let next = Arc::new(AtomicUsize::new(0));
        let (start, cpu, mut readers) = (Instant::now(), cpu_time(), JoinSet::new());
        for _ in 0..SMALL_READERS {
            let (engine, hashes, next) = (node.node.engine().clone(), hashes.clone(), next.clone());
            readers.spawn(async move {
                while let Some(hash) = hashes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    assert_eq!(read_whole(&engine, *hash).await, SMALL_LEN);
                }
            });
        }
        readers.join_all().await;
        let elapsed = start.elapsed();
        engines.push(elapsed.as_secs_f64());
        report_cpu("small blobs", cpu_time() - cpu, elapsed, (count * SMALL_LEN) as u64);
        node.node.shutdown().await;
    }
    let (floor, engine) = (median(&floors), median(&engines));
    println!("\n{count} blobs of {SMALL_LEN} bytes, {SMALL_READERS} readers, median of {rounds} rounds");
    println!("bare lanes     {:>7.0} a second", count as f64 / floor);
    println!("engine         {:>7.0} a second   {:>5.2} of the bare lanes", count as f64 / engine, floor / engine);
    holder.node.shutdown().await;
}

/// Large blobs being fetched.
struct Bulk(Vec<JoinHandle<()>>);

impl Bulk {
    fn start(node: &Served, hashes: &[ContentHash]) -> Self {
        touch_memory(&node.state, hashes.len() * BULK_LEN);
        let fetch = |hash: &ContentHash| {
            let (engine, hash) = (node.node.engine().clone(), *hash);
            tokio::spawn(async move { assert!(engine.fetch(hash, |_, _| {}).await.is_ok()) })
        };
        Self(hashes.iter().map(fetch).collect())
    }

    /// Whether all of them are still under way.
    fn goes_on(&self) -> bool {
        self.0.iter().all(|fetch| !fetch.is_finished())
    }

    /// Waits for its end, and until `node` has written to the disk what came: else it would do so in the next part.
    async fn end(self, node: &Served) {
        for fetch in self.0 {
            fetch.await.unwrap();
        }
        let store = node.node.store().clone();
        tokio::task::spawn_blocking(move || store.flush().unwrap()).await.unwrap();
    }
}

/// The times of reads of small blobs in milliseconds, sorted, as long as `goes_on`.
async fn small_reads(node: &Served, hashes: &[ContentHash], goes_on: impl Fn() -> bool) -> Vec<f64> {
    let mut times = Vec::new();
    for hash in hashes {
        let start = Instant::now();
        read_whole(node.node.engine(), *hash).await;
        if !goes_on() {
            break;
        }
        times.push(start.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    times.sort_by(f64::total_cmp);
    times
}

/// Bytes a second of the node's own reads of a blob that it has, as long as `goes_on`.
async fn local_reads(node: &Served, hash: ContentHash, goes_on: impl Fn() -> bool) -> f64 {
    let reader = node.node.engine().open(hash, BULK_LEN as u64);
    let (start, mut done) = (Instant::now(), 0);
    while goes_on() {
        let at = done % BULK_LEN as u64;
        done += reader.read(BlobRange::new(at, at + LOCAL_READ), Priority::Foreground).await.unwrap().len() as u64;
    }
    done as f64 / start.elapsed().as_secs_f64()
}

async fn beside_bulk(dir: &Path) {
    let holder = Served::start(&dir.join("bulk-holder"), Vec::new()).await;
    let mut bytes = pseudo_random(BULK_LEN);
    let (mut large, mut small) = (Vec::new(), Vec::new());
    for number in 0..BULK as u64 {
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        large.push(holder.hold(&bytes).await);
    }
    for number in 0..3 * SAMPLES as u64 {
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        small.push(holder.hold(&bytes[..SMALL_LEN]).await);
    }
    drop(bytes);
    let node = |name: &str| {
        let (state, peers) = (dir.join(name), vec![holder.spec()]);
        async move { Served::start(&state, peers).await }
    };
    let (own, other, third) = (node("own").await, node("other").await, node("third").await);
    let mut samples = small.chunks(SAMPLES);
    let mut sample = || samples.next().unwrap();
    // The first reads open the lanes.
    for hash in &sample()[..SAMPLES / 10] {
        read_whole(own.node.engine(), *hash).await;
    }
    let alone = small_reads(&own, &small[SAMPLES / 10..SAMPLES], || true).await;
    let bulk = Bulk::start(&other, &large);
    let beside_other = small_reads(&own, sample(), || bulk.goes_on()).await;
    bulk.end(&other).await;
    let bulk = Bulk::start(&own, &large);
    let beside_own = small_reads(&own, sample(), || bulk.goes_on()).await;
    bulk.end(&own).await;
    println!("\na blob of {SMALL_LEN} bytes read for the first time, beside {BULK} fetches of {} MiB", BULK_LEN >> 20);
    let at = |times: &[f64], part: f64| times[((times.len() - 1) as f64 * part) as usize];
    for (name, times) in [("nothing", &alone), ("another's", &beside_other), ("its own", &beside_own)] {
        if times.is_empty() {
            println!("{name:<14} over before the first read");
            continue;
        }
        let (p50, p99) = (at(times, 0.5), at(times, 0.99));
        let ratio = p99 / at(&alone, 0.99);
        println!(
            "{name:<14} p50 {p50:>6.2} ms   p99 {p99:>6.2} ms   {ratio:>5.1} of p99 alone   {} reads",
            times.len()
        );
    }
    let start = Instant::now();
    let alone = local_reads(&holder, large[0], || start.elapsed() < Duration::from_secs(1)).await;
    let bulk = Bulk::start(&third, &large);
    let serving = local_reads(&holder, large[0], || bulk.goes_on()).await;
    bulk.end(&third).await;
    println!("\nthe holder's own reads, {} KiB each", LOCAL_READ >> 10);
    println!("alone          {:>7.0} MB/s", alone / 1e6);
    println!("while serving  {:>7.0} MB/s   {:>5.2} of alone", serving / 1e6, serving / alone);
    for served in [own, other, third, holder] {
        served.node.shutdown().await;
    }
}
