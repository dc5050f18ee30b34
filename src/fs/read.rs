//! Reading an open file.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::{Filesystem, FsError};
use crate::ids::BlobRange;
use crate::transfer::{BlobReader, FetchError, Priority};

/// How long one read waits for its bytes while none arrive. A program that handles SIGINT gets it
/// only after the read, so this is what a person can bear; the engine notices a silent holder far
/// earlier, so what takes longer than this is not coming.
pub const READ_DEADLINE: Duration = Duration::from_secs(10);

/// What must have arrived in a [`READ_DEADLINE`] for the read to get another one, in bytes, in
/// order from its beginning. The kernel reads up to 1 MiB at once, and a link that brings it in
/// 20 s is slow, not dead. A read thus ends within 8 deadlines at the latest.
const PROGRESS: u64 = 128 * 1024;

/// How long bytes that have arrived may take from the disk.
const AT_HAND: Duration = Duration::from_millis(200);

impl Filesystem {
    /// Reads `len` bytes at `offset` of the file open as `handle`: all of them up to the end of
    /// the file, never fewer. Fails when [`READ_DEADLINE`] passes without progress. A range that
    /// failed a moment ago fails again at once.
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
        match read_while_it_comes(&*file.reader, range).await {
            Ok(bytes) if bytes.len() as u64 == range.len() => Ok(bytes),
            Ok(bytes) => Err(FsError::WrongLength { wanted: range.len(), got: bytes.len() as u64 }),
            Err(error) => {
                file.failures.lock().note(range, error.clone(), Instant::now());
                Err(error.into())
            }
        }
    }
}

/// Reads `range`, giving up when a deadline passes in which too little of it arrived.
async fn read_while_it_comes(reader: &dyn BlobReader, range: BlobRange) -> Result<Bytes, FetchError> {
    let mut wanted = reader.read(range, Priority::Foreground);
    let mut arrived = range.start;
    loop {
        if let Ok(outcome) = timeout(READ_DEADLINE, &mut wanted).await {
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
