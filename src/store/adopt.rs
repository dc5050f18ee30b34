//! Taking over staged files as a blob of this node.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rangemap::RangeSet;

use super::StoreError;
use super::error::io_error;
use super::files::complete_mode;
use super::import::StagedBlob;
use super::layout::{OUTBOARD_SUFFIX, remove_if_there};
use super::record::{Origin, Record};
use super::shared::Shared;
use super::sweep::staged_bytes;
use crate::verify::{MAX_BLOB_LEN, group_count, outboard_len};

/// See [`super::Store::adopt`].
pub(super) fn adopt(shared: &Arc<Shared>, staged: &StagedBlob) -> Result<(), StoreError> {
    let files = StagedFiles::check(shared, staged)?;
    if let Some(blob) = shared.open_blob(&staged.hash)? {
        // What is damaged is replaced: whoever adds it again may want just that.
        if blob.is_complete() && blob.check(0..group_count(staged.size)).is_ok() {
            blob.files()?.keep()?;
            blob.make_local();
            shared.flush()?;
            return files.remove();
        }
        shared.forget(&blob)?;
    }
    let held = RangeSet::from_iter(std::iter::once(0..group_count(staged.size)));
    let record = Record::new(staged.size, &held, Origin::Local, true, shared.time_of_use());
    let moving = shared.space.moving(record.charge());
    shared.reserve_on_disk(record.charge())?;
    let moved = files.move_in(shared, &record).inspect_err(|_| shared.space.release(record.charge()));
    shared.space.set_staged(staged_bytes(&shared.layout)?);
    drop(moving);
    moved
}

/// Where the staged files are and where they go.
struct StagedFiles<'a> {
    staged: &'a StagedBlob,
    content: PathBuf,
    outboard: PathBuf,
}

impl<'a> StagedFiles<'a> {
    /// Checks that the name stays inside `tmp`, and that the files have the lengths they should.
    fn check(shared: &Shared, staged: &'a StagedBlob) -> Result<Self, StoreError> {
        let refused = || StoreError::NotStaged(staged.name.clone());
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if staged.name.is_empty() || !staged.name.chars().all(plain) || staged.size > MAX_BLOB_LEN {
            return Err(refused());
        }
        let content = shared.layout.tmp().join(&staged.name);
        let outboard = shared.layout.tmp().join(format!("{}{OUTBOARD_SUFFIX}", staged.name));
        let nodes = outboard_len(staged.size);
        if !is_file_of(&content, staged.size) || nodes > 0 && !is_file_of(&outboard, nodes) {
            return Err(refused());
        }
        Ok(Self { staged, content, outboard })
    }

    fn remove(&self) -> Result<(), StoreError> {
        remove_if_there(&self.content)?;
        remove_if_there(&self.outboard)
    }

    /// Puts the files in place, makes that durable, and then tells the index.
    fn move_in(&self, shared: &Arc<Shared>, record: &Record) -> Result<(), StoreError> {
        let hash = &self.staged.hash;
        let _structure = shared.structure.write();
        let content = File::open(&self.content).map_err(io_error("open", &self.content))?;
        let metadata = content.metadata().map_err(io_error("stat", &self.content))?;
        // Staging has seen to it, unless another byhash has staged it.
        if metadata.mode() & 0o7777 != complete_mode(true) {
            let mode = Permissions::from_mode(complete_mode(true));
            content.set_permissions(mode).map_err(io_error("set the mode of", &self.content))?;
            content.sync_all().map_err(io_error("sync", &self.content))?;
        }
        if outboard_len(self.staged.size) > 0 {
            let place = shared.layout.outboard(hash);
            fs::rename(&self.outboard, &place).map_err(io_error("rename", &self.outboard))?;
        }
        fs::rename(&self.content, shared.layout.content(hash)).map_err(io_error("rename", &self.content))?;
        shared.layout.sync_shard(hash)?;
        shared.write_index(|batch| batch.put(hash, record))?;
        shared.space.add_blob();
        // Somebody may have begun to fetch it meanwhile.
        if let Some(blob) = shared.opened(hash)
            && let Some(charged) = blob.replace_by_local(record.charge())
        {
            shared.space.release(charged);
            shared.space.remove_blob();
        }
        Ok(())
    }
}

fn is_file_of(path: &Path, len: u64) -> bool {
    let options = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let metadata = OpenOptions::new().read(true).custom_flags(options).open(path).and_then(|file| file.metadata());
    metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == len)
}
