//! Questions to one peer, put together: however many blobs are asked for at the same time, the
//! peer gets few messages, and nobody's question waits for the answers to all others.

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::ids::{ContentHash, LaneBinding};
use crate::wire::{HaveAnswer, HaveQuestion, MAX_BLOB_GROUPS, MAX_HAVE_KEYS, MAX_HAVE_RANGES};

/// Why a question that was sent got no answer.
#[derive(Debug, Clone)]
pub(super) enum NoAnswer {
    /// Nothing came in time.
    Silent,
    /// The lane failed, or the answer was none; in words.
    Failed(String),
}

/// An answer, and what came with it.
#[derive(Debug)]
pub(super) struct Said {
    pub answer: HaveAnswer,
    pub end: Option<End>,
}

/// The end of a blob as a peer has sent it with its answer, not verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The size that the blob has if it tells the truth, in bytes.
    pub size: u64,
    /// The proof of the [groups that belong to it](crate::wire::end_groups).
    pub proof: Vec<u8>,
    /// These groups, in memory of the budget. Of both there are as many bytes as [`end_lens`](crate::wire::end_lens) says.
    pub content: Bytes,
}

/// A question, and who waits for the answer.
pub(super) struct Question {
    pub hash: ContentHash,
    /// The end of the blob is to come with the answer.
    pub wants_end: bool,
    /// When it was added to those to be sent.
    pub added: Instant,
    pub reply: oneshot::Sender<Result<Said, NoAnswer>>,
}

impl Question {
    /// As it is put on the lane that `binding` stands for.
    pub fn on_lane(&self, binding: &LaneBinding) -> HaveQuestion {
        let proof = self.wants_end.then(|| self.hash.knowledge_proof(binding));
        HaveQuestion { key: self.hash.have_key(), proof }
    }
}

/// The questions to one peer that are not sent yet.
#[derive(Default)]
pub(super) struct Questions {
    waiting: Mutex<Vec<Question>>,
}

impl Questions {
    /// Adds one to what is sent next.
    pub fn add(&self, hash: ContentHash, wants_end: bool) -> oneshot::Receiver<Result<Said, NoAnswer>> {
        let (reply, answer) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if waiting.len() == waiting.capacity() {
            // Those of a peer that cannot be reached are never sent.
            waiting.retain(|question| !question.reply.is_closed());
        }
        waiting.push(Question { hash, wants_end, added: Instant::now(), reply });
        answer
    }

    /// As many as fit into one message, the oldest first; to be sent now.
    pub fn take(&self) -> Vec<Question> {
        let mut waiting = self.waiting.lock();
        waiting.retain(|question| !question.reply.is_closed());
        let count = waiting.len().min(MAX_HAVE_KEYS);
        waiting.drain(..count).collect()
    }
}

/// In a reply that is full, what was said of a part may not be all there is: takes it that the
/// peer may also have what lies behind the last range named.
pub(super) fn open_ended(answers: &mut [HaveAnswer]) {
    let mut parts: Vec<_> = answers
        .iter_mut()
        .filter_map(|answer| match answer {
            HaveAnswer::Partial { ranges } => Some(ranges),
            HaveAnswer::None | HaveAnswer::Complete | HaveAnswer::WithEnd { .. } => None,
        })
        .filter(|ranges| !ranges.is_empty())
        .collect();
    let named: usize = parts.iter().map(|ranges| ranges.len()).sum();
    if let Some(last) = parts.last_mut().filter(|_| named >= MAX_HAVE_RANGES)
        && let Some((_, end)) = last.last().filter(|(_, end)| end + 1 < MAX_BLOB_GROUPS)
    {
        let behind = (end + 1, MAX_BLOB_GROUPS);
        last.push(behind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(i: usize) -> ContentHash {
        ContentHash::of(&i.to_le_bytes())
    }

    #[test]
    fn questions_go_out_together_the_oldest_first_without_those_nobody_waits_for() {
        let questions = Questions::default();
        let mut answers: Vec<_> = (0..MAX_HAVE_KEYS + 2).map(|i| questions.add(hash(i), false)).collect();
        answers.remove(0);
        let sent = questions.take();
        assert_eq!((sent.len(), sent[0].hash), (MAX_HAVE_KEYS, hash(1)));
        assert_eq!(questions.take().len(), 1);
        assert!(questions.take().is_empty());
    }

    #[test]
    fn questions_that_are_never_sent_do_not_pile_up() {
        let questions = Questions::default();
        (0..10_000).for_each(|i| drop(questions.add(hash(i), false)));
        assert!(questions.waiting.lock().len() < 16);
    }

    #[test]
    fn only_a_full_reply_may_leave_something_out() {
        let part = |count: u64| HaveAnswer::Partial { ranges: (0..count).map(|i| (2 * i, 2 * i + 1)).collect() };
        let full = MAX_HAVE_RANGES as u64;
        let mut answers = [part(full - 1), HaveAnswer::Complete];
        open_ended(&mut answers);
        assert_eq!(answers, [part(full - 1), HaveAnswer::Complete]);
        let mut answers = [part(1), part(full - 1), part(0)];
        open_ended(&mut answers);
        assert_eq!((&answers[0], &answers[2]), (&part(1), &part(0)));
        let HaveAnswer::Partial { ranges } = &answers[1] else { panic!("no longer a part") };
        assert_eq!(ranges.last(), Some(&(2 * (full - 2) + 2, MAX_BLOB_GROUPS)));
    }
}
