//! An index that is damaged or gone is made anew from the files.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::FileExt;

use super::*;
use crate::store::recovery::Work;
use crate::store::sweep::sweep_shard;
use crate::store::{Origin, PinOutcome, claim};

/// A closed store with a blob of one group, one of several, a partial one, and one added here.
struct Filled {
    dir: PathBuf,
    /// Removes it in the end.
    _temporary: Option<tempfile::TempDir>,
    small: Sample,
    large: Sample,
    partial: Sample,
    added: Sample,
}

fn filled() -> Filled {
    // Its index is written many times over.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let filled = samples_in(dir.path());
    let filled = Filled { _temporary: Some(dir), ..filled };
    let store = open(filled.dir());
    filled.small.write_all(&store);
    filled.large.write_all(&store);
    // With the last group, which proves the size, and without a step's worth in between.
    filled.partial.write(&store, 3..5).unwrap();
    filled.partial.write(&store, 80..90).unwrap();
    add(&store, filled.dir(), &filled.added);
    store.close().unwrap();
    drop(store);
    filled
}

/// What is, or will be, in the store in `dir`.
fn samples_in(dir: &Path) -> Filled {
    let samples = [100, 70 * GROUP + 5, 90 * GROUP, 3 * GROUP];
    let [small, large, partial, added] = std::array::from_fn(|seed| Sample::new(samples[seed], seed as u8));
    Filled { dir: dir.to_owned(), _temporary: None, small, large, partial, added }
}

fn index(dir: &Path) -> PathBuf {
    dir.join("index.redb")
}

/// Has a new index made below the open `store`.
fn lose_index_of(store: &Store) {
    // What redb would find in a damaged page.
    let damaged = store.shared.write_index(|_| -> Result<(), redb::Error> { panic!("a page with no type") });
    assert!(matches!(damaged, Err(StoreError::IndexDamaged { .. })), "{damaged:?}");
    let _ = store.lookup(&ContentHash::EMPTY).unwrap();
    store.shared.recovery.wait_until_done();
}

impl Filled {
    fn dir(&self) -> &Path {
        &self.dir
    }

    /// All is there as it was, and nothing else is counted.
    fn assert_all_there(&self, store: &Store) {
        for sample in [&self.small, &self.large, &self.added] {
            assert!(sample.read_all(store).unwrap());
        }
        let info = |sample: &Sample| store.lookup(&sample.hash).unwrap().unwrap();
        for sample in [&self.small, &self.large, &self.partial] {
            assert_eq!((info(sample).origin, info(sample).pinned), (Origin::Fetched, false));
        }
        assert_eq!((info(&self.added).origin, info(&self.added).pinned), (Origin::Local, true));
        let partial = store.blob(&self.partial.hash).unwrap().unwrap();
        assert_eq!(partial.verified().iter().cloned().collect::<Vec<_>>(), [3..5, 80..90]);
        assert_eq!(read_groups(&partial, 3..5).unwrap(), self.partial.bytes(&(3..5)));
        let complete: u64 = [&self.small, &self.large, &self.added].iter().map(|sample| sample.charge()).sum();
        let outboard = (self.partial.outboard.len() as u64).next_multiple_of(4096);
        assert_eq!(of_blobs(store), complete + 12 * GROUP_LEN + outboard);
        assert_eq!(store.usage().blobs, 4);
        assert_eq!(store.shared.metrics.store_blobs.get(), 4);
        assert_eq!(store.shared.metrics.store_bytes.get(), store.usage().used);
    }
}

