//! The task that fetches one blob.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rangemap::RangeSet;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::candidates::Candidates;
use super::flight::{Event, Flight, launch};
use super::waiters::{Destination, Filled, Waiter, Waiters};
use crate::holders::Finding;
use crate::ids::ContentHash;
use crate::store::Blob;
use crate::transfer::buffers::SEGMENT_LEN;
use crate::transfer::engine::Shared;
use crate::transfer::exchange::{Ask, ExchangeError};
use crate::transfer::recent::SEGMENT_GROUPS;
use crate::transfer::{FetchError, Priority};
use crate::verify::GROUP_LEN;
use crate::wire::MAX_RANGE_LEN;

/// Bytes asked for by the exchange that proves the size: small blobs come whole with it, and of a
/// large one little is fetched that nobody may want.
pub const FIRST_LEN: u64 = 64 * 1024;

/// Bytes of the longest exchange. A quarter of what the wire allows: short enough to be spread
/// over holders, long enough that a round trip more does not matter.
const PIECE_LEN: u64 = MAX_RANGE_LEN / 4;

/// Exchanges of one blob under way at the same time.
const MAX_FLIGHTS: usize = 32;

/// Commands waiting for one task.
const MAX_COMMANDS: usize = 256;

/// Events waiting for one task.
const MAX_EVENTS: usize = 256;

/// Groups wanted ahead of any reader at the same time, for one blob.
const MAX_AHEAD_GROUPS: u64 = 4 * MAX_RANGE_LEN / GROUP_LEN;

/// Bytes up to which an exchange that nobody wants any more is let go on: cheaper than the lane
/// that breaking it off would cost.
const DRAIN_LEN: u64 = SEGMENT_LEN as u64;

/// How often exchanges are looked after.
const TICK: Duration = Duration::from_millis(50);

/// The least time without progress after which a range is asked of another holder as well.
const MIN_STALL: Duration = Duration::from_millis(200);

/// Round trips without progress that count as a stall.
const STALL_ROUND_TRIPS: u32 = 4;

/// How long an exchange may wait for its lane before it counts as stalled.
const LANE_STALL: Duration = Duration::from_secs(1);

/// Surveys for one want: the first, and some more in case a lost holder comes back.
const MAX_SURVEYS: u32 = 4;

/// The pause before asking around again.
const SURVEY_PAUSE: Duration = Duration::from_millis(500);

/// How long a task without work stays, to spare the next reader the questions.
const LINGER: Duration = Duration::from_secs(2);

const _: () = assert!(FIRST_LEN.is_multiple_of(GROUP_LEN) && PIECE_LEN.is_multiple_of(SEGMENT_LEN as u64));

/// What readers want of the task.
pub enum Command {
    /// The size, proven.
    Size(oneshot::Sender<Result<u64, FetchError>>),
    /// Some groups.
    Want {
        /// Where the bytes go; `None`: the answer comes when they are in the store.
        destination: Option<Destination>,
        /// The groups wanted.
        left: RangeSet<u64>,
        /// How urgently.
        priority: Priority,
        /// The answer.
        reply: oneshot::Sender<Result<Filled, FetchError>>,
    },
    /// Some groups will probably be wanted soon, as long as the reader lives.
    Prefetch {
        /// The groups.
        groups: Range<u64>,
        /// Alive while the reader is.
        reader: Weak<()>,
    },
}

/// Starts the task for `hash`, whose size is `size` if it is proven already. The task ends by
/// itself; a command that then cannot be sent wants a new one.
pub fn spawn(shared: Arc<Shared>, hash: ContentHash, size: Option<u64>) -> mpsc::Sender<Command> {
    let (sender, commands) = mpsc::channel(MAX_COMMANDS);
    let (events_sender, events) = mpsc::channel(MAX_EVENTS);
    let actor = Actor {
        shared,
        hash,
        size,
        blob: None,
        commands,
        turn: Arc::default(),
        events_sender,
        events,
        sizes_wanted: Vec::new(),
        waiters: Waiters::default(),
        ahead: RangeSet::new(),
        landing: RangeSet::new(),
        readers: Vec::new(),
        flights: HashMap::new(),
        next_flight: 0,
        candidates: Candidates::default(),
        survey: None,
        surveys: 0,
        survey_after: None,
    };
    tokio::spawn(actor.run());
    sender
}

