//! The store with very many blobs, and with one large one:
//!
//! * start-up: a store that holds very many blobs is opened, in a process of its own, after it was closed in
//!   order, after it was killed, and with its index gone; how long until it is ready, and the memory it takes;
//! * import of a large file with `byhash add`, against `b3sum` of it plus `cp`;
//! * import of many small files with `byhash add`, against `b3sum` of them plus `cp`;
//! * fetch of many small blobs from another node in this process, against writing as many files.
//!
//! `cargo bench --bench store`; BYHASH_BENCH_HELD sets how many blobs are held (1000000; each takes a
//! block of the disk), BYHASH_BENCH_MIB the large file's size in MiB (1024), BYHASH_BENCH_SMALL the number of
//! small files (100000) and of small blobs, BYHASH_BENCH_ROUNDS the number of rounds (3), BYHASH_BENCH_DIR where the
//! files lie. A size of 0 leaves a part out. Needs `b3sum`, `cp` and `xargs`.

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use byhash::ids::ContentHash;
use byhash::metrics::Metrics;
use byhash::store::{Config, Store};
use byhash::verify::{Proof, build_outboard};
use support::{Served, median, pseudo_random, set_aside, setting};
use tokio::task::JoinSet;

/// Bytes of a small file.
const SMALL_LEN: usize = 4096;

/// Who fetches small blobs at the same time.
const FETCHERS: usize = 32;

/// Look-ups after which the memory of a store is looked at.
const LOOK_UPS: u64 = 10_000;

/// The variable that makes this program the process that opens a store.
const OPEN: &str = "BYHASH_BENCH_OPEN";

fn main() {
    if let Some(dir) = std::env::var_os(OPEN) {
        return open_and_tell(Path::new(&dir));
    }
    let (held, mib) = (setting("BYHASH_BENCH_HELD", 1_000_000), setting("BYHASH_BENCH_MIB", 1024));
    let (small, rounds) = (setting("BYHASH_BENCH_SMALL", 100_000), setting("BYHASH_BENCH_ROUNDS", 3));
    let dir = match std::env::var_os("BYHASH_BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir).unwrap(),
        None => tempfile::tempdir().unwrap(),
    };
    if mib > 0 {
        let file = dir.path().join("large");
        std::fs::write(&file, pseudo_random(mib << 20)).unwrap();
        import(dir.path(), std::slice::from_ref(&file), mib << 20, rounds);
        std::fs::remove_file(file).unwrap();
    }
    if small > 0 {
        let files = small_files(&dir.path().join("files"), small);
        import(dir.path(), &files, small * SMALL_LEN, rounds);
        set_aside(&dir.path().join("files"));
        fetch_small(dir.path(), small, rounds);
    }
    if held > 0 {
        start_up(&dir.path().join("held"), held, rounds);
    }
}

fn small_bytes(number: u64) -> Vec<u8> {
    let mut bytes = vec![7; SMALL_LEN];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn small_files(dir: &Path, count: usize) -> Vec<PathBuf> {
    std::fs::create_dir(dir).unwrap();
    let write = |number: usize| {
        let path = dir.join(number.to_string());
        std::fs::write(&path, small_bytes(number as u64)).unwrap();
        path
    };
    (0..count).map(write).collect()
}

/// Runs a command with `files` at its end, as often as the length of a command line asks for.
fn run(command: &[&str], files: &[PathBuf]) -> Duration {
    let mut xargs = Command::new("xargs");
    xargs.args(["-d", "\n"]).args(command).stdin(Stdio::piped()).stdout(Stdio::null());
    let begun = Instant::now();
    let mut child = xargs.spawn().unwrap();
    let mut names = child.stdin.take().unwrap();
    files.iter().for_each(|file| writeln!(names, "{}", file.display()).unwrap());
    drop(names);
    assert!(child.wait().unwrap().success(), "{command:?}");
    begun.elapsed()
}

/// Makes durable what lies on the disk, so that no command pays for what another has written.
fn sync() {
    assert!(Command::new("sync").status().unwrap().success());
}

fn import(dir: &Path, files: &[PathBuf], bytes: usize, rounds: usize) {
    let (state, copy) = (dir.join("state"), dir.join("copy"));
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        sync();
        times[0].push(run(&["b3sum"], files).as_secs_f64());
        std::fs::create_dir(&copy).unwrap();
        // `add` returns when all is durable.
        let begun = Instant::now();
        run(&["cp", "-t", copy.to_str().unwrap()], files);
        sync();
        times[1].push(begun.elapsed().as_secs_f64());
        set_aside(&copy);
        sync();
        let program = env!("CARGO_BIN_EXE_byhash");
        times[2].push(
            run(&[program, "add", "--state", state.to_str().unwrap(), "--cache-size", "1TiB"], files).as_secs_f64(),
        );
        set_aside(&state);
    }
    let [hash, copy, add] = times.each_ref().map(|times| median(times));
    println!("\nimport of {} files, {} MiB together, median of {rounds} rounds", files.len(), bytes >> 20);
    println!("b3sum          {hash:>8.2} s");
    println!("cp and sync    {copy:>8.2} s");
    println!("byhash add     {add:>8.2} s   {:>5.2} of both together", add / (hash + copy));
    println!("               {:>8.0} files a second", files.len() as f64 / add);
}

