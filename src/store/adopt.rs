//! Taking over staged files as blobs of this node.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rangemap::RangeSet;

use super::blob::Blob;
use super::error::io_error;
use super::files::complete_mode;
use super::import::StagedBlob;
use super::layout::{OUTBOARD_SUFFIX, SYNC_FILE_SYSTEM_FROM, is_plain, remove_if_there, sync_file_system};
use super::record::{Origin, Record};
use super::shared::Shared;
use super::{StoreError, sweep};
use crate::ids::ContentHash;
use crate::verify::{MAX_BLOB_LEN, group_count, outboard_len};

/// See [`super::Store::adopt_all`].
pub(super) fn adopt_all(shared: &Arc<Shared>, staged: &[StagedBlob]) -> Vec<Result<(), StoreError>> {
    let mut results: Vec<Option<Result<(), StoreError>>> = Vec::new();
    let mut moves: Vec<Move> = Vec::new();
    // The same content twice is one blob.
    let mut first: HashMap<ContentHash, usize> = HashMap::new();
    for (number, staged) in staged.iter().enumerate() {
        let twin = first.get(&staged.hash).filter(|twin| !matches!(results[**twin], Some(Err(_))));
        results.push(match twin {
            Some(_) => Some(StagedFiles::check(shared, staged).and_then(|files| files.remove())),
            None => match Move::prepare(shared, staged) {
                Ok(prepared) => {
                    first.insert(staged.hash, number);
                    let is_done = prepared.is_none();
                    moves.extend(prepared.map(|prepared| Move { number, ..prepared }));
                    is_done.then_some(Ok(()))
                }
                Err(error) => Some(Err(error)),
            },
        });
    }
    // What was held already is now known to be added here.
    if let Err(error) = shared.flush() {
        let error = error.to_string();
        results.iter_mut().flatten().filter(|result| result.is_ok()).for_each(|result| {
            *result = Err(StoreError::Said(error.clone()));
        });
    }
    let charge: u64 = moves.iter().map(|prepared| prepared.record.charge()).sum();
    let moving = shared.space.moving(charge);
    let reserved = moves.iter().map(|prepared| shared.reserve_on_disk(prepared.record.charge())).collect::<Vec<_>>();
    for (prepared, reserved) in moves.iter().zip(reserved) {
        results[prepared.number] = reserved.err().map(Err);
    }
    moves.retain(|prepared| results[prepared.number].is_none());
    let staging = shared.staging.lock();
    let mut used: HashMap<&str, u64> = HashMap::new();
    for (prepared, moved) in moves.iter().zip(move_all(shared, &moves)) {
        if moved.is_err() {
            shared.space.release(prepared.record.charge());
        } else {
            *used.entry(prepared.files.staged.batch()).or_default() += prepared.record.charge();
        }
        results[prepared.number] = Some(moved);
    }
    used.into_iter().for_each(|(batch, bytes)| give_back_room(shared, batch, bytes));
    let left = sweep::staged_room(&shared.layout, None);
    drop(moving);
    match left {
        Ok(left) => shared.space.set_staged(left),
        Err(error) => tracing::warn!(%error, "what is being added could not be counted; that is tried again"),
    }
    drop(staging);
    results.into_iter().flatten().collect()
}

/// The `bytes` that blobs take now, their batch need not take any more.
fn give_back_room(shared: &Shared, batch: &str, bytes: u64) {
    let shortened = shared.layout.staged_batch(batch).and_then(|lock| {
        let len = lock.metadata().map_err(io_error("stat", &shared.layout.tmp().join(batch)))?.len();
        shared.layout.note_room(&lock, batch, len.saturating_sub(bytes))
    });
    if let Err(error) = shortened {
        tracing::debug!(%error, "room that was kept for an added file is kept until all of its batch are added");
    }
}

/// A staged file that is to be put in place.
struct Move<'a> {
    number: usize,
    files: StagedFiles<'a>,
    record: Record,
    /// The handle to what is held so far, kept so that it knows of what takes its place.
    _held: Option<Arc<Blob>>,
}

