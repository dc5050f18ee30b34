//! The blobs that are being sent: one transfer a requester and transfer id, however many requests.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::sync::{Arc, Weak};

use lru::LruCache;
use parking_lot::Mutex;

use crate::ids::{ContentHash, PeerId, TransferId};
use crate::metrics::Metrics;
use crate::transfer::status::{Direction, TransferStatus};
use crate::transfer::table::{ExchangeGuard, Transfer, TransferTable};

/// Cancelled transfers that are remembered, so that their requesters are refused.
const MAX_CANCELLED: usize = 1024;

/// A transfer as it is known here: requesters choose their ids themselves.
type Key = (PeerId, TransferId);

/// All transfers to peers.
pub(super) struct Sending {
    table: Arc<TransferTable>,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    transfers: HashMap<Key, Weak<Transfer>>,
    cancelled: LruCache<Key, ()>,
}

impl Sending {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let most = NonZeroUsize::new(MAX_CANCELLED).expect("the constant is not zero");
        let inner = Inner { transfers: HashMap::new(), cancelled: LruCache::new(most) };
        Self { table: TransferTable::new(Direction::Serve, metrics), inner: Arc::new(Mutex::new(inner)) }
    }

    /// Enters a request; it is counted until what is returned is dropped. `None` if the transfer has
    /// been cancelled.
    pub fn enter(&self, peer: PeerId, id: TransferId, hash: ContentHash) -> Option<Sent> {
        let (key, mut inner) = ((peer, id), self.inner.lock());
        if inner.cancelled.contains(&key) {
            return None;
        }
        let known = inner.transfers.get(&key).and_then(Weak::upgrade);
        let transfer = known.unwrap_or_else(|| {
            let transfer = Arc::new(self.table.enter(id, hash, None));
            inner.transfers.insert(key, Arc::downgrade(&transfer));
            transfer
        });
        let exchange = transfer.exchange(peer);
        Some(Sent { key, transfer: Some(transfer), exchange, inner: self.inner.clone() })
    }

    pub fn list(&self) -> Vec<TransferStatus> {
        self.table.list()
    }

    pub fn cancel(&self, id: TransferId) -> bool {
        let mut inner = self.inner.lock();
        let named: Vec<_> = inner.transfers.keys().filter(|key| key.1 == id).copied().collect();
        for key in named {
            inner.cancelled.put(key, ());
        }
        self.table.cancel(id).is_some()
    }
}

/// A request that is being answered.
pub(super) struct Sent {
    key: Key,
    /// There until this is dropped.
    transfer: Option<Arc<Transfer>>,
    exchange: ExchangeGuard,
    inner: Arc<Mutex<Inner>>,
}

impl Sent {
    /// Content bytes were sent.
    pub fn note_content(&self, bytes: u64) {
        self.exchange.note_content(bytes);
    }
}

impl Deref for Sent {
    type Target = Transfer;

    fn deref(&self) -> &Transfer {
        self.transfer.as_ref().expect("it is there until this is dropped")
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let mut inner = self.inner.lock();
        self.transfer = None;
        if inner.transfers.get(&self.key).is_some_and(|transfer| transfer.strong_count() == 0) {
            inner.transfers.remove(&self.key);
        }
    }
}
