//! The lane over TCP, and the settings of its socket.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::handshake::Established;
use super::{BoxLane, Lane};
use crate::ids::{LaneBinding, PeerId};
use crate::metrics::Metrics;
use crate::wire::{Hello, MAX_FRAME_LEN};

/// How much is read from the socket at once, in bytes. rustls by itself reads 4 KiB at a time:
/// measured with both ends on 2 cores and the bytes hashed, 1.1 GB/s on one lane, with this 1.5.
const READ_BUFFER_LEN: usize = 128 << 10;
/// The same on a lane that a peer has opened, on which only requests come.
const ACCEPTED_BUFFER_LEN: usize = 16 << 10;
/// How much ciphertext is made before it is sent, in bytes. Measured as above: 64 KiB gives one
/// lane 1.7 GB/s and four 2.6, this 1.5 and 2.9, more is no faster.
const WRITE_BUFFER_LEN: usize = 128 << 10;
const _: () = assert!(WRITE_BUFFER_LEN >= MAX_FRAME_LEN);
/// Sent bytes that the other machine does not acknowledge for this long break the connection.
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(20);
/// An idle connection is probed this often.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// A TCP connection with a buffer before the TLS layer.
pub(super) type Socket = BufReader<TcpStream>;

/// Prepares a connection that this node has opened: no delay for small messages, and a machine that vanished is noticed.
pub(super) fn prepare(stream: TcpStream) -> io::Result<Socket> {
    prepare_with(stream, READ_BUFFER_LEN)
}

/// The same for one that a peer has opened.
pub(super) fn prepare_accepted(stream: TcpStream) -> io::Result<Socket> {
    prepare_with(stream, ACCEPTED_BUFFER_LEN)
}

fn prepare_with(stream: TcpStream, read_buffer_len: usize) -> io::Result<Socket> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE_INTERVAL).with_interval(KEEPALIVE_INTERVAL))?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIMEOUT))?;
    Ok(BufReader::with_capacity(read_buffer_len, stream))
}

/// A lane over TCP and TLS. Counted in `lanes_open` while it lives.
struct TcpLane {
    stream: TlsStream<Socket>,
    peer: PeerId,
    binding: LaneBinding,
    hello: Hello,
    metrics: Arc<Metrics>,
}

/// Makes the lane of an established connection.
pub(super) fn lane(established: Established<Socket>, metrics: Arc<Metrics>) -> BoxLane {
    let Established { mut stream, peer, binding, hello } = established;
    match &mut stream {
        TlsStream::Client(stream) => stream.get_mut().1.set_buffer_limit(Some(WRITE_BUFFER_LEN)),
        TlsStream::Server(stream) => stream.get_mut().1.set_buffer_limit(Some(WRITE_BUFFER_LEN)),
    }
    metrics.lanes_open.inc();
    Box::new(TcpLane { stream, peer, binding, hello, metrics })
}

impl Drop for TcpLane {
    fn drop(&mut self) {
        self.metrics.lanes_open.sub(1);
    }
}

impl Lane for TcpLane {
    fn peer(&self) -> PeerId {
        self.peer
    }

    fn binding(&self) -> &LaneBinding {
        &self.binding
    }

    fn hello(&self) -> &Hello {
        &self.hello
    }
}

impl AsyncRead for TcpLane {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TcpLane {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
