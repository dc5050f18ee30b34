//! Disks that lose or alter what they were given, at holders and at readers.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use serde_json::Value;

use super::content::{MIB, content, hash_of, hash_of_file};
use super::node::{Sandbox, Seat, asking, eventually, fuse_is_here, stdout};

/// The unit of verification, in bytes.
const GROUP: usize = 16 << 10;

/// Ten pieces, and a last group that is not full.
const LEN: usize = 40 * MIB + 5;

fn open_for_damage(path: &Path) -> File {
    // What is complete is not writable, even for its owner.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    File::options().read(true).write(true).open(path).unwrap()
}

/// Flips a bit in every `step` bytes from `from` to `to`.
fn flip(path: &Path, from: usize, to: usize, step: usize) {
    let file = open_for_damage(path);
    for at in (from..to).step_by(step) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at as u64).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at as u64).unwrap();
    }
}

fn len(path: &Path) -> usize {
    std::fs::metadata(path).unwrap().len() as usize
}

fn truncate(path: &Path, to: usize) {
    open_for_damage(path).set_len(to as u64).unwrap();
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn a_holder_serves_nothing_of_what_its_disk_altered() {
    if !fuse_is_here("a_holder_serves_nothing_of_what_its_disk_altered") {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = content(30, LEN);
    let hash = hash_of(&bytes);
    let damaged = sandbox.seat("a1");
    damaged.add(&bytes);
    flip(&damaged.content_file(&hash), 0, LEN, GROUP);
    let damaged = damaged.serve(["--open"]);
    let alone = sandbox.reader("b", &[&damaged]);
    assert_eq!(errno(std::fs::read(alone.file(&hash))), Some(libc::ENOENT));
    assert_eq!(damaged.metric("served_bytes"), 0);
    assert!(damaged.metric("store_corrupt_groups") > 0);
    assert_eq!(alone.metric("wrong_bytes"), 0, "it was found out where it happened");
    let good = sandbox.holder("a2", &[&bytes]);
    let both = sandbox.reader("c", &[&damaged, &good]);
    assert_eq!(hash_of_file(&both.file(&hash)).unwrap(), hash);
    assert_eq!(damaged.metric("served_bytes"), 0);
}

#[test]
fn what_a_reader_s_disk_lost_or_altered_is_fetched_again() {
    if !fuse_is_here("what_a_reader_s_disk_lost_or_altered_is_fetched_again") {
        return;
    }
    type Damage = fn(&Path, &Path);
    let damages: [(&str, Damage); 9] = [
        ("a bit of the content", |content, _| flip(content, LEN / 2, LEN / 2 + 1, 1)),
        ("a bit of the last group", |content, _| flip(content, LEN - 1, LEN, 1)),
        ("every group of the content", |content, _| flip(content, 0, LEN, GROUP)),
        ("the content cut", |content, _| truncate(content, LEN / 3)),
        ("the content emptied", |content, _| truncate(content, 0)),
        ("the content gone", |content, _| std::fs::remove_file(content).unwrap()),
        ("the outboard altered", |_, outboard| flip(outboard, 0, len(outboard), 64)),
        ("the outboard cut", |_, outboard| truncate(outboard, len(outboard) / 2)),
        ("the outboard gone", |_, outboard| std::fs::remove_file(outboard).unwrap()),
    ];
    let sandbox = Sandbox::new();
    let bytes = content(32, LEN);
    let hash = hash_of(&bytes);
    let holder = sandbox.holder("a", &[&bytes]);
    let mut reader = sandbox.reader("b", &[&holder]);
    for (damage, inflict) in damages {
        assert_eq!(hash_of_file(&reader.file(&hash)).unwrap(), hash, "before {damage}");
        let seat = reader.stop();
        inflict(&seat.content_file(&hash), &seat.outboard_file(&hash));
        reader = seat.mount(asking(&[&holder]));
        assert_eq!(hash_of_file(&reader.file(&hash)).unwrap(), hash, "{damage}");
        let fetched = reader.metric("fetched_bytes");
        // Two readers may find the same damage one after the other, and what came between is fetched twice.
        let most = LEN + LEN / 10;
        assert!(fetched <= most as u64, "{damage}: {fetched} bytes fetched again");
        // An outboard is made anew from the content.
        assert_eq!(fetched == 0, damage.starts_with("the outboard"), "{damage}: {fetched} bytes fetched again");
    }
    // Mended for good: the next time nothing is fetched, and nobody need be there.
    let seat = reader.stop();
    holder.stop();
    reader = seat.mount([]);
    assert_eq!(hash_of_file(&reader.file(&hash)).unwrap(), hash);
}

#[test]
fn what_was_read_of_a_large_file_and_pinned_outlives_the_index() {
    if !fuse_is_here("what_was_read_of_a_large_file_and_pinned_outlives_the_index") {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = content(33, 4 * LEN);
    let hash = hash_of(&bytes);
    let holder = sandbox.holder("a", &[&bytes]);
    let reader = sandbox.reader("b", &[&holder]);
    let mut first = [0; 7];
    File::open(reader.file(&hash)).unwrap().read_exact_at(&mut first, 0).unwrap();
    // Bytes reach the reader before they are written.
    eventually("what was read is held", || stdout(&reader.run(["ls", "--json"])).contains(&hash));
    stdout(&reader.run(["pin", &hash]));
    let seat = reader.stop();
    let listed = |seat: &Seat| {
        let all: Value = serde_json::from_str(&stdout(&seat.run(["ls", "--json"]))).unwrap();
        let blobs = all.as_array().unwrap().iter();
        blobs.map(|blob| [&blob["held"], &blob["pinned"]].map(Value::to_string)).collect::<Vec<_>>()
    };
    let before = listed(&seat);
    let [[held, pinned]] = &before[..] else { panic!("{before:?}") };
    assert!((GROUP..bytes.len()).contains(&held.parse::<usize>().unwrap()) && pinned == "true", "{before:?}");
    std::fs::remove_file(seat.state.join("cache/index.redb")).unwrap();
    let node = seat.serve([]);
    eventually("all files are looked at", || listed(&node) == before);
    assert!(stdout(&node.run(["verify"])).starts_with("checked 1 blob, "));
}
