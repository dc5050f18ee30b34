//! Who has what: the peers, their standing, and the question "do you have this?".
//!
//! A hash is a right to read, so it is never part of a question: peers are asked by
//! [`HaveKey`](crate::ids::HaveKey), and only one that answered yes is sent the hash itself. One of them is
//! also shown that this node knows the hash ([`KnowledgeProof`](crate::ids::KnowledgeProof)), and sends a small blob
//! together with its answer. All peers are asked at the same time, each over a lane kept free of bulk, and an answer is used the
//! moment it comes: a silent peer delays nobody.

mod answers;
mod distrust;
pub mod hints;
mod lanes;
mod log;
mod peer;
mod questions;
mod survey;

pub use lanes::{BULK_LANES, FAR_BULK_LANES, FAR_SMALL_LANES, LaneKind, PIECE_LEN, PooledLane};
pub use log::Statement;
pub use peer::{Peer, PeerSnapshot, PeerState};
pub use questions::End;
pub use survey::{Finding, Holders};

use crate::transport::TransportError;

/// Why a peer could not be used. The message is for the user.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// It failed a moment ago and is not tried again yet.
    #[error("not tried again yet after: {0}")]
    BackingOff(String),
    /// It sent wrong bytes too often.
    #[error("quarantined for sending wrong bytes")]
    Quarantined,
    /// It did not answer in time.
    #[error("no answer within {0} ms")]
    Silent(u128),
    /// It was asked and did not answer what was asked.
    #[error("{0}")]
    NoAnswer(String),
    /// The lane to it failed.
    #[error(transparent)]
    Lane(#[from] TransportError),
}
