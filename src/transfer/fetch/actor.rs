//! The task that fetches one blob.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rangemap::RangeSet;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::answered::Awaited;
use super::candidates::Candidates;
use super::flight::{Event, Flight, Outlet};
use super::patience::Patience;
use super::waiters::{Destination, Filled, Waiter, Waiters};
use crate::buffers::SEGMENT_LEN;
use crate::holders::Finding;
use crate::ids::{ContentHash, TransferId};
use crate::permits::Permit;
use crate::store::Blob;
use crate::transfer::engine::{Phase, Shared};
use crate::transfer::exchange::ExchangeError;
use crate::transfer::status::TransferState;
use crate::transfer::table::Transfer;
use crate::transfer::{FetchError, Priority};
use crate::verify::{GROUP_LEN, group_count, groups_from};
use crate::wire::{HaveAnswer, MAX_RANGE_LEN};

/// Commands waiting for one task.
const MAX_COMMANDS: usize = 256;

/// Events waiting for one task.
const MAX_EVENTS: usize = 256;

/// Groups wanted ahead of any reader at the same time, for one blob.
const MAX_AHEAD_GROUPS: u64 = 16 * MAX_RANGE_LEN / GROUP_LEN;

/// Bytes up to which an exchange that nobody wants any more is let go on: cheaper than the lane
/// that breaking it off would cost.
const DRAIN_LEN: u64 = SEGMENT_LEN as u64;

/// How long a task without work stays, to spare the next reader the questions. Once the store has all of
/// the blob there is nothing left to ask.
const LINGER: Duration = Duration::from_secs(2);

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
        /// What the store holds of them cannot be read: they are to be fetched all the same.
        unreadable: bool,
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
    /// Whatever has come by now is to be in the store, or known never to be, before the answer comes, if one does.
    Land(oneshot::Sender<Result<Filled, FetchError>>),
}

/// Starts the task for `hash`, whose size is `size` if it is proven already. The task ends by
/// itself; a command that then cannot be sent wants a new one. It keeps `place` and `phase` as long as
/// it lives.
pub fn spawn(
    shared: Arc<Shared>,
    hash: ContentHash,
    size: Option<u64>,
    place: Permit,
    phase: watch::Receiver<Phase>,
) -> mpsc::Sender<Command> {
    let (sender, commands) = mpsc::channel(MAX_COMMANDS);
    let (events_sender, events) = mpsc::channel(MAX_EVENTS);
    shared.metrics.fetch_tasks.inc();
    let actor = Actor {
        shared,
        _place: place,
        phase,
        hash,
        size,
        blob: None,
        id: TransferId::next(),
        transfer: None,
        commands,
        outlet: Outlet { turn: Arc::default(), events: events_sender },
        events,
        drained: false,
        sizes_wanted: Vec::new(),
        waiters: Waiters::default(),
        ahead: RangeSet::new(),
        landing: RangeSet::new(),
        readers: Vec::new(),
        wasted: 0,
        flights: HashMap::new(),
        next_flight: 0,
        candidates: Candidates::default(),
        survey: None,
        patience: Patience::new(),
    };
    tokio::spawn(actor.run());
    sender
}

pub(super) struct Actor {
    pub(super) shared: Arc<Shared>,
    _place: Permit,
    phase: watch::Receiver<Phase>,
    pub(super) hash: ContentHash,
    pub(super) size: Option<u64>,
    blob: Option<Arc<Blob>>,
    /// The same for all it does, until that is cancelled.
    pub(super) id: TransferId,
    /// There while it has anything to do.
    pub(super) transfer: Option<Arc<Transfer>>,
    commands: mpsc::Receiver<Command>,
    pub(super) outlet: Outlet,
    events: mpsc::Receiver<Event>,
    /// No command will come any more.
    drained: bool,
    pub(super) sizes_wanted: Vec<SizeWaiter>,
    pub(super) waiters: Waiters,
    /// Groups wanted ahead of any reader, not yet come.
    pub(super) ahead: RangeSet<u64>,
    /// Groups that have come and are being written.
    pub(super) landing: RangeSet<u64>,
    /// The readers for which there is something ahead.
    readers: Vec<Weak<()>>,
    /// Bytes that came a second time.
    pub(super) wasted: u64,
    pub(super) flights: HashMap<u64, Flight>,
    pub(super) next_flight: u64,
    pub(super) candidates: Candidates,
    pub(super) survey: Option<mpsc::Receiver<Finding>>,
    pub(super) patience: Patience,
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.shared.metrics.fetch_tasks.sub(1);
    }
}

