//! One configured peer: its lanes, how fast it is, whether it can be trusted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::PeerError;
use super::hints::PeerHint;
use super::lanes::{
    BULK_LANES, FAR_BULK_LANES, FAR_SMALL_LANES, LaneKind, LanePool, PIECE_LEN, PooledLane, SMALL_LANES,
};
use super::questions::Questions;
use crate::ids::{PeerId, PeerSpec, Priority};
use crate::transport::{Dialer, TransportError};
use crate::wire::MAX_RANGE_LEN;

/// The first pause after a failed dial; doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);

/// The longest pause between dials by the keeper: a peer that comes back is used within seconds.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(3);

/// However long the pause, somebody who waits for bytes may have the peer dialled again after this.
const MIN_REDIAL: Duration = Duration::from_millis(200);

/// Wrong replies after which a peer is quarantined for everything.
const MAX_STRIKES: u32 = 3;

/// How long the first quarantine lasts; each further one twice as long, up to [`MAX_QUARANTINE`].
const MIN_QUARANTINE: Duration = Duration::from_secs(60);

/// The longest quarantine.
const MAX_QUARANTINE: Duration = Duration::from_secs(3600);

/// How long after a wrong reply the next one counts as the first again: what happens
/// once a month is the disk, not the peer.
const STRIKE_MEMORY: Duration = Duration::from_secs(24 * 3600);

/// Weight of the newest sample in the moving averages of rate and round trip.
const EWMA_WEIGHT: f64 = 0.25;

/// From this round trip on a peer is far: what comes from it is bounded by round trips rather than by
/// what both machines can do. No local network has as much.
const FAR_ROUND_TRIP: Duration = Duration::from_millis(5);

/// Round trips that the longest exchange with a far peer takes at most: if it takes more, fewer lanes fill
/// the link.
const FAR_ROUND_TRIPS: f64 = 6.0;

/// Bytes a second assumed of a peer nothing is known of yet: fast, so that it is tried.
const ASSUMED_RATE: f64 = 200e6;

/// How long after a stall a peer is thought the slower for it.
const STALL_MEMORY: Duration = Duration::from_secs(5);

/// Seconds added to what is expected of a peer that stalled lately.
const STALL_PENALTY: f64 = 1.0;

/// What a peer is to us now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// Not dialled yet.
    New,
    /// The last dial or exchange went well.
    Connected,
    /// The last dial failed.
    Unreachable,
    /// It does not let us in, or presented another key than the one named.
    Refused,
    /// It sent wrong bytes too often.
    Quarantined,
}

/// A peer, for people to look at.
#[derive(Debug, Clone)]
pub struct PeerSnapshot {
    /// As configured.
    pub spec: PeerSpec,
    /// The key it presented, or the one configured.
    pub id: Option<PeerId>,
    /// What it is to us.
    pub state: PeerState,
    /// The last error in words.
    pub last_error: Option<String>,
    /// Lanes open.
    pub lanes: usize,
    /// Lanes that something is under way on.
    pub lanes_in_use: usize,
    /// Verified content bytes it sent.
    pub fetched_bytes: u64,
    /// Smoothed time to the first byte of an answer.
    pub round_trip: Option<Duration>,
    /// Replies that did not verify.
    pub wrong_replies: u32,
}

/// One configured peer.
pub struct Peer {
    spec: PeerSpec,
    dialer: Arc<dyn Dialer>,
    pool: Arc<LanePool>,
    /// What it is to be asked next.
    pub(super) questions: Questions,
    standing: Mutex<Standing>,
    /// Content bytes asked of it and still to come.
    outstanding: AtomicU64,
    /// Bytes of the longest range that it takes, as it said when it was dialled.
    longest_range: AtomicU64,
    fetched: AtomicU64,
}

struct Standing {
    id: Option<PeerId>,
    state: PeerState,
    last_error: Option<String>,
    last_dial: Option<Instant>,
    backoff: Duration,
    retry_at: Option<Instant>,
    strikes: u32,
    struck_at: Option<Instant>,
    quarantines: u32,
    quarantined_until: Option<Instant>,
    rate: Option<f64>,
    round_trip: Option<f64>,
    /// The shortest since it was dialled in vain: how far it is, however busy.
    least_round_trip: Option<Duration>,
    stalled_at: Option<Instant>,
}

