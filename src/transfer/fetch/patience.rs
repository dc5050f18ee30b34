//! How long to wait, for whom, and when to give up.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rangemap::RangeSet;
use tokio::time::Instant;

use super::actor::{Actor, is_long};
use super::answered::Awaited;
use super::plan::FIRST_GROUPS;
use super::waiters::Waiter;
use crate::holders::Peer;
use crate::transfer::FetchError;
use crate::transfer::exchange::ExchangeError;
use crate::verify::GROUP_LEN;

/// How often exchanges are looked after.
const TICK: Duration = Duration::from_millis(50);

/// The least time without progress after which a range is asked of another holder as well.
const MIN_STALL: Duration = Duration::from_millis(200);

/// Round trips without progress that count as a stall.
const STALL_ROUND_TRIPS: u32 = 4;

/// Time without progress after which a range is asked of another holder in any case, unless its way alone takes
/// longer: a round trip is measured together with the wait at a holder that is busy.
const MAX_BUSY_STALL: Duration = Duration::from_millis(800);

/// The same however long the way seems to be.
const MAX_STALL: Duration = Duration::from_secs(2);

/// How long a group's worth of bytes may take before an exchange counts as stalled, times the exchanges under way,
/// which may share a slow link.
const TRICKLE_STALL: Duration = Duration::from_secs(2);

/// How long an exchange may wait for its lane before it counts as stalled.
const LANE_STALL: Duration = Duration::from_secs(1);

/// Surveys for one want without a byte of it: the first, and some more in case a lost holder comes back.
const MAX_SURVEYS: u32 = 4;

/// How often, while something is fetched, those are asked who have not said that they have all of it: a
/// holder that has just come, or just got it, is used.
const NEWS_PERIOD: Duration = Duration::from_secs(2);

/// The same while others are known to fetch it, too; and after how long all are asked first.
const SWARM_NEWS_PERIOD: Duration = Duration::from_millis(200);

/// The pause before asking around again.
const SURVEY_PAUSE: Duration = Duration::from_millis(500);

/// How long those who want something wait while nothing at all is verified and no holder has
/// fallen silent for good (one that is always busy, or sends a byte a second), and how long an exchange goes on that
/// brings nothing that can be verified. The seed's bound on a transfer.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(30);

/// After how long without a verified byte of any exchange nothing is taken to be coming for who has waited as long as
/// [`PROGRESS_DEADLINE`] and was let down meanwhile.
const LULL: Duration = Duration::from_secs(3);

/// Seconds that the rest of an exchange that nobody wants any more may take; the lane of one that takes longer is closed.
const MAX_DRAIN_SECS: f64 = 1.0;

/// What the task knows of time.
pub(super) struct Patience {
    /// When to look after the exchanges next.
    tick_at: Instant,
    /// When something was verified last, or wanted first.
    moved_at: Instant,
    /// Surveys since then.
    surveys: u32,
    /// Surveys in all that were begun because no holder was left for something.
    pub surveys_begun: u64,
    /// When somebody was asked last.
    asked_at: Instant,
    /// How long after that those are asked who have not got all of it.
    news_period: Duration,
    /// When to ask around again.
    survey_after: Option<Instant>,
    /// Who may send the blob with its answer.
    pub awaited: Option<Awaited>,
}

impl Patience {
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            tick_at: now,
            moved_at: now,
            surveys: 0,
            surveys_begun: 0,
            asked_at: now,
            news_period: SWARM_NEWS_PERIOD,
            survey_after: None,
            awaited: None,
        }
    }

    /// Something moves: waiting begins anew.
    pub fn renew(&mut self) {
        self.surveys = 0;
        self.moved_at = Instant::now();
    }
}

impl Actor {
    /// Finds the exchanges that make no progress and those that nobody wants any more, if it is time.
    pub(super) fn look_after_flights(&mut self, now: Instant) {
        if now < self.patience.tick_at {
            return;
        }
        self.patience.tick_at = now + TICK;
        self.break_off_unwanted(now);
        self.end_fruitless(now);
        let sharing = self.flights.len() as u32;
        for flight in self.flights.values_mut() {
            let progress = &flight.progress;
            let seen = (progress.sent.load(Relaxed), progress.wire.load(Relaxed));
            let held_up = progress.held_up.load(Relaxed);
            let received = progress.received.load(Relaxed);
            let is_ours_to_go_on = !seen.0 || held_up;
            if is_ours_to_go_on || seen.1 - flight.fed.1 >= GROUP_LEN {
                flight.fed = (now, seen.1);
            }
            if is_ours_to_go_on || received != flight.received {
                flight.verified_at = now;
            }
            if received != flight.received {
                flight.received = received;
                // Before the size is proven all of it may have to come again, and again.
                if self.size.is_some() {
                    self.patience.moved_at = now;
                }
            }
            if seen != flight.seen || held_up {
                flight.seen = seen;
                flight.changed = now;
            }
            let patience = if seen.0 { stall_of(&flight.peer) } else { LANE_STALL };
            let stalled = now - flight.changed >= patience || now - flight.fed.0 >= TRICKLE_STALL * sharing;
            if stalled && !flight.stalled {
                flight.peer.note_stall();
            }
            flight.stalled = stalled;
        }
    }

