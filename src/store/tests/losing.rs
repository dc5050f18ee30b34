//! What is lost and what is not, when files are damaged, missing, or replaced just then.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;

use super::*;
use crate::store::{Origin, PinOutcome};

#[test]
fn what_is_found_of_files_says_nothing_of_those_that_have_taken_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for size in [100, 5 * GROUP] {
        let sample = Sample::new(size, 1);
        let blob = store.create_partial(sample.hash, sample.size()).unwrap();
        let old = blob.begin_write().unwrap();
        old.writers.fetch_sub(1, Ordering::Relaxed);
        // Somebody adds it while a write fails, a read finds a file cut short and a sync fails.
        add(&store, dir.path(), &sample);
        blob.drop_unused(&old).unwrap();
        blob.drop_all(&old).unwrap();
        blob.drop_missing().unwrap();
        blob.drop_groups(&old, &[sample.all()], sample.all());
        let info = store.lookup(&sample.hash).unwrap().unwrap();
        assert_eq!((info.complete, info.origin, info.pinned), (true, Origin::Local, true));
        assert!(sample.read_all(&store).unwrap());
    }
}

#[test]
fn who_fetches_again_what_was_added_or_pinned_finds_it_kept() {
    type Damage = fn(&Path);
    let damages: [Damage; 2] = [|path| flip(path, 7), |path| fs::remove_file(path).unwrap()];
    for (case, damage) in damages.iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let (added, pinned, neither) = (Sample::new(100, 1), Sample::new(90, 2), Sample::new(80, 3));
        add(&store, dir.path(), &added);
        pinned.write_all(&store);
        neither.write_all(&store);
        assert_eq!(store.set_pinned(&[pinned.hash], true).unwrap(), [PinOutcome::Done]);
        store.close().unwrap();
        drop(store);
        for sample in [&added, &pinned, &neither] {
            damage(&content_path(dir.path(), &sample.hash));
        }
        let store = open(dir.path());
        for sample in [&added, &pinned, &neither] {
            assert!(sample.read_all(&store).is_err());
            assert!(store.blob(&sample.hash).unwrap().is_none(), "nothing of it is held");
        }
        assert!(store.shared.index.get(&neither.hash).unwrap().is_none());
        let known = |store: &Store| {
            [&added, &pinned].map(|sample| {
                let info = store.lookup(&sample.hash).unwrap().unwrap();
                (info.held_bytes, info.origin, info.pinned)
            })
        };
        assert_eq!(known(&store), [(0, Origin::Local, true), (0, Origin::Fetched, true)]);
        store.close().unwrap();
        drop(store);
        let store = open(dir.path());
        assert_eq!(known(&store), [(0, Origin::Local, true), (0, Origin::Fetched, true)], "{case}");
        added.write_all(&store);
        pinned.write_all(&store);
        store.flush().unwrap();
        assert_eq!(known(&store), [(100, Origin::Local, true), (90, Origin::Fetched, true)]);
        assert_eq!(of_blobs(&store), added.charge() + pinned.charge());
        // A new index knows it, too.
        drop(store);
        fs::remove_file(dir.path().join("index.redb")).unwrap();
        let store = open(dir.path());
        assert_eq!(known(&store), [(100, Origin::Local, true), (90, Origin::Fetched, true)]);
        assert!(added.read_all(&store).unwrap() && pinned.read_all(&store).unwrap());
    }
}

#[test]
fn a_write_that_fails_leaves_what_is_pinned_known() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(100, 1);
    let blob = sample.write_all(&store);
    store.set_pinned(&[sample.hash], true).unwrap();
    flip(&content_path(dir.path(), &sample.hash), 7);
    assert!(blob.read(BlobRange::new(0, 1)).is_err());
    let files = blob.begin_write().unwrap();
    files.writers.fetch_sub(1, Ordering::Relaxed);
    blob.drop_unused(&files).unwrap();
    sample.write_all(&store);
    assert!(sample.read_all(&store).unwrap() && blob.info().pinned);
}

#[test]
fn others_are_not_kept_waiting_while_a_damaged_file_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (damaged, other) = (Sample::new(6 * GROUP, 1), Sample::new(3 * GROUP, 2));
    let blob = damaged.write_all(&store);
    flip(&content_path(dir.path(), &damaged.hash), 1);
    assert!(read_groups(&blob, 0..1).is_err());
    // The copy is under way as long as this is held.
    let copying = store.shared.mending.lock();
    std::thread::scope(|scope| {
        let mending = scope.spawn(|| damaged.write(&store, 0..1).unwrap());
        while of_blobs(&store) == 5 * GROUP_LEN + 4096 {
            std::thread::yield_now();
        }
        other.write_all(&store);
        assert!(other.read_all(&store).unwrap());
        assert_eq!(read_groups(&blob, 1..6).unwrap(), damaged.bytes(&(1..6)));
        // More of it turns out damaged meanwhile.
        flip(&content_path(dir.path(), &damaged.hash), 5 * GROUP_LEN);
        assert!(read_groups(&blob, 5..6).is_err());
        assert!(!blob.has(0..1));
        drop(copying);
        mending.join().unwrap();
    });
    assert_eq!(blob.missing(damaged.all()), std::slice::from_ref(&(5..6)));
    damaged.write(&store, 5..6).unwrap();
    assert!(damaged.read_all(&store).unwrap());
    let mode = fs::metadata(content_path(dir.path(), &damaged.hash)).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o444);
    assert_eq!(of_blobs(&store), damaged.charge() + other.charge());
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn few_reads_wait_for_an_outboard_and_the_others_are_told_to_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(8 * GROUP, 1);
    drop(sample.write_all(&store));
    store.close().unwrap();
    drop(store);
    flip(&outboard_path(dir.path(), &sample.hash), 0);
    let store = open(dir.path());
    let blob = store.blob(&sample.hash).unwrap().unwrap();
    let mending = store.shared.mending.lock();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..4)
            .map(|group| {
                scope.spawn({
                    let blob = &blob;
                    move || read_groups(blob, group..group + 1)
                })
            })
            .collect();
        while store.shared.menders.load(Ordering::Relaxed) < 4 {
            std::thread::yield_now();
        }
        let told = read_groups(&blob, 5..6);
        assert!(matches!(told, Err(StoreError::Mending { .. })), "{told:?}");
        assert!(blob.is_complete(), "nothing is dropped");
        drop(mending);
        for (group, read) in waiting.into_iter().enumerate() {
            assert_eq!(read.join().unwrap().unwrap(), sample.bytes(&(group as u64..group as u64 + 1)));
        }
    });
    assert!(sample.read_all(&store).unwrap());
    assert_eq!(store.shared.menders.load(Ordering::Relaxed), 0);
}

#[test]
fn who_may_not_wait_is_told_so_while_blobs_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (held, other) = (Sample::new(5 * GROUP, 1), Sample::new(100, 2));
    drop(held.write_all(&store));
    store.flush().unwrap();
    store.shared.lingering.let_go();
    let evicting = store.shared.structure.write();
    assert!(store.blob_at_once(&held.hash).is_none(), "it cannot be told now");
    drop(evicting);
    let blob = store.blob_at_once(&held.hash).unwrap().unwrap();
    assert!(store.blob_at_once(&other.hash).unwrap().is_none(), "it is not held");
    let _evicting = store.shared.structure.write();
    assert!(store.blob_at_once(&held.hash).unwrap().is_some(), "it is open");
    assert_eq!(read_groups(&blob, 0..5).unwrap(), held.content);
    assert!(blob.is_whole());
}
