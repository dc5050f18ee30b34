//! The node's side of the control socket.

use std::collections::VecDeque;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::error::MAX_SOCKET_PATH_LEN;
use super::frame::{Frame, read_frame, write_data, write_end, write_message};
use super::prefetch::prefetch;
use super::{ControlError, Failure, FailureKind, MAX_HASHES, Order, Request, Response};
use crate::daemon::status::{BlobReport, NodeStatus, PeerStatus};
use crate::daemon::{LOCK_WAIT, SHUTDOWN_DEADLINE};
use crate::ids::{BlobRange, ContentHash, TransferId};
use crate::store::Store;
use crate::transfer::{BlobReader, BoxFuture, FetchError, Priority, TransferStatus};

/// Conversations at one time; further clients wait. Far more than one user's commands need.
const MAX_CONVERSATIONS: usize = 64;

/// Orders carried out at one time; further ones wait. Each takes a thread of those that the node reads disks with, for as
/// long as the file system of a user's file hangs.
const MAX_ORDERS: usize = 8;

/// The mode of the socket: it is its owner's.
const SOCKET_MODE: u32 = 0o600;

/// Clients that may wait to be let in.
const BACKLOG: i32 = 1024;

/// How long a client may take over its next question before the connection is closed.
pub(super) const QUESTION_WAIT: Duration = Duration::from_secs(30);

/// How long orders that have been begun may take when the node ends; most take a fraction of a second.
const ORDER_DRAIN: Duration = Duration::from_secs(3);
// Whoever finds the socket gone waits for so long until the store is free.
const _: () = assert!(ORDER_DRAIN.as_secs() + SHUTDOWN_DEADLINE.as_secs() < LOCK_WAIT.as_secs());

/// How long accepting rests after an error such as running out of file descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// A `get` reads in pieces of this many bytes (1 MiB) ...
const PIECE_LEN: u64 = 1 << 20;

/// ... of which this many are under way at once: bounds the memory of a `get` to 8 MiB ...
const PIECES_IN_FLIGHT: usize = 8;

/// ... and tells the engine about this many bytes (16 MiB) beyond them.
const HINT_LEN: u64 = 16 << 20;

const _: () = assert!(HINT_LEN.is_multiple_of(PIECE_LEN));

/// Is told how many bytes of a blob are held, and how many it has.
pub type ProgressFn = Box<dyn Fn(u64, u64) + Send + Sync>;

/// The node, as the control socket sees it. A future is dropped when its client hangs up.
pub trait ControlHandler: Send + Sync + 'static {
    /// How the node is.
    fn status(&self) -> BoxFuture<'_, NodeStatus>;

    /// How its configured peers are.
    fn peers(&self) -> BoxFuture<'_, Vec<PeerStatus>>;

    /// What is being fetched and sent.
    fn transfers(&self) -> BoxFuture<'_, Vec<TransferStatus>>;

    /// Ends a transfer. False if there is none with this id.
    fn cancel(&self, id: TransferId) -> BoxFuture<'_, bool>;

    /// What is known of a blob; `ask` asks the peers now.
    fn why(&self, hash: ContentHash, ask: bool) -> BoxFuture<'_, BlobReport>;

    /// Fetches what is missing of `hash` into the store; it is complete there when this returns.
    fn fetch(&self, hash: ContentHash, progress: ProgressFn) -> BoxFuture<'_, Result<(), Failure>>;

    /// Fetches `groups` of `hash`, which were damaged, as far as they are not held, and keeps the blob
    /// from eviction if it is to be `pinned`.
    fn mend(&self, hash: ContentHash, groups: Vec<(u64, u64)>, pinned: bool) -> BoxFuture<'_, Result<(), Failure>>;

    /// Returns when all that has come by now of `hashes` (`None`: of all blobs) is in the store, or never will be.
    fn land<'a>(&'a self, hashes: Option<&'a [ContentHash]>) -> BoxFuture<'a, ()>;

    /// Whether all of `hash` is in the store.
    fn is_held(&self, hash: ContentHash) -> bool;

    /// Its store.
    fn store(&self) -> &Store;

    /// Proves the size of `hash` and opens it, asking peers if need be.
    fn open_blob(&self, hash: ContentHash) -> BoxFuture<'_, Result<Arc<dyn BlobReader>, Failure>>;
}

/// A control socket that is listened on; its file goes when this is dropped.
#[derive(Debug)]
pub struct ControlListener {
    socket: UnixListener,
    path: PathBuf,
}

