//! Listing, pins, removal, collection.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::store::import::{Source, stage};
use crate::store::{HeldBlob, Origin, PinOutcome};

fn add(dir: &Path, store: &Store, content: &[u8]) -> ContentHash {
    let staged = stage(dir, Source::Stream(&mut &*content), &|_| {}).unwrap();
    store.adopt(staged.blob()).unwrap();
    staged.blob().hash
}

/// All pages of `limit` blobs.
fn listed(store: &Store, limit: usize) -> Vec<HeldBlob> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(after, limit).unwrap();
        all.extend(page.blobs);
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

#[test]
fn every_blob_is_listed_once_whatever_the_pages_and_the_flushes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let samples: Vec<_> = (0..7).map(|seed| Sample::new(100, seed)).collect();
    samples[..4].iter().for_each(|sample| drop(sample.write_all(&store)));
    store.flush().unwrap();
    samples[4..].iter().for_each(|sample| drop(sample.write_all(&store)));
    let part = Sample::new(3 * GROUP, 9);
    part.write(&store, 1..2).unwrap();
    let local = add(dir.path(), &store, b"mine");
    // Of this only the size is known.
    let wanted = Sample::new(7, 7);
    let _size_only = store.create_partial(wanted.hash, wanted.size()).unwrap();
    let mut expected: Vec<_> = samples.iter().map(|sample| sample.hash).chain([part.hash, local]).collect();
    expected.sort();
    for flushed in [false, true] {
        for limit in [1, 2, 4, 9, 100] {
            let all = listed(&store, limit);
            assert_eq!(all.iter().map(|blob| blob.hash).collect::<Vec<_>>(), expected, "{flushed} {limit}");
            let find = |hash| all.iter().find(|blob| blob.hash == hash).unwrap();
            let partial = find(part.hash);
            assert_eq!((partial.size, partial.held, partial.complete), (part.size(), GROUP_LEN, false));
            let local = find(local);
            assert_eq!((local.size, local.held, local.complete), (4, 4, true));
            assert_eq!((local.origin, local.pinned, partial.pinned), (Origin::Local, true, false));
        }
        store.flush().unwrap();
    }
    let shown = store.show(&[part.hash, wanted.hash, local]).unwrap();
    assert_eq!(shown.iter().map(|blob| blob.hash).collect::<Vec<_>>(), [part.hash, local]);
}

#[test]
fn looking_is_no_use_and_reading_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), ROOM_FOR_TWO);
    let samples: Vec<_> = (0..3).map(|seed| Sample::new(LARGE, seed)).collect();
    samples[..2].iter().for_each(|sample| drop(sample.write_all(&store)));
    store.flush().unwrap();
    store.list(None, 10).unwrap();
    let before = store.show(&[samples[0].hash]).unwrap()[0].last_use_ms;
    assert_eq!(store.show(&[samples[0].hash]).unwrap()[0].last_use_ms, before);
    samples[2].write_all(&store);
    assert!(store.lookup(&samples[0].hash).unwrap().is_none());
    assert!(store.lookup(&samples[1].hash).unwrap().is_some());
    drop(store.blob(&samples[1].hash).unwrap());
    assert!(store.show(&[samples[1].hash]).unwrap()[0].last_use_ms > before);
}

/// So large that a store for two of them is for no third, whatever else is charged for.
const LARGE: usize = 1 << 20;
const ROOM_FOR_TWO: u64 = 2 * LARGE as u64 + (LARGE as u64 * 3 / 4);

#[test]
fn a_pinned_blob_is_not_evicted_and_an_unpinned_one_is_after_a_restart_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open_with(dir.path(), ROOM_FOR_TWO);
    let samples: Vec<_> = (0..4).map(|seed| Sample::new(LARGE, seed)).collect();
    let held = |store: &Store| samples.iter().map(|s| store.lookup(&s.hash).unwrap().is_some()).collect::<Vec<_>>();
    samples[..2].iter().for_each(|sample| drop(sample.write_all(&store)));
    let done = store.set_pinned(&[samples[0].hash, samples[3].hash], true).unwrap();
    assert_eq!(done, [PinOutcome::Done, PinOutcome::NotHeld]);
    for restart in [false, true] {
        if restart {
            drop(store);
            store = open_with(dir.path(), ROOM_FOR_TWO);
        }
        samples[2].write_all(&store);
        samples[1].write_all(&store);
        assert_eq!(held(&store), [true, true, false, false], "{restart}");
        assert!(store.show(&[samples[0].hash]).unwrap()[0].pinned);
    }
    assert_eq!(store.set_pinned(&[samples[0].hash], false).unwrap(), [PinOutcome::Done]);
    samples[2].write_all(&store);
    assert_eq!(held(&store), [false, true, true, false]);
}

#[test]
fn a_pin_outlives_the_flush_of_a_blob_that_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(3 * GROUP, 1);
    let blob = sample.write(&store, 0..1).unwrap();
    assert_eq!(store.set_pinned(&[sample.hash], true).unwrap(), [PinOutcome::Done], "not flushed yet");
    sample.write(&store, 1..3).unwrap();
    assert!(blob.info().pinned);
    drop((blob, store));
    assert!(open(dir.path()).show(&[sample.hash]).unwrap()[0].pinned);
}

