//! The cache on a real file system (tmpfs) that is full, read-only, or loses files.

#[path = "support/skip.rs"]
mod skip;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use byhash::ids::{BlobRange, ContentHash};
use byhash::metrics::Metrics;
use byhash::store::import::{Source, stage};
use byhash::store::{Config, Store, StoreError};
use byhash::verify::{Proof, build_outboard, group_count, proof_runs};
use skip::skip;

const MIB: u64 = 1 << 20;

/// Held for the length of a test: between its start and its `exec`, a process that another test starts has all
/// files of this process open, and keeps what is removed meanwhile on the disk, and the lock of a closed cache.
static ONE_TEST_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A mounted tmpfs; unmounted when dropped. One at a time.
struct SmallDisk {
    dir: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl SmallDisk {
    /// One of `size` bytes. None, with a word about it, where nothing can be mounted.
    fn mount(size: u64) -> Option<Self> {
        let alone = ONE_TEST_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "byhash-test"]).arg(dir.path()).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { dir, _alone: alone });
        }
        skip("what needs a small disk", "a tmpfs cannot be mounted without root");
        None
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn remount(&self, option: &str) {
        let options = format!("remount,{option}");
        let output = Command::new("mount").args(["-o", &options]).arg(self.dir.path()).output().unwrap();
        assert!(output.status.success(), "{options}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl SmallDisk {
    /// The same, btrfs in a file of `size` bytes; None where there is no mkfs.btrfs either.
    fn mount_btrfs(size: u64) -> Option<Self> {
        let alone = ONE_TEST_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(size).unwrap();
        let is_done = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let made = is_done(Command::new("mkfs.btrfs").args(["-q", "--mixed"]).arg(image.path()));
        if made && is_done(Command::new("mount").args(["-o", "loop"]).arg(image.path()).arg(dir.path())) {
            return Some(Self { dir, _alone: alone });
        }
        skip("what needs a small btrfs", "it cannot be mounted without root and btrfs-progs");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.dir.path()).status();
    }
}

struct Blob {
    hash: ContentHash,
    content: Vec<u8>,
    proof: Proof,
}

fn blob(seed: u64, len: u64) -> Blob {
    let mut content = vec![0; len as usize];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut content);
    let (hash, outboard) = build_outboard(&content);
    let all = std::iter::once(0..group_count(len)).collect::<Vec<_>>();
    assert_eq!(proof_runs(len, &all).iter().map(|run| run.len).sum::<usize>(), outboard.len());
    let proof = Proof::verify(&hash, len, &all, outboard).unwrap();
    Blob { hash, content, proof }
}

impl Blob {
    fn write(&self, store: &Store) -> Result<(), StoreError> {
        store.create_partial(self.hash, self.content.len() as u64)?.write(0, &self.content, &self.proof)
    }

    /// Whether it is held; if so, rightly.
    fn is_held(&self, store: &Store) -> bool {
        let Some(blob) = store.blob(&self.hash).unwrap().filter(|blob| blob.is_complete()) else { return false };
        assert_eq!(blob.read(BlobRange::new(0, u64::MAX)).unwrap(), self.content);
        true
    }
}

fn try_open(dir: &Path, capacity: u64, keep_free: u64) -> Result<Store, StoreError> {
    Store::open(Config { dir: dir.to_owned(), capacity, keep_free }, Arc::new(Metrics::default()))
}

fn open(dir: &Path, capacity: u64, keep_free: u64) -> Store {
    try_open(dir, capacity, keep_free).unwrap()
}

