//! Making outboards anew. An outboard follows from the content, so where all of that is there and right, damage
//! to the outboard costs nothing but a look at the content: what was added here may be nowhere else.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::StoreError;
use super::blob::Blob;
use super::error::io_error;
use super::files::{Files, open_content};
use super::layout::{REPAIR_PREFIX, create_private, remove_if_there};
use super::read::proof_from;
use super::shared::Shared;
use crate::ids::ContentHash;
use crate::verify::{OutboardBuilder, OutboardPiece, Proof, VerifyError, outboard_len};

/// Reads that may mend or wait for that at a time; each keeps a thread of those that read the disk.
const MAX_MENDERS: usize = 4;

/// A read that mends, or waits for that.
struct Mender<'a>(&'a AtomicUsize);

impl Drop for Mender<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// [`StoreError::Mending`] if enough reads mend or wait for that. The blob concerned is `hash`.
    fn mender(&self, hash: ContentHash) -> Result<Mender<'_>, StoreError> {
        let before = self.menders.fetch_add(1, Ordering::Relaxed);
        let mender = Mender(&self.menders);
        if before < MAX_MENDERS { Ok(mender) } else { Err(StoreError::Mending { hash }) }
    }
}

impl Blob {
    /// The proof of `ranges`, from an outboard that is made anew if it is wrong and the content is right.
    pub(super) fn proof(
        &self,
        files: &Arc<Files>,
        ranges: &[Range<u64>],
    ) -> Result<Result<Proof, VerifyError>, StoreError> {
        let read = || proof_from(files, &self.hash(), self.size(), ranges);
        let proof = read()?;
        if proof.is_ok() || !self.is_complete() {
            return Ok(proof);
        }
        let _mender = self.shared.mender(self.hash())?;
        match self.mend_outboard(files, ranges) {
            Ok(true) => return read(),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "a damaged outboard could not be made anew"),
        }
        Ok(proof)
    }

    /// Makes the outboard of a complete blob anew if what it says of `ranges` is wrong and the content is right;
    /// tells whether it is right now.
    pub(super) fn mend_outboard(&self, files: &Arc<Files>, ranges: &[Range<u64>]) -> Result<bool, StoreError> {
        let Some(outboard) = files.outboard.as_ref().filter(|_| self.is_complete()) else { return Ok(false) };
        // One at a time, for each reads all of a blob; the next one may find it done.
        let _mending = self.shared.mending.lock();
        if proof_from(files, &self.hash(), self.size(), ranges)?.is_ok() {
            return Ok(true);
        }
        // Twice, since the nodes of a large blob do not fit into memory: nothing is written before the content
        // has proven right.
        let build = |put: &mut dyn FnMut(&OutboardPiece) -> Result<(), StoreError>| {
            build_outboard(self.size(), &files.content, &files.content_path, put)
        };
        if build(&mut |_| Ok(()))? != Some(self.hash()) {
            return Ok(false);
        }
        build(&mut |piece| put(outboard, piece, &files.outboard_path))?;
        outboard.sync_data().map_err(io_error("sync", &files.outboard_path))?;
        tracing::warn!(hash = %self.hash(), "the outboard was damaged and has been made anew");
        proof_from(files, &self.hash(), self.size(), ranges).map(|proof| proof.is_ok())
    }

    /// Makes the outboard of a complete blob anew where the file is missing or cut short, if the content is right;
    /// tells whether it is there now.
    pub(super) fn restore_outboard(&self) -> Result<bool, StoreError> {
        let (hash, layout) = (self.hash(), &self.shared.layout);
        let (place, len) = (layout.outboard(&hash), outboard_len(self.size()));
        if len == 0 || !self.is_complete() {
            return Ok(false);
        }
        let _mender = self.shared.mender(hash)?;
        let _mending = self.shared.mending.lock();
        let is_there = || fs::symlink_metadata(&place).is_ok_and(|found| found.is_file() && found.len() == len);
        if is_there() {
            return Ok(true);
        }
        let is_wanted = || {
            let mut state = self.state();
            // Who has just found it missing looks again.
            state.replaced += 1;
            Ok(state.complete)
        };
        make_outboard(&self.shared, &hash, self.size(), self.is_in_place(), &|| true, &is_wanted)
    }
}

