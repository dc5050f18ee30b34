//! Writing, reading, restarting.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::store::Origin;

#[test]
fn what_is_written_is_read_and_lies_where_the_docs_say() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    // No byte, one byte, one group exactly (no outboard), one byte more, several groups.
    for (seed, len) in [0, 1, GROUP, GROUP + 1, 5 * GROUP + 77].into_iter().enumerate() {
        let sample = Sample::new(len, seed as u8);
        let blob = sample.write_all(&store);
        assert!(blob.is_complete());
        assert!(sample.read_all(&store).unwrap());
        assert_eq!(blob.read(BlobRange::new(3, 20)).unwrap(), sample.content[3.min(len)..20.min(len)]);
        let path = content_path(dir.path(), &sample.hash);
        assert_eq!(fs::read(&path).unwrap(), sample.content);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
        assert_eq!(fs::read(outboard_path(dir.path(), &sample.hash)).unwrap_or_default(), sample.outboard);
        assert_eq!(blob.read_proof(&[sample.all(),]).unwrap(), sample.outboard);
        let mut copy = Vec::new();
        std::io::Read::read_to_end(&mut blob.content_file().unwrap(), &mut copy).unwrap();
        assert_eq!(copy, sample.content);
    }
    assert_eq!(store.usage().blobs, 5);
}

#[test]
fn a_partial_blob_survives_a_restart_and_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(9 * GROUP + 5, 1);
    let store = open(dir.path());
    sample.write(&store, 2..4).unwrap();
    sample.write(&store, 9..10).unwrap();
    let used = of_blobs(&store);
    drop(store);

    let store = open(dir.path());
    assert_eq!(of_blobs(&store), used);
    let info = store.lookup(&sample.hash).unwrap().unwrap();
    assert_eq!((info.size, info.complete, info.held_bytes), (sample.size(), false, 2 * GROUP_LEN + 5));
    let blob = store.blob(&sample.hash).unwrap().unwrap();
    assert!(blob.has(2..4) && blob.has(9..10) && !blob.has(4..5) && !blob.has(9..11));
    assert_eq!(blob.missing(0..10), [0..2, 4..9]);
    assert_eq!(blob.verified().iter().cloned().collect::<Vec<_>>(), [2..4, 9..10]);
    assert_eq!(read_groups(&blob, 2..4).unwrap(), sample.bytes(&(2..4)));
    assert_eq!(read_groups(&blob, 9..10).unwrap(), sample.bytes(&(9..10)));
    let ranges = [2..4, 9..10];
    let proof = blob.read_proof(&ranges).unwrap();
    Proof::verify(&sample.hash, sample.size(), &ranges, proof).unwrap();
    assert!(matches!(blob.read(BlobRange::new(0, 1)), Err(StoreError::NotHeld { .. })));
    assert!(matches!(blob.content_file(), Err(StoreError::NotHeld { .. })));

    for missing in blob.missing(0..10) {
        sample.write(&store, missing).unwrap();
    }
    assert!(blob.is_complete() && sample.read_all(&store).unwrap());
    drop((blob, store));
    let store = open(dir.path());
    assert_eq!(store.complete_blobs(None, 10).unwrap(), [(sample.hash, sample.size())]);
    assert!(sample.read_all(&store).unwrap());
}

#[test]
fn there_is_one_handle_a_blob_and_only_one_store_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(3 * GROUP, 1);
    let blob = store.create_partial(sample.hash, sample.size()).unwrap();
    assert!(Arc::ptr_eq(&blob, &store.create_partial(sample.hash, sample.size()).unwrap()));
    assert!(store.blob(&sample.hash).unwrap().is_none());
    let other = store.create_partial(sample.hash, 5);
    assert!(matches!(other, Err(StoreError::OtherSize { held: 49152, claimed: 5, .. })));
    // Nothing was written, so nothing is left.
    drop(blob);
    assert!(store.blob(&sample.hash).unwrap().is_none());
    assert!(!content_path(dir.path(), &sample.hash).exists());

    let second = try_open(dir.path(), 1).unwrap_err();
    assert!(matches!(second, StoreError::Locked { pid, .. } if pid == Some(std::process::id())), "{second}");
    drop(store);
    open(dir.path());
}

#[test]
fn what_is_no_whole_groups_or_not_covered_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(3 * GROUP + 5, 1);
    let blob = store.create_partial(sample.hash, sample.size()).unwrap();
    let proof = sample.proof(0..2);
    for (first, len) in [(0, 0), (0, 5), (0, GROUP + 1), (1, 2 * GROUP), (3, 5), (3, 6), (4, 0), (u64::MAX, 1)] {
        let refused = blob.write(first, &vec![0; len], &proof);
        assert!(matches!(refused, Err(StoreError::NotGroups { .. })), "{first} {len}");
    }
    let other = Sample::new(GROUP, 2);
    assert!(blob.write(0, &other.content, &other.proof(0..1)).is_err());
    assert_eq!(of_blobs(&store), 0);
}

