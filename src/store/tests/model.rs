//! The store against a model: for each blob, the set of groups that were written. First with room for all and
//! sound files, where the two must be equal; then under a cap and with damage, where the store may have less.

use std::collections::BTreeSet;
use std::fs;

use proptest::prelude::*;

use super::*;
use crate::store::Origin;
use crate::store::import::{Source, stage};

#[derive(Debug, Clone)]
enum Step {
    Write { blob: usize, first: u64, count: u64 },
    Read { blob: usize, start: u64, len: u64 },
    Remove { blob: usize },
    Flush,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let blob = 0..3usize;
    prop_oneof![
        5 => (blob.clone(), 0..9u64, 1..5u64).prop_map(|(blob, first, count)| Step::Write { blob, first, count }),
        4 => (blob.clone(), 0..150_000u64, 0..60_000u64).prop_map(|(blob, start, len)| Step::Read { blob, start, len }),
        1 => blob.prop_map(|blob| Step::Remove { blob }),
        1 => Just(Step::Flush),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_store_holds_what_was_written(steps in prop::collection::vec(step(), 1..25)) {
        // One group, a whole number of groups, and some bytes more.
        let samples = [Sample::new(GROUP - 1, 1), Sample::new(4 * GROUP, 2), Sample::new(8 * GROUP + 9, 3)];
        let mut model: [BTreeSet<u64>; 3] = Default::default();
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        for step in steps {
            match step {
                Step::Write { blob, first, count } => {
                    let end = (first + count).min(samples[blob].all().end);
                    if first < end {
                        samples[blob].write(&store, first..end).unwrap();
                        model[blob].extend(first..end);
                    }
                }
                Step::Read { blob, start, len } => {
                    let range = BlobRange::new(start, start + len).clip(samples[blob].size());
                    let groups = crate::verify::groups_of(samples[blob].size(), range);
                    let held = groups.clone().all(|group| model[blob].contains(&group));
                    match store.blob(&samples[blob].hash).unwrap() {
                        Some(handle) => match handle.read(range) {
                            Ok(bytes) => {
                                prop_assert!(held);
                                prop_assert_eq!(bytes, &samples[blob].content[range.start as usize..range.end as usize]);
                            }
                            Err(StoreError::NotHeld { .. }) => prop_assert!(!held),
                            Err(error) => prop_assert!(false, "{}", error),
                        },
                        None => prop_assert!(model[blob].is_empty()),
                    }
                }
                Step::Remove { blob } => {
                    store.remove(&samples[blob].hash).unwrap();
                    model[blob].clear();
                }
                Step::Flush => store.flush().unwrap(),
                Step::Restart => {
                    drop(store);
                    store = open(dir.path());
                }
            }
        }
        let mut used = 0;
        for (sample, groups) in samples.iter().zip(&model) {
            let handle = store.blob(&sample.hash).unwrap();
            prop_assert_eq!(handle.is_some(), !groups.is_empty());
            let Some(handle) = handle else { continue };
            let held: BTreeSet<u64> = handle.verified().iter().cloned().flatten().collect();
            prop_assert_eq!(&held, groups);
            prop_assert_eq!(handle.is_complete(), groups.len() as u64 == sample.all().end);
            used += handle.info().held_bytes.next_multiple_of(4096) + (sample.outboard.len() as u64).next_multiple_of(4096);
        }
        prop_assert_eq!(of_blobs(&store), used);
    }
}

/// What may happen to a store that is too small and lies on a bad disk.
#[derive(Debug, Clone)]
enum Trial {
    Write {
        blob: usize,
        first: u64,
        count: u64,
    },
    Add {
        blob: usize,
    },
    Read {
        blob: usize,
    },
    Verify {
        blob: usize,
    },
    Remove {
        blob: usize,
    },
    /// Opens the blob and keeps it open, in the place of what was kept open before.
    Hold {
        blob: usize,
    },
    Corrupt {
        blob: usize,
        outboard: bool,
        at: u64,
    },
    Flush,
    Restart {
        lose_index: bool,
    },
}

fn trial() -> impl Strategy<Value = Trial> {
    let blob = 0..6usize;
    prop_oneof![
        8 => (blob.clone(), 0..9u64, 1..9u64).prop_map(|(blob, first, count)| Trial::Write { blob, first, count }),
        1 => blob.clone().prop_map(|blob| Trial::Add { blob }),
        3 => blob.clone().prop_map(|blob| Trial::Read { blob }),
        1 => blob.clone().prop_map(|blob| Trial::Verify { blob }),
        1 => blob.clone().prop_map(|blob| Trial::Remove { blob }),
        1 => blob.clone().prop_map(|blob| Trial::Hold { blob }),
        2 => (blob, any::<bool>(), any::<u64>())
            .prop_map(|(blob, outboard, at)| Trial::Corrupt { blob, outboard, at }),
        1 => Just(Trial::Flush),
        1 => any::<bool>().prop_map(|lose_index| Trial::Restart { lose_index }),
    ]
}

/// What the model knows of a blob.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Written or added, and not removed since: no more than this may be held.
    written: BTreeSet<u64>,
    /// Added, and its files not damaged since: all of it must be held.
    added: bool,
}