/// Makes the outboard of the content of `hash` anew, all of which is there, unless the content is wrong or it
/// `goes_on` no more; tells whether that was done. The new one is put in place only if it `is_wanted`, which is asked
/// with `structure` held. The caller holds `mending`.
pub(super) fn make_outboard(
    shared: &Shared,
    hash: &ContentHash,
    size: u64,
    in_place: bool,
    goes_on: &dyn Fn() -> bool,
    is_wanted: &dyn Fn() -> Result<bool, StoreError>,
) -> Result<bool, StoreError> {
    let layout = &shared.layout;
    let path = layout.content(hash);
    let Some((content, _)) = open_content(&path, size, in_place)? else { return Ok(false) };
    // Without a dot, so that it is under its own lock.
    let tmp = layout.tmp().join(format!("{REPAIR_PREFIX}{hash}-outboard"));
    remove_if_there(&tmp)?;
    let make = || {
        let file = create_private(&tmp).map_err(io_error("create", &tmp))?;
        file.try_lock().map_err(|error| io_error("lock", &tmp)(error.into()))?;
        let read = |piece: &mut [u8], at| Ok(goes_on() && content.read_exact_at(piece, at).is_ok());
        let built = hash_pieces(size, &path, read, &mut |piece| put(&file, piece, &tmp))?;
        if built != Some(*hash) {
            return Ok(false);
        }
        file.sync_all().map_err(io_error("sync", &tmp))?;
        let _structure = shared.structure.write();
        if !is_wanted()? {
            return Ok(false);
        }
        fs::rename(&tmp, layout.outboard(hash)).map_err(io_error("rename", &tmp))?;
        layout.sync_shard(hash)?;
        tracing::warn!(%hash, "the outboard was missing or wrong and has been made anew");
        Ok(true)
    };
    let made = make();
    if !matches!(made, Ok(true)) {
        remove_if_there(&tmp)?;
    }
    made
}

/// Writes a piece of an outboard to the file at `path`.
pub(super) fn put(file: &File, piece: &OutboardPiece, path: &Path) -> Result<(), StoreError> {
    file.write_all_at(&piece.nodes, piece.offset).map_err(io_error("write", path))
}

/// Hands over the outboard of the content file at `path`, piece by piece, and gives its hash; `None` if not all
/// of it can be read, which is damage that a check will find.
fn build_outboard(
    size: u64,
    content: &File,
    path: &Path,
    put: &mut dyn FnMut(&OutboardPiece) -> Result<(), StoreError>,
) -> Result<Option<ContentHash>, StoreError> {
    let read = |piece: &mut [u8], at| Ok(content.read_exact_at(piece, at).is_ok());
    hash_pieces(size, path, read, put)
}

/// Hashes a blob of `size` bytes, of which `fill` hands over the pieces (a buffer, and where it begins), and
/// hands its outboard to `put`. `None` as soon as `fill` says that there is no more. `path` is named in errors.
pub(super) fn hash_pieces(
    size: u64,
    path: &Path,
    mut fill: impl FnMut(&mut [u8], u64) -> Result<bool, StoreError>,
    put: &mut dyn FnMut(&OutboardPiece) -> Result<(), StoreError>,
) -> Result<Option<ContentHash>, StoreError> {
    let mut builder = OutboardBuilder::new(size).map_err(|_| StoreError::TooBig(size))?;
    // The pieces have the lengths that the builder asks for.
    let unreachable = |error: VerifyError| io_error("hash", path)(std::io::Error::other(error));
    let (mut at, mut buffer) = (0, vec![0; builder.next_len()]);
    while builder.next_len() > 0 {
        let piece = &mut buffer[..builder.next_len()];
        if !fill(piece, at)? {
            return Ok(None);
        }
        at += piece.len() as u64;
        put(&builder.update(piece).map_err(unreachable)?)?;
    }
    let (hash, above) = builder.finish().map_err(unreachable)?;
    above.iter().try_for_each(put)?;
    Ok(Some(hash))
}
