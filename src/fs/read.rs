//! Reading an open file.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Filesystem, FsError};
use crate::ids::BlobRange;
use crate::transfer::{FetchError, Priority};

/// How long one read waits for its bytes. A program that handles SIGINT gets it only after the
/// read, so this is what a person can bear; the engine notices a silent holder far earlier, so
/// what takes longer than this is not coming.
pub const READ_DEADLINE: Duration = Duration::from_secs(10);

impl Filesystem {
    /// Reads `len` bytes at `offset` of the file open as `handle`: all of them up to the end of
    /// the file, never fewer. Answers within [`READ_DEADLINE`]. A range that failed a moment ago
    /// fails again at once.
    pub async fn read(&self, handle: u64, offset: u64, len: u32) -> Result<Bytes, FsError> {
        let result = self.read_uncounted(handle, offset, len).await;
        self.metrics.reads.inc();
        match &result {
            Ok(bytes) => self.metrics.read_bytes.add(bytes.len() as u64),
            Err(_) => self.metrics.read_errors.inc(),
        }
        result
    }

    async fn read_uncounted(&self, handle: u64, offset: u64, len: u32) -> Result<Bytes, FsError> {
        let file = self.files.get(handle)?;
        let range = BlobRange::new(offset, offset.saturating_add(u64::from(len))).clip(file.reader.size());
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if let Some(error) = file.failures.lock().of(range, Instant::now()) {
            return Err(error.into());
        }
        let ahead = file.read_ahead.lock().on_read(range);
        if let Some(ahead) = ahead {
            file.reader.prefetch(ahead);
        }
        let wanted = file.reader.read(range, Priority::Foreground);
        let outcome = tokio::time::timeout(READ_DEADLINE, wanted).await.unwrap_or(Err(FetchError::TimedOut));
        match outcome {
            Ok(bytes) if bytes.len() as u64 == range.len() => Ok(bytes),
            Ok(bytes) => Err(FsError::WrongLength { wanted: range.len(), got: bytes.len() as u64 }),
            Err(error) => {
                file.failures.lock().note(range, error.clone(), Instant::now());
                Err(error.into())
            }
        }
    }
}
