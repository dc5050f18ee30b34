//! What the benches share: nodes, content, the floor of bare lanes, processor time.
#![allow(dead_code, reason = "each bench uses its own part")]

pub mod bare_fuse;
pub mod mounted;
pub mod running;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use byhash::config::{MountConfig, NodeConfig, StateDir};
use byhash::control::MAX_STAGED;
use byhash::daemon::Node;
use byhash::ids::{BlobRange, ContentHash, PeerSpec};
use byhash::metrics::Metrics;
use byhash::store::import::{Batch, Source, stage};
use byhash::transfer::{BlobSource, Priority};
use byhash::transport::{Acceptor, Admission, Dialer, Identity, Listener, TcpDialer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

/// Bytes of one request to the floor, where much is fetched.
pub const REQUEST_LEN: usize = 4 << 20;

/// Bytes that are sent and hashed at a time.
pub const SLICE_LEN: usize = 256 << 10;

/// Lanes of the floor that all is compared with.
pub const LANES: usize = 4;

pub fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

pub fn pseudo_random(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(b"bench").finalize_xof().fill(&mut bytes);
    bytes
}

pub fn config(state: &Path, peers: Vec<PeerSpec>) -> NodeConfig {
    NodeConfig {
        state: StateDir::new(state),
        listen: "127.0.0.1:0".parse().unwrap(),
        peers,
        allow: Vec::new(),
        secret_file: None,
        file: None,
        open: true,
        cache_size: 64 << 30,
        serve_rate: None,
        mount: MountConfig::default(),
        scrub_rate: None,
    }
}

pub fn add(node: &Arc<Node>, state: &Path, path: &Path) -> ContentHash {
    let staged = stage(&StateDir::new(state).cache(), Source::File(path), &|_| {}).unwrap();
    node.store().adopt(staged.blob()).unwrap();
    staged.blob().hash
}

/// `len` bytes over bare lanes between two tasks of this process: so many requests for each lane, none left over.
pub async fn floor(lanes: usize, len: usize) -> Duration {
    assert!(len > 0 && len.is_multiple_of(lanes * REQUEST_LEN), "{len} bytes cannot be shared among {lanes} lanes");
    let cpu = cpu_time();
    let elapsed = bare_lanes(lanes, len / REQUEST_LEN, REQUEST_LEN).await;
    report_cpu(&format!("floor, {lanes}"), cpu_time() - cpu, elapsed, len as u64);
    elapsed
}

/// `count` requests for `len` bytes each over bare lanes, which are hashed as they arrive.
pub async fn bare_lanes(lanes: usize, count: usize, len: usize) -> Duration {
    let slice_len = SLICE_LEN.min(len);
    let identity = Identity::generate().unwrap();
    let metrics: Arc<Metrics> = Arc::default();
    let admission = Admission { open: true, ..Admission::default() };
    let mut listener =
        Listener::bind("127.0.0.1:0".parse().unwrap(), &identity, admission, metrics.clone()).await.unwrap();
    let spec: PeerSpec = format!("{}@{}", identity.peer_id(), listener.local_addr()).parse().unwrap();
    let server = tokio::spawn(async move {
        let mut serving = JoinSet::new();
        loop {
            let mut lane = listener.accept().await.unwrap();
            serving.spawn(async move {
                let slice = vec![5; slice_len];
                while let Ok(len) = lane.read_u64_le().await {
                    for _ in 0..len as usize / slice_len {
                        lane.write_all(&slice).await.unwrap();
                    }
                    lane.flush().await.unwrap();
                }
            });
        }
    });
    let mut open = Vec::new();
    for _ in 0..lanes {
        let dialer = TcpDialer::new(Identity::generate().unwrap(), None, metrics.clone());
        open.push(dialer.dial(&spec).await.unwrap());
    }
    let start = Instant::now();
    let mut asking = JoinSet::new();
    for mut lane in open {
        asking.spawn(async move {
            let mut slice = vec![0; slice_len];
            for _ in 0..count / lanes {
                lane.write_u64_le(len as u64).await.unwrap();
                lane.flush().await.unwrap();
                let mut hasher = blake3::Hasher::new();
                for _ in 0..len / slice_len {
                    lane.read_exact(&mut slice).await.unwrap();
                    hasher.update(&slice);
                }
                std::hint::black_box(hasher.finalize());
            }
        });
    }
    asking.join_all().await;
    let elapsed = start.elapsed();
    server.abort();
    elapsed
}

/// Has as much memory touched as a part of a bench with `len` bytes fills: in a virtual machine, memory
/// that nobody has touched for a while is far slower to write to than the rest, which would measure the
/// host.
pub fn touch_memory(dir: &Path, len: usize) {
    write(&dir.join("scratch"), 3 * len);
}

/// Bytes from which on a file is not worth keeping.
const LARGE_LEN: u64 = 1 << 20;

/// Takes `dir` out of the way, so that it can be made anew. Its small files are there until the bench is over: ext4
/// without a journal looks, for each file that it makes, at the places of all that were removed in the last minutes,
/// and a node that keeps ten thousand after as many were removed takes twice as long.
pub fn set_aside(dir: &Path) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let mut aside = dir.as_os_str().to_owned();
    aside.push(format!("-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    std::fs::rename(dir, &aside).unwrap();
    remove_large(aside.as_ref());
}

fn remove_large(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() {
            remove_large(&entry.path());
        } else if metadata.len() >= LARGE_LEN {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

/// Writes a file a segment at a time, and removes it.
pub fn write(path: &Path, len: usize) -> Duration {
    let file = File::create(path).unwrap();
    let slice = vec![5; SLICE_LEN];
    let start = Instant::now();
    for at in (0..len).step_by(SLICE_LEN) {
        file.write_all_at(&slice, at as u64).unwrap();
    }
    let elapsed = start.elapsed();
    std::fs::remove_file(path).unwrap();
    elapsed
}

/// A running node, and where it keeps its state.
pub struct Served {
    pub node: Arc<Node>,
    pub state: std::path::PathBuf,
}

impl Served {
    /// A node on `state` that knows `peers` and lets everybody in.
    pub async fn start(state: &Path, peers: Vec<PeerSpec>) -> Self {
        Self { node: Node::start(&config(state, peers)).await.unwrap(), state: state.to_owned() }
    }

    /// As others name it.
    pub fn spec(&self) -> PeerSpec {
        format!("{}@{}", self.node.id(), self.node.listen_addr()).parse().unwrap()
    }

    /// Reads all of a blob that it holds: it is in memory then, and known to be right.
    pub async fn read_all(&self, hash: ContentHash) {
        let size = self.node.engine().size(hash).await.unwrap();
        let reader = self.node.engine().open(hash, size);
        for at in (0..size).step_by(REQUEST_LEN) {
            reader.read(BlobRange::new(at, at + REQUEST_LEN as u64), Priority::Foreground).await.unwrap();
        }
    }

    /// Takes many blobs into its store, of which `bytes` gives the one of each number.
    pub fn hold_all(&self, count: u64, bytes: impl Fn(u64) -> Vec<u8>) -> Vec<ContentHash> {
        let mut hashes = Vec::new();
        for first in (0..count).step_by(MAX_STAGED) {
            let mut batch = Batch::create(&StateDir::new(&self.state).cache()).unwrap();
            for number in first..count.min(first + MAX_STAGED as u64) {
                let bytes = bytes(number);
                batch.stage(Source::Stream(&mut &bytes[..]), &mut |_, _| Ok(()), &|_| {}).unwrap();
            }
            batch.sync().unwrap();
            assert!(self.node.store().adopt_all(batch.blobs()).iter().all(Result::is_ok));
            hashes.extend(batch.blobs().iter().map(|blob| blob.hash));
        }
        hashes
    }

    /// Takes `bytes` into its store.
    pub async fn hold(&self, bytes: &[u8]) -> ContentHash {
        let staged = stage(&StateDir::new(&self.state).cache(), Source::Stream(&mut &bytes[..]), &|_| {}).unwrap();
        let hash = staged.blob().hash;
        self.node.store().adopt(staged.blob()).unwrap();
        hash
    }
}

/// Says what processor time was `spent` in `elapsed` for `len` bytes.
pub fn report_cpu(what: &str, spent: Duration, elapsed: Duration, len: u64) {
    let spent = spent.as_secs_f64();
    let cores = spent / elapsed.as_secs_f64();
    println!("{what}: {cores:.2} cores busy, {:.2} ns of processor time a byte", spent * 1e9 / len as f64);
}

/// The processor time that this process has used.
pub fn cpu_time() -> Duration {
    // SAFETY: all zeroes is a valid rusage, and getrusage fills it in.
    let usage = unsafe {
        let mut usage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let spent = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    spent(usage.ru_utime) + spent(usage.ru_stime)
}
