//! A running node: identity, store, holders, engine, serving.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::scrub::Scrubber;
use super::status::{BlobReport, NodeStatus, PeerReport, PeerState, PeerStatus};
use crate::buffers::BufferBudget;
use crate::config::{NodeConfig, Verify};
use crate::fuse::{MountModes, MountedAt};
use crate::holders::{self, Holders, hints};
use crate::ids::{ContentHash, PeerId, TransferId};
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};
use crate::transfer::{BlobSource, BlobState, Engine, Server, TransferStatus};
use crate::transport::{Admission, Identity, Listener, NetworkSecret, TcpDialer};

/// How long what is being fetched may still come when the node shuts down.
const FETCH_DRAIN: Duration = Duration::from_secs(4);

/// How long the serving side may take to end at a shutdown, its own drain included.
pub const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(6);

/// How long the store may be in use by a process that does not answer on the control socket: a command
/// that will soon be done, or a node that is ending, as after `umount` before `mount`.
pub const LOCK_WAIT: Duration = Duration::from_secs(10);
/// How often it is tried meanwhile.
pub const LOCK_POLL: Duration = Duration::from_millis(50);
const _: () = assert!(LOCK_WAIT.as_secs() > SHUTDOWN_DEADLINE.as_secs());

/// A running node.
pub struct Node {
    id: PeerId,
    listen: SocketAddr,
    store: Store,
    holders: Arc<Holders>,
    engine: Engine,
    server: Arc<Server>,
    metrics: Arc<Metrics>,
    peer_hints: PathBuf,
    started: Instant,
    scrubber: Option<Arc<Scrubber>>,
    notes: Vec<String>,
    mount: Mutex<Option<(MountedAt, Arc<MountModes>)>>,
    shutdown: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Node {
    /// Starts a node; when this returns it listens. Call it within a multi-threaded runtime.
    ///
    /// # Errors
    /// In one sentence: a key or secret that cannot be read, a state directory in use, an address that
    /// cannot be listened on.
    pub async fn start(config: &NodeConfig) -> anyhow::Result<Arc<Self>> {
        config.state.create()?;
        let metrics = Arc::new(Metrics::default());
        let secret = config.secret_file.as_deref().map(NetworkSecret::load).transpose()?;
        let identity = Identity::load_or_create(&config.state.key())?;
        let mut notes = Vec::new();
        let store = match open_store(config, &metrics).await {
            Err(error) if error.is_of_the_disk() => {
                let sentence = format!(
                    "the cache cannot be used, and nothing is kept or served until a restart finds it usable: {error}"
                );
                tracing::warn!("{sentence}");
                notes.push(sentence);
                Store::uncached(&config.store(), metrics.clone())?
            }
            opened => {
                let store = opened?;
                if let Err(error) = config.state.note_cache_size(config.cache_size) {
                    tracing::warn!("commands will not know the cache's size while no node runs: {error}");
                }
                store
            }
        };
        if config.mount.verify == Verify::Always {
            store.check_every_read();
        }
        let admission = Admission {
            allow: config.allow.iter().copied().collect::<HashSet<_>>(),
            secret: secret.clone(),
            open: config.open,
        };
        let warned = notes.len();
        if !admission.admits_anyone() {
            notes.push("no peer may connect: none of --allow, --secret-file and --open is given".to_owned());
        }
        if config.peers.is_empty() {
            notes.push("no peer is asked: --peer is not given".to_owned());
        }
        for note in &notes[warned..] {
            tracing::info!("{note}");
        }
        let id = identity.peer_id();
        let listener = Listener::bind(config.listen, &identity, admission, metrics.clone())
            .await
            .map_err(|error| anyhow::anyhow!("cannot listen on {}: {error}", config.listen))?;
        let listen = listener.local_addr();
        let dialer = Arc::new(TcpDialer::new(identity, secret, metrics.clone()));
        let budget = BufferBudget::new(metrics.clone());
        let holders = Holders::new(config.peers.clone(), dialer, budget.clone(), metrics.clone());
        holders.take_hints(&hints::load(&config.state.peer_hints()));
        let engine = Engine::new(store.clone(), holders.clone(), budget.clone(), metrics.clone());
        let (shutdown, stop) = watch::channel(false);
        let server = Server::new(store.clone(), config.serve(), budget, metrics.clone());
        let position = config.state.scrub_position();
        let scrubber = config.scrub_rate.map(|rate| Scrubber::new(engine.clone(), store.clone(), rate, position));
        let mut tasks =
            vec![tokio::spawn(server.clone().run(listener, stop)), tokio::spawn(holders.clone().keep_warm())];
        tasks.extend(scrubber.clone().map(|scrubber| tokio::spawn(scrubber.run())));
        Ok(Arc::new(Self {
            id,
            listen,
            store,
            holders,
            engine,
            server,
            metrics,
            peer_hints: config.state.peer_hints(),
            started: Instant::now(),
            scrubber,
            notes,
            mount: Mutex::new(None),
            shutdown,
            tasks: Mutex::new(tasks),
        }))
    }

    /// The node's id.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// The address it listens on, with the real port.
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen
    }

    /// Its transfer engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Its store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The blobs that it fetches and those that it sends.
    pub fn transfers(&self) -> Vec<TransferStatus> {
        let mut transfers = self.engine.transfers();
        transfers.extend(self.server.transfers());
        transfers
    }

