//! One exchange on the requester's side: a request on a lane, its reply verified as it arrives.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use super::table::ExchangeGuard;
use crate::buffers::{BufferBudget, SEGMENT_LEN};
use crate::holders::{LaneKind, Peer, PeerError, PooledLane};
use crate::ids::{BlobRange, ContentHash, Priority, TransferId};
use crate::metrics::Metrics;
use crate::transport::{BoxLane, TransportError, read_message, write_message};
use crate::verify::{GROUP_LEN, Proof, bytes_of, group_count, proof_len, with_last_group};
use crate::wire::{MAX_RANGE_LEN, Message, Request};

/// How long a holder may keep silent in the middle of an exchange before the lane is given up. The
/// range is asked of another holder long before that (see `fetch`); this bounds what a silent
/// holder may tie up.
pub const SILENCE_DEADLINE: Duration = Duration::from_secs(5);

/// Bytes up to which an exchange may use a lane kept free of bulk.
pub const SMALL_LEN: u64 = SEGMENT_LEN as u64;

/// Bytes read from a lane at once: whole groups, few enough to be hashed while still in the
/// processor's cache.
const READ_LEN: usize = 64 * 1024;

/// How long bytes that make up a group may wait for more to be checked together with them.
const CHECK_PERIOD: Duration = Duration::from_secs(1);

const _: () = assert!(READ_LEN.is_multiple_of(GROUP_LEN as usize) && SEGMENT_LEN.is_multiple_of(READ_LEN));
const _: () = assert!(MAX_RANGE_LEN.is_multiple_of(SEGMENT_LEN as u64));

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The blob.
    pub hash: ContentHash,
    /// The groups wanted, at most [`MAX_RANGE_LEN`] of content.
    pub groups: Range<u64>,
    /// The size, if it is proven already. If not, the reply proves it.
    pub size: Option<u64>,
    /// The kind of lane to use.
    pub lane: LaneKind,
    /// How urgent it is.
    pub priority: Priority,
}

/// Why an exchange did not bring all that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The holder has not got the range.
    #[error("it does not have it")]
    NotFound,
    /// The holder has too much to do.
    #[error("it is busy for {} ms", .0.as_millis())]
    Busy(Duration),
    /// The holder refused.
    #[error("it refused: {0}")]
    Refused(String),
    /// The proof or a group did not match the hash, or the size contradicts the proven one.
    #[error("it sent wrong bytes: {0}")]
    WrongBytes(String),
    /// Nothing came for [`SILENCE_DEADLINE`].
    #[error("it fell silent")]
    Silent,
    /// The lane failed, or the holder closed it.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The holder broke the protocol.
    #[error("it answered out of turn")]
    OutOfTurn,
    /// The holder could not be reached.
    #[error(transparent)]
    Peer(#[from] PeerError),
}

impl From<TransportError> for ExchangeError {
    fn from(error: TransportError) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Takes what an exchange brings, in the order in which it arrives.
pub trait Sink: Send {
    /// The size, proof and ranges are settled; content follows. With an unknown size the size is
    /// not proven before the last group has come through [`Sink::segment`].
    fn begin(&mut self, proof: Arc<Proof>) -> impl Future<Output = ()> + Send;

    /// Verified whole groups beginning at `first`; they do not cross the end of a segment.
    fn segment(&mut self, first: u64, bytes: Bytes) -> impl Future<Output = ()> + Send;
}

/// What an exchange needs besides the question.
pub struct Exchange<'a> {
    /// The holder.
    pub peer: &'a Peer,
    /// Counts it, and what it brings.
    pub guard: &'a ExchangeGuard,
    /// The id of the transfer that it is part of.
    pub id: TransferId,
    /// Pays for the buffers.
    pub budget: &'a BufferBudget,
    /// Counts.
    pub metrics: &'a Metrics,
}

