//! Fetching a blob whole before its open is answered.

use tokio::time::timeout;

use super::{Filesystem, FsError};
use crate::transfer::{BlobState, FetchError};

impl Filesystem {
    /// Fetches what is missing of the blob open as `handle`, and returns when all of it is here, where it
    /// stays as long as it is open. There is no limit to how long that takes, but the deadline of
    /// reads without a byte more is the end. [`FsError::NoRoom`] if the cache cannot take it.
    pub async fn hydrate(&self, handle: u64) -> Result<(), FsError> {
        let file = self.files.get(handle)?;
        let mut whole = self.source.make_whole(file.hash);
        let mut held = self.source.held_bytes(&file.hash);
        loop {
            if let Ok(done) = timeout(self.deadlines.read, &mut whole).await {
                done?;
                break;
            }
            let now = self.source.held_bytes(&file.hash);
            if now <= held {
                return Err(FetchError::TimedOut.into());
            }
            held = now;
        }
        // The reader has it from here on, and with it the cache may not let it go.
        file.reader.hold();
        match self.source.state(&file.hash) {
            BlobState::Complete => Ok(()),
            BlobState::Absent | BlobState::Partial => Err(FsError::NoRoom),
        }
    }
}