fn fetch_small(dir: &Path, count: usize, rounds: usize) {
    let runtime = byhash::daemon::runtime().unwrap();
    let (mut plain, mut fetched) = (Vec::new(), Vec::new());
    runtime.block_on(async {
        let holder = Served::start(&dir.join("holder"), Vec::new()).await;
        let hashes: Arc<[ContentHash]> = holder.hold_all(count as u64, small_bytes).into();
        for _ in 0..rounds {
            let files = dir.join("plain");
            sync();
            let begun = Instant::now();
            small_files(&files, count);
            sync();
            plain.push(begun.elapsed().as_secs_f64());
            set_aside(&files);
            sync();
            let state = dir.join("fetching");
            let node = Served::start(&state, vec![holder.spec()]).await;
            let (next, begun) = (Arc::new(AtomicUsize::new(0)), Instant::now());
            let mut fetchers = JoinSet::new();
            for _ in 0..FETCHERS {
                let (engine, hashes, next) = (node.node.engine().clone(), hashes.clone(), next.clone());
                fetchers.spawn(async move {
                    while let Some(hash) = hashes.get(next.fetch_add(1, Ordering::Relaxed)) {
                        engine.fetch(*hash, |_, _| {}).await.unwrap();
                    }
                });
            }
            fetchers.join_all().await;
            // Until all is durable.
            node.node.shutdown().await;
            fetched.push(begun.elapsed().as_secs_f64());
            set_aside(&state);
        }
        holder.node.shutdown().await;
    });
    set_aside(&dir.join("holder"));
    let (plain, fetched) = (median(&plain), median(&fetched));
    println!("\nfetch of {count} blobs of {SMALL_LEN} bytes, {FETCHERS} at once, median of {rounds} rounds");
    println!("plain files    {plain:>8.2} s   {:>8.0} a second", count as f64 / plain);
    println!("fetched        {fetched:>8.2} s   {:>8.0} a second", count as f64 / fetched);
}

fn open(dir: &Path) -> Store {
    let config = Config { dir: dir.to_owned(), capacity: 1 << 50, keep_free: 0 };
    Store::open(config, Arc::new(Metrics::default())).unwrap()
}

fn start_up(dir: &Path, count: usize, rounds: usize) {
    let store = open(dir);
    let begun = Instant::now();
    for number in 0..count as u64 {
        // 16 bytes: a block of the disk as well, and less to write.
        let bytes = &small_bytes(number)[..16];
        let (hash, nodes) = build_outboard(bytes);
        let proof = Proof::verify(&hash, 16, std::slice::from_ref(&(0..1)), nodes).unwrap();
        store.create_partial(hash, 16).unwrap().write(0, bytes, &proof).unwrap();
    }
    store.close().unwrap();
    drop(store);
    let index = std::fs::metadata(dir.join("index.redb")).unwrap().len();
    println!(
        "\n{count} blobs held: written in {:.1} s, the index has {} bytes a blob",
        begun.elapsed().as_secs_f64(),
        index / count as u64
    );
    let empty = tempfile::tempdir().unwrap();
    tell("empty", empty.path(), 1, rounds);
    tell("closed", dir, count, rounds);
    // The process that tells ends without closing.
    tell("killed", dir, count, rounds);
    std::fs::remove_file(dir.join("index.redb")).unwrap();
    tell("no index", dir, count, 1);
}

/// Opens the store in processes of their own and prints what they tell, the median of each.
fn tell(what: &str, dir: &Path, count: usize, rounds: usize) {
    let mut told = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        if what == "closed" {
            open(dir).close().unwrap();
        }
        let program = std::env::current_exe().unwrap();
        let output = Command::new(program).env(OPEN, dir).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        for (told, number) in told.iter_mut().zip(text.split_whitespace()) {
            told.push(number.parse::<f64>().unwrap());
        }
    }
    let [ready, settled, memory] = told.each_ref().map(|numbers| median(numbers));
    let each = memory / count as f64;
    println!(
        "{what:<10} ready in {ready:>7.1} ms, all looked at after {settled:>8.1} ms; {memory:>10.0} bytes more resident, {each:>5.1} a blob"
    );
}

/// Opens the store in `dir` and prints: milliseconds until it is ready and until all files are known,
/// and by how many bytes the process has grown. Ends as if it were killed.
fn open_and_tell(dir: &Path) {
    let before = resident();
    let begun = Instant::now();
    let store = open(dir);
    let hash = |number: u64| build_outboard(&small_bytes(number)[..16]).0;
    let _ = store.lookup(&hash(0)).unwrap();
    let ready = begun.elapsed();
    while !store.is_settled() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let settled = begun.elapsed();
    for number in 0..LOOK_UPS.min(store.usage().blobs) {
        drop(store.blob(&hash(number)).unwrap());
    }
    println!("{} {} {}", ready.as_secs_f64() * 1e3, settled.as_secs_f64() * 1e3, resident().saturating_sub(before));
    std::process::exit(0);
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
