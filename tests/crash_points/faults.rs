//! Calls to the system that fail below the store: it says so, claims nothing wrong, and goes on when the
//! disk does.

use std::os::unix::fs::MetadataExt;

use byhash::store::StoreError;
use libc::{EIO, ENOSPC, EROFS};

use super::*;
use crate::recorder::{Call, Fault, set_fault};

fn fail(call: Call, path: &str, errno: i32) {
    set_fault(Some(Fault { call, path: path.to_owned(), errno }));
}

/// Runs `work` with a store in an empty directory; then all that is claimed after a restart must be right.
fn with_store(work: impl FnOnce(&Store, &Metrics, &Path)) {
    let _alone = ALONE.lock();
    let dir = scratch_dir();
    record(dir.path(), || {
        let metrics = Arc::new(Metrics::default());
        let config = Config { dir: dir.path().to_owned(), capacity: 1 << 20, keep_free: 0 };
        let store = Store::open(config, metrics.clone()).unwrap();
        // What a new index has to be told is told before anything fails.
        while !store.is_settled() {
            std::thread::yield_now();
        }
        work(&store, &metrics, dir.path());
        set_fault(None);
    });
    check(open(dir.path()), &samples(), &Expected::default(), "after the fault");
}

fn try_write(sample: &Sample, store: &Store, groups: Range<u64>) -> Result<(), StoreError> {
    let blob = store.create_partial(sample.hash, sample.size())?;
    blob.write(groups.start, sample.bytes(&groups), &sample.proof(&groups))
}

#[test]
fn a_write_that_fails_is_refused_and_counted_and_the_next_one_is_taken() {
    for errno in [EIO, ENOSPC, EROFS] {
        with_store(|store, metrics, dir| {
            let sample = &samples()[3];
            sample.write(store, 0..2);
            // What the index takes may change with each commit, and is counted after it.
            let used_by_blobs = || {
                store.flush().unwrap();
                store.usage().used - dir.join("index.redb").metadata().unwrap().blocks() * 512
            };
            let used = used_by_blobs();
            fail(Call::Write, "blobs/", errno);
            let refused = try_write(sample, store, 2..4).unwrap_err();
            assert!(matches!(refused, StoreError::Io { .. }), "{refused}");
            // A blob of which nothing is held yet leaves no file.
            let other = &samples()[2];
            assert!(try_write(other, store, 0..1).is_err());
            assert!(metrics.store_write_errors.get() > 0);
            set_fault(None);
            assert_eq!(used_by_blobs(), used, "nothing stays reserved");
            assert!(store.lookup(&other.hash).unwrap().is_none_or(|info| info.held_bytes == 0));
            let blob = store.blob(&sample.hash).unwrap().unwrap();
            assert!(blob.has(0..2) && !blob.has(2..3));
            sample.write(store, 2..4);
            other.write(store, other.all());
            store.flush().unwrap();
            assert!(blob.has(0..4) && store.lookup(&other.hash).unwrap().unwrap().complete);
        });
    }
}

#[test]
fn what_cannot_be_read_is_dropped_and_fetched_again() {
    for part in ["content", "outboard"] {
        with_store(|store, metrics, _| {
            let sample = &samples()[1];
            // What has just been written is known to be right, and read without the outboard.
            store.check_every_read();
            sample.write(store, sample.all());
            let blob = store.blob(&sample.hash).unwrap().unwrap();
            let path = if part == "outboard" { ".obao4".to_owned() } else { sample.hash.to_string() };
            fail(Call::Read, &path, EIO);
            let failed = blob.read(BlobRange::new(0, 1)).unwrap_err();
            assert!(matches!(failed, StoreError::Corrupt { .. }), "{part}: {failed}");
            set_fault(None);
            assert!(metrics.store_corrupt_groups.get() > 0 && !blob.has(0..1));
            sample.write(store, 0..1);
            assert_eq!(blob.read(BlobRange::new(0, 1)).unwrap(), sample.content[..1]);
        });
    }
}

