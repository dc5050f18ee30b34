//! Blobs that are served from files of the user's.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};

use super::*;
use crate::store::import::{Batch, Source, stage};
use crate::store::{InPlaceState, Origin, PinOutcome};

/// A user's file with the content of a sample.
struct Users {
    dir: tempfile::TempDir,
    sample: Sample,
}

impl Users {
    fn new(len: usize, seed: u8) -> Self {
        let users = Self { dir: tempfile::tempdir().unwrap(), sample: Sample::new(len, seed) };
        users.write(&users.sample.content);
        fs::set_permissions(users.path(), fs::Permissions::from_mode(0o640)).unwrap();
        users
    }

    fn path(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join("a file")
    }

    fn write(&self, bytes: &[u8]) {
        fs::write(self.path(), bytes).unwrap();
    }

    fn add(&self, dir: &Path, store: &Store) {
        store.adopt(stage(dir, Source::InPlace(&self.path()), &|_| {}).unwrap().blob()).unwrap();
    }

    /// What the file is, whatever the store has done.
    fn is_untouched(&self, content: &[u8]) -> bool {
        fs::read(self.path()).unwrap() == content
            && fs::metadata(self.path()).unwrap().permissions().mode() & 0o7777 == 0o640
    }

    fn state(&self, store: &Store) -> Option<InPlaceState> {
        let place = store.show(&[self.sample.hash]).unwrap().pop()?.in_place?;
        assert_eq!(Path::new(&place.path), self.path());
        Some(place.state)
    }
}

#[test]
fn a_file_is_served_from_where_it_lies_and_never_touched() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for (seed, len) in [0, 100, GROUP, 5 * GROUP + 1].into_iter().enumerate() {
        let users = Users::new(len, seed as u8);
        let (sample, before) = (&users.sample, of_blobs(&store));
        users.add(dir.path(), &store);
        let info = store.lookup(&sample.hash).unwrap().unwrap();
        assert_eq!((info.complete, info.origin, info.pinned), (true, Origin::Reference, true));
        assert_eq!(users.state(&store), Some(InPlaceState::Present));
        // The outboard and the link; twice the same.
        users.add(dir.path(), &store);
        let charge = (sample.outboard.len() as u64).next_multiple_of(4096) + 4096;
        assert_eq!(of_blobs(&store) - before, charge);
        assert!(on_disk(&dir.path().join("blobs")) <= of_blobs(&store));
        assert!(sample.read_all(&store).unwrap());
        let blob = store.blob(&sample.hash).unwrap().unwrap();
        blob.check(sample.all()).unwrap();
        // Others are not given what may change.
        assert!(!blob.is_whole() && blob.whole_file().is_none() && blob.content_file().is_err());
        assert_eq!(store.set_pinned(&[sample.hash], false).unwrap(), [PinOutcome::Local]);
        assert_eq!(store.collect(Some(0)).unwrap().removed, []);
        drop(blob);
        store.flush().unwrap();
        assert_eq!(store.remove_all(&[sample.hash]).unwrap(), [Some(charge)]);
        assert!(fs::symlink_metadata(content_path(dir.path(), &sample.hash)).is_err());
        assert!(users.is_untouched(&sample.content));
        assert_eq!(of_blobs(&store), before);
    }
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn once_it_is_altered_cut_or_gone_nothing_of_it_is_held_and_that_is_said() {
    type Alter = fn(&Users);
    let alterations: [(Alter, InPlaceState); 5] = [
        (
            |users| fs::File::options().write(true).open(users.path()).unwrap().write_all_at(b"!", 70_000).unwrap(),
            InPlaceState::Changed,
        ),
        (|users| users.write(&users.sample.content[..50_000]), InPlaceState::Changed),
        (|users| users.write(&[users.sample.content.as_slice(), b"more"].concat()), InPlaceState::Changed),
        (|users| fs::remove_file(users.path()).unwrap(), InPlaceState::Missing),
        (
            |users| {
                fs::remove_file(users.path()).unwrap();
                fs::create_dir(users.path()).unwrap()
            },
            InPlaceState::Changed,
        ),
    ];
    for (number, (alter, state)) in alterations.into_iter().enumerate() {
        for met_by_scrub in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path());
            let users = Users::new(6 * GROUP + 3, number as u8);
            users.add(dir.path(), &store);
            let (sample, charge) = (&users.sample, of_blobs(&store));
            let open_before = store.blob(&sample.hash).unwrap().unwrap();
            assert!(number % 2 == 0 || sample.read_all(&store).unwrap());
            alter(&users);
            if met_by_scrub {
                drop(open_before);
                let scrubbed = store.scrub(&sample.hash, 0, u64::MAX).unwrap().unwrap();
                assert_eq!((scrubbed.dropped_bytes, scrubbed.origin), (sample.size(), Origin::Reference), "{number}");
                assert_eq!(scrubbed.in_place.unwrap().state, state, "{number}");
            } else {
                // Group by group: what is not damaged may be read before, and is right.
                let mut failed = false;
                for group in sample.all() {
                    match read_groups(&open_before, group..group + 1) {
                        Ok(bytes) => assert!(!failed && bytes == sample.bytes(&(group..group + 1)), "{number}"),
                        Err(_) => failed = true,
                    }
                }
                // A longer file is still right as far as it goes; a file that was open outlives its name.
                let looks_right = !failed && (2..=4).contains(&number);
                assert!(failed || looks_right, "{number}");
                drop(open_before);
            }
            assert!(!matches!(sample.read_all(&store), Ok(true)), "{number}: it is looked for anew");
            assert!(store.blob(&sample.hash).unwrap().is_none());
            assert!(store.find(&sample.hash.have_key()).unwrap().is_none(), "no peer is told of it");
            assert!(store.complete_blobs(None, 9).unwrap().is_empty());
            assert_eq!(users.state(&store), Some(state), "{number}");
            assert_eq!(of_blobs(&store), charge);
            // It stays said after a restart, and whenever it is checked.
            store.close().unwrap();
            drop(store);
            let store = open(dir.path());
            assert_eq!(users.state(&store), Some(state), "{number}");
            let scrubbed = store.scrub(&sample.hash, 0, u64::MAX).unwrap().unwrap();
            assert_eq!((scrubbed.lacking_bytes, scrubbed.next), (sample.size(), None));
            assert_eq!(scrubbed.in_place.unwrap().state, state, "{number}");
            // What is fetched takes its place.
            sample.write(&store, 1..2).unwrap();
            sample.write_all(&store);
            assert!(sample.read_all(&store).unwrap() && users.state(&store).is_none());
            assert_eq!(store.lookup(&sample.hash).unwrap().unwrap().origin, Origin::Fetched);
            assert_eq!(of_blobs(&store), sample.charge());
        }
    }
}

