//! Holders that do not keep to the protocol, or to the truth.

use std::ops::Range;

use byhash::ids::{ContentHash, KnowledgeProof};
use byhash::transport::memory::MemoryNetwork;
use byhash::transport::{Acceptor, BoxLane, read_message, write_message};
use byhash::verify::{GROUP_LEN, build_outboard, bytes_of, group_count, groups_of, proof_runs, with_last_group};
use byhash::wire::{
    Busy, Found, HaveAnswer, HaveQuestion, HaveReply, Message, NotFound, Refused, RefusedReason, Request, encode,
    end_groups, end_len,
};
use tokio::io::AsyncWriteExt;
use tokio::task::{AbortHandle, JoinSet};

use super::node_id;

/// What a holder does when it is asked for content. All of them say that they have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vice {
    /// Takes the question who has it and never answers.
    SilentToQuestions,
    /// Takes a request and never answers.
    SilentToRequests,
    /// Falls silent after this many bytes of the reply's body.
    SilentAfter(usize),
    /// Sends a byte of the reply's body each time so many milliseconds are over.
    Trickles(u64),
    /// Closes the lane after this many bytes of the reply's body.
    CutsAfter(usize),
    /// Says that it has whatever it is asked about, of which it knows nothing.
    ClaimsAll,
    /// Says that it does not have it after all.
    ChangesItsMind,
    /// Refuses every request.
    Refuses,
    /// Is always busy.
    AlwaysBusy,
    /// Flips a bit of this byte of the reply's body (proof first, then content).
    FlipsByte(usize),
    /// Flips a bit of each reply that is longer than the first.
    FlipsInLong,
    /// Claims a size that is larger by this much.
    ClaimsMore(u64),
    /// Claims a size that is smaller by this much.
    ClaimsLess(u64),
    /// Sends this many bytes more than declared.
    Surplus(usize),
    /// Answers with another exchange's id.
    WrongTransfer,
    /// Answers with a question.
    AsksBack,
    /// Sends a frame that claims to be longer than any may be.
    OversizedFrame,
    /// Sends a frame with an unknown number.
    UnknownMessage,
    /// Sends the end of a small blob with its answer to anybody.
    SendsUnasked,
    /// Flips a bit of this byte of the end that it sends with its answer.
    FlipsEnd(usize),
    /// Claims a size that is larger by this much with its answer.
    AnswersMore(u64),
    /// Claims a size that is smaller by this much with its answer.
    AnswersLess(u64),
}

/// All vices, with figures that matter for a blob of a few MiB.
pub const VICES: &[Vice] = &[
    Vice::SilentToQuestions,
    Vice::SilentToRequests,
    Vice::SilentAfter(0),
    Vice::SilentAfter(100_000),
    Vice::Trickles(1000),
    Vice::Trickles(100),
    Vice::CutsAfter(0),
    Vice::CutsAfter(70_000),
    Vice::CutsAfter(300_000),
    Vice::ClaimsAll,
    Vice::ChangesItsMind,
    Vice::Refuses,
    Vice::AlwaysBusy,
    Vice::FlipsByte(0),
    Vice::FlipsByte(30_000),
    Vice::FlipsByte(70_000),
    Vice::FlipsInLong,
    Vice::ClaimsMore(1),
    Vice::ClaimsMore(1 << 40),
    Vice::ClaimsLess(1),
    Vice::ClaimsLess(1 << 20),
    Vice::Surplus(1),
    Vice::Surplus(1 << 16),
    Vice::WrongTransfer,
    Vice::AsksBack,
    Vice::OversizedFrame,
    Vice::UnknownMessage,
    Vice::SendsUnasked,
    Vice::FlipsEnd(0),
    Vice::FlipsEnd(10_000),
    Vice::AnswersMore(1),
    Vice::AnswersMore(1 << 40),
    Vice::AnswersLess(1),
    Vice::AnswersLess(1 << 20),
];