#[test]
fn what_verifies_survives_the_loss_of_the_index_and_of_a_page_of_it() {
    let filled = filled();
    let dir = filled.dir();
    type Damage = fn(&Path);
    let damages: [Damage; 5] = [
        |index| fs::remove_file(index).unwrap(),
        |index| fs::write(index, b"this is no index").unwrap(),
        |index| fs::OpenOptions::new().write(true).open(index).unwrap().set_len(5000).unwrap(),
        |index| fs::OpenOptions::new().write(true).open(index).unwrap().write_all_at(&[0xa5; 512], 0).unwrap(),
        // All but the header.
        |index| {
            let len = fs::metadata(index).unwrap().len() as usize - 4096;
            fs::OpenOptions::new().write(true).open(index).unwrap().write_all_at(&vec![0xff; len], 4096).unwrap();
        },
    ];
    for damage in damages {
        damage(&index(dir));
        let store = open(dir);
        filled.assert_all_there(&store);
        store.close().unwrap();
        drop(store);
        // And it is clean: the next start has nothing to do.
        let store = open_soon(dir, 64 << 20).unwrap();
        assert_eq!(store.shared.recovery.work(), Work::Nothing);
    }
}

/// Damages the index in the rounds from `first` on, in every page and several ways, and tells of each round.
fn damage_and_open(filled: &Filled, first: usize) {
    let dir = filled.dir();
    let sound = fs::read(dir.join("index.sound")).unwrap();
    for round in first..sound.len() / 4096 * 3 {
        println!("round {round}");
        let page = round / 3;
        let bytes = [&[0xff; 4096][..], &[0; 4096], &[0xff; 3]][round % 3];
        fs::write(index(dir), &sound).unwrap();
        let file = fs::OpenOptions::new().write(true).open(index(dir)).unwrap();
        file.write_all_at(bytes, page as u64 * 4096 + 8).unwrap();
        open_and_check(filled, page);
        // What a wrong index has made the store forget is put back for the next round.
        refill(filled);
    }
}

fn open_and_check(filled: &Filled, page: usize) {
    let dir = filled.dir();
    let store = open(dir);
    // The first call may be the one that meets the damage; it says so, and the next finds a new index.
    for sample in [&filled.small, &filled.large, &filled.added, &filled.partial] {
        let _ = store.lookup(&sample.hash);
        let _ = store.find(&sample.hash.have_key());
        let _ = store.flush();
    }
    store.shared.recovery.wait_until_done();
    for sample in [&filled.small, &filled.large, &filled.added, &filled.partial] {
        let Some(blob) = store.blob(&sample.hash).unwrap() else { continue };
        for groups in blob.verified().iter() {
            assert_eq!(read_groups(&blob, groups.clone()).unwrap(), sample.bytes(groups), "page {page}");
        }
    }
    // Only what is in the index can be lost, never what was added here.
    assert!(content_path(dir, &filled.added.hash).exists(), "page {page}");
    let _ = store.close();
}

/// Where the process that may end finds its files, and where it begins.
const DAMAGED: [&str; 2] = ["BYHASH_DAMAGED_DIR", "BYHASH_DAMAGED_ROUND"];

#[test]
#[ignore = "the next test runs it"]
fn damaged_in_a_process_of_its_own() {
    let [Some(dir), Some(round)] = DAMAGED.map(std::env::var_os) else { return };
    damage_and_open(&samples_in(dir.as_ref()), round.to_str().unwrap().parse().unwrap());
}

#[test]
fn wherever_the_index_is_damaged_what_is_claimed_is_right() {
    let filled = filled();
    fs::copy(index(filled.dir()), filled.dir().join("index.sound")).unwrap();
    let (mut first, mut aborted) = (0, 0);
    loop {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["store::tests::rebuilding::damaged_in_a_process_of_its_own", "--exact", "--ignored", "--nocapture"])
            .envs(DAMAGED.into_iter().zip([filled.dir().as_os_str(), first.to_string().as_ref()]))
            .output()
            .unwrap();
        if output.status.success() {
            break;
        }
        // redb may panic once more while the first panic unwinds; nobody can catch that, but the next start
        // finds a new index.
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("panic in a destructor during cleanup"), "{said}");
        let rounds = String::from_utf8_lossy(&output.stdout);
        let last: usize = rounds.lines().rev().find_map(|line| line.strip_prefix("round ")?.parse().ok()).unwrap();
        open_and_check(&filled, last / 3);
        refill(&filled);
        (first, aborted) = (last + 1, aborted + 1);
    }
    assert!(aborted < 10, "{aborted}");
}

