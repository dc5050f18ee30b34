//! Lives in which the disk or a user alters files, and the crashes in them.

use std::os::unix::fs::{FileExt, PermissionsExt};

use byhash::store::StoreError;

use super::*;
use crate::recorder::{damage, lose};

/// A store in which nothing has to make room, though a damaged index that was set aside counts too.
fn open(dir: &Path) -> Store {
    open_with(dir, 64 << 20)
}

/// The promises of a life.
struct Promising<'a> {
    samples: &'a [Sample],
    promises: &'a mut Vec<Promises>,
}

impl Promising<'_> {
    /// From here on all of the samples `numbers` is promised, and nothing else.
    fn whole(&mut self, numbers: &[usize]) {
        self.promise(numbers.iter().map(|number| (*number, vec![self.samples[*number].all()])).collect());
    }

    fn promise(&mut self, promises: Promises) {
        self.promises.push(promises);
        mark(self.promises.len() - 1);
    }
}

fn outboard_file(dir: &Path, sample: &Sample) -> PathBuf {
    content_file(dir, sample).with_extension("obao4")
}

/// Samples of these many bytes.
fn samples_of(lens: &[usize]) -> Vec<Sample> {
    lens.iter().zip(100..).map(|(len, seed)| Sample::new(seed, *len)).collect()
}

/// A file of the user's, outside of what is recorded, with the content of `sample`.
fn users_file(dir: &Path, sample: &Sample) -> PathBuf {
    let path = dir.join(sample.hash.to_string());
    fs::write(&path, &sample.content).unwrap();
    path
}

fn add_in_place(store: &Store, dir: &Path, file: &Path) {
    let staged = stage(dir, Source::InPlace(file), &|_| {}).unwrap();
    store.adopt(staged.blob()).unwrap();
}

fn read_all(store: &Store, sample: &Sample) -> Result<(), StoreError> {
    let blob = store.blob(&sample.hash)?.expect("it is held");
    assert_eq!(blob.read(BlobRange::new(0, u64::MAX))?, sample.content);
    Ok(())
}

#[test]
fn what_is_served_in_place_is_there_after_a_crash_as_long_as_the_file_is_what_it_was() {
    // With an outboard, without, fetched before; and one whose file changes.
    let samples = samples_of(&[3 * GROUP + 5, 100, 2 * GROUP, 3 * GROUP]);
    let home = scratch_dir();
    let files: Vec<_> = samples.iter().map(|sample| users_file(home.path(), sample)).collect();
    const CHANGED: usize = 3;
    let life = Life::record(|dir, promises| {
        let mut promising = Promising { samples: &samples, promises };
        let store = open(dir);
        samples[2].write(&store, samples[2].all());
        add_in_place(&store, dir, &files[0]);
        promising.whole(&[0]);
        for number in [1, 2, CHANGED] {
            add_in_place(&store, dir, &files[number]);
        }
        promising.whole(&[0, 1, 2]);
        store.close().unwrap();
        drop(store);
        fs::File::options().write(true).open(&files[CHANGED]).unwrap().write_all_at(b"!", GROUP_LEN).unwrap();
        let store = open(dir);
        assert!(read_all(&store, &samples[CHANGED]).is_err());
        // What is fetched takes the place of the link.
        samples[CHANGED].write(&store, samples[CHANGED].all());
        store.flush().unwrap();
        promising.whole(&[0, 1, 2, CHANGED]);
        // A link that goes, and comes again.
        promising.whole(&[0, 2, CHANGED]);
        store.remove(&samples[1].hash).unwrap();
        add_in_place(&store, dir, &files[1]);
        promising.whole(&[0, 1, 2, CHANGED]);
        // A copy takes the place of a link.
        samples[0].add(&store, dir);
        store.close().unwrap();
    });
    assert!(life.log.ops.iter().filter(|op| matches!(op, Op::Link { .. })).count() == 5, "the links are recorded");
    life.crash_everywhere(|crash| {
        let expected = Expected { promised: crash.promised, damaged: &[CHANGED], ..Expected::default() };
        check(open(crash.dir), &samples, &expected, &crash.context);
        crash.check_origin(&open(crash.dir), &samples, 2, Origin::Reference);
    });
    // Whatever came to pass, they are the user's.
    for (number, file) in files.iter().enumerate() {
        let mut content = samples[number].content.clone();
        if number == CHANGED {
            content[GROUP] = b'!';
        }
        assert!(fs::read(file).unwrap() == content, "{number}");
    }
}

