//! Conversations over a real socket with a node that is made up.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::*;
use crate::daemon::status::{BlobReport, NodeStatus, PeerReport, PeerState, PeerStatus};
use crate::holders::Statement;
use crate::ids::{BlobRange, ContentHash, PeerId, TransferId};
use crate::store::Store;
use crate::transfer::{
    BlobReader, BlobState, BoxFuture, Direction, FetchError, PeerShare, Priority, SpaceUsage, TransferState,
    TransferStatus,
};

/// One full set of pieces in flight and a bit: order and the last, short piece matter.
const BLOB_LEN: u64 = (9 << 20) + 12_345;

fn content() -> Bytes {
    (0..BLOB_LEN).map(|i| (i % 251) as u8).collect::<Vec<u8>>().into()
}

/// A node with one blob, which fails from `fails_at` on; any other hash waits for ever.
#[derive(Default)]
struct FakeNode {
    store: OnceLock<(tempfile::TempDir, Store)>,
    fails_at: Option<u64>,
    waiting: Notify,
    /// Told when an order comes.
    ordered: Mutex<Option<oneshot::Sender<()>>>,
    reads: Arc<AtomicUsize>,
}

/// A store that holds nothing.
fn made_up_store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let config = crate::store::Config { dir: dir.path().join("cache"), capacity: 64 << 20, keep_free: 0 };
    let store = Store::open(config, Arc::default()).unwrap();
    (dir, store)
}

struct FakeReader {
    content: Bytes,
    fails_at: Option<u64>,
    reads: Arc<AtomicUsize>,
}

struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl BlobReader for FakeReader {
    fn size(&self) -> u64 {
        self.content.len() as u64
    }

    fn read(&self, range: BlobRange, _: Priority) -> BoxFuture<'_, Result<Bytes, FetchError>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let in_flight = InFlight(self.reads.clone());
        Box::pin(async move {
            // Later pieces overtake earlier ones.
            for _ in 0..(range.start >> 20) % 3 {
                tokio::task::yield_now().await;
            }
            drop(in_flight);
            match self.fails_at {
                Some(at) if range.end > at => Err(FetchError::WrongBytes),
                _ => Ok(self.content.slice(range.start as usize..range.end as usize)),
            }
        })
    }

    fn prefetch(&self, _: BlobRange) {}
}

/// Tells the test that a question was withdrawn.
struct Withdrawn<'a>(&'a Notify);

impl Drop for Withdrawn<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

fn transfer() -> TransferStatus {
    TransferStatus {
        id: TransferId::from_nonce(5).to_string(),
        direction: Direction::Serve,
        hash: ContentHash::EMPTY,
        state: TransferState::Moving,
        done: 1,
        total: Some(2),
        rate: 3,
        age_ms: 4,
        peers: vec![PeerShare { peer: PeerId::from_bytes([9; 32]), done: 1, exchanges: 1 }],
    }
}

impl ControlHandler for FakeNode {
    fn status(&self) -> BoxFuture<'_, NodeStatus> {
        Box::pin(async {
            NodeStatus {
                id: PeerId::from_bytes([1; 32]),
                version: "0".into(),
                pid: 7,
                listen: "127.0.0.1:7117".into(),
                mountpoint: Some("/m".into()),
                detached: false,
                uptime_secs: 3,
                usage: SpaceUsage { capacity: 4, used: 3, available: 1, blobs: 1 },
                scrub: None,
                lanes_open: 2,
                transfers_pending: 0,
                metrics: BTreeMap::from([("reads".into(), 5)]),
                mount: Vec::new(),
                notes: vec!["nobody may connect".into()],
            }
        })
    }

    fn peers(&self) -> BoxFuture<'_, Vec<PeerStatus>> {
        Box::pin(async {
            vec![PeerStatus {
                spec: "h:1".into(),
                id: None,
                state: PeerState::Unreachable,
                last_error: Some("nobody there".into()),
                lanes: 0,
                fetched_bytes: 0,
                rtt_ms: Some(0.25),
            }]
        })
    }

    fn transfers(&self) -> BoxFuture<'_, Vec<TransferStatus>> {
        Box::pin(async { vec![transfer()] })
    }

    fn cancel(&self, id: TransferId) -> BoxFuture<'_, bool> {
        Box::pin(async move { id.to_string() == transfer().id })
    }

    fn why(&self, hash: ContentHash, ask: bool) -> BoxFuture<'_, BlobReport> {
        let last = ask.then_some(Statement::Part { groups: 3 });
        let peers = vec![PeerReport { spec: "h:1".into(), last, ago_ms: Some(5) }];
        let (state, transfers) = (BlobState::Partial, vec![transfer()]);
        Box::pin(async move {
            BlobReport { hash, state, size: None, held: 7, in_place: None, offline: false, transfers, peers }
        })
    }

    fn fetch(&self, hash: ContentHash, progress: ProgressFn) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            if hash == ContentHash::EMPTY {
                return Err(FetchError::Unreachable.into());
            }
            progress(3, 7);
            if hash != ContentHash::of(&content()) {
                let _withdrawn = Withdrawn(&self.waiting);
                std::future::pending::<()>().await;
            }
            progress(7, 7);
            Ok(())
        })
    }

    fn mend(&self, hash: ContentHash, _: Vec<(u64, u64)>, _: bool) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move { if hash == ContentHash::EMPTY { Ok(()) } else { Err(FetchError::NotFound.into()) } })
    }

    fn is_held(&self, _: ContentHash) -> bool {
        self.fails_at.is_none()
    }

    fn land<'a>(&'a self, _: Option<&'a [ContentHash]>) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn store(&self) -> &Store {
        if let Some(told) = self.ordered.lock().take() {
            let _ = told.send(());
        }
        &self.store.get_or_init(made_up_store).1
    }

    fn open_blob(&self, hash: ContentHash) -> BoxFuture<'_, Result<Arc<dyn BlobReader>, Failure>> {
        Box::pin(async move {
            if hash == ContentHash::EMPTY {
                return Err(FetchError::Unreachable.into());
            }
            let content = content();
            if hash != ContentHash::of(&content) {
                let _withdrawn = Withdrawn(&self.waiting);
                std::future::pending::<()>().await;
            }
            let reader = FakeReader { content, fails_at: self.fails_at, reads: self.reads.clone() };
            Ok(Arc::new(reader) as Arc<dyn BlobReader>)
        })
    }
}

