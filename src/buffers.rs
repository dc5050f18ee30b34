//! The memory that content in flight may take: one budget for the whole node.
//!
//! Every buffer is paid for before it exists, so that neither the number of transfers nor what a
//! peer claims decides how much memory is used. Segment-sized buffers are kept and used again: a
//! fresh one costs more in page faults than the bytes take to hash.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::ids::Priority;
use crate::metrics::Metrics;
use crate::permits::{Permit, Permits};
use crate::verify::GROUP_LEN;

/// Bytes of the largest buffer: what is received, verified, written and passed on in one piece.
/// The seed's window (about 256 KiB in flight a stream).
pub const SEGMENT_LEN: usize = 256 * 1024;

/// Bytes of all buffers together. Sized for eight lanes with four segments each, three times over.
pub const BUDGET_LEN: usize = 64 * 1024 * 1024;

/// Bytes one permit of the budget stands for.
const UNIT_LEN: usize = GROUP_LEN as usize;

const _: () = assert!(SEGMENT_LEN.is_multiple_of(UNIT_LEN) && BUDGET_LEN.is_multiple_of(SEGMENT_LEN));

/// Bytes of the budget that a buffer of `len` bytes takes: whole units, and a whole segment from
/// where a pooled buffer is used.
pub(crate) const fn charge_len(len: usize) -> usize {
    if len > SEGMENT_LEN / 2 {
        SEGMENT_LEN
    } else if len == 0 {
        UNIT_LEN
    } else {
        len.next_multiple_of(UNIT_LEN)
    }
}

/// Hands out buffers as long as the budget lasts; waits otherwise.
#[derive(Debug, Clone)]
pub struct BufferBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    permits: Permits,
    free: Mutex<Vec<Box<[u8]>>>,
    metrics: Arc<Metrics>,
}

impl BufferBudget {
    /// A budget of [`BUDGET_LEN`] bytes.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let permits = Permits::new(BUDGET_LEN / UNIT_LEN);
        Self(Arc::new(Inner { permits, free: Mutex::new(Vec::new()), metrics }))
    }

    /// A buffer of `len` bytes, at most [`SEGMENT_LEN`]; waits until the budget allows it, the
    /// most urgent first. Its content is arbitrary.
    pub async fn buffer(&self, len: usize, priority: Priority) -> Buffer {
        assert!(len <= SEGMENT_LEN, "a buffer holds at most one segment");
        let permit = self.0.permits.acquire(charge_len(len) / UNIT_LEN, priority).await;
        self.0.metrics.budget_used_bytes.add((permit.count() * UNIT_LEN) as u64);
        let data = if len > SEGMENT_LEN / 2 {
            self.0.free.lock().pop().unwrap_or_else(|| vec![0; SEGMENT_LEN].into_boxed_slice())
        } else {
            self.0.trim();
            vec![0; len].into_boxed_slice()
        };
        Buffer { data, len, permit, budget: self.0.clone() }
    }

    /// Bytes not in use.
    pub fn available(&self) -> usize {
        self.0.permits.available() * UNIT_LEN
    }
}

impl Inner {
    /// Lets go of segments that are kept for later, as far as the memory is used otherwise: nobody pays for them.
    fn trim(&self) {
        let most = self.permits.available() * UNIT_LEN / SEGMENT_LEN;
        self.free.lock().truncate(most);
    }
}

/// Some bytes of the budget, given back when dropped.
#[derive(Debug)]
pub struct Buffer {
    data: Box<[u8]>,
    len: usize,
    permit: Permit,
    budget: Arc<Inner>,
}

impl Buffer {
    /// Keeps the first `len` bytes, in no more memory than a buffer of that length takes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        let (had, kept) = (self.permit.count(), charge_len(self.len) / UNIT_LEN);
        if kept < had {
            let shorter = self.data[..self.len].into();
            let data = std::mem::replace(&mut self.data, shorter);
            if data.len() == SEGMENT_LEN {
                self.budget.free.lock().push(data);
            }
            self.permit.shrink(kept);
            self.budget.trim();
            self.budget.metrics.budget_used_bytes.sub(((had - kept) * UNIT_LEN) as u64);
        }
    }

    /// The same bytes, shareable; the budget gets them back when the last share is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.data[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.data[..self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.budget.metrics.budget_used_bytes.sub((self.permit.count() * UNIT_LEN) as u64);
        if self.data.len() == SEGMENT_LEN {
            self.budget.free.lock().push(std::mem::take(&mut self.data));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_budget_is_returned_when_the_last_share_goes() {
        let metrics = Arc::new(Metrics::default());
        let budget = BufferBudget::new(metrics.clone());
        let bytes = budget.buffer(SEGMENT_LEN, Priority::Prefetch).await.freeze();
        let share = bytes.slice(5..6);
        drop(bytes);
        assert_eq!(budget.available(), BUDGET_LEN - SEGMENT_LEN);
        drop(share);
        assert_eq!(budget.available(), BUDGET_LEN);
        assert_eq!(metrics.budget_used_bytes.get(), 0);
    }

    #[tokio::test]
    async fn a_shortened_buffer_gives_back_what_it_no_longer_needs() {
        let metrics = Arc::new(Metrics::default());
        let budget = BufferBudget::new(metrics.clone());
        for (len, kept) in [(SEGMENT_LEN, 1), (SEGMENT_LEN, SEGMENT_LEN / 2 + 1), (3 * UNIT_LEN, UNIT_LEN), (5, 0)] {
            let mut buffer = budget.buffer(len, Priority::Prefetch).await;
            buffer[0] = 7;
            buffer.truncate(kept);
            assert_eq!((buffer.len(), buffer.first().copied()), (kept, (kept > 0).then_some(7)));
            assert_eq!(BUDGET_LEN - budget.available(), charge_len(kept));
            assert_eq!(metrics.budget_used_bytes.get(), charge_len(kept) as u64);
            drop(buffer);
            assert_eq!((budget.available(), metrics.budget_used_bytes.get()), (BUDGET_LEN, 0));
        }
    }

    #[tokio::test]
    async fn what_is_kept_for_later_makes_room_for_what_is_small() {
        let budget = BufferBudget::new(Arc::default());
        let mut held = Vec::new();
        for _ in 0..BUDGET_LEN / SEGMENT_LEN {
            held.push(budget.buffer(SEGMENT_LEN, Priority::Prefetch).await);
        }
        held.clear();
        assert_eq!(budget.0.free.lock().len(), BUDGET_LEN / SEGMENT_LEN);
        for _ in 0..BUDGET_LEN / UNIT_LEN {
            held.push(budget.buffer(UNIT_LEN, Priority::Prefetch).await);
            assert!(budget.0.free.lock().len() * SEGMENT_LEN <= budget.available());
        }
        assert!(budget.0.free.lock().is_empty());
    }

    #[tokio::test]
    async fn nobody_gets_more_than_there_is() {
        let budget = BufferBudget::new(Arc::default());
        let mut held = Vec::new();
        for _ in 0..BUDGET_LEN / SEGMENT_LEN {
            held.push(budget.buffer(SEGMENT_LEN, Priority::Prefetch).await);
        }
        let mut waiting = Box::pin(budget.buffer(1, Priority::Prefetch));
        assert!(futures_poll(&mut waiting).is_none());
        held.pop();
        assert_eq!(waiting.await.len(), 1);
    }

    /// Polls once: `None` while pending.
    fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::Pin::new(future).poll(&mut context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }
}
