//! What peers said lately, so that they are not asked again for every read.

use std::time::Duration;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::ids::ContentHash;
use crate::wire::HaveAnswer;

/// How long "I have all of it" is believed without asking again.
const COMPLETE_TTL: Duration = Duration::from_secs(60);

/// How long "I have a part" is believed: parts grow.
const PARTIAL_TTL: Duration = Duration::from_secs(1);

/// How long "I have none" is believed: short, since a blob may be added at any time.
const NONE_TTL: Duration = Duration::from_millis(500);

/// Blobs whose answers are remembered.
const MAX_BLOBS: usize = 16 * 1024;

/// The answers of all peers, by blob; the least recently used blob is forgotten first.
pub(super) struct Answers {
    by_blob: Mutex<LruCache<ContentHash, Vec<Answer>>>,
}

struct Answer {
    peer: usize,
    said: HaveAnswer,
    at: Instant,
}

impl Answers {
    pub(super) fn new() -> Self {
        let capacity = std::num::NonZeroUsize::new(MAX_BLOBS).expect("the constant is not zero");
        Self { by_blob: Mutex::new(LruCache::new(capacity)) }
    }

    /// Remembers what the peer with index `peer` said about `hash` just now.
    pub(super) fn put(&self, hash: ContentHash, peer: usize, said: HaveAnswer) {
        let mut by_blob = self.by_blob.lock();
        let answers = by_blob.get_or_insert_mut(hash, Vec::new);
        answers.retain(|answer| answer.peer != peer);
        answers.push(Answer { peer, said, at: Instant::now() });
    }

    /// What the peer with index `peer` said about `hash`, if that still counts.
    pub(super) fn get(&self, hash: &ContentHash, peer: usize) -> Option<HaveAnswer> {
        let mut by_blob = self.by_blob.lock();
        let answer = by_blob.get(hash)?.iter().find(|answer| answer.peer == peer)?;
        let ttl = match answer.said {
            HaveAnswer::Complete | HaveAnswer::Content { .. } => COMPLETE_TTL,
            HaveAnswer::Partial { .. } => PARTIAL_TTL,
            HaveAnswer::None => NONE_TTL,
        };
        (answer.at.elapsed() < ttl).then(|| answer.said.clone())
    }

    /// The indices of the peers that said they have some of `hash`, however long ago.
    pub(super) fn holders(&self, hash: &ContentHash) -> Vec<usize> {
        let by_blob = self.by_blob.lock();
        let answers = by_blob.peek(hash).map(Vec::as_slice).unwrap_or_default();
        answers.iter().filter(|answer| answer.said != HaveAnswer::None).map(|answer| answer.peer).collect()
    }

    /// Whether a peer said that it has a part of `hash`, however long ago.
    pub(super) fn some_part(&self, hash: &ContentHash) -> bool {
        let is_part = |answer: &Answer| matches!(answer.said, HaveAnswer::Partial { .. });
        self.by_blob.lock().peek(hash).is_some_and(|answers| answers.iter().any(is_part))
    }

    /// Forgets who said to have a part of `hash`, or none: it may be more by now.
    pub(super) fn forget_incomplete(&self, hash: &ContentHash) {
        if let Some(answers) = self.by_blob.lock().peek_mut(hash) {
            answers.retain(|answer| answer.said == HaveAnswer::Complete);
        }
    }

    /// Forgets what the peer with index `peer` said about `hash`.
    pub(super) fn forget(&self, hash: &ContentHash, peer: usize) {
        if let Some(answers) = self.by_blob.lock().peek_mut(hash) {
            answers.retain(|answer| answer.peer != peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn yes_is_believed_longer_than_no() {
        let answers = Answers::new();
        let hash = ContentHash::of(b"x");
        answers.put(hash, 0, HaveAnswer::Complete);
        answers.put(hash, 1, HaveAnswer::None);
        assert_eq!(answers.get(&hash, 1), Some(HaveAnswer::None));
        tokio::time::advance(NONE_TTL).await;
        assert_eq!(answers.get(&hash, 0), Some(HaveAnswer::Complete));
        assert_eq!(answers.get(&hash, 1), None);
        assert_eq!(answers.holders(&hash), [0]);
        answers.forget(&hash, 0);
        assert_eq!(answers.get(&hash, 0), None);
    }
}
