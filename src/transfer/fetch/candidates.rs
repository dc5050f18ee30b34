//! The peers that may be asked for parts of one blob, and what the others had to say.

use std::ops::Range;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rangemap::RangeSet;
use tokio::time::Instant;

use super::actor::group_total;
use super::plan::FIRST_GROUPS;
use crate::holders::{BULK_LANES, Finding, Holders, Peer};
use crate::ids::PeerId;
use crate::transfer::exchange::ExchangeError;
use crate::transfer::{FetchError, Priority};
use crate::verify::GROUP_LEN;
use crate::wire::{HaveAnswer, MAX_BLOB_GROUPS};

/// Failures in a row, without a byte in between, after which a holder is not asked for this blob
/// any more (until the next survey).
const MAX_FAILURES: u32 = 2;

/// The pause after a holder's first failure.
const FAILURE_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause for a holder that is busy; the one that it wishes is doubled each time in a row.
const MAX_BUSY_PAUSE: Duration = Duration::from_secs(2);

/// How much sooner than it will a holder of a part is taken to deliver: who has all of it is needed for what
/// nobody else has.
const PART_ADVANTAGE: f64 = 0.5;

/// How long one who was seen to get more of the blob is taken to go on: what comes is written, and told of, a
/// piece at a time.
const SWARM_MEMORY: Duration = Duration::from_secs(5);

/// Bytes a second from all holders from which on it may be this node's cores that bound it. More than any link of a
/// gigabit gives.
const BUSY_RATE: f64 = 500e6;

/// Bulk lanes that keep a core busy: one to be worked on while another waits.
const LANES_PER_CORE: usize = 2;

static CORES: LazyLock<usize> = LazyLock::new(|| std::thread::available_parallelism().map_or(1, usize::from));

/// One holder of the blob.
struct Candidate {
    index: usize,
    peer: Arc<Peer>,
    /// The groups it has; `None`: all.
    has: Option<RangeSet<u64>>,
    flights: usize,
    failures: u32,
    /// How often in a row it was busy.
    busy: u32,
    not_before: Option<Instant>,
    /// When it was seen last to have more than before.
    grew_at: Option<Instant>,
}

impl Candidate {
    /// Whether it can take an exchange of this priority now.
    fn is_free(&self, priority: Priority, now: Instant) -> bool {
        let small = if priority == Priority::Foreground { self.peer.small_lanes() } else { 0 };
        let most = self.peer.bulk_lanes() + small;
        self.flights < most && self.not_before.is_none_or(|at| at <= now)
    }

    /// Whether it fetches the blob, too, as far as is known.
    fn is_in_swarm(&self, now: Instant) -> bool {
        self.has.is_some() && self.grew_at.is_some_and(|at| now - at < SWARM_MEMORY)
    }

    /// Takes note that it does not have `groups`. True if nothing is left that it could have.
    fn has_not(&mut self, groups: &RangeSet<u64>) -> bool {
        let Some(has) = &mut self.has else { return true };
        groups.iter().for_each(|groups| has.remove(groups.clone()));
        has.is_empty()
    }
}

/// What was said by those who cannot help.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Verdicts {
    said_no: bool,
    silent: bool,
    lost: bool,
    wrong: bool,
}

impl Verdicts {
    /// The error that says most about why nobody can help. "Lost" is a holder that had it and can
    /// no longer be reached; a peer that could never be reached says nothing.
    fn error(self) -> FetchError {
        match self {
            Self { wrong: true, .. } => FetchError::WrongBytes,
            Self { silent: true, .. } => FetchError::TimedOut,
            Self { lost: true, .. } => FetchError::Unreachable,
            Self { said_no: true, .. } => FetchError::NotFound,
            _ => FetchError::Unreachable,
        }
    }
}

/// All holders of one blob, as known now.
#[derive(Default)]
pub(super) struct Candidates {
    usable: Vec<Candidate>,
    /// Peers that sent wrong bytes of this blob: never asked for it again by this task.
    banned: Vec<usize>,
    /// Peers that said once that they have none of it.
    had_none: Vec<usize>,
    /// Peers that were counted on to fetch something of it, and did not in time, ever.
    let_down: Vec<usize>,
    verdicts: Verdicts,
    /// When an exchange with one of them fell silent last.
    silent_at: Option<Instant>,
}

