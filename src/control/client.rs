//! The commands' side of the control socket.

use std::path::{Path, PathBuf};

use tokio::net::UnixStream;
use tokio::time::Instant;

use super::error::MAX_SOCKET_PATH_LEN;
use super::frame::{Frame, read_frame, write_message};
use super::server::QUESTION_WAIT;
use super::{ControlError, Order, PrefetchEvent, Report, Request, Response};
use crate::daemon::status::{BlobReport, NodeStatus, PeerStatus};
use crate::ids::{ContentHash, TransferId};
use crate::store::Scrubbed;
use crate::transfer::TransferStatus;

/// A connection to a running node.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: UnixStream,
    /// When the last question was answered.
    used: Instant,
}

impl Client {
    /// Connects to the node whose control socket is `path`; `None` if no node runs there.
    pub async fn connect(path: &Path) -> Result<Option<Self>, ControlError> {
        if path.as_os_str().len() > MAX_SOCKET_PATH_LEN {
            // No node can be there.
            return Ok(None);
        }
        match UnixStream::connect(path).await {
            Ok(stream) => Ok(Some(Self { path: path.to_owned(), stream, used: Instant::now() })),
            Err(error) => match error.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => Ok(None),
                _ => Err(ControlError::Socket { path: path.to_owned(), what: "reached", source: error }),
            },
        }
    }

    /// The process of the node, as this process sees it; `None` if it cannot, as from within a container.
    pub fn process(&self) -> Option<u32> {
        let pid = self.stream.peer_cred().ok()?.pid()?;
        u32::try_from(pid).ok().filter(|pid| *pid > 0)
    }

    /// How the node is.
    pub async fn status(&mut self) -> Result<NodeStatus, ControlError> {
        match self.ask(&Request::Status).await? {
            Response::Status(status) => Ok(*status),
            _ => Err(ControlError::OutOfPlace),
        }
    }

    /// How its peers are.
    pub async fn peers(&mut self) -> Result<Vec<PeerStatus>, ControlError> {
        match self.ask(&Request::Peers).await? {
            Response::Peers { peers } => Ok(peers),
            _ => Err(ControlError::OutOfPlace),
        }
    }

    /// Asks for blobs to be fetched into the store, at most [`super::MAX_HASHES`]. The stream must be read
    /// to its end before another question; dropping the client breaks off what is not done.
    pub async fn prefetch(&mut self, hashes: Vec<ContentHash>) -> Result<PrefetchStream<'_>, ControlError> {
        self.put(&Request::Prefetch { hashes }).await?;
        Ok(PrefetchStream { stream: &mut self.stream })
    }

    /// Has what a scrub found damaged or lacking fetched again; it is held when this returns.
    pub async fn mend(&mut self, scrubbed: &Scrubbed) -> Result<(), ControlError> {
        let Scrubbed { hash, pinned, .. } = *scrubbed;
        match self.ask(&Request::Mend { hash, groups: scrubbed.to_mend(), pinned }).await? {
            Response::Mended => Ok(()),
            _ => Err(ControlError::OutOfPlace),
        }
    }

    /// Has something done with the node's store. After [`ControlError::Closing`] nothing was done, and nothing will be.
    pub async fn order(&mut self, order: Order) -> Result<Report, ControlError> {
        let mut answer = self.ask(&Request::Store(order)).await?;
        if answer == Response::Begun {
            let settled = |error: ControlError| if error.is_of_the_end() { ControlError::Unsettled } else { error };
            answer = self.answer().await.map_err(settled)?;
        }
        match answer {
            Response::Store(report) => Ok(report),
            _ => Err(ControlError::OutOfPlace),
        }
    }

    /// Asks for a blob. The stream must be read to its end before another question.
    pub async fn get(&mut self, hash: ContentHash) -> Result<BlobStream<'_>, ControlError> {
        match self.ask(&Request::Get { hash }).await? {
            Response::Blob { size } => Ok(BlobStream { stream: &mut self.stream, size, left: Some(size) }),
            _ => Err(ControlError::OutOfPlace),
        }
    }

    /// What the node fetches and sends.
    pub async fn transfers(&mut self) -> Result<Vec<TransferStatus>, ControlError> {
        match self.ask(&Request::Transfers).await? {
            Response::Transfers { transfers } => Ok(transfers),
            _ => Err(ControlError::OutOfPlace),
        }
    }

    /// Ends a transfer. False if there is none with this id.
    pub async fn cancel(&mut self, id: TransferId) -> Result<bool, ControlError> {
        match self.ask(&Request::Cancel { id: id.to_string() }).await? {
            Response::Cancelled { found } => Ok(found),
            _ => Err(ControlError::OutOfPlace),
        }
    }

    /// What the node knows of a blob; `ask` makes it ask its peers now.
    pub async fn why(&mut self, hash: ContentHash, ask: bool) -> Result<BlobReport, ControlError> {
        match self.ask(&Request::Why { hash, ask }).await? {
            Response::Why(report) => Ok(*report),
            _ => Err(ControlError::OutOfPlace),
        }
    }

    /// Puts a question, over a new connection if the node may have taken the silence of this one for its end.
    async fn put(&mut self, request: &Request) -> Result<(), ControlError> {
        if self.used.elapsed() >= QUESTION_WAIT / 2 {
            *self = Self::connect(&self.path).await?.ok_or(ControlError::Closing)?;
        }
        write_message(&mut self.stream, request).await.map_err(closing)
    }

    /// The first answer to a question.
    async fn ask(&mut self, request: &Request) -> Result<Response, ControlError> {
        self.put(request).await?;
        self.answer().await.map_err(closing)
    }

    async fn answer(&mut self) -> Result<Response, ControlError> {
        let answer = read_frame(&mut self.stream).await?.ok_or(ControlError::Ended)?;
        self.used = Instant::now();
        match answer {
            Frame::Message(message) => match serde_json::from_slice(&message)? {
                Response::Error(failure) => Err(failure.into()),
                response => Ok(response),
            },
            Frame::Data(_) | Frame::End => Err(ControlError::OutOfPlace),
        }
    }
}