#[test]
fn blobs_are_found_by_have_key_and_listed_by_hash() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut samples: Vec<_> = (0..5).map(|seed| Sample::new(100, seed)).collect();
    samples.sort_by_key(|sample| sample.hash);
    let partial = Sample::new(3 * GROUP, 9);
    let handle = partial.write(&store, 1..2).unwrap();
    for sample in &samples {
        sample.write_all(&store);
        // Known at once, before any flush.
        let (hash, info) = store.find(&sample.hash.have_key()).unwrap().unwrap();
        assert_eq!((hash, info.complete, info.origin, info.pinned), (sample.hash, true, Origin::Fetched, false));
    }
    assert!(!store.find(&partial.hash.have_key()).unwrap().unwrap().1.complete);
    let wanted = Sample::new(7, 7);
    let size_only = store.create_partial(wanted.hash, wanted.size()).unwrap();
    assert_eq!(store.find(&wanted.hash.have_key()).unwrap(), None);
    drop((handle, size_only));
    store.flush().unwrap();
    assert_eq!(store.find(&partial.hash.have_key()).unwrap().unwrap().0, partial.hash);
    let expected: Vec<_> = samples.iter().map(|sample| (sample.hash, sample.size())).collect();
    assert_eq!(store.complete_blobs(None, 10).unwrap(), expected);
    assert_eq!(store.complete_blobs(Some(samples[1].hash), 2).unwrap(), expected[2..4]);
}

#[test]
fn writers_of_the_same_groups_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(64 * GROUP, 1);
    std::thread::scope(|scope| {
        for shift in 0..4 {
            let (store, sample) = (&store, &sample);
            scope.spawn(move || {
                for group in 0..64 {
                    let group = (group + shift * 8) % 64;
                    sample.write(store, group..group + 1).unwrap();
                }
            });
        }
    });
    assert!(sample.read_all(&store).unwrap());
    assert_eq!(of_blobs(&store), sample.charge());
    assert!(store.lookup(&sample.hash).unwrap().unwrap().complete);
}

/// Blobs come, go and are told to the index at the same time: what is charged for, on the disk and in the index agrees.
#[test]
fn blobs_that_come_and_go_beside_flushes_are_counted_and_kept_rightly() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let samples: Vec<_> = (0..48_u8).map(|seed| Sample::new(usize::from(seed % 3) * GROUP + 100, seed)).collect();
    let (comes_often, written) = (&samples[0], std::sync::atomic::AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let (store, written) = (&store, &written);
        for part in samples.chunks(12) {
            scope.spawn(move || {
                for _ in 0..6 {
                    part.iter().for_each(|sample| drop(sample.write_all(store)));
                    part[6..].iter().for_each(|sample| store.remove(&sample.hash).unwrap());
                    comes_often.write_all(store);
                }
                written.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            });
        }
        scope.spawn(move || {
            while written.load(std::sync::atomic::Ordering::Relaxed) < 4 {
                store.flush().unwrap();
                let _ = store.remove(&comes_often.hash);
            }
        });
    });
    comes_often.write_all(&store);
    store.flush().unwrap();
    let stay: Vec<_> = samples.chunks(12).flat_map(|part| &part[..6]).collect();
    let is_right = |store: &Store| {
        assert_eq!(of_blobs(store), stay.iter().map(|sample| sample.charge()).sum::<u64>());
        assert_eq!(store.usage().blobs, stay.len() as u64);
        assert!(stay.iter().all(|sample| sample.read_all(store).unwrap()));
        for sample in samples.chunks(12).flat_map(|part| &part[6..]) {
            assert!(store.lookup(&sample.hash).unwrap().is_none());
            assert!(!content_path(dir.path(), &sample.hash).exists());
        }
    };
    is_right(&store);
    store.close().unwrap();
    drop(store);
    is_right(&open(dir.path()));
}

#[test]
fn a_removed_blob_is_gone_but_an_open_file_stays_readable() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(3 * GROUP, 1);
    let blob = sample.write_all(&store);
    let mut file = blob.content_file().unwrap();
    store.remove(&sample.hash).unwrap();
    assert!(!blob.is_complete() && !content_path(dir.path(), &sample.hash).exists());
    assert_eq!((of_blobs(&store), store.usage().blobs), (0, 0));
    let mut copy = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut copy).unwrap();
    assert_eq!(copy, sample.content);
    // The handle takes new writes.
    sample.write_all(&store);
    assert!(blob.is_complete() && sample.read_all(&store).unwrap());
}