impl Peer {
    pub(super) fn new(spec: PeerSpec, dialer: Arc<dyn Dialer>) -> Arc<Self> {
        let standing = Standing {
            id: spec.id,
            state: PeerState::New,
            last_error: None,
            last_dial: None,
            backoff: MIN_BACKOFF,
            retry_at: None,
            strikes: 0,
            struck_at: None,
            quarantines: 0,
            quarantined_until: None,
            rate: None,
            round_trip: None,
            least_round_trip: None,
            stalled_at: None,
        };
        Arc::new(Self {
            spec,
            dialer,
            pool: LanePool::new(),
            questions: Questions::default(),
            standing: Mutex::new(standing),
            outstanding: AtomicU64::new(0),
            longest_range: AtomicU64::new(MAX_RANGE_LEN),
            fetched: AtomicU64::new(0),
        })
    }

    /// As configured.
    pub fn spec(&self) -> &PeerSpec {
        &self.spec
    }

    /// The key it presented, or the one configured.
    pub fn id(&self) -> Option<PeerId> {
        self.standing.lock().id
    }

    /// A lane to it: an open one, or a new one. Who is more urgent waits less.
    pub async fn lane(&self, kind: LaneKind, priority: Priority) -> Result<PooledLane, PeerError> {
        self.check_usable()?;
        let lane = self.pool.lane(kind, self.has_more_lanes(kind), priority, self.dial()).await?;
        if self.pool.has_talked() {
            tracing::warn!(peer = %self.spec, "the peer sent more than it had declared");
            self.note_wrong_bytes();
        }
        Ok(lane)
    }

    /// Whether a lane of this kind is to be had without waiting for others.
    pub fn has_free_lane(&self, kind: LaneKind) -> bool {
        self.pool.has_free(kind, self.has_more_lanes(kind))
    }

    /// Lanes that may carry bulk from it at the same time.
    pub fn bulk_lanes(&self) -> usize {
        if self.is_far() { FAR_BULK_LANES } else { BULK_LANES }
    }

    /// Lanes kept free of bulk that may be in use to it at the same time.
    pub fn small_lanes(&self) -> usize {
        if self.has_more_lanes(LaneKind::Small) { FAR_SMALL_LANES } else { SMALL_LANES }
    }

    /// Whether more lanes of this kind than to a near peer are of use.
    fn has_more_lanes(&self, kind: LaneKind) -> bool {
        match kind {
            LaneKind::Bulk => self.is_far(),
            LaneKind::Small => self.least_round_trip().is_some_and(|least| least >= FAR_ROUND_TRIP),
        }
    }

    /// Bytes of the longest range that may be asked of it: whole groups, at least one.
    pub fn longest_range(&self) -> u64 {
        self.longest_range.load(Ordering::Relaxed)
    }

    /// Whether round trips are what bounds the bytes that come from it, as far as is known: they are long, and
    /// the longest exchange does not take many of them.
    pub fn is_far(&self) -> bool {
        let standing = self.standing.lock();
        let (Some(least), Some(rate)) = (standing.least_round_trip, standing.rate) else { return false };
        least >= FAR_ROUND_TRIP && rate * least.as_secs_f64() * FAR_ROUND_TRIPS >= PIECE_LEN as f64
    }

    /// Whether it may be tried now.
    fn check_usable(&self) -> Result<(), PeerError> {
        let mut standing = self.standing.lock();
        let now = Instant::now();
        if let Some(until) = standing.quarantined_until {
            if now < until {
                return Err(PeerError::Quarantined);
            }
            standing.quarantined_until = None;
            standing.strikes = 0;
            standing.state = PeerState::New;
        }
        let waiting = standing.retry_at.is_some_and(|at| now < at);
        let dialled_lately = standing.last_dial.is_some_and(|at| now < at + MIN_REDIAL);
        if waiting && dialled_lately {
            return Err(PeerError::BackingOff(standing.last_error.clone().unwrap_or_default()));
        }
        Ok(())
    }

    /// Whether a lane to it is open.
    pub(super) fn is_connected(&self) -> bool {
        let (idle, _) = self.pool.counts();
        (idle > 0 || self.is_reached()) && self.standing.lock().state == PeerState::Connected
    }

    /// Whether it is reached, if only by lanes that others use.
    pub(super) fn is_reached(&self) -> bool {
        self.pool.any_in_use()
    }

