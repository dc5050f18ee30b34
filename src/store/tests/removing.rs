//! What is removed while others have it open, or are about to; and what comes too late for a store that is closed.

use std::fs;

use super::*;
use crate::store::recovery::Work;

/// How many files of this process are open whose last name had `hash` in it and is gone.
fn unlinked_and_open(hash: &ContentHash) -> usize {
    let targets = fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let of_hash = |target: &PathBuf| {
        let target = target.to_string_lossy();
        target.contains(&hash.to_string()) && target.ends_with(" (deleted)")
    };
    targets.filter(of_hash).count()
}

#[test]
fn who_opens_a_blob_that_is_just_being_removed_finds_nothing_and_counts_nothing_twice() {
    for pinned in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let (sample, other) = (Sample::new(3 * GROUP, 1), Sample::new(2 * GROUP, 2));
        drop((sample.write_all(&store), other.write_all(&store)));
        store.set_pinned(&[sample.hash], pinned).unwrap();
        store.shared.lingering.let_go();
        let opened = std::thread::scope(|scope| {
            // As a flush holds it while it tells the index.
            let structure = store.shared.structure.read();
            let removing = scope.spawn(|| store.remove_all(&[sample.hash]).unwrap());
            while store.shared.structure.try_read().is_some() {
                std::thread::yield_now();
            }
            // It has seen by now that nobody has it open.
            let opened = store.shared.open_blob(&sample.hash).unwrap().unwrap();
            drop(structure);
            assert_eq!(removing.join().unwrap(), [Some(sample.charge())]);
            opened
        });
        assert!(!opened.is_complete());
        assert!(matches!(read_groups(&opened, 0..1), Err(StoreError::NotHeld { .. })));
        opened.drop_missing().unwrap();
        assert_eq!((of_blobs(&store), store.usage().blobs), (other.charge(), 1));
        assert_eq!(store.lookup(&sample.hash).unwrap().map_or(0, |info| info.held_bytes), 0);
        // What is fetched again is held, and known after a restart.
        sample.write_all(&store);
        drop((opened, store));
        let store = open(dir.path());
        assert!(sample.read_all(&store).unwrap());
        assert_eq!((of_blobs(&store), store.usage().blobs), (sample.charge() + other.charge(), 2));
    }
}

#[test]
fn files_that_were_removed_go_once_all_of_their_blob_is_held_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for (seed, anew) in [false, true].into_iter().enumerate() {
        let sample = Sample::new(3 * GROUP, seed as u8);
        let blob = sample.write_all(&store);
        store.remove_all(&[sample.hash]).unwrap();
        assert_eq!(unlinked_and_open(&sample.hash), 2, "content and outboard, for whoever has it open");
        assert_eq!(blob.read_removed(&(0..3)).unwrap(), sample.content);
        if anew {
            add(&store, dir.path(), &sample);
        } else {
            drop(sample.write_all(&store));
        }
        assert_eq!(unlinked_and_open(&sample.hash), 0);
        assert_eq!(blob.read(BlobRange::new(0, u64::MAX)).unwrap(), sample.content);
    }
}

#[test]
fn a_store_that_is_closed_takes_nothing_and_what_it_was_taking_is_looked_for_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, partial, late) = (Sample::new(100, 1), Sample::new(3 * GROUP, 2), Sample::new(90, 3));
    let store = open(dir.path());
    let handles = [whole.write_all(&store), partial.write(&store, 0..1).unwrap()];
    store.close().unwrap();
    assert!(matches!(late.write(&store, late.all()), Err(StoreError::Closed)));
    assert!(!content_path(dir.path(), &late.hash).exists());
    drop((handles, store));
    let store = open_soon(dir.path(), 64 << 20).unwrap();
    assert_eq!(store.shared.recovery.work(), Work::Nothing, "it was closed in order");
    // A write that is not over yet when it is closed.
    let blob = store.blob(&partial.hash).unwrap().unwrap();
    blob.begin_write().unwrap();
    store.close().unwrap();
    drop((blob, store));
    let store = open_soon(dir.path(), 64 << 20).unwrap();
    assert_ne!(store.shared.recovery.work(), Work::Nothing);
    store.shared.recovery.wait_until_done();
    assert!(whole.read_all(&store).unwrap());
}