#[test]
fn an_outboard_that_is_made_anew_is_all_there_or_not_at_all_and_costs_nothing() {
    // Fetched, added, served in place; the outboards take more than what is written at once.
    let samples = samples_of(&[12 * GROUP, 9 * GROUP + 1, 10 * GROUP]);
    let home = scratch_dir();
    let file = users_file(home.path(), &samples[2]);
    const ALL: [usize; 3] = [0, 1, 2];
    /// From this mark on all outboards were made anew in their places, and from that on they are made elsewhere.
    const IN_PLACE: usize = 1;
    const ELSEWHERE: usize = 2;
    let life = Life::record(|dir, promises| {
        let mut promising = Promising { samples: &samples, promises };
        let store = open(dir);
        samples[0].write(&store, samples[0].all());
        samples[1].add(&store, dir);
        add_in_place(&store, dir, &file);
        store.close().unwrap();
        drop(store);
        promising.whole(&ALL);
        samples.iter().for_each(|sample| damage(&outboard_file(dir, sample), 70));
        let store = open(dir);
        samples.iter().for_each(|sample| read_all(&store, sample).unwrap());
        promising.whole(&ALL);
        store.close().unwrap();
        drop(store);
        promising.whole(&ALL);
        samples.iter().for_each(|sample| lose(&outboard_file(dir, sample)));
        let store = open(dir);
        samples.iter().for_each(|sample| read_all(&store, sample).unwrap());
        promising.whole(&ALL);
        store.close().unwrap();
    });
    life.crash_everywhere(|crash| {
        for sample in samples.iter().filter(|_| crash.mark >= Some(IN_PLACE)) {
            match fs::read(outboard_file(crash.dir, sample)) {
                Ok(outboard) => assert!(outboard == sample.outboard, "{}", crash.context),
                Err(error) => assert!(crash.mark == Some(ELSEWHERE), "{}: {error}", crash.context),
            }
        }
        // That a fetched file is complete need not have become durable; only the index knows it then.
        let mut promised = crash.promised.to_vec();
        promised.retain(|(number, _)| *number != 0 || !crash.without_index);
        check(open(crash.dir), &samples, &Expected { promised: &promised, ..Expected::default() }, &crash.context);
        crash.check_origin(&open(crash.dir), &samples, 1, Origin::Local);
    });
}

#[test]
fn a_complete_file_that_is_damaged_is_mended_in_a_copy_and_nothing_else_of_it_is_lost() {
    // Fetched, fetched and pinned, added.
    let samples = samples_of(&[5 * GROUP, 4 * GROUP + 9, 3 * GROUP + 7]);
    const ALL: [usize; 3] = [0, 1, 2];
    let life = Life::record(|dir, promises| {
        let mut promising = Promising { samples: &samples, promises };
        let store = open(dir);
        samples[0].write(&store, samples[0].all());
        samples[1].write(&store, samples[1].all());
        store.set_pinned(&[samples[1].hash], true).unwrap();
        samples[2].add(&store, dir);
        promising.whole(&ALL);
        store.close().unwrap();
        drop(store);
        // The second time it is the copy that is damaged.
        for damaged in [1, 2] {
            let left = |number: usize| (number, vec![0..damaged, damaged + 1..samples[number].all().end]);
            promising.promise(ALL.map(left).into());
            samples.iter().for_each(|sample| damage(&content_file(dir, sample), damaged * GROUP_LEN + 1));
            let store = open(dir);
            for sample in &samples {
                assert!(matches!(read_all(&store, sample), Err(StoreError::Corrupt { .. })));
                sample.write(&store, damaged..damaged + 1);
            }
            store.flush().unwrap();
            promising.whole(&ALL);
            store.close().unwrap();
        }
    });
    assert_eq!(written_after_complete(&life.log), None, "the kernel may be reading it directly");
    life.crash_everywhere(|crash| {
        let pinned = crash.mark.map(|_| (1, true));
        check(open(crash.dir), &samples, &Expected { promised: crash.promised, pinned, damaged: &ALL }, &crash.context);
        crash.check_origin(&open(crash.dir), &samples, 2, Origin::Local);
    });
}

