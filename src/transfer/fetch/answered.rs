//! The ends of blobs, which come with the answer to the question who has them: the size then needs no question of its
//! own, and of a small blob the end is all.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::actor::Actor;
use super::flight::{Outlet, Write, store_behind};
use super::whole_writes::write_soon;
use crate::holders::End;
use crate::verify::Proof;
use crate::wire::{MAX_WHOLE_END_LEN, end_groups};

/// How long nobody is sent a request while the first holder may be about to send the end with its answer: round trips
/// to it, besides the time that as much takes as may come,
const ANSWER_ROUND_TRIPS: u32 = 2;

/// at least,
const MIN_AWAITED: Duration = Duration::from_millis(10);

/// and at most.
const MAX_AWAITED: Duration = Duration::from_millis(200);

/// The holder that was asked to send the end with its answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Awaited {
    pub index: usize,
    /// When the others need not wait for it any more.
    pub until: Instant,
}

impl Actor {
    /// Whom to ask to send the end with its answer, if the size is not known and somebody waits for it.
    pub(super) fn ask_to_send(&mut self) -> Option<usize> {
        let unknown = self.size.is_none() && self.has_demand();
        let index = self.shared.holders.first_to_send(&self.hash).filter(|_| unknown)?;
        let peer = &self.shared.holders.peers()[index];
        let content_secs = peer.rate().map_or(0.0, |rate| MAX_WHOLE_END_LEN as f64 / rate);
        let patience = peer.round_trip().unwrap_or_default() * ANSWER_ROUND_TRIPS
            + Duration::from_secs_f64(content_secs.min(MAX_AWAITED.as_secs_f64()));
        let patience = patience.clamp(MIN_AWAITED, MAX_AWAITED);
        self.patience.awaited = Some(Awaited { index, until: Instant::now() + patience });
        Some(index)
    }

    /// Whether nobody is to be sent a request, since size and end may be about to come without.
    pub(super) fn may_be_coming(&self, now: Instant) -> bool {
        self.patience.awaited.is_some_and(|awaited| now < awaited.until)
    }

    /// The peer with index `index` has sent the end of the blob with its answer, which proves the size if it is right.
    pub(super) fn take_end(&mut self, index: usize, end: End) {
        let End { size, proof, content } = end;
        let groups = end_groups(size);
        let sent = (proof.len() + content.len()) as u64;
        let proof = Proof::verify(&self.hash, size, std::slice::from_ref(&groups), proof);
        let checked = |proof: Proof| proof.check_groups(groups.start, &content).map(|()| proof);
        let proof = match proof.and_then(checked) {
            Ok(proof) => proof,
            Err(error) => {
                self.shared.holders.note_failed(self.hash, index, format!("it sent wrong bytes: {error}"));
                return self.note_wrong_bytes(index);
            }
        };
        let len = content.len() as u64;
        self.shared.metrics.fetched_bytes.add(len);
        self.shared.metrics.fetched_wire_bytes.add(sent);
        self.shared.metrics.came_with_answer.inc();
        self.shared.holders.peers()[index].note_content(len);
        if self.size.is_some() {
            // Another holder was faster, or the store has had it all the time.
            self.wasted += len;
            return;
        }
        self.shared.remember_size(self.hash, size);
        self.shared.recent.insert(self.hash, groups.start, content.clone());
        self.note_size(size);
        self.waiters.deliver(groups.start, &content, self.patience.surveys_begun);
        self.ahead.remove(groups.clone());
        self.landing.insert(groups.clone());
        self.patience.renew();
        let Outlet { turn, events } = self.outlet.clone();
        let (hash, proof, segments) = (self.hash, Arc::new(proof), vec![(groups.start, content)]);
        // A file of the user's may hang, what is here of a large blob may have to be looked at first, and before all files
        // are counted a write waits for that.
        let store = &self.shared.store;
        let is_soon_done = size <= MAX_WHOLE_END_LEN && store.is_counted() && !store.may_be_in_place(&hash);
        match turn.try_lock_owned() {
            Ok(turn) if is_soon_done => {
                write_soon(&self.shared, Write { hash, proof, segments, turn, permit: None, events });
            }
            _ => store_behind(&self.shared, hash, proof, segments, &self.outlet, None),
        }
    }
}
