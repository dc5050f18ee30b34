//! Asking all peers at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::answers::Answers;
use super::distrust::Distrust;
use super::hints::PeerHint;
use super::lanes::{LaneKind, PooledLane};
use super::log::{Statement, StatementLog};
use super::peer::{MAX_BACKOFF, Peer};
use super::questions::{End, NoAnswer, Question, Said, open_ended};
use super::{PeerError, PeerSnapshot};
use crate::buffers::BufferBudget;
use crate::ids::{ContentHash, LaneBinding, PeerId, PeerSpec, Priority};
use crate::metrics::Metrics;
use crate::transport::{BoxLane, Dialer, read_message, write_message};
use crate::wire::{GROUP_LEN, Have, HaveAnswer, HaveReply, MAX_HAVE_CONTENT, Message, end_lens};

/// How long one peer may take to answer a have-query, dialling included. Below the two seconds a
/// name lookup may take, so that what the others said is still of use.
pub const ANSWER_DEADLINE: Duration = Duration::from_millis(1500);

/// How often the keeper looks after each peer's lanes.
const KEEPER_PERIOD: Duration = Duration::from_millis(500);

/// How long nothing may come of what goes with answers, at least; then it can be asked for like any other blob, of
/// another holder, too.
const MIN_CONTENT_PATIENCE: Duration = Duration::from_millis(200);

/// The same in round trips.
const CONTENT_ROUND_TRIPS: u32 = 4;

/// How long all of it may take; what has not come then has to be asked for.
const CONTENT_DEADLINE: Duration = Duration::from_secs(1);

/// How long what goes with an answer has to take for the peer's speed to be told from it: little more than one read may
/// have been on its way already.
const MIN_MEASURED: Duration = Duration::from_millis(20);

/// How long before [`ANSWER_DEADLINE`] what goes with an answer is given up.
const ANSWER_MARGIN: Duration = Duration::from_millis(200);

/// Bytes that are read at a time where there is no memory for them.
const DISCARD_LEN: usize = 1024;

/// Bytes a second below which a peer is not asked to send anything with its answers: they might be late.
const MIN_CONTENT_RATE: f64 = 4.0 * MAX_HAVE_CONTENT as f64;

const _: () = assert!(CONTENT_DEADLINE.as_millis() < ANSWER_DEADLINE.as_millis());

const _: () = assert!(KEEPER_PERIOD.as_millis() < MAX_BACKOFF.as_millis());

/// What one peer said about one blob.
#[derive(Debug)]
pub enum Finding {
    /// It has all of it, or the group ranges named.
    Has(usize, HaveAnswer),
    /// It has all of it, and this is its end, if it tells the truth.
    WithEnd(usize, End),
    /// It has none of it.
    HasNot(usize),
    /// It took the question and did not answer in time.
    Silent(usize),
    /// It could not be asked.
    Unreachable(usize),
    /// It sent wrong bytes of the blob, and was not asked.
    Distrusted(usize),
}

impl Finding {
    /// The index of the peer that it is about.
    pub fn index(&self) -> usize {
        match self {
            Self::Has(index, _) | Self::WithEnd(index, _) => *index,
            Self::HasNot(index) | Self::Silent(index) | Self::Unreachable(index) | Self::Distrusted(index) => *index,
        }
    }
}

/// All configured peers and what they said lately.
pub struct Holders {
    own_id: PeerId,
    peers: Vec<Arc<Peer>>,
    answers: Answers,
    distrust: Distrust,
    log: StatementLog,
    budget: BufferBudget,
    metrics: Arc<Metrics>,
}

impl Holders {
    /// The peers of `specs`, dialled through `dialer`. What they send with their answers takes memory of `budget`.
    pub fn new(
        specs: Vec<PeerSpec>,
        dialer: Arc<dyn Dialer>,
        budget: BufferBudget,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let own_id = dialer.id();
        let peers = specs.into_iter().map(|spec| Peer::new(spec, dialer.clone())).collect();
        let (answers, distrust, log) = (Answers::new(), Distrust::new(), StatementLog::new());
        Arc::new(Self { own_id, peers, answers, distrust, log, budget, metrics })
    }

