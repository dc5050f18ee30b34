//! What is held, for people and programs to look at.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::blob::Blob;
use super::in_place::{InPlace, InPlaceState};
use super::record::{BlobInfo, Origin, Record};
use super::shared::Shared;
use super::{Store, StoreError};
use crate::ids::ContentHash;

/// A blob of which something is held, or should be: it was added here or is pinned, and was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBlob {
    /// Its name.
    pub hash: ContentHash,
    /// Its proven size in bytes.
    pub size: u64,
    /// How many bytes of it are held.
    pub held: u64,
    /// Whether those are all.
    pub complete: bool,
    /// Where it came from.
    pub origin: Origin,
    /// Whether it is kept from eviction.
    pub pinned: bool,
    /// When it was last used, in milliseconds since 1970.
    pub last_use_ms: u64,
    /// The file of the user's that it is served from, if it is. Once that has changed, nothing of the blob is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_place: Option<InPlace>,
}

/// Some of the blobs held, in the order of their hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The blobs.
    pub blobs: Vec<HeldBlob>,
    /// Where the next page begins after; `None` if this is the last.
    pub next: Option<ContentHash>,
}

impl Store {
    /// Up to `limit` (at least 1) blobs of which something is held or should be, by hash, beginning after `after`.
    /// A blob that comes or goes meanwhile may be on a page or not. Looking is no use.
    pub fn list(&self, after: Option<ContentHash>, limit: usize) -> Result<Page, StoreError> {
        self.shared.list(after, limit)
    }

    /// Those of `hashes` of which something is held, or should be.
    pub fn show(&self, hashes: &[ContentHash]) -> Result<Vec<HeldBlob>, StoreError> {
        hashes.iter().filter_map(|hash| self.shared.show(hash).transpose()).collect()
    }
}

impl Shared {
    fn list(&self, after: Option<ContentHash>, limit: usize) -> Result<Page, StoreError> {
        // Before the index is read: what a flush tells it of meanwhile may be closed afterwards.
        let opened = self.all_opened();
        let known = self.index.page(after, limit)?;
        let last = known.last().map(|(hash, _)| *hash).filter(|_| known.len() == limit);
        let mut found: BTreeMap<ContentHash, Option<HeldBlob>> =
            known.into_iter().map(|(hash, record)| (hash, Some(self.of_record(hash, &record)))).collect();
        // What was open knows better, and may have been unknown to the index.
        let in_page =
            |hash: ContentHash| after.is_none_or(|after| hash > after) && last.is_none_or(|last| hash <= last);
        for blob in opened.into_iter().filter(|blob| in_page(blob.hash())) {
            found.insert(blob.hash(), self.of_blob(&blob));
        }
        Ok(Page { blobs: found.into_values().flatten().collect(), next: last })
    }

    fn show(&self, hash: &ContentHash) -> Result<Option<HeldBlob>, StoreError> {
        match self.opened(hash) {
            Some(blob) => Ok(self.of_blob(&blob)),
            None => Ok(self.index.get(hash)?.map(|record| self.of_record(*hash, &record))),
        }
    }

    fn of_record(&self, hash: ContentHash, record: &Record) -> HeldBlob {
        self.held_blob(hash, &BlobInfo::from(record), record.last_use)
    }

    fn of_blob(&self, blob: &Arc<Blob>) -> Option<HeldBlob> {
        blob.is_known().then(|| self.held_blob(blob.hash(), &blob.info(), blob.last_use()))
    }

    fn held_blob(&self, hash: ContentHash, info: &BlobInfo, last_use_ms: u64) -> HeldBlob {
        let is_in_place = info.origin == Origin::Reference;
        let in_place = is_in_place.then(|| self.in_place(&hash, info.size, info.complete)).flatten();
        // A read has yet to meet that it has changed.
        let is_lost = is_in_place && in_place.as_ref().is_none_or(|place| place.state != InPlaceState::Present);
        HeldBlob {
            hash,
            size: info.size,
            held: if is_lost { 0 } else { info.held_bytes },
            complete: info.complete && !is_lost,
            origin: info.origin,
            pinned: info.pinned,
            last_use_ms,
            in_place,
        }
    }
}
