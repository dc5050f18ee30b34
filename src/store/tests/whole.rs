//! Files that are given to the kernel, and when they are not.

use std::io::Read;

use super::*;
use crate::store::PinOutcome;

fn reopened(dir: &Path, store: Store) -> Store {
    store.close().unwrap();
    drop(store);
    open(dir)
}

#[test]
fn what_this_store_wrote_is_whole_until_somebody_touches_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(3 * GROUP + 5, 1);
    let part = sample.write(&store, 0..2).unwrap();
    assert!(!part.is_whole() && part.whole_file().is_none(), "not complete");
    drop(part);
    drop(sample.write_all(&store));
    let blob = store.blob(&sample.hash).unwrap().unwrap();
    assert!(blob.is_whole());
    let mut bytes = Vec::new();
    (&*blob.whole_file().unwrap().file).read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, sample.content);
    flip(&content_path(dir.path(), &sample.hash), 2 * GROUP_LEN);
    assert!(!blob.is_whole() && blob.whole_file().is_none());
    assert!(matches!(blob.check(sample.all()), Err(StoreError::Corrupt { .. })));
    assert!(!blob.is_complete());
    sample.write_all(&store);
    super::basics::settle(&content_path(dir.path(), &sample.hash));
    blob.check(sample.all()).unwrap();
    assert!(blob.is_whole(), "mended");
}

#[test]
fn what_was_there_before_is_whole_once_it_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (right, wrong) = (Sample::new(3 * GROUP + 5, 1), Sample::new(2 * GROUP, 2));
    drop((right.write_all(&store), wrong.write_all(&store)));
    let store = reopened(dir.path(), store);
    flip(&content_path(dir.path(), &wrong.hash), 7);
    let blob = |sample: &Sample| store.blob(&sample.hash).unwrap().unwrap();
    assert!(!blob(&right).is_whole() && !blob(&wrong).is_whole());
    super::basics::settle(&content_path(dir.path(), &right.hash));
    blob(&right).check(right.all()).unwrap();
    assert!(blob(&right).is_whole(), "also for a handle that was made later");
    assert!(blob(&wrong).check(wrong.all()).is_err() && !blob(&wrong).is_whole());
}

/// What is completed is not therefore right: part of it may be from an earlier life.
#[test]
fn a_blob_completed_over_what_was_there_before_is_whole_only_once_that_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(6 * GROUP, 1);
    drop(sample.write(&store, 0..3).unwrap());
    let store = reopened(dir.path(), store);
    flip(&content_path(dir.path(), &sample.hash), 5);
    let blob = sample.write(&store, 3..6).unwrap();
    assert!(blob.is_complete() && !blob.is_whole());
    assert!(blob.check(sample.all()).is_err());
    // The damaged group comes again, into a copy of the rest.
    sample.write(&store, 0..1).unwrap();
    assert!(blob.is_complete() && !blob.is_whole());
    super::basics::settle(&content_path(dir.path(), &sample.hash));
    blob.check(sample.all()).unwrap();
    assert!(blob.is_whole());
}

/// Where one group was found wrong, another one may be.
#[test]
fn a_blob_that_was_found_damaged_on_its_way_is_whole_only_once_all_of_it_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(4 * GROUP, 1);
    let blob = sample.write(&store, 0..3).unwrap();
    let path = content_path(dir.path(), &sample.hash);
    [5, GROUP_LEN + 5].iter().for_each(|at| flip(&path, *at));
    assert!(matches!(read_groups(&blob, 0..1), Err(StoreError::Corrupt { .. })));
    sample.write(&store, 0..1).unwrap();
    sample.write(&store, 3..4).unwrap();
    assert!(blob.is_complete() && !blob.is_whole());
    assert!(matches!(blob.check(sample.all()), Err(StoreError::Corrupt { .. })));
}

/// Who completes it has not seen what others did to the file meanwhile.
#[test]
fn what_others_alter_between_two_writes_is_not_taken_for_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(4 * GROUP, 1);
    let blob = sample.write(&store, 0..2).unwrap();
    flip(&content_path(dir.path(), &sample.hash), GROUP_LEN + 5);
    sample.write(&store, 2..3).unwrap();
    sample.write(&store, 3..4).unwrap();
    assert!(blob.is_complete() && !blob.is_whole());
    assert!(matches!(read_groups(&blob, 1..2), Err(StoreError::Corrupt { .. })));
}

#[test]
fn a_pin_between_two_writes_is_no_alteration() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(4 * GROUP, 1);
    let blob = sample.write(&store, 0..2).unwrap();
    assert_eq!(store.set_pinned(&[sample.hash], true).unwrap(), [PinOutcome::Done]);
    sample.write(&store, 2..4).unwrap();
    assert!(blob.is_whole());
}

#[test]
fn told_to_check_every_read_the_store_does_and_holds_nothing_for_whole() {
    let dir = tempfile::tempdir().unwrap();
    for (always, checked) in [(false, 4), (true, 12)] {
        let store = open(dir.path());
        if always {
            store.check_every_read();
        }
        let sample = Sample::new(4 * GROUP, 1);
        let path = content_path(dir.path(), &sample.hash);
        drop(sample.write_all(&store));
        super::basics::settle(&path);
        let store = if always { store } else { reopened(dir.path(), store) };
        for _ in 0..3 {
            assert!(sample.read_all(&store).unwrap());
        }
        assert_eq!(store.shared.metrics.store_checked_groups.get(), checked);
        assert_eq!(store.blob(&sample.hash).unwrap().unwrap().is_whole(), !always);
        assert!(!always || !store.blob(&sample.hash).unwrap().unwrap().read_at_once(0, &mut [0; GROUP]));
        store.close().unwrap();
        drop(store);
        let _ = std::fs::remove_dir_all(dir.path().join("blobs"));
        let _ = std::fs::remove_file(dir.path().join("index.redb"));
    }
}

#[test]
fn what_is_pinned_or_added_stays_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (pinned, added, closed) = (Sample::new(5 * GROUP, 1), Sample::new(100, 2), Sample::new(3 * GROUP, 3));
    let [blob, other] = [&pinned, &added].map(|sample| sample.write_all(&store));
    drop(closed.write_all(&store));
    store.flush().unwrap();
    store.shared.lingering.let_go();
    assert!(blob.is_whole() && other.is_whole());
    for pin in [true, false] {
        store.set_pinned(&[pinned.hash, closed.hash], pin).unwrap();
        assert!(blob.is_whole(), "{pin}");
        assert!(store.blob(&closed.hash).unwrap().unwrap().is_whole(), "{pin}");
        store.shared.lingering.let_go();
    }
    let staged = crate::store::import::Source::Stream(&mut added.content.as_slice());
    store.adopt(crate::store::import::stage(dir.path(), staged, &|_| {}).unwrap().blob()).unwrap();
    assert!(other.is_whole() && other.info().origin == crate::store::Origin::Local);
    // Whoever else changes something takes that away.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o400);
    std::fs::set_permissions(content_path(dir.path(), &pinned.hash), mode).unwrap();
    assert!(!blob.is_whole());
}
