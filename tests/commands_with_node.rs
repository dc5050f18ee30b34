//! The commands that talk to a running node, with the real control socket and a made-up node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use byhash::control::{ControlHandler, ControlListener, Failure, ProgressFn, serve};
use byhash::daemon::status::{BlobReport, NodeStatus, PeerReport, PeerState, PeerStatus};
use byhash::holders::Statement;
use byhash::ids::{BlobRange, ContentHash, PeerId, TransferId};
use byhash::store::{self, Store};
use byhash::transfer::{
    BlobReader, BlobState, BoxFuture, Direction, FetchError, Priority, SpaceUsage, TransferState, TransferStatus,
};
use bytes::Bytes;
use tokio::sync::oneshot;

/// Several pieces and a short last one.
const BLOB_LEN: usize = (3 << 20) + 7;

fn content() -> Bytes {
    (0..BLOB_LEN).map(|i| (i % 251) as u8).collect::<Vec<u8>>().into()
}

/// What the made-up node does about a hash.
fn stuck() -> ContentHash {
    ContentHash::of(b"stuck in the middle")
}

/// The hash for which the node fails with `error`.
fn failing(error: &FetchError) -> ContentHash {
    ContentHash::of(error.to_string().as_bytes())
}

const ERRORS: [FetchError; 4] =
    [FetchError::NotFound, FetchError::Unreachable, FetchError::TimedOut, FetchError::WrongBytes];

struct MadeUp {
    store: Store,
    fetches: Arc<Fetches>,
}

/// How many blobs are being fetched, and were at most at once.
#[derive(Default)]
struct Fetches {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// The hash of a blob that had to make room for others.
fn made_room() -> ContentHash {
    ContentHash::of(b"made room")
}

struct Reader {
    content: Bytes,
    /// Reads beyond this byte never end.
    end: u64,
}

impl BlobReader for Reader {
    fn size(&self) -> u64 {
        self.content.len() as u64
    }

    fn read(&self, range: BlobRange, _: Priority) -> BoxFuture<'_, Result<Bytes, FetchError>> {
        Box::pin(async move {
            if range.end > self.end {
                std::future::pending::<()>().await;
            }
            Ok(self.content.slice(range.start as usize..range.end as usize))
        })
    }

    fn prefetch(&self, _: BlobRange) {}
}

/// What the made-up node sends.
fn transfer() -> TransferStatus {
    TransferStatus {
        id: TransferId::from_nonce(5).to_string(),
        direction: Direction::Serve,
        hash: ContentHash::EMPTY,
        state: TransferState::Waiting,
        done: 1024,
        total: Some(4096),
        rate: 512,
        age_ms: 2000,
        peers: Vec::new(),
    }
}

impl ControlHandler for MadeUp {
    fn transfers(&self) -> BoxFuture<'_, Vec<TransferStatus>> {
        Box::pin(async { vec![transfer()] })
    }

    fn cancel(&self, id: TransferId) -> BoxFuture<'_, bool> {
        Box::pin(async move { id.to_string() == transfer().id })
    }

    fn why(&self, hash: ContentHash, ask: bool) -> BoxFuture<'_, BlobReport> {
        let last = if ask { Statement::All } else { Statement::Silent };
        let peers = vec![PeerReport { spec: "h:1".into(), last: Some(last), ago_ms: Some(1500) }];
        let (state, transfers) = (BlobState::Absent, Vec::new());
        Box::pin(async move {
            BlobReport { hash, state, size: None, held: 0, in_place: None, offline: false, transfers, peers }
        })
    }

    fn status(&self) -> BoxFuture<'_, NodeStatus> {
        Box::pin(async {
            NodeStatus {
                id: PeerId::from_bytes([0xab; 32]),
                version: "0".into(),
                pid: 4242,
                listen: "127.0.0.1:7117".into(),
                mountpoint: None,
                detached: false,
                uptime_secs: 3,
                usage: SpaceUsage { capacity: 4, used: 3, available: 1, blobs: 1 },
                scrub: None,
                lanes_open: 2,
                transfers_pending: 0,
                metrics: BTreeMap::from([("reads".into(), 5)]),
                mount: Vec::new(),
                notes: Vec::new(),
            }
        })
    }

    fn peers(&self) -> BoxFuture<'_, Vec<PeerStatus>> {
        Box::pin(async {
            vec![PeerStatus {
                spec: "holder.example:7117".into(),
                id: None,
                state: PeerState::Unreachable,
                last_error: Some("nobody answers".into()),
                lanes: 0,
                fetched_bytes: 0,
                rtt_ms: None,
            }]
        })
    }

    fn fetch(&self, hash: ContentHash, progress: ProgressFn) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            let now = self.fetches.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.fetches.most.fetch_max(now, Ordering::SeqCst);
            for done in 0..4 {
                progress(done, 4);
                tokio::task::yield_now().await;
            }
            self.fetches.now.fetch_sub(1, Ordering::SeqCst);
            match ERRORS.into_iter().find(|error| failing(error) == hash) {
                Some(error) => Err(error.into()),
                None => Ok(()),
            }
        })
    }

    fn mend(&self, hash: ContentHash, _: Vec<(u64, u64)>, _: bool) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move { if hash == ContentHash::EMPTY { Ok(()) } else { Err(FetchError::NotFound.into()) } })
    }

    fn is_held(&self, hash: ContentHash) -> bool {
        hash != made_room()
    }

    fn land<'a>(&'a self, _: Option<&'a [ContentHash]>) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn store(&self) -> &Store {
        &self.store
    }

    fn open_blob(&self, hash: ContentHash) -> BoxFuture<'_, Result<Arc<dyn BlobReader>, Failure>> {
        Box::pin(async move {
            if let Some(error) = ERRORS.into_iter().find(|error| failing(error) == hash) {
                return Err(error.into());
            }
            let end = if hash == stuck() { 1 << 20 } else { u64::MAX };
            Ok(Arc::new(Reader { content: content(), end }) as Arc<dyn BlobReader>)
        })
    }
}

