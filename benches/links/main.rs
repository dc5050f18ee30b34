//! Cold reads over links that are slower or longer than the machine: what a node makes of them.
//!
//! * rate: two hosts (network namespaces) with a link of 1 Gbit/s and of 100 Mbit/s (`tc tbf`) between them:
//!   `cat` of a cold blob beside a bare TCP stream of as many bytes;
//! * delay: a round trip of 20 ms and of 100 ms, by a relay that holds back whatever comes, in each
//!   direction, and takes any amount: bytes under way while a cold blob is read to its end, the time to the
//!   first byte, and to read small files by eight readers. The connections are open before;
//! * both: 1 Gbit/s and 100 ms.
//!
//! `cargo bench --bench links`, as root. BYHASH_BENCH_MIB sets the blob's size in MiB (256; an eighth of it at
//! 100 Mbit/s), BYHASH_BENCH_FILES the number of small files (1000), BYHASH_BENCH_ROUNDS the number of rounds
//! (3), BYHASH_BENCH_ONLY the part of a link's name that it must have to be measured (such as `1gbit` or `20 ms`).
//! Prints each round and the medians.

mod hosts;
mod relay;

#[path = "../support/mod.rs"]
mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use byhash::ids::{ContentHash, PeerSpec};
use hosts::{ADDRESSES, Hosts};
use support::mounted::read;
use support::running::{NodeProcess, Seat};
use support::{median, pseudo_random, setting};

/// Bytes of a small file.
const SMALL_LEN: usize = 4096;

/// Readers of small files.
const READERS: usize = 8;

/// Blobs of which the first byte is waited for, a round.
const FIRSTS: usize = 5;

/// Bytes of such a blob: more than what comes with the first look at it.
const FIRST_LEN: usize = 1 << 20;

fn main() {
    let len = setting("BYHASH_BENCH_MIB", 256) << 20;
    let files = setting("BYHASH_BENCH_FILES", 1000);
    let rounds = setting("BYHASH_BENCH_ROUNDS", 3);
    let only = std::env::var("BYHASH_BENCH_ONLY").unwrap_or_default();
    let dir = tempfile::tempdir().unwrap();
    for (rate, len) in [("1gbit", len), ("100mbit", len / 8)] {
        if rate.contains(&only) {
            over_rate(dir.path(), rate, len, rounds);
        }
    }
    for round_trip in [20, 100] {
        if format!("{round_trip} ms").contains(&only) {
            over_delay(dir.path(), Duration::from_millis(round_trip), len, files, rounds);
        }
    }
    if "both".contains(&only) {
        over_both(dir.path(), "1gbit", Duration::from_millis(100), len, rounds);
    }
}

/// What there is to read: one blob a round of each kind.
struct Blobs {
    large: Vec<ContentHash>,
    firsts: Vec<Vec<ContentHash>>,
    small: Vec<Vec<ContentHash>>,
}

impl Blobs {
    /// Adds them to the node at `seat`, with files below `dir` for a while.
    fn add(seat: &Seat, dir: &Path, len: usize, files: usize, rounds: usize) -> Self {
        let mut bytes = pseudo_random(len.max(FIRST_LEN));
        let mut number = 0_u64;
        let mut add = |len: usize, count: usize| {
            let folder = dir.join("blobs");
            std::fs::create_dir(&folder).unwrap();
            let paths: Vec<PathBuf> = (0..count).map(|n| folder.join(n.to_string())).collect();
            for path in &paths {
                number += 1;
                bytes[..8].copy_from_slice(&number.to_le_bytes());
                std::fs::write(path, &bytes[..len]).unwrap();
            }
            let hashes = seat.add(&paths);
            std::fs::remove_dir_all(folder).unwrap();
            hashes
        };
        let large = (0..rounds).flat_map(|_| add(len, 1)).collect();
        let firsts = (0..rounds).map(|_| add(FIRST_LEN, FIRSTS)).collect();
        let small = (0..rounds).map(|_| add(SMALL_LEN, files)).collect();
        Self { large, firsts, small }
    }
}

/// A node that mounts, with a connection open to its only peer.
struct Reader {
    by_hash: PathBuf,
    _node: NodeProcess,
}

