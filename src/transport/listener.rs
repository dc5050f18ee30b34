//! Letting peers in.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsAcceptor;

use super::{Admission, BoxFuture, BoxLane, Identity, TransportError, handshake, tcp};
use crate::metrics::Metrics;
use crate::seldom::Seldom;

/// How many connections may be greeted at once. For one more, the one that has been greeted longest
/// is dropped, so that no number of silent ones keeps others waiting. Each is done or dropped within
/// [`HANDSHAKE_TIMEOUT`](super::HANDSHAKE_TIMEOUT).
pub const MAX_HANDSHAKES: usize = 128;
/// How long nothing is accepted after the system refused (it is out of descriptors or memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where lanes come in.
pub trait Acceptor: Send + 'static {
    /// The next lane whose peer was admitted. May be dropped and called again without loss.
    ///
    /// # Errors
    ///
    /// No lane will ever come again. A peer that is turned away or breaks off is no error here.
    fn accept(&mut self) -> BoxFuture<'_, Result<BoxLane, TransportError>>;
}

/// Accepts lanes over TCP and TLS. Connections are greeted side by side, so that a slow one does
/// not keep others waiting. Dropping it closes the port and the connections not yet admitted.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    local_addr: SocketAddr,
    greeting: Arc<Greeting>,
    /// At most [`MAX_HANDSHAKES`], and one that has just been dropped.
    greeted: JoinSet<Option<BoxLane>>,
    /// Those of `greeted` that were not done when the last one came, the oldest first.
    unfinished: VecDeque<AbortHandle>,
    paused_until: Option<Instant>,
}

/// What a handshake needs to know.
struct Greeting {
    acceptor: TlsAcceptor,
    admission: Admission,
    metrics: Arc<Metrics>,
    refusals: Seldom,
}

impl Listener {
    /// Listens on `addr` (port 0: any free one) as `identity`, for those whom `admission` lets in.
    ///
    /// # Errors
    ///
    /// The system's: an address in use or not of this machine, a port without the right to it.
    pub async fn bind(
        addr: SocketAddr,
        identity: &Identity,
        admission: Admission,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let socket = TcpListener::bind(addr).await?;
        let local_addr = socket.local_addr()?;
        let greeting = Arc::new(Greeting {
            acceptor: handshake::acceptor(identity),
            admission,
            metrics,
            refusals: Seldom::default(),
        });
        let (greeted, unfinished) = (JoinSet::new(), VecDeque::new());
        Ok(Self { socket, local_addr, greeting, greeted, unfinished, paused_until: None })
    }

    /// The address listened on, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    async fn next_lane(&mut self) -> BoxLane {
        loop {
            // Beyond it, the one that was dropped has to be gone before the next may come.
            let room = self.greeted.len() <= MAX_HANDSHAKES;
            tokio::select! {
                biased;
                Some(greeted) = self.greeted.join_next() => match greeted {
                    Ok(Some(lane)) => return lane,
                    Ok(None) => {}
                    Err(dropped) if dropped.is_cancelled() => self.greeting.metrics.lanes_refused.inc(),
                    Err(panicked) => tracing::error!(%panicked, "a handshake ended in a fault of this program"),
                },
                accepted = accept_after(self.paused_until, &self.socket), if room => match accepted {
                    Ok((stream, from)) => {
                        self.paused_until = None;
                        self.greet(stream, from);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept connections, trying again shortly");
                        self.paused_until = Some(Instant::now() + ACCEPT_PAUSE);
                    }
                },
            }
        }
    }

    /// Begins a handshake, in the place of the oldest one if all places are taken.
    fn greet(&mut self, stream: TcpStream, from: SocketAddr) {
        self.unfinished.retain(|handshake| !handshake.is_finished());
        if self.unfinished.len() >= MAX_HANDSHAKES
            && let Some(oldest) = self.unfinished.pop_front()
        {
            oldest.abort();
            tracing::debug!(%from, "the oldest unfinished handshake is dropped for a new connection");
        }
        let handshake = self.greeted.spawn(Arc::clone(&self.greeting).greet(stream, from));
        self.unfinished.push_back(handshake);
    }
}

impl Acceptor for Listener {
    fn accept(&mut self) -> BoxFuture<'_, Result<BoxLane, TransportError>> {
        Box::pin(async { Ok(self.next_lane().await) })
    }
}

async fn accept_after(pause: Option<Instant>, socket: &TcpListener) -> std::io::Result<(TcpStream, SocketAddr)> {
    if let Some(pause) = pause {
        sleep_until(pause).await;
    }
    socket.accept().await
}

impl Greeting {
    /// The lane, if its peer was admitted.
    async fn greet(self: Arc<Self>, stream: TcpStream, from: SocketAddr) -> Option<BoxLane> {
        let greeted = async {
            let socket = tcp::prepare(stream)?;
            handshake::accept(socket, &self.acceptor, &self.admission).await
        };
        match greeted.await {
            Ok(established) => {
                self.metrics.lanes_accepted.inc();
                tracing::debug!(peer = %established.peer.short(), %from, "lane accepted");
                Some(tcp::lane(established, Arc::clone(&self.metrics)))
            }
            Err(error) => {
                self.metrics.lanes_refused.inc();
                if error.is_hostile() {
                    self.metrics.hostile_frames.inc();
                }
                match self.refusals.tell() {
                    Some(0) => tracing::info!(%from, %error, "connection refused"),
                    Some(untold) => {
                        tracing::info!(%from, %error, untold, "connection refused, as others since the last")
                    }
                    None => tracing::debug!(%from, %error, "connection refused"),
                }
                None
            }
        }
    }
}

impl std::fmt::Debug for Greeting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Greeting").field("admission", &self.admission).finish_non_exhaustive()
    }
}
