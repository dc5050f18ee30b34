//! What a peer may ask first: do you have this? Its end goes with the answer, which is all of it if it is small.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::answer::in_time;
use super::turns::Turn;
use super::{ServeError, Server, send};
use crate::buffers::Buffer;
use crate::ids::{ContentHash, LaneBinding, PeerId, Priority, TransferId};
use crate::store::{Blob, StoreError};
use crate::transport::BoxLane;
use crate::verify::{GROUP_LEN, bytes_of};
use crate::wire::{
    Have, HaveAnswer, HaveQuestion, HaveReply, MAX_HAVE_CONTENT, MAX_HAVE_RANGES, Message, encode, end_groups, end_len,
};

/// Questions up to which the index is asked at once: a look into it takes less than another thread to do it.
const FEW_QUESTIONS: usize = 8;

/// How long an answer waits for what is to go with it: for the disk, and for its turn. After that it goes alone, and
/// the content when it is asked for.
const CONTENT_PATIENCE: Duration = Duration::from_millis(20);

/// What stands for all that goes with answers to one peer, among its transfers.
const WITH_ANSWERS: TransferId = TransferId::from_nonce(0);

/// What is said, and the blobs whose ends go with it.
type Answers = (HaveReply, Vec<Arc<Blob>>);

impl Server {
    pub(super) async fn answer_have(self: &Arc<Self>, lane: &mut BoxLane, have: Have) -> Result<(), ServeError> {
        let (server, peer, binding) = (self.clone(), lane.peer(), *lane.binding());
        let is_short = have.questions.len() <= FEW_QUESTIONS;
        let at_once = |hash: &ContentHash| self.store.blob_at_once(hash);
        let answers = is_short.then(|| self.answers(&peer, &binding, &have.questions, &at_once)).flatten();
        let (mut reply, blobs) = match answers {
            Some(answers) => answers,
            None => {
                let answers = tokio::task::spawn_blocking(move || {
                    let open = |hash: &ContentHash| Some(server.store.blob(hash).ok().flatten());
                    server.answers(&peer, &binding, &have.questions, &open)
                });
                let answers = answers.await.map_err(|error| ServeError::Store(error.to_string()))?;
                answers.ok_or_else(|| ServeError::Store("nothing can be opened".to_owned()))?
            }
        };
        let sent = blobs.len() as u64;
        let content_len: u64 = blobs.iter().map(|blob| bytes_of(blob.size(), &end_groups(blob.size())).len()).sum();
        if sent > 0
            && self.turns.allow_sending()
            && let Some(_place) = self.place(peer)
            && let Ok(Some((ends, turn))) = timeout(CONTENT_PATIENCE, self.ends(peer, blobs)).await
        {
            // In one message, or it would take the other side as long as two.
            let mut message = encode(&Message::HaveReply(reply));
            message.extend_from_slice(&ends);
            let write = async {
                lane.write_all(&message).await?;
                lane.flush().await
            };
            in_time(turn.spend(write)).await?;
            self.metrics.served_bytes.add(content_len);
            self.metrics.served_with_answer.add(sent);
            return Ok(());
        }
        for answer in &mut reply.answers {
            if matches!(answer, HaveAnswer::WithEnd { .. }) {
                *answer = HaveAnswer::Complete;
            }
        }
        send(lane, &Message::HaveReply(reply)).await
    }

