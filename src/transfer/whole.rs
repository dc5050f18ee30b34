//! Whole blobs: complete, and known to be right as they lie on disk, so that the kernel may read them
//! without us.

use std::sync::Arc;

use crate::ids::{ContentHash, Priority};
use crate::store::{Blob, StoreError};
use crate::verify::group_count;

use super::{BlobSource, BlobState, Engine, FetchError};

/// How often a blob is fetched whose groups turn out damaged on disk each time.
const MAX_TRIES: u32 = 3;

impl Engine {
    /// See [`BlobSource::is_whole`].
    pub(super) fn has_whole(&self, hash: &ContentHash) -> bool {
        // While blobs are being evicted none is: it is streamed.
        self.shared.store.blob_at_once(hash).flatten().is_some_and(|blob| blob.is_whole())
    }

    /// See [`BlobSource::make_whole`].
    pub(super) async fn make_it_whole(&self, hash: ContentHash) -> Result<bool, FetchError> {
        for _ in 0..MAX_TRIES {
            if self.state(&hash) != BlobState::Complete {
                self.fetch_as(Priority::Foreground, hash, |_, _| {}).await?;
            }
            match self.check(hash).await {
                Some(Ok(is_whole)) => return Ok(is_whole),
                Some(Err(StoreError::Corrupt { .. } | StoreError::Missing { .. } | StoreError::NotHeld { .. })) => {}
                Some(Err(_)) | None => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Checks what the store has complete, and tells whether that is whole then; `None` if it has not.
    async fn check(&self, hash: ContentHash) -> Option<Result<bool, StoreError>> {
        let blob = self.shared.blob(hash).await.filter(|blob| blob.is_complete() && !blob.is_in_place())?;
        if blob.is_whole() {
            return Some(Ok(true));
        }
        let _place = self.shared.checks.acquire().await.ok()?;
        let check = |blob: &Arc<Blob>| blob.check(0..group_count(blob.size())).map(|()| blob.is_whole());
        blob.blocking(check).await.ok()
    }

    /// See [`BlobSource::check_soon`]. Dropped if a check is under way: the next open asks again.
    pub(super) fn check_in_background(&self, hash: ContentHash) {
        let Ok(turn) = self.shared.checking.clone().try_acquire_owned() else { return };
        let engine = self.clone();
        tokio::spawn(async move {
            let _turn = turn;
            if let Some(Err(error)) = engine.check(hash).await {
                tracing::warn!("checked before it is passed through: {error}");
            }
        });
    }
}
