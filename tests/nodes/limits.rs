//! What a node takes, and what it tells of itself through its mount.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::content::{MIB, content, hash_of, hash_of_file, write_content};
use super::node::{Node, Sandbox, asking, eventually, fuse_is_here, run, stdout};

/// Most memory that a node may ever have resident, in bytes.
const MEMORY_LIMIT: u64 = 128 << 20;

#[test]
fn a_gibibyte_goes_through_holder_and_reader_in_little_memory() {
    if !fuse_is_here("a_gibibyte_goes_through_holder_and_reader_in_little_memory") {
        return;
    }
    let sandbox = Sandbox::new();
    let holder = sandbox.holder("a", &[]);
    let reader = sandbox.reader("b", &[&holder]);
    let mut written = String::new();
    let hash = holder.add_from(|mut to| written = write_content(&mut to, 70, 1024 * MIB).unwrap());
    assert_eq!(hash, written);
    assert_eq!(hash_of_file(&reader.file(&hash)).unwrap(), hash);
    assert_little_memory(&holder, &reader);
}

fn assert_little_memory(holder: &Node, reader: &Node) {
    for (who, node) in [("holder", holder), ("reader", reader)] {
        let peak = node.peak_memory();
        eprintln!("{who}: {} MiB", peak >> 20);
        assert!(peak < MEMORY_LIMIT, "the {who} took {} MiB", peak >> 20);
    }
}

#[test]
fn many_files_that_are_read_at_once_for_the_first_time_take_no_more_memory() {
    if !fuse_is_here("many_files_that_are_read_at_once_for_the_first_time_take_no_more_memory") {
        return;
    }
    const FILES: u64 = 64;
    let sandbox = Sandbox::new();
    let holder = sandbox.seat("a");
    let (paths, hashes): (Vec<_>, Vec<_>) = (0..FILES)
        .map(|number| {
            let path = sandbox.path(&number.to_string());
            let hash = write_content(&mut File::create(&path).unwrap(), 200 + number, 8 * MIB).unwrap();
            (path, hash)
        })
        .unzip();
    stdout(&holder.command(["add"]).args(paths).output().unwrap());
    let holder = holder.serve(["--open"]);
    let reader = sandbox.reader("b", &[&holder]);
    std::thread::scope(|scope| {
        for hash in &hashes {
            let file = reader.file(hash);
            scope.spawn(move || assert_eq!(hash_of_file(&file).unwrap(), *hash));
        }
    });
    assert_little_memory(&holder, &reader);
}

/// The group that it is in and the end of the blob, which comes with the answer to who has it, are all that a page
/// costs, the kernel's own read-ahead left out. Of four gibibytes it is a few hashes more, which `benches/mount.rs`
/// measures: to add them takes half a minute.
#[test]
fn a_page_of_a_cold_gibibyte_costs_two_round_trips_and_little_more_than_itself() {
    const LEN: u64 = 1 << 30;
    if !fuse_is_here("a_page_of_a_cold_gibibyte_costs_two_round_trips_and_little_more_than_itself") {
        return;
    }
    let sandbox = Sandbox::new();
    // Takes no room on the disk: only the last page is not zero.
    let path = sandbox.path("sparse");
    let sparse = File::create(&path).unwrap();
    sparse.write_all_at(&[7; 4096], LEN - 4096).unwrap();
    let holder = sandbox.holder("a", &[]);
    let hash = holder.add_file(&path);
    let mut places = vec![LEN / 2 + 12_345, 0, LEN - 4096];
    let mut readers = 0;
    while let Some(at) = places.pop() {
        readers += 1;
        let reader = sandbox.reader(&format!("b{readers}"), &[&holder]);
        let file = File::open(reader.file(&hash)).unwrap();
        // A program that reads here and there says so, or the kernel reads ahead of the beginning.
        // SAFETY: an open descriptor.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
        let mut page = [1; 4096];
        file.read_exact_at(&mut page, at).unwrap();
        assert_eq!(page, if at == LEN - 4096 { [7; 4096] } else { [0; 4096] });
        if reader.metric("came_with_answer") == 0 && readers < 10 {
            // The holder did not get to its disk in time, beside other tests: its answer went alone.
            places.push(at);
            continue;
        }
        let [bytes, questions, exchanges] =
            ["fetched_wire_bytes", "have_queries", "exchanges_started"].map(|name| reader.metric(name));
        let trips = questions + exchanges;
        assert!(bytes <= 64 << 10 && trips <= 2, "{bytes} bytes in {trips} round trips at {at}");
    }
}

