//! Reading an open file.

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::failures::Failure;
use super::handle::OpenFile;
use super::{Filesystem, FsError};
use crate::ids::BlobRange;
use crate::transfer::{FetchError, Priority};

/// Deadlines that a read may take while bytes come from those who were asked for it. They may be of what was asked for
/// before: many reads share a link. Those who bring this read nothing for long are given up by the engine.
const MAX_DEADLINES: u32 = 30;

impl Filesystem {
    /// What [`Filesystem::read`] would return, if it can be had without waiting.
    pub fn read_at_hand(&self, handle: u64, offset: u64, len: u32) -> Option<Bytes> {
        let file = self.files.get(handle).ok()?;
        let range = BlobRange::new(offset, offset.saturating_add(u64::from(len))).clip(file.reader.size());
        let bytes = file.reader.read_at_hand(range).filter(|bytes| bytes.len() as u64 == range.len())?;
        note_read(&file, range);
        self.metrics.reads.inc();
        self.metrics.read_bytes.add(bytes.len() as u64);
        Some(bytes)
    }

    /// Reads `len` bytes at `offset` of the file open as `handle`: all of them up to the end of
    /// the file, never fewer. Fails when the deadline of reads passes while nothing comes. A range that
    /// failed a moment ago fails again at once; a part of it, unless it is at hand.
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
        let failure = file.failures.lock().of(range, Instant::now());
        if let Some(Failure { error, of_more }) = failure {
            let start = Instant::now();
            // The kernel reads more than it was asked for, and when that fails, only what it was asked for: that may be
            // here although the rest is not.
            let here = if of_more { self.read_here(&file, range).await } else { None };
            file.failures.lock().discount(start.elapsed(), Instant::now());
            return here.ok_or_else(|| error.into());
        }
        note_read(&file, range);
        match self.read_while_something_comes(&file, range).await {
            Ok(bytes) if bytes.len() as u64 == range.len() => Ok(bytes),
            Ok(bytes) => Err(FsError::WrongLength { wanted: range.len(), got: bytes.len() as u64 }),
            Err(error) => {
                file.failures.lock().note(range, error.clone(), Instant::now());
                Err(error.into())
            }
        }
    }

    /// The bytes of `range` if they can be had without a holder.
    async fn read_here(&self, file: &OpenFile, range: BlobRange) -> Option<Bytes> {
        let bytes = timeout(self.deadlines.read, file.reader.read_here(range)).await.ok()??;
        (bytes.len() as u64 == range.len()).then_some(bytes)
    }

    /// Reads `range`, giving up when a deadline passes in which nothing came from those who were asked.
    async fn read_while_something_comes(&self, file: &OpenFile, range: BlobRange) -> Result<Bytes, FetchError> {
        let mut wanted = file.reader.read(range, Priority::Foreground);
        let mut progress = self.source.progress(&file.hash);
        for _ in 0..MAX_DEADLINES {
            if let Ok(outcome) = timeout(self.deadlines.read, &mut wanted).await {
                return outcome;
            }
            let before = std::mem::replace(&mut progress, self.source.progress(&file.hash));
            if progress == before {
                break;
            }
        }
        Err(FetchError::TimedOut)
    }
}

/// Has fetched ahead what this read makes likely.
fn note_read(file: &OpenFile, range: BlobRange) {
    if range.is_empty() {
        return;
    }
    let ahead = file.read_ahead.lock().on_read(range, || file.reader.most_ahead());
    if let Some(ahead) = ahead {
        file.reader.prefetch(ahead);
    }
}
