//! The lanes that peers have opened. When all places are taken, an idle one makes room: whoever has it opens another
//! when it is needed, and nobody is kept out by lanes that nobody uses.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{MAX_LANES, MAX_LANES_PER_PEER};
use crate::ids::PeerId;

/// Why a lane is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPlace {
    #[error("the peer has {MAX_LANES_PER_PEER} already")]
    OfPeer,
    #[error("all {MAX_LANES} lanes are in use")]
    OfAll,
}

/// All lanes that are served.
#[derive(Debug, Default)]
pub(super) struct Lanes(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    open: HashMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    peer: PeerId,
    /// None while something is answered.
    idle_since: Option<Instant>,
    close: Arc<Notify>,
}

impl Lanes {
    /// A place for another lane of `peer`, if need be that of an idle one.
    pub fn enter(self: &Arc<Self>, peer: PeerId) -> Result<ServedLane, NoPlace> {
        let mut inner = self.0.lock();
        if inner.open.values().filter(|open| open.peer == peer).count() >= MAX_LANES_PER_PEER {
            return Err(NoPlace::OfPeer);
        }
        if inner.open.len() >= MAX_LANES {
            let idle = inner.idle_of_most().ok_or(NoPlace::OfAll)?;
            if let Some(open) = inner.open.remove(&idle) {
                open.close.notify_one();
            }
        }
        let (number, close) = (inner.next, Arc::new(Notify::new()));
        inner.next += 1;
        inner.open.insert(number, Open { peer, idle_since: None, close: close.clone() });
        Ok(ServedLane { lanes: self.clone(), number, close })
    }
}

impl Inner {
    /// The lane that has been idle longest, of the peer that has most lanes of those that have an idle one.
    fn idle_of_most(&self) -> Option<u64> {
        let mut counts: HashMap<PeerId, usize> = HashMap::new();
        self.open.values().for_each(|open| *counts.entry(open.peer).or_default() += 1);
        let idle = self.open.iter().filter_map(|(number, open)| {
            let since = open.idle_since?;
            Some(((counts[&open.peer], std::cmp::Reverse(since)), *number))
        });
        idle.max().map(|(_, number)| number)
    }
}

/// The place of a lane, given back when dropped.
pub(super) struct ServedLane {
    lanes: Arc<Lanes>,
    number: u64,
    close: Arc<Notify>,
}

impl ServedLane {
    /// Waits for `message`; meanwhile the lane is idle. `None` if it is to be closed.
    pub async fn idle<T>(&self, message: impl Future<Output = T>) -> Option<T> {
        self.note(Some(Instant::now()));
        let message = tokio::select! {
            biased;
            () = self.close.notified() => return None,
            message = message => message,
        };
        self.note(None);
        Some(message)
    }

    fn note(&self, idle_since: Option<Instant>) {
        if let Some(open) = self.lanes.0.lock().open.get_mut(&self.number) {
            open.idle_since = idle_since;
        }
    }
}

impl Drop for ServedLane {
    fn drop(&mut self) {
        self.lanes.0.lock().open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    fn peer(number: usize) -> PeerId {
        PeerId::from_bytes([number as u8; 32])
    }

    /// Whether the lane is closed when it next waits for something.
    async fn is_closed(lane: &ServedLane) -> bool {
        lane.idle(std::future::ready(())).await.is_none()
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_places_are_taken_the_lane_idle_longest_of_the_peer_with_most_goes() {
        let lanes = Arc::new(Lanes::default());
        let mut open = Vec::new();
        for number in 0..MAX_LANES {
            // Peer 0 has most, and peer 200 a few.
            let of = if number < MAX_LANES_PER_PEER { 0 } else { 1 + (number - MAX_LANES_PER_PEER) / 60 };
            let lane = lanes.enter(peer(of)).unwrap();
            // Idle from now on.
            assert!(pin!(lane.idle(std::future::pending::<()>())).as_mut().now_or_never().is_none());
            open.push(lane);
            tokio::time::advance(std::time::Duration::from_millis(1)).await;
        }
        assert_eq!(lanes.enter(peer(0)).err(), Some(NoPlace::OfPeer));
        let newcomer = lanes.enter(peer(200)).unwrap();
        assert!(is_closed(&open[0]).await && !is_closed(&open[1]).await);
        drop(open.remove(0));
        assert_eq!(lanes.0.lock().open.len(), MAX_LANES);
        // Who is being answered keeps his lane, whoever comes.
        open.iter().for_each(|lane| lane.note(None));
        assert_eq!(lanes.enter(peer(201)).err(), Some(NoPlace::OfAll));
        drop(newcomer);
        assert!(lanes.enter(peer(201)).is_ok());
    }

    trait NowOrNever: Future {
        fn now_or_never(self: std::pin::Pin<&mut Self>) -> Option<Self::Output> {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            match self.poll(&mut context) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            }
        }
    }

    impl<F: Future> NowOrNever for F {}
}
