//! The exchanges in flight, for people to look at and to cancel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dashmap::DashMap;

use crate::ids::{ContentHash, PeerId, TransferId};
use crate::metrics::Metrics;

/// One exchange on the requester's side, as it stands now.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TransferStatus {
    /// Its identity, 16 hexadecimal digits.
    pub id: String,
    /// The holder.
    pub peer: PeerId,
    /// The blob.
    pub hash: ContentHash,
    /// Content bytes received and verified so far.
    pub received: u64,
    /// Content bytes asked for; `None` until the holder's answer settles it.
    pub wanted: Option<u64>,
}

/// What the table keeps of an exchange.
#[derive(Debug)]
struct Entry {
    peer: PeerId,
    hash: ContentHash,
    progress: Arc<Progress>,
}

/// How far an exchange is. Written by it, read by whoever looks.
#[derive(Debug, Default)]
pub struct Progress {
    /// Whether a lane was had and the request sent.
    pub sent: AtomicBool,
    /// Whether it waits for this node's own memory or disk, and not for the holder.
    pub held_up: AtomicBool,
    /// Bytes received of whatever follows the answer's head.
    pub wire: AtomicU64,
    /// Content bytes received and verified.
    pub received: AtomicU64,
    /// Content bytes that will come in all; 0 until known.
    pub wanted: AtomicU64,
}

/// All exchanges in flight on the requester's side, by transfer id.
#[derive(Debug, Default)]
pub struct PendingTransfers {
    entries: DashMap<TransferId, Entry>,
    metrics: Arc<Metrics>,
}

impl PendingTransfers {
    /// An empty table.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { entries: DashMap::new(), metrics }
    }

    /// Enters an exchange; it leaves the table when the returned guard is dropped, whatever ends it.
    pub fn enter(self: &Arc<Self>, id: TransferId, peer: PeerId, hash: ContentHash) -> PendingGuard {
        let progress = Arc::new(Progress::default());
        self.entries.insert(id, Entry { peer, hash, progress: progress.clone() });
        self.metrics.transfers_pending.inc();
        PendingGuard { table: self.clone(), id, progress }
    }

    /// All exchanges now, in no order.
    pub fn list(&self) -> Vec<TransferStatus> {
        self.entries
            .iter()
            .map(|entry| {
                let progress = &entry.progress;
                let wanted = progress.wanted.load(Ordering::Relaxed);
                TransferStatus {
                    id: entry.key().to_string(),
                    peer: entry.peer,
                    hash: entry.hash,
                    received: progress.received.load(Ordering::Relaxed),
                    wanted: (wanted > 0).then_some(wanted),
                }
            })
            .collect()
    }
}

/// Keeps an exchange in the table while it lives.
#[derive(Debug)]
pub struct PendingGuard {
    table: Arc<PendingTransfers>,
    id: TransferId,
    /// How far the exchange is.
    pub progress: Arc<Progress>,
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        if self.table.entries.remove(&self.id).is_some() {
            self.table.metrics.transfers_pending.sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_lives_as_long_as_its_guard() {
        let table = Arc::new(PendingTransfers::default());
        let guard = table.enter(TransferId::next(), PeerId::from_bytes([7; 32]), ContentHash::of(b"x"));
        guard.progress.received.store(5, Ordering::Relaxed);
        let listed = table.list();
        assert_eq!((listed.len(), listed[0].received, listed[0].wanted), (1, 5, None));
        drop(guard);
        assert!(table.list().is_empty());
        assert_eq!(table.metrics.transfers_pending.get(), 0);
    }
}
