//! Readers of every kind, while blobs come, become complete, and are evicted.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::content::{MIB, content, hash_of, scattered};
use super::node::{Sandbox, asking, fuse_is_here};

/// Steps of each thread.
const STEPS: usize = 250;

/// A file that a thread has open.
struct Open {
    blob: usize,
    file: File,
    map: Option<memmap2::Mmap>,
}

#[test]
fn whatever_is_opened_read_mapped_and_closed_while_blobs_come_and_go_is_right() {
    if !fuse_is_here("whatever_is_opened_read_mapped_and_closed_while_blobs_come_and_go_is_right") {
        return;
    }
    let sandbox = Sandbox::new();
    // One group, one exchange, a few; and more in all than the smallest cache takes.
    let lens =
        [1, 16 << 10, 60_000, 65_537, 3 * MIB, 20 * MIB + 1, 25 * MIB, 30 * MIB + 4095, 7 * MIB, 12 * MIB, 16 * MIB];
    let blobs: Vec<_> = lens.iter().enumerate().map(|(seed, len)| content(200 + seed as u64, *len)).collect();
    let parts: Vec<&[u8]> = blobs.iter().map(Vec::as_slice).collect();
    let holder = sandbox.holder("a", &parts);
    let reader = sandbox.seat("b").mount(asking(&[&holder]).into_iter().chain(["--cache-size", "64MiB"]));
    let paths: Vec<_> = blobs.iter().map(|bytes| reader.file(&hash_of(bytes))).collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (blobs, paths) = (&blobs, &paths);
            scope.spawn(move || {
                let mut dice = scattered(usize::MAX).skip(thread * 100_000);
                let mut roll = move |below: usize| dice.next().unwrap() % below;
                let mut open: Vec<Open> = Vec::new();
                for step in 0..STEPS {
                    let place = format!("thread {thread}, step {step}");
                    match roll(8) {
                        0 | 1 if open.len() < 2 => {
                            let blob = roll(blobs.len());
                            let file = File::open(&paths[blob]).unwrap_or_else(|e| panic!("{place}: {e}"));
                            open.push(Open { blob, file, map: None });
                        }
                        _ if open.is_empty() => {}
                        2 => drop(open.swap_remove(roll(open.len()))),
                        3 => {
                            let n = roll(open.len());
                            // SAFETY: nothing changes the file: it is content-addressed.
                            open[n].map = Some(unsafe { memmap2::Mmap::map(&open[n].file).unwrap() });
                        }
                        4 => {
                            // All of it, so that it becomes complete.
                            let Open { blob, file, .. } = &open[roll(open.len())];
                            let mut all = vec![0; blobs[*blob].len()];
                            file.read_exact_at(&mut all, 0).unwrap_or_else(|e| panic!("{place}: {e}"));
                            assert!(all == blobs[*blob], "{place}");
                        }
                        _ => {
                            let Open { blob, file, map } = &open[roll(open.len())];
                            let bytes = &blobs[*blob];
                            let at = roll(bytes.len());
                            let len = (1 + roll(200_000)).min(bytes.len() - at);
                            match map {
                                Some(map) => assert!(map[at..at + len] == bytes[at..at + len], "{place}: mapped"),
                                None => {
                                    let mut part = vec![0; len];
                                    file.read_exact_at(&mut part, at as u64).unwrap_or_else(|e| panic!("{place}: {e}"));
                                    assert!(part == bytes[at..at + len], "{place}: {len} bytes at {at}");
                                }
                            }
                        }
                    }
                }
            });
        }
    });
    for name in ["store_evicted_blobs", "opens_streamed", "opens_passed_through"] {
        assert!(reader.metric(name) > 0, "{name}: the test does not try what it is for");
    }
    assert!(reader.metric("store_bytes") <= 64 << 20);
    assert_eq!((reader.metric("read_errors"), reader.metric("store_corrupt_groups")), (0, 0));
}
