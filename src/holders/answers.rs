//! What peers said lately, so that they are not asked again for every read.

use std::collections::VecDeque;
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

/// Answers that name parts that are remembered; with up to 256 ranges each they take 4 MiB. The oldest is forgotten
/// first.
const MAX_PARTS: usize = 1024;

/// The answers of all peers, by blob; the least recently used blob is forgotten first.
pub(super) struct Answers(Mutex<Inner>);

struct Inner {
    by_blob: LruCache<ContentHash, Vec<Answer>>,
    /// Blob and peer of the answers that name parts, the oldest first.
    parts: VecDeque<(ContentHash, usize)>,
}

struct Answer {
    peer: usize,
    said: HaveAnswer,
    at: Instant,
}

impl Answers {
    pub(super) fn new() -> Self {
        let capacity = std::num::NonZeroUsize::new(MAX_BLOBS).expect("the constant is not zero");
        Self(Mutex::new(Inner { by_blob: LruCache::new(capacity), parts: VecDeque::new() }))
    }

    /// Remembers what the peer with index `peer` said about `hash` just now.
    pub(super) fn put(&self, hash: ContentHash, peer: usize, said: HaveAnswer) {
        let mut inner = self.0.lock();
        inner.parts.retain(|part| *part != (hash, peer));
        if matches!(said, HaveAnswer::Partial { .. }) {
            if inner.parts.len() == MAX_PARTS
                && let Some((hash, peer)) = inner.parts.pop_front()
                && let Some(answers) = inner.by_blob.peek_mut(&hash)
            {
                answers.retain(|answer| answer.peer != peer);
            }
            inner.parts.push_back((hash, peer));
        }
        let answers = inner.by_blob.get_or_insert_mut(hash, Vec::new);
        answers.retain(|answer| answer.peer != peer);
        answers.push(Answer { peer, said, at: Instant::now() });
    }

    /// What the peer with index `peer` said about `hash`, if that still counts.
    pub(super) fn get(&self, hash: &ContentHash, peer: usize) -> Option<HaveAnswer> {
        let mut inner = self.0.lock();
        let answer = inner.by_blob.get(hash)?.iter().find(|answer| answer.peer == peer)?;
        let ttl = match answer.said {
            HaveAnswer::Complete | HaveAnswer::WithEnd { .. } => COMPLETE_TTL,
            HaveAnswer::Partial { .. } => PARTIAL_TTL,
            HaveAnswer::None => NONE_TTL,
        };
        (answer.at.elapsed() < ttl).then(|| answer.said.clone())
    }

    /// The indices of the peers that said they have some of `hash`, however long ago.
    pub(super) fn holders(&self, hash: &ContentHash) -> Vec<usize> {
        let inner = self.0.lock();
        let answers = inner.by_blob.peek(hash).map(Vec::as_slice).unwrap_or_default();
        answers.iter().filter(|answer| answer.said != HaveAnswer::None).map(|answer| answer.peer).collect()
    }

    /// Whether a peer said that it has a part of `hash`, however long ago.
    pub(super) fn some_part(&self, hash: &ContentHash) -> bool {
        let is_part = |answer: &Answer| matches!(answer.said, HaveAnswer::Partial { .. });
        self.0.lock().by_blob.peek(hash).is_some_and(|answers| answers.iter().any(is_part))
    }

    /// Forgets who said to have a part of `hash`, or none: it may be more by now.
    pub(super) fn forget_incomplete(&self, hash: &ContentHash) {
        if let Some(answers) = self.0.lock().by_blob.peek_mut(hash) {
            answers.retain(|answer| answer.said == HaveAnswer::Complete);
        }
    }

    /// Forgets what the peer with index `peer` said about `hash`.
    pub(super) fn forget(&self, hash: &ContentHash, peer: usize) {
        if let Some(answers) = self.0.lock().by_blob.peek_mut(hash) {
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

    #[tokio::test(start_paused = true)]
    async fn so_many_parts_are_remembered_and_no_more() {
        let answers = Answers::new();
        let hash = |number: usize| ContentHash::of(&number.to_le_bytes());
        let part = || HaveAnswer::Partial { ranges: vec![(0, 1)] };
        for number in 0..MAX_PARTS {
            answers.put(hash(number), 0, part());
            answers.put(hash(number), 0, part());
        }
        assert_eq!(answers.get(&hash(0), 0), Some(part()), "each is counted once");
        answers.put(hash(0), 0, HaveAnswer::Complete);
        answers.put(hash(MAX_PARTS), 0, part());
        assert_eq!(answers.get(&hash(1), 0), Some(part()), "one of them is none any more");
        answers.put(hash(MAX_PARTS + 1), 0, part());
        assert_eq!((answers.get(&hash(1), 0), answers.get(&hash(2), 0)), (None, Some(part())));
        assert_eq!(answers.get(&hash(0), 0), Some(HaveAnswer::Complete));
    }
}
