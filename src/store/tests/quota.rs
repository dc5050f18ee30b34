//! The cap holds for all that lies on the disk.

use std::fs;

use super::*;
use crate::store::import::{Batch, Source, room_for, stage};

/// `len` bytes of a blob of its own.
fn numbered(len: usize, number: u32) -> Sample {
    let mut content = vec![7; len];
    content[..4].copy_from_slice(&number.to_le_bytes());
    let (hash, outboard) = build_outboard(&content);
    Sample { hash, content, outboard }
}

#[test]
fn many_small_blobs_their_index_and_partial_ones_stay_below_the_cap() {
    let dir = tempfile::tempdir().unwrap();
    let capacity = 3 << 20;
    let store = try_open(dir.path(), capacity).unwrap();
    let partial = Sample::new(20 * GROUP, 1);
    for number in 0..700 {
        // A hundred bytes, a block, and a block and some bytes.
        let sample = numbered([100, 4096, 5000][number as usize % 3], number);
        sample.write_all(&store);
        if number % 100 == 0 {
            let group = u64::from(number / 100);
            partial.write(&store, group..group + 1).unwrap();
        }
        if number % 50 == 0 {
            store.flush().unwrap();
        }
        assert!(store.usage().used <= capacity);
        if number % 25 == 0 {
            let (found, used) = (on_disk(dir.path()), store.usage().used);
            assert!(found <= capacity, "{found} after {number}");
            // The lock's one block is nobody's.
            assert!(found <= used + 4096, "{found} on the disk, {used} charged for");
        }
    }
    let usage = store.usage();
    assert!(usage.blobs > 100 && usage.blobs < 600 && usage.used > capacity / 2, "{usage:?}");
    assert_eq!(store.shared.metrics.store_bytes.get(), usage.used);
    let written = store.shared.metrics.store_evicted_blobs.get() + usage.blobs;
    assert_eq!(written, 701, "the partial one was in use now and then, but the oldest of the rest go first");
}

#[test]
fn a_blob_of_one_block_costs_its_file_and_an_entry() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(4096, 1);
    sample.write_all(&store);
    store.flush().unwrap();
    assert_eq!(of_blobs(&store), 4096);
    assert!(!outboard_path(dir.path(), &sample.hash).exists());
}

#[test]
fn what_is_staged_counts_and_others_make_room_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), 10 * GROUP_LEN);
    let samples: Vec<_> = (0..8).map(|seed| Sample::new(GROUP, seed)).collect();
    samples.iter().for_each(|sample| drop(sample.write_all(&store)));
    let added = Sample::new(4 * GROUP, 9);
    let staged = stage(dir.path(), Source::Stream(&mut added.content.as_slice()), &|_| {}).unwrap();
    // As the flusher does by itself.
    store.shared.trim().unwrap();
    assert_eq!(of_blobs(&store), 5 * GROUP_LEN, "the three oldest make room for 4 groups and a block");
    let usage = store.usage();
    assert!(usage.used > of_blobs(&store) + added.charge() && usage.used <= usage.capacity);
    assert!(on_disk(dir.path()) <= usage.capacity);
    store.adopt(staged.blob()).unwrap();
    assert_eq!(of_blobs(&store), 5 * GROUP_LEN + added.charge(), "it counts once");
    drop(staged);
    // What is staged and left alone gives way to nothing, and is counted no more when it is gone.
    let staged = stage(dir.path(), Source::Stream(&mut added.content.as_slice()), &|_| {}).unwrap();
    store.shared.trim().unwrap();
    let with_staged = store.usage().used;
    drop(staged);
    store.shared.trim().unwrap();
    assert!(store.usage().used < with_staged);
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn the_copy_that_mends_a_damaged_file_needs_room() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(8 * GROUP, 1);
    // Room for the blob and half of it again.
    let store = open_with(dir.path(), 12 * GROUP_LEN);
    sample.write_all(&store);
    flip(&content_path(dir.path(), &sample.hash), 0);
    assert!(sample.read_all(&store).is_err());
    let blob = store.blob(&sample.hash).unwrap().unwrap();
    let refused = sample.write(&store, 0..1);
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
    assert_eq!(of_blobs(&store), sample.charge() - GROUP_LEN, "nothing stays reserved");
    // The rest is still read.
    assert_eq!(read_groups(&blob, 1..8).unwrap(), sample.bytes(&(1..8)));
}

#[test]
fn a_smaller_cap_holds_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), 10 * GROUP_LEN);
    let samples: Vec<_> = (0..10).map(|seed| Sample::new(GROUP, seed)).collect();
    samples.iter().for_each(|sample| drop(sample.write_all(&store)));
    drop(store);
    let store = open_with(dir.path(), 4 * GROUP_LEN);
    store.shared.trim().unwrap();
    assert_eq!(of_blobs(&store), 4 * GROUP_LEN);
    assert!(samples[9].read_all(&store).unwrap() && store.lookup(&samples[5].hash).unwrap().is_none());
}