fn refill(filled: &Filled) {
    let dir = filled.dir();
    fs::remove_file(index(dir)).unwrap();
    let store = open(dir);
    filled.small.write_all(&store);
    filled.large.write_all(&store);
    filled.partial.write(&store, 3..5).unwrap();
    filled.partial.write(&store, 80..90).unwrap();
    assert_eq!(store.lookup(&filled.added.hash).unwrap().unwrap().origin, Origin::Local);
    store.close().unwrap();
}

#[test]
fn what_does_not_verify_is_not_claimed() {
    let filled = filled();
    let dir = filled.dir();
    flip(&content_path(dir, &filled.small.hash), 9);
    flip(&content_path(dir, &filled.large.hash), 66 * GROUP_LEN + 1);
    // Without its last group there is no telling how long it is.
    flip(&content_path(dir, &filled.partial.hash), 89 * GROUP_LEN);
    // An outboard without content, and content that nobody knows.
    fs::write(outboard_path(dir, &ContentHash::of(b"none")), [0; 64]).unwrap();
    fs::write(content_path(dir, &ContentHash::of(b"garbage")), [0; 64]).unwrap();
    fs::remove_file(index(dir)).unwrap();
    let store = open(dir);
    assert_eq!(store.usage().blobs, 2);
    assert!(store.lookup(&filled.small.hash).unwrap().is_none() && filled.added.read_all(&store).unwrap());
    let large = store.blob(&filled.large.hash).unwrap().unwrap();
    assert_eq!(large.missing(filled.large.all()), std::slice::from_ref(&(66..67)));
    for gone in [filled.small.hash, filled.partial.hash, ContentHash::of(b"none"), ContentHash::of(b"garbage")] {
        assert!(!content_path(dir, &gone).exists() && !outboard_path(dir, &gone).exists());
    }
    // The damaged group is mended as ever.
    filled.large.write(&store, 66..67).unwrap();
    assert!(filled.large.read_all(&store).unwrap());
    let used = filled.large.charge() + filled.added.charge();
    assert_eq!(of_blobs(&store), used);
}

#[test]
fn what_somebody_asks_for_is_looked_at_first_and_not_overwritten() {
    let filled = filled();
    let dir = filled.dir();
    fs::remove_file(index(dir)).unwrap();
    let config = Config { dir: dir.to_owned(), capacity: 64 << 20, keep_free: 0 };
    let shared = crate::store::shared::Shared::open(config, Arc::default()).unwrap();
    // Without the thread nothing is taken over but what is asked for.
    assert!(shared.lookup(&filled.added.hash).unwrap().is_none());
    let blob = shared.open_blob(&filled.added.hash).unwrap().unwrap();
    assert_eq!((blob.info().origin, blob.is_complete()), (Origin::Local, true));
    assert!(shared.create_partial(filled.large.hash, filled.large.size()).unwrap().is_complete());
    shared.remove_unknown(&filled.small.hash).unwrap();
    assert!(shared.open_blob(&filled.small.hash).unwrap().is_none());
}

#[test]
fn an_index_damaged_while_it_is_open_is_replaced_and_open_blobs_keep_all() {
    let filled = filled();
    let dir = filled.dir();
    let store = open(dir);
    let handle = store.blob(&filled.large.hash).unwrap().unwrap();
    let more = Sample::new(2 * GROUP, 8);
    more.write_all(&store);
    lose_index_of(&store);
    assert!(dir.join("index.redb.damaged").exists());
    store.flush().unwrap();
    assert!(handle.is_complete() && more.read_all(&store).unwrap());
    drop(handle);
    store.remove(&more.hash).unwrap();
    filled.assert_all_there(&store);
}

#[test]
fn a_rebuild_that_was_broken_off_goes_on_at_the_next_start() {
    let filled = filled();
    let dir = filled.dir();
    fs::remove_file(index(dir)).unwrap();
    for _ in 0..3 {
        // Closed as soon as it is open, whatever the thread has done by then.
        drop(open_soon(dir, 64 << 20).unwrap());
    }
    filled.assert_all_there(&open(dir));
}

