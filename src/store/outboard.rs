//! Making outboards anew. An outboard follows from the content, so where all of that is there and right, damage
//! to the outboard costs nothing but a look at the content: what was added here may be nowhere else.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::StoreError;
use super::blob::Blob;
use super::error::io_error;
use super::files::{Files, open_content};
use super::layout::{REPAIR_PREFIX, create_private, remove_if_there};
use super::read::proof_from;
use crate::ids::ContentHash;
use crate::verify::{OutboardBuilder, OutboardPiece, VerifyError, outboard_len};

impl Blob {
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
        let _mending = self.shared.mending.lock();
        let is_there = || fs::symlink_metadata(&place).is_ok_and(|found| found.is_file() && found.len() == len);
        if is_there() {
            return Ok(true);
        }
        let path = layout.content(&hash);
        let Some((content, _)) = open_content(&path, self.size(), self.is_in_place())? else { return Ok(false) };
        // Without a dot, so that it is under its own lock.
        let tmp = layout.tmp().join(format!("{REPAIR_PREFIX}{hash}-outboard"));
        remove_if_there(&tmp)?;
        let restored = self.build_into(&tmp, &content, &path).and_then(|is_right| {
            let _structure = self.shared.structure.write();
            if !is_right || !self.is_complete() {
                return Ok(false);
            }
            fs::rename(&tmp, &place).map_err(io_error("rename", &tmp))?;
            layout.sync_shard(&hash)?;
            tracing::warn!(%hash, "the outboard was missing and has been made anew");
            Ok(true)
        });
        if !matches!(restored, Ok(true)) {
            remove_if_there(&tmp)?;
        }
        restored
    }

    /// Writes the outboard of `content` to `tmp`, durably; tells whether the content is right.
    fn build_into(&self, tmp: &Path, content: &File, path: &Path) -> Result<bool, StoreError> {
        let file = create_private(tmp).map_err(io_error("create", tmp))?;
        file.try_lock().map_err(|error| io_error("lock", tmp)(error.into()))?;
        let built = build_outboard(self.size(), content, path, &mut |piece| put(&file, piece, tmp))?;
        file.sync_all().map_err(io_error("sync", tmp))?;
        Ok(built == Some(self.hash()))
    }
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