impl Candidates {
    /// Takes note of what a survey found of a blob of `groups` groups, if that is known.
    pub fn note(&mut self, holders: &Holders, finding: Finding, groups: Option<u64>) {
        let finding = match finding {
            // What lies behind the end is nobody's.
            Finding::Has(index, HaveAnswer::Partial { ranges }) if !ranges.is_empty() => {
                let end = groups.unwrap_or(u64::MAX);
                let within = ranges.into_iter().map(|(start, to)| (start, to.min(end)));
                let ranges: Vec<_> = within.filter(|(start, to)| start < to).collect();
                match ranges.is_empty() {
                    true => Finding::HasNot(index),
                    false => Finding::Has(index, HaveAnswer::Partial { ranges }),
                }
            }
            other => other,
        };
        match finding {
            Finding::Has(index, said) if !self.banned.contains(&index) => {
                let has = match said {
                    HaveAnswer::Partial { ranges } if !ranges.is_empty() => {
                        // If nobody else has the rest, nobody who is there has it.
                        self.verdicts.said_no = true;
                        Some(ranges.into_iter().map(|(start, end)| start..end).collect())
                    }
                    _ => None,
                };
                match self.usable.iter_mut().find(|candidate| candidate.index == index) {
                    Some(known) => {
                        if total(&has) > total(&known.has) {
                            known.grew_at = Some(Instant::now());
                        }
                        known.has = has;
                    }
                    None => self.usable.push(Candidate {
                        index,
                        peer: holders.peers()[index].clone(),
                        has,
                        flights: 0,
                        failures: 0,
                        busy: 0,
                        not_before: None,
                        grew_at: self.had_none.contains(&index).then(Instant::now),
                    }),
                }
            }
            Finding::Has(..) | Finding::WithEnd(..) | Finding::Unreachable(_) => {}
            Finding::Distrusted(index) => self.ban(index),
            Finding::HasNot(index) => {
                self.verdicts.said_no = true;
                if !self.had_none.contains(&index) {
                    self.had_none.push(index);
                }
            }
            Finding::Silent(_) => self.verdicts.silent = true,
        }
    }

    /// How many lanes may carry bulk from all of them. Where this node's cores are what bounds what comes, one from each
    /// holder is enough, and one that is between two exchanges: measured with `benches/holders.rs` on two cores, four
    /// holders with four lanes each deliver less than one does.
    pub fn bulk_lanes(&self) -> usize {
        let rate = |candidate: &Candidate| candidate.peer.rate().unwrap_or(0.0) * candidate.flights as f64;
        let all = self.usable.iter().map(|candidate| candidate.peer.bulk_lanes()).sum();
        if self.usable.iter().map(rate).sum::<f64>() < BUSY_RATE {
            return all;
        }
        all.min(BULK_LANES.max(self.usable.len() + 1).max(LANES_PER_CORE * *CORES))
    }

    /// Bytes that an exchange with one of them brings in `secs` seconds and four round trips, at most; 0 if
    /// nothing is known of their speed.
    pub fn brought_in(&self, secs: f64) -> u64 {
        let brought = |peer: &Peer| {
            let round_trip = peer.round_trip().unwrap_or_default().as_secs_f64();
            (peer.rate().unwrap_or(0.0) * (secs + 4.0 * round_trip)) as u64
        };
        self.usable.iter().map(|candidate| brought(&candidate.peer)).max().unwrap_or(0)
    }

    /// Whether all of them are far.
    pub fn are_far(&self) -> bool {
        self.usable.iter().all(|candidate| candidate.peer.is_far())
    }

    /// Whether any of them fetches the blob, too.
    pub fn is_swarm(&self, now: Instant) -> bool {
        self.in_swarm(now).next().is_some()
    }

    /// Those who fetch the blob, too: index and id.
    pub fn swarm(&self, now: Instant) -> impl Iterator<Item = (usize, PeerId)> {
        self.in_swarm(now).filter_map(|candidate| Some((candidate.index, candidate.peer.id()?)))
    }

    fn in_swarm(&self, now: Instant) -> impl Iterator<Item = &Candidate> {
        let counts = move |candidate: &&Candidate| !self.let_down.contains(&candidate.index);
        self.usable.iter().filter(move |candidate| candidate.is_in_swarm(now)).filter(counts)
    }

    /// The one with index `index` was counted on in vain.
    pub fn note_let_down(&mut self, index: usize) {
        if !self.let_down.contains(&index) {
            self.let_down.push(index);
        }
    }

