//! Removing what a crash has left behind.

use std::fs::{self, File};
use std::io;

use super::StoreError;
use super::error::io_error;
use super::layout::{Layout, OUTBOARD_SUFFIX, REPAIR_PREFIX, remove_if_there};
use super::shared::Shared;
use super::space::bytes_on_disk;
use crate::ids::ContentHash;

/// Removes the files in `tmp` whose writer is gone: a content file's lock is free, or there is an
/// outboard without a content file. Returns what the others take on the disk.
pub(super) fn sweep_tmp(layout: &Layout) -> Result<u64, StoreError> {
    let tmp = layout.tmp();
    for name in names(&tmp)? {
        let path = tmp.join(&name);
        let content = tmp.join(name.strip_suffix(OUTBOARD_SUFFIX).unwrap_or(&name));
        let abandoned = match File::open(&content) {
            Ok(file) => file.try_lock().is_ok(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if abandoned {
            remove_if_there(&path)?;
        }
    }
    staged_bytes(layout)
}

/// What the files in `tmp` take on the disk, in bytes; not the copies that mend damage, for which room
/// is reserved.
pub(super) fn staged_bytes(layout: &Layout) -> Result<u64, StoreError> {
    let tmp = layout.tmp();
    let staged = names(&tmp)?.into_iter().filter(|name| !name.starts_with(REPAIR_PREFIX));
    Ok(staged.map(|name| bytes_on_disk(&tmp.join(name))).sum())
}

/// Removes the files of blobs that the index does not know and nobody has open, of the hashes
/// that begin with `shard`.
pub(super) fn sweep_shard(shared: &Shared, shard: u8) -> Result<(), StoreError> {
    let dir = shared.layout.shard(shard);
    let _structure = shared.structure.write();
    for name in names(&dir)? {
        let Some(hash) = ContentHash::from_name(name.strip_suffix(OUTBOARD_SUFFIX).unwrap_or(&name).as_bytes()) else {
            continue;
        };
        if shared.opened(&hash).is_none() && shared.index.get(&hash)?.is_none() {
            remove_if_there(&dir.join(&name))?;
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