#[test]
fn what_was_added_stays_whatever_its_pin() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let hash = add(dir.path(), &store, b"mine");
    assert_eq!(store.set_pinned(&[hash], true).unwrap(), [PinOutcome::Done]);
    assert_eq!(store.set_pinned(&[hash], false).unwrap(), [PinOutcome::Local]);
    assert!(store.show(&[hash]).unwrap()[0].pinned);
    let collected = store.collect(Some(0)).unwrap();
    assert!(collected.removed.is_empty() && !collected.more && collected.excess > 0, "{collected:?}");
    assert!(store.remove_all(&[hash]).unwrap()[0].is_some_and(|freed| freed >= 4));
    assert!(store.show(&[hash]).unwrap().is_empty() && !content_path(dir.path(), &hash).exists());
}

#[test]
fn removed_blobs_are_gone_from_disk_count_and_index() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let empty = store.usage().used;
    let samples: Vec<_> = (0..4).map(|seed| Sample::new(3 * GROUP, seed)).collect();
    let hashes: Vec<_> = samples.iter().map(|sample| sample.hash).collect();
    drop(samples[0].write_all(&store));
    store.flush().unwrap();
    // One that nobody has open, one that waits for its flush, one that is open and held in part.
    drop(samples[1].write_all(&store));
    let open_blob = samples[2].write(&store, 0..1).unwrap();
    let removed = store.remove_all(&hashes).unwrap();
    assert_eq!(removed.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, true, false]);
    assert!(removed[0] > removed[2] && removed[0] == removed[1]);
    assert_eq!((store.usage().blobs, store.list(None, 9).unwrap().blobs.len()), (0, 0));
    assert!(store.usage().used <= empty.max(1) + (256 << 10), "{}", store.usage().used);
    assert!(hashes.iter().all(|hash| !content_path(dir.path(), hash).exists()));
    samples[2].write_all(&store);
    assert!(open_blob.is_complete() && samples[2].read_all(&store).unwrap());
    drop((open_blob, store));
    assert_eq!(listed(&open(dir.path()), 1).len(), 1);
}

#[test]
fn a_collection_takes_the_least_used_and_leaves_what_is_pinned_or_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let samples: Vec<_> = (0..5).map(|seed| Sample::new(LARGE, seed)).collect();
    samples.iter().for_each(|sample| drop(sample.write_all(&store)));
    store.set_pinned(&[samples[0].hash], true).unwrap();
    let in_use = store.blob(&samples[1].hash).unwrap();
    let full = store.usage().used;
    assert!(store.collect(None).unwrap().removed.is_empty(), "it is within its capacity");
    let collected = store.collect(Some(full - 1)).unwrap();
    let [(hash, freed)] = collected.removed[..] else { panic!("{collected:?}") };
    assert_eq!((hash, collected.excess, collected.more), (samples[2].hash, 0, false));
    assert!(freed >= LARGE as u64 && collected.used == store.usage().used);
    let collected = store.collect(Some(0)).unwrap();
    let removed: Vec<_> = collected.removed.iter().map(|(hash, _)| *hash).collect();
    assert_eq!(removed, [samples[3].hash, samples[4].hash]);
    drop(in_use);
    assert_eq!(store.collect(Some(0)).unwrap().removed.len(), 1);
    assert!(samples[0].read_all(&store).unwrap());
}

#[test]
fn a_collection_goes_in_steps() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for number in 0..300u32 {
        let content = number.to_le_bytes();
        let (hash, _) = build_outboard(&content);
        let proof = Proof::verify(&hash, 4, std::slice::from_ref(&(0..1)), Vec::new()).unwrap();
        store.create_partial(hash, 4).unwrap().write(0, &content, &proof).unwrap();
    }
    let mut steps = Vec::new();
    loop {
        let step = store.collect(Some(0)).unwrap();
        steps.push(step.removed.len());
        if !step.more {
            break;
        }
    }
    assert_eq!(steps.iter().sum::<usize>(), 300);
    assert!(steps.len() > 1 && steps.windows(2).all(|two| two[0] >= two[1]), "{steps:?}");
    assert_eq!(store.usage().blobs, 0);
}

#[test]
fn a_list_has_what_a_flush_tells_the_index_of_while_it_is_made() {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let store = open(dir.path());
    let samples: Vec<_> = (0..1000).map(|number| Sample::new(5 + number / 256, number as u8)).collect();
    let written = AtomicUsize::new(0);
    let all_are_there = |what: &str, count: &dyn Fn() -> usize| {
        loop {
            let least = written.load(Ordering::Acquire);
            let found = count();
            assert!(found >= least, "{what}: {found} of {least}");
            if least == samples.len() {
                break;
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| all_are_there("listed", &|| store.list(None, 2000).unwrap().blobs.len()));
        scope.spawn(|| all_are_there("complete", &|| store.complete_blobs(None, 2000).unwrap().len()));
        for sample in &samples {
            drop(sample.write_all(&store));
            written.fetch_add(1, Ordering::Release);
            // The last handle goes with it.
            store.flush().unwrap();
        }
    });
}
