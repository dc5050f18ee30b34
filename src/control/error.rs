//! What can go wrong on the control socket.

use std::path::PathBuf;

use super::message::Failure;

/// The longest path of a Unix socket, in bytes: `sun_path` has 108, the last is a NUL (unix(7)).
pub(super) const MAX_SOCKET_PATH_LEN: usize = 107;

impl ControlError {
    /// Whether whoever was at the other end of the connection has gone.
    pub(super) fn is_of_the_end(&self) -> bool {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
        match self {
            Self::Ended => true,
            Self::Broken(error) => matches!(error.kind(), BrokenPipe | ConnectionReset),
            _ => false,
        }
    }

    /// Whether the socket cannot be made because nothing can be written there, as on a read-only disk.
    pub fn is_of_the_disk(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let Self::Socket { source, .. } = self else { return false };
        matches!(source.kind(), ReadOnlyFilesystem | StorageFull | QuotaExceeded)
    }
}

/// Why a conversation over the control socket failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket cannot be made or reached.
    #[error("the control socket {} cannot be {what}: {source}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// `made` or `reached`.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system limits the length of a socket's path.
    #[error("{} is too long for the path of a socket ({MAX_SOCKET_PATH_LEN} bytes): use a shorter state directory", .0.display())]
    PathTooLong(PathBuf),
    /// Another process answers on the socket.
    #[error("another node already answers on {}", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The connection broke.
    #[error("the connection to the node broke: {0}")]
    Broken(#[from] std::io::Error),
    /// The node ended, or had ended, before it began with what was asked.
    #[error("the node was ending and did nothing of this: try again")]
    Closing,
    /// The node ended after it had begun with what was asked.
    #[error("the node ended in the midst of it: it may have been done or not; look, with 'byhash ls', or try again")]
    Unsettled,
    /// The connection ended inside an answer.
    #[error("the node ended before it had answered; what had come by then is kept: try again with one that runs")]
    Ended,
    /// A frame of a kind that does not exist.
    #[error("a control frame has the unknown kind {0}")]
    UnknownFrame(u8),
    /// A frame longer than its kind may be.
    #[error("a control frame of {len} bytes is longer than the {limit} that its kind may have")]
    FrameTooLong {
        /// Its claimed length in bytes.
        len: u64,
        /// The limit in bytes.
        limit: usize,
    },
    /// A message that is not what it should be.
    #[error("a control message is not valid (is the node of another version?): {0}")]
    Message(#[from] serde_json::Error),
    /// A valid frame or message at a wrong place.
    #[error("the node gave an answer to another question (is it of another version?)")]
    OutOfPlace,
    /// The node answered that it could not do what was asked.
    #[error("{0}")]
    Failed(#[from] Failure),
}