    /// This node, as its peers know it.
    pub fn own_id(&self) -> PeerId {
        self.own_id
    }

    /// All peers; a peer's place in this slice is its index.
    pub fn peers(&self) -> &[Arc<Peer>] {
        &self.peers
    }

    /// What people may see of the peers.
    pub fn snapshots(&self) -> Vec<PeerSnapshot> {
        self.peers.iter().map(|peer| peer.snapshot()).collect()
    }

    /// What is worth knowing of the peers after a restart.
    pub fn hints(&self) -> Vec<PeerHint> {
        self.peers.iter().filter_map(|peer| peer.hint()).collect()
    }

    /// Believes what was known of the peers before a restart, until there is something newer.
    pub fn take_hints(&self, hints: &[PeerHint]) {
        for peer in &self.peers {
            let spec = peer.spec().to_string();
            hints.iter().filter(|hint| hint.peer == spec).for_each(|hint| peer.take_hint(hint));
        }
    }

    /// The peers that said they have some of `hash`, as far as remembered.
    pub fn known_holders(&self, hash: &ContentHash) -> Vec<PeerId> {
        self.answers.holders(hash).into_iter().filter_map(|index| self.peers[index].id()).collect()
    }

    /// Bytes of content that have come from the peers with these ids.
    pub fn fetched_from(&self, ids: &[PeerId]) -> u64 {
        let of_those = self.peers.iter().filter(|peer| peer.id().is_some_and(|id| ids.contains(&id)));
        of_those.map(|peer| peer.fetched()).sum()
    }

    /// Whether all peers that said they have some of `hash` are far.
    pub fn are_far(&self, hash: &ContentHash) -> bool {
        let holders = self.answers.holders(hash);
        !holders.is_empty() && holders.into_iter().all(|index| self.peers[index].is_far())
    }

    /// Whether a peer said that it has a part of `hash`: it probably fetches the rest, too.
    pub fn some_part(&self, hash: &ContentHash) -> bool {
        self.answers.some_part(hash)
    }

    /// The peer that will probably be the first to send the end of a blob together with its answer: rather one that is
    /// connected. `None` if one has said already that it has `hash`, and can be sent a request at once.
    pub fn first_to_send(&self, hash: &ContentHash) -> Option<usize> {
        let mut first: Option<((bool, f64), usize)> = None;
        for (index, peer) in self.peers.iter().enumerate() {
            match self.answers.get(hash, index) {
                Some(HaveAnswer::None) => continue,
                Some(_) => return None,
                None if self.distrust.applies(hash, index) => continue,
                None if peer.rate().is_some_and(|rate| rate < MIN_CONTENT_RATE) => continue,
                None => {}
            }
            let place = (!peer.is_connected(), peer.expected_secs(GROUP_LEN));
            if first.is_none_or(|(least, _)| place < least) {
                first = Some((place, index));
            }
        }
        first.map(|(_, index)| index)
    }

    /// Asks every peer about `hash`; one finding a peer arrives on the returned channel, in the
    /// order in which they come, remembered ones at once. `sender` is asked to send the blob's end with its
    /// answer. The channel then closes. Dropping the receiver ends the asking.
    pub fn survey(self: &Arc<Self>, hash: ContentHash, sender: Option<usize>) -> mpsc::Receiver<Finding> {
        let (findings, receiver) = mpsc::channel(self.peers.len().max(1));
        for index in 0..self.peers.len() {
            if self.distrust.applies(&hash, index) {
                let _ = findings.try_send(Finding::Distrusted(index));
                continue;
            }
            if let Some(said) = self.answers.get(&hash, index) {
                let _ = findings.try_send(finding(index, said));
                continue;
            }
            let (holders, findings) = (self.clone(), findings.clone());
            tokio::spawn(async move {
                let result = tokio::select! {
                    result = holders.ask(index, hash, sender == Some(index)) => result,
                    () = findings.closed() => return,
                };
                holders.log.note(hash, index, statement(&result));
                let found = match result {
                    Ok(Said { answer, end }) => {
                        holders.answers.put(hash, index, answer.clone());
                        end.map_or_else(|| finding(index, answer), |end| Finding::WithEnd(index, end))
                    }
                    Err(PeerError::Silent(_)) => Finding::Silent(index),
                    Err(error) => {
                        tracing::debug!(peer = %holders.peers[index].spec(), "have-query failed: {error}");
                        Finding::Unreachable(index)
                    }
                };
                let _ = findings.send(found).await;
            });
        }
        receiver
    }