impl ControlListener {
    /// Listens at `path`, mode 0600, replacing the file of a dead node. The caller holds the
    /// node's lock, so that no other node binds at the same time. Call it within a runtime.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        if path.as_os_str().len() > MAX_SOCKET_PATH_LEN {
            return Err(ControlError::PathTooLong(path.to_owned()));
        }
        let failed = |source| ControlError::Socket { path: path.to_owned(), what: "made", source };
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(ControlError::InUse { path: path.to_owned() }),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let socket = listen_alone(path).map_err(failed)?;
        // The umask may have taken away more.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
        Ok(Self { socket, path: path.to_owned() })
    }
}

/// Listens at `path`, where nobody else may connect at any time, whatever the umask: Linux gives the file of a socket
/// the mode that the socket has when it is bound.
fn listen_alone(path: &Path) -> std::io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // SAFETY: no pointers, and the descriptor is open while `socket` lives.
    if unsafe { libc::fchmod(socket.as_raw_fd(), SOCKET_MODE) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}

impl Drop for ControlListener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Answers on `listener` until `shutdown` is ready; then the socket's file is removed and conversations are cut off, but
/// for orders that have been begun, which are answered within a bounded time.
pub async fn serve(listener: ControlListener, handler: Arc<dyn ControlHandler>, shutdown: impl Future<Output = ()>) {
    let slots = Arc::new(Semaphore::new(MAX_CONVERSATIONS));
    let orders = Arc::new(Semaphore::new(MAX_ORDERS));
    let mut conversations = JoinSet::new();
    let (closing, closed) = watch::channel(());
    let accept = async {
        loop {
            while conversations.try_join_next().is_some() {}
            let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            match listener.socket.accept().await {
                Ok((stream, _)) => {
                    let (handler, orders, closed) = (handler.clone(), orders.clone(), closed.clone());
                    conversations.spawn(async move {
                        if let Err(error) = converse(stream, &handler, &orders, closed).await {
                            tracing::debug!("a conversation on the control socket ended: {error}");
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!("the control socket cannot accept: {error}");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = shutdown => {}
    }
    drop(listener);
    drop(closing);
    let drain = async { while conversations.join_next().await.is_some() {} };
    if tokio::time::timeout(ORDER_DRAIN, drain).await.is_err() {
        tracing::warn!("an order is still being carried out, and its answer is lost");
    }
}

/// Answers the questions of one client until it hangs up or the node is closed.
async fn converse(
    stream: UnixStream,
    handler: &Arc<dyn ControlHandler>,
    orders: &Arc<Semaphore>,
    mut closed: watch::Receiver<()>,
) -> Result<(), ControlError> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let asked = tokio::select! {
            biased;
            _ = closed.changed() => return Ok(()),
            asked = tokio::time::timeout(QUESTION_WAIT, read_frame(&mut read)) => asked,
        };
        let Ok(frame) = asked else { return Ok(()) };
        let message = match frame? {
            Some(Frame::Message(message)) => message,
            Some(Frame::Data(_) | Frame::End) => return Err(ControlError::OutOfPlace),
            None => return Ok(()),
        };
        let request = serde_json::from_slice(&message);
        let is_order = matches!(request, Ok(Request::Store(_)));
        tokio::select! {
            answered = answer(&mut write, handler, orders, request) => answered?,
            () = hung_up(&mut read) => return Ok(()),
            _ = closed.changed(), if !is_order => return Ok(()),
        }
    }
}

/// Ends when the client has closed its side; a further question, sent early, stays in the buffer.
async fn hung_up<R: AsyncRead + Unpin>(read: &mut BufReader<R>) {
    match read.fill_buf().await {
        Ok([]) | Err(_) => {}
        Ok(_) => std::future::pending().await,
    }
}

async fn answer(
    to: &mut (impl AsyncWrite + Unpin),
    handler: &Arc<dyn ControlHandler>,
    orders: &Arc<Semaphore>,
    request: serde_json::Result<Request>,
) -> Result<(), ControlError> {
    let response = match request {
        Ok(Request::Status) => Response::Status(Box::new(handler.status().await)),
        Ok(Request::Peers) => Response::Peers { peers: handler.peers().await },
        Ok(Request::Transfers) => Response::Transfers { transfers: handler.transfers().await },
        Ok(Request::Cancel { id }) => match id.parse() {
            Ok(id) => Response::Cancelled { found: handler.cancel(id).await },
            Err(error) => Response::Error(Failure { kind: FailureKind::BadRequest, error: format!("{error}") }),
        },
        Ok(Request::Why { hash, ask }) => Response::Why(Box::new(handler.why(hash, ask).await)),
        Ok(Request::Prefetch { hashes }) => match within_limit(hashes.len()) {
            Ok(()) => return prefetch(to, handler, hashes).await,
            Err(failure) => Response::Error(failure),
        },
        Ok(Request::Mend { hash, groups, pinned }) => match handler.mend(hash, groups, pinned).await {
            Ok(()) => Response::Mended,
            Err(failure) => Response::Error(failure),
        },
        Ok(Request::Store(order)) => {
            // So that it finds what somebody has read just now.
            handler.land(order.about()).await;
            let place = orders.clone().acquire_owned().await.expect("the semaphore is never closed");
            write_message(to, &Response::Begun).await?;
            carry_out(handler.store(), order, place).await
        }
        Ok(Request::Get { hash }) => match handler.open_blob(hash).await {
            Ok(reader) => return send_blob(to, reader).await,
            Err(failure) => Response::Error(failure),
        },
        Err(error) => {
            let error = format!("the node does not understand the question: {error}");
            Response::Error(Failure { kind: FailureKind::BadRequest, error })
        }
    };
    match write_message(to, &response).await {
        Err(ControlError::FrameTooLong { len, limit }) => {
            let error = format!("the answer has {len} bytes, more than the {limit} of a message");
            write_message(to, &Response::Error(Failure { kind: FailureKind::Other, error })).await
        }
        written => written,
    }
}

fn within_limit(hashes: usize) -> Result<(), Failure> {
    let error = || format!("{hashes} hashes at a time are more than {MAX_HASHES}");
    if hashes <= MAX_HASHES { Ok(()) } else { Err(Failure { kind: FailureKind::BadRequest, error: error() }) }
}

async fn carry_out(store: &Store, order: Order, place: OwnedSemaphorePermit) -> Response {
    let failed = |error| Response::Error(Failure { kind: FailureKind::Other, error });
    let hashes = match &order {
        Order::Adopt { blobs } => blobs.len(),
        order => order.about().map_or(0, <[_]>::len),
    };
    if let Err(failure) = within_limit(hashes) {
        return Response::Error(failure);
    }
    let store = store.clone();
    let work = move || {
        // Taken until the thread is free, whoever still waits for it.
        let _place = place;
        order.carry_out(&store)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(report)) => Response::Store(report),
        Ok(Err(error)) => failed(error.to_string()),
        Err(_) => failed("it failed inside the node".to_owned()),
    }
}

/// A read under way, withdrawn when dropped.
struct Piece(tokio::task::JoinHandle<Result<Bytes, FetchError>>);

impl Drop for Piece {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn send_blob(to: &mut (impl AsyncWrite + Unpin), reader: Arc<dyn BlobReader>) -> Result<(), ControlError> {
    let size = reader.size();
    write_message(to, &Response::Blob { size }).await?;
    let mut pieces = VecDeque::with_capacity(PIECES_IN_FLIGHT);
    let mut asked = 0;
    loop {
        while asked < size && pieces.len() < PIECES_IN_FLIGHT {
            let range = BlobRange::new(asked, asked.saturating_add(PIECE_LEN)).clip(size);
            if asked.is_multiple_of(HINT_LEN) {
                reader.prefetch(BlobRange::new(asked, asked.saturating_add(2 * HINT_LEN)).clip(size));
            }
            let reader = reader.clone();
            let read = async move { reader.read(range, Priority::Foreground).await };
            pieces.push_back((range, Piece(tokio::spawn(read))));
            asked = range.end;
        }
        let Some((range, mut piece)) = pieces.pop_front() else { break };
        let bytes = match (&mut piece.0).await {
            Ok(Ok(bytes)) if bytes.len() as u64 == range.len() => bytes,
            Ok(Err(error)) => return write_message(to, &Response::Error(error.into())).await,
            Ok(Ok(_)) | Err(_) => {
                let error = format!("reading bytes {} to {} failed inside the node", range.start, range.end);
                let failure = Failure { kind: FailureKind::Other, error };
                return write_message(to, &Response::Error(failure)).await;
            }
        };
        write_data(to, &bytes).await?;
    }
    write_end(to).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_its_owner_s_from_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let _socket = listen_alone(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, SOCKET_MODE);
        std::os::unix::net::UnixStream::connect(&path).unwrap();
    }
}