struct Actor {
    shared: Arc<Shared>,
    hash: ContentHash,
    size: Option<u64>,
    blob: Option<Arc<Blob>>,
    commands: mpsc::Receiver<Command>,
    /// Held by whoever writes to the blob.
    turn: Arc<tokio::sync::Mutex<()>>,
    events_sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
    sizes_wanted: Vec<oneshot::Sender<Result<u64, FetchError>>>,
    waiters: Waiters,
    /// Groups wanted ahead of any reader, not yet come.
    ahead: RangeSet<u64>,
    /// Groups that have come and are being written.
    landing: RangeSet<u64>,
    /// The readers for which there is something ahead.
    readers: Vec<Weak<()>>,
    flights: HashMap<u64, Flight>,
    next_flight: u64,
    candidates: Candidates,
    survey: Option<mpsc::Receiver<Finding>>,
    surveys: u32,
    /// When to ask around again.
    survey_after: Option<Instant>,
}

impl Actor {
    async fn run(mut self) {
        self.load_blob();
        let mut idle_since = Instant::now();
        loop {
            self.prune();
            self.plan();
            self.settle();
            let idle = self.is_idle();
            if !idle {
                idle_since = Instant::now();
            }
            let wake = if idle { idle_since + LINGER } else { self.next_wake() };
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None if idle => break,
                    None => tokio::time::sleep(TICK).await,
                },
                Some(event) = self.events.recv() => self.event(event),
                finding = next_finding(&mut self.survey) => self.finding(finding),
                () = sleep_until(wake) => {
                    self.look_after_flights();
                    if idle && idle_since.elapsed() >= LINGER {
                        // Commands sent before this are still carried out.
                        self.commands.close();
                        self.shared.task_ended(&self.hash);
                    }
                }
            }
        }
    }

    /// Takes what the store has of the blob.
    fn load_blob(&mut self) {
        if self.blob.is_none() {
            self.blob = self.shared.store.blob(&self.hash).ok().flatten();
        }
        if let Some(size) = self.blob.as_ref().map(|blob| blob.size()) {
            self.note_size(size);
        }
    }

    fn note_size(&mut self, size: u64) {
        self.size = Some(size);
        for reply in self.sizes_wanted.drain(..) {
            let _ = reply.send(Ok(size));
        }
    }

    fn command(&mut self, command: Command) {
        if !self.has_demand() {
            self.surveys = 0;
        }
        match command {
            Command::Size(reply) => match self.size {
                Some(size) => drop(reply.send(Ok(size))),
                None => self.sizes_wanted.push(reply),
            },
            Command::Want { destination, left, priority, reply } => {
                self.load_blob();
                let held: Vec<_> = left.iter().flat_map(|groups| self.held(groups)).collect();
                self.waiters.push(Waiter { destination, left, priority, reply });
                for groups in held {
                    self.waiters.stored(&groups);
                }
            }
            Command::Prefetch { groups, reader } => {
                self.load_blob();
                let missing = match &self.blob {
                    Some(blob) => blob.missing(groups),
                    None => vec![groups],
                };
                let mut wanted = group_total(&self.ahead);
                for range in missing {
                    wanted += range.end - range.start;
                    if wanted <= MAX_AHEAD_GROUPS {
                        self.ahead.insert(range);
                    }
                }
                for landing in self.landing.iter() {
                    self.ahead.remove(landing.clone());
                }
                if !self.readers.iter().any(|known| known.ptr_eq(&reader)) {
                    self.readers.push(reader);
                }
            }
        }
    }

    /// The groups of `within` that the store has.
    fn held(&self, within: &Range<u64>) -> Vec<Range<u64>> {
        let Some(blob) = &self.blob else { return Vec::new() };
        let missing: RangeSet<u64> = blob.missing(within.clone()).into_iter().collect();
        missing.gaps(within).collect()
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Size(size) => {
                self.shared.remember_size(self.hash, size);
                self.note_size(size);
            }
            Event::Segment { flight: number, first, bytes } => {
                let groups = first..first + (bytes.len() as u64).div_ceil(GROUP_LEN).max(1);
                self.waiters.deliver(first, &bytes);
                self.ahead.remove(groups.clone());
                self.landing.insert(groups.clone());
                if let Some(flight) = self.flights.get_mut(&number) {
                    flight.left.remove(groups);
                    flight.stalled = false;
                    self.candidates.note_progress(flight.peer_index);
                }
                self.surveys = 0;
            }
            Event::Stored(groups) => {
                self.load_blob();
                for groups in groups {
                    self.landing.remove(groups.clone());
                    self.waiters.stored(&groups);
                }
            }
            Event::Ended { flight: number, result } => {
                let Some(flight) = self.flights.remove(&number) else { return };
                if let Err(error) = &result {
                    self.note_error(&flight, error);
                }
                self.candidates.note_end(flight.peer_index, result.as_ref().err());
            }
        }
    }

    fn note_error(&self, flight: &Flight, error: &ExchangeError) {
        let peer = flight.peer.spec();
        tracing::debug!(%peer, hash = %self.hash, "exchange failed: {error}");
        match error {
            ExchangeError::WrongBytes(_) => {
                self.shared.metrics.wrong_bytes.inc();
                tracing::warn!(%peer, "the peer sent bytes that do not match the hash asked for");
                flight.peer.note_wrong_bytes();
                self.shared.holders.forget(&self.hash, flight.peer_index);
            }
            ExchangeError::Busy(_) => {}
            _ => {
                self.shared.holders.forget(&self.hash, flight.peer_index);
                if matches!(error, ExchangeError::Silent | ExchangeError::Broken(_)) {
                    flight.peer.note_failure(&error.to_string());
                }
            }
        }
    }

    fn finding(&mut self, finding: Option<Finding>) {
        match finding {
            Some(finding) => self.candidates.note(&self.shared.holders, finding),
            None => self.survey = None,
        }
    }

    fn has_demand(&self) -> bool {
        !self.waiters.is_empty() || !self.sizes_wanted.is_empty()
    }

    fn is_idle(&self) -> bool {
        !self.has_demand() && self.ahead.is_empty() && self.flights.is_empty() && self.landing.is_empty()
    }

    /// Forgets what nobody wants any more, and breaks off what was under way for it.
    fn prune(&mut self) {
        self.waiters.prune();
        self.sizes_wanted.retain(|reply| !reply.is_closed());
        self.readers.retain(|reader| reader.strong_count() > 0);
        if self.readers.is_empty() {
            self.ahead = RangeSet::new();
            if !self.has_demand() {
                self.break_off();
            }
        }
    }

    /// Closes the lanes of exchanges of which much is still to come; lets the others end.
    fn break_off(&mut self) {
        let long = |flight: &Flight| group_total(&flight.left) * GROUP_LEN > DRAIN_LEN;
        for (_, flight) in self.flights.extract_if(|_, flight| long(flight)) {
            self.candidates.note_end(flight.peer_index, None);
        }
    }

    /// Gives what is wanted and not under way to holders, as far as they can take it.
    fn plan(&mut self) {
        while self.flights.len() < MAX_FLIGHTS {
            let Some((groups, priority)) = self.next_piece() else { return };
            let stalled = || self.flights.values().filter(|flight| flight.stalled);
            let silent: Vec<usize> = stalled().map(|flight| flight.peer_index).collect();
            let hedged: Vec<usize> =
                stalled().filter(|flight| flight.left.overlaps(&groups)).map(|flight| flight.peer_index).collect();
            // Rather somebody who is not silent, if there is one.
            let chosen = self
                .candidates
                .choose(&groups, priority, &silent)
                .or_else(|| self.candidates.choose(&groups, priority, &hedged));
            let Some((index, peer, groups)) = chosen else { return };
            if !hedged.is_empty() {
                self.shared.metrics.exchanges_hedged.inc();
            }
            let ask = Ask { hash: self.hash, groups, size: self.size };
            let number = self.next_flight;
            self.next_flight += 1;
            let flight = launch(&self.shared, number, index, peer, ask, self.turn.clone(), self.events_sender.clone());
            self.flights.insert(number, flight);
        }
    }

    /// The next groups to ask for.
    fn next_piece(&self) -> Option<(Range<u64>, Priority)> {
        let mut covered = self.landing.clone();
        for flight in self.flights.values().filter(|flight| !flight.stalled) {
            covered.extend(flight.left.iter().cloned());
        }
        if self.size.is_none() {
            let first = 0..FIRST_LEN / GROUP_LEN;
            let wanted = self.has_demand() && !covered.overlaps(&first);
            return wanted.then_some((first, Priority::Foreground));
        }
        for waiter in self.waiters.iter() {
            if let Some(start) = waiter.left.iter().find_map(|range| covered.gaps(range).next()) {
                return Some((self.extend(start, &covered), waiter.priority));
            }
        }
        let start = self.ahead.iter().find_map(|range| covered.gaps(range).next())?;
        let piece = self.extend(start.start..start.start + 1, &covered);
        Some((piece, Priority::ReadAhead))
    }

    /// Lengthens `piece` by what is wanted behind it, up to the length that spreads the work.
    fn extend(&self, piece: Range<u64>, covered: &RangeSet<u64>) -> Range<u64> {
        let share = group_total(&self.ahead) / (4 * self.candidates.len().max(1)) as u64;
        let longest = share.clamp(SEGMENT_GROUPS, PIECE_LEN / GROUP_LEN);
        let most = piece.start + longest.max((piece.end - piece.start).min(PIECE_LEN / GROUP_LEN));
        // Cut where segments end.
        let most = (most / SEGMENT_GROUPS * SEGMENT_GROUPS).max((piece.start / SEGMENT_GROUPS + 1) * SEGMENT_GROUPS);
        let mut end = piece.end.min(most);
        if let Some(behind) = self.ahead.get(&end).or_else(|| self.ahead.get(&(end - 1))) {
            end = end.max(behind.end.min(most));
        }
        let free = covered.gaps(&(piece.start..end)).next().map_or(end, |gap| gap.end);
        piece.start..free.max(piece.start + 1)
    }

    /// Starts a survey when one is due, and gives up when nobody can help.
    fn settle(&mut self) {
        if !(self.has_demand() || !self.ahead.is_empty()) || self.survey.is_some() {
            return;
        }
        if let Some(after) = self.survey_after {
            if Instant::now() < after {
                return;
            }
            self.survey_after = None;
            self.ask_around();
            return;
        }
        let stuck = !self.flights.is_empty() && self.flights.values().all(|flight| flight.stalled);
        if stuck && self.surveys < MAX_SURVEYS {
            self.survey_after = Some(Instant::now() + if self.surveys == 0 { Duration::ZERO } else { SURVEY_PAUSE });
            return;
        }
        if !self.flights.is_empty() || self.candidates.next_retry().is_some_and(|at| Instant::now() < at) {
            return;
        }
        // Nothing is under way, `plan` found nobody to ask, and nobody is to be asked later.
        if self.next_piece().is_none() {
            return;
        }
        if self.surveys == 0 {
            self.ask_around();
        } else if self.candidates.lost_some() && self.surveys < MAX_SURVEYS {
            self.survey_after = Some(Instant::now() + SURVEY_PAUSE);
        } else {
            self.fail();
        }
    }

    fn ask_around(&mut self) {
        self.surveys += 1;
        self.candidates.forget_verdicts();
        self.survey = Some(self.shared.holders.survey(self.hash));
    }

    fn fail(&mut self) {
        let error = self.candidates.error();
        for reply in self.sizes_wanted.drain(..) {
            let _ = reply.send(Err(error.clone()));
        }
        self.waiters.fail(&error);
        self.ahead = RangeSet::new();
        self.candidates.forget_verdicts();
        self.surveys = 0;
    }

    /// Finds the exchanges that make no progress.
    fn look_after_flights(&mut self) {
        use std::sync::atomic::Ordering::Relaxed;
        let now = Instant::now();
        for flight in self.flights.values_mut() {
            let seen = (flight.progress.sent.load(Relaxed), flight.progress.wire.load(Relaxed));
            if seen != flight.seen {
                flight.seen = seen;
                flight.changed = now;
                flight.stalled = false;
                continue;
            }
            let patience = match flight.peer.round_trip() {
                _ if !seen.0 => LANE_STALL,
                Some(round_trip) => MIN_STALL.max(round_trip * STALL_ROUND_TRIPS),
                None => MIN_STALL,
            };
            if !flight.stalled && now - flight.changed >= patience {
                flight.stalled = true;
                flight.peer.note_stall();
            }
        }
    }

    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let tick = now + TICK;
        let retry = self.candidates.next_retry().filter(|at| *at > now);
        [Some(tick), retry, self.survey_after]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(tick)
            .max(now + Duration::from_millis(1))
    }
}

/// How many groups a set has.
fn group_total(groups: &RangeSet<u64>) -> u64 {
    groups.iter().map(|range| range.end - range.start).sum()
}

/// The next finding of the survey, if there is one.
async fn next_finding(survey: &mut Option<mpsc::Receiver<Finding>>) -> Option<Finding> {
    match survey {
        Some(findings) => findings.recv().await,
        None => std::future::pending().await,
    }
}
