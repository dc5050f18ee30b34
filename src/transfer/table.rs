//! The transfers under way, for people to look at and to cancel.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::status::{Direction, PeerShare, TransferState, TransferStatus};
use crate::ids::{ContentHash, PeerId, TransferId};
use crate::metrics::{Metric, Metrics};

/// Transfers of one direction, by id (and by peer, since a peer chooses its ids itself).
#[derive(Debug)]
pub struct TransferTable {
    direction: Direction,
    entries: Mutex<Vec<Arc<Entry>>>,
    metrics: Arc<Metrics>,
}

/// What the table keeps of a transfer.
#[derive(Debug)]
struct Entry {
    id: TransferId,
    hash: ContentHash,
    began: Instant,
    /// Bytes of the blob; 0 until known.
    total: AtomicU64,
    state: Mutex<TransferState>,
    shares: Mutex<Vec<PeerShare>>,
    cancelled: watch::Sender<bool>,
}

impl TransferTable {
    /// An empty table.
    pub fn new(direction: Direction, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { direction, entries: Mutex::default(), metrics })
    }

    /// How many exchanges of this direction are under way (gauge).
    fn gauge(&self) -> &Metric {
        match self.direction {
            Direction::Fetch => &self.metrics.transfers_pending,
            Direction::Serve => &self.metrics.serving_pending,
        }
    }

    /// Enters a transfer; it leaves the table when what is returned is dropped, whatever ends it.
    pub fn enter(self: &Arc<Self>, id: TransferId, hash: ContentHash, size: Option<u64>) -> Transfer {
        let entry = Arc::new(Entry {
            id,
            hash,
            began: Instant::now(),
            total: AtomicU64::new(size.unwrap_or(0)),
            state: Mutex::new(TransferState::Waiting),
            shares: Mutex::default(),
            cancelled: watch::Sender::new(false),
        });
        self.entries.lock().push(entry.clone());
        Transfer { table: self.clone(), entry }
    }

    /// All transfers now, the oldest first.
    pub fn list(&self) -> Vec<TransferStatus> {
        self.entries.lock().iter().map(|entry| entry.status(self.direction)).collect()
    }

    /// Bytes that have come of `hash` in transfers under way, and the peers that are being asked for more.
    pub fn progress(&self, hash: &ContentHash) -> (u64, Vec<PeerId>) {
        let (mut done, mut asked) = (0, Vec::new());
        for entry in self.entries.lock().iter().filter(|entry| entry.hash == *hash) {
            for share in entry.shares.lock().iter() {
                done += share.done;
                asked.extend((share.exchanges > 0).then_some(share.peer));
            }
        }
        (done, asked)
    }

    /// Tells the transfer with this id to end, and which blob it is of. `None` if there is none.
    pub fn cancel(&self, id: TransferId) -> Option<ContentHash> {
        let entries = self.entries.lock();
        let mut hash = None;
        for entry in entries.iter().filter(|entry| entry.id == id) {
            entry.cancelled.send_replace(true);
            hash = Some(entry.hash);
        }
        hash
    }
}

impl Entry {
    fn status(&self, direction: Direction) -> TransferStatus {
        let peers = self.shares.lock().clone();
        let done = peers.iter().map(|share| share.done).sum();
        let total = self.total.load(Ordering::Relaxed);
        let age = self.began.elapsed();
        TransferStatus {
            id: self.id.to_string(),
            direction,
            hash: self.hash,
            state: *self.state.lock(),
            done,
            total: (total > 0).then_some(total),
            rate: (done as f64 / age.as_secs_f64().max(1e-3)) as u64,
            age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            peers,
        }
    }

    fn with_share(&self, peer: PeerId, change: impl FnOnce(&mut PeerShare)) {
        let mut shares = self.shares.lock();
        let at = shares.iter().position(|share| share.peer == peer).unwrap_or_else(|| {
            shares.push(PeerShare { peer, done: 0, exchanges: 0 });
            shares.len() - 1
        });
        change(&mut shares[at]);
    }
}

