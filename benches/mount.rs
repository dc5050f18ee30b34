//! The mount beside the file system below it, in one run on one machine:
//!
//! * sequential: one blob read to its end, as `cat` does, 128 KiB at a time;
//! * random: 4 KiB at places all over it;
//! * mmap: all of it copied out of a map;
//! * small files: opened, read and closed, each once a round; and
//! * stat: looked at.
//!
//! Warm: the node has the bytes, and both sides have them in memory: as they were read from the disk, and
//! before that once as they were written, a segment at a time, which is how a file is that was just fetched. The small
//! files have the same names on both sides, in directories of the same depth. And cold, the holder being this
//! process and the reader a fresh node of its own each round: `cat` of the blob beside the floor of bare
//! lanes, and a page of a large blob, in bytes on the wire and round trips.
//!
//! `cargo bench --bench mount`; BYHASH_BENCH_MIB sets the blob's size in MiB (1024), BYHASH_BENCH_FILES the
//! number of small files (10000), BYHASH_BENCH_PAGES the pages read at random (200000),
//! BYHASH_BENCH_LARGE_MIB the size of the large blob (4096; 0 leaves it out), BYHASH_BENCH_ROUNDS the number
//! of rounds (3). Prints each round and the medians; the ratios are what counts.

mod support;

use std::fs::File;
use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use byhash::buffers::SEGMENT_LEN;
use byhash::daemon::Node;
use byhash::ids::{ContentHash, PeerSpec};
use byhash::store::import::{Source, stage};
use support::mounted::{Mounted, read};
use support::{LANES, add, config, floor, median, pseudo_random, set_aside, setting};

/// Bytes of a small file: one group with its odd end.
const SMALL_LEN: usize = 3000;

/// What is compared.
const SIDES: [&str; 2] = ["plain", "mount"];

/// Bytes of a page read at random.
const PAGE_LEN: usize = 4096;

fn main() {
    let len = setting("BYHASH_BENCH_MIB", 1024) << 20;
    let files = setting("BYHASH_BENCH_FILES", 10_000);
    let pages = setting("BYHASH_BENCH_PAGES", 200_000);
    let large = setting("BYHASH_BENCH_LARGE_MIB", 4096) << 20;
    let rounds = setting("BYHASH_BENCH_ROUNDS", 3);
    let runtime = byhash::daemon::runtime().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let plain = dir.path().join("plain");
    std::fs::write(&plain, pseudo_random(len)).unwrap();

    let home = dir.path().join("holder");
    let holder = runtime.block_on(Node::start(&config(&home, Vec::new()))).unwrap();
    let hash = add(&holder, &home, &plain);
    let small = small_files(&holder, &home, dir.path(), files);
    let peer: PeerSpec = format!("{}@{}", holder.id(), holder.listen_addr()).parse().unwrap();

    let names = ["sequential", "random 4 KiB", "mmap", "small files", "stat"];
    let units = ["MB/s", "reads/s", "MB/s", "files/s", "files/s"];
    let mut rates = vec![[Vec::new(), Vec::new()]; names.len()];
    let mut cold = [Vec::new(), Vec::new()];
    let mut as_written = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        let state = dir.path().join(format!("round-{round}"));
        std::fs::create_dir(&state).unwrap();
        cold[0].push(len as f64 / 1e6 / runtime.block_on(floor(LANES, len)).as_secs_f64());
        let mount = Mounted::start(&state, &peer);
        let file = mount.file(hash);
        cold[1].push(len as f64 / 1e6 / read(&file, len).as_secs_f64());
        let links: Vec<_> = small.iter().map(|hash| mount.file(*hash)).collect();
        let plains: Vec<_> = small.iter().map(|hash| plain_place(dir.path()).join(hash.to_string())).collect();
        let first = small_rate(&links);
        println!("round {round}: small files, cold {first:>10.0} files/s");
        println!("round {round}: {}", mount.status()["mount"][0].as_str().unwrap());
        let content = mount.content_file(hash);
        let segments = write_in_segments(&state.join("segments"), &plain);
        for (side, path) in [&segments, &file].into_iter().enumerate() {
            // What nobody has touched for some seconds is slower to read once.
            read(path, len);
            as_written[side].push(len as f64 / 1e6 / read(path, len).as_secs_f64());
            println!("round {round}: as written    {:<6} {:>10.0} MB/s", SIDES[side], as_written[side][round]);
        }
        std::fs::remove_file(segments).unwrap();
        // Whoever wrote a file decides in what pieces the kernel keeps it; read from the disk, both are alike.
        [&plain, &content].into_iter().for_each(|path| drop_from_memory(path));
        // In turns, so that whatever else the machine does meets both.
        for (side, (big, small)) in [(&plain, &plains), (&file, &links)].into_iter().enumerate() {
            read(big, len);
            let figures = [
                len as f64 / 1e6 / read(big, len).as_secs_f64(),
                random_rate(big, len, pages),
                map_rate(big, len),
                small_rate(small),
                stat_rate(small),
            ];
            for (row, figure) in figures.into_iter().enumerate() {
                rates[row][side].push(figure);
                println!("round {round}: {:<13} {:<6} {figure:>10.0} {}", names[row], SIDES[side], units[row]);
            }
        }
        let passed = mount.metric("opens_passed_through");
        println!("round {round}: opens passed through {passed}, streamed {}", mount.metric("opens_streamed"));
        drop(mount);
        set_aside(&state);
    }
    println!("\nmedian of {rounds} rounds, {} MiB, {files} files of {SMALL_LEN} bytes", len >> 20);
    for ((name, unit), [plain, mount]) in names.iter().zip(units).zip(&rates) {
        let (plain, mount) = (median(plain), median(mount));
        println!("{name:<13} plain {plain:>9.0}   mount {mount:>10.0} {unit:<8} {:>5.2}", mount / plain);
    }
    let [plain, mount] = as_written.each_ref().map(|figures| median(figures));
    println!("as written    plain {plain:>9.0}   mount {mount:>10.0} MB/s     {:>5.2}", mount / plain);
    let (floor, cat) = (median(&cold[0]), median(&cold[1]));
    println!("cold cat      floor {floor:>9.0}   mount {cat:>10.0} MB/s     {:>5.2}", cat / floor);
    if large > 0 {
        page_of_large(&holder, &home, dir.path(), &peer, large as u64);
    }
    runtime.block_on(holder.shutdown());
}