#[test]
fn blobs_added_here_stay_marked_when_they_are_mended_or_were_fetched_before() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (fetched, damaged) = (Sample::new(2 * GROUP, 1), Sample::new(5 * GROUP, 2));
    fetched.write_all(&store);
    for sample in [&fetched, &damaged] {
        add(&store, dir.path(), sample);
    }
    flip(&content_path(dir.path(), &damaged.hash), 2 * GROUP_LEN);
    assert!(damaged.read_all(&store).is_err());
    damaged.write(&store, 2..3).unwrap();
    store.close().unwrap();
    drop(store);
    fs::remove_file(index(dir.path())).unwrap();
    let store = open(dir.path());
    for sample in [&fetched, &damaged] {
        let info = store.lookup(&sample.hash).unwrap().unwrap();
        assert_eq!((info.complete, info.origin, info.pinned), (true, Origin::Local, true));
    }
}

#[test]
fn a_new_index_knows_what_was_pinned() {
    let dir = tempfile::tempdir().unwrap();
    let samples: Vec<_> = (0..8).map(|seed| Sample::new(3 * GROUP, seed)).collect();
    let [whole, part, completed, mended, lost, unpinned, never, reopened] = &samples[..] else { unreachable!() };
    let store = open(dir.path());
    for sample in [whole, mended, lost, unpinned, never] {
        drop(sample.write_all(&store));
    }
    for sample in [part, completed, reopened] {
        sample.write(&store, 2..3).unwrap();
    }
    let pinned = [whole, part, completed, mended, lost, unpinned, reopened].map(|sample| sample.hash);
    assert!(store.set_pinned(&pinned, true).unwrap().iter().all(|outcome| *outcome == PinOutcome::Done));
    // What becomes of the file afterwards leaves it alone.
    completed.write_all(&store);
    flip(&content_path(dir.path(), &mended.hash), 0);
    assert!(mended.read_all(&store).is_err());
    mended.write(&store, 0..1).unwrap();
    fs::remove_file(content_path(dir.path(), &lost.hash)).unwrap();
    assert_eq!(store.set_pinned(&[unpinned.hash], false).unwrap(), [PinOutcome::Done]);
    store.close().unwrap();
    drop(store);
    let store = open(dir.path());
    drop(reopened.write_all(&store));
    // Pins are as they were, whether the index is the old one or a new one; and another one may be set on it.
    for lose_index in [false, true, true] {
        store.flush().unwrap();
        let known = |sample: &Sample| store.lookup(&sample.hash).unwrap().map(|info| (info.origin, info.pinned));
        for sample in [whole, part, completed, mended, reopened] {
            assert_eq!(known(sample), Some((Origin::Fetched, true)), "{lose_index}");
        }
        assert!([unpinned, never].iter().all(|sample| known(sample) == Some((Origin::Fetched, false))), "{lose_index}");
        assert!(store.blob(&completed.hash).unwrap().unwrap().is_complete());
        if lose_index {
            lose_index_of(&store);
        }
    }
}

#[test]
fn many_pins_are_marked_together() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let samples: Vec<_> = (0..40).map(|seed| Sample::new(100, seed)).collect();
    samples.iter().for_each(|sample| drop(sample.write_all(&store)));
    let hashes: Vec<_> = samples.iter().map(|sample| sample.hash).collect();
    let is_pinned = |hash: &ContentHash| store.lookup(hash).unwrap().unwrap().pinned;
    for pinned in [true, false] {
        assert!(store.set_pinned(&hashes, pinned).unwrap().iter().all(|outcome| *outcome == PinOutcome::Done));
        lose_index_of(&store);
        assert!(hashes.iter().all(|hash| is_pinned(hash) == pinned), "{pinned}");
    }
}