impl<'a> Move<'a> {
    /// Checks what is staged, and what is held; `None` if that is what was wanted.
    fn prepare(shared: &Arc<Shared>, staged: &'a StagedBlob) -> Result<Option<Self>, StoreError> {
        let files = StagedFiles::check(shared, staged)?;
        let held = shared.open_blob(&staged.hash)?;
        if let Some(blob) = &held {
            let origin = blob.info().origin;
            // A copy of ours is better than a file of the user's; one that was fetched makes room for that.
            let is_better = origin == Origin::Local || origin == Origin::Fetched && !staged.reference;
            // What is damaged is replaced: whoever adds it again may want just that.
            if is_better && blob.is_complete() && blob.check(0..group_count(staged.size)).is_ok() {
                let (before, after) = blob.files()?.keep()?;
                blob.state().renew_stamp(before, after);
                blob.make_local();
                return files.remove().map(|()| None);
            }
            if origin != Origin::Reference {
                shared.forget(blob)?;
            }
        }
        let origin = if staged.reference { Origin::Reference } else { Origin::Local };
        let groups = RangeSet::from_iter(std::iter::once(0..group_count(staged.size)));
        let record = Record::new(staged.size, &groups, origin, true, shared.time_of_use());
        Ok(Some(Self { number: 0, files, record, _held: held }))
    }
}

/// Puts the files in place, makes that durable, and then tells the index: each step for all.
fn move_all(shared: &Arc<Shared>, moves: &[Move]) -> Vec<Result<(), StoreError>> {
    let _structure = shared.structure.write();
    let rename = |prepared: &Move| shared.unless_closed().and_then(|()| prepared.files.rename(shared));
    let mut results: Vec<_> = moves.iter().map(rename).collect();
    let shards: BTreeSet<u8> = moves.iter().map(|prepared| prepared.files.staged.hash.as_bytes()[0]).collect();
    // One sync for very many directories; what was staged is on the disk already.
    let synced = shards.len() >= SYNC_FILE_SYSTEM_FROM && sync_file_system(shared.layout.dir()).is_ok();
    let to_sync = shards.into_iter().filter(|_| !synced);
    let unsynced: HashMap<u8, StoreError> =
        to_sync.filter_map(|shard| Some((shard, shared.layout.sync_shard_of(shard).err()?))).collect();
    for (prepared, result) in moves.iter().zip(&mut results) {
        let shard = prepared.files.staged.hash.as_bytes()[0];
        if let Some(error) = unsynced.get(&shard).filter(|_| result.is_ok()) {
            *result = Err(StoreError::Said(error.to_string()));
        }
    }
    let in_place: Vec<usize> = (0..moves.len()).filter(|number| results[*number].is_ok()).collect();
    for part in in_place.chunks(shared.space.entries_per_commit()) {
        let entries = || part.iter().map(|number| &moves[*number]);
        let told = shared.write_index(|batch| {
            let put = |prepared: &Move| batch.put(&prepared.files.staged.hash, &prepared.record);
            entries().map(put).collect::<Result<Vec<_>, _>>()
        });
        let replaced = match told {
            Ok(replaced) => replaced,
            Err(error) => {
                let error = error.to_string();
                part.iter().for_each(|number| results[*number] = Err(StoreError::Said(error.clone())));
                continue;
            }
        };
        for (prepared, replaced) in entries().zip(replaced) {
            shared.space.add_blob();
            // Somebody may have begun to fetch it meanwhile, or even have fetched all of it and closed it.
            let charged = match shared.opened(&prepared.files.staged.hash) {
                Some(blob) => blob.replace_by_added(&prepared.record),
                None => replaced.map(|record| record.charge()),
            };
            if let Some(charged) = charged {
                shared.space.release(charged);
                shared.space.remove_blob();
            }
        }
    }
    results
}

/// Where the staged files are and where they go.
struct StagedFiles<'a> {
    staged: &'a StagedBlob,
    content: PathBuf,
    outboard: PathBuf,
    /// The bits of the content file's mode, if it is not a link.
    mode: u32,
}

