//! Blobs that are served from files of the user's: a link in the store leads there.
//!
//! Such a file may change at any moment. It is only read, each read is checked, and nothing that was found
//! right is remembered; the kernel is never given it. What is found wrong or missing once is served no more:
//! the blob stays known, with nothing held of it, until it is removed, added again or fetched.
//!
//! The link has the modification time that the file had when it was found right, as a whole, for the last time: when it
//! was added, or checked since. So a look tells of most changes before a read meets them.

use std::ffi::CString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::shared::Shared;
use crate::ids::ContentHash;

/// What the path of a user's file may take in a report, in bytes of JSON: as much as the longest that Linux takes, if
/// that is plain text. Of what is no text or has to be escaped, each byte may take up to six.
const MAX_PATH_JSON: usize = 4096;

/// The file of the user's that a blob is served from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InPlace {
    /// Where it lies; what of its name is no text is replaced. Of more than 4096 bytes of JSON, only the end.
    pub path: String,
    /// How it is.
    pub state: InPlaceState,
}

/// How a file of the user's is that a blob is served from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InPlaceState {
    /// As it was when it was found right last, as far as is known without reading it.
    Present,
    /// It is no longer the blob, or has been written since it was found right.
    Changed,
    /// It is not there.
    Missing,
}

impl InPlace {
    /// What there is to say of it, if there is something.
    pub fn complaint(&self) -> Option<String> {
        let path = self.path.escape_debug();
        match self.state {
            InPlaceState::Present => None,
            InPlaceState::Changed => Some(format!("{path}, from which it was served, has changed since")),
            InPlaceState::Missing => Some(format!("{path}, from which it was served, is not there")),
        }
    }
}

impl Shared {
    /// The file of the user's that `hash`, of `size` bytes, is served from; `whole` if all of it is held.
    pub fn in_place(&self, hash: &ContentHash, size: u64, whole: bool) -> Option<InPlace> {
        let link = self.layout.content(hash);
        let path = fs::read_link(&link).ok()?;
        let is_same = |found: &Metadata| found.is_file() && found.len() == size && is_of_time(found, &link);
        let state = match fs::metadata(&path) {
            Ok(found) if whole && is_same(&found) => InPlaceState::Present,
            Ok(_) => InPlaceState::Changed,
            Err(_) => InPlaceState::Missing,
        };
        Some(InPlace { path: shown(&path.to_string_lossy()), state })
    }
}

/// Gives `link` the modification time of the file that it leads to, which was found right: nanoseconds since 1970.
pub(super) fn note_time(link: &Path, modified_ns: i128) -> io::Result<()> {
    let path = CString::new(link.as_os_str().as_bytes())?;
    let (seconds, nanoseconds) = (modified_ns.div_euclid(NS_PER_SECOND), modified_ns.rem_euclid(NS_PER_SECOND));
    let untouched = libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT };
    let modified = libc::timespec {
        tv_sec: seconds.try_into().map_err(io::Error::other)?,
        tv_nsec: nanoseconds.try_into().map_err(io::Error::other)?,
    };
    let times = [untouched, modified];
    // SAFETY: the path ends with a zero and there are two times; both outlive the call.
    let set = unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The same, where it is no reason to fail that it cannot be done.
pub(super) fn note_time_if_possible(link: &Path, modified_ns: i128) {
    if let Err(error) = note_time(link, modified_ns) {
        tracing::debug!(%error, "the time of a file that is served from where it lies could not be noted");
    }
}

const NS_PER_SECOND: i128 = 1_000_000_000;

/// Whether the file has the modification time that was noted at `link`: in seconds, where the file system of that
/// keeps no more.
fn is_of_time(found: &Metadata, link: &Path) -> bool {
    let Ok(noted) = fs::symlink_metadata(link) else { return false };
    found.mtime() == noted.mtime() && (noted.mtime_nsec() == 0 || found.mtime_nsec() == noted.mtime_nsec())
}

/// `path`, or as much of its end as takes no more than [`MAX_PATH_JSON`].
fn shown(path: &str) -> String {
    let mut len = 0;
    let fits = |c: &char| {
        len += match c {
            '"' | '\\' => 2,
            '\0'..' ' => "\\u0000".len(),
            c => c.len_utf8(),
        };
        len <= MAX_PATH_JSON
    };
    let end: usize = path.chars().rev().take_while(fits).map(char::len_utf8).sum();
    match path.len() - end {
        0 => path.to_owned(),
        cut => format!("…{}", &path[cut..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_takes_a_bounded_part_of_a_message() {
        for part in ["p", "\"", "\\", "\u{1}", "\n", "\u{fffd}", "ä\u{1f}"] {
            let long = part.repeat(4096);
            for path in [&long[..long.len() / 4096 * 16], &long] {
                let shown = shown(path);
                let is_cut = shown.strip_prefix('…').map(|end| path.ends_with(end));
                assert!(is_cut.unwrap_or(shown == path), "{part:?}");
                let json = serde_json::to_string(&shown).unwrap();
                assert!(json.len() <= MAX_PATH_JSON + "\"…\"".len(), "{part:?}: {}", json.len());
                let counted = if part == "\n" { 3 * json.len() } else { json.len() };
                assert!(is_cut.is_none() || counted > MAX_PATH_JSON - 10, "{part:?}: {}", json.len());
            }
        }
    }
}
