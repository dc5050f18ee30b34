//! Blobs that are served from files of the user's: a link in the store leads there.
//!
//! Such a file may change at any moment. It is only read, each read is checked, and nothing that was found
//! right is remembered; the kernel is never given it. What is found wrong or missing once is served no more:
//! the blob stays known, with nothing held of it, until it is removed, added again or fetched.

use std::fs;

use serde::{Deserialize, Serialize};

use super::shared::Shared;
use crate::ids::ContentHash;

/// The file of the user's that a blob is served from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InPlace {
    /// Where it lies; what of its name is no text is replaced.
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
        Some(InPlace { path: path.to_string_lossy().into_owned(), state })
    }
}
