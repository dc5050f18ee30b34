//! The filesystem without FUSE, over blobs in memory.

use std::sync::Arc;
use std::time::Duration;

use super::memory_source::{Answer, Call, MemorySource};
use byhash::fs::*;
use byhash::ids::{BlobRange, ContentHash, PeerId};
use byhash::metrics::Metrics;
use byhash::transfer::{BlobState, FetchError};
use bytes::Bytes;
use tokio::time::Instant;

const OWNER: Owner = Owner { uid: 7, gid: 8 };

fn filesystem() -> (MemorySource, Filesystem) {
    let source = MemorySource::default();
    let fs = Filesystem::new(Arc::new(source.clone()), Arc::new(Metrics::default()), OWNER);
    (source, fs)
}

/// Looks `hash` up in by-hash, asking if need be.
async fn lookup(fs: &Filesystem, hash: ContentHash) -> Result<Lookup, FsError> {
    match fs.lookup(Ino::BY_HASH, hash.to_string().as_bytes()) {
        LookupStep::Done(answer) => answer,
        LookupStep::Ask(asked) => {
            assert_eq!(asked, hash);
            fs.ask_size(hash).await
        }
        LookupStep::Check(asked, size) => {
            assert_eq!(asked, hash);
            fs.check_small(hash, size).await
        }
    }
}

async fn entry(fs: &Filesystem, hash: ContentHash) -> Entry {
    match lookup(fs, hash).await {
        Ok(Lookup::Found(entry)) => entry,
        other => panic!("not found: {other:?}"),
    }
}

async fn open(fs: &Filesystem, hash: ContentHash) -> u64 {
    fs.open(entry(fs, hash).await.node, libc::O_RDONLY).unwrap().handle()
}

fn missing(ttl: Duration) -> LookupStep {
    LookupStep::Done(Ok(Lookup::Missing(ttl)))
}

#[test]
fn the_root_has_by_hash_and_nothing_else() {
    let (source, fs) = filesystem();
    let LookupStep::Done(Ok(Lookup::Found(entry))) = fs.lookup(Ino::ROOT, b"by-hash") else { panic!() };
    assert_eq!((entry.attr.ino, entry.attr.kind, entry.attr.nlink), (Ino::BY_HASH, Kind::Directory, 2));
    assert_eq!(fs.lookup(Ino::ROOT, b"by-hush"), missing(NO_NAME_TTL));
    let AttrStep::Done(attr) = fs.attr(Ino::ROOT).unwrap() else { panic!() };
    assert_eq!(attr.owner, OWNER);
    assert_eq!(source.take_calls(), []);
}

#[test]
fn a_name_that_is_no_hash_does_not_exist_and_nobody_is_asked() {
    let (source, fs) = filesystem();
    let hash = ContentHash::of(b"x").to_string();
    for name in ["x", "..", ".Trash", &hash[1..], &hash.to_uppercase(), &format!("{hash}0")] {
        assert_eq!(fs.lookup(Ino::BY_HASH, name.as_bytes()), missing(NO_NAME_TTL), "{name}");
    }
    assert_eq!(source.take_calls(), []);
}

#[tokio::test]
async fn a_held_blob_is_found_without_asking_and_for_long() {
    let (source, fs) = filesystem();
    let hash = source.add(vec![1; 1025]);
    let entry = entry(&fs, hash).await;
    assert_eq!((entry.attr.size, entry.attr.blocks, entry.attr.nlink, entry.ttl), (1025, 3, 1, COMPLETE_TTL));
    assert_eq!(fs.attr(entry.attr.ino).unwrap(), AttrStep::Done(entry.attr));
    assert_eq!(source.take_calls(), []);
    assert_eq!(fs.lookup(entry.attr.ino, b"x"), LookupStep::Done(Err(FsError::NotADirectory)));
}

#[tokio::test]
async fn an_incomplete_blob_is_asked_for_once_and_looked_at_each_time() {
    let (source, fs) = filesystem();
    let hash = source.add_with("abc", |blob| (blob.size_known, blob.state) = (false, BlobState::Absent));
    let first = entry(&fs, hash).await;
    assert_eq!((first.attr.size, first.ttl), (3, PARTIAL_TTL));
    assert_eq!(source.take_calls(), [Call::Size]);
    source.alter(hash, |blob| blob.state = BlobState::Complete);
    let second = entry(&fs, hash).await;
    assert_eq!((second.attr, second.ttl), (first.attr, COMPLETE_TTL));
    assert_eq!(source.take_calls(), [], "the inode knows the size");
}

