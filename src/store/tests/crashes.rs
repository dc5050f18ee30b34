//! Crashes: the disk is copied as it is at a moment, and a store opened on the copy.

use std::collections::HashSet;
use std::fs;

use super::*;
use crate::store::shared::Shared;
use crate::store::sweep::sweep_shard;

/// What a crash now would leave: a copy of all files but the lock.
fn crash(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir, copy.path());
    copy
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_dir(&entry.path(), &target);
        } else if entry.file_name() != "lock" {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// All that the index claims is true; returns the claims.
fn claims(dir: &Path, sample: &Sample) -> Vec<Range<u64>> {
    let store = open(dir);
    let Some(blob) = store.blob(&sample.hash).unwrap() else { return Vec::new() };
    let held: Vec<_> = blob.verified().iter().cloned().collect();
    for groups in &held {
        assert_eq!(read_groups(&blob, groups.clone()).unwrap(), sample.bytes(groups));
    }
    held
}

#[test]
fn only_what_was_flushed_is_claimed_and_it_is_true() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(6 * GROUP, 1);
    let blob = sample.write(&store, 1..3).unwrap();
    store.flush().unwrap();
    let flushed = crash(dir.path());
    sample.write(&store, 4..5).unwrap();
    // Between the write and the flush: the flusher's thread may have been quick.
    let between = crash(dir.path());
    store.flush().unwrap();
    let after = crash(dir.path());
    assert_eq!(claims(flushed.path(), &sample), std::slice::from_ref(&(1..3)));
    assert!([vec![1..3, 4..5], vec![1..3; 1]].contains(&claims(between.path(), &sample)));
    assert_eq!(claims(after.path(), &sample), [1..3, 4..5]);
    drop(blob);
}

#[test]
fn a_claim_without_its_bytes_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(6 * GROUP, 1);
    sample.write_all(&store);
    store.flush().unwrap();
    let lost = crash(dir.path());
    fs::write(content_path(lost.path(), &sample.hash), vec![0; sample.content.len()]).unwrap_or_else(|_| {
        fs::remove_file(content_path(lost.path(), &sample.hash)).unwrap();
    });
    let store = open(lost.path());
    assert!(sample.read_all(&store).is_err());
    assert!(!store.lookup(&sample.hash).unwrap().is_some_and(|info| info.complete));
}

#[test]
fn orphans_of_a_crash_are_not_reused_and_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (known, orphan) = (Sample::new(2 * GROUP, 1), Sample::new(3 * GROUP, 2));
    known.write_all(&store);
    store.flush().unwrap();
    let after = crash(dir.path());
    let (path, nodes) = (content_path(after.path(), &orphan.hash), outboard_path(after.path(), &orphan.hash));
    fs::write(&path, vec![9; orphan.content.len()]).unwrap();
    fs::write(&nodes, vec![9; orphan.outboard.len()]).unwrap();
    let store = open(after.path());
    assert!(store.blob(&orphan.hash).unwrap().is_none());
    for sample in [&orphan, &known] {
        sweep_shard(&store.shared, sample.hash.as_bytes()[0], &|| true, &HashSet::new()).unwrap();
    }
    assert!(!path.exists() && !nodes.exists());
    assert!(known.read_all(&store).unwrap());

    // One that the sweep has not come to yet: not trusted, and not written into.
    fs::write(&path, vec![9; orphan.content.len()]).unwrap();
    let old = fs::File::open(&path).unwrap();
    let blob = orphan.write(&store, 0..1).unwrap();
    assert_eq!(blob.missing(orphan.all()), std::slice::from_ref(&(1..3)));
    let mut untouched = [0];
    std::os::unix::fs::FileExt::read_exact_at(&old, &mut untouched, 0).unwrap();
    assert_eq!(untouched, [9]);
}

#[test]
fn a_crash_between_completion_and_flush_keeps_what_was_known() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(4 * GROUP, 1);
    let blob = sample.write(&store, 0..2).unwrap();
    store.flush().unwrap();
    let index = fs::read(dir.path().join("index.redb")).unwrap();
    sample.write(&store, 2..4).unwrap();
    // The file is already closed for writing, the index still says half.
    let after = crash(dir.path());
    fs::write(after.path().join("index.redb"), index).unwrap();
    let store = open(after.path());
    let resumed = sample.write(&store, 2..3).unwrap();
    assert_eq!(resumed.missing(sample.all()), std::slice::from_ref(&(3..4)));
    sample.write(&store, 3..4).unwrap();
    assert!(resumed.is_complete() && sample.read_all(&store).unwrap());
    drop(blob);
}

#[test]
fn what_a_crash_leaves_in_the_holes_of_a_partial_blob_is_given_back() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let store = open(dir.path());
    let sample = Sample::new(20 * GROUP + 5, 1);
    sample.write(&store, 3..5).unwrap();
    store.flush().unwrap();
    let left = crash(dir.path());
    let path = content_path(left.path(), &sample.hash);
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&sample.content[8 * GROUP..], 8 * GROUP_LEN).unwrap();
    drop((file, store));
    let store = open(left.path());
    assert!(on_disk(&left.path().join("blobs")) <= of_blobs(&store));
    let blob = store.blob(&sample.hash).unwrap().unwrap();
    assert_eq!(read_groups(&blob, 3..5).unwrap(), sample.bytes(&(3..5)));
    sample.write_all(&store);
    assert!(sample.read_all(&store).unwrap());
}

#[test]
fn whoever_writes_to_one_blob_more_than_may_wait_flushes_first() {
    const MAX: u8 = 4;
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let config = Config { dir: dir.path().to_owned(), capacity: 64 << 20, keep_free: 0 };
    // Without the threads, so that nobody else flushes.
    let mut shared = Shared::open(config, Arc::default()).unwrap();
    Arc::get_mut(&mut shared).expect("it was just opened").max_unflushed = MAX.into();
    let samples: Vec<_> = (0..=MAX).map(|seed| Sample::new(2 * GROUP, seed)).collect();
    for (number, sample) in samples.iter().enumerate() {
        assert_eq!(shared.pending.lock().blobs.len(), number);
        let blob = shared.create_partial(sample.hash, sample.size()).unwrap();
        blob.write(0, &sample.content, &sample.proof(sample.all())).unwrap();
    }
    assert_eq!(shared.pending.lock().blobs.len(), 1);
    let claimed = |left: tempfile::TempDir| -> Vec<_> {
        samples.iter().map(|sample| claims(left.path(), sample) == [sample.all()]).collect()
    };
    assert_eq!(claimed(crash(dir.path())), [true, true, true, true, false]);
    shared.flush().unwrap();
    assert_eq!(claimed(crash(dir.path())), [true; MAX as usize + 1]);
}
