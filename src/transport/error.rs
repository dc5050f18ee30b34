//! Why there is no lane, or none any more.

use std::io;

use crate::ids::{PeerId, PeerSpec};
use crate::wire::{RefusedReason, WireError};

/// Why a lane could not be opened, or why it has to be closed.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The peer's host name has no address.
    #[error("{host} cannot be resolved: {error}")]
    Resolve {
        /// The name looked up.
        host: String,
        /// What the resolver said.
        error: io::Error,
    },
    /// No address of the peer takes connections.
    #[error("{peer} cannot be reached: {error}")]
    Connect {
        /// The peer dialled.
        peer: PeerSpec,
        /// What the last address tried said.
        error: io::Error,
    },
    /// The peer was silent for too long while the lane was opened.
    #[error("timed out while {0}")]
    TimedOut(&'static str),
    /// TLS could not agree: not a byhash node, or the connection broke.
    #[error("the TLS handshake failed: {0}")]
    Tls(io::Error),
    /// The node at this address holds another key than the one named.
    #[error("another node answered: {presented}, not {expected}")]
    WrongKey {
        /// The id that was named.
        expected: PeerId,
        /// The id that the other side proved to have.
        presented: PeerId,
    },
    /// The address leads back to this node.
    #[error("the address leads to this node itself")]
    Myself,
    /// Neither an id nor a secret by which the other side could be told from an impostor.
    #[error(
        "{0} is named without its id, and no network secret vouches for it: write ID@HOST:PORT or give --secret-file"
    )]
    NoWayToTrust(PeerSpec),
    /// No id was named and the other side did not prove the network secret.
    #[error("{0} does not prove to know the network secret, and its id was not named")]
    Unproven(PeerId),
    /// The other side turned this node away.
    #[error("{}", refusal(.reason, .this_node))]
    Refused {
        /// Why, as it says.
        reason: RefusedReason,
        /// This node, as it was seen there.
        this_node: PeerId,
    },
    /// This node turned the other side away (listener only).
    #[error("{peer} was turned away: {reason}")]
    TurnedAway {
        /// The node that dialled.
        peer: PeerId,
        /// What it was told.
        reason: RefusedReason,
    },
    /// The peer's bytes are no message.
    #[error("the peer breaks the protocol: {0}")]
    Wire(#[from] WireError),
    /// A message that has no place here.
    #[error("the peer breaks the protocol: an unexpected {0}")]
    Unexpected(&'static str),
    /// The lane ended in the middle of something.
    #[error("the peer closed the connection")]
    Closed,
    /// The lane broke.
    #[error("the connection broke: {0}")]
    Io(io::Error),
}

impl TransportError {
    /// Whether the peer broke the protocol, rather than being away, slow or unwilling.
    pub fn is_hostile(&self) -> bool {
        matches!(self, Self::Wire(_) | Self::Unexpected(_))
    }
}

impl From<io::Error> for TransportError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

/// The sentence for a user whose node was turned away: what to do where.
fn refusal(reason: &RefusedReason, this_node: &PeerId) -> String {
    match reason {
        RefusedReason::NotAllowed => {
            format!("the peer does not allow this node: add --allow {this_node} there, or share a network secret")
        }
        RefusedReason::WrongSecret => {
            format!("the peer has another network secret: use the same --secret-file, or add --allow {this_node} there")
        }
        RefusedReason::UnsupportedVersion
        | RefusedReason::ShuttingDown
        | RefusedReason::Cancelled
        | RefusedReason::Other(_) => {
            format!("the peer turned this node away: {reason}")
        }
    }
}
