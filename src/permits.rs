//! A counted resource that goes to the most urgent first.
//!
//! A semaphore whose waiters come by [`Priority`], then in the order in which they came. The first of
//! them is served first even if a later one asks for less: nobody is overtaken by those who are no more
//! urgent.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::ids::Priority;

/// So many of something, to be had for a while. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Permits(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    free: usize,
    /// The number of the next one who has to wait.
    next: u64,
    waiting: BTreeMap<(Priority, u64), Waiting>,
}

#[derive(Debug)]
struct Waiting {
    count: usize,
    grant: oneshot::Sender<Permit>,
}

impl Permits {
    /// `count` permits, all of them free.
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Mutex::new(Inner { free: count, next: 0, waiting: BTreeMap::new() })))
    }

    /// Waits for `count` permits. More than there are in all are waited for without end.
    pub async fn acquire(&self, count: usize, priority: Priority) -> Permit {
        let (place, granted) = {
            let mut inner = self.0.lock();
            if inner.waiting.is_empty() && inner.free >= count {
                inner.free -= count;
                return Permit { permits: self.clone(), count };
            }
            let (grant, granted) = oneshot::channel();
            let key = (priority, inner.next);
            inner.next += 1;
            inner.waiting.insert(key, Waiting { count, grant });
            (Place { permits: self, key }, granted)
        };
        // The new one may be the most urgent, and ask for less than the one who waited so far.
        self.hand_out();
        let permit = granted.await.expect("a place in the queue is kept until it is served");
        drop(place);
        permit
    }

    /// `count` permits if they are free and nobody waits for them.
    pub fn try_acquire(&self, count: usize) -> Option<Permit> {
        let mut inner = self.0.lock();
        if !inner.waiting.is_empty() || inner.free < count {
            return None;
        }
        inner.free -= count;
        Some(Permit { permits: self.clone(), count })
    }

    /// Permits not in use.
    pub fn available(&self) -> usize {
        self.0.lock().free
    }

    /// Gives what is free to those whose turn it is.
    fn hand_out(&self) {
        loop {
            let next = {
                let mut inner = self.0.lock();
                let Some(first) = inner.waiting.first_entry() else { return };
                let count = first.get().count;
                if count > inner.free {
                    return;
                }
                inner.free -= count;
                inner.waiting.pop_first().map(|(_, waiting)| waiting)
            };
            let Some(Waiting { count, grant }) = next else { return };
            // Refused by one who has left meanwhile, the permit comes back when it is dropped.
            drop(grant.send(Permit { permits: self.clone(), count }));
        }
    }
}

/// A place in the queue, given up when dropped.
struct Place<'a> {
    permits: &'a Permits,
    key: (Priority, u64),
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let left = self.permits.0.lock().waiting.remove(&self.key);
        if left.is_some() {
            // Those behind may want less.
            self.permits.hand_out();
        }
    }
}

/// Some permits, given back when dropped.
#[derive(Debug)]
pub struct Permit {
    permits: Permits,
    count: usize,
}

impl Permit {
    /// How many they are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Gives back all but `count` of them.
    pub fn shrink(&mut self, count: usize) {
        let spare = self.count.saturating_sub(count);
        self.count -= spare;
        drop(Permit { permits: self.permits.clone(), count: spare });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.count > 0 {
            self.permits.0.lock().free += self.count;
            self.permits.hand_out();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::*;

    type Acquiring = Pin<Box<dyn Future<Output = Permit>>>;

    fn acquire(permits: &Permits, count: usize, priority: Priority) -> Acquiring {
        let permits = permits.clone();
        Box::pin(async move { permits.acquire(count, priority).await })
    }

    fn poll(acquiring: &mut Acquiring) -> Option<Permit> {
        match acquiring.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        }
    }

    #[test]
    fn the_most_urgent_comes_first_then_the_one_who_came_first() {
        let permits = Permits::new(1);
        let held = permits.try_acquire(1).unwrap();
        let mut queue: Vec<Acquiring> =
            [Priority::Scrub, Priority::Prefetch, Priority::ReadAhead, Priority::Prefetch, Priority::Foreground]
                .map(|priority| acquire(&permits, 1, priority))
                .into();
        assert!(queue.iter_mut().all(|waiting| poll(waiting).is_none()));
        drop(held);
        let mut order = Vec::new();
        while order.len() < queue.len() {
            for (i, waiting) in queue.iter_mut().enumerate() {
                if !order.contains(&i) && poll(waiting).is_some() {
                    order.push(i);
                    break;
                }
            }
        }
        assert_eq!(order, [4, 2, 1, 3, 0]);
        assert_eq!(permits.available(), 1);
    }

    #[test]
    fn one_who_asks_for_little_does_not_overtake_one_who_asks_for_much() {
        let permits = Permits::new(4);
        let mut held = permits.try_acquire(4).unwrap();
        let mut much = acquire(&permits, 3, Priority::Prefetch);
        let mut little = acquire(&permits, 1, Priority::Prefetch);
        assert!(poll(&mut much).is_none() && poll(&mut little).is_none());
        held.shrink(2);
        assert!(poll(&mut little).is_none() && permits.try_acquire(1).is_none());
        // But if the one in front leaves, it is the next's turn.
        drop(much);
        assert_eq!(poll(&mut little).unwrap().count(), 1);
        drop((little, held));
        assert_eq!(permits.available(), 4);
    }

    #[test]
    fn one_who_leaves_after_it_was_served_gives_back_what_it_got() {
        let permits = Permits::new(1);
        let held = permits.try_acquire(1).unwrap();
        let mut waiting = acquire(&permits, 1, Priority::Foreground);
        assert!(poll(&mut waiting).is_none());
        drop(held);
        drop(waiting);
        assert_eq!(permits.available(), 1);
    }

    proptest! {
        #[test]
        fn no_permit_is_lost_and_no_one_waits_who_could_be_served(
            steps in proptest::collection::vec((0..4_u8, 1..4_usize, 0..3_usize), 1..60),
        ) {
            const ALL: usize = 5;
            let permits = Permits::new(ALL);
            let priorities = [Priority::Foreground, Priority::ReadAhead, Priority::Prefetch];
            let (mut waiting, mut held) = (Vec::new(), Vec::new());
            for (step, count, which) in steps {
                match step {
                    0 | 1 => waiting.push((count, acquire(&permits, count, priorities[which]))),
                    2 if !held.is_empty() => drop(held.swap_remove(count % held.len())),
                    3 if !waiting.is_empty() => drop(waiting.swap_remove(count % waiting.len())),
                    _ => {}
                }
                waiting.retain_mut(|(_, acquiring)| match poll(acquiring) {
                    Some(permit) => { held.push(permit); false }
                    None => true,
                });
                let used: usize = held.iter().map(Permit::count).sum();
                prop_assert_eq!(permits.available(), ALL - used);
                let least = waiting.iter().map(|(count, _)| *count).max();
                prop_assert!(least.is_none_or(|most| permits.available() < most), "somebody is kept waiting for nothing");
            }
            drop((waiting, held));
            prop_assert_eq!(permits.available(), ALL);
        }
    }
}
