//! `byhash gc`.

use clap::Args;
use serde::Serialize;

use super::failure::CommandError;
use super::flags::StoreFlags;
use super::keeper::{Keeper, out_of_place};
use super::node::block_on;
use super::output::{Output, json};
use super::table::size;
use crate::control::{Order, Report};

/// The arguments of `byhash gc`.
///
/// What is pinned, was added here or is in use stays; of the rest, what was used least recently goes
/// first. Prints the hashes of what it removed, and what that freed.
#[derive(Debug, Args)]
pub(super) struct Gc {
    /// Until the cache takes no more than this: 5G, 500MiB [default: --cache-size]. It fails if what stays takes more;
    /// 0 asks for no size, and is the same as --all
    #[arg(long, value_name = "SIZE", conflicts_with = "all")]
    to: Option<String>,

    /// All that may go
    #[arg(long)]
    all: bool,

    /// Print only the figures, as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    store: StoreFlags,
}

/// The figures, in bytes.
#[derive(Debug, Default, Serialize)]
struct Figures {
    removed_blobs: u64,
    freed_bytes: u64,
    used_bytes: u64,
}

impl Gc {
    pub(super) fn run(self) -> Result<(), CommandError> {
        let target = match &self.to {
            Some(text) => Some(parse_target(text)?),
            None => self.all.then_some(0),
        };
        let (state, cache_size) = self.store.store()?;
        let mut figures = Figures::default();
        let (mut excess, mut output) = (0, Output::default());
        // There is nothing to remove where there is no store.
        if state.path().exists() {
            excess = block_on(async {
                let mut keeper = Keeper::reach_existing(&state, cache_size).await?;
                loop {
                    let report = keeper.order(Order::Collect { target }).await?;
                    let Report::Collect(step) = report else { return Err(out_of_place()) };
                    let names: String = step.removed.iter().map(|(hash, _)| format!("{hash}\n")).collect();
                    figures.removed_blobs += step.removed.len() as u64;
                    figures.freed_bytes += step.removed.iter().map(|(_, bytes)| bytes).sum::<u64>();
                    figures.used_bytes = step.used;
                    if !self.json {
                        output.print(&names);
                    }
                    if !step.more {
                        return Ok(step.excess);
                    }
                }
            })?;
        }
        output.print(&if self.json { json(&figures)? } else { for_people(&figures) });
        // Nothing at all is no size that a store can have.
        let is_as_far_as_can_be = target == Some(0);
        output.conclude(if excess == 0 || is_as_far_as_can_be {
            Ok(())
        } else {
            Err(CommandError::Failed(format!(
                "{} more than asked for are pinned, were added here, are in use or belong to the index: see 'byhash ls'",
                size(excess)
            )))
        })
    }
}

fn for_people(figures: &Figures) -> String {
    let blobs = if figures.removed_blobs == 1 { "blob" } else { "blobs" };
    format!(
        "removed {} {blobs}, freed {}; the cache takes {} now\n",
        figures.removed_blobs,
        size(figures.freed_bytes),
        size(figures.used_bytes)
    )
}

fn parse_target(text: &str) -> Result<u64, CommandError> {
    let parsed = text.parse::<bytesize::ByteSize>().map(|size| size.as_u64());
    parsed.map_err(|_| {
        CommandError::Misused(format!("--to: '{text}' is not a size: for instance 5G or 500MiB is wanted"))
    })
}
