//! `byhash transfers`.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::{Args, Subcommand};

use super::failure::CommandError;
use super::flags::StateFlags;
use super::node::{block_on, running_node};
use super::output::{print, print_json, stdout_error};
use super::signals::interrupted;
use super::table::{columns, size};
use crate::ids::{ParseIdError, TransferId};
use crate::transfer::{Direction, TransferState, TransferStatus};

/// What a transfer's id has, in hexadecimal digits.
const ID_DIGITS: usize = 16;

/// How often the live view is drawn.
const REDRAW_PERIOD: Duration = Duration::from_secs(1);

/// Takes the cursor to the top left corner and clears what is there.
const CLEAR_SCREEN: &str = "\x1b[H\x1b[2J";

/// The arguments of `byhash transfers`.
#[derive(Debug, Args)]
pub(super) struct Transfers {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List what is being fetched and sent
    Ls {
        /// Print everything as JSON
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        which: StateFlags,
    },
    /// Show one transfer, with what each peer does for it
    Show {
        /// The transfer's id: 16 hexadecimal digits
        id: String,

        #[command(flatten)]
        which: StateFlags,
    },
    /// End one transfer: whoever waits for its bytes gets an error, the other side stops at once
    Cancel {
        /// The transfer's id: 16 hexadecimal digits
        id: String,

        #[command(flatten)]
        which: StateFlags,
    },
    /// Show them all, again each second, until Ctrl-C
    Top {
        #[command(flatten)]
        which: StateFlags,
    },
}

impl Transfers {
    pub(super) fn run(self) -> Result<(), CommandError> {
        match self.action {
            Action::Ls { json, which } => {
                let transfers = list(&which)?;
                if json { print_json(&transfers) } else { print(&for_people(&transfers)) }
            }
            Action::Show { id, which } => {
                let id = parse(&id)?.to_string();
                let found = list(&which)?.into_iter().find(|transfer| transfer.id == id);
                print(&in_full(&found.ok_or_else(|| no_such(&id))?))
            }
            Action::Cancel { id, which } => {
                let id = parse(&id)?;
                let state = which.state()?;
                let found = block_on(async { Ok(running_node(&state).await?.cancel(id).await?) })?;
                if found { Ok(()) } else { Err(no_such(&id.to_string())) }
            }
            Action::Top { which } => top(&which),
        }
    }
}

fn list(which: &StateFlags) -> Result<Vec<TransferStatus>, CommandError> {
    let state = which.state()?;
    block_on(async { Ok(running_node(&state).await?.transfers().await?) })
}

/// The transfer that is meant. What has the form of an id, but not the bits of one, is none of any transfer.
fn parse(id: &str) -> Result<TransferId, CommandError> {
    let has_the_form = id.len() == ID_DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    id.parse().map_err(|error: ParseIdError| if has_the_form { no_such(id) } else { error.into() })
}

fn no_such(id: &str) -> CommandError {
    CommandError::Failed(format!("no transfer {id} is under way; 'byhash transfers ls' lists those that are"))
}

fn top(which: &StateFlags) -> Result<(), CommandError> {
    if !std::io::stdout().is_terminal() {
        let reason = "stdout is not a terminal: use 'byhash transfers ls' instead";
        return Err(CommandError::Misused(reason.to_owned()));
    }
    let state = which.state()?;
    block_on(async {
        let mut node = running_node(&state).await?;
        loop {
            let text = for_people(&node.transfers().await?);
            let mut stdout = std::io::stdout();
            stdout.write_all(format!("{CLEAR_SCREEN}{text}").as_bytes()).map_err(stdout_error)?;
            stdout.flush().map_err(stdout_error)?;
            tokio::select! {
                () = tokio::time::sleep(REDRAW_PERIOD) => {}
                stopped = interrupted() => return stopped,
            }
        }
    })
}

fn for_people(transfers: &[TransferStatus]) -> String {
    if transfers.is_empty() {
        return "nothing is being fetched or sent\n".to_owned();
    }
    let head = ["ID", "WAY", "HASH", "STATE", "DONE", "OF", "RATE", "AGE", "PEERS"].map(str::to_owned);
    let row = |transfer: &TransferStatus| {
        let peers = match &transfer.peers[..] {
            [] => "-".to_owned(),
            [share] => share.peer.short(),
            shares => format!("{} of them", shares.len()),
        };
        [
            transfer.id.clone(),
            way(transfer.direction).to_owned(),
            transfer.hash.to_string()[..16].to_owned(),
            state_name(transfer.state).to_owned(),
            size(transfer.done),
            transfer.total.map_or("?".to_owned(), size),
            rate(transfer.rate),
            age(transfer.age_ms),
            peers,
        ]
    };
    let rows: Vec<_> = std::iter::once(head).chain(transfers.iter().map(row)).collect();
    columns(&rows)
}

fn in_full(transfer: &TransferStatus) -> String {
    let row = |name: &str, value: String| [name.to_owned(), value];
    let of = transfer.total.map_or("an unknown size".to_owned(), size);
    let mut rows = vec![
        row("id", transfer.id.clone()),
        row("way", way(transfer.direction).to_owned()),
        row("hash", transfer.hash.to_string()),
        row("state", state_name(transfer.state).to_owned()),
        row("done", format!("{} of {of}, {} since {}", size(transfer.done), rate(transfer.rate), age(transfer.age_ms))),
    ];
    rows.extend(transfer.peers.iter().map(|share| {
        row("peer", format!("{}  {}, {} requests under way", share.peer, size(share.done), share.exchanges))
    }));
    columns(&rows)
}

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Fetch => "in",
        Direction::Serve => "out",
    }
}

pub(super) fn state_name(state: TransferState) -> &'static str {
    match state {
        TransferState::Asking => "asking",
        TransferState::Moving => "moving",
        TransferState::Waiting => "waiting",
        TransferState::Stalled => "stalled",
    }
}

fn rate(rate: u64) -> String {
    format!("{}/s", size(rate))
}

fn age(ms: u64) -> String {
    format!("{:.1} s", ms as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ContentHash, PeerId};
    use crate::transfer::PeerShare;

    fn transfer() -> TransferStatus {
        let share = |number| PeerShare { peer: PeerId::from_bytes([number; 32]), done: 512, exchanges: 2 };
        TransferStatus {
            id: TransferId::from_nonce(7).to_string(),
            direction: Direction::Fetch,
            hash: ContentHash::of(b"x"),
            state: TransferState::Moving,
            done: 1024,
            total: Some(1 << 20),
            rate: 2048,
            age_ms: 1500,
            peers: vec![share(0xaa), share(0xbb)],
        }
    }

    #[test]
    fn a_transfer_is_a_line() {
        let text = for_people(&[transfer()]);
        let line = text.lines().nth(1).unwrap();
        for part in ["2000000000000007", "in", "moving", "1.0 KiB", "1.0 MiB", "2.0 KiB/s", "1.5 s", "2 of them"] {
            assert!(line.contains(part), "{part} is missing in {line}");
        }
        assert!(for_people(&[]).contains("nothing"));
    }

    #[test]
    fn in_full_each_peer_has_a_line() {
        let text = in_full(&TransferStatus { total: None, ..transfer() });
        assert_eq!(text.lines().filter(|line| line.starts_with("peer")).count(), 2);
        assert!(text.contains(&ContentHash::of(b"x").to_string()) && text.contains("unknown size"), "{text}");
    }
}