/// The node, on a thread of its own, and its state directory.
struct Node {
    dir: tempfile::TempDir,
    fetches: Arc<Fetches>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Node {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let config = store::Config { dir: dir.path().join("cache"), capacity: 64 << 20, keep_free: 0 };
        let store = Store::open(config, Arc::default()).unwrap();
        let fetches = Arc::<Fetches>::default();
        let made_up = MadeUp { store, fetches: fetches.clone() };
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = ControlListener::bind(&socket).unwrap();
                ready.send(()).unwrap();
                serve(listener, Arc::new(made_up), async { drop(stopped.await) }).await;
            });
        });
        is_ready.recv().unwrap();
        Self { dir, fetches, stop: Some(stop), thread: Some(thread) }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_byhash"));
        command.env("BYHASH_STATE", self.dir.path()).env("BYHASH_CONFIG", "/dev/null");
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn stdout(output: &Output) -> &[u8] {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    &output.stdout
}

fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn status_and_peers_come_as_text_and_as_json() {
    let node = Node::start();
    let text = |args: &[&str]| String::from_utf8(stdout(&node.run(args)).to_vec()).unwrap();
    assert!(text(&["status"]).contains("process 4242"));
    let status: NodeStatus = serde_json::from_str(&text(&["status", "--json"])).unwrap();
    assert_eq!(status.metrics["reads"], 5);
    let peers = text(&["peers"]);
    assert!(peers.contains("holder.example:7117") && peers.contains("nobody answers"), "{peers}");
    let peers: Vec<PeerStatus> = serde_json::from_str(&text(&["peers", "--json"])).unwrap();
    assert_eq!(peers[0].state, PeerState::Unreachable);
}

#[test]
fn transfers_are_listed_shown_and_cancelled() {
    let node = Node::start();
    let text = |args: &[&str]| String::from_utf8(stdout(&node.run(args)).to_vec()).unwrap();
    let (id, other) = (transfer().id, &*TransferId::from_nonce(6).to_string());
    let listed = text(&["transfers", "ls"]);
    for word in [&id, "out", "waiting", "1.0 KiB", "4.0 KiB", "512 B/s", "2.0 s"] {
        assert!(listed.contains(word), "{word} is missing in {listed}");
    }
    let listed: Vec<TransferStatus> = serde_json::from_str(&text(&["transfers", "ls", "--json"])).unwrap();
    assert_eq!(listed, [transfer()]);
    assert!(text(&["transfers", "show", &id]).contains(&ContentHash::EMPTY.to_string()));
    assert_eq!(text(&["transfers", "cancel", &id]), "");
    for action in ["show", "cancel"] {
        // The last one has bits that no transfer's id has.
        for other in [other, "ffffffffffffffff"] {
            let failed = node.run(&["transfers", action, other]);
            let sentence = String::from_utf8_lossy(&failed.stderr).into_owned();
            let expected = format!("no transfer {other} is under way");
            assert!(failed.status.code() == Some(1) && sentence.contains(&expected), "{sentence}");
        }
        assert_eq!(node.run(&["transfers", action, "what"]).status.code(), Some(2));
    }
    // The live view needs a terminal.
    assert_eq!(node.run(&["transfers", "top"]).status.code(), Some(2));
}

