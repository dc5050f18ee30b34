//! Reading an open file.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::failures::Failure;
use super::handle::OpenFile;
use super::{Filesystem, FsError};
use crate::ids::BlobRange;
use crate::transfer::{BlobReader, FetchError, Priority};

/// What must have arrived within the deadline of reads for the read to get another one, in bytes, in
/// order from its beginning. The kernel reads up to 1 MiB at once, and a link that brings it in
/// 20 s is slow, not dead. A read thus ends within 8 deadlines at the latest.
const PROGRESS: u64 = 128 * 1024;

/// How long bytes that have arrived may take from the disk.
const AT_HAND: Duration = Duration::from_millis(200);

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
    /// the file, never fewer. Fails when the deadline of reads passes without progress. A range that
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
            let at_hand = if of_more { read_at_hand(&*file.reader, range).await } else { None };
            file.failures.lock().discount(start.elapsed(), Instant::now());
            return at_hand.ok_or_else(|| error.into());
        }
        note_read(&file, range);
        match read_while_it_comes(&*file.reader, range, self.deadlines.read).await {
            Ok(bytes) if bytes.len() as u64 == range.len() => Ok(bytes),
            Ok(bytes) => Err(FsError::WrongLength { wanted: range.len(), got: bytes.len() as u64 }),
            Err(error) => {
                file.failures.lock().note(range, error.clone(), Instant::now());
                Err(error.into())
            }
        }
    }
}

/// The bytes of `range` if they can be had without waiting for a holder. The kernel reads more than
/// it was asked for, and when that fails, only what it was asked for: that may be here although the
/// rest is not.
async fn read_at_hand(reader: &dyn BlobReader, range: BlobRange) -> Option<Bytes> {
    let bytes = timeout(AT_HAND, reader.read(range, Priority::Foreground)).await.ok()?.ok()?;
    (bytes.len() as u64 == range.len()).then_some(bytes)
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

/// Reads `range`, giving up when a deadline passes in which too little of it arrived.
async fn read_while_it_comes(
    reader: &dyn BlobReader,
    range: BlobRange,
    deadline: Duration,
) -> Result<Bytes, FetchError> {
    let mut wanted = reader.read(range, Priority::Foreground);
    let mut arrived = range.start;
    loop {
        if let Ok(outcome) = timeout(deadline, &mut wanted).await {
            return outcome;
        }
        let next = BlobRange::new(arrived, arrived.saturating_add(PROGRESS));
        if next.end >= range.end {
            return Err(FetchError::TimedOut);
        }
        match timeout(AT_HAND, reader.read(next, Priority::Foreground)).await {
            Ok(Ok(_)) => arrived = next.end,
            Ok(Err(error)) => return Err(error),
            Err(_elapsed) => return Err(FetchError::TimedOut),
        }
    }
}
