//! For asynchronous callers: what blocks, on the threads of the runtime that are there for it.
//!
//! A file of the user's may lie on a file system that hangs, and whoever reads it then keeps a thread for as long
//! as that does. So only some of the threads may have to do with such files at a time: the others read what lies
//! in the store itself. Who waits for one of those few keeps no thread, and may stop waiting.

use std::fs;
use std::sync::Arc;

use super::blob::Blob;
use super::record::Origin;
use super::shared::Shared;
use super::{Store, StoreError};
use crate::ids::ContentHash;

/// Threads that may have to do with files of users at a time: as many reads as keep a disk busy, and a fraction of
/// the threads that a node has.
pub const MAX_IN_PLACE_THREADS: usize = 8;

impl Store {
    /// [`Store::blob`], on another thread if it cannot be opened at once.
    pub async fn blob_soon(&self, hash: ContentHash) -> Result<Option<Arc<Blob>>, StoreError> {
        match self.blob_at_once(&hash) {
            Some(blob) => Ok(blob),
            None => {
                let store = self.clone();
                self.blocking(&[hash], move || store.blob(&hash)).await?
            }
        }
    }

    /// Whether `hash` may be served from a file of the user's, so that [`Store::blocking`] has to know of it.
    pub fn may_be_in_place(&self, hash: &ContentHash) -> bool {
        self.shared.may_be_in_place(hash)
    }

    /// Does `work` on another thread, which may have to do with the files of `hashes`, and with no other file of a user.
    /// It goes on if nobody waits for it any more, but is not begun then.
    ///
    /// # Errors
    /// If it panics.
    pub async fn blocking<T: Send + 'static>(
        &self,
        hashes: &[ContentHash],
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        self.shared.blocking(hashes.iter().any(|hash| self.shared.may_be_in_place(hash)), work).await
    }
}

impl Blob {
    /// The same for an open blob, which `work` is given.
    ///
    /// # Errors
    /// If it panics.
    pub async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let blob = self.clone();
        self.shared.blocking(self.needs_users_file(), move || work(&blob)).await
    }

    /// Whether it is read from a file of the user's, or was when it was removed.
    fn needs_users_file(&self) -> bool {
        let state = self.state();
        state.origin == Origin::Reference || state.removed.as_ref().is_some_and(|removed| removed.files.in_place)
    }
}

impl Shared {
    async fn blocking<T: Send + 'static>(
        &self,
        in_place: bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let place = match in_place {
            true => self.in_place_threads.clone().acquire_owned().await.ok(),
            false => None,
        };
        // Taken until the thread is free, whoever still waits for it.
        let work = move || {
            let _place = place;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| StoreError::Said(error.to_string()))
    }

    /// Whether `hash` is served from a file of the user's. While the index is made anew it may not say so, and the link
    /// has to be looked at.
    fn may_be_in_place(&self, hash: &ContentHash) -> bool {
        if let Some(blob) = self.opened(hash) {
            return blob.needs_users_file();
        }
        match self.index.get(hash) {
            Ok(Some(record)) => record.origin == Origin::Reference,
            Ok(None) | Err(_) => {
                let is_link = || fs::symlink_metadata(self.layout.content(hash)).is_ok_and(|found| found.is_symlink());
                self.recovery.is_rebuilding() && is_link()
            }
        }
    }
}