    /// The peer with index `index` was to send some of `hash` and did not; `reason` says why.
    pub fn note_failed(&self, hash: ContentHash, index: usize, reason: String) {
        self.log.note(hash, index, Statement::Failed { reason });
    }

    /// What the peer with index `index` said last about `hash`, and how long ago.
    pub fn latest_statement(&self, hash: &ContentHash, index: usize) -> Option<(Statement, Duration)> {
        self.log.latest(hash, index)
    }

    /// Forgets all that peers said about `hash`, so that they are asked again.
    pub fn forget_all(&self, hash: &ContentHash) {
        (0..self.peers.len()).for_each(|index| self.answers.forget(hash, index));
    }

    /// Forgets who said to have a part of `hash`, or none: it may be more by now.
    pub fn forget_incomplete(&self, hash: &ContentHash) {
        self.answers.forget_incomplete(hash);
    }

    /// Forgets that the peer with index `index` said it has `hash`: it turned out otherwise.
    pub fn forget(&self, hash: &ContentHash, index: usize) {
        self.answers.forget(hash, index);
    }

    /// The peer with index `index` sent something that is not of `hash`: it is not asked for it any more for a while,
    /// and for nothing at all if that happens too often.
    pub fn note_wrong_bytes(&self, hash: ContentHash, index: usize) {
        self.metrics.wrong_bytes.inc();
        self.answers.forget(&hash, index);
        self.distrust.note(hash, index);
        let peer = &self.peers[index];
        tracing::warn!(peer = %peer.spec(), "the peer sent bytes that do not match the hash asked for");
        peer.note_wrong_bytes();
    }

    /// Asks one peer, together with whatever else it is to be asked at the moment.
    async fn ask(&self, index: usize, hash: ContentHash, wants_end: bool) -> Result<Said, PeerError> {
        let peer = &self.peers[index];
        let mut answer = peer.questions.add(hash, wants_end);
        let asked = async {
            tokio::select! {
                biased;
                answer = &mut answer => return Ok(answer),
                lane = peer.lane(LaneKind::Small, Priority::Foreground) => {
                    let lane = lane?;
                    let questions = peer.questions.take();
                    if questions.is_empty() {
                        lane.release();
                    } else {
                        self.metrics.have_queries.inc();
                        // Others wait for it too, so it goes on when this one gives up.
                        tokio::spawn(put(peer.clone(), lane, questions, self.budget.clone()));
                    }
                }
            }
            Ok(answer.await)
        };
        let silent = || PeerError::Silent(ANSWER_DEADLINE.as_millis());
        match timeout(ANSWER_DEADLINE, asked).await {
            Ok(Ok(Ok(Ok(said)))) => Ok(said),
            Ok(Ok(Ok(Err(NoAnswer::Silent)))) => Err(silent()),
            Ok(Ok(Ok(Err(NoAnswer::Failed(why))))) => Err(PeerError::NoAnswer(why)),
            // The task that asked is gone: the node shuts down.
            Ok(Ok(Err(_))) => Err(PeerError::NoAnswer("not asked".to_owned())),
            Ok(Err(unreachable)) => Err(unreachable),
            Err(_) if peer.is_reached() => Err(silent()),
            Err(_) => {
                peer.note_no_connection();
                Err(PeerError::BackingOff("no connection in time".to_owned()))
            }
        }
    }