/// What it means that a question was not taken, or not answered by anything.
fn closing(error: ControlError) -> ControlError {
    if error.is_of_the_end() { ControlError::Closing } else { error }
}

/// A prefetch under way in the node.
#[derive(Debug)]
pub struct PrefetchStream<'a> {
    stream: &'a mut UnixStream,
}

impl PrefetchStream<'_> {
    /// What it tells next; `None` once it has told of each blob.
    pub async fn next(&mut self) -> Result<Option<PrefetchEvent>, ControlError> {
        match read_frame(self.stream).await?.ok_or(ControlError::Ended)? {
            Frame::End => Ok(None),
            Frame::Data(_) => Err(ControlError::OutOfPlace),
            Frame::Message(message) => match serde_json::from_slice(&message)? {
                Response::Prefetch(event) => Ok(Some(event)),
                Response::Error(failure) => Err(failure.into()),
                _ => Err(ControlError::OutOfPlace),
            },
        }
    }
}

/// A blob on its way from the node.
#[derive(Debug)]
pub struct BlobStream<'a> {
    stream: &'a mut UnixStream,
    size: u64,
    /// Bytes still to come; `None` after the end or an error.
    left: Option<u64>,
}

impl BlobStream<'_> {
    /// The blob's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next bytes; `None` once all of them have come.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ControlError> {
        let Some(left) = self.left.take() else { return Ok(None) };
        match read_frame(self.stream).await?.ok_or(ControlError::Ended)? {
            Frame::Data(bytes) => {
                self.left = Some(left.checked_sub(bytes.len() as u64).ok_or(ControlError::OutOfPlace)?);
                Ok(Some(bytes))
            }
            Frame::End if left == 0 => Ok(None),
            Frame::End => Err(ControlError::Ended),
            Frame::Message(message) => match serde_json::from_slice(&message)? {
                Response::Error(failure) => Err(failure.into()),
                _ => Err(ControlError::OutOfPlace),
            },
        }
    }
}