    /// Ends the exchanges that bring nothing that could be verified, as if their holders were silent.
    fn end_fruitless(&mut self, now: Instant) {
        let fruitless: Vec<_> =
            self.flights.extract_if(|_, flight| now - flight.verified_at >= PROGRESS_DEADLINE).collect();
        for (_, flight) in fruitless {
            self.note_end(&flight, Some(&ExchangeError::Silent));
        }
    }

    /// Breaks off exchanges that make no or little progress or of which much is still to come, if nobody wanted
    /// any of it at two looks in a row: another holder was faster, or the reader went elsewhere.
    fn break_off_unwanted(&mut self, now: Instant) {
        if self.size.is_none() && (self.has_demand() || !self.ahead.is_empty()) {
            return;
        }
        let mut wanted = self.ahead.clone();
        self.waiters.iter().for_each(|waiter| wanted.extend(waiter.left.iter().cloned()));
        self.break_off(|flight| {
            let is_unwanted = !flight.left.iter().any(|groups| wanted.overlaps(groups));
            let was_unwanted = std::mem::replace(&mut flight.unwanted, is_unwanted);
            was_unwanted
                && is_unwanted
                && (flight.stalled || is_long(flight) || flight.expected_secs(now) >= MAX_DRAIN_SECS)
        });
    }

    /// Starts a survey when one is due, and gives up for those whom nobody can help.
    pub(super) fn settle(&mut self, now: Instant) {
        if self.is_closing() {
            return self.give_up_what_is_not_coming();
        }
        if self.has_demand() && now - self.patience.moved_at >= PROGRESS_DEADLINE {
            self.fail_all(&FetchError::TimedOut);
            self.break_off(|_| true);
        }
        self.give_up_on_tricklers(now);
        if self.survey.is_some() || !self.has_demand() && self.ahead.is_empty() {
            return;
        }
        if self.patience.survey_after.is_some_and(|after| now < after) {
            return;
        }
        let has_paused = self.patience.survey_after.take().is_some();
        let hopeless = self.give_up();
        let counts_on_others = self.candidates.is_swarm(now);
        let stuck = self.has_demand() && !counts_on_others && self.flights.values().all(|flight| flight.stalled);
        if hopeless || stuck && self.patience.surveys < MAX_SURVEYS {
            if has_paused || self.patience.surveys == 0 {
                self.patience.surveys_begun += u64::from(hopeless);
                self.ask_around();
            } else {
                self.patience.survey_after = Some(now + SURVEY_PAUSE);
            }
        } else if (!self.flights.is_empty() || self.candidates.is_swarm(now))
            && now - self.patience.asked_at >= self.patience.news_period
        {
            self.ask_for_news();
        }
    }

    /// Tells those who have waited long, while a holder sent a little and fell silent, and who would wait on for one
    /// that brings next to nothing.
    fn give_up_on_tricklers(&mut self, now: Instant) {
        let Some(silent_at) = self.candidates.silent_at() else { return };
        if self.flights.is_empty() || self.flights.values().any(|flight| now - flight.verified_at < LULL) {
            return;
        }
        self.waiters.fail_if(&FetchError::TimedOut, |waiter| {
            waiter.since <= silent_at && now - waiter.since >= PROGRESS_DEADLINE
        });
    }

    fn ask_around(&mut self) {
        self.patience.surveys += 1;
        self.candidates.forget_verdicts();
        self.ask_for_news();
    }

    /// Asks all but those who are known to have all of it.
    fn ask_for_news(&mut self) {
        self.shared.holders.forget_incomplete(&self.hash);
        self.patience.asked_at = Instant::now();
        let longer = (2 * self.patience.news_period).min(NEWS_PERIOD);
        self.patience.news_period = if self.candidates.some_part() { SWARM_NEWS_PERIOD } else { longer };
        let sender = self.ask_to_send();
        self.survey = Some(self.shared.holders.survey(self.hash, sender));
    }

