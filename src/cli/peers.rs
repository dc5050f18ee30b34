//! `byhash peers`.

use clap::Args;

use super::failure::CommandError;
use super::flags::StateFlags;
use super::node::running_node;
use super::output::{print, print_json};
use super::table::{columns, size};
use crate::daemon::status::{PeerState, PeerStatus};

/// The arguments of `byhash peers`.
#[derive(Debug, Args)]
pub(super) struct Peers {
    /// Print everything as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    which: StateFlags,
}

impl Peers {
    pub(super) fn run(self) -> Result<(), CommandError> {
        let state = self.which.state()?;
        let peers = super::node::block_on(async { Ok(running_node(&state).await?.peers().await?) })?;
        if self.json { print_json(&peers) } else { print(&for_people(&peers)) }
    }
}

fn for_people(peers: &[PeerStatus]) -> String {
    if peers.is_empty() {
        return "no peers are configured: give some with --peer\n".to_owned();
    }
    let head = ["PEER", "ID", "STATE", "LANES", "RTT", "FETCHED", "LAST ERROR"].map(str::to_owned);
    let row = |peer: &PeerStatus| {
        let address = peer.spec.rsplit_once('@').map_or(peer.spec.as_str(), |(_, address)| address);
        [
            address.to_owned(),
            peer.id.map_or("-".to_owned(), |id| id.short()),
            state_name(peer.state).to_owned(),
            peer.lanes.to_string(),
            peer.rtt_ms.map_or("-".to_owned(), |rtt| format!("{rtt:.1} ms")),
            size(peer.fetched_bytes),
            peer.last_error.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = std::iter::once(head).chain(peers.iter().map(row)).collect();
    columns(&rows)
}

fn state_name(state: PeerState) -> &'static str {
    match state {
        PeerState::Idle => "idle",
        PeerState::Connecting => "connecting",
        PeerState::Connected => "connected",
        PeerState::Unreachable => "unreachable",
        PeerState::Refused => "refused",
        PeerState::Quarantined => "quarantined",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PeerId;

    #[test]
    fn a_peer_is_a_line() {
        let id = PeerId::from_bytes([0xab; 32]);
        let text = for_people(&[PeerStatus {
            spec: format!("{id}@h:1"),
            id: Some(id),
            state: PeerState::Refused,
            last_error: Some("it does not allow this node".into()),
            lanes: 3,
            fetched_bytes: 1 << 20,
            rtt_ms: Some(1.25),
        }]);
        let line = text.lines().nth(1).unwrap();
        for part in ["h:1 ", "ababababab", "refused", "3", "1.2 ms", "1.0 MiB", "it does not allow this node"] {
            assert!(line.contains(part), "{part} is missing in {line}");
        }
        assert!(!line.contains('@'));
    }

    #[test]
    fn no_peers_are_a_sentence() {
        assert!(for_people(&[]).contains("--peer"));
    }
}