    /// Ends the transfer with this id, whichever way it goes. False if there is none.
    pub fn cancel_transfer(&self, id: TransferId) -> bool {
        // Both, should a peer have chosen an id of this node's.
        self.engine.cancel(id) | self.server.cancel(id)
    }

    /// What is known of a blob here and what peers said of it; `ask` asks them now.
    pub async fn why(&self, hash: ContentHash, ask: bool) -> BlobReport {
        if ask {
            self.holders.forget_all(&hash);
            let mut findings = self.holders.survey(hash, None);
            while findings.recv().await.is_some() {}
        }
        let (state, store) = (self.engine.state(&hash), self.store.clone());
        // The disk is asked, and so is the file system of a user's file, which may hang.
        let show = move || store.show(&[hash]).ok().and_then(|mut shown| shown.pop());
        let shown = self.store.blocking(&[hash], show).await.ok().flatten();
        let size = self.engine.known_size(&hash).or(shown.as_ref().map(|blob| blob.size));
        let held = shown.as_ref().map_or(0, |blob| blob.held);
        let state = match &shown {
            // What a look has found of a file of the user's, the engine knows once a read has met it.
            Some(blob) if !blob.complete && held == 0 => BlobState::Absent,
            _ => state,
        };
        let report = |(index, peer): (usize, &Arc<holders::Peer>)| {
            let (last, ago) = self.holders.latest_statement(&hash, index).unzip();
            let ago_ms = ago.map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX));
            PeerReport { spec: peer.spec().to_string(), last, ago_ms }
        };
        let peers = self.holders.peers().iter().enumerate().map(report).collect();
        let mut transfers = self.transfers();
        transfers.retain(|transfer| transfer.hash == hash);
        let in_place = shown.and_then(|shown| shown.in_place);
        BlobReport { hash, state, size, held, in_place, offline: state == BlobState::Complete, transfers, peers }
    }

    /// Its metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Notes where it is mounted, and who knows how the mount runs.
    pub fn note_mount(&self, at: MountedAt, modes: Arc<MountModes>) {
        *self.mount.lock() = Some((at, modes));
    }

    /// How the node is.
    pub fn status(&self) -> NodeStatus {
        let (mounted, modes) = self.mount.lock().clone().unzip();
        NodeStatus {
            id: self.id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            listen: self.listen.to_string(),
            detached: mounted.as_ref().is_some_and(|at| !at.is_there().unwrap_or(true)),
            mountpoint: mounted.map(|at| at.path().to_owned()),
            uptime_secs: self.started.elapsed().as_secs(),
            usage: self.engine.usage(),
            scrub: self.scrubber.as_ref().map(|scrubber| scrubber.status()),
            lanes_open: self.metrics.lanes_open.get(),
            transfers_pending: self.metrics.transfers_pending.get(),
            metrics: self.metrics.snapshot().into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            mount: modes.map(|modes| modes.sentences()).unwrap_or_default(),
            notes: self.notes.clone(),
        }
    }

    /// How its configured peers are.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.holders.snapshots().into_iter().map(peer_status).collect()
    }

    /// Ends the node: no new requests, what is under way may end for a bounded time, the store is
    /// flushed.
    pub async fn shutdown(&self) {
        let _ = self.shutdown.send(true);
        let tasks = std::mem::take(&mut *self.tasks.lock());
        let mut tasks = tasks.into_iter();
        let server = tasks.next();
        let serving = async {
            if let Some(mut server) = server
                && timeout(SHUTDOWN_DEADLINE, &mut server).await.is_err()
            {
                server.abort();
            }
        };
        tokio::join!(serving, self.engine.close(FETCH_DRAIN));
        tasks.for_each(|task| task.abort());
        if let Err(error) = hints::save(&self.peer_hints, &self.holders.hints()) {
            tracing::warn!("{} could not be written: {error}", self.peer_hints.display());
        }
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || store.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!("the store could not be flushed: {error}"),
            Err(_) => tracing::error!("the store could not be flushed"),
        }
    }
}

/// Opens the store, which another node may be about to leave.
async fn open_store(config: &NodeConfig, metrics: &Arc<Metrics>) -> Result<Store, StoreError> {
    let end = Instant::now() + LOCK_WAIT;
    let socket = config.state.control_socket();
    loop {
        match Store::open(config.store(), metrics.clone()) {
            Err(StoreError::Locked { .. }) if Instant::now() < end && UnixStream::connect(&socket).is_err() => {
                tokio::time::sleep(LOCK_POLL).await;
            }
            opened => return opened,
        }
    }
}

fn peer_status(peer: holders::PeerSnapshot) -> PeerStatus {
    let state = match peer.state {
        holders::PeerState::New => PeerState::Connecting,
        holders::PeerState::Connected if peer.lanes == 0 => PeerState::Idle,
        holders::PeerState::Connected => PeerState::Connected,
        holders::PeerState::Unreachable => PeerState::Unreachable,
        holders::PeerState::Refused => PeerState::Refused,
        holders::PeerState::Quarantined => PeerState::Quarantined,
    };
    PeerStatus {
        spec: peer.spec.to_string(),
        id: peer.id,
        state,
        last_error: peer.last_error,
        lanes: u32::try_from(peer.lanes).unwrap_or(u32::MAX),
        fetched_bytes: peer.fetched_bytes,
        rtt_ms: peer.round_trip.map(|round_trip| round_trip.as_secs_f64() * 1000.0),
    }
}