    /// Whether one who has group `group` in a part can take an exchange now; `None` if none of them has it.
    pub fn part_is_free(&self, group: u64, now: Instant) -> Option<bool> {
        let has = |candidate: &&Candidate| candidate.has.as_ref().is_some_and(|has| has.contains(&group));
        self.usable.iter().filter(has).map(|candidate| candidate.is_free(Priority::ReadAhead, now)).reduce(|a, b| a | b)
    }

    /// Seconds that an exchange of `len` bytes takes with the fastest of those who have all of the blob.
    pub fn secs_of_whole(&self, len: u64) -> f64 {
        let whole = self.usable.iter().filter(|candidate| candidate.has.is_none());
        let rate = whole.filter_map(|candidate| candidate.peer.rate()).max_by(f64::total_cmp);
        rate.map_or(0.0, |rate| len as f64 / rate.max(1.0))
    }

    /// The groups that any of them has; `None`: all.
    pub fn held(&self) -> Option<RangeSet<u64>> {
        let mut held = RangeSet::new();
        for candidate in &self.usable {
            held.extend(candidate.has.as_ref()?.iter().cloned());
        }
        Some(held)
    }

    /// The first of `groups` but its first that any of them has said to have; its end if there is none.
    pub fn next_held(&self, groups: &Range<u64>) -> u64 {
        let rest = groups.start + 1..groups.end;
        let starts = self.usable.iter().filter_map(|candidate| candidate.has.as_ref());
        let starts = starts.filter_map(|has| Some(has.overlapping(&rest).next()?.start.max(rest.start)));
        starts.min().unwrap_or(groups.end)
    }

    /// Whether any of them can take an exchange of this priority now.
    pub fn any_free(&self, priority: Priority, now: Instant) -> bool {
        self.usable.iter().any(|candidate| candidate.is_free(priority, now))
    }

    /// Counts the exchanges anew, given the index of the holder of each.
    pub fn count_flights(&mut self, flights: impl Iterator<Item = usize>) {
        self.usable.iter_mut().for_each(|candidate| candidate.flights = 0);
        for index in flights {
            if let Some(candidate) = self.usable.iter_mut().find(|candidate| candidate.index == index) {
                candidate.flights += 1;
            }
        }
    }

    /// Never again counts on the one with index `index`: it sent wrong bytes of this blob.
    pub fn ban(&mut self, index: usize) {
        self.verdicts.wrong = true;
        if !self.banned.contains(&index) {
            self.banned.push(index);
        }
        self.usable.retain(|candidate| candidate.index != index);
    }

    /// Whether some holder said yes and was lost later: worth asking around again.
    pub fn lost_some(&self) -> bool {
        self.verdicts.lost
    }

    /// Whether some holder fell silent.
    pub fn any_silent(&self) -> bool {
        self.verdicts.silent
    }

    /// When an exchange fell silent last.
    pub fn silent_at(&self) -> Option<Instant> {
        self.silent_at
    }

    /// Whether some holder has a part, which may be about to grow: worth asking once more.
    pub fn some_part(&self) -> bool {
        self.usable.iter().any(|candidate| candidate.has.is_some())
    }

    /// Why nobody can help.
    pub fn error(&self) -> FetchError {
        self.verdicts.error()
    }

    /// Forgets the verdicts, before a new survey. That wrong bytes came stays known.
    pub fn forget_verdicts(&mut self) {
        self.verdicts = Verdicts { wrong: self.verdicts.wrong, ..Verdicts::default() };
    }

    /// The holder that will probably deliver a piece beginning at `groups.start` first, and how
    /// many of the groups it has. Peers in `without` are passed over.
    pub fn choose(
        &mut self,
        groups: &Range<u64>,
        priority: Priority,
        without: &[usize],
        now: Instant,
    ) -> Option<(usize, Arc<Peer>, Range<u64>)> {
        let best = self
            .usable
            .iter_mut()
            .filter(|candidate| candidate.is_free(priority, now) && !without.contains(&candidate.index))
            .filter_map(|candidate| {
                let end = match &candidate.has {
                    None => groups.end,
                    Some(has) => has.get(&groups.start)?.end.min(groups.end),
                };
                let end = end.min(groups.start + candidate.peer.longest_range() / GROUP_LEN);
                let mut expected = candidate.peer.expected_secs((end - groups.start) * GROUP_LEN);
                if candidate.has.is_some() {
                    expected *= PART_ADVANTAGE;
                }
                Some((expected, groups.start..end, candidate))
            })
            .min_by(|a, b| a.0.total_cmp(&b.0))?;
        let (_, piece, candidate) = best;
        candidate.flights += 1;
        Some((candidate.index, candidate.peer.clone(), piece))
    }

