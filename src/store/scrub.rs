//! Scrubbing: what is held is read from the disk and checked against its hash, whether anybody wants it
//! or not, and whatever was found right before.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;

use serde::{Deserialize, Serialize};

use super::files::Files;
use super::in_place::InPlace;
use super::read::CHECK_GROUPS;
use super::record::{Origin, content_bytes};
use super::{Store, StoreError};
use crate::ids::ContentHash;
use crate::verify::{bytes_of, group_count};

/// The most ranges that are told of as dropped, or as lacking; more become one that spans them. Bounds a report to some
/// tens of kilobytes.
const MAX_RANGES: usize = 1024;

/// What a step of scrubbing found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// The blob.
    pub hash: ContentHash,
    /// Bytes that were checked.
    pub checked: u64,
    /// The groups that turned out wrong or missing and are no longer held, as ranges; now and then what
    /// lies between them too.
    pub dropped: Vec<(u64, u64)>,
    /// Bytes that are no longer held.
    pub dropped_bytes: u64,
    /// The groups that were not held before this check of a blob that was added here or is pinned and was whole once:
    /// damage of before that was not mended. As ranges, like `dropped`; told by the step that begins at the first group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacking: Vec<(u64, u64)>,
    /// Their bytes.
    #[serde(default)]
    pub lacking_bytes: u64,
    /// Where the blob came from, and whether it was kept from eviction, before anything was dropped.
    pub origin: Origin,
    /// See [`Self::origin`].
    pub pinned: bool,
    /// The file of the user's that it was served from, if something of it is no longer held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_place: Option<InPlace>,
    /// The group to go on at; `None` if the blob is through.
    pub next: Option<u64>,
    /// Why the rest of it could not be read, though that is no damage; a sentence.
    pub failure: Option<String>,
}

impl Scrubbed {
    /// What should be held and is not, as far as this step knows: ranges of groups.
    pub fn to_mend(&self) -> Vec<(u64, u64)> {
        [self.lacking.as_slice(), &self.dropped].concat()
    }
}

impl Store {
    /// Checks what is held of `hash` from the group `from` on, as the disk has it: about `budget`
    /// bytes, at least 1 MiB. What is wrong or missing is dropped. `None` if
    /// nothing is held, nor should be. This is no use of the blob.
    pub fn scrub(&self, hash: &ContentHash, from: u64, budget: u64) -> Result<Option<Scrubbed>, StoreError> {
        let Some(blob) = self.shared.open_unused(hash)?.filter(|blob| blob.is_known()) else { return Ok(None) };
        let (info, held) = (blob.info(), blob.verified());
        let lacking =
            if from == 0 && blob.is_to_be_whole() { blob.missing(0..group_count(blob.size())) } else { Vec::new() };
        let mut scrubbed = Scrubbed {
            hash: *hash,
            checked: 0,
            dropped: Vec::new(),
            dropped_bytes: 0,
            lacking_bytes: content_bytes(blob.size(), &lacking),
            lacking: told(&lacking),
            origin: info.origin,
            pinned: info.pinned,
            in_place: None,
            next: None,
            failure: None,
        };
        blob.let_go_of_unlinked();
        let mut buffer = Vec::new();
        let mut damaged = false;
        for part in parts(held.iter(), from) {
            let range = bytes_of(blob.size(), &part);
            if scrubbed.checked > 0 && scrubbed.checked + range.len() > budget {
                scrubbed.next = Some(part.start);
                break;
            }
            let checked = blob.with_files(std::slice::from_ref(&part), |files| {
                forget_cached(files, range.start, range.len());
                blob.mend_outboard(files, std::slice::from_ref(&part))?;
                blob.drop_unproven(files, &part)?;
                buffer.resize(range.len() as usize, 0);
                blob.read_and_check(files, &part, &mut buffer)
            });
            match checked {
                Ok(()) => {}
                Err(StoreError::Corrupt { .. } | StoreError::Missing { .. }) => damaged = true,
                // It was removed, or a reader met the damage first.
                Err(StoreError::NotHeld { .. }) => continue,
                Err(error) => {
                    scrubbed.failure = Some(error.to_string());
                    break;
                }
            }
            scrubbed.checked += range.len();
        }
        if scrubbed.next.is_none() && scrubbed.failure.is_none() {
            blob.note_time_if_right();
        }
        if damaged {
            let gone: Vec<_> = held.iter().flat_map(|range| blob.missing(range.clone())).collect();
            scrubbed.dropped_bytes = content_bytes(blob.size(), &gone);
            scrubbed.dropped = told(&gone);
            if !blob.holds_any() {
                scrubbed.next = None;
            }
        }
        if info.origin == Origin::Reference && !scrubbed.to_mend().is_empty() {
            scrubbed.in_place = self.shared.in_place(hash, blob.size(), blob.is_complete());
        }
        Ok(Some(scrubbed))
    }

    /// Whether all of `groups`, as a step of scrubbing tells of them, are held.
    pub fn holds(&self, hash: &ContentHash, groups: &[(u64, u64)]) -> Result<bool, StoreError> {
        let blob = self.shared.open_unused(hash)?;
        let within = |size: u64, (start, end): (u64, u64)| start..end.min(group_count(size));
        Ok(blob.is_some_and(|blob| groups.iter().all(|range| blob.has(within(blob.size(), *range)))))
    }
}

/// `ranges` as they are told of.
fn told(ranges: &[Range<u64>]) -> Vec<(u64, u64)> {
    match ranges {
        [first, .., last] if ranges.len() > MAX_RANGES => vec![(first.start, last.end)],
        _ => ranges.iter().map(|range| (range.start, range.end)).collect(),
    }
}

/// `held` from the group `from` on, in ranges of [`CHECK_GROUPS`] at most.
pub(super) fn parts<'a>(held: impl Iterator<Item = &'a Range<u64>>, from: u64) -> impl Iterator<Item = Range<u64>> {
    held.flat_map(move |range| {
        let range = range.start.max(from)..range.end;
        (range.start..range.end).step_by(CHECK_GROUPS as usize).map(move |at| at..range.end.min(at + CHECK_GROUPS))
    })
}

/// Makes the kernel forget what it has of the files in memory, as far as it is on the disk, so that the
/// disk is read. That it does not is no failure.
fn forget_cached(files: &Files, start: u64, len: u64) {
    let advise = |file: &File, start: u64, len: u64| {
        // SAFETY: no pointers, and the descriptor is open while `file` is borrowed.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), start as i64, len as i64, libc::POSIX_FADV_DONTNEED) };
    };
    advise(&files.content, start, len);
    if let Some(outboard) = &files.outboard {
        // The proof of a range lies all over it. A length of 0 means all of the file.
        advise(outboard, 0, 0);
    }
}