/// Reads all that is claimed of `sample`; it is right, or said to be damaged.
fn read_claims(store: &Store, sample: &Sample, known: &mut Known) {
    let Some(blob) = store.blob(&sample.hash).unwrap() else { return };
    for groups in blob.verified().iter() {
        match read_groups(&blob, groups.clone()) {
            Ok(bytes) => assert_eq!(bytes, sample.bytes(groups)),
            Err(StoreError::Corrupt { .. } | StoreError::Missing { .. }) => assert!(!known.added, "undamaged"),
            // What one read found damaged may have been all that was held.
            Err(StoreError::NotHeld { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn check_model(dir: &Path, store: &Store, samples: &[Sample], known: &[Known]) {
    let usage = store.usage();
    assert!(usage.used <= usage.capacity, "{usage:?}");
    // The lock's block is nobody's.
    let found = on_disk(dir);
    assert!(found <= usage.capacity + 4096, "{found} bytes on the disk, {usage:?}");
    let mut charged = 0;
    for (sample, known) in samples.iter().zip(known) {
        let info = store.lookup(&sample.hash).unwrap();
        let blob = store.blob(&sample.hash).unwrap();
        let held: BTreeSet<u64> =
            blob.iter().flat_map(|blob| blob.verified().iter().cloned().flatten().collect::<Vec<_>>()).collect();
        assert!(held.is_subset(&known.written), "{held:?} of {known:?}");
        if known.added {
            let info = info.expect("it was added");
            assert_eq!((info.complete, info.origin), (true, Origin::Local));
        }
        if !held.is_empty() {
            charged +=
                info.unwrap().held_bytes.next_multiple_of(4096) + (sample.outboard.len() as u64).next_multiple_of(4096);
        }
    }
    assert_eq!(of_blobs(store), charged);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn under_a_cap_and_with_damage_all_that_is_claimed_is_right(trials in prop::collection::vec(trial(), 1..40)) {
        // Together they take three times the room.
        let lens = [100, GROUP, 4 * GROUP, 8 * GROUP + 9, 9 * GROUP, 7 * GROUP + 1];
        let samples: Vec<_> = lens.iter().zip(0..).map(|(len, seed)| Sample::new(*len, seed)).collect();
        let mut known = vec![Known::default(); samples.len()];
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let mut store = open_with(dir.path(), 12 * GROUP_LEN);
        let mut open_blob = None;
        for trial in trials {
            match trial {
                Trial::Write { blob, first, count } => {
                    let end = (first + count).min(samples[blob].all().end);
                    if first < end {
                        match samples[blob].write(&store, first..end) {
                            Ok(_) => known[blob].written.extend(first..end),
                            Err(StoreError::Full { .. } | StoreError::Missing { .. }) => {}
                            Err(error) => prop_assert!(false, "{}", error),
                        }
                    }
                }
                Trial::Add { blob } => {
                    let staged = stage(dir.path(), Source::Stream(&mut samples[blob].content.as_slice()), &|_| {}).unwrap();
                    match store.adopt(staged.blob()) {
                        Ok(()) => known[blob] = Known { written: samples[blob].all().collect(), added: true },
                        // What was held may have gone to make room.
                        Err(StoreError::NoRoom { .. }) => {}
                        Err(error) => prop_assert!(false, "{}", error),
                    }
                }
                Trial::Read { blob } => read_claims(&store, &samples[blob], &mut known[blob]),
                Trial::Verify { blob } => {
                    if let Some(handle) = store.blob(&samples[blob].hash).unwrap() {
                        // Damage is found piece by piece; in the end all that is left is right.
                        while handle.verified().iter().any(|groups| handle.check(groups.clone()).is_err()) {}
                        for groups in handle.verified().iter() {
                            prop_assert_eq!(read_groups(&handle, groups.clone()).unwrap(), samples[blob].bytes(groups));
                        }
                    }
                }
                Trial::Remove { blob } => {
                    store.remove(&samples[blob].hash).unwrap();
                    known[blob] = Known::default();
                }
                Trial::Hold { blob } => open_blob = store.blob(&samples[blob].hash).unwrap(),
                Trial::Corrupt { blob, outboard, at } => {
                    let paths = [content_path(dir.path(), &samples[blob].hash), outboard_path(dir.path(), &samples[blob].hash)];
                    let path = &paths[usize::from(outboard)];
                    if let Some(len) = fs::metadata(path).ok().map(|file| file.len()).filter(|len| *len > 0) {
                        flip(path, at % len);
                        known[blob].added = false;
                    }
                }
                Trial::Flush => store.flush().unwrap(),
                Trial::Restart { lose_index } => {
                    open_blob = None;
                    store.close().unwrap();
                    drop(store);
                    if lose_index {
                        fs::remove_file(dir.path().join("index.redb")).unwrap();
                    }
                    store = open_with(dir.path(), 12 * GROUP_LEN);
                }
            }
            check_model(dir.path(), &store, &samples, &known);
        }
        drop(open_blob);
    }
}