impl Reader {
    fn start(seat: &Seat, peer: &PeerSpec) -> Self {
        let dir = seat.state.with_extension("mount");
        let node = seat.mount(&dir, std::slice::from_ref(peer));
        while seat.metric("lanes_dialled") == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { by_hash: dir.join("by-hash"), _node: node }
    }

    fn file(&self, hash: ContentHash) -> PathBuf {
        self.by_hash.join(hash.to_string())
    }

    /// Seconds from the open to the first bytes.
    fn first_byte(&self, hash: ContentHash) -> f64 {
        let start = Instant::now();
        File::open(self.file(hash)).unwrap().read_exact(&mut [0; 4096]).unwrap();
        start.elapsed().as_secs_f64()
    }

    /// Seconds for all of `hashes`, by several readers.
    fn small_files(&self, hashes: &[ContentHash]) -> f64 {
        let (next, start) = (AtomicUsize::new(0), Instant::now());
        std::thread::scope(|scope| {
            for _ in 0..READERS {
                scope.spawn(|| {
                    while let Some(hash) = hashes.get(next.fetch_add(1, Ordering::Relaxed)) {
                        assert_eq!(std::fs::read(self.file(*hash)).unwrap().len(), SMALL_LEN);
                    }
                });
            }
        });
        start.elapsed().as_secs_f64()
    }
}

/// Two hosts, a holder on the first and a reader on the second of them.
fn over_rate(dir: &Path, rate: &str, len: usize, rounds: usize) {
    let (dir, hosts) = (dir.join(rate), Hosts::new(rate));
    std::fs::create_dir(&dir).unwrap();
    let holder = seat(&dir, "holder", &hosts, 0);
    let node = holder.serve(&[]);
    let blobs = Blobs::add(&holder, &dir, len, 0, rounds);
    let reader = Reader::start(&seat(&dir, "reader", &hosts, 1), &node.peer);
    let (mut bare, mut cold) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let address: SocketAddr = format!("{}:7000", ADDRESSES[0]).parse().unwrap();
        bare.push(mega_bytes(len, stream(&hosts, address, address, len)));
        cold.push(mega_bytes(len, read(&reader.file(blobs.large[round]), len)));
        println!("{rate}, round {round}: bare TCP {:.1} MB/s, cold cat {:.1} MB/s", bare[round], cold[round]);
    }
    let (bare, cold) = (median(&bare), median(&cold));
    println!("{rate}: bare TCP {bare:.1} MB/s, cold cat {cold:.1} MB/s: {:.3} of it\n", cold / bare);
    drop((reader, node));
    std::fs::remove_dir_all(dir).unwrap();
}

/// A holder and a reader with a relay between them.
fn over_delay(dir: &Path, round_trip: Duration, len: usize, files: usize, rounds: usize) {
    let dir = dir.join(format!("{}ms", round_trip.as_millis()));
    std::fs::create_dir(&dir).unwrap();
    let holder = Seat::new(&dir.join("holder"));
    let node = holder.serve(&[]);
    let blobs = Blobs::add(&holder, &dir, len, files, rounds);
    let runtime = byhash::daemon::runtime().unwrap();
    let (id, address) = parts(&node.peer);
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let relayed: PeerSpec = format!("{id}@{}", listener.local_addr().unwrap()).parse().unwrap();
    runtime.spawn(relay::relay(listener, address, round_trip / 2));
    let reader = Reader::start(&Seat::new(&dir.join("reader")), &relayed);
    let name = format!("{} ms", round_trip.as_millis());
    let trips = |seconds: f64| seconds / round_trip.as_secs_f64();
    let mut figures = [const { Vec::new() }; 4];
    for round in 0..rounds {
        let firsts: Vec<f64> = blobs.firsts[round].iter().map(|hash| reader.first_byte(*hash)).collect();
        let small = reader.small_files(&blobs.small[round]);
        let large = read(&reader.file(blobs.large[round]), len).as_secs_f64();
        let under_way = len as f64 / large * round_trip.as_secs_f64() / f64::from(1 << 20);
        let now = [trips(median(&firsts)), trips(small), len as f64 / 1e6 / large, under_way];
        println!("{name}, round {round}: {}", said(&now, files));
        figures.iter_mut().zip(now).for_each(|(all, figure)| all.push(figure));
    }
    println!("{name}: {}\n", said(&figures.map(|all| median(&all)), files));
    drop((reader, node));
    std::fs::remove_dir_all(dir).unwrap();
}