    /// Tells those who want what no holder has, when enough was asked for them. True if there are
    /// others for whom it is worth asking around.
    fn give_up(&mut self) -> bool {
        let Some(held) = self.candidates.held() else { return false };
        let mut coming = self.landing.clone();
        for flight in self.flights.values() {
            coming.extend(flight.left.iter().cloned());
        }
        let begun = self.patience.surveys_begun;
        let most = match (self.candidates.lost_some(), self.candidates.some_part()) {
            (true, _) => u64::from(MAX_SURVEYS),
            (false, true) => 2,
            (false, false) => 1,
        };
        let is_enough = |born: u64| begun - born >= most;
        let error = self.candidates.error();
        let mut hopeless = false;
        if self.size.is_none() {
            if coming.overlaps(&FIRST_GROUPS) || held.contains(&FIRST_GROUPS.start) {
                return false;
            }
            for waiter in self.sizes_wanted.extract_if(.., |waiter| is_enough(waiter.born)) {
                let _ = waiter.reply.send(Err(error.clone()));
            }
            hopeless |= !self.sizes_wanted.is_empty();
        }
        // A holder that sends a little and falls silent, again and again, is not waited for without end.
        let silent = self.candidates.any_silent();
        let is_enough =
            |waiter: &Waiter| is_enough(waiter.born) || silent && waiter.since.elapsed() >= PROGRESS_DEADLINE;
        let is_lost = |left: &RangeSet<u64>| {
            left.iter().any(|groups| coming.gaps(groups).any(|gap| held.gaps(&gap).next().is_some()))
        };
        self.waiters.fail_if(&error, |waiter| {
            let lost = is_lost(&waiter.left);
            hopeless |= lost && !is_enough(waiter);
            lost && is_enough(waiter)
        });
        // What is wanted ahead is worth one survey.
        if is_lost(&self.ahead) {
            if begun == 0 {
                hopeless = true;
            } else {
                let lost: Vec<_> = self.ahead.iter().flat_map(|groups| held.gaps(groups)).collect();
                lost.into_iter().for_each(|groups| self.ahead.remove(groups));
            }
        }
        hopeless
    }

    /// Tells those who want what is neither on its way nor being written that it will not come.
    fn give_up_what_is_not_coming(&mut self) {
        let mut coming = self.landing.clone();
        self.flights.values().for_each(|flight| coming.extend(flight.left.iter().cloned()));
        if self.flights.is_empty() {
            for waiter in self.sizes_wanted.drain(..) {
                let _ = waiter.reply.send(Err(FetchError::Cancelled));
            }
        }
        let error = FetchError::Cancelled;
        self.waiters.fail_if(&error, |waiter| waiter.left.iter().any(|groups| coming.gaps(groups).next().is_some()));
    }

    /// Tells all that it cannot be done.
    pub(super) fn fail_all(&mut self, error: &FetchError) {
        for waiter in self.sizes_wanted.drain(..) {
            let _ = waiter.reply.send(Err(error.clone()));
        }
        self.waiters.fail_if(error, |_| true);
        self.ahead = RangeSet::new();
    }

    /// When something is to be done even if nothing happens.
    pub(super) fn next_wake(&self, now: Instant) -> Instant {
        let retry = self.candidates.next_retry(now);
        let survey = self.patience.survey_after.filter(|_| self.survey.is_none() && self.has_demand());
        let awaited = self.patience.awaited.map(|awaited| awaited.until).filter(|until| *until > now);
        let wake = [retry, survey, awaited].into_iter().flatten().fold(self.patience.tick_at, Instant::min);
        wake.max(now + Duration::from_millis(1))
    }
}

/// How long an exchange with `peer` may bring nothing before it counts as stalled.
pub(super) fn stall_of(peer: &Peer) -> Duration {
    let (usual, least) = (peer.round_trip().unwrap_or_default(), peer.least_round_trip().unwrap_or_default());
    let busy = (usual * STALL_ROUND_TRIPS).min(MAX_BUSY_STALL);
    busy.max(least * STALL_ROUND_TRIPS).clamp(MIN_STALL, MAX_STALL)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::holders::Holders;
    use crate::ids::PeerId;
    use crate::transport::memory::MemoryNetwork;

    /// How long a peer may bring nothing whose answers took so many milliseconds.
    fn stall_after(round_trips: &[u64]) -> u128 {
        let dialer = MemoryNetwork::new().dialer(PeerId::from_bytes([1; 32]));
        let holders = Holders::new(
            vec!["peer:7117".parse().unwrap()],
            Arc::new(dialer),
            crate::buffers::BufferBudget::new(Arc::default()),
            Arc::default(),
        );
        let peer = &holders.peers()[0];
        round_trips.iter().for_each(|ms| peer.note_round_trip(Duration::from_millis(*ms)));
        stall_of(peer).as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_far_away_is_waited_for_longer_than_one_that_is_busy() {
        assert_eq!(stall_after(&[]), MIN_STALL.as_millis());
        assert_eq!(stall_after(&[1]), MIN_STALL.as_millis());
        assert_eq!(stall_after(&[300]), 1200);
        let busy = [1, 1500, 1500, 1500, 1500];
        assert_eq!(stall_after(&busy), MAX_BUSY_STALL.as_millis());
        assert_eq!(stall_after(&[1500]), MAX_STALL.as_millis());
    }
}
