//! Adding files of this node.

use std::fs;

use super::*;
use crate::store::Origin;
use crate::store::import::{Source, Staged, StagedBlob, stage};
use crate::verify::PIECE_LEN;

fn stage_file(dir: &Path, content: &[u8]) -> Staged {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), content).unwrap();
    stage(dir, Source::File(file.path()), &|_| {}).unwrap()
}

fn tmp_files(dir: &Path) -> usize {
    fs::read_dir(dir.join("tmp")).unwrap().count()
}

#[test]
fn a_staged_file_becomes_a_pinned_blob_while_the_store_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    // Empty, one group, several, more than a piece.
    for (seed, len) in [0, 100, 5 * GROUP + 1, PIECE_LEN + 3 * GROUP].into_iter().enumerate() {
        let sample = Sample::new(len, seed as u8);
        let staged = stage_file(dir.path(), &sample.content);
        assert_eq!((staged.blob().hash, staged.blob().size), (sample.hash, sample.size()));
        store.adopt(staged.blob()).unwrap();
        drop(staged);
        let info = store.lookup(&sample.hash).unwrap().unwrap();
        assert_eq!((info.complete, info.origin, info.pinned), (true, Origin::Local, true));
        assert!(sample.read_all(&store).unwrap());
        assert_eq!(fs::read(outboard_path(dir.path(), &sample.hash)).unwrap_or_default(), sample.outboard);
    }
    assert_eq!(tmp_files(dir.path()), 0);
}

#[test]
fn a_stream_is_staged_like_a_file_and_progress_ends_at_the_size() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::new(3 * PIECE_LEN / 2, 1);
    let last = std::cell::Cell::new(0);
    let staged = stage(dir.path(), Source::Stream(&mut sample.content.as_slice()), &|bytes| last.set(bytes)).unwrap();
    assert_eq!((staged.blob().hash, last.get()), (sample.hash, sample.size()));
    // Not adopted: nothing stays.
    drop(staged);
    assert_eq!(tmp_files(dir.path()), 0);
}

#[test]
fn adopting_what_is_held_pins_it_and_replaces_what_is_partial() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (complete, partial) = (Sample::new(3 * GROUP, 1), Sample::new(4 * GROUP, 2));
    complete.write_all(&store);
    let handle = partial.write(&store, 1..2).unwrap();
    for sample in [&complete, &partial] {
        let staged = stage_file(dir.path(), &sample.content);
        store.adopt(staged.blob()).unwrap();
        let info = store.lookup(&sample.hash).unwrap().unwrap();
        assert_eq!((info.complete, info.origin, info.pinned), (true, Origin::Local, true));
    }
    assert!(handle.is_complete() && partial.read_all(&store).unwrap());
    let bytes = Sample::charge;
    assert_eq!((of_blobs(&store), store.usage().blobs), (bytes(&complete) + bytes(&partial), 2));
    assert_eq!(tmp_files(dir.path()), 0);
    drop((handle, store));
    let store = open(dir.path());
    assert_eq!((of_blobs(&store), store.usage().blobs), (bytes(&complete) + bytes(&partial), 2));
    assert!(store.lookup(&complete.hash).unwrap().unwrap().pinned);
}

#[test]
fn added_blobs_are_never_evicted_and_need_room() {
    let dir = tempfile::tempdir().unwrap();
    // Room for one group and some bytes more, with an outboard.
    let store = open_with(dir.path(), 2 * GROUP_LEN);
    let (fetched, added, more) = (Sample::new(GROUP, 1), Sample::new(GROUP + 1, 2), Sample::new(GROUP, 3));
    fetched.write_all(&store);
    store.adopt(stage_file(dir.path(), &added.content).blob()).unwrap();
    assert!(store.lookup(&fetched.hash).unwrap().is_none());
    assert!(matches!(more.write(&store, 0..1), Err(StoreError::Full { .. })));
    let refused = store.adopt(stage_file(dir.path(), &more.content).blob()).unwrap_err();
    assert!(matches!(refused, StoreError::NoRoom { .. }) && refused.to_string().contains("byhash rm"), "{refused}");
    assert!(added.read_all(&store).unwrap());
}

#[test]
fn names_cannot_leave_tmp_and_sizes_must_fit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(2 * GROUP, 1);
    let staged = stage_file(dir.path(), &sample.content);
    fs::write(dir.path().join("outside"), &sample.content).unwrap();
    for name in ["", ".", "..", "../outside", "/etc/passwd", "a/b", "no-such-file"] {
        let bad = StagedBlob { name: name.to_owned(), ..staged.blob().clone() };
        assert!(matches!(store.adopt(&bad), Err(StoreError::NotStaged(_))), "{name}");
    }
    for size in [0, sample.size() - 1, u64::MAX] {
        let bad = StagedBlob { size, ..staged.blob().clone() };
        assert!(matches!(store.adopt(&bad), Err(StoreError::NotStaged(_))), "{size}");
    }
    store.adopt(staged.blob()).unwrap();
}

#[test]
fn directories_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let refused = stage(dir.path(), Source::File(Path::new("/usr")), &|_| {}).unwrap_err();
    assert!(refused.to_string().starts_with("/usr is a directory"), "{refused}");
    assert_eq!(tmp_files(dir.path()), 0);
}

#[test]
fn opening_sweeps_abandoned_files_and_leaves_those_under_a_lock() {
    let dir = tempfile::tempdir().unwrap();
    let staged = stage_file(dir.path(), &Sample::new(2 * GROUP, 1).content);
    fs::write(dir.path().join("tmp/add-1-2-3"), b"abandoned").unwrap();
    fs::write(dir.path().join("tmp/add-1-2-4.obao4"), b"abandoned").unwrap();
    let store = open(dir.path());
    // The batch's lock, the content and the outboard.
    assert_eq!(tmp_files(dir.path()), 3);
    store.adopt(staged.blob()).unwrap();
}

#[test]
fn adding_what_is_damaged_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sample = Sample::new(3 * GROUP, 1);
    for part in [content_path, outboard_path] {
        sample.write_all(&store);
        flip(&part(dir.path(), &sample.hash), 7);
        store.adopt(stage_file(dir.path(), &sample.content).blob()).unwrap();
        assert!(sample.read_all(&store).unwrap());
        assert_eq!(of_blobs(&store), sample.charge());
    }
}