/// One who waits for the size.
pub(super) struct SizeWaiter {
    /// How many surveys had been begun when it came.
    pub born: u64,
    pub reply: oneshot::Sender<Result<u64, FetchError>>,
}

impl Actor {
    async fn run(mut self) {
        self.load_blob().await;
        let mut idle_since = Instant::now();
        let mut is_whole = false;
        loop {
            let now = Instant::now();
            self.prune();
            self.begin_transfer();
            self.look_after_flights(now);
            self.plan(now);
            self.settle(now);
            let idle = self.is_idle();
            self.note_state(idle);
            if !idle {
                idle_since = now;
            } else if self.drained || self.is_closing() {
                break;
            } else if let Some(blob) = self.blob.take() {
                // Nobody here needs it: it may be evicted.
                is_whole = blob.is_complete();
            }
            let linger = if is_whole || self.shared.is_crowded() { Duration::ZERO } else { LINGER };
            let wake = if idle { idle_since + linger } else { self.next_wake(now) };
            tokio::select! {
                command = self.commands.recv(), if !self.drained => match command {
                    Some(command) => {
                        if matches!(command, Command::Want { .. } | Command::Prefetch { .. }) {
                            self.load_blob().await;
                        }
                        self.command(command);
                    }
                    None => self.drained = true,
                },
                Some(event) = self.events.recv() => {
                    if matches!(event, Event::Stored(_)) {
                        self.load_blob().await;
                    }
                    self.event(event);
                }
                finding = next_finding(&mut self.survey) => self.finding(finding),
                () = cancelled(self.transfer.as_deref()) => self.cancel(),
                Ok(()) = self.phase.changed() => self.note_phase(),
                () = sleep_until(wake) => {
                    if idle && idle_since.elapsed() >= linger {
                        // Commands sent before this are still carried out.
                        self.commands.close();
                        self.shared.task_ended(&self.hash);
                    }
                }
            }
        }
    }

    /// Makes what there is to do a transfer that can be seen, if it is none yet.
    fn begin_transfer(&mut self) {
        if self.transfer.is_none() && !self.is_idle() {
            self.transfer = Some(Arc::new(self.shared.transfers.enter(self.id, self.hash, self.size)));
        }
    }

    /// Says how the transfer is doing, or that it is over.
    fn note_state(&mut self, idle: bool) {
        if idle {
            self.transfer = None;
        }
        let Some(transfer) = &self.transfer else { return };
        let waits = |flight: &Flight| flight.seen.1 == 0 || flight.progress.held_up.load(Ordering::Relaxed);
        transfer.note_state(if self.flights.is_empty() {
            if self.survey.is_some() { TransferState::Asking } else { TransferState::Waiting }
        } else if self.flights.values().all(|flight| flight.stalled) {
            TransferState::Stalled
        } else if self.flights.values().all(waits) {
            TransferState::Waiting
        } else {
            TransferState::Moving
        });
    }

    /// Somebody wants the transfer to end.
    fn cancel(&mut self) {
        (self.id, self.transfer) = (TransferId::next(), None);
        self.fail_all(&FetchError::Cancelled);
        self.readers.clear();
        self.break_off(|_| true);
    }

    /// Whether nothing new may be asked for.
    pub(super) fn is_closing(&self) -> bool {
        *self.phase.borrow() != Phase::Open
    }