impl Exchange<'_> {
    /// Carries the exchange out. On success all groups asked for (and the last one, if the size
    /// was unknown) have gone to `sink`. Dropping the future closes the lane.
    pub async fn run(&self, ask: &Ask, sink: &mut impl Sink) -> Result<(), ExchangeError> {
        let (mut lane, reply, asked_at) = self.request(ask).await?;
        self.peer.note_round_trip(asked_at.elapsed());
        match reply {
            Message::Found(found) if found.transfer_id == self.id => {
                let received = self.receive(ask, found.total_len, lane.io(), sink).await?;
                self.peer.note_delivery(received, asked_at.elapsed());
                lane.release();
                Ok(())
            }
            Message::NotFound(reply) if reply.transfer_id == self.id => {
                lane.release();
                Err(ExchangeError::NotFound)
            }
            Message::Busy(reply) if reply.transfer_id == self.id => {
                lane.release();
                Err(ExchangeError::Busy(Duration::from_millis(reply.retry_after_ms.into())))
            }
            Message::Refused(reply) => Err(ExchangeError::Refused(reply.reason.to_string())),
            _ => Err(ExchangeError::OutOfTurn),
        }
    }

    /// Sends the request and reads the answer's head. A lane that the holder closed while it lay
    /// idle says nothing about the holder, so the request is put once more.
    async fn request(&self, ask: &Ask) -> Result<(PooledLane, Message, Instant), ExchangeError> {
        let request = Message::Request(Request {
            transfer_id: self.id,
            hash: ask.hash,
            start: ask.groups.start * GROUP_LEN,
            len: (ask.groups.end - ask.groups.start) * GROUP_LEN,
            weight: ask.priority.weight(),
            prove_size: ask.size.is_none(),
        });
        let mut again = true;
        loop {
            let mut lane = self.peer.lane(ask.lane, ask.priority).await?;
            let asked_at = Instant::now();
            let reply = async {
                self.guard.progress.sent.store(true, Ordering::Relaxed);
                write_message(lane.io(), &request).await?;
                read_message(lane.io()).await
            };
            match timeout(SILENCE_DEADLINE, reply).await {
                Err(_) => return Err(ExchangeError::Silent),
                Ok(Ok(Some(message))) => return Ok((lane, message, asked_at)),
                Ok(Ok(None)) if !again => return Err(ExchangeError::Broken("closed".to_owned())),
                Ok(Err(error)) if !again => return Err(error.into()),
                Ok(_) => again = false,
            }
        }
    }

    /// Reads and verifies what follows [`Message::Found`]; returns the content bytes received.
    async fn receive(
        &self,
        ask: &Ask,
        total_len: u64,
        lane: &mut BoxLane,
        sink: &mut impl Sink,
    ) -> Result<u64, ExchangeError> {
        if let Some(size) = ask.size.filter(|size| *size != total_len) {
            return Err(ExchangeError::WrongBytes(format!("a size of {total_len} instead of {size}")));
        }
        let wanted = ask.groups.start..ask.groups.end.min(group_count(total_len));
        if wanted.is_empty() {
            return Err(ExchangeError::WrongBytes(format!("a size of {total_len}, before the range")));
        }
        let ranges = if ask.size.is_some() { vec![wanted] } else { with_last_group(total_len, wanted) };
        // Bounded by the range and the tree's depth, both limited by the protocol, not by the peer.
        let mut proof = vec![0; proof_len(total_len, &ranges)];
        self.read(lane, &mut proof).await?;
        let wrong = |error: crate::verify::VerifyError| ExchangeError::WrongBytes(error.to_string());
        let proof = Arc::new(Proof::verify(&ask.hash, total_len, &ranges, proof).map_err(wrong)?);
        let content: u64 = ranges.iter().map(|range| bytes_of(total_len, range).len()).sum();
        self.own(sink.begin(proof.clone())).await;
        for range in &ranges {
            for piece in segments(bytes_of(total_len, range)) {
                let first = piece.start / GROUP_LEN;
                let mut buffer = self.own(self.budget.buffer(piece.len() as usize, ask.priority)).await;
                let mut done = 0;
                let filled = self.fill(lane, &proof, first, &mut buffer, &mut done).await;
                self.metrics.fetched_bytes.add(done as u64);
                if filled.is_err() && done > 0 {
                    // What came before the failure is as good as the rest.
                    buffer.truncate(done);
                    self.own(sink.segment(first, buffer.freeze())).await;
                    return filled.map(|()| content);
                }
                filled?;
                self.own(sink.segment(first, buffer.freeze())).await;
            }
        }
        Ok(content)
    }

    /// Fills `buffer` with the groups from `first` on, checking them as they come. The first `done`
    /// bytes are whole groups and right, whatever it returns.
    async fn fill(
        &self,
        lane: &mut BoxLane,
        proof: &Proof,
        first: u64,
        buffer: &mut [u8],
        done: &mut usize,
    ) -> Result<(), ExchangeError> {
        let wrong = |error: crate::verify::VerifyError| ExchangeError::WrongBytes(error.to_string());
        let mut come = 0;
        while *done < buffer.len() {
            let full = buffer.len().min(*done + READ_LEN);
            let began = Instant::now();
            let is_enough = |come: usize| (come - *done) as u64 >= GROUP_LEN && began.elapsed() >= CHECK_PERIOD;
            while come < full && !is_enough(come) {
                come += self.read_some(lane, &mut buffer[come..full]).await?;
            }
            let end = if come == full { full } else { come - (come - *done) % GROUP_LEN as usize };
            let group = first + *done as u64 / GROUP_LEN;
            proof.check_groups(group, &buffer[*done..end]).map_err(wrong)?;
            self.guard.note_content((end - *done) as u64);
            self.peer.note_content((end - *done) as u64);
            *done = end;
            // Whoever has little to do goes first: there may be many like this one.
            yield_now().await;
        }
        if buffer.is_empty() {
            proof.check_groups(first, &[]).map_err(wrong)?;
        }
        Ok(())
    }

    /// Waits for something that this node, not the holder, may keep waiting.
    async fn own<T>(&self, something: impl Future<Output = T>) -> T {
        self.guard.progress.held_up.store(true, Ordering::Relaxed);
        let done = something.await;
        self.guard.progress.held_up.store(false, Ordering::Relaxed);
        done
    }

    /// Fills `buf` from the lane, which may not fall silent.
    async fn read(&self, lane: &mut BoxLane, buf: &mut [u8]) -> Result<(), ExchangeError> {
        let mut done = 0;
        while done < buf.len() {
            done += self.read_some(lane, &mut buf[done..]).await?;
        }
        Ok(())
    }

    /// The next bytes from the lane into `buf`, which is not empty; at least one.
    async fn read_some(&self, lane: &mut BoxLane, buf: &mut [u8]) -> Result<usize, ExchangeError> {
        match timeout(SILENCE_DEADLINE, lane.read(buf)).await {
            Err(_) => Err(ExchangeError::Silent),
            Ok(Ok(0)) => Err(ExchangeError::Broken("closed in the middle of a reply".to_owned())),
            Ok(Ok(n)) => {
                self.guard.progress.wire.fetch_add(n as u64, Ordering::Relaxed);
                self.metrics.fetched_wire_bytes.add(n as u64);
                Ok(n)
            }
            Ok(Err(error)) => Err(ExchangeError::Broken(error.to_string())),
        }
    }
}

