//! A holder that lies, met by a real node over TCP. All that one can lie about is tried in `tests/engine.rs`.

use std::sync::Arc;

use byhash::ids::ContentHash;
use byhash::metrics::Metrics;
use byhash::transport::{
    Acceptor, Admission, BoxLane, Identity, Listener, TransportError, read_message, write_message,
};
use byhash::wire::{Found, HaveAnswer, HaveQuestion, HaveReply, Message};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;

use super::content::{MIB, content};
use super::node::{Sandbox, fuse_is_here};

/// A holder that says to have a blob, and sends other bytes.
struct Liar {
    /// As others name it.
    peer: String,
    id: String,
    _runtime: Runtime,
}

impl Liar {
    fn start(hash: ContentHash, size: u64) -> Self {
        let (runtime, identity) = (Runtime::new().unwrap(), Identity::generate().unwrap());
        let admission = Admission { open: true, ..Admission::default() };
        let listener =
            Listener::bind("127.0.0.1:0".parse().unwrap(), &identity, admission, Arc::new(Metrics::default()));
        let mut listener = runtime.block_on(listener).unwrap();
        let id = identity.peer_id().to_string();
        let peer = format!("{id}@{}", listener.local_addr());
        runtime.spawn(async move {
            while let Ok(lane) = listener.accept().await {
                tokio::spawn(lie(lane, hash, size));
            }
        });
        Self { peer, id, _runtime: runtime }
    }
}

async fn lie(mut lane: BoxLane, hash: ContentHash, size: u64) -> Result<(), TransportError> {
    while let Some(message) = read_message(&mut lane).await? {
        match message {
            Message::Have(have) => {
                let is_it = |asked: &HaveQuestion| asked.key == hash.have_key();
                let answer = |asked| if is_it(asked) { HaveAnswer::Complete } else { HaveAnswer::None };
                let answers = have.questions.iter().map(answer).collect();
                let claimed = have.questions.iter().filter(|asked| is_it(asked));
                let proofs = claimed.map(|_| hash.holder_proof(lane.binding())).collect();
                write_message(&mut lane, &Message::HaveReply(HaveReply { answers, proofs })).await?;
            }
            Message::Request(request) => {
                let found = Found { transfer_id: request.transfer_id, total_len: size };
                write_message(&mut lane, &Message::Found(found)).await?;
                lane.write_all(&vec![0; MIB]).await?;
                lane.flush().await?;
            }
            _ => break,
        }
    }
    Ok(())
}

#[test]
fn wrong_bytes_are_an_io_error_and_the_log_names_who_sent_them() {
    if !fuse_is_here("wrong_bytes_are_an_io_error_and_the_log_names_who_sent_them") {
        return;
    }
    let sandbox = Sandbox::new();
    let hash = ContentHash::of(&content(160, 3 * MIB));
    let liar = Liar::start(hash, 3 * MIB as u64);
    let reader = sandbox.seat("b").mount(["--peer", &liar.peer]);
    let read = std::fs::read(reader.file(&hash.to_string()));
    assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO));
    let log = reader.log();
    let told = log.lines().find(|line| line.contains("do not match the hash")).unwrap_or_else(|| panic!("{log}"));
    assert!(told.contains("WARN") && told.contains(&liar.id), "{told}");
    assert_eq!(std::fs::read_dir(reader.by_hash()).unwrap().count(), 0, "nothing of it is kept");
}