struct Running {
    node: Arc<FakeNode>,
    dir: tempfile::TempDir,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<()>,
}

fn run(node: FakeNode) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let listener = ControlListener::bind(&dir.path().join("control.sock")).unwrap();
    let node = Arc::new(node);
    let (stop, stopped) = oneshot::channel();
    let handler: Arc<dyn ControlHandler> = node.clone();
    let served = tokio::spawn(serve(listener, handler, async { drop(stopped.await) }));
    Running { node, dir, stop, served }
}

impl Running {
    fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("control.sock")
    }

    async fn client(&self) -> Client {
        Client::connect(&self.socket()).await.unwrap().expect("the node runs")
    }
}

async fn collect(mut stream: BlobStream<'_>) -> Result<Vec<u8>, ControlError> {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await? {
        bytes.extend(piece);
    }
    Ok(bytes)
}

#[tokio::test]
async fn questions_are_answered_one_after_another_on_one_connection() {
    let running = run(FakeNode::default());
    let mut client = running.client().await;
    assert_eq!(client.status().await.unwrap(), running.node.status().await);
    assert_eq!(client.peers().await.unwrap(), running.node.peers().await);
    assert_eq!(client.transfers().await.unwrap(), [transfer()]);
    assert!(client.cancel(TransferId::from_nonce(5)).await.unwrap());
    assert!(!client.cancel(TransferId::from_nonce(6)).await.unwrap());
    for ask in [false, true] {
        let hash = ContentHash::of(b"why");
        assert_eq!(client.why(hash, ask).await.unwrap(), running.node.why(hash, ask).await);
    }
    let content = content();
    let stream = client.get(ContentHash::of(&content)).await.unwrap();
    assert_eq!(stream.size(), BLOB_LEN);
    assert!(collect(stream).await.unwrap() == content, "the bytes came in another order");
    assert_eq!(client.status().await.unwrap().pid, 7);
}

#[tokio::test]
async fn a_blob_that_cannot_be_had_says_why() {
    let running = run(FakeNode::default());
    let error = running.client().await.get(ContentHash::EMPTY).await.unwrap_err();
    assert!(matches!(error, ControlError::Failed(Failure { kind: FailureKind::Unreachable, .. })));
}

#[tokio::test]
async fn a_failure_in_the_middle_is_no_short_blob() {
    let running = run(FakeNode { fails_at: Some(5 << 20), ..FakeNode::default() });
    let mut client = running.client().await;
    let mut stream = client.get(ContentHash::of(&content())).await.unwrap();
    let mut got = 0;
    let error = loop {
        match stream.next().await {
            Ok(Some(piece)) => got += piece.len(),
            Ok(None) => panic!("the blob ended well after {got} bytes"),
            Err(error) => break error,
        }
    };
    assert_eq!(got, 5 << 20);
    assert!(matches!(error, ControlError::Failed(Failure { kind: FailureKind::WrongBytes, .. })));
    client.status().await.unwrap();
    assert_eq!(running.node.reads.load(Ordering::SeqCst), 0, "a read is still under way");
}

#[tokio::test]
async fn a_client_that_hangs_up_withdraws_its_question() {
    let running = run(FakeNode::default());
    let mut client = running.client().await;
    tokio::select! {
        biased;
        _ = client.get(ContentHash::of(b"never")) => panic!("this is never answered"),
        _ = running.client_that_was_answered() => {}
    }
    drop(client);
    running.node.waiting.notified().await;
}

impl Running {
    /// A second client, so that the first one's question has surely been read before.
    async fn client_that_was_answered(&self) {
        self.client().await.status().await.unwrap();
    }
}

