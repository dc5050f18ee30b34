//! The store against a model: for each blob, the set of groups that were written. First with room for all and
//! sound files, where the two must be equal; then under a cap and with damage, where the store may have less.

use std::collections::BTreeSet;
use std::fs;

use proptest::prelude::*;

use super::*;
use crate::store::import::{Source, stage};
use crate::store::{BlobInfo, Origin, PinOutcome};

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
    #![proptest_config(ProptestConfig::with_cases((ProptestConfig::default().cases / 10).max(1)))]

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
    /// Adds it by reference to a file of the user's, which has its content at that moment.
    AddReference {
        blob: usize,
    },
    /// Something happens to the file of the user's, if there is one.
    Alter {
        blob: usize,
        how: Alteration,
    },
    Pin {
        blob: usize,
        pinned: bool,
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

/// What may happen to a file of the user's.
#[derive(Debug, Clone, Copy)]
enum Alteration {
    Byte(u64),
    Length(u64),
    Removed,
    /// Another file with the right content takes its place.
    Replaced,
}

fn alteration() -> impl Strategy<Value = Alteration> {
    prop_oneof![
        3 => any::<u64>().prop_map(Alteration::Byte),
        1 => any::<u64>().prop_map(Alteration::Length),
        1 => Just(Alteration::Removed),
        1 => Just(Alteration::Replaced),
    ]
}

/// Makes the file at `path` what `how` says; tells whether it still has the content of `sample`.
fn alter(path: &Path, sample: &Sample, how: Alteration) -> bool {
    let Ok(mut bytes) = fs::read(path) else { return false };
    match how {
        Alteration::Byte(at) if !bytes.is_empty() => {
            let at = at as usize % bytes.len();
            bytes[at] ^= 1;
            // In place, as a program would that has it mapped.
            fs::write(path, &bytes).unwrap();
        }
        Alteration::Byte(_) => {}
        Alteration::Length(len) => {
            bytes.resize(len as usize % (2 * sample.content.len() + 2), 7);
            fs::write(path, &bytes).unwrap();
        }
        Alteration::Removed => fs::remove_file(path).unwrap(),
        Alteration::Replaced => {
            bytes.clone_from(&sample.content);
            fs::remove_file(path).unwrap();
            fs::write(path, &bytes).unwrap();
        }
    }
    bytes == sample.content && path.exists()
}

fn trial() -> impl Strategy<Value = Trial> {
    let blob = 0..6usize;
    prop_oneof![
        8 => (blob.clone(), 0..9u64, 1..9u64).prop_map(|(blob, first, count)| Trial::Write { blob, first, count }),
        1 => blob.clone().prop_map(|blob| Trial::Add { blob }),
        3 => blob.clone().prop_map(|blob| Trial::AddReference { blob }),
        4 => (blob.clone(), alteration()).prop_map(|(blob, how)| Trial::Alter { blob, how }),
        1 => (blob.clone(), any::<bool>()).prop_map(|(blob, pinned)| Trial::Pin { blob, pinned }),
        3 => blob.clone().prop_map(|blob| Trial::Read { blob }),
        1 => blob.clone().prop_map(|blob| Trial::Verify { blob }),
        1 => blob.clone().prop_map(|blob| Trial::Remove { blob }),
        1 => blob.clone().prop_map(|blob| Trial::Hold { blob }),
        2 => (blob, any::<bool>(), any::<u64>())
            .prop_map(|(blob, outboard, at)| Trial::Corrupt { blob, outboard, at }),
        1 => Just(Trial::Flush),
        2 => any::<bool>().prop_map(|lose_index| Trial::Restart { lose_index }),
    ]
}

/// What the model knows of a blob.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Written or added, and not removed since: no more than this may be held.
    written: BTreeSet<u64>,
    /// Added, and its files not damaged since: all of it must be held.
    added: bool,
    /// Added by reference, and neither the file nor ours altered since: all of it must be held.
    in_place: bool,
    /// What the user's file holds, if there is one: nobody else may alter it.
    users: Option<Vec<u8>>,
    /// Whether what is fetched of it is pinned, if that is known.
    pinned: Option<bool>,
    /// Whether its files were damaged since it was added or removed: what is claimed of it may not be there.
    damaged: bool,
}

