//! Checking what is held, as the disk has it.

use rangemap::RangeSet;

use super::*;
use crate::store::Scrubbed;

/// All steps of `budget` bytes.
fn scrub(store: &Store, hash: &ContentHash, budget: u64) -> Vec<Scrubbed> {
    let (mut steps, mut from) = (Vec::new(), Some(0));
    while let Some(group) = from {
        let step = store.scrub(hash, group, budget).unwrap().unwrap();
        from = step.next;
        steps.push(step);
    }
    steps
}

#[test]
fn a_scrub_reads_all_that_is_held_in_steps_and_is_no_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(200 * GROUP + 5, 1);
    for groups in [0..70, 80..81, 190..201] {
        sample.write(&store, groups).unwrap();
    }
    store.flush().unwrap();
    let before = store.show(&[sample.hash]).unwrap();
    for budget in [1, GROUP_LEN, 65 * GROUP_LEN, u64::MAX] {
        let steps = scrub(&store, &sample.hash, budget);
        assert_eq!(steps.iter().map(|step| step.checked).sum::<u64>(), 81 * GROUP_LEN + 5);
        assert!(steps.iter().all(|step| step.dropped.is_empty() && step.failure.is_none()));
        assert!(steps.iter().all(|step| step.checked <= budget.max(64 * GROUP_LEN)));
        assert_eq!(steps.len() == 1, budget == u64::MAX);
    }
    assert_eq!(store.show(&[sample.hash]).unwrap(), before);
    assert!(store.scrub(&ContentHash::of(b"unknown"), 0, 1).unwrap().is_none());
}

#[test]
fn what_is_wrong_is_dropped_told_and_held_again_when_it_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(200 * GROUP + 5, 1);
    drop(sample.write_all(&store));
    store.flush().unwrap();
    store.set_pinned(&[sample.hash], true).unwrap();
    let path = content_path(dir.path(), &sample.hash);
    for at in [3, 4, 100, 200] {
        flip(&path, at * GROUP_LEN + 1);
    }
    let steps = scrub(&store, &sample.hash, 64 * GROUP_LEN);
    let dropped: Vec<_> = steps.iter().flat_map(|step| step.dropped.clone()).collect();
    assert_eq!(dropped, [(3, 5), (100, 101), (200, 201)]);
    assert_eq!(steps.iter().map(|step| step.dropped_bytes).sum::<u64>(), 3 * GROUP_LEN + 5);
    assert!(steps.iter().all(|step| step.pinned));
    assert!(!store.holds(&sample.hash, &dropped).unwrap());
    for (start, end) in &dropped {
        sample.write(&store, *start..*end).unwrap();
    }
    assert!(store.holds(&sample.hash, &dropped).unwrap());
    assert!(scrub(&store, &sample.hash, u64::MAX)[0].dropped.is_empty());
    assert!(sample.read_all(&store).unwrap());
}

#[test]
fn damage_that_leaves_the_stamp_alone_is_found() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(3 * GROUP, 1);
    let blob = sample.write_all(&store);
    store.flush().unwrap();
    // A disk alters bytes without telling the file system: made up by a stamp that is believed wrongly.
    let path = content_path(dir.path(), &sample.hash);
    flip(&path, 5);
    let files = blob.files().unwrap();
    let stamp = files.stamp().unwrap();
    blob.state().checked = Some((stamp, RangeSet::from_iter([sample.all()])));
    let mut byte = [0];
    files.content.read_exact_at(&mut byte, 5).unwrap();
    assert!(blob.check(0..3).is_ok(), "a check believes the stamp");
    assert_eq!(scrub(&store, &sample.hash, u64::MAX)[0].dropped, [(0, 1)]);
}

#[test]
fn a_file_that_is_gone_or_cut_costs_the_blob_and_its_pin_is_told() {
    let damages: [fn(&Path); 2] = [
        |path| std::fs::remove_file(path).unwrap(),
        |path| {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            std::fs::File::options().write(true).open(path).unwrap().set_len(GROUP_LEN).unwrap();
        },
    ];
    for damage in damages {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let sample = Sample::new(3 * GROUP, 1);
        drop(sample.write_all(&store));
        store.flush().unwrap();
        store.set_pinned(&[sample.hash], true).unwrap();
        damage(&content_path(dir.path(), &sample.hash));
        let steps = scrub(&store, &sample.hash, u64::MAX);
        let [step] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!((&step.dropped[..], step.dropped_bytes, step.pinned), (&[(0, 3)][..], 3 * GROUP_LEN, true));
        // It stays lost, and that is said each time.
        let again = store.scrub(&sample.hash, 0, 1).unwrap().unwrap();
        assert_eq!((&again.lacking[..], again.lacking_bytes, again.checked), (&[(0, 3)][..], 3 * GROUP_LEN, 0));
        assert_eq!((again.to_mend(), again.dropped_bytes), (vec![(0, 3)], 0));
    }
}