#[test]
fn what_was_found_right_is_read_at_once_until_the_file_changes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(9 * GROUP + 5, 1);
    drop(sample.write_all(&store));
    // What this store wrote itself it knows to be right.
    drop(store);
    let store = open(dir.path());
    let path = content_path(dir.path(), &sample.hash);
    let mut buf = vec![0; 3 * GROUP];
    let read_at_once = |buf: &mut [u8]| {
        let blob = store.blob(&sample.hash).unwrap().unwrap();
        // Opens the files; the other groups stay unchecked.
        blob.read(BlobRange::new(8 * GROUP as u64, 8 * GROUP as u64 + 1)).unwrap();
        blob.read_at_once(GROUP as u64, buf)
    };
    assert!(!read_at_once(&mut buf), "nobody has checked these");
    settle(&path);
    read_groups(&store.blob(&sample.hash).unwrap().unwrap(), 0..9).unwrap();
    assert!(read_at_once(&mut buf), "it is remembered although nobody had the blob open meanwhile");
    assert_eq!(buf, sample.content[GROUP..4 * GROUP]);
    flip(&path, 5);
    assert!(!store.blob(&sample.hash).unwrap().unwrap().read_at_once(GROUP as u64, &mut buf));
}

#[test]
fn a_small_blob_that_is_in_memory_is_read_at_once_and_never_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (small, longer, full) = (Sample::new(4096, 1), Sample::new(4 * GROUP + 1, 2), Sample::new(4 * GROUP, 3));
    [&small, &longer, &full].into_iter().for_each(|sample| drop(sample.write_all(&store)));
    let whole = |sample: &Sample| [sample.outboard.clone(), sample.content.clone()].concat();
    let read = |store: &Store, sample: &Sample, len: usize| {
        let mut buf = vec![0; len];
        let blob = store.blob(&sample.hash).unwrap().unwrap();
        blob.read_small_at_once(&mut buf).then_some(buf)
    };
    assert_eq!(read(&store, &longer, whole(&longer).len()), None, "more than a few groups");
    for (wrong, len) in [(&small, 4095), (&small, 4097), (&small, 0), (&full, 4 * GROUP), (&full, 0)] {
        assert_eq!(read(&store, wrong, len), None, "not all of it");
    }
    // With its files open, and, on the file systems that can say what they have in memory, without.
    for sample in [&small, &full] {
        let blob = store.blob(&sample.hash).unwrap().unwrap();
        blob.read(BlobRange::new(0, 1)).unwrap();
        assert_eq!(blob.read_proof(&[sample.all()]).unwrap(), sample.outboard);
        assert_eq!(read(&store, sample, whole(sample).len()), Some(whole(sample)));
    }
    drop(store);
    let store = open(dir.path());
    for sample in [&small, &full] {
        assert!(read(&store, sample, whole(sample).len()).is_none_or(|read| read == whole(sample)));
        flip(&content_path(dir.path(), &sample.hash), sample.content.len() as u64 - 5);
        assert_eq!(read(&store, sample, whole(sample).len()), None, "it is no longer right");
    }
    fs::remove_file(content_path(dir.path(), &small.hash)).unwrap();
    assert_eq!(read(&store, &small, 4096), None);
}

/// Waits until the file's change time is old enough to tell it from any later state.
pub(super) fn settle(path: &Path) {
    use std::os::unix::fs::MetadataExt;
    let changed = || {
        let metadata = fs::metadata(path).unwrap();
        std::time::UNIX_EPOCH + std::time::Duration::new(metadata.ctime() as u64, metadata.ctime_nsec() as u32)
    };
    while changed().elapsed().is_ok_and(|age| age.as_millis() < 60) {
        std::thread::yield_now();
    }
}

#[test]
fn a_blob_is_listed_from_the_moment_it_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut expected = Vec::new();
    for seed in 0..5 {
        let sample = Sample::new(GROUP + 1, seed);
        drop(sample.write_all(&store));
        expected.push((sample.hash, sample.size()));
        expected.sort();
        assert_eq!(store.complete_blobs(None, 10).unwrap(), expected, "not flushed yet");
        assert_eq!(store.complete_blobs(Some(expected[0].0), 2).unwrap(), expected[1..expected.len().min(3)]);
    }
    store.flush().unwrap();
    assert_eq!(store.complete_blobs(None, 10).unwrap(), expected);
}

#[test]
fn blobs_that_wait_to_be_flushed_are_few_however_many_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let most = store.shared.max_unflushed;
    assert!((2..=1024).contains(&most));
    for number in 0..2 * most as u32 {
        let content = number.to_le_bytes().to_vec();
        let (hash, outboard) = build_outboard(&content);
        Sample { hash, content, outboard }.write_all(&store);
        let unflushed = store.shared.pending.lock().blobs.len();
        assert!(unflushed <= most + 1, "{unflushed} keep their files open");
    }
}