/// The number of an operation that writes to a file which nobody may write to any more.
fn written_after_complete(log: &Log) -> Option<usize> {
    let is_sealed = |at: usize, written| {
        let modes = log.ops[..at].iter().rev();
        let mode = modes.filter_map(|op| if let Op::Mode { file, mode } = op { Some((file, mode)) } else { None });
        mode.filter(|(file, _)| *file == written).map(|(_, mode)| mode & 0o222 == 0).next().unwrap_or(false)
    };
    log.ops.iter().enumerate().position(|(at, op)| match op {
        Op::Write { file, .. } | Op::SetLen { file, .. } => is_sealed(at, file),
        _ => false,
    })
}

#[test]
fn a_crash_while_the_index_is_made_anew_costs_nothing() {
    // Fetched, a part fetched and pinned, added, served in place, fetched later; and two that no index was ever told of.
    let samples = samples_of(&[3 * GROUP, 6 * GROUP, 2 * GROUP + 1, 2 * GROUP, 50, 4 * GROUP + 3, 60]);
    let home = scratch_dir();
    let file = users_file(home.path(), &samples[3]);
    let held = |number: usize| match number {
        1 => (1, vec![1..3, 5..6]),
        _ => (number, vec![samples[number].all()]),
    };
    let life = Life::record(|dir, promises| {
        let mut promising = Promising { samples: &samples, promises };
        let store = open(dir);
        samples[0].write(&store, samples[0].all());
        samples[1].write(&store, 5..6);
        samples[1].write(&store, 1..3);
        store.set_pinned(&[samples[1].hash], true).unwrap();
        samples[2].add(&store, dir);
        add_in_place(&store, dir, &file);
        store.close().unwrap();
        drop(store);
        promising.promise([0, 1, 2, 3].map(held).into());
        lose(&dir.join("index.redb"));
        leave_unsynced(dir, &samples[5]);
        let store = open(dir);
        samples[4].write(&store, samples[4].all());
        store.flush().unwrap();
        promising.promise([0, 1, 2, 3, 4].map(held).into());
        settle(&store);
        promising.promise([0, 1, 2, 3, 4, 5].map(held).into());
        store.close().unwrap();
        drop(store);
        // Once more, and asked for before its turn comes.
        damage(&dir.join("index.redb"), 0);
        leave_unsynced(dir, &samples[6]);
        let store = open(dir);
        // The one that is not durable yet first, before the sync of all.
        samples.iter().rev().for_each(|sample| assert!(store.blob(&sample.hash).unwrap().is_some()));
        promising.promise([0, 1, 2, 3, 4, 5, 6].map(held).into());
        settle(&store);
        store.close().unwrap();
    });
    assert!(life.log.ops.iter().any(|op| matches!(op, Op::Rename { to, .. } if to.ends_with("index.redb.damaged"))));
    life.crash_everywhere(|crash| {
        let pinned = crash.mark.map(|_| (1, true));
        let expected = Expected { promised: crash.promised, pinned, damaged: &[] };
        check(open(crash.dir), &samples, &expected, &crash.context);
        let store = open(crash.dir);
        for (number, origin) in [(0, Origin::Fetched), (2, Origin::Local), (3, Origin::Reference)] {
            crash.check_origin(&store, &samples, number, origin);
        }
    });
}

/// Leaves a complete blob behind as a process does that is killed before it has made it durable.
fn leave_unsynced(dir: &Path, sample: &Sample) {
    let leave = |path: &Path, bytes: &[u8], mode| {
        let file = fs::File::create_new(path).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file.set_permissions(fs::Permissions::from_mode(mode)).unwrap();
    };
    leave(&content_file(dir, sample), &sample.content, 0o444);
    if !sample.outboard.is_empty() {
        leave(&outboard_file(dir, sample), &sample.outboard, 0o600);
    }
}

/// Waits until the store knows all its files.
fn settle(store: &Store) {
    while !store.is_settled() {
        std::thread::yield_now();
    }
}
