//! `byhash status`.

use clap::Args;

use super::failure::CommandError;
use super::flags::StateFlags;
use super::node::running_node;
use super::output::{print, print_json};
use super::table::{columns, size};
use crate::daemon::status::{NodeStatus, ScrubStatus};

/// The arguments of `byhash status`.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// Print everything as JSON, every metric included
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    which: StateFlags,
}

impl Status {
    pub(super) fn run(self) -> Result<(), CommandError> {
        let state = self.which.state()?;
        let status = super::node::block_on(async { Ok(running_node(&state).await?.status().await?) })?;
        if self.json { print_json(&status) } else { print(&for_people(&status)) }
    }
}

/// What a node does whose mount has been taken off.
pub(super) const GOES_ON: &str = "files of it are still open, and its node ends once they are closed";

fn for_people(status: &NodeStatus) -> String {
    let metric = |name: &str| status.metrics.get(name).copied().unwrap_or(0);
    let usage = &status.usage;
    let row = |name: &str, value: String| [name.to_owned(), value];
    let mut rows = vec![
        row("node", status.id.to_string()),
        row("version", format!("{}, process {}, up {}", status.version, status.pid, duration(status.uptime_secs))),
        row("listening", status.listen.clone()),
    ];
    if let Some(mountpoint) = &status.mountpoint {
        rows.push(match status.detached {
            false => row("mounted", mountpoint.display().to_string()),
            true => row("unmounted", format!("{}; {GOES_ON}", mountpoint.display())),
        });
        rows.extend(status.mount.iter().map(|sentence| row("", sentence.clone())));
    }
    rows.extend([
        row(
            "cache",
            format!(
                "{} of {} in {} blobs, room for {}",
                size(usage.used),
                size(usage.capacity),
                usage.blobs,
                size(usage.available)
            ),
        ),
        row("lanes", format!("{} open, {} transfers under way", status.lanes_open, status.transfers_pending)),
        row(
            "fetched",
            format!("{} from peers, wrong replies: {}", size(metric("fetched_bytes")), metric("wrong_bytes")),
        ),
        row("served", format!("{} to peers", size(metric("served_bytes")))),
        row("read", format!("{} through the node, errors: {}", size(metric("read_bytes")), metric("read_errors"))),
        row(
            "opened",
            format!("{} passed through, {} streamed", metric("opens_passed_through"), metric("opens_streamed")),
        ),
    ]);
    rows.extend(status.scrub.as_ref().map(|scrub| row("scrub", scrubbing(scrub))));
    rows.extend(status.notes.iter().map(|note| row("note", note.clone())));
    columns(&rows)
}

/// How far scrubbing is.
fn scrubbing(scrub: &ScrubStatus) -> String {
    let state = if scrub.resting { "through with" } else { "at up to" };
    let rate = if scrub.resting { String::new() } else { format!("{}/s, ", size(scrub.rate)) };
    format!(
        "{state} {rate}{} blobs, {}; damaged since the start: {}, not mended: {} blobs",
        scrub.checked_blobs,
        size(scrub.checked_bytes),
        size(scrub.damaged_bytes),
        scrub.unmended_blobs
    )
}

/// `seconds` in the two largest units that say something.
fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        (_, _, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ids::PeerId;
    use crate::transfer::SpaceUsage;

    #[test]
    fn a_person_sees_id_room_traffic_and_notes() {
        let text = for_people(&NodeStatus {
            id: PeerId::from_bytes([0xab; 32]),
            version: "1.2.3".into(),
            pid: 77,
            listen: "0.0.0.0:7117".into(),
            mountpoint: Some("/mnt/net".into()),
            detached: false,
            uptime_secs: 3700,
            usage: SpaceUsage { capacity: 10 << 30, used: 3 << 20, available: 9 << 30, blobs: 4 },
            scrub: Some(ScrubStatus { rate: 1 << 20, checked_blobs: 7, ..ScrubStatus::default() }),
            lanes_open: 2,
            transfers_pending: 1,
            metrics: BTreeMap::from([("served_bytes".to_owned(), 5 << 20)]),
            mount: vec!["no passthrough: because".into()],
            notes: vec!["nobody may connect".into()],
        });
        for part in [
            "abababab",
            "1.2.3",
            "77",
            "1 h 1 min",
            "/mnt/net",
            "3.0 MiB of 10.0 GiB",
            "5.0 MiB to peers",
            "no passthrough: because",
            "1.0 MiB/s, 7 blobs",
            "nobody may connect",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in [(0, "0 s"), (61, "1 min 1 s"), (3600, "1 h 0 min"), (90_000, "1 d 1 h")] {
            assert_eq!(duration(seconds), text);
        }
    }
}