    /// Keeps a lane to every peer warm. Runs until dropped.
    pub async fn keep_warm(self: Arc<Self>) {
        let mut keepers = tokio::task::JoinSet::new();
        for peer in &self.peers {
            let peer = peer.clone();
            keepers.spawn(async move {
                loop {
                    peer.keep_warm().await;
                    tokio::time::sleep(KEEPER_PERIOD).await;
                }
            });
        }
        keepers.join_all().await;
        std::future::pending::<()>().await;
    }
}

/// Puts `questions` to `peer` and passes its answers on.
async fn put(peer: Arc<Peer>, lane: PooledLane, questions: Vec<Question>, budget: BufferBudget) {
    let answers = match timeout(ANSWER_DEADLINE, put_in_one(&peer, lane, &questions)).await {
        Ok(Ok(answers)) => Ok(answers),
        Ok(Err(error)) => Err(NoAnswer::Failed(error.to_string())),
        Err(_) => Err(NoAnswer::Silent),
    };
    match answers {
        Ok((answers, lane)) => pass_on(&peer, lane, questions, answers, &budget).await,
        Err(why) => {
            peer.note_failure(&match &why {
                NoAnswer::Silent => PeerError::Silent(ANSWER_DEADLINE.as_millis()).to_string(),
                NoAnswer::Failed(why) => why.clone(),
            });
            for question in questions {
                let _ = question.reply.send(Err(why.clone()));
            }
        }
    }
}

/// Passes answers on, and what comes behind them. What does not come in time may still be asked for.
async fn pass_on(
    peer: &Peer,
    lane: PooledLane,
    questions: Vec<Question>,
    answers: Vec<HaveAnswer>,
    budget: &BufferBudget,
) {
    let mut sent = Vec::new();
    for (question, answer) in questions.into_iter().zip(answers) {
        match answer {
            HaveAnswer::WithEnd { size } => sent.push((question, size)),
            answer => drop(question.reply.send(Ok(Said { answer, end: None }))),
        }
    }
    let patience = MIN_CONTENT_PATIENCE.max(peer.round_trip().unwrap_or_default() * CONTENT_ROUND_TRIPS);
    let deadline = Instant::now() + CONTENT_DEADLINE;
    let mut lane = Some(lane);
    for (question, size) in sent {
        let mut end = None;
        if let Some(open) = &mut lane {
            // Who asked is to hear at least that the peer has it, in time.
            let deadline = deadline.min(question.added + ANSWER_DEADLINE - ANSWER_MARGIN);
            let all_came;
            (end, all_came) = read_end(peer, open.io(), size, budget, patience, deadline).await;
            if !all_came {
                // What is still to come would be taken for something else.
                lane = None;
            }
        }
        let _ = question.reply.send(Ok(Said { answer: HaveAnswer::Complete, end }));
    }
    if let Some(lane) = lane {
        lane.release();
    }
}

/// The end of a blob of `size` bytes, which comes next on `lane`, and whether all of it has come; there is none if it has
/// not, and none either if there was no memory for it.
async fn read_end(
    peer: &Peer,
    lane: &mut BoxLane,
    size: u64,
    budget: &BufferBudget,
    patience: Duration,
    deadline: Instant,
) -> (Option<End>, bool) {
    let (proof_len, len) = end_lens(size);
    let asked = Instant::now();
    let memory = timeout_at(deadline.min(asked + patience), budget.buffer(len, Priority::Foreground)).await;
    let (start, mut proof) = (Instant::now(), vec![0; proof_len]);
    let (mut come, mut content) = (read_content(lane, &mut proof, patience, deadline).await, memory.ok());
    if come == proof_len {
        come += match &mut content {
            Some(content) => read_content(lane, content, patience, deadline).await,
            None => discard(lane, len, patience, deadline).await,
        };
    }
    let elapsed = start.elapsed();
    // While memory was waited for, some of it may have come already.
    if come > 0 && elapsed >= MIN_MEASURED && start - asked < MIN_MEASURED {
        peer.note_rate(come as u64, elapsed);
    }
    let all_came = come == proof_len + len;
    let end = content.filter(|_| all_came).map(|content| End { size, proof, content: content.freeze() });
    (end, all_came)
}

