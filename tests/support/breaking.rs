//! Lanes of which every so many-th exchange breaks off in the middle of its reply.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use byhash::ids::{LaneBinding, PeerId, PeerSpec};
use byhash::transport::memory::MemoryDialer;
use byhash::transport::{BoxFuture, BoxLane, Dialer, Lane, TransportError};
use byhash::wire::Hello;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of the reply that still come: more than any reply without content has.
const COMES: usize = 20_000;

/// Opens lanes that break.
pub struct BreakingDialer {
    inner: MemoryDialer,
    every: usize,
    counts: Arc<Counts>,
}

/// What has happened on all lanes of a dialler.
#[derive(Default)]
pub struct Counts {
    asked: AtomicUsize,
    broken: AtomicUsize,
}

impl Counts {
    /// How many exchanges were broken off.
    pub fn broken(&self) -> usize {
        self.broken.load(Ordering::Relaxed)
    }
}

impl BreakingDialer {
    /// Breaks every `every`-th exchange.
    pub fn new(inner: MemoryDialer, every: usize) -> Self {
        Self { inner, every, counts: Arc::default() }
    }

    /// What happened so far.
    pub fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }
}

impl Dialer for BreakingDialer {
    fn id(&self) -> PeerId {
        self.inner.id()
    }

    fn dial<'a>(&'a self, peer: &'a PeerSpec) -> BoxFuture<'a, Result<BoxLane, TransportError>> {
        Box::pin(async move {
            let inner = self.inner.dial(peer).await?;
            let (every, counts) = (self.every, self.counts.clone());
            Ok(Box::new(BreakingLane { inner, every, counts, asking: false, left: None }) as BoxLane)
        })
    }
}

struct BreakingLane {
    inner: BoxLane,
    every: usize,
    counts: Arc<Counts>,
    /// What was done last was to write: the same question goes on.
    asking: bool,
    /// Bytes until it breaks, if it does.
    left: Option<usize>,
}

impl Lane for BreakingLane {
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

impl AsyncRead for BreakingLane {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.left == Some(0) {
            this.counts.broken.fetch_add(1, Ordering::Relaxed);
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut part = vec![0; buf.remaining().min(this.left.unwrap_or(usize::MAX))];
        let mut part = ReadBuf::new(&mut part);
        ready!(Pin::new(&mut this.inner).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.put_slice(part.filled());
        this.left = this.left.map(|left| left - read);
        this.asking &= read == 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BreakingLane {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !std::mem::replace(&mut self.asking, true) {
            let number = self.counts.asked.fetch_add(1, Ordering::Relaxed) + 1;
            self.left = number.is_multiple_of(self.every).then_some(COMES);
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