/// Cuts a range at the multiples of [`SEGMENT_LEN`]. An empty range (of the empty blob) is one
/// empty piece.
pub fn segments(range: BlobRange) -> impl Iterator<Item = BlobRange> {
    pieces(range, SEGMENT_LEN as u64)
}

/// The same at the multiples of `len` bytes.
pub fn pieces(range: BlobRange, len: u64) -> impl Iterator<Item = BlobRange> {
    let mut start = range.start;
    let mut first = true;
    std::iter::from_fn(move || {
        if start >= range.end && !first {
            return None;
        }
        first = false;
        let end = range.end.min((start / len + 1) * len);
        let piece = BlobRange::new(start, end);
        start = end.max(start);
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_end_at_multiples_of_the_segment_length() {
        let len = SEGMENT_LEN as u64;
        let cut = |start, end| segments(BlobRange::new(start, end)).map(|r| (r.start, r.end)).collect::<Vec<_>>();
        assert_eq!(cut(0, 0), [(0, 0)]);
        assert_eq!(cut(0, len), [(0, len)]);
        assert_eq!(cut(GROUP_LEN, len + 1), [(GROUP_LEN, len), (len, len + 1)]);
        assert_eq!(cut(len, 3 * len), [(len, 2 * len), (2 * len, 3 * len)]);
    }
}