#[test]
fn why_tells_what_peers_said_or_say_now() {
    let node = Node::start();
    let text = |args: &[&str]| String::from_utf8(stdout(&node.run(args)).to_vec()).unwrap();
    let hash = ContentHash::of(b"x").to_string();
    assert!(text(&["why", &hash]).contains("h:1: did not answer (1.5 s ago)"));
    assert!(text(&["why", &hash, "--ask"]).contains("h:1: has all of it"));
    let report: BlobReport = serde_json::from_str(&text(&["why", &hash, "--json"])).unwrap();
    assert_eq!((report.state, report.peers[0].last.clone()), (BlobState::Absent, Some(Statement::Silent)));
    assert_eq!(node.run(&["why", "what"]).status.code(), Some(2));
}

#[test]
fn a_blob_goes_to_stdout_or_to_a_file() {
    let node = Node::start();
    let hash = ContentHash::of(&content()).to_string();
    assert!(stdout(&node.run(&["get", &hash])) == content());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out");
    assert!(stdout(&node.run(&["get", &hash, "-o", file.to_str().unwrap()])).is_empty());
    assert!(std::fs::read(&file).unwrap() == content());
    assert_eq!(files(dir.path()), [file]);
}

#[test]
fn the_sentences_of_failures_differ_and_leave_no_file() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    let mut sentences = std::collections::HashSet::new();
    for error in &ERRORS {
        let hash = failing(error).to_string();
        let output = node.run(&["get", &hash, "-o", dir.path().join("out").to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        let sentence = String::from_utf8(output.stderr).unwrap();
        assert!(sentence.starts_with(&format!("byhash: {hash}: ")), "{sentence}");
        sentences.insert(sentence.replace(&hash, ""));
        assert!(files(dir.path()).is_empty());
    }
    assert_eq!(sentences.len(), ERRORS.len());
}

/// Starts a `get` that gets stuck, and waits until it has written something.
fn stuck_get(node: &Node, dir: &Path) -> Child {
    let child = node.command(&["get", &stuck().to_string(), "-o", dir.join("out").to_str().unwrap()]).spawn().unwrap();
    while !files(dir).iter().any(|file| std::fs::metadata(file).is_ok_and(|metadata| metadata.len() > 0)) {
        std::thread::yield_now();
    }
    child
}

#[test]
fn an_interrupted_get_leaves_no_file() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let node = Node::start();
        let dir = tempfile::tempdir().unwrap();
        let child = stuck_get(&node, dir.path());
        // SAFETY: kill has no memory preconditions; the child is not reaped, so the id is its own.
        unsafe { libc::kill(child.id().cast_signed(), signal) };
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "byhash: interrupted\n");
        assert!(files(dir.path()).is_empty());
    }
}

#[test]
fn a_node_that_ends_in_the_middle_leaves_no_file() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    let child = stuck_get(&node, dir.path());
    drop(node);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("the node ended"));
    assert!(files(dir.path()).is_empty());
}

#[test]
fn get_into_a_pipe_that_is_closed_early_is_quiet() {
    let node = Node::start();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let hash = ContentHash::of(&content()).to_string();
    let output = node.command(&["get", &hash]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[test]
fn whoever_reads_no_more_of_the_output_does_not_stop_the_work() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    // More than are added at a time.
    let names: Vec<_> = (0..1100).map(|number| dir.path().join(number.to_string())).collect();
    names.iter().for_each(|name| std::fs::write(name, name.as_os_str().as_encoded_bytes()).unwrap());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = node.command(&["add"]).args(&names).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{output:?}");
    let last = ContentHash::of(names[1099].as_os_str().as_encoded_bytes()).to_string();
    assert!(!stdout(&node.run(&["ls", &last])).is_empty(), "all are there");
    // That nobody reads it is no reason to call bad what was good, nor good what was bad.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = node.command(&["add", "/no/such/file"]).stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn prefetch_names_what_failed_and_has_a_bounded_number_under_way() {
    let node = Node::start();
    let fine: Vec<_> = (0..1100u32).map(|i| ContentHash::of(&i.to_le_bytes()).to_string()).collect();
    let args: Vec<_> = std::iter::once("prefetch").chain(fine.iter().map(String::as_str)).collect();
    assert!(stdout(&node.run(&args)).is_empty());
    let most = node.fetches.most.load(Ordering::SeqCst);
    assert!((2..=64).contains(&most), "{most} at once");
    let failing: Vec<_> = ERRORS.iter().map(|error| failing(error).to_string()).collect();
    let made_room = made_room().to_string();
    let args = [&["prefetch", &fine[0], &made_room][..], &failing.iter().map(String::as_str).collect::<Vec<_>>()];
    let output = node.run(&args.concat());
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 5, "{said}");
    for (hash, error) in failing.iter().zip(&ERRORS) {
        assert!(said.contains(&format!("byhash: {hash}: {error}\n")), "{said}");
    }
    assert!(said.contains(&format!("byhash: {made_room}: ")) && said.contains("too small"), "{said}");
}