/// Starts node `number`, which has `content` and `vice`. Aborting it closes its lanes too.
pub fn start(network: &MemoryNetwork, number: u8, content: &[u8], vice: Vice) -> AbortHandle {
    let mut acceptor = network.listen(node_id(number));
    let (hash, outboard) = build_outboard(content);
    let holder = Holder { hash, content: content.to_vec(), outboard, vice };
    let task = tokio::spawn(async move {
        let mut lanes = JoinSet::new();
        while let Ok(lane) = acceptor.accept().await {
            let holder = holder.clone();
            lanes.spawn(async move { holder.serve(lane).await });
        }
    });
    task.abort_handle()
}

#[derive(Clone)]
struct Holder {
    hash: ContentHash,
    content: Vec<u8>,
    outboard: Vec<u8>,
    vice: Vice,
}

impl Holder {
    /// Serves a lane until it is to be closed.
    async fn serve(&self, mut lane: BoxLane) -> Option<()> {
        loop {
            match read_message(&mut lane).await.ok()?? {
                Message::Have(have) => {
                    if self.vice == Vice::SilentToQuestions {
                        std::future::pending::<()>().await;
                    }
                    let mut claimed = None;
                    let answer = |asked: &HaveQuestion| {
                        if self.vice == Vice::ClaimsAll {
                            return HaveAnswer::Complete;
                        }
                        if asked.key != self.hash.have_key() {
                            return HaveAnswer::None;
                        }
                        claimed = claimed.take().or_else(|| self.claimed_with_answer(asked));
                        claimed.map_or(HaveAnswer::Complete, |size| HaveAnswer::WithEnd { size })
                    };
                    let answers: Vec<_> = have.questions.iter().map(answer).collect();
                    // Who does not know the hash can prove nothing, but hand back what the asker has proved.
                    let had = have.questions.iter().zip(&answers).filter(|(_, said)| **said != HaveAnswer::None);
                    let proof = |(asked, _): (&HaveQuestion, _)| match self.vice {
                        Vice::ClaimsAll => asked.proof.unwrap_or(KnowledgeProof([0; KnowledgeProof::LEN])),
                        _ => self.hash.holder_proof(lane.binding()),
                    };
                    let proofs = had.map(proof).collect();
                    write_message(&mut lane, &Message::HaveReply(HaveReply { answers, proofs })).await.ok()?;
                    if let Some(size) = claimed {
                        let mut body = self.body(std::slice::from_ref(&end_groups(self.content.len() as u64)));
                        body.resize(end_len(size), 0);
                        if let Vice::FlipsEnd(at) = self.vice {
                            let at = at.min(body.len() - 1);
                            body[at] ^= 4;
                        }
                        self.send_body(&mut lane, body).await?;
                    }
                }
                Message::Request(request) => {
                    self.answer(&mut lane, request).await?;
                }
                _ => return None,
            }
        }
    }

    async fn answer(&self, lane: &mut BoxLane, request: Request) -> Option<()> {
        let id = request.transfer_id;
        let odd = match self.vice {
            Vice::SilentToRequests => std::future::pending().await,
            Vice::ChangesItsMind => Some(Message::NotFound(NotFound { transfer_id: id })),
            Vice::Refuses => {
                Some(Message::Refused(Refused { transfer_id: Some(id), reason: RefusedReason::NotAllowed }))
            }
            Vice::AlwaysBusy => Some(Message::Busy(Busy { transfer_id: id, retry_after_ms: 10 })),
            Vice::AsksBack => Some(Message::Request(request.clone())),
            Vice::WrongTransfer => {
                let transfer_id = byhash::ids::TransferId::from_nonce(id.raw() + 1);
                Some(Message::NotFound(NotFound { transfer_id }))
            }
            _ => None,
        };
        if let Some(message) = odd {
            return write_message(lane, &message).await.ok();
        }
        match self.vice {
            Vice::OversizedFrame => {
                lane.write_all(&u32::MAX.to_le_bytes()).await.ok()?;
                return lane.write_all(&[0; 100]).await.ok();
            }
            Vice::UnknownMessage => return lane.write_all(&[1, 0, 0, 0, 200]).await.ok(),
            _ => {}
        }
        let size = self.content.len() as u64;
        let total_len = match self.vice {
            Vice::ClaimsMore(more) => size + more,
            Vice::ClaimsLess(less) => size.saturating_sub(less),
            _ => size,
        };
        lane.write_all(&encode(&Message::Found(Found { transfer_id: id, total_len }))).await.ok()?;
        let wanted = groups_of(size, request.range());
        let ranges = if request.prove_size { with_last_group(size, wanted) } else { vec![wanted] };
        assert!(ranges.iter().all(|groups| groups.end <= group_count(size)));
        self.send_body(lane, self.body(&ranges)).await
    }

