//! Who gets in, who does not, and what a hostile peer achieves. Real sockets on loopback, or real
//! TLS over a pipe in memory where the clock is paused or one side misbehaves.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::ids::{PeerId, PeerSpec};
use crate::metrics::Metrics;
use crate::wire::{Have, Hello, Message, Refused, RefusedReason, VERSION};

/// A listening node and the lanes that it let in.
struct Node {
    id: PeerId,
    address: String,
    metrics: Arc<Metrics>,
    lanes: mpsc::UnboundedReceiver<BoxLane>,
}

impl Node {
    async fn start(admission: Admission) -> Self {
        let identity = Identity::generate().unwrap();
        let metrics = Arc::new(Metrics::default());
        let listening =
            Listener::bind("127.0.0.1:0".parse().unwrap(), &identity, admission, Arc::clone(&metrics)).await;
        let mut listener = listening.unwrap();
        let address = listener.local_addr().to_string();
        let (sender, lanes) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(lane) = listener.accept().await {
                if sender.send(lane).is_err() {
                    return;
                }
            }
        });
        Self { id: identity.peer_id(), address, metrics, lanes }
    }

    fn named(&self) -> PeerSpec {
        format!("{}@{}", self.id, self.address).parse().unwrap()
    }

    fn unnamed(&self) -> PeerSpec {
        self.address.parse().unwrap()
    }
}

fn dialer(identity: &Identity, secret: Option<&NetworkSecret>) -> TcpDialer {
    TcpDialer::new(identity.clone(), secret.cloned(), Arc::default())
}

fn allowing(id: PeerId) -> Admission {
    Admission { allow: [id].into(), ..Admission::default() }
}

fn sharing(secret: &NetworkSecret) -> Admission {
    Admission { secret: Some(secret.clone()), ..Admission::default() }
}

fn open() -> Admission {
    Admission { open: true, ..Admission::default() }
}

/// Both ends know each other and bytes pass.
async fn assert_joined(mut one: BoxLane, node: &mut Node, dialler: PeerId) {
    let mut other = node.lanes.recv().await.unwrap();
    assert_eq!((one.peer(), other.peer()), (node.id, dialler));
    assert_eq!((one.hello().version, other.hello().version), (VERSION, VERSION));
    let body = vec![7; 300_000];
    let sent = tokio::spawn(async move {
        one.write_all(&body).await.unwrap();
        one.flush().await.unwrap();
        one
    });
    let mut received = vec![0; 300_000];
    other.read_exact(&mut received).await.unwrap();
    assert!(received.iter().all(|byte| *byte == 7));
    drop(sent.await.unwrap());
    assert_eq!(read_message(&mut other).await.unwrap(), None);
    assert_eq!((node.metrics.lanes_open.get(), node.metrics.lanes_accepted.get()), (1, 1));
    drop(other);
    assert_eq!(node.metrics.lanes_open.get(), 0);
}

#[tokio::test]
async fn the_allow_list_the_secret_or_an_open_door_let_a_node_in() {
    let identity = Identity::generate().unwrap();
    let id = identity.peer_id();
    let secret = NetworkSecret::generate().unwrap();

    let mut node = Node::start(allowing(id)).await;
    let lane = dialer(&identity, None).dial(&node.named()).await.unwrap();
    assert_joined(lane, &mut node, id).await;

    let mut node = Node::start(sharing(&secret)).await;
    let lane = dialer(&identity, Some(&secret)).dial(&node.unnamed()).await.unwrap();
    assert_joined(lane, &mut node, id).await;

    let mut node = Node::start(open()).await;
    let lane = dialer(&identity, None).dial(&node.named()).await.unwrap();
    assert_joined(lane, &mut node, id).await;
}

#[tokio::test]
async fn with_nothing_configured_nobody_gets_in_and_is_told_what_to_do() {
    let identity = Identity::generate().unwrap();
    let mut node = Node::start(Admission::default()).await;
    let secret = NetworkSecret::generate().unwrap();
    for secret in [None, Some(&secret)] {
        let error = dialer(&identity, secret).dial(&node.named()).await.unwrap_err();
        assert!(matches!(error, TransportError::Refused { reason: RefusedReason::NotAllowed, .. }), "{error}");
        assert!(error.to_string().contains(&format!("--allow {}", identity.peer_id())), "{error}");
    }
    assert_eq!(node.metrics.lanes_accepted.get(), 0);
    assert!(node.lanes.try_recv().is_err());
}

#[tokio::test]
async fn a_node_with_another_key_than_the_one_named_is_refused() {
    let identity = Identity::generate().unwrap();
    let named = Identity::generate().unwrap().peer_id();
    let mut node = Node::start(open()).await;
    let spec = PeerSpec { id: Some(named), ..node.unnamed() };
    let error = dialer(&identity, None).dial(&spec).await.unwrap_err();
    let TransportError::WrongKey { expected, presented } = error else { panic!("{error}") };
    assert_eq!((expected, presented), (named, node.id));
    assert!(node.lanes.try_recv().is_err());
}