#[test]
fn what_is_found_beyond_the_cap_makes_room_but_not_what_was_added() {
    let filled = filled();
    let dir = filled.dir();
    fs::remove_file(index(dir)).unwrap();
    let store = open_with(dir, filled.added.charge() + GROUP_LEN);
    store.shared.trim().unwrap();
    assert!(filled.added.read_all(&store).unwrap());
    assert!(store.lookup(&filled.large.hash).unwrap().is_none());
    assert!(store.usage().used <= store.usage().capacity && on_disk(dir) <= store.usage().capacity);
}

#[test]
fn a_sweep_that_is_overtaken_by_a_new_index_removes_nothing() {
    let filled = filled();
    let store = open(filled.dir());
    store.shared.write_index(|batch| batch.take(&filled.added.hash)).unwrap();
    let sweep = |goes_on: &dyn Fn() -> bool, spared: &HashSet<ContentHash>| {
        sweep_shard(&store.shared, filled.added.hash.as_bytes()[0], goes_on, spared).unwrap();
    };
    let path = content_path(filled.dir(), &filled.added.hash);
    sweep(&|| false, &HashSet::new());
    assert!(path.exists(), "the index that does not know it is not the one that the sweep began with");
    sweep(&|| true, &HashSet::from([filled.added.hash]));
    assert!(path.exists(), "it is spared");
    sweep(&|| true, &HashSet::new());
    assert!(!path.exists());
}

#[test]
fn right_content_with_a_damaged_outboard_survives_the_loss_of_the_index() {
    type Damage = fn(&Path);
    let damages: [Damage; 4] = [
        |path| fs::remove_file(path).unwrap(),
        |path| flip(path, 0),
        |path| fs::OpenOptions::new().write(true).open(path).unwrap().set_len(64).unwrap(),
        |path| fs::write(path, vec![0; fs::metadata(path).unwrap().len() as usize]).unwrap(),
    ];
    for (case, damage) in damages.iter().enumerate() {
        let filled = filled();
        fs::remove_file(index(filled.dir())).unwrap();
        for sample in [&filled.added, &filled.large] {
            damage(&outboard_path(filled.dir(), &sample.hash));
        }
        let store = open(filled.dir());
        filled.assert_all_there(&store);
        for sample in [&filled.added, &filled.large] {
            assert_eq!(fs::read(outboard_path(filled.dir(), &sample.hash)).unwrap(), sample.outboard, "{case}");
        }
        assert_eq!(fs::read_dir(filled.dir().join("tmp")).unwrap().count(), 0);
    }
}

#[test]
fn wrong_content_with_a_damaged_outboard_goes() {
    let filled = filled();
    fs::remove_file(index(filled.dir())).unwrap();
    flip(&outboard_path(filled.dir(), &filled.added.hash), 0);
    flip(&content_path(filled.dir(), &filled.added.hash), 3);
    let store = open(filled.dir());
    assert_eq!(store.lookup(&filled.added.hash).unwrap(), None);
    assert!(!content_path(filled.dir(), &filled.added.hash).exists());
}

#[test]
fn a_file_that_is_touched_while_it_is_looked_at_is_looked_at_again() {
    let filled = filled();
    fs::remove_file(index(filled.dir())).unwrap();
    let store = open(filled.dir());
    store.shared.write_index(|batch| batch.take(&filled.small.hash)).unwrap();
    let verified = claim::verify(&store.shared, &filled.small.hash, &|| true).unwrap().unwrap();
    let path = content_path(filled.dir(), &filled.small.hash);
    // As a backup with hard links does.
    fs::hard_link(&path, filled.dir().join("copy")).unwrap();
    let (taken, changed) = claim::take_over(&store.shared, vec![verified]).unwrap();
    assert_eq!((taken, changed), (0, vec![filled.small.hash]));
    let verified = claim::verify(&store.shared, &filled.small.hash, &|| true).unwrap().unwrap();
    assert_eq!(claim::take_over(&store.shared, vec![verified]).unwrap(), (1, Vec::new()));
    assert!(filled.small.read_all(&store).unwrap());
}