/// Fills `bytes`, which are few, and tells how many have come: fewer if nothing comes of them for as long as `patience`,
/// or not all by `deadline`.
async fn read_content(lane: &mut BoxLane, bytes: &mut [u8], patience: Duration, deadline: Instant) -> usize {
    let mut come = 0;
    while come < bytes.len() {
        match timeout_at(deadline.min(Instant::now() + patience), lane.read(&mut bytes[come..])).await {
            Ok(Ok(more @ 1..)) => come += more,
            _ => break,
        }
    }
    come
}

/// Reads `len` bytes that there is no memory for, as [`read_content`] does.
async fn discard(lane: &mut BoxLane, len: usize, patience: Duration, deadline: Instant) -> usize {
    let mut scratch = [0; DISCARD_LEN];
    let mut come = 0;
    while come < len {
        let part = &mut scratch[..DISCARD_LEN.min(len - come)];
        match read_content(lane, part, patience, deadline).await {
            some if some == part.len() => come += some,
            _ => break,
        }
    }
    come
}

/// One message and its reply: as many answers as questions, and the lane, on which content may follow. A lane that
/// the peer closed while it lay idle says nothing about the peer, so the question is put once more.
async fn put_in_one(
    peer: &Peer,
    mut lane: PooledLane,
    questions: &[Question],
) -> Result<(Vec<HaveAnswer>, PooledLane), PeerError> {
    let is_answer = |(question, answer): (&Question, &HaveAnswer)| {
        question.wants_end || !matches!(answer, HaveAnswer::WithEnd { .. })
    };
    let mut again = true;
    loop {
        let binding = *lane.io().binding();
        let question =
            Message::Have(Have { questions: questions.iter().map(|question| question.on_lane(&binding)).collect() });
        let start = Instant::now();
        let reply = match write_message(lane.io(), &question).await {
            Ok(()) => read_message(lane.io()).await,
            Err(error) => Err(error),
        };
        match reply {
            Ok(Some(Message::HaveReply(mut reply)))
                if reply.answers.len() == questions.len() && questions.iter().zip(&reply.answers).all(is_answer) =>
            {
                if !knows_what_it_claims(questions, &reply, &binding) {
                    peer.note_wrong_bytes();
                    return Err(PeerError::NoAnswer("claimed to have what it does not know".to_owned()));
                }
                peer.note_round_trip(start.elapsed());
                open_ended(&mut reply.answers);
                return Ok((reply.answers, lane));
            }
            Ok(Some(_)) => return Err(PeerError::NoAnswer("answered out of turn".to_owned())),
            Ok(None) if !again => {
                return Err(PeerError::NoAnswer("closed the connection instead of answering".to_owned()));
            }
            Err(error) if !again => return Err(error.into()),
            Ok(None) | Err(_) => again = false,
        }
        drop(lane);
        lane = peer.lane(LaneKind::Small, Priority::Foreground).await?;
    }
}

/// Whether the peer has proved to know the hash of each blob that it says to have, on the lane on which it does.
fn knows_what_it_claims(questions: &[Question], reply: &HaveReply, binding: &LaneBinding) -> bool {
    let claimed = questions.iter().zip(&reply.answers).filter(|(_, answer)| **answer != HaveAnswer::None);
    claimed.map(|(question, _)| question.hash.holder_proof(binding)).eq(reply.proofs.iter().copied())
}

fn statement(said: &Result<Said, PeerError>) -> Statement {
    match said.as_ref().map(|said| &said.answer) {
        Ok(HaveAnswer::Complete | HaveAnswer::WithEnd { .. }) => Statement::All,
        Ok(HaveAnswer::Partial { ranges }) => {
            Statement::Part { groups: ranges.iter().map(|(start, end)| end.saturating_sub(*start)).sum() }
        }
        Ok(HaveAnswer::None) => Statement::None,
        Err(PeerError::Silent(_)) => Statement::Silent,
        Err(error) => Statement::Unreachable { reason: error.to_string() },
    }
}

fn finding(index: usize, said: HaveAnswer) -> Finding {
    match said {
        HaveAnswer::None => Finding::HasNot(index),
        has => Finding::Has(index, has),
    }
}