#[test]
fn what_could_not_be_synced_is_not_claimed() {
    with_store(|store, metrics, _| {
        let (sound, lost) = (&samples()[0], &samples()[1]);
        sound.write(store, sound.all());
        store.flush().unwrap();
        fail(Call::Sync, &lost.hash.to_string(), EIO);
        lost.write(store, lost.all());
        // The flusher may have been quicker.
        let _ = store.flush();
        set_fault(None);
        assert!(metrics.store_write_errors.get() > 0);
        assert!(store.lookup(&lost.hash).unwrap().is_none_or(|info| info.held_bytes == 0));
        store.close().unwrap();
    });
}

#[test]
fn an_index_that_cannot_be_written_is_written_when_it_can() {
    for (call, errno) in [(Call::Write, ENOSPC), (Call::Write, EIO), (Call::Sync, EIO), (Call::Write, EROFS)] {
        with_store(|store, metrics, _| {
            let (before, sample) = (&samples()[0], &samples()[1]);
            before.write(store, before.all());
            store.flush().unwrap();
            fail(call, "index.redb", errno);
            sample.write(store, sample.all());
            let failed = store.flush();
            assert!(failed.is_err() && metrics.store_write_errors.get() > 0, "{call:?} {errno}");
            // What is held is read all the same.
            let blob = store.blob(&sample.hash).unwrap().unwrap();
            assert_eq!(blob.read(BlobRange::new(0, u64::MAX)).unwrap(), sample.content);
            set_fault(None);
            store.flush().unwrap();
            assert!(store.lookup(&before.hash).unwrap().unwrap().complete);
            assert_eq!(store.complete_blobs(None, 10).unwrap().len(), 2);
        });
    }
}

#[test]
fn a_removal_that_the_index_does_not_take_removes_nothing() {
    with_store(|store, _, dir| {
        let (open, closed) = (&samples()[0], &samples()[1]);
        open.write(store, open.all());
        closed.write(store, closed.all());
        store.flush().unwrap();
        let blob = store.blob(&open.hash).unwrap().unwrap();
        let used = store.usage().blobs;
        let remove = [open.hash, closed.hash];
        fail(Call::Write, "index.redb", ENOSPC);
        assert!(store.remove_all(&remove).is_err() && store.remove(&open.hash).is_err());
        set_fault(None);
        assert_eq!(store.usage().blobs, used);
        assert_eq!(blob.read(BlobRange::new(0, u64::MAX)).unwrap(), open.content);
        let again = store.blob(&closed.hash).unwrap().unwrap();
        assert_eq!(again.read(BlobRange::new(0, u64::MAX)).unwrap(), closed.content);
        assert!(store.remove_all(&remove).unwrap().iter().all(Option::is_some));
        assert_eq!(store.usage().blobs, used - 2);
        assert!(!content_file(dir, open).exists());
    });
}

#[test]
fn an_index_that_cannot_be_read_is_an_error_and_not_damage() {
    with_store(|store, _, dir| {
        let sample = &samples()[1];
        sample.write(store, sample.all());
        store.close().unwrap();
        fail(Call::Read, "index.redb", EIO);
        // Not all is read from the disk, so it may work.
        let _ = store.complete_blobs(None, 10);
        set_fault(None);
        assert_eq!(store.complete_blobs(None, 10).unwrap().len(), 1);
        assert!(!dir.join("index.redb.damaged").exists());
    });
    let _alone = ALONE.lock();
    let dir = scratch_dir();
    drop(open(dir.path()));
    record(dir.path(), || {
        fail(Call::Read, "index.redb", EIO);
        let config = Config { dir: dir.path().to_owned(), capacity: 1 << 20, keep_free: 0 };
        let refused = Store::open(config, Arc::new(Metrics::default())).unwrap_err();
        assert!(refused.to_string().contains("index.redb"), "{refused}");
    });
    assert!(!dir.path().join("index.redb.damaged").exists());
}