#[tokio::test]
async fn a_secret_that_differs_is_refused_by_either_side() {
    let identity = Identity::generate().unwrap();
    let (ours, theirs) = (NetworkSecret::generate().unwrap(), NetworkSecret::generate().unwrap());

    let node = Node::start(sharing(&theirs)).await;
    let error = dialer(&identity, Some(&ours)).dial(&node.named()).await.unwrap_err();
    assert!(matches!(error, TransportError::Refused { reason: RefusedReason::WrongSecret, .. }), "{error}");

    // These would let us in, but nothing tells them from an impostor.
    let open_without_secret = open();
    let open_with_another = Admission { open: true, ..sharing(&theirs) };
    let allowing_with_another = Admission { secret: Some(theirs.clone()), ..allowing(identity.peer_id()) };
    for admission in [open_without_secret, open_with_another, allowing_with_another] {
        let node = Node::start(admission).await;
        let error = dialer(&identity, Some(&ours)).dial(&node.unnamed()).await.unwrap_err();
        assert!(matches!(error, TransportError::Unproven(id) if id == node.id), "{error}");
    }
}

#[tokio::test]
async fn without_an_id_or_a_secret_nothing_is_dialled() {
    let identity = Identity::generate().unwrap();
    let node = Node::start(open()).await;
    let error = dialer(&identity, None).dial(&node.unnamed()).await.unwrap_err();
    assert!(matches!(error, TransportError::NoWayToTrust(_)), "{error}");
    assert!(error.to_string().contains(&node.address), "{error}");
}

#[tokio::test]
async fn a_node_does_not_join_itself() {
    let identity = Identity::generate().unwrap();
    let secret = NetworkSecret::generate().unwrap();
    let metrics = Arc::default();
    let any = "127.0.0.1:0".parse().unwrap();
    let mut listener = Listener::bind(any, &identity, sharing(&secret), metrics).await.unwrap();
    let spec: PeerSpec = listener.local_addr().to_string().parse().unwrap();
    let accepting = tokio::spawn(async move { listener.accept().await });
    let error = dialer(&identity, Some(&secret)).dial(&spec).await.unwrap_err();
    assert!(matches!(error, TransportError::Myself), "{error}");
    assert!(!accepting.is_finished());
}

#[tokio::test]
async fn a_closed_port_is_a_peer_that_cannot_be_reached() {
    let identity = Identity::generate().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let spec = PeerSpec { id: Some(PeerId::from_bytes([1; 32])), ..free.to_string().parse().unwrap() };
    let error = dialer(&identity, None).dial(&spec).await.unwrap_err();
    assert!(matches!(error, TransportError::Connect { .. }), "{error}");
    assert!(error.to_string().contains(&free.to_string()), "{error}");
}

#[tokio::test]
async fn garbage_and_silence_do_not_keep_others_out() {
    let identity = Identity::generate().unwrap();
    let mut node = Node::start(allowing(identity.peer_id())).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(&node.address).await.unwrap());
    }
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], &[0xff; 4096], &[0x16, 3, 1, 0xff, 0xff]] {
        let mut stream = TcpStream::connect(&node.address).await.unwrap();
        // The listener may hang up before all is written.
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    let lane = dialer(&identity, None).dial(&node.named()).await.unwrap();
    assert_joined(lane, &mut node, identity.peer_id()).await;
    assert_eq!(node.metrics.lanes_refused.get(), 4);
}

#[tokio::test]
async fn silent_connections_in_any_number_make_way_the_oldest_first() {
    let identity = Identity::generate().unwrap();
    let mut node = Node::start(allowing(identity.peer_id())).await;
    // More than two generations, so that waiting for the first to time out would not do.
    let mut silent = Vec::new();
    for _ in 0..2 * MAX_HANDSHAKES + 50 {
        silent.push(TcpStream::connect(&node.address).await.unwrap());
    }
    let lane = dialer(&identity, None).dial(&node.named()).await.unwrap();
    let dropped = silent.len() + 1 - MAX_HANDSHAKES;
    assert_eq!(silent[dropped - 1].read(&mut [0]).await.unwrap(), 0, "one place too many was taken");
    let next = silent[dropped].try_read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(next, Err(std::io::ErrorKind::WouldBlock), "one that was not in the way was dropped");
    assert_joined(lane, &mut node, identity.peer_id()).await;
}

/// A listener over a pipe: the stream to dial it through, and what becomes of the handshake.
fn listening(
    admission: Admission,
) -> (DuplexStream, tokio::task::JoinHandle<Result<handshake::Established<DuplexStream>, TransportError>>) {
    let (near, far) = duplex(1 << 16);
    let acceptor = handshake::acceptor(&Identity::generate().unwrap());
    (near, tokio::spawn(async move { handshake::accept(far, &acceptor, &admission).await }))
}

