//! `byhash why`.

use clap::Args;

use super::failure::CommandError;
use super::flags::StateFlags;
use super::node::{block_on, running_node};
use super::output::{print, print_json};
use super::table::{columns, size};
use super::transfers::state_name;
use crate::daemon::status::{BlobReport, PeerReport};
use crate::holders::Statement;
use crate::ids::ContentHash;
use crate::transfer::{BlobState, Direction};
use crate::verify::GROUP_LEN;

/// The arguments of `byhash why`.
#[derive(Debug, Args)]
pub(super) struct Why {
    /// The blob's name: 64 hexadecimal digits
    hash: String,

    /// Ask all peers now, instead of telling what they said when a read asked them last
    #[arg(long)]
    ask: bool,

    /// Print everything as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    which: StateFlags,
}

impl Why {
    pub(super) fn run(self) -> Result<(), CommandError> {
        let hash = self.hash.parse::<ContentHash>()?;
        let state = self.which.state()?;
        let report = block_on(async { Ok(running_node(&state).await?.why(hash, self.ask).await?) })?;
        if self.json { print_json(&report) } else { print(&for_people(&report)) }
    }
}

/// What to do about a file that is served no more.
pub(super) const ADD_AGAIN: &str = ": add it again, or remove it with 'byhash rm'";

fn for_people(report: &BlobReport) -> String {
    let of = report.size.map_or("an unknown size".to_owned(), size);
    let here = match report.state {
        BlobState::Complete => format!("all of it, {of}"),
        BlobState::Partial => format!("{} of {of}", size(report.held)),
        BlobState::Absent => "none of it".to_owned(),
    };
    let offline = if report.offline { "yes, all of it" } else { "no, not all of it" };
    let row = |name: &str, value: String| [name.to_owned(), value];
    let mut rows = vec![row("here", here), row("offline", offline.to_owned())];
    if let Some(place) = &report.in_place {
        let path = place.path.escape_debug();
        rows.push(row(
            "file",
            place.complaint().map_or_else(|| format!("{path}, served from there"), |why| why + ADD_AGAIN),
        ));
    }
    rows.extend(report.transfers.iter().map(|transfer| {
        let what = match transfer.direction {
            Direction::Fetch => "being fetched",
            Direction::Serve => "being sent",
        };
        row("now", format!("{what}, {} ({})", state_name(transfer.state), transfer.id))
    }));
    if report.peers.is_empty() {
        rows.push(row("peers", "none are configured: give some with --peer".to_owned()));
    }
    rows.extend(report.peers.iter().map(|peer| {
        let address = peer.spec.rsplit_once('@').map_or(peer.spec.as_str(), |(_, address)| address);
        row("peer", format!("{address}: {}", said(peer)))
    }));
    columns(&rows)
}

fn said(peer: &PeerReport) -> String {
    let what = match &peer.last {
        None => return "not asked lately; --ask asks it now".to_owned(),
        Some(Statement::All) => "has all of it".to_owned(),
        Some(Statement::Part { groups }) => format!("has about {} of it", size(groups.saturating_mul(GROUP_LEN))),
        Some(Statement::None) => "has none of it".to_owned(),
        Some(Statement::Silent) => "did not answer".to_owned(),
        Some(Statement::Unreachable { reason }) => format!("could not be asked: {reason}"),
        Some(Statement::Failed { reason }) => format!("was asked to send some: {reason}"),
    };
    match peer.ago_ms {
        Some(ago) => format!("{what} ({:.1} s ago)", ago as f64 / 1000.0),
        None => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{InPlace, InPlaceState};

    #[test]
    fn it_says_what_is_here_and_what_each_peer_said() {
        let peer = |last| PeerReport { spec: "ab@h:1".into(), last, ago_ms: Some(1500) };
        let unreachable = Statement::Unreachable { reason: "nobody is there".into() };
        let report = BlobReport {
            hash: ContentHash::of(b"x"),
            state: BlobState::Partial,
            size: Some(1 << 20),
            held: 1 << 14,
            in_place: Some(InPlace { path: "/a\nb".into(), state: InPlaceState::Changed }),
            offline: false,
            transfers: Vec::new(),
            peers: vec![peer(Some(Statement::All)), peer(None), peer(Some(unreachable))],
        };
        let text = for_people(&report);
        for part in [
            "16.0 KiB of 1.0 MiB",
            "offline  no",
            "h:1: has all of it (1.5 s ago)",
            "/a\\nb, from which it was served, has changed since: add it again",
            "--ask",
            "nobody is there (1.5 s",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert!(!text.contains('@'));
    }
}
