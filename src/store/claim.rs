//! Taking over the files of a blob that the index does not know, as far as they verify.
//!
//! Groups verify only within a tree, and the tree follows from the size, which must be proven anew: the lengths of
//! the files are only what the file system makes of them. It is the last group that proves it, for a chunk is hashed
//! with its number and with its length. Without that group nothing on the disk does. The outboard holds hashes of
//! pairs of hashes, which say nothing of lengths: how long the last group is, is in none of them, and how many
//! groups there are only so far as groups are held that bear it out (the nodes of the right edge of a tree of five
//! groups are as good for one of three). So such a blob is not taken over. A fetch asks for the last group
//! together with the first bytes, as the proof of the size, and writes it with them. A partial blob is without it
//! only if it was damaged since, or if the blob was evicted and is being fetched again by a node that remembers its
//! size.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use rangemap::RangeSet;

use super::StoreError;
use super::error::io_error;
use super::files::{Files, KEPT_BIT, PIN_BIT, Stamp};
use super::in_place::note_time_if_possible;
use super::outboard::make_outboard;
use super::read::{CHECK_GROUPS, check_groups, is_damage};
use super::record::{Origin, Record};
use super::recovery::Work;
use super::shared::Shared;
use crate::ids::ContentHash;
use crate::verify::{GROUP_LEN, MAX_BLOB_LEN, bytes_of, group_count, outboard_len};

/// A blob of up to so many bytes that somebody asks for is verified while he waits (16 MiB, some
/// 10 ms); a larger one when its turn comes.
const AT_ONCE: u64 = 16 << 20;

/// What of a blob's files was found right.
pub(super) struct Verified {
    hash: ContentHash,
    record: Record,
    files: Files,
    stamp: Stamp,
}

impl Verified {
    /// Bytes of content found right.
    pub fn bytes(&self) -> u64 {
        self.record.held_bytes()
    }
}

/// Takes over what there is of `hash`, if the index is being rebuilt. `always`, or only if that takes a moment.
/// The caller must not hold the lock of the structure.
pub(super) fn on_demand(shared: &Arc<Shared>, hash: &ContentHash, always: bool) -> Result<(), StoreError> {
    if shared.recovery.work() != Work::Rebuild {
        return Ok(());
    }
    let Ok(metadata) = fs::symlink_metadata(shared.layout.content(hash)) else { return Ok(()) };
    if always || metadata.len() <= AT_ONCE {
        let verified = verify(shared, hash, &|| true)?;
        if let Some(blob) = &verified {
            blob.files.sync(&shared.layout, hash)?;
            shared.layout.sync_shard(hash)?;
        }
        take_over(shared, verified.into_iter().collect())?;
    }
    Ok(())
}

/// Reads and checks the files of `hash`; none if the index knows it, or nothing of it is right, or it
/// `goes_on` no more.
pub(super) fn verify(
    shared: &Shared,
    hash: &ContentHash,
    goes_on: &dyn Fn() -> bool,
) -> Result<Option<Verified>, StoreError> {
    if shared.opened(hash).is_some() || shared.index.get(hash)?.is_some() {
        return Ok(None);
    }
    let path = shared.layout.content(hash);
    let found = fs::symlink_metadata(&path).and_then(|metadata| {
        let in_place = metadata.is_symlink();
        Ok((if in_place { fs::metadata(&path)? } else { metadata }, in_place))
    });
    let (size, mode, in_place) = match found {
        Ok((metadata, in_place)) if metadata.is_file() && metadata.len() <= MAX_BLOB_LEN => {
            (metadata.len(), metadata.mode(), in_place)
        }
        Ok(_) => return Ok(None),
        Err(error) if is_not_there(&error) => {
            if let Ok(file) = fs::read_link(&path) {
                tracing::warn!(%hash, "{} is not there any more; it is served no more", file.display());
            }
            return Ok(None);
        }
        Err(error) => return Err(io_error("stat", &path)(error)),
    };
    let is_whole = |looked: &Option<Looked>| {
        looked.as_ref().is_some_and(|looked| looked.held.iter().eq(std::iter::once(&(0..group_count(size)))))
    };
    let mut looked = look(shared, hash, size, in_place, goes_on)?;
    // A content file that was complete may be right whatever its outboard says.
    if !is_whole(&looked) && (in_place || mode & 0o222 == 0) && goes_on() {
        let is_ours = || Ok(shared.opened(hash).is_none() && shared.index.get(hash)?.is_none());
        let is_made = outboard_len(size) > 0 && {
            let _mending = shared.mending.lock();
            make_outboard(shared, hash, size, in_place, goes_on, &is_ours)?
        };
        if is_made {
            looked = look(shared, hash, size, in_place, goes_on)?;
        }
    }
    if in_place && !is_whole(&looked) && goes_on() {
        let file = fs::read_link(&path).unwrap_or_default();
        tracing::warn!(%hash, "{} has changed; it is served no more", file.display());
        return Ok(None);
    }
    let Some(Looked { files, stamp, held }) = looked else { return Ok(None) };
    if in_place {
        note_time_if_possible(&path, stamp.modified_ns());
    }
    let metadata = files.content.metadata().map_err(io_error("stat", &path))?;
    let kept = in_place || metadata.mode() & KEPT_BIT != 0;
    let origin = match (in_place, kept) {
        (true, _) => Origin::Reference,
        (false, true) => Origin::Local,
        (false, false) => Origin::Fetched,
    };
    let last_use = metadata.mtime().max(metadata.atime()).max(0) as u64 * 1000;
    let pinned = kept || metadata.mode() & PIN_BIT != 0;
    let record = Record::new(size, &held, origin, pinned, last_use);
    Ok(Some(Verified { hash: *hash, record, files, stamp }))
}

