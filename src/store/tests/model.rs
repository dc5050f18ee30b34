//! The store against a model: for each blob, the set of groups that were written.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

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
