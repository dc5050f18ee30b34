//! What people see of a transfer.

use serde::{Deserialize, Serialize};

use crate::ids::{ContentHash, PeerId};

/// Which way a transfer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// This node fetches a blob, from however many holders.
    Fetch,
    /// This node sends a blob to one peer.
    Serve,
}

/// How a transfer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransferState {
    /// Peers are being asked who has the blob.
    Asking,
    /// Bytes are on their way.
    Moving,
    /// It waits for its turn: a free lane, the memory budget, others that are served first.
    Waiting,
    /// Nothing has come, or been taken, for too long.
    Stalled,
}

/// One transfer as it stands now: a blob that this node fetches, or one that it sends to a peer.
/// All requests for the blob by the same requester are one transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferStatus {
    /// Its identity, 16 hexadecimal digits; chosen by the requester, the same on both sides.
    pub id: String,
    /// Which way it goes.
    pub direction: Direction,
    /// The blob.
    pub hash: ContentHash,
    /// How it is doing.
    pub state: TransferState,
    /// Content bytes so far: verified, or sent.
    pub done: u64,
    /// The blob's size in bytes; `None` until it is proven. A reader may want less of it.
    pub total: Option<u64>,
    /// Content bytes a second since it began.
    pub rate: u64,
    /// Milliseconds since it began.
    pub age_ms: u64,
    /// Who takes part at the other end.
    pub peers: Vec<PeerShare>,
}

/// What one peer does for a transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerShare {
    /// The peer.
    pub peer: PeerId,
    /// Content bytes from it, or to it.
    pub done: u64,
    /// Requests under way now.
    pub exchanges: u32,
}