#[test]
fn a_copy_is_better_than_a_file_in_place_and_that_than_what_was_fetched() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let users = Users::new(3 * GROUP, 1);
    let (sample, origin) = (&users.sample, |store: &Store| store.lookup(&users.sample.hash).unwrap().unwrap().origin);
    sample.write_all(&store);
    users.add(dir.path(), &store);
    assert_eq!((origin(&store), of_blobs(&store)), (Origin::Reference, 2 * 4096));
    // What has changed is added again from where it is now.
    let handle = store.blob(&sample.hash).unwrap().unwrap();
    users.write(b"changed");
    assert!(handle.read(BlobRange::new(0, 9)).is_err());
    users.write(&sample.content);
    users.add(dir.path(), &store);
    assert!(handle.is_complete() && sample.read_all(&store).unwrap());
    store.adopt(stage(dir.path(), Source::File(&users.path()), &|_| {}).unwrap().blob()).unwrap();
    assert_eq!((origin(&store), of_blobs(&store)), (Origin::Local, sample.charge()));
    users.add(dir.path(), &store);
    assert_eq!((origin(&store), store.usage().blobs), (Origin::Local, 1));
    users.write(b"changed");
    assert!(sample.read_all(&store).unwrap());
}

#[test]
fn a_new_index_knows_it_as_long_as_it_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let (sound, changed) = (Users::new(5 * GROUP, 1), Users::new(5 * GROUP, 2));
    let store = open(dir.path());
    sound.add(dir.path(), &store);
    changed.add(dir.path(), &store);
    store.close().unwrap();
    drop(store);
    changed.write(&sound.sample.content);
    fs::remove_file(dir.path().join("index.redb")).unwrap();
    let store = open(dir.path());
    let info = store.lookup(&sound.sample.hash).unwrap().unwrap();
    assert_eq!((info.complete, info.origin, info.pinned), (true, Origin::Reference, true));
    assert!(sound.sample.read_all(&store).unwrap() && sound.is_untouched(&sound.sample.content));
    assert!(store.lookup(&changed.sample.hash).unwrap().is_none() && changed.is_untouched(&sound.sample.content));
    assert!(fs::symlink_metadata(content_path(dir.path(), &changed.sample.hash)).is_err());
    assert_eq!(of_blobs(&store), 2 * 4096);
}

