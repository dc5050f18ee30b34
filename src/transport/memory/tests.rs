//! What the engine's tests rely on.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Duration, timeout};

use super::super::{Acceptor, Dialer, TransportError};
use super::*;
use crate::ids::{PeerId, PeerSpec};

const A: PeerId = PeerId::from_bytes([1; 32]);
const B: PeerId = PeerId::from_bytes([2; 32]);

#[tokio::test]
async fn bytes_travel_both_ways_and_each_end_knows_the_other() {
    let network = MemoryNetwork::new();
    let mut listener = network.listen(B);
    let mut one = network.dialer(A).dial(&MemoryNetwork::spec(B)).await.unwrap();
    let mut other = listener.accept().await.unwrap();
    assert_eq!((one.peer(), other.peer()), (B, A));

    let mut buffer = [0; 4];
    one.write_all(b"ping").await.unwrap();
    other.read_exact(&mut buffer).await.unwrap();
    other.write_all(b"pong").await.unwrap();
    one.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"pong");

    assert_eq!(network.open_lanes(), 1);
    drop(one);
    assert_eq!(other.read(&mut buffer).await.unwrap(), 0);
    drop(other);
    assert_eq!(network.open_lanes(), 0);
}

#[tokio::test]
async fn who_is_not_there_refuses_and_who_is_another_is_found_out() {
    let network = MemoryNetwork::new();
    let dialer = network.dialer(A);
    assert!(matches!(dialer.dial(&MemoryNetwork::spec(B)).await, Err(TransportError::Connect { .. })));

    let listener = network.listen(B);
    let wrong = PeerSpec { id: Some(A), ..MemoryNetwork::spec(B) };
    assert!(matches!(dialer.dial(&wrong).await, Err(TransportError::WrongKey { expected: A, presented: B })));
    let anyone = PeerSpec { id: None, ..MemoryNetwork::spec(B) };
    dialer.dial(&anyone).await.unwrap();

    network.set_fault(B, Fault::Refuse);
    assert!(matches!(dialer.dial(&anyone).await, Err(TransportError::Connect { .. })));
    network.set_fault(B, Fault::None);
    drop(listener);
    assert!(matches!(dialer.dial(&anyone).await, Err(TransportError::Connect { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_swallows_dials_and_bytes_until_it_is_healed() {
    let network = MemoryNetwork::new();
    let mut listener = network.listen(B);
    let dialer = network.dialer(A);
    let mut one = dialer.dial(&MemoryNetwork::spec(B)).await.unwrap();
    let mut other = listener.accept().await.unwrap();

    other.write_all(b"late").await.unwrap();
    network.set_fault(B, Fault::BlackHole);
    assert!(matches!(dialer.dial(&MemoryNetwork::spec(B)).await, Err(TransportError::TimedOut(_))));
    let mut buffer = [0; 4];
    assert!(timeout(Duration::from_secs(3600), one.read_exact(&mut buffer)).await.is_err());
    assert!(timeout(Duration::from_secs(3600), one.write_all(b"lost")).await.is_err());

    let reader = tokio::spawn(async move {
        one.read_exact(&mut buffer).await.unwrap();
        buffer
    });
    tokio::task::yield_now().await;
    network.set_fault(B, Fault::None);
    assert_eq!(&reader.await.unwrap(), b"late");
}

#[tokio::test]
async fn a_cut_wakes_whoever_waits() {
    let network = MemoryNetwork::new();
    let mut listener = network.listen(B);
    let mut one = network.dialer(A).dial(&MemoryNetwork::spec(B)).await.unwrap();
    let (mut reading, mut writing) = tokio::io::split(listener.accept().await.unwrap());
    let reader = tokio::spawn(async move { reading.read_u8().await.unwrap_err().kind() });
    // More than the pipe holds, and nobody reads at the other end.
    let writer = tokio::spawn(async move { writing.write_all(&vec![0; 1 << 20]).await.unwrap_err().kind() });
    tokio::task::yield_now().await;
    assert!(!reader.is_finished() && !writer.is_finished());

    network.cut(A);
    assert_eq!(writer.await.unwrap(), ErrorKind::ConnectionReset);
    assert_eq!(reader.await.unwrap(), ErrorKind::ConnectionReset);
    assert_eq!(one.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}
