//! Which peers sent wrong bytes of which blob: they are not asked for it again.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::ids::ContentHash;

/// How long it is remembered: a holder whose disk was damaged may have mended it.
const MEMORY: Duration = Duration::from_secs(600);

/// For how many blobs and peers; what happened longest ago is forgotten first.
const MAX_REMEMBERED: usize = 4096;

/// Peers that sent wrong bytes of a blob, by blob and index of the peer.
pub(super) struct Distrust(Mutex<LruCache<(ContentHash, usize), Instant>>);

impl Distrust {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(NonZeroUsize::new(MAX_REMEMBERED).expect("the constant is not zero"))))
    }

    /// The peer with index `peer` has just sent wrong bytes of `hash`.
    pub(super) fn note(&self, hash: ContentHash, peer: usize) {
        self.0.lock().put((hash, peer), Instant::now());
    }

    /// Whether the peer with index `peer` is not to be asked for `hash`.
    pub(super) fn applies(&self, hash: &ContentHash, peer: usize) -> bool {
        self.0.lock().peek(&(*hash, peer)).is_some_and(|at| at.elapsed() < MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wrong_bytes_are_remembered_of_one_blob_and_one_peer_for_a_while() {
        let (distrust, hash) = (Distrust::new(), ContentHash::of(b"x"));
        distrust.note(hash, 1);
        assert!(distrust.applies(&hash, 1) && !distrust.applies(&hash, 0));
        assert!(!distrust.applies(&ContentHash::EMPTY, 1));
        tokio::time::advance(MEMORY).await;
        assert!(!distrust.applies(&hash, 1));
    }
}