impl<'a> StagedFiles<'a> {
    /// Checks that the name stays inside `tmp`, and that the files have the lengths they should.
    fn check(shared: &Shared, staged: &'a StagedBlob) -> Result<Self, StoreError> {
        let refused = || StoreError::NotStaged(staged.name.clone());
        let (batch, number) = staged.name.split_once('.').ok_or_else(refused)?;
        if !is_plain(batch) || !is_plain(number) || staged.size > MAX_BLOB_LEN {
            return Err(refused());
        }
        let content = shared.layout.tmp().join(&staged.name);
        let outboard = shared.layout.tmp().join(format!("{}{OUTBOARD_SUFFIX}", staged.name));
        let nodes = outboard_len(staged.size);
        if nodes > 0 && mode_of(&outboard, nodes).is_none() {
            return Err(refused());
        }
        let mut mode = 0;
        if staged.reference {
            let place = fs::read_link(&content).map_err(|_| refused())?;
            // Whoever keeps the store may see other files than the user does.
            if !place.is_absolute() || !leads_to_file_of(&content, staged.size) {
                return Err(StoreError::NotInPlace { path: place, why: "the node cannot read it there" });
            }
        } else {
            mode = mode_of(&content, staged.size).ok_or_else(refused)?;
        }
        Ok(Self { staged, content, outboard, mode })
    }

    fn remove(&self) -> Result<(), StoreError> {
        remove_if_there(&self.content)?;
        if outboard_len(self.staged.size) > 0 { remove_if_there(&self.outboard) } else { Ok(()) }
    }

    /// Puts the files in place, the outboard first. The caller holds `structure`.
    fn rename(&self, shared: &Shared) -> Result<(), StoreError> {
        let hash = &self.staged.hash;
        // Staging has seen to it, unless another byhash has staged it.
        if !self.staged.reference && self.mode != complete_mode(true) {
            let content = File::open(&self.content).map_err(io_error("open", &self.content))?;
            let mode = Permissions::from_mode(complete_mode(true));
            content.set_permissions(mode).map_err(io_error("set the mode of", &self.content))?;
            content.sync_all().map_err(io_error("sync", &self.content))?;
        }
        if outboard_len(self.staged.size) > 0 {
            let place = shared.layout.outboard(hash);
            fs::rename(&self.outboard, &place).map_err(io_error("rename", &self.outboard))?;
        }
        fs::rename(&self.content, shared.layout.content(hash)).map_err(io_error("rename", &self.content))
    }
}

/// The bits of the mode of `path`, if it is a regular file of `len` bytes and no link.
fn mode_of(path: &Path, len: u64) -> Option<u32> {
    let metadata = fs::symlink_metadata(path).ok()?;
    (metadata.is_file() && metadata.len() == len).then(|| metadata.mode() & 0o7777)
}

/// Whether `path` leads to a regular file of `len` bytes that may be read.
fn leads_to_file_of(path: &Path, len: u64) -> bool {
    let metadata =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).and_then(|file| file.metadata());
    metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == len)
}

#[cfg(test)]
mod tests {
    use super::super::import::{Source, stage};
    use super::super::tests::{Sample, of_blobs, open};
    use super::*;

    #[test]
    fn what_was_fetched_and_closed_while_it_was_being_added_is_not_counted_twice() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let sample = Sample::new(50_000, 1);
        let staged = stage(dir.path(), Source::Stream(&mut sample.content.as_slice()), &|_| {}).unwrap();
        let prepared = Move::prepare(&store.shared, staged.blob()).unwrap().unwrap();
        drop(sample.write_all(&store));
        store.flush().unwrap();
        store.shared.lingering.let_go();
        store.shared.reserve_on_disk(prepared.record.charge()).unwrap();
        move_all(&store.shared, &[prepared]).into_iter().for_each(|moved| moved.unwrap());
        assert_eq!((of_blobs(&store), store.usage().blobs), (sample.charge(), 1));
        assert!(sample.read_all(&store).unwrap());
    }
}
