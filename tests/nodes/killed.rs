//! A node is killed (SIGKILL) at random moments, again and again, while it fetches, serves, adds and evicts;
//! what its cache claims afterwards is right, and what was added is there.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use byhash::ids::ContentHash;
use byhash::metrics::Metrics;
use byhash::store::{Config, Origin, Store};
use byhash::verify::bytes_of;

use super::content::{content, hash_of};
use super::node::{Sandbox, Seat, address_for_later, asking};

/// How often the node is killed; `BYHASH_KILLS` says another number.
const KILLS: u64 = 100;

/// The longest that it lives once it is ready, in microseconds: by then it has fetched all there is.
const LIFE_US: u64 = 120_000;

/// Ends when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a command that is given `lines`, and goes on or fails as it will.
fn start(seat: &Seat, args: &[&str], lines: &str) -> Running {
    let mut command = seat.command(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    Running(child)
}

/// All that the cache claims is right, and all that was added is there. Removes what was fetched, so that the
/// next life has something to do, but for what hashes to an even number. Tells how many groups it claimed.
fn check(cache: &Path, blobs: &[Vec<u8>], added: &[Vec<u8>], context: &str) -> u64 {
    let config = Config { dir: cache.to_owned(), capacity: 1 << 40, keep_free: 0 };
    let store = Store::open(config, Arc::new(Metrics::default())).unwrap();
    let mut claimed = 0;
    for bytes in blobs.iter().chain(added) {
        let Some(blob) = store.blob(&ContentHash::of(bytes)).unwrap() else { continue };
        for groups in blob.verified().iter() {
            let range = bytes_of(bytes.len() as u64, groups);
            let read = blob.read(range).unwrap_or_else(|error| panic!("{context}: it is claimed, but {error}"));
            assert_eq!(read, &bytes[range.start as usize..range.end as usize], "{context}");
            claimed += groups.end - groups.start;
        }
    }
    for bytes in added {
        let info = store.lookup(&ContentHash::of(bytes)).unwrap().unwrap_or_else(|| panic!("{context}: it was added"));
        assert_eq!((info.complete, info.origin), (true, Origin::Local), "{context}");
    }
    for hash in blobs.iter().map(|bytes| ContentHash::of(bytes)).filter(|hash| hash.as_bytes()[0] % 2 == 1) {
        store.remove(&hash).unwrap();
    }
    claimed
}

#[test]
fn a_node_killed_under_load_leaves_a_cache_whose_claims_are_right() {
    let kills = std::env::var("BYHASH_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let mut state = u64::from(std::process::id());
    // A number below `limit`; which ones come is of no weight.
    let mut number = |limit: u64| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) % limit
    };
    let sandbox = Sandbox::new();
    // A part of a group; one; several, and some of half a megabyte.
    let lens = [100, 16 << 10, 100_000, 1 << 19];
    let blobs: Vec<_> = (0..64).map(|seed| content(200 + seed, lens[seed as usize % 4])).collect();
    let holder = sandbox.holder("a", &blobs.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let hashes: Vec<_> = blobs.iter().map(|blob| hash_of(blob)).collect();
    let address = address_for_later();
    let mut flags = asking(&[&holder]);
    flags.extend(["--listen", &address]);
    let mut seat = sandbox.seat("b");
    let cache = seat.content_file(&hashes[0]).ancestors().nth(3).unwrap().to_owned();
    let mut requester = None;
    let (mut added, mut claimed) = (Vec::new(), 0);
    for kill in 0..kills {
        let node = seat.serve(flags.clone());
        let requester = requester.get_or_insert_with(|| sandbox.seat("c").serve(asking(&[&node])));
        // So that it asks again each time.
        requester.run(["gc", "--all"]);
        let from = number(64) as usize;
        let lines: String = hashes[from..].iter().chain(&hashes[..from]).map(|hash| format!("{hash}\n")).collect();
        let fetching = start(&node, &["prefetch", "-"], &lines);
        let serving = start(requester, &["prefetch", "-"], &lines);
        let collecting = (number(3) == 0).then(|| start(&node, &["gc", "--all"], ""));
        let mine = format!("added in life {kill}").into_bytes();
        let mut adding = node
            .command(["add", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        adding.stdin.take().unwrap().write_all(&mine).unwrap();
        // At any moment, and sometimes just when something was added.
        let (tell, told) = mpsc::channel();
        let waiting = std::thread::spawn(move || {
            let status = adding.wait().unwrap();
            let _ = tell.send(());
            status.success()
        });
        let _ = told.recv_timeout(Duration::from_micros(number(LIFE_US)));
        seat = node.crash();
        drop((fetching, serving, collecting));
        if waiting.join().unwrap() {
            added.push(mine);
        }
        claimed += check(&cache, &blobs, &added, &format!("life {kill}"));
    }
    assert!(kills < 50 || claimed > kills, "{claimed} groups were claimed in all");
}
