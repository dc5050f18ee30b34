//! A delay line: what comes in on one side goes out on the other a while later, however much that is.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Bytes read at once.
const READ_LEN: usize = 256 << 10;

/// Relays every connection to `bind` on to `to`, with `delay` each way. Runs until it is dropped.
pub async fn relay(listener: TcpListener, to: SocketAddr, delay: Duration) {
    loop {
        let (near, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let Ok(far) = TcpStream::connect(to).await else { return };
            for side in [&near, &far] {
                side.set_nodelay(true).unwrap();
            }
            let (near, far) = (near.into_split(), far.into_split());
            tokio::spawn(pass_on(near.0, far.1, delay));
            tokio::spawn(pass_on(far.0, near.1, delay));
        });
    }
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (line, mut due) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((at, bytes)) = due.recv().await {
            sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
    });
    let mut buf = vec![0; READ_LEN];
    while let Ok(n @ 1..) = from.read(&mut buf).await {
        if line.send((Instant::now() + delay, buf[..n].to_vec())).is_err() {
            break;
        }
    }
}
