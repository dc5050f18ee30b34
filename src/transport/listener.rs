//! Letting peers in.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
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
/// of the machine that has most of them is dropped, so that no number of silent ones keeps others waiting, nor those
/// that are far from ever being greeted. Each is done or dropped within
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
    unfinished: VecDeque<(IpAddr, AbortHandle)>,
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
        self.unfinished.retain(|(_, handshake)| !handshake.is_finished());
        if self.unfinished.len() >= MAX_HANDSHAKES
            && let Some((_, oldest)) = oldest_of_most(self.unfinished.iter().map(|(network, _)| *network))
                .and_then(|at| self.unfinished.remove(at))
        {
            oldest.abort();
            tracing::debug!(%from, "an unfinished handshake is dropped for a new connection");
        }
        let handshake = self.greeted.spawn(Arc::clone(&self.greeting).greet(stream, from));
        self.unfinished.push_back((network_of(from.ip()), handshake));
    }
}

/// What one machine has all of: an IPv4 address, or 64 bits of an IPv6 address.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// The place of the first of those that there are most of.
fn oldest_of_most<T: Copy + Eq + Hash>(all: impl Iterator<Item = T>) -> Option<usize> {
    let mut counts: HashMap<T, (usize, usize)> = HashMap::new();
    for (at, one) in all.enumerate() {
        counts.entry(one).or_insert((0, at)).0 += 1;
    }
    counts.into_values().max_by_key(|(count, at)| (*count, Reverse(*at))).map(|(_, at)| at)
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
            let socket = tcp::prepare_accepted(stream)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_most_unfinished_handshakes_loses_the_oldest() {
        let oldest = |all: &[u8]| oldest_of_most(all.iter().copied());
        assert_eq!((oldest(&[]), oldest(&[1, 2, 3])), (None, Some(0)));
        assert_eq!(oldest(&[9, 1, 2, 1, 3, 1]), Some(1));
    }

    #[test]
    fn a_machine_is_an_address_or_the_network_that_it_has_to_itself() {
        let of = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(of("192.0.2.7"), of("::ffff:192.0.2.7"));
        assert_ne!(of("192.0.2.7"), of("192.0.2.8"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }
}