fn said([first, small, rate, under_way]: &[f64; 4], files: usize) -> String {
    format!(
        "first byte after {first:.2} round trips; {files} small files with {READERS} readers in {small:.0} round trips; \
         cold cat {rate:.0} MB/s, so {under_way:.1} MiB under way"
    )
}

/// A link of a certain rate, and a relay at its near end.
fn over_both(dir: &Path, rate: &str, round_trip: Duration, len: usize, rounds: usize) {
    let (dir, hosts) = (dir.join("both"), Hosts::new(rate));
    std::fs::create_dir(&dir).unwrap();
    let holder = seat(&dir, "holder", &hosts, 0);
    let node = holder.serve(&[]);
    let blobs = Blobs::add(&holder, &dir, len, 0, rounds);
    let (id, address) = parts(&node.peer);
    let near: SocketAddr = format!("{}:7001", ADDRESSES[1]).parse().unwrap();
    let bare_near: SocketAddr = format!("{}:7002", ADDRESSES[1]).parse().unwrap();
    let bare_far: SocketAddr = format!("{}:7000", ADDRESSES[0]).parse().unwrap();
    hosts.run_on(1, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listen = async |at: SocketAddr| tokio::net::TcpListener::bind(at).await.unwrap();
            let (nodes, bare) = (listen(near).await, listen(bare_near).await);
            let delay = round_trip / 2;
            tokio::join!(relay::relay(nodes, address, delay), relay::relay(bare, bare_far, delay));
        });
    });
    let reader = Reader::start(&seat(&dir, "reader", &hosts, 1), &format!("{id}@{near}").parse().unwrap());
    let (mut bare, mut cold) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        bare.push(mega_bytes(len, stream(&hosts, bare_far, bare_near, len)));
        cold.push(mega_bytes(len, read(&reader.file(blobs.large[round]), len)));
        println!("both, round {round}: bare TCP {:.1} MB/s, cold cat {:.1} MB/s", bare[round], cold[round]);
    }
    let (bare, cold, trip) = (median(&bare), median(&cold), round_trip.as_millis());
    println!("{rate} and {trip} ms: bare TCP {bare:.1} MB/s, cold cat {cold:.1} MB/s: {:.3} of it", cold / bare);
    drop((reader, node));
}

/// A seat on one of the hosts.
fn seat(dir: &Path, name: &str, hosts: &Hosts, number: usize) -> Seat {
    let listen = format!("{}:0", ADDRESSES[number]);
    Seat { state: dir.join(name), network: Some(hosts.name(number)), listen }
}

fn parts(peer: &PeerSpec) -> (String, SocketAddr) {
    let text = peer.to_string();
    let (id, address) = text.split_once('@').unwrap();
    (id.to_owned(), address.parse().unwrap())
}

fn mega_bytes(len: usize, elapsed: Duration) -> f64 {
    len as f64 / 1e6 / elapsed.as_secs_f64()
}

/// How long `len` bytes take over a bare TCP connection from the first host, where it listens at `far`, to
/// the second, which connects to `near`.
fn stream(hosts: &Hosts, far: SocketAddr, near: SocketAddr, len: usize) -> Duration {
    let listener = hosts.run_on(0, move || TcpListener::bind(far).unwrap()).join().unwrap();
    let sender = hosts.run_on(0, move || {
        let (mut to, _) = listener.accept().unwrap();
        // Not before the other side is there to take the time.
        to.read_exact(&mut [0]).unwrap();
        let slice = vec![5; support::SLICE_LEN];
        (0..len.div_ceil(slice.len())).for_each(|_| to.write_all(&slice).unwrap());
    });
    let receiver = hosts.run_on(1, move || {
        let mut from = TcpStream::connect(near).unwrap();
        let start = Instant::now();
        from.write_all(&[1]).unwrap();
        let mut slice = vec![0; support::SLICE_LEN];
        let mut come = 0;
        while come < len {
            let n = from.read(&mut slice).unwrap();
            assert!(n > 0, "the stream ended early");
            come += n;
        }
        start.elapsed()
    });
    let elapsed = receiver.join().unwrap();
    sender.join().unwrap();
    elapsed
}
