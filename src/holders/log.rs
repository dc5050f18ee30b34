//! What each peer did last about a blob, for people who ask why.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::ids::ContentHash;

/// Blobs for which this is remembered; the least recently used is forgotten first.
const MAX_BLOBS: usize = 4096;

/// What a peer said or did when it was asked for a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "statement", rename_all = "lowercase")]
pub enum Statement {
    /// It has all of it.
    All,
    /// It has a part.
    Part {
        /// Groups of 16 KiB that it named.
        groups: u64,
    },
    /// It has none of it.
    None,
    /// It took the question and did not answer in time.
    Silent,
    /// It could not be asked.
    Unreachable {
        /// In words.
        reason: String,
    },
    /// It was to send some of it and did not, or sent something else.
    Failed {
        /// In words.
        reason: String,
    },
}

/// The latest statement of each peer about each blob.
pub(super) struct StatementLog(Mutex<LruCache<ContentHash, Vec<Made>>>);

/// A statement, the index of the peer that made it, and when it did.
type Made = (usize, Statement, Instant);

impl StatementLog {
    pub fn new() -> Self {
        Self(Mutex::new(LruCache::new(NonZeroUsize::new(MAX_BLOBS).expect("the constant is not zero"))))
    }

    /// The peer with index `peer` has just said this about `hash`.
    pub fn note(&self, hash: ContentHash, peer: usize, statement: Statement) {
        let mut log = self.0.lock();
        let statements = log.get_or_insert_mut(hash, Vec::new);
        statements.retain(|(other, ..)| *other != peer);
        statements.push((peer, statement, Instant::now()));
    }

    /// What the peer with index `peer` said last about `hash`, and how long ago.
    pub fn latest(&self, hash: &ContentHash, peer: usize) -> Option<(Statement, Duration)> {
        let log = self.0.lock();
        let (_, statement, at) = log.peek(hash)?.iter().find(|(other, ..)| *other == peer)?;
        Some((statement.clone(), at.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_latest_statement_of_each_peer_counts() {
        let (log, hash) = (StatementLog::new(), ContentHash::of(b"x"));
        log.note(hash, 0, Statement::All);
        log.note(hash, 1, Statement::None);
        log.note(hash, 0, Statement::Silent);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(log.latest(&hash, 0), Some((Statement::Silent, Duration::from_secs(3))));
        assert_eq!(log.latest(&hash, 1).unwrap().0, Statement::None);
        assert_eq!(log.latest(&hash, 2), None);
        assert_eq!(log.latest(&ContentHash::EMPTY, 0), None);
    }
}
