//! What a node tells about itself and its peers.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::holders::Statement;
use crate::ids::{ContentHash, PeerId};
use crate::store::InPlace;
use crate::transfer::{BlobState, SpaceUsage, TransferStatus};

/// A running node, as `byhash status --json` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Who it is.
    pub id: PeerId,
    /// The version of the program.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// The address it listens on, `IP:PORT`, as bound.
    pub listen: String,
    /// Where its filesystem is mounted, if it is. Shown lossily where it is not UTF-8.
    #[serde(serialize_with = "lossy_path")]
    pub mountpoint: Option<PathBuf>,
    /// Whether it has been unmounted, and the node goes on only for files of it that are still open.
    #[serde(default)]
    pub detached: bool,
    /// Seconds since its start.
    pub uptime_secs: u64,
    /// The cache's figures.
    pub usage: SpaceUsage,
    /// How far scrubbing in the background is, if it is asked for.
    pub scrub: Option<ScrubStatus>,
    /// Lanes open now, both directions.
    pub lanes_open: u64,
    /// Exchanges in flight on the requester's side.
    pub transfers_pending: u64,
    /// Every metric by name; [`crate::metrics::DESCRIPTIONS`] has units and meanings.
    pub metrics: BTreeMap<String, u64>,
    /// How the mount runs and why, a sentence each: passthrough, the kernel's read-ahead, threads.
    #[serde(default)]
    pub mount: Vec<String>,
    /// What a person should know about how it runs, a sentence each: nobody may connect, ...
    pub notes: Vec<String>,
}

/// How far scrubbing in the background is. Counts are of the pass under way, or of the last one while
/// the next is not due.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// Bytes a second at most.
    pub rate: u64,
    /// Blobs checked in this pass.
    pub checked_blobs: u64,
    /// Bytes checked in this pass.
    pub checked_bytes: u64,
    /// Passes ended since the node's start.
    pub passes: u64,
    /// Whether it waits for the next pass to be due.
    pub resting: bool,
    /// Bytes found damaged since the node's start.
    pub damaged_bytes: u64,
    /// Blobs of which damaged groups could not be fetched again so far; each pass tries to.
    pub unmended_blobs: u64,
}

/// What a node knows of a blob, as `byhash why --json` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobReport {
    /// Its name.
    pub hash: ContentHash,
    /// How much of it is in the cache.
    pub state: BlobState,
    /// Its size in bytes, if that is proven.
    pub size: Option<u64>,
    /// Verified bytes of it in the cache.
    pub held: u64,
    /// The file of the user's that it is served from, if it is. Once that has changed, nothing of the blob is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_place: Option<InPlace>,
    /// Whether it could be read whole without any peer.
    pub offline: bool,
    /// What is under way for it.
    pub transfers: Vec<TransferStatus>,
    /// The configured peers, in the order of the configuration.
    pub peers: Vec<PeerReport>,
}

/// What a peer said of a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// The peer as configured, `[ID@]HOST:PORT`.
    pub spec: String,
    /// What it said or did last, if it was asked lately.
    pub last: Option<Statement>,
    /// Milliseconds since then.
    pub ago_ms: Option<u64>,
}

/// How a configured peer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// No lane is open and none was needed, or the last one ended well.
    Idle,
    /// A lane is being opened.
    Connecting,
    /// At least one lane is open.
    Connected,
    /// The last attempt found nobody there.
    Unreachable,
    /// The last attempt was turned away, by the peer or, for a wrong key, by us.
    Refused,
    /// It sent wrong bytes too often and is left alone for a while.
    Quarantined,
}

/// A configured peer, as `byhash peers --json` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// As configured, `[ID@]HOST:PORT`.
    pub spec: String,
    /// The key it presented, or the one it is to present.
    pub id: Option<PeerId>,
    /// How it stands.
    pub state: PeerState,
    /// What went wrong last, a sentence, until something goes right.
    pub last_error: Option<String>,
    /// Lanes open to it now.
    pub lanes: u32,
    /// Verified content bytes that came from it since the node's start.
    pub fetched_bytes: u64,
    /// Smoothed time of a small exchange, in milliseconds.
    pub rtt_ms: Option<f64>,
}

fn lossy_path<S: serde::Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.to_string_lossy()).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn a_mountpoint_that_is_not_utf8_does_not_hide_the_status() {
        let status = NodeStatus {
            id: PeerId::from_bytes([1; 32]),
            version: "0".into(),
            pid: 1,
            listen: "127.0.0.1:1".into(),
            mountpoint: Some(OsString::from_vec(b"/m\xff".to_vec()).into()),
            detached: false,
            uptime_secs: 0,
            usage: SpaceUsage::default(),
            scrub: None,
            lanes_open: 0,
            transfers_pending: 0,
            metrics: BTreeMap::new(),
            mount: Vec::new(),
            notes: Vec::new(),
        };
        assert!(serde_json::to_string(&status).unwrap().contains("/m\u{fffd}"));
    }
}