    /// What is to be said. `None` if a blob that `open` ought to open cannot be opened now.
    fn answers(
        &self,
        peer: &PeerId,
        binding: &LaneBinding,
        questions: &[HaveQuestion],
        open: &dyn Fn(&ContentHash) -> Option<Option<Arc<Blob>>>,
    ) -> Option<Answers> {
        let (mut ranges_left, mut content_left) = (MAX_HAVE_RANGES, MAX_HAVE_CONTENT);
        let (mut blobs, mut proofs, mut asked) = (Vec::new(), Vec::new(), HashSet::new());
        let mut answer = |question: &HaveQuestion| {
            let found = self.store.find(&question.key).ok().flatten();
            let Some((hash, info)) = found.filter(|(hash, _)| self.may_have(peer, hash)) else {
                return Some(HaveAnswer::None);
            };
            let fits = info.complete && info.size > 0 && end_len(info.size) <= content_left;
            let goes_along = fits && knows(question, &hash, binding);
            let blob = if goes_along || !info.complete { open(&hash)? } else { None };
            let answer = match blob {
                Some(blob) if goes_along => {
                    content_left -= end_len(info.size);
                    blobs.push(blob);
                    HaveAnswer::WithEnd { size: info.size }
                }
                _ if info.complete => HaveAnswer::Complete,
                Some(blob) => {
                    // Once is enough, however often it is asked.
                    let room = if asked.insert(hash) { ranges_left } else { 0 };
                    let ranges = blob.first_verified(room).into_iter().map(|range| (range.start, range.end));
                    HaveAnswer::Partial { ranges: ranges.collect() }
                }
                // It has gone meanwhile.
                None => HaveAnswer::None,
            };
            if let HaveAnswer::Partial { ranges } = &answer {
                ranges_left -= ranges.len();
            }
            proofs.extend((answer != HaveAnswer::None).then(|| hash.holder_proof(binding)));
            Some(answer)
        };
        let answers = questions.iter().map(&mut answer).collect::<Option<_>>()?;
        Some((HaveReply { answers, proofs }, blobs))
    }

    /// The ends of `blobs`, one after the other, and `peer`'s turn to be sent them; `None` if one cannot be read.
    async fn ends(&self, peer: PeerId, blobs: Vec<Arc<Blob>>) -> Option<(Buffer, Turn)> {
        let len = blobs.iter().map(|blob| end_len(blob.size())).sum();
        let mut buffer = self.budget.buffer(len, Priority::Foreground).await;
        if !each(&blobs, &mut buffer, |blob, part| blob.read_small_at_once(part)) {
            let hashes: Vec<_> = blobs.iter().map(|blob| blob.hash()).collect();
            let read = self.store.blocking(&hashes, move || {
                let is_read = each(&blobs, &mut buffer, |blob, part| {
                    let read = read_end(blob, part);
                    if let Err(error) = &read {
                        tracing::warn!(hash = %blob.hash(), "not served: {error}");
                    }
                    read.is_ok()
                });
                is_read.then_some(buffer)
            });
            buffer = read.await.ok()??;
        }
        let turn = self.turns.turn(peer, WITH_ANSWERS, Priority::Foreground.weight(), len).await;
        Some((buffer, turn))
    }
}

/// Has `read` fill the part of `buffer` that the end of each of `blobs` takes. False as soon as one cannot be read.
fn each(blobs: &[Arc<Blob>], buffer: &mut [u8], read: impl Fn(&Arc<Blob>, &mut [u8]) -> bool) -> bool {
    let mut rest = buffer;
    blobs.iter().all(|blob| {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(end_len(blob.size()));
        rest = after;
        read(blob, part)
    })
}

/// Fills `part` with the end of `blob`: the proof of its groups, and these.
fn read_end(blob: &Arc<Blob>, part: &mut [u8]) -> Result<(), StoreError> {
    let groups = end_groups(blob.size());
    let proof = blob.read_proof(std::slice::from_ref(&groups))?;
    let (nodes, content) = part.split_at_mut(proof.len());
    nodes.copy_from_slice(&proof);
    blob.read_into(groups.start * GROUP_LEN, content)
}

/// Whether who asks has proved to know the hash, on the lane on which it asks.
fn knows(question: &HaveQuestion, hash: &ContentHash, binding: &LaneBinding) -> bool {
    question.proof.is_some_and(|proof| proof == hash.knowledge_proof(binding))
}