#[tokio::test]
async fn the_socket_is_private_and_goes_with_the_node() {
    let running = run(FakeNode::default());
    let mode = std::fs::metadata(running.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(ControlListener::bind(&running.socket()), Err(ControlError::InUse { .. })));
    let socket = running.socket();
    running.stop.send(()).unwrap();
    running.served.await.unwrap();
    assert!(!socket.exists());
    assert!(Client::connect(&socket).await.unwrap().is_none());
}

#[tokio::test]
async fn an_order_that_was_begun_is_answered_though_the_node_closes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let listener = ControlListener::bind(&path).unwrap();
    let (stop, stopped) = oneshot::channel();
    let node: Arc<dyn ControlHandler> = Arc::new(FakeNode { ordered: Mutex::new(Some(stop)), ..FakeNode::default() });
    let serving = tokio::spawn(serve(listener, node, async { drop(stopped.await) }));
    let mut idle = Client::connect(&path).await.unwrap().unwrap();
    idle.status().await.unwrap();
    let mut client = Client::connect(&path).await.unwrap().unwrap();
    assert!(matches!(client.order(Order::List { after: None }).await.unwrap(), Report::List(_)));
    // No further one is taken, and whoever comes later knows that.
    for client in [&mut client, &mut idle] {
        let error = client.order(Order::List { after: None }).await.unwrap_err();
        assert!(matches!(error, ControlError::Closing), "{error:?}");
    }
    serving.await.unwrap();
    assert!(Client::connect(&path).await.unwrap().is_none());
}

#[tokio::test]
async fn the_socket_of_a_dead_node_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    assert!(Client::connect(&path).await.unwrap().is_none());
    ControlListener::bind(&path).unwrap();
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_has_no_node_and_gets_none() {
    let dir = tempfile::tempdir().unwrap();
    let fitting = error::MAX_SOCKET_PATH_LEN - dir.path().as_os_str().len() - 1;
    ControlListener::bind(&dir.path().join("x".repeat(fitting))).unwrap();
    let path = dir.path().join("x".repeat(fitting + 1));
    assert!(matches!(ControlListener::bind(&path), Err(ControlError::PathTooLong(_))));
    assert!(Client::connect(&path).await.unwrap().is_none());
}

#[tokio::test]
async fn nonsense_is_answered_or_cut_off_and_the_node_goes_on() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let running = run(FakeNode::default());
    let mut stream = tokio::net::UnixStream::connect(running.socket()).await.unwrap();
    frame::write_message(&mut stream, &"what?").await.unwrap();
    let Some(frame::Frame::Message(answer)) = frame::read_frame(&mut stream).await.unwrap() else { panic!() };
    let answer = serde_json::from_slice::<Response>(&answer).unwrap();
    assert!(matches!(answer, Response::Error(Failure { kind: FailureKind::BadRequest, .. })));
    stream.write_all(&[0xff; 5]).await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
    running.client().await.status().await.unwrap();
}

#[tokio::test]
async fn a_prefetch_tells_how_far_it_is_and_what_came_of_each() {
    let running = run(FakeNode::default());
    let here = ContentHash::of(&content());
    let mut client = running.client().await;
    let mut stream = client.prefetch(vec![here, ContentHash::EMPTY]).await.unwrap();
    let mut outcomes = Vec::new();
    while let Some(event) = stream.next().await.unwrap() {
        match event {
            PrefetchEvent::Progress { done, total } => assert!(done <= total && total <= 7),
            PrefetchEvent::Fetched { hash, failure } => outcomes.push((hash, failure.map(|failure| failure.kind))),
        }
    }
    assert_eq!(outcomes, [(ContentHash::EMPTY, Some(FailureKind::Unreachable)), (here, None)]);
    // The conversation goes on, and too many at a time are refused.
    client.status().await.unwrap();
    let mut stream = client.prefetch(vec![here; MAX_HASHES + 1]).await.unwrap();
    assert!(matches!(stream.next().await, Err(ControlError::Failed(Failure { kind: FailureKind::BadRequest, .. }))));
}

#[tokio::test]
async fn a_client_that_hangs_up_breaks_off_its_prefetch() {
    let running = run(FakeNode::default());
    let mut client = running.client().await;
    let mut stream = client.prefetch(vec![ContentHash::of(b"never comes")]).await.unwrap();
    assert_eq!(stream.next().await.unwrap(), Some(PrefetchEvent::Progress { done: 3, total: 7 }));
    drop(client);
    running.node.waiting.notified().await;
}

#[tokio::test]
async fn a_client_that_was_silent_for_long_is_answered_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let listener = ControlListener::bind(&path).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let node: Arc<dyn ControlHandler> = Arc::new(FakeNode::default());
    let serving = tokio::spawn(serve(listener, node, async { drop(stopped.await) }));
    let mut client = Client::connect(&path).await.unwrap().unwrap();
    client.status().await.unwrap();
    tokio::time::pause();
    tokio::time::advance(2 * super::server::QUESTION_WAIT).await;
    tokio::time::resume();
    // The node has taken it for gone by now.
    client.status().await.unwrap();
    drop((client, stop));
    serving.await.unwrap();
}
