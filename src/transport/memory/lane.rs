//! One end of a pipe between two nodes, and the switches that break it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};

use super::super::Lane;
use crate::ids::{LaneBinding, PeerId};
use crate::wire::Hello;

/// How many bytes each direction of a pipe holds, as the buffers of a socket do.
const PIPE_LEN: usize = 256 << 10;

/// Pipes made so far, by which they are told apart.
static PIPES: AtomicU64 = AtomicU64::new(0);

/// The state of a pipe, seen by both ends and by the network.
#[derive(Debug)]
pub(super) struct Pipe {
    /// The nodes at its ends: the dialler, the listener.
    pub(super) ends: [PeerId; 2],
    binding: LaneBinding,
    switches: Mutex<Switches>,
}

#[derive(Debug, Default)]
struct Switches {
    cut: bool,
    stopped: bool,
    /// Who waits: reader and writer of each end.
    waiting: [[Option<Waker>; 2]; 2],
}

const READER: usize = 0;
const WRITER: usize = 1;

impl Pipe {
    /// Ends it: reads and writes at both ends fail from now on.
    pub(super) fn cut(&self) {
        self.switch(|switches| switches.cut = true);
    }

    /// Makes its bytes stop, or go on.
    pub(super) fn stop(&self, stopped: bool) {
        self.switch(|switches| switches.stopped = stopped);
    }

    fn switch(&self, change: impl FnOnce(&mut Switches)) {
        let waiting = {
            let mut switches = self.switches.lock();
            change(&mut switches);
            std::mem::take(&mut switches.waiting)
        };
        waiting.into_iter().flatten().flatten().for_each(Waker::wake);
    }
}

/// One end of a pipe.
pub(super) struct MemoryLane {
    stream: DuplexStream,
    pipe: Arc<Pipe>,
    /// Which end: 0 is the dialler's, 1 the listener's.
    end: usize,
    hello: Hello,
}

/// A new pipe: the dialler's end, the listener's, and its switches.
pub(super) fn pipe(dialler: PeerId, listener: PeerId) -> (MemoryLane, MemoryLane, Arc<Pipe>) {
    let (one, other) = duplex(PIPE_LEN);
    let mut binding = [0; 32];
    binding[..8].copy_from_slice(&PIPES.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    let pipe = Arc::new(Pipe { ends: [dialler, listener], binding: LaneBinding(binding), switches: Mutex::default() });
    let lane = |stream, end| MemoryLane { stream, pipe: Arc::clone(&pipe), end, hello: Hello::new(None) };
    (lane(one, 0), lane(other, 1), Arc::clone(&pipe))
}

impl MemoryLane {
    /// Runs `poll` unless the pipe is cut or stopped.
    fn unless_broken<T>(
        &mut self,
        cx: &mut Context<'_>,
        who: usize,
        poll: impl FnOnce(Pin<&mut DuplexStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        {
            let mut switches = self.pipe.switches.lock();
            if switches.cut {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            switches.waiting[self.end][who] = Some(cx.waker().clone());
            if switches.stopped {
                return Poll::Pending;
            }
        }
        poll(Pin::new(&mut self.stream), cx)
    }
}

impl Lane for MemoryLane {
    fn peer(&self) -> PeerId {
        self.pipe.ends[1 - self.end]
    }

    fn binding(&self) -> &LaneBinding {
        &self.pipe.binding
    }

    fn hello(&self) -> &Hello {
        &self.hello
    }
}

impl AsyncRead for MemoryLane {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.unless_broken(cx, READER, |stream, cx| stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for MemoryLane {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.unless_broken(cx, WRITER, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unless_broken(cx, WRITER, |stream, cx| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unless_broken(cx, WRITER, |stream, cx| stream.poll_shutdown(cx))
    }
}