/// Where the plain small files lie: as deep as the mounted ones.
fn plain_place(dir: &Path) -> PathBuf {
    dir.join("plainly/mount/by-hash")
}

/// Writes what is in `from` to `path` in the pieces in which what is fetched is written.
fn write_in_segments(path: &Path, from: &Path) -> PathBuf {
    let bytes = std::fs::read(from).unwrap();
    let file = File::create(path).unwrap();
    for (number, segment) in bytes.chunks(SEGMENT_LEN).enumerate() {
        file.write_all_at(segment, (number * SEGMENT_LEN) as u64).unwrap();
    }
    path.to_owned()
}

/// Small files, each its own content, plain and held by `holder`.
fn small_files(holder: &std::sync::Arc<Node>, home: &Path, dir: &Path, count: usize) -> Vec<ContentHash> {
    let place = plain_place(dir);
    std::fs::create_dir_all(&place).unwrap();
    let bytes = pseudo_random(SMALL_LEN + count);
    let one = |n: usize| {
        let path = place.join(ContentHash::of(&bytes[n..n + SMALL_LEN]).to_string());
        std::fs::write(&path, &bytes[n..n + SMALL_LEN]).unwrap();
        add(holder, home, &path)
    };
    (0..count).map(one).collect()
}

/// Takes a file out of the kernel's memory, so that it is read from the disk next.
fn drop_from_memory(path: &Path) {
    let file = File::open(path).unwrap();
    file.sync_all().unwrap();
    // SAFETY: an open descriptor.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// Reads of a page at a time, in a second.
fn random_rate(path: &Path, len: usize, pages: usize) -> f64 {
    let file = File::open(path).unwrap();
    let (mut page, mut at) = ([0; PAGE_LEN], 7_usize);
    let start = Instant::now();
    for _ in 0..pages {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let number = (at >> 16) % (len / PAGE_LEN);
        file.read_exact_at(&mut page, (number * PAGE_LEN) as u64).unwrap();
    }
    black_box(page);
    pages as f64 / start.elapsed().as_secs_f64()
}

/// MB a second copied out of a map of the whole file.
fn map_rate(path: &Path, len: usize) -> f64 {
    let file = File::open(path).unwrap();
    // SAFETY: nothing changes the file while this runs.
    let map = unsafe { memmap2::Mmap::map(&file).unwrap() };
    let mut part = vec![0; 1 << 20];
    let start = Instant::now();
    for bytes in map.chunks_exact(part.len()) {
        part.copy_from_slice(bytes);
        black_box(&part);
    }
    len as f64 / 1e6 / start.elapsed().as_secs_f64()
}

/// Files opened, read and closed in a second.
fn small_rate(paths: &[PathBuf]) -> f64 {
    let start = Instant::now();
    let mut buffer = [0; 2 * SMALL_LEN];
    for path in paths {
        assert_eq!(File::open(path).unwrap().read_at(&mut buffer, 0).unwrap(), SMALL_LEN);
    }
    paths.len() as f64 / start.elapsed().as_secs_f64()
}

/// Files looked at in a second.
fn stat_rate(paths: &[PathBuf]) -> f64 {
    let start = Instant::now();
    for path in paths {
        assert_eq!(std::fs::metadata(path).unwrap().len(), SMALL_LEN as u64);
    }
    paths.len() as f64 / start.elapsed().as_secs_f64()
}

/// What a page in the middle of a cold blob of `len` bytes costs. Its content is zeros but for its end, so
/// that it takes no room twice.
fn page_of_large(holder: &std::sync::Arc<Node>, home: &Path, dir: &Path, peer: &PeerSpec, len: u64) {
    let path = dir.join("large");
    File::create(&path).unwrap().write_all_at(b"end", len - 3).unwrap();
    let staged = stage(&byhash::config::StateDir::new(home).cache(), Source::File(&path), &|_| {}).unwrap();
    holder.store().adopt(staged.blob()).unwrap();
    let state = dir.join("large-state");
    let mount = Mounted::start(&state, peer);
    let start = Instant::now();
    let file = File::open(mount.file(staged.blob().hash)).unwrap();
    // SAFETY: an open descriptor.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
    file.read_exact_at(&mut [0; PAGE_LEN], len / 2 + 4096).unwrap();
    let elapsed = start.elapsed();
    println!(
        "a page of a cold blob of {} MiB: {} bytes on the wire, {} round trips, {:.1} ms",
        len >> 20,
        mount.metric("fetched_wire_bytes"),
        mount.metric("have_queries") + mount.metric("exchanges_started"),
        elapsed.as_secs_f64() * 1e3
    );
}