#[test]
fn what_was_whole_and_is_kept_lacks_what_is_not_held_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (whole, part) = (Sample::new(200 * GROUP + 5, 1), Sample::new(200 * GROUP, 2));
    drop(whole.write_all(&store));
    drop(part.write(&store, 100..200).unwrap());
    store.flush().unwrap();
    let lacking = |store: &Store, sample: &Sample| {
        let steps = scrub(store, &sample.hash, 70 * GROUP_LEN);
        assert!(steps[1..].iter().all(|step| step.lacking.is_empty()), "told by the step that begins at the beginning");
        steps[0].lacking.clone()
    };
    for at in [3, 100] {
        flip(&content_path(dir.path(), &whole.hash), at * GROUP_LEN);
    }
    assert_eq!(lacking(&store, &whole), []);
    // Nobody has said that it is to stay; once somebody has, it counts.
    assert_eq!(lacking(&store, &whole), []);
    assert_eq!(store.set_pinned(&[whole.hash, part.hash], true).unwrap().len(), 2);
    let check = |store: &Store, expected: &[(u64, u64)]| {
        assert_eq!(lacking(store, &whole), expected);
        assert_eq!(lacking(store, &part), [], "no more of it was ever here");
    };
    check(&store, &[(3, 4), (100, 101)]);
    // Also where some of it was written again, to another file, and the index is a new one.
    drop(whole.write(&store, 3..4).unwrap());
    check(&store, &[(100, 101)]);
    store.close().unwrap();
    drop(store);
    std::fs::remove_file(dir.path().join("index.redb")).unwrap();
    let store = open(dir.path());
    check(&store, &[(100, 101)]);
    drop(whole.write(&store, 100..101).unwrap());
    check(&store, &[]);
    // And where nothing was left.
    std::fs::remove_file(content_path(dir.path(), &whole.hash)).unwrap();
    assert_eq!(lacking(&store, &whole), []);
    check(&store, &[(0, 201)]);
    drop(whole.write(&store, 7..201).unwrap());
    check(&store, &[(0, 7)]);
}

#[test]
fn a_damaged_proof_of_a_partial_blob_costs_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(300 * GROUP + 5, 1);
    for groups in [0..200, 250..301] {
        drop(sample.write(&store, groups).unwrap());
    }
    store.flush().unwrap();
    // The node above all others, so that nothing is proven any more.
    flip(&outboard_path(dir.path(), &sample.hash), 0);
    let [step] = &scrub(&store, &sample.hash, 1)[..] else { panic!("more than one step") };
    assert_eq!((&step.dropped[..], step.next), (&[(0, 200), (250, 301)][..], None));
    assert!(store.scrub(&sample.hash, 0, 1).unwrap().is_none());
}

#[test]
fn files_that_others_have_removed_are_missed_although_they_are_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(3 * GROUP, 1);
    let _open = sample.write_all(&store);
    store.flush().unwrap();
    std::fs::remove_file(outboard_path(dir.path(), &sample.hash)).unwrap();
    assert!(scrub(&store, &sample.hash, u64::MAX)[0].dropped.is_empty());
    assert_eq!(std::fs::read(outboard_path(dir.path(), &sample.hash)).unwrap(), sample.outboard);
    std::fs::remove_file(content_path(dir.path(), &sample.hash)).unwrap();
    assert_eq!(scrub(&store, &sample.hash, u64::MAX)[0].dropped, [(0, 3)]);
    assert!(store.blob(&sample.hash).unwrap().is_none());
}

#[test]
fn a_wrong_outboard_beside_right_content_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(300 * GROUP + 5, 1);
    drop(sample.write_all(&store));
    store.flush().unwrap();
    let path = outboard_path(dir.path(), &sample.hash);
    for at in (0..sample.outboard.len() as u64).step_by(1000) {
        flip(&path, at);
    }
    let steps = scrub(&store, &sample.hash, u64::MAX);
    assert!(steps.iter().all(|step| step.dropped.is_empty()), "{steps:?}");
    assert_eq!(std::fs::read(&path).unwrap(), sample.outboard);
    // Where the content is wrong too, nothing can be made anew.
    flip(&path, 0);
    flip(&content_path(dir.path(), &sample.hash), 0);
    assert!(!scrub(&store, &sample.hash, u64::MAX)[0].dropped.is_empty());
}
