//! Opening lanes to peers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::names::Names;
use super::{BoxFuture, BoxLane, Identity, NetworkSecret, TransportError, handshake, tcp};
use crate::ids::{PeerId, PeerSpec};
use crate::metrics::Metrics;

/// How long resolving a name and connecting may take. One lost SYN is sent again after a second.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one address is waited for before the next is tried beside it (RFC 8305, section 5).
const NEXT_ADDRESS_DELAY: Duration = Duration::from_millis(250);

/// Opens lanes.
pub trait Dialer: Send + Sync + 'static {
    /// Who dials.
    fn id(&self) -> PeerId;

    /// Opens a lane to `peer`. Dropping the future gives up.
    fn dial<'a>(&'a self, peer: &'a PeerSpec) -> BoxFuture<'a, Result<BoxLane, TransportError>>;
}

/// Opens lanes over TCP and TLS.
pub struct TcpDialer {
    identity: Identity,
    secret: Option<NetworkSecret>,
    names: Names,
    metrics: Arc<Metrics>,
}

impl TcpDialer {
    /// A dialler that is `identity`, and that proves `secret` to those it dials and lets it vouch
    /// for those of them that are named without an id.
    pub fn new(identity: Identity, secret: Option<NetworkSecret>, metrics: Arc<Metrics>) -> Self {
        Self { identity, secret, names: Names::new(), metrics }
    }
}

impl Dialer for TcpDialer {
    fn id(&self) -> PeerId {
        self.identity.peer_id()
    }

    fn dial<'a>(&'a self, peer: &'a PeerSpec) -> BoxFuture<'a, Result<BoxLane, TransportError>> {
        Box::pin(async move {
            if peer.id.is_none() && self.secret.is_none() {
                return Err(TransportError::NoWayToTrust(peer.clone()));
            }
            let stream = timeout(CONNECT_TIMEOUT, connect(&self.names, peer))
                .await
                .unwrap_or(Err(TransportError::TimedOut("connecting to the peer")))?;
            let socket = tcp::prepare(stream)?;
            let established = handshake::dial(socket, &self.identity, self.secret.as_ref(), peer.id).await?;
            self.metrics.lanes_dialled.inc();
            Ok(tcp::lane(established, Arc::clone(&self.metrics)))
        })
    }
}

async fn connect(names: &Names, peer: &PeerSpec) -> Result<TcpStream, TransportError> {
    let unresolved = |error| TransportError::Resolve { host: peer.host.clone(), error };
    let addresses = names.addresses(&peer.host, peer.port).await.map_err(unresolved)?;
    connect_any(addresses).await.map_err(|error| TransportError::Connect { peer: peer.clone(), error })
}

/// Connects to the first address that answers, each with a head start before the next.
async fn connect_any(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut addresses = addresses.into_iter();
    let mut attempts = JoinSet::new();
    loop {
        if let Some(address) = addresses.next() {
            attempts.spawn(TcpStream::connect(address));
        }
        let delay = if addresses.len() > 0 { NEXT_ADDRESS_DELAY } else { CONNECT_TIMEOUT };
        match timeout(delay, attempts.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(error)))) => last_error = error,
            Ok(Some(Err(failed))) => last_error = io::Error::other(failed),
            Ok(None) if addresses.len() == 0 => return Err(last_error),
            Ok(None) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_refuses_does_not_hide_the_next() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let open = listener.local_addr().unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        for addresses in [vec![closed, open], vec![open, closed], vec![closed, closed, open]] {
            assert_eq!(connect_any(addresses).await.unwrap().peer_addr().unwrap(), open);
        }
        let refused = connect_any(vec![closed, closed]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(connect_any(vec![]).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