    async fn dial(&self) -> Result<crate::transport::BoxLane, TransportError> {
        self.standing.lock().last_dial = Some(Instant::now());
        let result = self.dialer.dial(&self.spec).await;
        match &result {
            Ok(lane) => {
                let mut standing = self.standing.lock();
                self.longest_range.store(lane.hello().max_range_len.min(MAX_RANGE_LEN), Ordering::Relaxed);
                standing.id = Some(lane.peer());
                standing.state = PeerState::Connected;
                standing.backoff = MIN_BACKOFF;
                standing.retry_at = None;
                standing.last_error = None;
            }
            Err(error) => {
                let state = if is_refusal(error) { PeerState::Refused } else { PeerState::Unreachable };
                self.note_failed_dial(state, error.to_string());
            }
        }
        result
    }

    /// Notes that no connection came about in the time that there was, and that nobody waits for it any more. A host
    /// that is switched off says nothing.
    pub(super) fn note_no_connection(&self) {
        let is_noted = self.standing.lock().retry_at.is_some_and(|at| Instant::now() < at);
        if !is_noted {
            self.note_failed_dial(PeerState::Unreachable, "no connection in time".to_owned());
        }
    }

    fn note_failed_dial(&self, state: PeerState, why: String) {
        let mut standing = self.standing.lock();
        let pause = jittered(standing.backoff);
        standing.state = state;
        if standing.last_error.as_ref() != Some(&why) {
            tracing::warn!(peer = %self.spec, "cannot reach the peer: {why}");
        }
        standing.last_error = Some(why);
        // It may come back by another way.
        standing.least_round_trip = None;
        standing.retry_at = Some(Instant::now() + pause);
        standing.backoff = (standing.backoff * 2).min(MAX_BACKOFF);
    }

    /// Opens a lane if none is open, so that the first read finds one. Others may be dialling it, too, but give up sooner
    /// than it takes to know that nobody is there.
    pub(super) async fn keep_warm(&self) {
        let due = self.standing.lock().retry_at.is_none_or(|at| Instant::now() >= at);
        let wanted = due && !self.is_reached() && !self.pool.has_idle() && self.check_usable().is_ok();
        if wanted && let Ok(lane) = self.dial().await {
            self.pool.keep(lane);
        }
    }

    /// Notes that an exchange on a lane failed: the open lanes are probably dead too.
    pub fn note_failure(&self, what: &str) {
        self.pool.close_idle();
        let mut standing = self.standing.lock();
        standing.last_error = Some(what.to_owned());
    }

    /// Notes a reply that did not verify. Too many, and the peer is quarantined for everything.
    pub fn note_wrong_bytes(&self) {
        let mut standing = self.standing.lock();
        if standing.quarantined_until.is_some_and(|until| Instant::now() < until) {
            // One of the exchanges that were under way when it was quarantined.
            return;
        }
        if standing.struck_at.is_some_and(|at| at.elapsed() >= STRIKE_MEMORY) {
            (standing.strikes, standing.quarantines) = (0, 0);
        }
        standing.struck_at = Some(Instant::now());
        standing.strikes += 1;
        standing.last_error = Some("sent wrong bytes".to_owned());
        if standing.strikes < MAX_STRIKES {
            return;
        }
        let length = MIN_QUARANTINE.saturating_mul(1 << standing.quarantines.min(10)).min(MAX_QUARANTINE);
        standing.quarantines += 1;
        standing.quarantined_until = Some(Instant::now() + length);
        standing.state = PeerState::Quarantined;
        tracing::warn!(peer = %self.spec, "quarantined for {} s: it keeps sending wrong bytes", length.as_secs());
    }

    /// Notes `bytes` of verified content that took `elapsed` from the request.
    pub fn note_delivery(&self, bytes: u64, elapsed: Duration) {
        self.note_rate(bytes, elapsed);
        let mut standing = self.standing.lock();
        standing.stalled_at = None;
        standing.last_error = None;
        standing.state = PeerState::Connected;
    }

