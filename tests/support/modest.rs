//! Lanes to holders that say they take short ranges only.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use byhash::ids::{LaneBinding, PeerId, PeerSpec};
use byhash::transport::memory::MemoryDialer;
use byhash::transport::{BoxFuture, BoxLane, Dialer, Lane, TransportError};
use byhash::wire::{FRAME_PREFIX_LEN, Hello, Message, decode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Opens lanes whose other side said that it takes ranges up to a length.
pub struct ModestDialer {
    inner: MemoryDialer,
    longest: u64,
    asked: Arc<AtomicU64>,
}

impl ModestDialer {
    /// Ranges of up to `longest` bytes.
    pub fn new(inner: MemoryDialer, longest: u64) -> Self {
        Self { inner, longest, asked: Arc::default() }
    }

    /// Bytes of the longest range asked for so far.
    pub fn asked(&self) -> Arc<AtomicU64> {
        self.asked.clone()
    }
}

impl Dialer for ModestDialer {
    fn id(&self) -> PeerId {
        self.inner.id()
    }

    fn dial<'a>(&'a self, peer: &'a PeerSpec) -> BoxFuture<'a, Result<BoxLane, TransportError>> {
        Box::pin(async move {
            let inner = self.inner.dial(peer).await?;
            let hello = Hello { max_range_len: self.longest, ..inner.hello().clone() };
            Ok(Box::new(ModestLane { inner, hello, asked: self.asked.clone() }) as BoxLane)
        })
    }
}

struct ModestLane {
    inner: BoxLane,
    hello: Hello,
    asked: Arc<AtomicU64>,
}

impl Lane for ModestLane {
    fn peer(&self) -> PeerId {
        self.inner.peer()
    }

    fn binding(&self) -> &LaneBinding {
        self.inner.binding()
    }

    fn hello(&self) -> &Hello {
        &self.hello
    }
}

impl AsyncRead for ModestLane {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for ModestLane {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // A requester writes one whole message at a time.
        if let Message::Request(request) = decode(&buf[FRAME_PREFIX_LEN..]).unwrap() {
            self.asked.fetch_max(request.len, Ordering::Relaxed);
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
