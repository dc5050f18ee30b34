//! The cap holds for all that lies on the disk.

use std::fs;

use super::*;
use crate::store::import::{Source, stage};

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
