//! Removing what a crash has left behind.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;

use super::StoreError;
use super::error::io_error;
use super::files::free_holes;
use super::layout::{Layout, OUTBOARD_SUFFIX, REPAIR_PREFIX, batch_of, remove_if_there};
use super::shared::Shared;
use super::space::{blocks_of, bytes_on_disk};
use crate::ids::ContentHash;

/// What files on their way in take, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StagedRoom {
    /// What is reserved for them, or what they take on the disk where that is more.
    pub taken: u64,
    /// What of it is not on the disk yet.
    pub unwritten: u64,
}

/// Removes the files in `tmp` whose writer is gone: the lock of their batch is free, or not there.
/// Returns what the others take.
pub(super) fn sweep_tmp(layout: &Layout) -> Result<StagedRoom, StoreError> {
    let tmp = layout.tmp();
    let mut abandoned: HashMap<String, bool> = HashMap::new();
    for name in names(&tmp)? {
        let batch = batch_of(&name);
        let is_abandoned = *abandoned.entry(batch.to_owned()).or_insert_with(|| match File::open(tmp.join(batch)) {
            Ok(file) => file.try_lock().is_ok(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        });
        if is_abandoned {
            remove_if_there(&tmp.join(&name))?;
        }
    }
    staged_room(layout, None)
}

/// What the files in `tmp` take, or only those of `batch`; not the copies that mend damage, for which room is
/// reserved.
pub(super) fn staged_room(layout: &Layout, batch: Option<&str>) -> Result<StagedRoom, StoreError> {
    let tmp = layout.tmp();
    // By batch: what its files take on the disk, and what is reserved for them.
    let mut batches: HashMap<String, (u64, u64)> = HashMap::new();
    for name in names(&tmp)?.into_iter().filter(|name| !name.starts_with(REPAIR_PREFIX)) {
        if batch.is_some_and(|batch| batch != batch_of(&name)) {
            continue;
        }
        let metadata = fs::symlink_metadata(tmp.join(&name));
        let Ok(metadata) = metadata else { continue };
        let (on_disk, reserved) = batches.entry(batch_of(&name).to_owned()).or_default();
        *on_disk += blocks_of(&metadata);
        if name == batch_of(&name) {
            *reserved = metadata.len();
        }
    }
    Ok(batches.into_values().fold(StagedRoom::default(), |sum, (on_disk, reserved)| StagedRoom {
        taken: sum.taken.saturating_add(on_disk.max(reserved)),
        unwritten: sum.unwritten.saturating_add(reserved.saturating_sub(on_disk)),
    }))
}

/// Removes the files of blobs that the index does not know and nobody has open, of the hashes
/// that begin with `shard`, and what lies in the holes of those that it knows in part. Only while it `goes_on`: an
/// index that is lost meanwhile knows nothing. What is `spared` stays.
pub(super) fn sweep_shard(
    shared: &Shared,
    shard: u8,
    goes_on: &dyn Fn() -> bool,
    spared: &HashSet<ContentHash>,
) -> Result<(), StoreError> {
    let dir = shared.layout.shard(shard);
    let _structure = shared.structure.write();
    for name in names(&dir)? {
        let Some(hash) = ContentHash::from_name(name.strip_suffix(OUTBOARD_SUFFIX).unwrap_or(&name).as_bytes()) else {
            continue;
        };
        if shared.opened(&hash).is_some() {
            continue;
        }
        match shared.index.get(&hash)? {
            // Asked after the index: whoever makes a new one says so before it is used.
            None if !goes_on() => return Ok(()),
            None if spared.contains(&hash) => {}
            None => remove_if_there(&dir.join(&name))?,
            Some(record) if !record.is_complete() && !name.ends_with(OUTBOARD_SUFFIX) => {
                free_holes(&dir.join(&name), record.size, &record.held())?;
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The blobs of the hashes that begin with `shard` that have a content file, but that the index does not
/// know and nobody has open.
pub(super) fn unknown_blobs(shared: &Shared, shard: u8) -> Result<Vec<ContentHash>, StoreError> {
    let names = names(&shared.layout.shard(shard))?;
    let hashes = names.iter().filter_map(|name| ContentHash::from_name(name.as_bytes()));
    let mut unknown = Vec::new();
    for hash in hashes {
        if shared.opened(&hash).is_none() && shared.index.get(&hash)?.is_none() {
            unknown.push(hash);
        }
    }
    Ok(unknown)
}

/// Charges for the files of all blobs of the hashes that begin with `shard` that the index does not know and
/// nobody has open.
pub(super) fn count_unknown(shared: &Shared, shard: u8) -> Result<(), StoreError> {
    let _structure = shared.structure.write();
    let files = unknown_blobs(shared, shard)?
        .into_iter()
        .map(|hash| bytes_on_disk(&shared.layout.content(&hash)) + bytes_on_disk(&shared.layout.outboard(&hash)));
    shared.space.set_unknown(shard, files.sum());
    Ok(())
}

fn names(dir: &std::path::Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(dir) {
        // Somebody has removed it; the next start makes it again.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error("list", dir))?,
    };
    // A name that is not text is none of ours.
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}