    /// The proof of the groups of `ranges`, and those groups.
    fn body(&self, ranges: &[Range<u64>]) -> Vec<u8> {
        let size = self.content.len() as u64;
        let mut body = Vec::new();
        for run in proof_runs(size, ranges) {
            body.extend_from_slice(&self.outboard[run.offset as usize..][..run.len]);
        }
        for groups in ranges {
            let bytes = bytes_of(size, groups);
            body.extend_from_slice(&self.content[bytes.start as usize..bytes.end as usize]);
        }
        body
    }

    /// The size that it says its content has, if the vice lies in what goes with an answer.
    fn claimed_with_answer(&self, asked: &HaveQuestion) -> Option<u64> {
        let size = self.content.len() as u64;
        let claimed = match self.vice {
            Vice::SendsUnasked => size,
            _ if asked.proof.is_none() => return None,
            Vice::FlipsEnd(_) => return Some(size).filter(|size| *size > 0),
            Vice::AnswersMore(more) => return Some(size + more),
            Vice::AnswersLess(less) => return Some(size.saturating_sub(less)).filter(|size| *size > 0),
            Vice::ClaimsMore(more) => size + more,
            Vice::ClaimsLess(less) => size.saturating_sub(less),
            Vice::SilentAfter(_) | Vice::Trickles(_) | Vice::CutsAfter(_) | Vice::FlipsByte(_) | Vice::Surplus(_) => {
                size
            }
            _ => return None,
        };
        (1..=GROUP_LEN).contains(&claimed).then_some(claimed)
    }

    /// Sends what follows a frame.
    async fn send_body(&self, lane: &mut BoxLane, mut body: Vec<u8>) -> Option<()> {
        let (sent, then) = match self.vice {
            Vice::SilentAfter(bytes) => (bytes.min(body.len()), Then::Silence),
            Vice::CutsAfter(bytes) => (bytes.min(body.len()), Then::Cut),
            _ => (body.len(), Then::GoOn),
        };
        match self.vice {
            Vice::FlipsByte(at) => {
                let at = at.min(body.len().saturating_sub(1));
                body.get_mut(at).into_iter().for_each(|byte| *byte ^= 4);
            }
            Vice::FlipsInLong if body.len() > 100_000 => body[0] ^= 4,
            Vice::Surplus(more) => body.extend(vec![7; more]),
            _ => {}
        }
        if let Vice::Trickles(period) = self.vice {
            for byte in body {
                tokio::time::sleep(std::time::Duration::from_millis(period)).await;
                lane.write_all(&[byte]).await.ok()?;
                lane.flush().await.ok()?;
            }
            return Some(());
        }
        let sent = sent.max(if then == Then::GoOn { body.len() } else { 0 });
        lane.write_all(&body[..sent]).await.ok()?;
        lane.flush().await.ok()?;
        match then {
            Then::GoOn => Some(()),
            Then::Silence => std::future::pending().await,
            Then::Cut => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    GoOn,
    Silence,
    Cut,
}
