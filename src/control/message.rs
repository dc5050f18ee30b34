//! What commands ask and what the node answers.

use serde::{Deserialize, Serialize};

use super::{Order, Report};
use crate::daemon::status::{BlobReport, NodeStatus, PeerStatus};
use crate::ids::ContentHash;
use crate::transfer::{FetchError, TransferStatus};

/// A question to the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "lowercase")]
pub enum Request {
    /// How the node is.
    Status,
    /// How its peers are.
    Peers,
    /// What is being fetched and sent.
    Transfers,
    /// End a transfer.
    Cancel {
        /// Its id.
        id: String,
    },
    /// What is known of a blob.
    Why {
        /// Its name.
        hash: ContentHash,
        /// Whether to ask the peers now.
        ask: bool,
    },
    /// Fetch blobs into the store.
    Prefetch {
        /// Their names, at most [`super::MAX_HASHES`].
        hashes: Vec<ContentHash>,
    },
    /// Fetch what was found damaged again.
    Mend {
        /// The blob.
        hash: ContentHash,
        /// Ranges of its groups.
        groups: Vec<(u64, u64)>,
        /// Whether it was kept from eviction.
        pinned: bool,
    },
    /// Do something with the store.
    Store(Order),
    /// Send a blob.
    Get {
        /// Its name.
        hash: ContentHash,
    },
}

/// The node's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "lowercase")]
pub enum Response {
    /// To [`Request::Status`]. Boxed because it is far larger than the others.
    Status(Box<NodeStatus>),
    /// To [`Request::Peers`].
    Peers {
        /// All configured peers.
        peers: Vec<PeerStatus>,
    },
    /// To [`Request::Transfers`].
    Transfers {
        /// Those of both directions.
        transfers: Vec<TransferStatus>,
    },
    /// To [`Request::Cancel`].
    Cancelled {
        /// Whether there was such a transfer.
        found: bool,
    },
    /// To [`Request::Why`].
    Why(Box<BlobReport>),
    /// To [`Request::Prefetch`]: one of any number of such answers. After the last comes an end frame.
    Prefetch(PrefetchEvent),
    /// To [`Request::Mend`]: all of it is held again.
    Mended,
    /// To [`Request::Store`], before anything is done, and before the answer proper: whoever has not got this knows that
    /// nothing was done.
    Begun,
    /// To [`Request::Store`].
    Store(Report),
    /// To [`Request::Get`]: this many bytes follow in data frames, then an end frame.
    Blob {
        /// Bytes.
        size: u64,
    },
    /// It could not be done; inside a blob: no more bytes will come.
    Error(Failure),
}

/// What a node tells while it prefetches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrefetchEvent {
    /// How far it is, now and then.
    Progress {
        /// Bytes that are held ...
        done: u64,
        /// ... of those that the blobs have whose size is known by now.
        total: u64,
    },
    /// What came of a blob, once for each.
    Fetched {
        /// Its name.
        hash: ContentHash,
        /// Why it is not there; nothing if all of it is held.
        failure: Option<Failure>,
    },
}

/// Why the node could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{error}")]
pub struct Failure {
    /// For programs.
    pub kind: FailureKind,
    /// For people: a sentence.
    pub error: String,
}

/// The kinds of failure that users tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// Every reachable peer said that it has none.
    NotFound,
    /// No peer could be reached.
    Unreachable,
    /// Holders fell silent.
    TimedOut,
    /// Only wrong bytes were to be had.
    WrongBytes,
    /// The node is shutting down, or the transfer was cancelled.
    Cancelled,
    /// The question was not understood.
    BadRequest,
    /// Anything else.
    Other,
}

impl From<FetchError> for FailureKind {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::NotFound => Self::NotFound,
            FetchError::Unreachable => Self::Unreachable,
            FetchError::TimedOut => Self::TimedOut,
            FetchError::WrongBytes => Self::WrongBytes,
            FetchError::Cancelled => Self::Cancelled,
        }
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        Self { error: error.to_string(), kind: error.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_of_the_messages() {
        let hash = ContentHash::EMPTY;
        let shown = |message: &Request| serde_json::to_string(message).unwrap();
        assert_eq!(shown(&Request::Status), r#"{"request":"status"}"#);
        assert_eq!(shown(&Request::Get { hash }), format!(r#"{{"request":"get","hash":"{hash}"}}"#));
        let error = Response::Error(FetchError::TimedOut.into());
        assert_eq!(
            serde_json::to_string(&error).unwrap(),
            r#"{"response":"error","kind":"timed-out","error":"its holders fell silent"}"#
        );
    }

    #[test]
    fn each_fetch_error_keeps_its_kind() {
        let kinds = [
            (FetchError::NotFound, FailureKind::NotFound),
            (FetchError::Unreachable, FailureKind::Unreachable),
            (FetchError::TimedOut, FailureKind::TimedOut),
            (FetchError::WrongBytes, FailureKind::WrongBytes),
            (FetchError::Cancelled, FailureKind::Cancelled),
        ];
        for (error, kind) in kinds {
            let failure = Failure::from(error.clone());
            assert_eq!((failure.kind, failure.error), (kind, error.to_string()));
        }
    }
}