#[test]
fn a_disk_that_is_full_refuses_some_writes_and_harms_nothing() {
    let Some(disk) = SmallDisk::mount(6 * MIB) else { return };
    // The cap is far above what there is, and nothing is kept free.
    let store = open(&disk.cache(), 64 * MIB, 0);
    // Large ones, of which the last does not fit, and small ones for the holes.
    let blobs: Vec<_> = (0..40).map(|seed| blob(seed, if seed < 10 { MIB } else { 60_000 })).collect();
    let mut refused = 0;
    for blob in &blobs {
        match blob.write(&store) {
            Ok(()) => {}
            Err(StoreError::Io { source, .. }) => {
                assert_eq!(source.raw_os_error(), Some(libc::ENOSPC), "{source}");
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
        // Neither may the index, and it says so; what is in memory is read.
        let _ = store.flush();
    }
    assert!(refused > 10, "{refused}");
    let held = blobs.iter().filter(|blob| blob.is_held(&store)).count();
    assert!(held >= 3, "{held}");
    // Whoever adds is told.
    let source = blob(99, 2 * MIB);
    let added = stage(&disk.cache(), Source::Stream(&mut source.content.as_slice()), &|_| {});
    let refused = added.map(|_| ()).unwrap_err().to_string();
    assert!(refused.contains("No space left on device"), "{refused}");
    // When there is room again, all goes on, and after a restart too.
    for blob in &blobs[..2] {
        store.remove(&blob.hash).unwrap();
    }
    // A flush that is under way has files open that are removed.
    let _ = store.flush();
    source.write(&store).unwrap_or_else(|error| panic!("{error}; 2 MiB have been removed"));
    let small = blob(98, 60_000);
    store.remove(&source.hash).unwrap();
    small.write(&store).unwrap();
    store.flush().unwrap();
    store.close().unwrap();
    drop(store);
    let store = open(&disk.cache(), 64 * MIB, 0);
    assert!(small.is_held(&store));
    // Of the others some are held; `is_held` has looked at the bytes of those.
    assert!(blobs.iter().filter(|blob| blob.is_held(&store)).count() > 0);
}

#[test]
fn what_a_write_has_left_that_found_no_room_for_all_of_it_is_given_back() {
    let Some(disk) = SmallDisk::mount(6 * MIB) else { return };
    let store = open(&disk.cache(), 64 * MIB, 0);
    blob(1, 3 * MIB).write(&store).unwrap();
    let partial = blob(2, 4 * MIB);
    let handle = store.create_partial(partial.hash, 4 * MIB).unwrap();
    handle.write(0, &partial.content[..16384], &partial.proof).unwrap();
    let refused = handle.write(1, &partial.content[16384..], &partial.proof).unwrap_err();
    assert!(matches!(refused, StoreError::Io { .. }), "{refused}");
    // The lock's block is nobody's.
    let (found, used) = (taken(&disk.cache()), store.usage().used);
    assert!(found <= used + 4096, "{found} bytes on the disk, {used} charged for");
    assert_eq!(handle.read(BlobRange::new(0, 16384)).unwrap(), &partial.content[..16384]);
    let other = blob(3, MIB);
    other.write(&store).unwrap();
    assert!(other.is_held(&store));
}

#[test]
fn room_that_is_to_stay_free_stays_free() {
    let Some(disk) = SmallDisk::mount(8 * MIB) else { return };
    let store = open(&disk.cache(), 64 * MIB, 2 * MIB);
    let blobs: Vec<_> = (0..30).map(|seed| blob(seed, MIB / 2)).collect();
    for blob in &blobs {
        blob.write(&store).unwrap();
        let free = fs_free(&disk.cache());
        // The index is written to without asking.
        assert!(free + MIB / 2 >= 2 * MIB, "{free} bytes are free");
    }
    assert!(blobs[29].is_held(&store) && !blobs[0].is_held(&store));
}

#[test]
fn what_a_file_system_frees_late_is_not_evicted_twice() {
    let Some(disk) = SmallDisk::mount_btrfs(200 * MIB) else { return };
    let store = open(&disk.cache(), 1 << 30, 60 * MIB);
    let blobs: Vec<_> = (0..110).map(|seed| blob(seed, MIB)).collect();
    let write = |blob: &Blob| match blob.write(&store) {
        Ok(()) | Err(StoreError::Full { .. }) => {}
        Err(error) => panic!("{error}"),
    };
    blobs[..100].iter().for_each(write);
    store.flush().unwrap();
    // Somebody else takes so much of the disk that 30 MiB are missing.
    let more = fs_free(&disk.cache()) - 30 * MIB;
    let file = std::fs::File::create(disk.dir.path().join("else")).unwrap();
    std::io::copy(&mut std::io::repeat(7).take(more), &mut &file).unwrap();
    file.sync_all().unwrap();
    blobs[100..].iter().for_each(write);
    let left = store.usage().blobs;
    // What is missing, what is evicted beyond that, and what was written since.
    assert!((40..=70).contains(&left), "{left} blobs are left");
}

/// Bytes that all files below `dir` take on the disk.
fn taken(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { taken(&path) } else { path.metadata().unwrap().blocks() * 512 }).sum()
}

/// Free bytes on the file system of `path`.
fn fs_free(path: &Path) -> u64 {
    let output = Command::new("df").args(["--block-size=1", "--output=avail"]).arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().nth(1).unwrap().trim().parse().unwrap()
}

#[test]
fn a_read_only_file_system_is_refused_by_name_and_taken_up_when_it_is_writable() {
    let Some(disk) = SmallDisk::mount(16 * MIB) else { return };
    let store = open(&disk.cache(), 8 * MIB, 0);
    let (before, after) = (blob(1, MIB), blob(2, MIB));
    before.write(&store).unwrap();
    store.close().unwrap();
    drop(store);
    // All files of the store are closed, else it could not be remounted. (That calls begin to fail with EROFS
    // while it is open is tried in `crash_points`.)
    disk.remount("ro");
    let refused = try_open(&disk.cache(), 8 * MIB, 0).unwrap_err().to_string();
    assert!(refused.contains("Read-only file system") && refused.contains("cache"), "{refused}");
    disk.remount("rw");
    let store = open(&disk.cache(), 8 * MIB, 0);
    assert!(before.is_held(&store));
    after.write(&store).unwrap();
    assert!(after.is_held(&store));
}

#[test]
fn files_that_vanish_or_are_cut_short_while_the_store_is_open_are_fetched_again() {
    let Some(disk) = SmallDisk::mount(16 * MIB) else { return };
    let store = open(&disk.cache(), 8 * MIB, 0);
    let blobs: Vec<_> = (0..3).map(|seed| blob(seed, 100_000)).collect();
    blobs.iter().for_each(|blob| blob.write(&store).unwrap());
    store.flush().unwrap();
    let path = |blob: &Blob| {
        let name = blob.hash.to_string();
        disk.cache().join("blobs").join(&name[..2]).join(name)
    };
    std::fs::remove_file(path(&blobs[0])).unwrap();
    let cut = std::fs::OpenOptions::new().write(true).open(path(&blobs[1])).unwrap();
    cut.set_len(50_000).unwrap();
    std::fs::remove_dir_all(disk.cache().join("tmp")).unwrap();
    for blob in &blobs {
        if let Some(held) = store.blob(&blob.hash).unwrap() {
            match held.read(BlobRange::new(0, u64::MAX)) {
                Ok(bytes) => assert_eq!(bytes, blob.content),
                Err(error) => {
                    assert!(matches!(error, StoreError::Missing { .. } | StoreError::Corrupt { .. }), "{error}")
                }
            }
        }
        blob.write(&store).unwrap();
        assert!(blob.is_held(&store));
    }
}
