//! Fetching a blob whole before its open is answered.

use tokio::time::timeout;

use super::{Filesystem, FsError};
use crate::transfer::{BlobState, FetchError};

impl Filesystem {
    /// Fetches what is missing of the blob open as `handle`, and returns when all of it is here, where it
    /// stays as long as it is open. There is no limit to how long that takes, but the deadline of
    /// reads is the end if nothing comes meanwhile. [`FsError::NoRoom`] if the cache cannot take it.
    pub async fn hydrate(&self, handle: u64) -> Result<(), FsError> {
        let file = self.files.get(handle)?;
        let mut whole = self.source.make_whole(file.hash);
        let progress = || (self.source.held_bytes(&file.hash), self.source.progress(&file.hash));
        let mut before = progress();
        loop {
            if let Ok(done) = timeout(self.deadlines.read, &mut whole).await {
                done?;
                break;
            }
            if self.source.state(&file.hash) == BlobState::Complete {
                // It is only being checked, as each read of it is.
                break;
            }
            let now = progress();
            if now == before {
                return Err(FetchError::TimedOut.into());
            }
            before = now;
        }
        // The reader has it from here on, and with it the cache may not let it go.
        file.reader.hold().await;
        match self.source.state(&file.hash) {
            BlobState::Complete => Ok(()),
            BlobState::Absent | BlobState::Partial => Err(FsError::NoRoom),
        }
    }
}
