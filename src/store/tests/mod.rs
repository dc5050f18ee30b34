//! The store as its users see it.

mod adopting;
mod basics;
mod crashes;
mod damage;
mod eviction;
mod in_place;
mod keeping;
mod losing;
mod model;
mod quota;
mod rebuilding;
mod removing;
mod scrubbing;
mod whole;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ids::{BlobRange, ContentHash};
use crate::metrics::Metrics;
use crate::store::import::{Source, stage};
use crate::store::{Blob, Config, Store, StoreError};
use crate::verify::{GROUP_LEN, Proof, build_outboard, bytes_of, group_count, proof_runs};

const GROUP: usize = GROUP_LEN as usize;

/// A blob to write: its content and all of its outboard.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    hash: ContentHash,
    pub(super) content: Vec<u8>,
    outboard: Vec<u8>,
}

impl Sample {
    /// `len` bytes that differ with `seed`.
    pub(super) fn new(len: usize, seed: u8) -> Self {
        let content: Vec<u8> = (0..len).map(|i| (i % 251) as u8 ^ (i / 65536) as u8 ^ seed).collect();
        let (hash, outboard) = build_outboard(&content);
        Self { hash, content, outboard }
    }

    fn size(&self) -> u64 {
        self.content.len() as u64
    }

    /// What all of it takes on the disk, in bytes: whole blocks.
    pub(super) fn charge(&self) -> u64 {
        self.size().next_multiple_of(4096) + (self.outboard.len() as u64).next_multiple_of(4096)
    }

    fn all(&self) -> Range<u64> {
        0..group_count(self.size())
    }

    fn proof(&self, groups: Range<u64>) -> Proof {
        let ranges = [groups];
        let runs = proof_runs(self.size(), &ranges);
        let bytes: Vec<u8> =
            runs.iter().flat_map(|run| &self.outboard[run.offset as usize..][..run.len]).copied().collect();
        Proof::verify(&self.hash, self.size(), &ranges, bytes).unwrap()
    }

    fn bytes(&self, groups: &Range<u64>) -> &[u8] {
        let range = bytes_of(self.size(), groups);
        &self.content[range.start as usize..range.end as usize]
    }

    fn write(&self, store: &Store, groups: Range<u64>) -> Result<Arc<Blob>, StoreError> {
        let blob = store.create_partial(self.hash, self.size())?;
        blob.write(groups.start, self.bytes(&groups), &self.proof(groups.clone()))?;
        Ok(blob)
    }

    pub(super) fn write_all(&self, store: &Store) -> Arc<Blob> {
        self.write(store, self.all()).unwrap()
    }

    pub(super) fn read_all(&self, store: &Store) -> Result<bool, StoreError> {
        let blob = store.blob(&self.hash)?.ok_or(StoreError::NotHeld { hash: self.hash, groups: self.all() })?;
        Ok(blob.read(BlobRange::new(0, u64::MAX))? == self.content)
    }
}

/// Adds `sample` to the store in `dir`.
fn add(store: &Store, dir: &Path, sample: &Sample) {
    let staged = stage(dir, Source::Stream(&mut sample.content.as_slice()), &|_| {}).unwrap();
    store.adopt(staged.blob()).unwrap();
}

/// What is kept for the index of a small store, in bytes.
const INDEX_ROOM: u64 = 512 << 10;

/// A store of 64 MiB in `dir`.
pub(super) fn open(dir: &Path) -> Store {
    try_open(dir, 64 << 20).unwrap()
}

/// A store in `dir` with room for `room` bytes of blobs.
fn open_with(dir: &Path, room: u64) -> Store {
    try_open(dir, room + INDEX_ROOM).unwrap()
}

/// What all files below `dir` take on the disk, in bytes, as `du` counts it, without the directories.
fn on_disk(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(
            |path| {
                if path.is_dir() {
                    on_disk(&path)
                } else {
                    path.symlink_metadata().map_or(0, |file| file.blocks() * 512)
                }
            },
        )
        .sum()
}

/// What the blobs take on the disk, in bytes.
pub(super) fn of_blobs(store: &Store) -> u64 {
    store.shared.space.of_blobs()
}

/// Opens the store in `dir`. A process that another test has just begun has our locks, too, until it is itself.
fn open_soon(dir: &Path, capacity: u64) -> Result<Store, StoreError> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let config = Config { dir: dir.to_owned(), capacity, keep_free: 0 };
        match Store::open(config, Arc::new(Metrics::default())) {
            Err(StoreError::Locked { pid, .. })
                if pid.is_none_or(|pid| pid == std::process::id()) && Instant::now() < until =>
            {
                std::thread::yield_now();
            }
            opened => return opened,
        }
    }
}

fn try_open(dir: &Path, capacity: u64) -> Result<Store, StoreError> {
    let store = open_soon(dir, capacity)?;
    store.shared.recovery.wait_until_done();
    Ok(store)
}

fn content_path(dir: &Path, hash: &ContentHash) -> PathBuf {
    let name = hash.to_string();
    dir.join("blobs").join(&name[..2]).join(name)
}

fn outboard_path(dir: &Path, hash: &ContentHash) -> PathBuf {
    content_path(dir, hash).with_extension("obao4")
}

/// Turns one byte of a file around, whatever its mode.
fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    let mode = std::fs::metadata(path).unwrap().permissions();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
    // As a kernel sets it whose times advance with more than its tick.
    file.set_modified(std::time::SystemTime::now()).unwrap();
    std::fs::set_permissions(path, mode).unwrap();
}

/// The bytes of whole groups.
fn read_groups(blob: &Arc<Blob>, groups: Range<u64>) -> Result<bytes::Bytes, StoreError> {
    blob.read(bytes_of(blob.size(), &groups))
}