    /// The same for the exchange that is to prove the size: the first groups, or of a holder of a part the last that it
    /// says to have.
    pub fn choose_first(
        &mut self,
        priority: Priority,
        without: &[usize],
        now: Instant,
    ) -> Option<(usize, Arc<Peer>, Range<u64>)> {
        // Behind a reply that is full it may have all there may be.
        let last =
            |has: &RangeSet<u64>| has.iter().rfind(|groups| groups.end < MAX_BLOB_GROUPS).map(|groups| groups.end);
        let lasts = self.usable.iter().filter_map(|candidate| candidate.has.as_ref().and_then(last));
        let firsts: Vec<_> = std::iter::once(FIRST_GROUPS).chain(lasts.map(|end| end - 1..end)).collect();
        firsts.iter().find_map(|groups| self.choose(groups, priority, without, now))
    }

    /// Seconds until the fastest holder that is free, other than those of `without`, would have brought all of `groups`;
    /// one whose speed is not known is left out unless `unknown` says otherwise.
    pub fn expected_secs(&self, groups: &Range<u64>, without: &[usize], unknown: bool, now: Instant) -> Option<f64> {
        let free = self.usable.iter().filter(|candidate| candidate.is_free(Priority::ReadAhead, now));
        let others = free.filter(|candidate| !without.contains(&candidate.index));
        let others = others.filter(|candidate| unknown || candidate.peer.rate().is_some());
        let able =
            others.filter(|candidate| candidate.has.as_ref().is_none_or(|has| has.gaps(groups).next().is_none()));
        let len = (groups.end - groups.start) * GROUP_LEN;
        able.map(|candidate| candidate.peer.expected_secs(len)).min_by(f64::total_cmp)
    }

    /// The earliest time at which a paused holder may be asked again.
    pub fn next_retry(&self, now: Instant) -> Option<Instant> {
        self.usable.iter().filter_map(|candidate| candidate.not_before).filter(|at| *at > now).min()
    }

    /// Bytes came from the holder with index `index`: its failures are forgiven.
    pub fn note_progress(&mut self, index: usize) {
        if let Some(candidate) = self.usable.iter_mut().find(|candidate| candidate.index == index) {
            candidate.failures = 0;
            candidate.busy = 0;
        }
    }

    /// An exchange with the holder with index `index` ended, of which the groups `left` did not come.
    pub fn note_end(&mut self, index: usize, error: Option<&ExchangeError>, left: &RangeSet<u64>) {
        let Some(at) = self.usable.iter().position(|candidate| candidate.index == index) else { return };
        let candidate = &mut self.usable[at];
        candidate.flights = candidate.flights.saturating_sub(1);
        let Some(error) = error else { return };
        let remove = match error {
            ExchangeError::NotFound => {
                self.verdicts.said_no = true;
                candidate.has_not(left)
            }
            ExchangeError::Busy(pause) => {
                // Longer each time, or several that are always busy would hide another from view.
                let pause = pause.max(&FAILURE_PAUSE).saturating_mul(1 << candidate.busy.min(16));
                candidate.busy += 1;
                candidate.not_before = Some(Instant::now() + pause.min(MAX_BUSY_PAUSE));
                false
            }
            ExchangeError::Refused(_) | ExchangeError::OutOfTurn => {
                self.verdicts.lost = true;
                true
            }
            // It is banned.
            ExchangeError::WrongBytes(_) => true,
            ExchangeError::Silent => {
                self.verdicts.silent = true;
                self.silent_at = Some(Instant::now());
                true
            }
            ExchangeError::Broken(_) | ExchangeError::Peer(_) => {
                candidate.failures += 1;
                candidate.not_before = Some(Instant::now() + FAILURE_PAUSE * candidate.failures);
                let gone = candidate.failures >= MAX_FAILURES;
                self.verdicts.lost |= gone;
                gone
            }
        };
        if remove {
            self.usable.remove(at);
        }
    }
}

/// Groups of a part; none of all of it.
fn total(has: &Option<RangeSet<u64>>) -> u64 {
    has.as_ref().map_or(0, group_total)
}
