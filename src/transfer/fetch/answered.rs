//! Small blobs, which come with the answer to the question who has them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::actor::Actor;
use super::flight::store_behind;
use crate::verify::Proof;

/// How long nobody is sent a request while the first holder may be about to send the blob with its answer: round trips
/// to it,
const ANSWER_ROUND_TRIPS: u32 = 2;

/// at least,
const MIN_AWAITED: Duration = Duration::from_millis(10);

/// and at most.
const MAX_AWAITED: Duration = Duration::from_millis(200);

/// The holder that was asked to send the blob with its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Awaited {
    pub index: usize,
    /// When the others need not wait for it any more.
    pub until: Instant,
}

impl Actor {
    /// Whom to ask to send the blob with its answer, if it may be that small and somebody waits for it.
    pub(super) fn ask_to_send(&mut self) -> Option<usize> {
        let unknown = self.size.is_none() && self.has_demand();
        let index = self.shared.holders.first_to_send(&self.hash).filter(|_| unknown)?;
        let round_trip = self.shared.holders.peers()[index].round_trip().unwrap_or_default();
        let patience = (round_trip * ANSWER_ROUND_TRIPS).clamp(MIN_AWAITED, MAX_AWAITED);
        self.patience.awaited = Some(Awaited { index, until: Instant::now() + patience });
        Some(index)
    }

    /// Whether nobody is to be sent a request, since the blob may be about to come without.
    pub(super) fn may_be_coming(&self, now: Instant) -> bool {
        self.patience.awaited.is_some_and(|awaited| now < awaited.until)
    }

    /// The peer with index `index` has sent `content` with its answer: all of the blob, if it told the truth.
    pub(super) fn take_content(&mut self, index: usize, content: &Bytes) {
        let size = content.len() as u64;
        let whole = 0..1;
        let proof = Proof::verify(&self.hash, size, std::slice::from_ref(&whole), Vec::new());
        let checked = |proof: Proof| proof.check_groups(whole.start, content).map(|()| proof);
        let proof = match proof.and_then(checked) {
            Ok(proof) => proof,
            Err(error) => {
                self.shared.holders.note_failed(self.hash, index, format!("it sent wrong bytes: {error}"));
                return self.note_wrong_bytes(index);
            }
        };
        self.shared.metrics.fetched_bytes.add(size);
        self.shared.metrics.fetched_wire_bytes.add(size);
        self.shared.metrics.came_with_answer.inc();
        self.shared.holders.peers()[index].note_content(size);
        if self.size.is_some() {
            // Another holder was faster, or the store has had it all the time.
            self.wasted += size;
            return;
        }
        self.shared.remember_size(self.hash, size);
        let content = match self.shared.budget.try_buffer(content.len()) {
            Some(mut buffer) => {
                buffer.copy_from_slice(content);
                let content = buffer.freeze();
                self.shared.recent.insert(self.hash, whole.start, content.clone());
                content
            }
            // What is remembered is paid for; this is gone once it is written.
            None => content.clone(),
        };
        self.note_size(size);
        self.waiters.deliver(whole.start, &content, self.patience.surveys_begun);
        self.ahead.remove(whole.clone());
        self.landing.insert(whole.clone());
        self.patience.renew();
        store_behind(&self.shared, self.hash, Arc::new(proof), vec![(whole.start, content)], &self.outlet, None);
    }
}
