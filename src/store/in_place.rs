//! Blobs that are served from files of the user's: a link in the store leads there.
//!
//! Such a file may change at any moment. It is only read, each read is checked, and nothing that was found
//! right is remembered; the kernel is never given it. What is found wrong or missing once is served no more:
//! the blob stays known, with nothing held of it, until it is removed, added again or fetched.

use std::fs;

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
    /// As it was when it was added, as far as is known without reading it.
    Present,
    /// It is no longer the blob.
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
        let path = fs::read_link(self.layout.content(hash)).ok()?;
        let state = match fs::metadata(&path) {
            Ok(metadata) if whole && metadata.is_file() && metadata.len() == size => InPlaceState::Present,
            Ok(_) => InPlaceState::Changed,
            Err(_) => InPlaceState::Missing,
        };
        Some(InPlace { path: shown(&path.to_string_lossy()), state })
    }
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