#[test]
fn a_blob_larger_than_the_cache_is_read_all_the_same() {
    if !fuse_is_here("a_blob_larger_than_the_cache_is_read_all_the_same") {
        return;
    }
    let sandbox = Sandbox::new();
    let blobs = [content(73, 150 * MIB), content(74, 40 * MIB)];
    let holder = sandbox.holder("a", &[&blobs[0], &blobs[1]]);
    // The smallest cache there is.
    let reader = sandbox.seat("b").mount(asking(&[&holder]).into_iter().chain(["--cache-size", "64MiB"]));
    for bytes in [&blobs[1], &blobs[0], &blobs[1]] {
        assert_eq!(hash_of_file(&reader.file(&hash_of(bytes))).unwrap(), hash_of(bytes));
        assert!(reader.metric("store_bytes") <= 64 << 20);
    }
    assert_eq!(reader.metric("read_errors"), 0);
}

#[test]
fn nothing_goes_on_for_a_reader_that_was_killed() {
    if !fuse_is_here("nothing_goes_on_for_a_reader_that_was_killed") {
        return;
    }
    const LEN: u64 = 256 << 20;
    let sandbox = Sandbox::new();
    let holder = sandbox.holder("a", &[]);
    let mut hash = String::new();
    holder.add_from(|mut to| hash = write_content(&mut to, 75, LEN as usize).unwrap());
    let reader = sandbox.reader("b", &[&holder]);
    let mut cat = Command::new("cat").arg(reader.file(&hash)).stdout(Stdio::piped()).spawn().unwrap();
    // It reads no further than the pipe takes, and what is read ahead has its limits.
    let mut out = cat.stdout.take().unwrap();
    out.read_exact(&mut vec![0; 20 << 20]).unwrap();
    cat.kill().unwrap();
    cat.wait().unwrap();
    eventually("nothing is under way", || reader.metric("transfers_pending") == 0);
    let fetched = reader.metric("fetched_bytes");
    assert!(fetched < LEN / 2, "{fetched} bytes fetched for the first 20 MiB");
    assert_eq!(hash_of_file(&reader.file(&hash)).unwrap(), hash);
}

/// getxattr(2).
fn xattr(path: &Path, name: &str) -> String {
    let (path, name) = (CString::new(path.as_os_str().as_bytes()).unwrap(), CString::new(name).unwrap());
    let mut value = vec![0; 1000];
    // SAFETY: strings that end in zero, and a buffer of the length given.
    let len = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(usize::try_from(len).expect("the attribute is there"));
    String::from_utf8(value).unwrap()
}

#[test]
fn attributes_follow_a_blob_on_its_way_here() {
    if !fuse_is_here("attributes_follow_a_blob_on_its_way_here") {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = content(71, 20 * MIB);
    let hash = hash_of(&bytes);
    let holder = sandbox.holder("a", &[&bytes]);
    let reader = sandbox.reader("b", &[&holder]);
    let file = reader.file(&hash);
    assert_ne!(xattr(&file, "user.byhash.state"), "complete");
    assert_eq!(xattr(&file, "user.byhash.holders"), holder.id);
    assert_eq!(hash_of_file(&file).unwrap(), hash);
    eventually("it is complete", || xattr(&file, "user.byhash.state") == "complete");
}

#[test]
fn df_shows_what_the_cache_may_hold_and_holds() {
    if !fuse_is_here("df_shows_what_the_cache_may_hold_and_holds") {
        return;
    }
    let sandbox = Sandbox::new();
    let seat = sandbox.seat("a");
    let node = seat.mount(asking(&[]).into_iter().chain(["--cache-size", "256MiB"]));
    let df = |field: &str| {
        let output = run(Command::new("df").args(["-B1", &format!("--output={field}")]).arg(&node.mount_point));
        output.lines().nth(1).unwrap().trim().parse::<u64>().unwrap()
    };
    assert_eq!(df("size"), 256 << 20);
    let before = df("used");
    node.add(&content(72, 30 * MIB));
    let used = df("used") - before;
    // The content and its outboard, and no more.
    assert!((30 << 20..31 << 20).contains(&used), "{used}");
    assert!(df("avail") <= (226 << 20));
    // There is no number of files that could run out.
    assert_eq!((df("itotal"), df("iused")), (0, 0));
}
