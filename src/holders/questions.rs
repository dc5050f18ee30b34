//! Questions to one peer, put together: however many blobs are asked for at the same time, the
//! peer gets few messages, and nobody's question waits for the answers to all others.

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::ids::HaveKey;
use crate::wire::{HaveAnswer, MAX_BLOB_GROUPS, MAX_HAVE_KEYS, MAX_HAVE_RANGES};

/// Why a question that was sent got no answer.
#[derive(Debug, Clone)]
pub(super) enum NoAnswer {
    /// Nothing came in time.
    Silent,
    /// The lane failed, or the answer was none; in words.
    Failed(String),
}

/// A question, and who waits for the answer.
pub(super) struct Question {
    pub key: HaveKey,
    pub reply: oneshot::Sender<Result<HaveAnswer, NoAnswer>>,
}

/// The questions to one peer that are not sent yet.
#[derive(Default)]
pub(super) struct Questions {
    waiting: Mutex<Vec<Question>>,
}

impl Questions {
    /// Adds one to what is sent next.
    pub fn add(&self, key: HaveKey) -> oneshot::Receiver<Result<HaveAnswer, NoAnswer>> {
        let (reply, answer) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if waiting.len() == waiting.capacity() {
            // Those of a peer that cannot be reached are never sent.
            waiting.retain(|question| !question.reply.is_closed());
        }
        waiting.push(Question { key, reply });
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
            HaveAnswer::None | HaveAnswer::Complete => None,
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
    use crate::ids::ContentHash;

    fn key(i: usize) -> HaveKey {
        ContentHash::of(&i.to_le_bytes()).have_key()
    }

    #[test]
    fn questions_go_out_together_the_oldest_first_without_those_nobody_waits_for() {
        let questions = Questions::default();
        let mut answers: Vec<_> = (0..MAX_HAVE_KEYS + 2).map(|i| questions.add(key(i))).collect();
        answers.remove(0);
        let sent = questions.take();
        assert_eq!((sent.len(), sent[0].key), (MAX_HAVE_KEYS, key(1)));
        assert_eq!(questions.take().len(), 1);
        assert!(questions.take().is_empty());
    }

    #[test]
    fn questions_that_are_never_sent_do_not_pile_up() {
        let questions = Questions::default();
        (0..10_000).for_each(|i| drop(questions.add(key(i))));
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
