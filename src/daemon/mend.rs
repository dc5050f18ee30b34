//! Fetching again what was found damaged.

use super::Node;
use crate::ids::ContentHash;
use crate::store::{Store, StoreError};
use crate::transfer::{Engine, FetchError};

/// Why damage could not be mended.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    /// It is not to be had.
    #[error("{0}")]
    Fetch(#[from] FetchError),
    /// The cache did not keep it.
    #[error("the cache does not hold it: there is no room, its disk fails, or it was removed meanwhile")]
    NotKept,
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl Node {
    /// Fetches `groups` of `hash` as far as they are not held, and keeps the blob from eviction if it is
    /// to be `pinned`.
    pub async fn mend(&self, hash: ContentHash, groups: &[(u64, u64)], pinned: bool) -> Result<(), MendError> {
        mend(self.engine(), self.store(), hash, groups, pinned).await
    }
}

/// See [`Node::mend`].
pub(super) async fn mend(
    engine: &Engine,
    store: &Store,
    hash: ContentHash,
    groups: &[(u64, u64)],
    pinned: bool,
) -> Result<(), MendError> {
    engine.mend(hash, groups).await?;
    let (kept, groups) = (store.clone(), groups.to_vec());
    let keep = move || {
        if !kept.holds(&hash, &groups)? {
            return Err(MendError::NotKept);
        }
        // Where nothing of it was left, its pin went too.
        if pinned && kept.show(&[hash])?.iter().any(|blob| !blob.pinned) {
            kept.set_pinned(&[hash], true)?;
        }
        Ok(())
    };
    store.blocking(&[hash], keep).await?
}