/// TLS as a dialler has it, without the hellos.
async fn tls_to_listener(stream: DuplexStream) -> tokio_rustls::client::TlsStream<DuplexStream> {
    let config = tls::client_config(&Identity::generate().unwrap(), None);
    TlsConnector::from(config).connect(tls::server_name(), stream).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn whoever_is_silent_is_dropped_at_the_deadline() {
    // Before TLS.
    let (stream, accepted) = listening(open());
    assert!(matches!(accepted.await.unwrap(), Err(TransportError::TimedOut(_))));
    drop(stream);
    // After TLS.
    let (stream, accepted) = listening(open());
    let stream = tls_to_listener(stream).await;
    assert!(matches!(accepted.await.unwrap(), Err(TransportError::TimedOut(_))));
    drop(stream);
    // A listener that says nothing.
    let (near, far) = duplex(1 << 16);
    let dialled = handshake::dial(near, &Identity::generate().unwrap(), None, Some(PeerId::from_bytes([1; 32]))).await;
    assert!(matches!(dialled, Err(TransportError::TimedOut(_))));
    drop(far);
}

#[tokio::test]
async fn another_version_is_refused_with_that_reason() {
    let (stream, accepted) = listening(open());
    let mut stream = tls_to_listener(stream).await;
    let newer = Hello { version: VERSION + 1, ..Hello::new(None) };
    write_message(&mut stream, &Message::Hello(newer)).await.unwrap();
    let reason = RefusedReason::UnsupportedVersion;
    let refused = Message::Refused(Refused { transfer_id: None, reason });
    assert_eq!(read_message(&mut stream).await.unwrap(), Some(refused));
    assert_eq!(read_message(&mut stream).await.unwrap(), None);
    assert!(matches!(accepted.await.unwrap(), Err(TransportError::TurnedAway { .. })));
}

#[tokio::test]
async fn nothing_is_answered_before_hello() {
    for first in [
        wire_frame(&Message::Have(Have {
            questions: vec![crate::wire::HaveQuestion::bare(crate::ids::HaveKey([0; 32]))],
        })),
        vec![0xff; 64],
        vec![0, 0, 0, 0],
        vec![1, 0, 0, 0, 99],
    ] {
        let (stream, accepted) = listening(open());
        let mut stream = tls_to_listener(stream).await;
        stream.write_all(&first).await.unwrap();
        stream.flush().await.unwrap();
        let error = accepted.await.unwrap().unwrap_err();
        assert!(error.is_hostile(), "{error}");
        assert!(!matches!(read_message(&mut stream).await, Ok(Some(_))));
    }
}

fn wire_frame(message: &Message) -> Vec<u8> {
    crate::wire::encode(message)
}

#[tokio::test]
async fn a_proof_sent_back_proves_nothing() {
    let (near, far) = duplex(1 << 16);
    let mirror = tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(tls::server_config(&Identity::generate().unwrap()));
        let mut stream = acceptor.accept(far).await.unwrap();
        let Some(Message::Hello(hello)) = read_message(&mut stream).await.unwrap() else { panic!("no hello") };
        assert!(hello.secret_proof.is_some());
        write_message(&mut stream, &Message::Hello(hello)).await.unwrap();
        stream
    });
    let secret = NetworkSecret::generate().unwrap();
    let dialled = handshake::dial(near, &Identity::generate().unwrap(), Some(&secret), None).await;
    assert!(matches!(dialled, Err(TransportError::Unproven(_))), "{:?}", dialled.err());
    mirror.await.unwrap();
}

#[tokio::test]
async fn a_stranger_is_shown_no_proof_of_the_secret() {
    let secret = NetworkSecret::generate().unwrap();
    let (stream, accepted) = listening(Admission { open: true, ..sharing(&secret) });
    let mut stream = tls_to_listener(stream).await;
    write_message(&mut stream, &Message::Hello(Hello::new(Some([0; 32])))).await.unwrap();
    let Some(Message::Hello(hello)) = read_message(&mut stream).await.unwrap() else { panic!("no hello") };
    assert_eq!(hello.secret_proof, None);
    assert!(accepted.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_dialler_without_a_key_is_refused() {
    let (stream, accepted) = listening(open());
    let keyed = tls::client_config(&Identity::generate().unwrap(), None);
    let mut config = rustls::ClientConfig::clone(&keyed);
    config.client_auth_cert_resolver = Arc::new(NoKey);
    let connected = TlsConnector::from(Arc::new(config)).connect(tls::server_name(), stream).await;
    assert!(matches!(accepted.await.unwrap(), Err(TransportError::Tls(_))));
    drop(connected);
}

/// Offers no key at all.
#[derive(Debug)]
struct NoKey;

impl rustls::client::ResolvesClientCert for NoKey {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