/// Stages all of `samples` in one batch, with room asked for first.
fn stage_with_room(dir: &Path, store: &Store, samples: &[&Sample]) -> Result<Batch, StoreError> {
    let mut batch = Batch::create(dir)?;
    let room = &mut |batch: &str, bytes| store.make_room(batch, bytes);
    batch.reserve(samples.iter().map(|sample| room_for(sample.size())).sum(), room)?;
    for sample in samples {
        batch.stage(Source::Stream(&mut sample.content.as_slice()), room, &|_| {})?;
    }
    batch.sync()?;
    Ok(batch)
}

#[test]
fn room_is_made_before_anything_is_staged_and_kept_until_it_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), 20 * GROUP_LEN);
    let fetched: Vec<_> = (0..19).map(|seed| Sample::new(GROUP, seed)).collect();
    fetched.iter().for_each(|sample| drop(sample.write_all(&store)));
    let added = [&Sample::new(4 * GROUP, 50), &Sample::new(3 * GROUP + 1, 51)];
    let charge: u64 = added.iter().map(|sample| sample.charge()).sum();
    let mut batch = Batch::create(dir.path()).unwrap();
    let room = &mut |batch: &str, bytes| store.make_room(batch, bytes);
    batch.reserve(charge, room).unwrap();
    // Nothing is written yet, but the room is there, and nobody else takes it.
    assert_eq!(store.usage().used - of_blobs(&store) - charge, on_disk_of_index(dir.path()));
    assert!(of_blobs(&store) + charge <= 20 * GROUP_LEN);
    let others: Vec<_> = (0..30).map(|seed| Sample::new(GROUP, 100 + seed)).collect();
    for (number, sample) in others.iter().enumerate() {
        sample.write_all(&store);
        if let Some(sample) = added.get(number) {
            batch.stage(Source::Stream(&mut sample.content.as_slice()), room, &|_| {}).unwrap();
        }
        assert!(on_disk(dir.path()) <= store.usage().capacity && store.usage().used <= store.usage().capacity);
    }
    batch.sync().unwrap();
    assert!(store.adopt_all(batch.blobs()).iter().all(Result::is_ok));
    assert!(of_blobs(&store) <= 20 * GROUP_LEN);
    // It counts once, while the batch lives and after.
    assert_eq!(store.usage().used - of_blobs(&store), on_disk_of_index(dir.path()));
    drop(batch);
    store.shared.trim().unwrap();
    assert_eq!(store.usage().used - of_blobs(&store), on_disk_of_index(dir.path()));
    assert!(added.iter().all(|sample| sample.read_all(&store).unwrap()));
}

#[test]
fn where_no_room_can_be_made_that_is_said_and_nothing_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with(dir.path(), 10 * GROUP_LEN);
    let (mine, fetched, big) = (Sample::new(4 * GROUP, 1), Sample::new(4 * GROUP, 2), Sample::new(7 * GROUP, 3));
    drop(stage_with_room(dir.path(), &store, &[&mine]).map(|batch| store.adopt_all(batch.blobs())).unwrap());
    fetched.write_all(&store);
    let refused = stage_with_room(dir.path(), &store, &[&big]).unwrap_err();
    assert!(matches!(refused, StoreError::NoRoom { .. }), "{refused}");
    for word in ["116.0 KiB", "byhash rm", "byhash unpin", "--cache-size"] {
        assert!(refused.to_string().contains(word), "{word}: {refused}");
    }
    // What is held is not to blame where an empty cache would not do.
    let refused = stage_with_room(dir.path(), &store, &[&Sample::new(20 * GROUP, 4)]).unwrap_err();
    assert!(matches!(refused, StoreError::LargerThanCache { .. }), "{refused}");
    assert!(refused.to_string().contains("324.0 KiB") && !refused.to_string().contains("byhash rm"), "{refused}");
    // It cannot fit, whatever went: so nothing did.
    assert!(fetched.read_all(&store).unwrap() && mine.read_all(&store).unwrap());
    assert_eq!(store.usage().used - of_blobs(&store), on_disk_of_index(dir.path()));
    // A stream of unknown length is refused as soon as it is too long.
    let mut written = 0;
    let mut batch = Batch::create(dir.path()).unwrap();
    let room = &mut |batch: &str, bytes| {
        written = std::cmp::max(written, on_disk(&dir.path().join("tmp")));
        store.make_room(batch, bytes)
    };
    let mut endless = std::io::repeat(7);
    assert!(batch.stage(Source::Stream(&mut endless), room, &|_| {}).is_err());
    assert!(written <= 10 * GROUP_LEN && mine.read_all(&store).unwrap());
    drop(batch);
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    // And the disk may be what is full.
    let config = Config { dir: dir.path().join("other"), capacity: 1 << 40, keep_free: u64::MAX / 2 };
    let store = Store::open(config, Arc::default()).unwrap();
    let refused = stage_with_room(&dir.path().join("other"), &store, &[&mine]).unwrap_err();
    assert!(matches!(refused, StoreError::DiskFull { .. }) && refused.to_string().contains("stay free"), "{refused}");
}

fn on_disk_of_index(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(dir.join("index.redb")).unwrap().blocks() * 512
}
