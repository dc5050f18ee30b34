//! The nodes, who reaches whom, and what is broken.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::super::dialer::CONNECT_TIMEOUT;
use super::super::{Acceptor, BoxFuture, BoxLane, Dialer, TransportError};
use super::lane::{Pipe, pipe};
use crate::ids::{PeerId, PeerSpec};

/// The port that every node of a memory network has.
const PORT: u16 = 7117;
/// How many lanes may wait to be accepted, as in a socket's queue.
const BACKLOG: usize = 1024;

/// What is wrong with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// It takes no new lanes, as a machine whose program is gone; those it has go on.
    Refuse,
    /// It is silent: dialling it times out, and the bytes on its lanes stop until this is over.
    BlackHole,
}

/// A network within one process. Clones are the same network.
#[derive(Debug, Clone, Default)]
pub struct MemoryNetwork {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// By the host name of [`MemoryNetwork::spec`].
    listeners: HashMap<String, (PeerId, mpsc::Sender<BoxLane>)>,
    faults: HashMap<PeerId, Fault>,
    pipes: Vec<Weak<Pipe>>,
}

impl State {
    fn fault(&self, id: &PeerId) -> Fault {
        self.faults.get(id).copied().unwrap_or_default()
    }

    fn live_pipes(&mut self) -> Vec<Arc<Pipe>> {
        self.pipes.retain(|pipe| pipe.strong_count() > 0);
        self.pipes.iter().filter_map(Weak::upgrade).collect()
    }
}

impl MemoryNetwork {
    /// A network without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// How `id` is dialled here, whether or not it listens. The id may be taken out of it.
    pub fn spec(id: PeerId) -> PeerSpec {
        PeerSpec { id: Some(id), host: id.to_string(), port: PORT }
    }

    /// Makes `id` listen; a listener that it had gets no more lanes. Dropping it ends that.
    pub fn listen(&self, id: PeerId) -> MemoryListener {
        let (sender, incoming) = mpsc::channel(BACKLOG);
        self.state.lock().listeners.insert(Self::spec(id).host, (id, sender));
        MemoryListener { incoming }
    }

    /// Makes lanes for the node `own`.
    pub fn dialer(&self, own: PeerId) -> MemoryDialer {
        MemoryDialer { network: self.clone(), own }
    }

    /// Breaks or heals the node `id`.
    pub fn set_fault(&self, id: PeerId, fault: Fault) {
        let mut state = self.state.lock();
        state.faults.insert(id, fault);
        for pipe in state.live_pipes() {
            let stopped = pipe.ends.iter().any(|end| state.fault(end) == Fault::BlackHole);
            pipe.stop(stopped);
        }
    }

    /// Cuts all lanes that `id` has now: reads and writes on them fail at both ends.
    pub fn cut(&self, id: PeerId) {
        for pipe in self.state.lock().live_pipes() {
            if pipe.ends.contains(&id) {
                pipe.cut();
            }
        }
    }

    /// How many lanes have an end that is not dropped, over all nodes.
    pub fn open_lanes(&self) -> usize {
        self.state.lock().live_pipes().len()
    }
}

/// Where the lanes to a node of a memory network come in.
#[derive(Debug)]
pub struct MemoryListener {
    incoming: mpsc::Receiver<BoxLane>,
}

impl Acceptor for MemoryListener {
    fn accept(&mut self) -> BoxFuture<'_, Result<BoxLane, TransportError>> {
        Box::pin(async { self.incoming.recv().await.ok_or(TransportError::Closed) })
    }
}

/// Opens lanes within a memory network, for one node of it.
#[derive(Debug, Clone)]
pub struct MemoryDialer {
    network: MemoryNetwork,
    own: PeerId,
}

impl MemoryDialer {
    /// The lane, or `None` if nothing ever answers.
    fn connect(&self, peer: &PeerSpec) -> Result<Option<BoxLane>, TransportError> {
        let refused = |error: io::ErrorKind| TransportError::Connect { peer: peer.clone(), error: error.into() };
        let mut state = self.network.state.lock();
        let listener = state.listeners.get(&peer.host).filter(|_| peer.port == PORT);
        let Some((id, sender)) = listener.map(|(id, sender)| (*id, sender.clone())) else {
            return Err(refused(io::ErrorKind::ConnectionRefused));
        };
        if state.fault(&id) == Fault::BlackHole || state.fault(&self.own) == Fault::BlackHole {
            return Ok(None);
        }
        if state.fault(&id) == Fault::Refuse {
            return Err(refused(io::ErrorKind::ConnectionRefused));
        }
        if let Some(expected) = peer.id.filter(|expected| *expected != id) {
            return Err(TransportError::WrongKey { expected, presented: id });
        }
        if id == self.own {
            return Err(TransportError::Myself);
        }
        let (own_end, other_end, pipe) = pipe(self.own, id);
        if sender.try_send(Box::new(other_end)).is_err() {
            return Err(refused(io::ErrorKind::ConnectionRefused));
        }
        state.live_pipes();
        state.pipes.push(Arc::downgrade(&pipe));
        Ok(Some(Box::new(own_end)))
    }
}

impl Dialer for MemoryDialer {
    fn id(&self) -> PeerId {
        self.own
    }

    fn dial<'a>(&'a self, peer: &'a PeerSpec) -> BoxFuture<'a, Result<BoxLane, TransportError>> {
        Box::pin(async move {
            match self.connect(peer)? {
                Some(lane) => Ok(lane),
                None => {
                    sleep(CONNECT_TIMEOUT).await;
                    Err(TransportError::TimedOut("connecting to the peer"))
                }
            }
        })
    }
}
