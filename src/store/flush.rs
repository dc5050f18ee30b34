//! Making durable what was written, and telling the index.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::StoreError;
use super::blob::Blob;
use super::index::Batch;
use super::layout::{SYNC_FILE_SYSTEM_FROM, sync_file_system};
use super::shared::{Shared, Snapshot};
use crate::ids::ContentHash;

/// What the index is to be told.
enum Change<'a> {
    Put(&'a Snapshot),
    Touch(&'a ContentHash, u64),
}

impl Change<'_> {
    fn carry_out(&self, batch: &mut Batch) -> Result<(), redb::Error> {
        match self {
            Self::Put(snapshot) if snapshot.blob.is_backed_by(&snapshot.files) => {
                batch.put(&snapshot.blob.hash(), &snapshot.record).map(drop)
            }
            Self::Put(_) => Ok(()),
            Self::Touch(hash, last_use) => batch.touch(hash, *last_use),
        }
    }
}

impl Shared {
    /// Puts `blob` on the list of the next flush. The caller has noted in it that it is there.
    pub fn queue(&self, blob: Arc<Blob>) {
        let mut pending = self.pending.lock();
        if !pending.closing {
            pending.blobs.push(blob);
            self.metrics.store_unflushed_blobs.inc();
            // The flusher waits for the first one, and then for time to pass or for so many.
            if pending.blobs.len() == 1 || pending.blobs.len() == self.enough_unflushed() {
                self.wake.notify_all();
            }
        }
    }

    /// For so many blobs that wait for a flush no more are waited for: half of those that may.
    pub fn enough_unflushed(&self) -> usize {
        self.max_unflushed / 2
    }

    /// Flushes if very many blobs wait for that.
    pub fn limit_unflushed(&self) -> Result<(), StoreError> {
        let too_many = self.pending.lock().blobs.len() >= self.max_unflushed;
        if too_many { self.flush() } else { Ok(()) }
    }

    /// Notes that something was written just now.
    pub fn note_write(&self) {
        self.last_write.store(self.opened_at.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// When something was written last.
    pub fn last_write(&self) -> Instant {
        self.opened_at + Duration::from_millis(self.last_write.load(Ordering::Relaxed))
    }

    /// See [`super::Store::flush`].
    pub fn flush(&self) -> Result<(), StoreError> {
        let _flushing = self.flushing.lock();
        let (blobs, touches) = {
            let mut pending = self.pending.lock();
            (std::mem::take(&mut pending.blobs), std::mem::take(&mut pending.touches))
        };
        let count = blobs.len() as u64;
        let flushed = self.flush_taken(blobs, touches);
        self.metrics.store_unflushed_blobs.sub(count);
        flushed
    }

    fn flush_taken(&self, blobs: Vec<Arc<Blob>>, mut touches: HashMap<ContentHash, u64>) -> Result<(), StoreError> {
        let mut snapshots: Vec<Snapshot> = blobs.into_iter().filter_map(Blob::snapshot).collect();
        // Their records tell of their last use, too.
        for snapshot in &snapshots {
            touches.remove(&snapshot.blob.hash());
        }
        if snapshots.is_empty() && touches.is_empty() {
            return Ok(());
        }
        let synced = self.sync(&mut snapshots);
        let _structure = self.structure.read();
        let written = self.write_flushed(&snapshots, &touches);
        self.nothing_to_evict.store(false, Ordering::Relaxed);
        if written.is_err() {
            self.metrics.store_write_errors.inc();
            for snapshot in &snapshots {
                snapshot.blob.queue(&mut snapshot.blob.state());
            }
        }
        written.and(synced)
    }

    /// Tells the index, in commits of which each adds little to it.
    fn write_flushed(&self, snapshots: &[Snapshot], touches: &HashMap<ContentHash, u64>) -> Result<(), StoreError> {
        let limit = self.space.entries_per_commit();
        let put = snapshots.iter().map(Change::Put);
        let changes: Vec<_> =
            put.chain(touches.iter().map(|(hash, last_use)| Change::Touch(hash, *last_use))).collect();
        for part in changes.chunks(limit) {
            self.write_index(|batch| part.iter().try_for_each(|change| change.carry_out(batch)))?;
        }
        Ok(())
    }

    /// Makes the files of `snapshots` durable. What could not be made durable may be lost even if a
    /// second try seems to succeed, so it is dropped, and the first error returned.
    fn sync(&self, snapshots: &mut Vec<Snapshot>) -> Result<(), StoreError> {
        if snapshots.len() >= SYNC_FILE_SYSTEM_FROM && sync_file_system(self.layout.dir()).is_ok() {
            return Ok(());
        }
        let mut result = Ok(());
        snapshots.retain(|snapshot| {
            let Err(error) = snapshot.files.sync(&self.layout, &snapshot.blob.hash()) else { return true };
            self.metrics.store_write_errors.inc();
            let forgotten = snapshot.blob.drop_all(&snapshot.files);
            if result.is_ok() {
                result = forgotten.and(Err(error));
            }
            false
        });
        result
    }
}