impl Known {
    /// Whether all of it must be held.
    fn is_sound(&self) -> bool {
        self.added || self.in_place
    }
}

/// Reads all that is claimed of `sample`; it is right, or said to be damaged.
fn read_claims(store: &Store, sample: &Sample, known: &mut Known) {
    let Some(blob) = store.blob(&sample.hash).unwrap() else { return };
    for groups in blob.verified().iter() {
        match read_groups(&blob, groups.clone()) {
            Ok(bytes) => assert_eq!(bytes, sample.bytes(groups)),
            Err(StoreError::Corrupt { .. } | StoreError::Missing { .. }) => assert!(!known.is_sound(), "undamaged"),
            // What one read found damaged may have been all that was held.
            Err(StoreError::NotHeld { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// The file of the user's for a blob.
fn users_file(users: &Path, blob: usize) -> PathBuf {
    users.join(blob.to_string())
}

fn check_model(dir: &Path, users: &Path, store: &Store, samples: &[Sample], known: &mut [Known]) {
    let usage = store.usage();
    assert!(usage.used <= usage.capacity, "{usage:?}");
    // The lock's block is nobody's.
    let found = on_disk(dir);
    assert!(found <= usage.capacity + 4096, "{found} bytes on the disk, {usage:?}");
    let mut charged = 0;
    for (number, (sample, known)) in samples.iter().zip(known).enumerate() {
        assert_eq!(fs::read(users_file(users, number)).ok(), known.users);
        let info = store.lookup(&sample.hash).unwrap();
        match info.filter(|info| info.origin == Origin::Fetched && (info.held_bytes > 0 || info.pinned)) {
            Some(info) => assert!(known.pinned.is_none_or(|pinned| info.pinned == pinned), "{known:?}"),
            None => {
                assert!(info.is_some() || known.pinned != Some(true), "pinned, and gone");
                // What is fetched from now on is not pinned.
                known.pinned = Some(false);
            }
        }
        let blob = store.blob(&sample.hash).unwrap();
        let held: BTreeSet<u64> =
            blob.iter().flat_map(|blob| blob.verified().iter().cloned().flatten().collect::<Vec<_>>()).collect();
        assert!(held.is_subset(&known.written), "{held:?} of {known:?}");
        if known.is_sound() {
            let info = info.expect("it was added");
            assert!(info.complete && info.pinned);
            assert!(info.origin == Origin::Local || known.in_place && info.origin == Origin::Reference, "{info:?}");
        }
        if info.is_some_and(|info| info.origin == Origin::Reference) {
            assert!(held.is_empty() || held.len() as u64 == sample.all().end, "served in place as a whole, or not");
            charged += 4096 + (sample.outboard.len() as u64).next_multiple_of(4096);
        } else if !held.is_empty() {
            charged +=
                info.unwrap().held_bytes.next_multiple_of(4096) + (sample.outboard.len() as u64).next_multiple_of(4096);
        } else {
            // It may be known because it was added or pinned before it was damaged.
            let shared = &store.shared;
            charged += match shared.opened(&sample.hash) {
                Some(blob) => blob.state().charged.unwrap_or(0),
                None => shared.index.get(&sample.hash).unwrap().map_or(0, |record| record.charge()),
            };
        }
    }
    assert_eq!(of_blobs(store), charged);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases((ProptestConfig::default().cases / 3).max(1)))]

    #[test]
    fn under_a_cap_and_with_damage_all_that_is_claimed_is_right(trials in prop::collection::vec(trial(), 1..40)) {
        // Together they take three times the room.
        let lens = [100, GROUP, 4 * GROUP, 8 * GROUP + 9, 9 * GROUP, 7 * GROUP + 1];
        let samples: Vec<_> = lens.iter().zip(0..).map(|(len, seed)| Sample::new(*len, seed)).collect();
        let mut known = vec![Known::default(); samples.len()];
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let users = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
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
                        Ok(()) => {
                            known[blob].written = samples[blob].all().collect();
                            (known[blob].added, known[blob].in_place, known[blob].pinned) = (true, false, None);
                            known[blob].damaged = false;
                        }
                        // What was held of it has gone to make room, if that was not added.
                        Err(StoreError::NoRoom { .. }) => known[blob].pinned = None,
                        Err(error) => prop_assert!(false, "{}", error),
                    }
                }
                Trial::AddReference { blob } => {
                    let path = users_file(users.path(), blob);
                    let content = &samples[blob].content;
                    if known[blob].users.as_ref() != Some(content) {
                        fs::write(&path, content).unwrap();
                        known[blob].users = Some(content.clone());
                    }
                    let staged = stage(dir.path(), Source::InPlace(&path), &|_| {}).unwrap();
                    match store.adopt(staged.blob()) {
                        Ok(()) => {
                            known[blob].written = samples[blob].all().collect();
                            known[blob].in_place = !known[blob].added;
                            known[blob].pinned = None;
                        }
                        Err(StoreError::NoRoom { .. }) => known[blob].pinned = None,
                        Err(error) => prop_assert!(false, "{}", error),
                    }
                }
                Trial::Alter { blob, how } => {
                    let path = users_file(users.path(), blob);
                    let is_right = alter(&path, &samples[blob], how);
                    known[blob].users = fs::read(&path).ok();
                    known[blob].in_place &= is_right;
                }
                Trial::Pin { blob, pinned } => {
                    let hash = samples[blob].hash;
                    let outcome = store.set_pinned(&[hash], pinned).unwrap()[0];
                    let info = store.lookup(&hash).unwrap();
                    let is_known = |info: BlobInfo| info.held_bytes > 0 || outcome == PinOutcome::Done;
                    if info.is_some_and(|info| info.origin == Origin::Fetched && is_known(info)) {
                        prop_assert_eq!(outcome, PinOutcome::Done);
                        known[blob].pinned = Some(pinned);
                    } else {
                        prop_assert!(pinned || outcome != PinOutcome::Done);
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
                    known[blob] = Known { users: known[blob].users.take(), ..Known::default() };
                }
                Trial::Hold { blob } => open_blob = store.blob(&samples[blob].hash).unwrap(),
                Trial::Corrupt { blob, outboard, at } => {
                    let paths = [content_path(dir.path(), &samples[blob].hash), outboard_path(dir.path(), &samples[blob].hash)];
                    let path = &paths[usize::from(outboard)];
                    let file = fs::symlink_metadata(path).ok().filter(|file| file.is_file() && file.len() > 0);
                    if let Some(file) = file {
                        flip(path, at % file.len());
                        (known[blob].added, known[blob].in_place, known[blob].pinned) = (false, false, None);
                        known[blob].damaged = true;
                    }
                }
                Trial::Flush => store.flush().unwrap(),
                Trial::Restart { lose_index } => {
                    open_blob = None;
                    if lose_index {
                        for (sample, known) in samples.iter().zip(&mut known) {
                            let blob = store.blob(&sample.hash).unwrap();
                            // Without the last group nothing proves the size, and so nothing is taken over.
                            let last = sample.all().end - 1..sample.all().end;
                            if known.damaged || !blob.is_some_and(|blob| blob.has(last)) {
                                known.pinned = None;
                            }
                        }
                    }
                    store.close().unwrap();
                    drop(store);
                    if lose_index {
                        fs::remove_file(dir.path().join("index.redb")).unwrap();
                    }
                    store = open_with(dir.path(), 12 * GROUP_LEN);
                }
            }
            check_model(dir.path(), users.path(), &store, &samples, &mut known);
        }
        drop(open_blob);
        // In the end all that is still claimed is looked at.
        for (sample, known) in samples.iter().zip(&mut known) {
            read_claims(&store, sample, known);
        }
        check_model(dir.path(), users.path(), &store, &samples, &mut known);
    }
}