    /// Bytes of verified content that have come from it.
    pub(super) fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Counts verified content bytes.
    pub fn note_content(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that `bytes` of content took `elapsed`, whatever became of the rest.
    pub fn note_rate(&self, bytes: u64, elapsed: Duration) {
        let sample = bytes as f64 / elapsed.as_secs_f64().max(1e-6);
        let mut standing = self.standing.lock();
        standing.rate = Some(blend(standing.rate, sample));
    }

    /// Notes that it kept an exchange waiting for too long.
    pub fn note_stall(&self) {
        self.standing.lock().stalled_at = Some(Instant::now());
    }

    /// Notes the time from a question to the first byte of its answer.
    pub fn note_round_trip(&self, elapsed: Duration) {
        let mut standing = self.standing.lock();
        standing.round_trip = Some(blend(standing.round_trip, elapsed.as_secs_f64()));
        standing.least_round_trip = Some(standing.least_round_trip.map_or(elapsed, |least| least.min(elapsed)));
    }

    /// Smoothed time from a question to the first byte of its answer.
    pub fn round_trip(&self) -> Option<Duration> {
        self.standing.lock().round_trip.map(Duration::from_secs_f64)
    }

    /// The shortest time from a question to the first byte of its answer since it was dialled in vain: how far it is,
    /// however busy.
    pub fn least_round_trip(&self) -> Option<Duration> {
        self.standing.lock().least_round_trip
    }

    /// Adds to the content bytes asked of it and still to come.
    pub fn add_outstanding(&self, bytes: u64) {
        self.outstanding.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes from the content bytes asked of it and still to come.
    pub fn sub_outstanding(&self, bytes: u64) {
        self.outstanding.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Content bytes a second that an exchange with it brought, smoothed; `None`: nothing is known yet.
    pub fn rate(&self) -> Option<f64> {
        self.standing.lock().rate
    }

    /// Seconds until `more` further bytes would be here, going by its past.
    pub fn expected_secs(&self, more: u64) -> f64 {
        let (rate, delay) = {
            let standing = self.standing.lock();
            let stalled = standing.stalled_at.is_some_and(|at| at.elapsed() < STALL_MEMORY);
            let penalty = if stalled { STALL_PENALTY } else { 0.0 };
            (standing.rate.unwrap_or(ASSUMED_RATE), standing.round_trip.unwrap_or(0.0) + penalty)
        };
        delay + (self.outstanding.load(Ordering::Relaxed) + more) as f64 / rate.max(1.0)
    }

    /// What is worth knowing of it after a restart.
    pub(super) fn hint(&self) -> Option<PeerHint> {
        let standing = self.standing.lock();
        let round_trip_ms = standing.round_trip.map(|seconds| seconds * 1e3);
        let known = standing.rate.is_some() || round_trip_ms.is_some();
        known.then(|| PeerHint { peer: self.spec.to_string(), rate: standing.rate, round_trip_ms })
    }

    /// Believes `hint` until there is something newer.
    pub(super) fn take_hint(&self, hint: &PeerHint) {
        let mut standing = self.standing.lock();
        standing.rate = standing.rate.or(hint.sane_rate());
        standing.round_trip = standing.round_trip.or(hint.sane_round_trip());
    }

    /// What people may see of it.
    pub fn snapshot(&self) -> PeerSnapshot {
        let (idle, in_use) = self.pool.counts();
        let standing = self.standing.lock();
        // Exchanges that were under way when it was quarantined may still have gone well.
        let quarantined = standing.quarantined_until.is_some_and(|until| Instant::now() < until);
        let state = if quarantined { PeerState::Quarantined } else { standing.state };
        PeerSnapshot {
            spec: self.spec.clone(),
            id: standing.id,
            state,
            last_error: standing.last_error.clone(),
            lanes: idle + in_use,
            lanes_in_use: in_use,
            fetched_bytes: self.fetched(),
            round_trip: standing.round_trip.map(Duration::from_secs_f64),
            wrong_replies: standing.strikes,
        }
    }
}

/// An exponentially weighted moving average with one more sample.
fn blend(old: Option<f64>, sample: f64) -> f64 {
    old.map_or(sample, |old| old + EWMA_WEIGHT * (sample - old))
}

/// `pause` lengthened by up to a half, so that nodes do not redial in step.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness the pause is merely not jittered.
    let _ = getrandom::fill(&mut random);
    pause + pause.mul_f64(f64::from(random[0]) / 512.0)
}

/// Whether a peer that is there does not want us, or is not who it should be.
fn is_refusal(error: &TransportError) -> bool {
    matches!(
        error,
        TransportError::Refused { .. }
            | TransportError::WrongKey { .. }
            | TransportError::Unproven(_)
            | TransportError::NoWayToTrust(_)
            | TransportError::Myself
    )
}