#[tokio::test]
async fn the_empty_blob_exists_everywhere() {
    let (source, fs) = filesystem();
    let handle = open(&fs, ContentHash::EMPTY).await;
    assert_eq!(fs.read(handle, 0, 4096).await.unwrap(), "");
    let ino = entry(&fs, ContentHash::EMPTY).await.attr.ino;
    assert_eq!(fs.xattr(ino, b"user.byhash.state", 99).unwrap(), XattrReply::Data(b"complete".to_vec()));
    assert_eq!(source.take_calls(), []);
}

#[tokio::test]
async fn lost_is_told_from_unreachable() {
    let (source, fs) = filesystem();
    let lost = source.absent("lost", Answer::Fail(FetchError::NotFound));
    assert_eq!(lookup(&fs, lost).await, Ok(Lookup::Missing(NEGATIVE_TTL)));
    for (error, errno) in [
        (FetchError::Unreachable, libc::EHOSTUNREACH),
        (FetchError::TimedOut, libc::ETIMEDOUT),
        (FetchError::WrongBytes, libc::EIO),
        (FetchError::Cancelled, libc::ECANCELED),
    ] {
        let hash = source.absent(&error.to_string(), Answer::Fail(error));
        assert_eq!(lookup(&fs, hash).await.unwrap_err().errno(), errno);
    }
    assert_eq!(FsError::from(FetchError::NotFound).errno(), libc::ENOENT);
    assert_eq!(fs.inode_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lookup_answers_within_its_deadline() {
    let (source, fs) = filesystem();
    let hash = source.absent("silent", Answer::Never);
    let start = Instant::now();
    let entry = entry(&fs, hash).await;
    assert_eq!(start.elapsed(), LOOKUP_DEADLINE);
    assert_eq!((entry.ttl, entry.attr_ttl), (PARTIAL_TTL, Duration::ZERO), "nothing of it may be believed");
    assert_eq!(source.waiting(), 1, "the question goes on");
    // Those who waited find the node without waiting, and its size in what is left of the deadline.
    assert!(matches!(fs.lookup(Ino::BY_HASH, hash.to_string().as_bytes()), LookupStep::Done(Ok(Lookup::Found(_)))));
    assert_eq!(fs.open(entry.node, libc::O_RDONLY).unwrap_err(), FsError::Stale, "the kernel asks for the size first");
    assert_eq!(fs.attr(entry.node), Ok(AttrStep::Ask(hash)));
    assert_eq!(fs.ask_attr(entry.node, hash).await, Err(FetchError::TimedOut.into()));
    assert_eq!(start.elapsed(), SIZE_DEADLINE);
    assert_eq!(source.waiting(), 0, "the wish is withdrawn");
    assert_eq!(source.take_calls(), [Call::Size; 2]);
    // Who comes later begins anew.
    assert_eq!(fs.ask_attr(entry.node, hash).await, Err(FetchError::TimedOut.into()));
    assert_eq!(start.elapsed(), 2 * SIZE_DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn a_size_that_comes_after_its_lookup_was_answered_is_the_nodes() {
    let (source, fs) = filesystem();
    let late = Answer::Late(0, LOOKUP_DEADLINE + Duration::from_millis(300));
    let hash = source.add_with("abc", |blob| (blob.size_known, blob.size) = (false, late));
    let unsized_entry = entry(&fs, hash).await;
    assert_eq!((unsized_entry.attr.size, unsized_entry.attr_ttl), (0, Duration::ZERO));
    let attr = fs.ask_attr(unsized_entry.node, hash).await.unwrap();
    assert_eq!((attr.size, attr.ino), (3, unsized_entry.node));
    assert_eq!(fs.attr(attr.ino), Ok(AttrStep::Done(attr)));
    let again = entry(&fs, hash).await;
    assert_eq!((again.node, again.attr, again.attr_ttl), (attr.ino, attr, ATTR_TTL));
    let handle = open(&fs, hash).await;
    assert_eq!(fs.read(handle, 0, 9).await.unwrap(), "abc");
    fs.forget(attr.ino, 3);
    assert_eq!(fs.inode_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lookup_whose_caller_goes_leaves_a_name_to_those_behind_it() {
    let (source, fs) = filesystem();
    let silent = source.absent("silent", Answer::Never);
    assert_eq!(tokio::time::timeout(Duration::from_millis(1), fs.ask_size(silent)).await.ok(), None);
    let Lookup::Found(entry) = fs.end_lookup(silent) else { panic!() };
    assert_eq!((entry.attr_ttl, fs.attr(entry.node)), (Duration::ZERO, Ok(AttrStep::Ask(silent))));
    assert_eq!(source.waiting(), 0, "nobody is left who wants it");
    let small = source.add("small");
    let Lookup::Found(entry) = fs.end_lookup(small) else { panic!() };
    assert_eq!((entry.attr.size, entry.attr_ttl), (5, ATTR_TTL));
}

#[tokio::test(start_paused = true)]
async fn a_lookup_that_failed_fails_again_at_once_for_as_long_as_it_took() {
    let (source, fs) = filesystem();
    let took = Duration::from_millis(300);
    let slow = source.absent("slow", Answer::FailLate(took, FetchError::Unreachable));
    let fast = source.absent("fast", Answer::Fail(FetchError::Unreachable));
    assert_eq!(lookup(&fs, slow).await, Err(FetchError::Unreachable.into()));
    let start = Instant::now();
    assert_eq!(source.take_calls(), [Call::Size]);
    assert_eq!(lookup(&fs, slow).await, Err(FetchError::Unreachable.into()));
    assert_eq!((start.elapsed(), source.take_calls()), (Duration::ZERO, vec![]));
    for _ in 0..2 {
        assert_eq!(lookup(&fs, fast).await, Err(FetchError::Unreachable.into()));
        assert_eq!(source.take_calls(), [Call::Size], "what fails at once is tried each time");
    }
    source.add("slow");
    tokio::time::advance(took).await;
    entry(&fs, slow).await;
}

#[tokio::test]
async fn only_reading_is_allowed() {
    let (source, fs) = filesystem();
    let hash = source.add("abc");
    let ino = entry(&fs, hash).await.attr.ino;
    // As on other read-only file systems: where nothing is written, nothing is appended.
    fs.release(fs.open(ino, libc::O_RDONLY | libc::O_APPEND).unwrap().handle());
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_TRUNC, libc::O_WRONLY | libc::O_APPEND] {
        assert_eq!(fs.open(ino, flags).unwrap_err(), FsError::ReadOnly, "{flags:#o}");
    }
    assert_eq!(fs.open(Ino::BY_HASH, libc::O_RDONLY).unwrap_err(), FsError::IsADirectory);
    assert_eq!(fs.open(Ino(4444), libc::O_RDONLY).unwrap_err(), FsError::Stale);
    assert_eq!(fs.open_count(), 0);
}

#[tokio::test]
async fn a_read_gives_all_bytes_up_to_the_end() {
    let (source, fs) = filesystem();
    let content: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    let handle = open(&fs, source.add(content.clone())).await;
    assert_eq!(fs.read(handle, 10, 20).await.unwrap(), content[10..30]);
    assert_eq!(fs.read(handle, 99_990, 4096).await.unwrap(), content[99_990..]);
    for offset in [100_000, u64::MAX] {
        assert_eq!(fs.read(handle, offset, u32::MAX).await.unwrap(), "");
    }
    fs.release(handle);
    assert_eq!(fs.read(handle, 0, 1).await, Err(FsError::BadHandle));
    assert_eq!(fs.open_count(), 0);
}

#[tokio::test]
async fn a_stream_is_read_ahead_and_a_page_is_not() {
    let (source, fs) = filesystem();
    let hash = source.add(vec![0; 1 << 20]);
    let (streamed, sampled) = (open(&fs, hash).await, open(&fs, hash).await);
    fs.read(sampled, 500_000, 4096).await.unwrap();
    assert_eq!(source.take_calls(), [Call::Read(BlobRange::new(500_000, 504_096))]);
    fs.read(streamed, 0, 131_072).await.unwrap();
    assert_eq!(
        source.take_calls(),
        [Call::Prefetch(BlobRange::new(131_072, 393_216)), Call::Read(BlobRange::new(0, 131_072))]
    );
}

/// The places up to which was asked for ahead, each once at least, by readers that take turns.
async fn asked_ahead(source: &MemorySource, fs: &Filesystem, readers: &[(u64, u64)]) -> Vec<u64> {
    const BLOCK: u64 = 128 << 10;
    let mut ahead = Vec::new();
    for block in 0..32 {
        for (handle, start) in readers {
            fs.read(*handle, start + block * BLOCK, BLOCK as u32).await.unwrap();
        }
    }
    for call in source.take_calls() {
        if let Call::Prefetch(range) = call {
            ahead.retain(|end| *end != range.start);
            ahead.push(range.end);
        }
    }
    ahead.sort_unstable();
    ahead
}

#[tokio::test]
async fn readers_of_one_file_at_different_places_do_not_disturb_each_other() {
    let (source, fs) = filesystem();
    let hash = source.add(vec![0; 64 << 20]);
    let (one, other) = (open(&fs, hash).await, open(&fs, hash).await);
    let places = [0, 20 << 20, 40 << 20];
    // Each by itself, all through one open file, and two through files of their own.
    let mut alone = Vec::new();
    for place in places {
        alone.extend(asked_ahead(&source, &fs, &[(open(&fs, hash).await, place)]).await);
    }
    assert_eq!(alone.len(), 3);
    assert_eq!(asked_ahead(&source, &fs, &places.map(|place| (one, place))).await, alone);
    assert_eq!(asked_ahead(&source, &fs, &[(other, 0), (open(&fs, hash).await, 20 << 20)]).await, alone[..2]);
}

#[tokio::test(start_paused = true)]
async fn a_silent_source_costs_one_deadline_and_not_one_a_page() {
    let (source, fs) = filesystem();
    let hash = source.add_with(vec![0; 1 << 20], |blob| blob.read = Answer::Never);
    let handle = open(&fs, hash).await;
    let start = Instant::now();
    assert_eq!(fs.read(handle, 0, 131_072).await, Err(FetchError::TimedOut.into()));
    assert_eq!(start.elapsed(), READ_DEADLINE);
    assert_eq!(source.waiting(), 0, "the wish is withdrawn");
    assert_eq!(fs.read(handle, 0, 131_072).await, Err(FetchError::TimedOut.into()));
    assert_eq!(start.elapsed(), READ_DEADLINE, "the same fails again at once");
    for page in 0..32 {
        assert_eq!(fs.read(handle, page * 4096, 4096).await, Err(FetchError::TimedOut.into()));
        assert_eq!(source.waiting(), 0, "the wish is withdrawn");
    }
    assert!(start.elapsed() < 2 * READ_DEADLINE, "the pages of the failed read do not wait for it again");

    source.alter(hash, |blob| blob.read = Answer::Give);
    assert_eq!(fs.read(handle, 131_072, 4096).await.unwrap().len(), 4096, "other bytes may be at hand");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(fs.read(handle, 0, 4096).await.unwrap().len(), 4096, "forgotten after a moment");
}

#[tokio::test(start_paused = true)]
async fn what_is_at_hand_is_read_though_a_longer_read_around_it_failed() {
    let (source, fs) = filesystem();
    let never = Answer::Late(64 << 10, Duration::MAX);
    let handle = open(&fs, source.add_with(vec![7; 1 << 20], |blob| blob.read = never)).await;
    assert_eq!(fs.read(handle, 32 << 10, 128 << 10).await, Err(FetchError::TimedOut.into()));
    assert_eq!(fs.read(handle, 32 << 10, 4096).await.unwrap().len(), 4096);
    assert_eq!(fs.read(handle, 64 << 10, 4096).await, Err(FetchError::TimedOut.into()));
    assert_eq!(fs.read(handle, 60 << 10, 4096).await.unwrap().len(), 4096);
}

#[tokio::test(start_paused = true)]
async fn a_slow_read_goes_on_while_something_comes() {
    let (source, fs) = filesystem();
    let len = 256 << 10;
    let late = || Err(FetchError::TimedOut.into());
    for (moves, takes, outcome) in [(true, 25, Ok(len)), (true, 299, Ok(len)), (true, 301, late()), (false, 11, late())]
    {
        let slow = Answer::Late(0, Duration::from_secs(takes));
        let hash = source.add_with(vec![(takes % 251) as u8; len], |blob| (blob.read, blob.moves) = (slow, moves));
        let handle = open(&fs, hash).await;
        let read = fs.read(handle, 0, len as u32).await;
        assert_eq!(read.map(|bytes| bytes.len()), outcome, "{moves} {takes}");
    }
}

#[tokio::test]
async fn a_short_reply_of_the_source_never_gets_out() {
    let (source, fs) = filesystem();
    let hash = source.add(vec![0; 100]);
    let handle = open(&fs, hash).await;
    source.alter(hash, |blob| blob.content.truncate(50));
    assert_eq!(fs.read(handle, 0, 100).await, Err(FsError::WrongLength { wanted: 100, got: 50 }));
}

#[tokio::test]
async fn forgetting_frees_the_inode_and_open_files_read_on() {
    let (source, fs) = filesystem();
    let hash = source.add("abc");
    let handle = open(&fs, hash).await;
    let ino = entry(&fs, hash).await.attr.ino;
    fs.forget(ino, 2);
    assert_eq!(fs.inode_count(), 0);
    assert_eq!(fs.attr(ino), Err(FsError::Stale));
    assert_eq!(fs.read(handle, 0, 9).await.unwrap(), "abc");
    assert_eq!(entry(&fs, hash).await.attr.ino, ino, "the same number again");
}

/// Lists `ino` in portions of at most `room` names; names and cookies in order.
fn list(fs: &Filesystem, ino: Ino, from: u64, room: usize) -> Vec<(String, u64)> {
    let mut all: Vec<(String, u64)> = Vec::new();
    loop {
        let before = all.len();
        let cookie = all.last().map_or(from, |(_, cookie)| *cookie);
        fs.list(ino, cookie, &mut |entry| {
            let full = all.len() == before + room;
            if !full {
                all.push((entry.name.clone(), entry.cookie));
            }
            full
        })
        .unwrap();
        if all.len() == before {
            return all;
        }
    }
}

#[test]
fn a_listing_in_portions_shows_every_complete_blob_once_in_order() {
    let (source, fs) = filesystem();
    let mut hashes: Vec<_> = (0..1000u32).map(|n| source.add(n.to_string())).collect();
    hashes.sort_unstable();
    source.add_with("partial", |blob| blob.state = BlobState::Partial);
    let expected: Vec<_> =
        [".", ".."].into_iter().map(str::to_owned).chain(hashes.iter().map(ToString::to_string)).collect();
    for room in [1, 2, 3, 46, 64, 65, 5000] {
        let shown = list(&fs, Ino::BY_HASH, 0, room);
        assert!(shown.iter().map(|(name, _)| name).eq(&expected), "portions of {room}");
        assert!(shown.is_sorted_by_key(|(_, cookie)| *cookie));
        let (middle, cookie) = &shown[500];
        let rest = list(&fs, Ino::BY_HASH, *cookie, room);
        assert!(rest.iter().map(|(name, _)| name).eq(&expected[501..]), "taken up after {middle}");
    }
    let root: Vec<_> = list(&fs, Ino::ROOT, 0, 2).into_iter().map(|(name, _)| name).collect();
    assert_eq!(root, [".", "..", "by-hash"]);
    assert_eq!(fs.list(Ino(4), 0, &mut |_| false), Err(FsError::NotADirectory));
    assert_eq!(source.take_calls(), []);
}

#[test]
fn of_a_listing_no_more_is_in_memory_than_about_what_is_shown_at_a_time() {
    /// Names that are taken from the cache at a time at most.
    const AT_A_TIME: usize = 128;
    let (source, fs) = filesystem();
    let last = (0..5000u32).map(|n| source.add(n.to_string())).max().unwrap();
    for room in [1, 46, 372] {
        source.take_listed();
        let mut shown = 0;
        let mut push = |_: &DirEntry| {
            shown += 1;
            shown > room
        };
        fs.list(Ino::BY_HASH, 0, &mut push).unwrap();
        let taken = source.take_listed();
        assert!(taken.iter().all(|names| *names <= AT_A_TIME), "room for {room}: {taken:?}");
        assert!(taken.iter().sum::<usize>() <= room + AT_A_TIME, "room for {room}: {taken:?}");
    }
    // Nor is what was shown before read again.
    let end = list(&fs, Ino::BY_HASH, 0, 5000).last().unwrap().clone();
    source.take_listed();
    assert_eq!((end.0, list(&fs, Ino::BY_HASH, end.1, 99)), (last.to_string(), vec![]));
    assert_eq!(source.take_listed(), [0]);
}

#[test]
fn a_blob_that_goes_away_during_a_listing_takes_no_other_with_it() {
    let (source, fs) = filesystem();
    let mut hashes: Vec<_> = (0..10u32).map(|n| source.add(n.to_string())).collect();
    hashes.sort_unstable();
    let cookie = list(&fs, Ino::BY_HASH, 0, 99)[6].1;
    source.alter(hashes[4], |blob| blob.state = BlobState::Absent);
    let rest = list(&fs, Ino::BY_HASH, cookie, 99);
    assert!(rest.into_iter().map(|(name, _)| name).eq(hashes[5..].iter().map(ToString::to_string)));
}

#[tokio::test]
async fn extended_attributes_follow_the_size_protocol() {
    let (source, fs) = filesystem();
    let holders = [PeerId::from_bytes([1; 32]), PeerId::from_bytes([2; 32])];
    let hash = source.add_with("abc", |blob| (blob.state, blob.holders) = (BlobState::Partial, holders.to_vec()));
    let ino = entry(&fs, hash).await.attr.ino;
    let state = b"user.byhash.state";
    assert_eq!(fs.xattr(ino, state, 0), Ok(XattrReply::Size(7)));
    assert_eq!(fs.xattr(ino, state, 6), Err(FsError::BufferTooSmall));
    assert_eq!(fs.xattr(ino, state, 7), Ok(XattrReply::Data(b"partial".to_vec())));
    let listed = format!("{}\n{}", holders[0], holders[1]).into_bytes();
    assert_eq!(fs.xattr(ino, b"user.byhash.holders", 999), Ok(XattrReply::Data(listed)));
    assert_eq!(fs.xattr(ino, b"security.capability", 0), Err(FsError::NoAttribute));
    assert_eq!(fs.xattr(Ino::ROOT, state, 0), Err(FsError::NoAttribute));
    let XattrReply::Data(names) = fs.xattr_names(ino, 999).unwrap() else { panic!() };
    assert_eq!(names, b"user.byhash.state\0user.byhash.holders\0");
    assert_eq!(fs.xattr_names(Ino::ROOT, 0), Ok(XattrReply::Size(0)));

    let (control, fs) = (CONTROL_ATTRIBUTE.as_bytes(), fs.controlled_at("/s/c".into()));
    assert_eq!(fs.xattr(Ino::ROOT, control, 9), Ok(XattrReply::Data(b"/s/c".to_vec())));
    assert_eq!(fs.xattr(Ino::BY_HASH, control, 9), Err(FsError::NoAttribute));
    assert_eq!(fs.xattr_names(Ino::ROOT, 99), Ok(XattrReply::Data(b"user.byhash.control\0".to_vec())));
}

#[test]
fn df_shows_the_cache() {
    let (source, fs) = filesystem();
    source.add(vec![0; 8192]);
    let figures = fs.statfs();
    assert_eq!((figures.blocks, figures.free, figures.available), (1 << 18, (1 << 18) - 2, 1 << 16));
    assert_eq!((figures.name_max, figures.block_size), (64, 4096));
}

#[tokio::test]
async fn an_open_has_a_blob_of_up_to_256_mib_checked_and_no_larger_one() {
    const MAX: usize = 256 << 20;
    let (source, fs) = filesystem();
    fs.set_passthrough(true);
    // Nobody reads them, so they take no memory.
    let zeroes = Bytes::from(vec![0; MAX + 1]);
    for (len, calls) in [(MAX, &[Call::CheckSoon][..]), (MAX + 1, &[])] {
        let hash = source.add_with(len.to_string(), |blob| blob.content = zeroes.slice(..len));
        open(&fs, hash).await;
        assert_eq!(source.take_calls(), calls, "{len}");
    }
}