#[test]
fn what_cannot_be_served_in_place_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let users = Users::new(100, 1);
    let refused = |path: &Path| stage(dir.path(), Source::InPlace(path), &|_| {}).unwrap_err().to_string();
    assert!(refused(Path::new("/dev/null")).contains("not a regular file"));
    assert!(refused(users.dir.path()).contains("is a directory"));
    assert!(refused(&users.dir.path().join("none")).contains("No such file"));
    // A link is followed once and for all.
    let link = users.dir.path().join("link");
    std::os::unix::fs::symlink(users.path(), &link).unwrap();
    let store = open(dir.path());
    store.adopt(stage(dir.path(), Source::InPlace(&link), &|_| {}).unwrap().blob()).unwrap();
    fs::remove_file(link).unwrap();
    assert!(users.sample.read_all(&store).unwrap());
    // What whoever keeps the store cannot see is not taken over.
    let other = Users::new(50_000, 2);
    let staged = stage(dir.path(), Source::InPlace(&other.path()), &|_| {}).unwrap();
    fs::remove_file(other.path()).unwrap();
    let refused = store.adopt(staged.blob()).unwrap_err().to_string();
    assert!(refused.contains("a file cannot be served from where it lies"), "{refused}");
}

#[test]
fn many_are_staged_and_taken_over_together() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let users: Vec<_> = (0..40).map(|seed| Users::new(usize::from(seed) * 1000, seed)).collect();
    let mut batch = Batch::create(dir.path()).unwrap();
    for (number, user) in users.iter().enumerate() {
        let path = user.path();
        let source = if number % 2 == 0 { Source::File(&path) } else { Source::InPlace(&path) };
        batch.stage(source, &mut |_, _| Ok(()), &|_| {}).unwrap();
    }
    // The same content twice.
    batch.stage(Source::File(&users[4].path()), &mut |_, _| Ok(()), &|_| {}).unwrap();
    batch.sync().unwrap();
    assert!(store.adopt_all(batch.blobs()).iter().all(Result::is_ok));
    drop(batch);
    assert_eq!(store.usage().blobs, 40);
    assert!(users.iter().all(|user| user.sample.read_all(&store).unwrap()));
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    assert!(on_disk(&dir.path().join("blobs")) <= of_blobs(&store));
}

#[test]
fn a_page_of_files_with_odd_names_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let users = Users::new(10, 1);
    let deep = (0..12).fold(users.dir.path().canonicalize().unwrap(), |path, _| path.join("\u{1}".repeat(250)));
    fs::create_dir_all(&deep).unwrap();
    let place = deep.join("the end");
    fs::rename(users.path(), &place).unwrap();
    store.adopt(stage(dir.path(), Source::InPlace(&place), &|_| {}).unwrap().blob()).unwrap();
    let shown = store.list(None, 1).unwrap().blobs.pop().unwrap();
    assert!(serde_json::to_string(&shown).unwrap().len() < 5000);
    let place = shown.in_place.unwrap();
    assert!(place.path.ends_with("/the end") && place.state == InPlaceState::Present);
}

#[test]
fn what_was_written_since_it_was_found_right_is_shown_as_changed_until_it_is_found_right_again() {
    use std::time::{Duration, SystemTime};
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let users = Users::new(70 * GROUP + 3, 1);
    users.add(dir.path(), &store);
    let hash = users.sample.hash;
    let set_time = |time| fs::File::options().write(true).open(users.path()).unwrap().set_modified(time).unwrap();
    let shown = |store: &Store| {
        let blob = store.show(&[hash]).unwrap().pop().unwrap();
        assert_eq!(store.list(None, 9).unwrap().blobs, std::slice::from_ref(&blob));
        (blob.in_place.unwrap().state, blob.complete, blob.held)
    };
    let right = (InPlaceState::Present, true, users.sample.size());
    assert_eq!(shown(&store), right);
    store.close().unwrap();
    drop(store);
    let store = open(dir.path());
    assert_eq!(shown(&store), right);
    let now = SystemTime::now();
    for (time, budget) in [(now + Duration::from_secs(5), u64::MAX), (now - Duration::from_secs(86400), 1)] {
        set_time(time);
        assert_eq!(shown(&store), (InPlaceState::Changed, false, 0));
        // A time that was set just now does not tell yet from a later one.
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while shown(&store) != right && std::time::Instant::now() < until {
            let mut from = Some(0);
            while let Some(group) = from {
                from = store.scrub(&hash, group, budget).unwrap().unwrap().next;
            }
        }
        assert_eq!(shown(&store), right);
    }
    // A new index finds it right, too.
    set_time(now);
    store.close().unwrap();
    drop(store);
    fs::remove_file(dir.path().join("index.redb")).unwrap();
    assert_eq!(shown(&open(dir.path())), right);
}
