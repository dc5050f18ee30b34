//! The cap, and who goes first.

use super::*;

/// One group of content, no outboard.
fn small(seed: u8) -> Sample {
    Sample::new(GROUP, seed)
}

fn held(store: &Store, samples: &[Sample]) -> Vec<bool> {
    samples.iter().map(|sample| store.lookup(&sample.hash).unwrap().is_some()).collect()
}

#[test]
fn the_least_recently_used_blob_makes_room() {
    let dir = tempfile::tempdir().unwrap();
    // Room for three.
    let store = open_with(dir.path(), 3 * GROUP_LEN);
    let samples: Vec<_> = (0..5).map(small).collect();
    samples[..3].iter().for_each(|sample| drop(sample.write_all(&store)));
    assert!(samples[0].read_all(&store).unwrap());
    samples[3].write_all(&store);
    assert_eq!(held(&store, &samples), [true, false, true, true, false]);
    assert!(!content_path(dir.path(), &samples[1].hash).exists());
    samples[4].write_all(&store);
    assert_eq!(held(&store, &samples), [true, false, false, true, true]);
    assert_eq!(of_blobs(&store), 3 * GROUP_LEN);
    assert_eq!(store.shared.metrics.store_evicted_blobs.get(), 2);
}

#[test]
fn a_blob_in_use_stays_and_without_room_the_store_says_full() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), 2 * GROUP_LEN + 5);
    let samples: Vec<_> = (0..4).map(small).collect();
    let first = samples[0].write_all(&store);
    samples[1].write_all(&store);
    samples[2].write_all(&store);
    assert_eq!(held(&store, &samples), [true, false, true, false]);
    let third = store.blob(&samples[2].hash).unwrap().unwrap();
    let _waiting = store.create_partial(samples[3].hash, GROUP_LEN).unwrap();
    let full = samples[3].write(&store, 0..1);
    assert!(matches!(full, Err(StoreError::Full { wanted: GROUP_LEN })));
    assert!(store.usage().used <= store.usage().capacity);
    assert!(samples[0].read_all(&store).unwrap() && first.is_complete());
    // Asked for once more, it lingers when it is closed.
    drop(store.blob(&samples[2].hash).unwrap());
    drop(third);
    samples[3].write_all(&store);
    assert_eq!(held(&store, &samples), [true, false, false, true]);
}

#[test]
fn a_blob_larger_than_the_store_is_held_as_far_as_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(10 * GROUP, 1);
    let store = open_with(dir.path(), 5 * GROUP_LEN);
    let mut written = 0;
    for group in sample.all() {
        match sample.write(&store, group..group + 1) {
            Ok(_) => written += 1,
            Err(StoreError::Full { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(store.usage().used <= store.usage().capacity);
    }
    // The outboard takes less than one group.
    assert_eq!(written, 4);
    let blob = store.blob(&sample.hash).unwrap().unwrap();
    assert_eq!(read_groups(&blob, 0..4).unwrap(), sample.bytes(&(0..4)));
}

#[test]
fn a_write_that_fails_at_once_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), 100);
    let sample = Sample::new(3 * GROUP, 1);
    assert!(matches!(sample.write(&store, 0..1), Err(StoreError::Full { .. })));
    assert_eq!((of_blobs(&store), store.usage().blobs), (0, 0));
    assert!(!content_path(dir.path(), &sample.hash).exists());
}

#[test]
fn space_to_keep_free_on_the_disk_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { dir: dir.path().to_owned(), capacity: 1 << 30, keep_free: u64::MAX / 2 };
    let store = Store::open(config, Arc::default()).unwrap();
    assert!(matches!(small(1).write(&store, 0..1), Err(StoreError::Full { .. })));
}

#[test]
fn what_is_open_or_mapped_stays_readable_when_it_is_evicted_and_is_then_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), 2 * GROUP_LEN);
    let samples: Vec<_> = (0..3).map(small).collect();
    let blob = samples[0].write_all(&store);
    let mut file = blob.content_file().unwrap();
    // SAFETY: a complete content file is never written to, only unlinked.
    let map = unsafe { memmap2::Mmap::map(&file).unwrap() };
    drop(blob);
    samples[1..].iter().for_each(|sample| drop(sample.write_all(&store)));
    assert_eq!(held(&store, &samples), [false, true, true]);
    assert!(!content_path(dir.path(), &samples[0].hash).exists());
    assert_eq!(map[..], samples[0].content);
    let mut read = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut read).unwrap();
    assert_eq!(read, samples[0].content);
    // The next one writes it anew, to another file.
    samples[0].write_all(&store);
    assert!(samples[0].read_all(&store).unwrap());
    assert_eq!(map[..], samples[0].content);
}

#[test]
fn what_is_being_served_is_not_evicted() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(4 * GROUP, 1);
    // An outboard takes a block.
    let store = open_with(dir.path(), sample.charge() + 2 * GROUP_LEN);
    sample.write_all(&store);
    let served = store.blob(&sample.hash).unwrap().unwrap();
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| {
            for _ in 0..50 {
                for group in sample.all() {
                    let groups = group..group + 1;
                    assert_eq!(read_groups(&served, groups.clone()).unwrap(), sample.bytes(&groups));
                    served.read_proof(std::slice::from_ref(&groups)).unwrap();
                }
            }
        });
        (10..60).for_each(|seed| drop(small(seed).write_all(&store)));
        serving.join().unwrap();
    });
    assert!(served.is_complete() && store.shared.metrics.store_evicted_blobs.get() >= 48);
}

#[test]
fn what_was_closed_lingers_with_its_files_until_room_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), 2 * GROUP_LEN);
    let samples: Vec<_> = (0..3).map(small).collect();
    samples[0].write_all(&store);
    store.flush().unwrap();
    let blob = store.blob(&samples[0].hash).unwrap().unwrap();
    read_groups(&blob, 0..1).unwrap();
    let lingering = Arc::downgrade(&blob);
    drop(blob);
    assert!(lingering.upgrade().is_some_and(|blob| blob.state().files.is_some()));
    samples[1..].iter().for_each(|sample| drop(sample.write_all(&store)));
    assert_eq!(held(&store, &samples), [false, true, true]);
    assert!(lingering.upgrade().is_none());
    // What is asked for is used, and what is removed does not linger on the disk.
    drop(store.blob(&samples[1].hash).unwrap());
    samples[0].write_all(&store);
    assert_eq!(held(&store, &samples), [true, true, false]);
    let blob = store.blob(&samples[1].hash).unwrap().unwrap();
    read_groups(&blob, 0..1).unwrap();
    store.remove(&samples[1].hash).unwrap();
    assert!(blob.state().files.is_none());
    drop(blob);
    drop(store.blob(&samples[0].hash).unwrap());
    let shared = Arc::downgrade(&store.shared);
    drop(store);
    assert!(shared.upgrade().is_none(), "nothing of a store that is dropped stays, though blobs lingered");
}