    /// The engine is closing: what has not been asked for yet never is.
    fn note_phase(&mut self) {
        let phase = *self.phase.borrow_and_update();
        match phase {
            Phase::Open => {}
            Phase::Draining => {
                self.readers.clear();
                self.recall(|_| true);
            }
            Phase::Closed => self.cancel(),
        }
    }

    /// Takes back those of the exchanges that nobody has been asked for yet.
    pub(super) fn recall(&mut self, which: impl Fn(&Flight) -> bool) {
        self.break_off(|flight| !flight.progress.sent.load(Ordering::Relaxed) && which(flight));
    }

    /// Takes what the store has of the blob.
    async fn load_blob(&mut self) {
        if self.blob.is_none() {
            self.blob = self.shared.blob(self.hash).await;
        }
        if let Some(size) = self.blob.as_ref().map(|blob| blob.size()) {
            self.note_size(size);
        }
    }

    pub(super) fn note_size(&mut self, size: u64) {
        self.size = Some(size);
        if let Some(transfer) = &self.transfer {
            transfer.note_size(size);
        }
        for waiter in self.sizes_wanted.drain(..) {
            let _ = waiter.reply.send(Ok(size));
        }
    }

    fn command(&mut self, command: Command) {
        if !self.has_demand() {
            self.patience.renew();
        }
        let born = self.patience.surveys_begun;
        match command {
            Command::Size(reply) => match self.size {
                Some(size) => drop(reply.send(Ok(size))),
                None => self.sizes_wanted.push(SizeWaiter { born, reply }),
            },
            Command::Want { destination, left, priority, unreadable, reply } => {
                let held = |groups| if unreadable { Vec::new() } else { self.held(groups) };
                let held: Vec<_> = left.iter().flat_map(held).collect();
                self.waiters.push(Waiter { destination, left, priority, born, since: Instant::now(), reply });
                for groups in held {
                    self.waiters.stored(&groups);
                }
            }
            // Nothing is asked of anybody for it.
            Command::Land(reply) if !self.landing.is_empty() => {
                let (left, priority, since) = (self.landing.clone(), Priority::Prefetch, Instant::now());
                self.waiters.push(Waiter { destination: None, left, priority, born, since, reply });
            }
            Command::Land(_) => {}
            Command::Prefetch { groups, reader } => {
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
            Event::Size { flight: number, size, groups } => {
                self.shared.remember_size(self.hash, size);
                // The last group was not among those asked for; nobody else is to be asked for it now.
                if let Some(flight) = self.flights.get_mut(&number) {
                    flight.left.extend(groups);
                }
                self.note_size(size);
            }
            Event::Segment { flight: number, first, bytes } => {
                let groups = groups_from(first, bytes.len());
                self.note_waste(&groups);
                self.waiters.deliver(first, &bytes, self.patience.surveys_begun);
                self.ahead.remove(groups.clone());
                self.landing.insert(groups.clone());
                if let Some(flight) = self.flights.get_mut(&number) {
                    flight.left.remove(groups);
                    flight.stalled = false;
                    self.candidates.note_progress(flight.peer_index);
                }
                self.patience.renew();
            }
            Event::Stored(groups) => {
                for groups in groups {
                    self.landing.remove(groups.clone());
                    self.waiters.stored(&groups);
                }
            }
            Event::Ended { flight: number, result } => {
                let Some(flight) = self.flights.remove(&number) else { return };
                self.note_end(&flight, result.as_ref().err());
            }
        }
    }

    /// Counts those of `groups` that have come before.
    fn note_waste(&mut self, groups: &Range<u64>) {
        let mut known: RangeSet<u64> = self.held(groups).into_iter().collect();
        known.extend(
            self.landing.overlapping(groups).map(|range| range.start.max(groups.start)..range.end.min(groups.end)),
        );
        self.wasted += group_total(&known) * GROUP_LEN;
    }

    /// An exchange is over: all that was asked for has come, or `error` came instead, or it was broken off.
    pub(super) fn note_end(&mut self, flight: &Flight, error: Option<&ExchangeError>) {
        if let Some(error) = error {
            self.note_error(flight, error);
        }
        self.candidates.note_end(flight.peer_index, error, &flight.left);
    }

    fn note_error(&mut self, flight: &Flight, error: &ExchangeError) {
        let peer = flight.peer.spec();
        tracing::debug!(%peer, hash = %self.hash, "exchange failed: {error}");
        self.shared.holders.note_failed(self.hash, flight.peer_index, error.to_string());
        match error {
            ExchangeError::WrongBytes(_) => self.note_wrong_bytes(flight.peer_index),
            ExchangeError::Busy(_) => {}
            _ => {
                self.shared.holders.forget(&self.hash, flight.peer_index);
                if matches!(error, ExchangeError::Silent | ExchangeError::Broken(_)) {
                    flight.peer.note_failure(&error.to_string());
                }
            }
        }
    }

    /// A peer sent something that is not of the blob.
    pub(super) fn note_wrong_bytes(&mut self, index: usize) {
        self.shared.holders.note_wrong_bytes(self.hash, index);
        self.candidates.ban(index);
        self.break_off(|flight| flight.peer_index == index);
    }

    fn finding(&mut self, finding: Option<Finding>) {
        let is_of = |awaited: &mut Awaited| finding.as_ref().is_none_or(|finding| finding.index() == awaited.index);
        self.patience.awaited.take_if(is_of);
        match finding {
            Some(finding) => {
                let finding = match finding {
                    Finding::WithEnd(index, end) => {
                        self.take_end(index, end);
                        Finding::Has(index, HaveAnswer::Complete)
                    }
                    other => other,
                };
                self.candidates.note(&self.shared.holders, finding, self.size.map(group_count));
                let flights = self.flights.values().map(|flight| flight.peer_index);
                self.candidates.count_flights(flights);
            }
            None => self.survey = None,
        }
    }

    pub(super) fn has_demand(&self) -> bool {
        !self.waiters.is_empty() || !self.sizes_wanted.is_empty()
    }

    fn is_idle(&self) -> bool {
        !self.has_demand() && self.ahead.is_empty() && self.flights.is_empty() && self.landing.is_empty()
    }

    /// Forgets what nobody wants any more, and breaks off what was under way for it.
    fn prune(&mut self) {
        self.waiters.prune();
        self.sizes_wanted.retain(|waiter| !waiter.reply.is_closed());
        self.readers.retain(|reader| reader.strong_count() > 0);
        if self.readers.is_empty() {
            self.ahead = RangeSet::new();
            if !self.has_demand() {
                self.break_off(|flight| is_long(flight));
            }
        }
    }

    /// Breaks off those of the exchanges; their lanes are closed, if they have got one.
    pub(super) fn break_off(&mut self, mut which: impl FnMut(&mut Flight) -> bool) {
        let broken_off: Vec<_> = self.flights.extract_if(|_, flight| which(flight)).collect();
        broken_off.iter().for_each(|(_, flight)| self.note_end(flight, None));
    }
}

/// Whether to break an exchange off that nobody wants is cheaper than to let it end.
pub(super) fn is_long(flight: &Flight) -> bool {
    group_total(&flight.left) * GROUP_LEN > DRAIN_LEN
}

/// How many groups a set has.
pub(super) fn group_total(groups: &RangeSet<u64>) -> u64 {
    groups.iter().map(|range| range.end - range.start).sum()
}

/// The next finding of the survey, if there is one.
async fn next_finding(survey: &mut Option<mpsc::Receiver<Finding>>) -> Option<Finding> {
    match survey {
        Some(findings) => findings.recv().await,
        None => std::future::pending().await,
    }
}

/// Ready when `transfer` is to end.
async fn cancelled(transfer: Option<&Transfer>) {
    match transfer {
        Some(transfer) => transfer.cancelled().await,
        None => std::future::pending().await,
    }
}
