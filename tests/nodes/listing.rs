//! `ls` of a cache with very many blobs.

use std::collections::BTreeSet;
use std::fs::ReadDir;
use std::process::Command;
use std::sync::Arc;

use byhash::ids::ContentHash;
use byhash::metrics::Metrics;
use byhash::store::{Config, Store};
use byhash::verify::{Proof, build_outboard};

use super::node::{Node, Sandbox, Seat, asking, failure, fuse_is_here, run, stdout};

/// Blobs of the cache: sixty times as many as the kernel asks for at once.
const BLOBS: u64 = 20_000;

/// Listings that are under way at the same time.
const LISTINGS: usize = 64;

/// What all of them together may take, in bytes: an eighth of what the names themselves would.
const MEMORY: u64 = 64 * BLOBS * LISTINGS as u64 / 8;

/// Puts small blobs into the cache of `seat`, on which no node runs; those for which `keeps` holds are
/// pinned.
fn fill(seat: &Seat, keeps: impl Fn(u64) -> bool) -> (BTreeSet<String>, BTreeSet<String>) {
    let config = Config { dir: seat.state.join("cache"), capacity: 10 << 30, keep_free: 0 };
    let store = Store::open(config, Arc::new(Metrics::default())).unwrap();
    let (mut kept, mut others) = (Vec::new(), Vec::new());
    for number in 0..BLOBS {
        let bytes = number.to_le_bytes();
        let (hash, nodes) = build_outboard(&bytes);
        let proof = Proof::verify(&hash, bytes.len() as u64, std::slice::from_ref(&(0..1)), nodes).unwrap();
        store.create_partial(hash, bytes.len() as u64).unwrap().write(0, &bytes, &proof).unwrap();
        if keeps(number) { kept.push(hash) } else { others.push(hash) }
    }
    store.flush().unwrap();
    store.set_pinned(&kept, true).unwrap();
    store.close().unwrap();
    let names = |hashes: Vec<ContentHash>| hashes.iter().map(ToString::to_string).collect();
    (names(kept), names(others))
}

fn next(listing: &mut ReadDir) -> Option<String> {
    listing.next().map(|entry| entry.unwrap().file_name().into_string().unwrap())
}

fn names(node: &Node) -> Vec<String> {
    let mut listing = std::fs::read_dir(node.by_hash()).unwrap();
    std::iter::from_fn(|| next(&mut listing)).collect()
}

#[test]
fn many_listings_of_many_blobs_are_complete_and_take_no_memory() {
    if !fuse_is_here("many_listings_of_many_blobs_are_complete_and_take_no_memory") {
        return;
    }
    let sandbox = Sandbox::new();
    let seat = sandbox.seat("a");
    let (all, none) = fill(&seat, |_| true);
    assert_eq!((all.len() as u64, none.len()), (BLOBS, 0));
    let node = seat.mount(asking(&[]));
    let printed = run(Command::new("ls").arg("-f").arg(node.by_hash()));
    let printed: Vec<_> = printed.lines().filter(|name| name.len() == 64).collect();
    assert!(printed.iter().copied().eq(all.iter().map(String::as_str)), "once each, and in order");
    let before = node.peak_memory();
    let mut listings: Vec<_> = (0..LISTINGS).map(|_| std::fs::read_dir(node.by_hash()).unwrap()).collect();
    // All of them at once, some further than others.
    for (number, listing) in listings.iter_mut().enumerate() {
        for name in all.iter().take(number * 100) {
            assert_eq!(next(listing).as_ref(), Some(name));
        }
    }
    let grown = node.peak_memory() - before;
    assert!(grown < MEMORY, "{LISTINGS} listings of {BLOBS} blobs take {} KiB", grown >> 10);
    for (number, mut listing) in listings.into_iter().enumerate().step_by(16) {
        assert!(std::iter::from_fn(|| next(&mut listing)).eq(all.iter().skip(number * 100).cloned()));
    }
}

/// As readdir(3p) has it: what was there all the time is shown once; what came or went meanwhile may be
/// shown or not.
#[test]
fn a_listing_shows_once_what_stays_while_other_blobs_come_and_go() {
    if !fuse_is_here("a_listing_shows_once_what_stays_while_other_blobs_come_and_go") {
        return;
    }
    let sandbox = Sandbox::new();
    let seat = sandbox.seat("a");
    let (kept, mut others) = fill(&seat, |number| number % 2 == 0);
    let node = seat.mount(asking(&[]));
    let mut listing = std::fs::read_dir(node.by_hash()).unwrap();
    let mut shown: Vec<_> = std::iter::from_fn(|| next(&mut listing)).take(BLOBS as usize / 3).collect();
    // One is removed that was shown, and one that was not yet; others are added, and at last all that
    // may go is evicted.
    let removed = [others.first().unwrap().clone(), others.last().unwrap().clone()];
    stdout(&node.run(["rm".to_owned()].into_iter().chain(removed.clone())));
    let added: Vec<_> = (0..20_u8).map(|number| node.add(&[number; 9])).collect();
    shown.extend(std::iter::from_fn(|| next(&mut listing)).take(BLOBS as usize / 3));
    failure(&node.run(["gc", "--to", "1"]));
    shown.extend(std::iter::from_fn(|| next(&mut listing)));

    let once: BTreeSet<_> = shown.iter().cloned().collect();
    assert_eq!(once.len(), shown.len(), "nothing is shown twice");
    assert!(once.is_superset(&kept), "what stayed is shown");
    assert!(!once.contains(&removed[1]), "what was gone before it was its turn is not shown");
    others.extend(added.iter().cloned());
    assert!(once.iter().all(|name| kept.contains(name) || others.contains(name)), "nothing else is shown");
    // Afterwards: what was kept and what was added, which is kept too.
    let now: BTreeSet<_> = kept.iter().chain(&added).cloned().collect();
    assert!(names(&node).into_iter().eq(now));
}