/// Keeps a transfer in the table while it lives.
#[derive(Debug)]
pub struct Transfer {
    table: Arc<TransferTable>,
    entry: Arc<Entry>,
}

impl Transfer {
    /// Its id.
    pub fn id(&self) -> TransferId {
        self.entry.id
    }

    /// The blob's size is proven.
    pub fn note_size(&self, size: u64) {
        self.entry.total.store(size, Ordering::Relaxed);
    }

    /// How it is doing.
    pub fn note_state(&self, state: TransferState) {
        *self.entry.state.lock() = state;
    }

    /// Enters an exchange with `peer`; it is counted until what is returned is dropped.
    pub fn exchange(&self, peer: PeerId) -> ExchangeGuard {
        self.entry.with_share(peer, |share| share.exchanges += 1);
        self.table.gauge().inc();
        ExchangeGuard { table: self.table.clone(), entry: self.entry.clone(), peer, progress: Arc::default() }
    }

    /// Ready when somebody cancelled it.
    pub async fn cancelled(&self) {
        // The entry lives as long as this does.
        let _ = self.entry.cancelled.subscribe().wait_for(|cancelled| *cancelled).await;
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.table.entries.lock().retain(|entry| !Arc::ptr_eq(entry, &self.entry));
    }
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
}

/// Counts an exchange while it lives.
#[derive(Debug)]
pub struct ExchangeGuard {
    table: Arc<TransferTable>,
    entry: Arc<Entry>,
    peer: PeerId,
    /// How far the exchange is.
    pub progress: Arc<Progress>,
}

impl ExchangeGuard {
    /// Content bytes were verified, or sent.
    pub fn note_content(&self, bytes: u64) {
        self.progress.received.fetch_add(bytes, Ordering::Relaxed);
        self.entry.with_share(self.peer, |share| share.done += bytes);
    }
}

impl Drop for ExchangeGuard {
    fn drop(&mut self) {
        self.entry.with_share(self.peer, |share| share.exchanges -= 1);
        self.table.gauge().sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> PeerId {
        PeerId::from_bytes([number; 32])
    }

    #[tokio::test(start_paused = true)]
    async fn a_transfer_is_listed_with_what_each_peer_does_until_it_ends() {
        let metrics = Arc::new(Metrics::default());
        let table = TransferTable::new(Direction::Fetch, metrics.clone());
        let transfer = table.enter(TransferId::next(), ContentHash::of(b"x"), None);
        let (first, second) = (transfer.exchange(peer(1)), transfer.exchange(peer(2)));
        first.note_content(600);
        second.note_content(400);
        drop(second);
        transfer.note_size(5000);
        transfer.note_state(TransferState::Moving);
        tokio::time::advance(std::time::Duration::from_secs(2)).await;
        let listed = table.list();
        let [status] = &listed[..] else { panic!("{listed:?}") };
        assert_eq!((status.done, status.total, status.rate, status.age_ms), (1000, Some(5000), 500, 2000));
        let shares: Vec<_> = status.peers.iter().map(|share| (share.peer, share.done, share.exchanges)).collect();
        assert_eq!(shares, [(peer(1), 600, 1), (peer(2), 400, 0)]);
        assert_eq!(metrics.transfers_pending.get(), 1);
        drop((first, transfer));
        assert!(table.list().is_empty());
        assert_eq!(metrics.transfers_pending.get(), 0);
    }

    #[tokio::test]
    async fn only_the_transfer_named_is_cancelled() {
        let table = TransferTable::new(Direction::Serve, Arc::default());
        let enter = || table.enter(TransferId::next(), ContentHash::EMPTY, Some(0));
        let (one, other) = (enter(), enter());
        assert!(table.cancel(one.id()).is_some());
        assert!(table.cancel(TransferId::next()).is_none());
        tokio::select! {
            biased;
            () = other.cancelled() => panic!("the wrong one"),
            () = one.cancelled() => {}
        }
    }
}