/// Why there is no file, of whatever a link in the store leads to.
fn is_not_there(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EACCES | libc::ESTALE))
}

/// What a look at the files of a blob has found.
struct Looked {
    files: Files,
    stamp: Stamp,
    /// The groups that are right, the last among them.
    held: RangeSet<u64>,
}

/// Reads the files of `hash` and checks them; none if a file is missing, if not even the last group is right, which
/// alone proves the size, or if it `goes_on` no more.
fn look(
    shared: &Shared,
    hash: &ContentHash,
    size: u64,
    in_place: bool,
    goes_on: &dyn Fn() -> bool,
) -> Result<Option<Looked>, StoreError> {
    let files = match Files::open(&shared.layout, hash, size, in_place) {
        Ok(files) => files,
        Err(StoreError::Missing { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let stamp = files.stamp()?;
    let last = group_count(size) - 1;
    let mut held = RangeSet::new();
    check(&files, hash, size, last..last + 1, &mut held)?;
    if held.is_empty() {
        return Ok(None);
    }
    let mut at = 0;
    while let Some(groups) = next_groups(&files.content, size, at) {
        if !goes_on() {
            return Ok(None);
        }
        check(&files, hash, size, groups.clone(), &mut held)?;
        at = groups.end;
    }
    Ok(Some(Looked { files, stamp, held }))
}

/// Tells the index what was found right, all of it durable; tells how many blobs those were, and which have
/// changed meanwhile, so that nothing is known of them. What somebody has opened is left alone.
pub(super) fn take_over(shared: &Shared, verified: Vec<Verified>) -> Result<(usize, Vec<ContentHash>), StoreError> {
    if verified.is_empty() {
        return Ok((0, Vec::new()));
    }
    let is_untouched = |blob: &Verified| {
        let again = Files::open(&shared.layout, &blob.hash, blob.record.size, blob.files.in_place);
        again.and_then(|files| files.stamp()).is_ok_and(|stamp| stamp == blob.stamp)
    };
    // Before the lock, for its file system may hang; a file of the user's may change at any time as it is.
    let look = |blob: Verified| (blob.files.in_place.then(|| is_untouched(&blob)), blob);
    let looked_at: Vec<_> = verified.into_iter().map(look).collect();
    let _structure = shared.structure.write();
    let (mut taken, mut changed) = (Vec::new(), Vec::new());
    for (untouched, blob) in looked_at {
        let untouched = untouched.unwrap_or_else(|| is_untouched(&blob));
        if shared.opened(&blob.hash).is_some() || shared.index.get(&blob.hash)?.is_some() {
            continue;
        }
        if untouched { taken.push(blob) } else { changed.push(blob.hash) }
    }
    shared.write_index(|batch| taken.iter().try_for_each(|blob| batch.put(&blob.hash, &blob.record).map(drop)))?;
    for blob in &taken {
        shared.space.charge_found(blob.hash.as_bytes()[0], blob.record.charge());
        shared.space.add_blob();
    }
    Ok((taken.len(), changed))
}

/// Adds to `held` what of `groups` is right.
fn check(
    files: &Files,
    hash: &ContentHash,
    size: u64,
    groups: Range<u64>,
    held: &mut RangeSet<u64>,
) -> Result<(), StoreError> {
    let mut bytes = vec![0; bytes_of(size, &groups).len() as usize];
    match files.content.read_exact_at(&mut bytes, groups.start * GROUP_LEN) {
        Ok(()) => {}
        Err(error) if is_damage(&error) && groups.end - groups.start == 1 => return Ok(()),
        Err(error) if is_damage(&error) => {
            return groups.into_iter().try_for_each(|group| check(files, hash, size, group..group + 1, held));
        }
        Err(error) => return Err(io_error("read", &files.content_path)(error)),
    }
    if check_groups(files, hash, size, &groups, &bytes)? {
        held.insert(groups);
        return Ok(());
    }
    if groups.end - groups.start == 1 {
        return Ok(());
    }
    groups.into_iter().try_for_each(|group| check(files, hash, size, group..group + 1, held))
}

/// The next groups from `at` on that have bytes on the disk, a step at most.
fn next_groups(content: &File, size: u64, at: u64) -> Option<Range<u64>> {
    let count = group_count(size);
    let from = libc::off_t::try_from(at * GROUP_LEN).ok().filter(|_| at < count)?;
    // SAFETY: lseek takes a file descriptor, which `content` keeps open, and no pointer.
    let data = unsafe { libc::lseek(content.as_raw_fd(), from, libc::SEEK_DATA) };
    let first = match u64::try_from(data) {
        Ok(data) => data / GROUP_LEN,
        Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO) => return None,
        // A file system that cannot tell: all of it is looked at.
        Err(_) => at,
    };
    (first < count).then(|| first..(first + CHECK_GROUPS).min(count))
}
