//! Lanes over a link with a delay and a rate, which all lanes of a dialler share.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use byhash::ids::{LaneBinding, PeerId, PeerSpec};
use byhash::transport::memory::MemoryDialer;
use byhash::transport::{BoxFuture, BoxLane, Dialer, Lane, TransportError};
use byhash::wire::Hello;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// Bytes that arrive in one piece at most, as a TLS record does.
const RECORD: usize = 16 * 1024;

/// Pieces that arrive in a second at least.
const RECORDS_PER_SECOND: u64 = 2;

/// A link; what comes in over it takes its time. Clones are the same link.
#[derive(Clone)]
pub struct Link {
    round_trip: Duration,
    rate: u64,
    /// When all that is on its way will have arrived.
    busy_until: Arc<Mutex<Option<Instant>>>,
}

impl Link {
    /// A link of `rate` bytes a second.
    pub fn new(round_trip: Duration, rate: u64) -> Self {
        Self { round_trip, rate, busy_until: Arc::default() }
    }

    /// When `bytes` more will have arrived.
    fn take(&self, bytes: usize) -> Instant {
        let mut busy_until = self.busy_until.lock().unwrap();
        let start = busy_until.unwrap_or_else(Instant::now).max(Instant::now());
        let end = start + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        *busy_until = Some(end);
        end
    }
}

/// Opens lanes over a link.
pub struct SlowDialer {
    inner: MemoryDialer,
    link: Link,
    links: HashMap<PeerId, Link>,
}

impl SlowDialer {
    /// One link to all peers.
    pub fn new(inner: MemoryDialer, link: Link) -> Self {
        Self { inner, link, links: HashMap::new() }
    }

    /// The same with a link of its own to one of them.
    pub fn with(mut self, peer: PeerId, link: Link) -> Self {
        self.links.insert(peer, link);
        self
    }
}

impl Dialer for SlowDialer {
    fn id(&self) -> PeerId {
        self.inner.id()
    }

    fn dial<'a>(&'a self, peer: &'a PeerSpec) -> BoxFuture<'a, Result<BoxLane, TransportError>> {
        Box::pin(async move {
            let link = peer.id.and_then(|id| self.links.get(&id)).unwrap_or(&self.link).clone();
            // TCP's handshake, and that of TLS.
            sleep(link.round_trip * 2).await;
            let inner = self.inner.dial(peer).await?;
            Ok(Box::new(SlowLane { inner, link, answer_at: None, arriving: None }) as BoxLane)
        })
    }
}

struct SlowLane {
    inner: BoxLane,
    link: Link,
    /// When the answer to what was written last can be here.
    answer_at: Option<Instant>,
    /// Bytes on their way, and until when they are.
    arriving: Option<(Vec<u8>, Pin<Box<Sleep>>)>,
}

impl Lane for SlowLane {
    fn peer(&self) -> PeerId {
        self.inner.peer()
    }

    fn binding(&self) -> &LaneBinding {
        self.inner.binding()
    }

    fn hello(&self) -> &Hello {
        self.inner.hello()
    }
}

impl AsyncRead for SlowLane {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.arriving.is_none() {
            let most = usize::try_from(this.link.rate / RECORDS_PER_SECOND).map_or(RECORD, |most| most.min(RECORD));
            let mut record = vec![0; most];
            let mut part = ReadBuf::new(&mut record);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut part))?;
            let len = part.filled().len();
            if len == 0 {
                return Poll::Ready(Ok(()));
            }
            record.truncate(len);
            let arrival = this.link.take(len).max(this.answer_at.unwrap_or_else(Instant::now));
            this.arriving = Some((record, Box::pin(sleep_until(arrival))));
        }
        let Some((record, arrival)) = &mut this.arriving else { return Poll::Pending };
        ready!(arrival.as_mut().poll(cx));
        let len = record.len().min(buf.remaining());
        buf.put_slice(&record[..len]);
        record.drain(..len);
        if record.is_empty() {
            this.arriving = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SlowLane {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.answer_at = Some(Instant::now() + self.link.round_trip);
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
