//! `byhash pin` and `byhash unpin`.

use clap::Args;

use super::failure::{CommandError, complain};
use super::flags::StoreFlags;
use super::hashes::{HashArgs, Hashes};
use super::keeper::{Keeper, out_of_place};
use super::node::block_on;
use crate::control::{Order, Report};
use crate::store::PinOutcome;

/// The arguments of `byhash pin`.
///
/// Of a blob that is held in part, that part is kept; 'byhash prefetch' fetches the rest.
#[derive(Debug, Args)]
pub(super) struct Pin {
    #[command(flatten)]
    hashes: HashArgs,

    #[command(flatten)]
    store: StoreFlags,
}

/// The arguments of `byhash unpin`.
///
/// What was added here is not let go of this way: it stays until 'byhash rm'.
#[derive(Debug, Args)]
pub(super) struct Unpin {
    #[command(flatten)]
    hashes: HashArgs,

    #[command(flatten)]
    store: StoreFlags,
}

impl Pin {
    pub(super) fn run(self) -> Result<(), CommandError> {
        set_pinned(self.hashes.hashes()?, &self.store, true)
    }
}

impl Unpin {
    pub(super) fn run(self) -> Result<(), CommandError> {
        set_pinned(self.hashes.hashes()?, &self.store, false)
    }
}

fn set_pinned(mut hashes: Hashes, store: &StoreFlags, pinned: bool) -> Result<(), CommandError> {
    let (state, cache_size) = store.store()?;
    let mut all_done = true;
    block_on(async {
        loop {
            let batch = hashes.next_batch()?;
            if batch.is_empty() {
                return Ok(());
            }
            // Anew each time: whoever hands over the hashes may take his time.
            let mut keeper = Keeper::reach_existing(&state, cache_size).await?;
            let order = Order::Pin { hashes: batch.clone(), pinned };
            let Report::Pin { outcomes } = keeper.order(order).await? else { return Err(out_of_place()) };
            for (hash, outcome) in batch.iter().zip(outcomes) {
                match outcome {
                    PinOutcome::Done => continue,
                    PinOutcome::NotHeld if pinned => complain(&format_args!(
                        "{hash}: nothing of it is held here: fetch it first, with 'byhash prefetch {hash}'"
                    )),
                    PinOutcome::NotHeld => complain(&format_args!("{hash}: nothing of it is held here")),
                    PinOutcome::Local => complain(&format_args!(
                        "{hash}: it was added here, so it stays until it is removed, with 'byhash rm {hash}'"
                    )),
                }
                all_done = false;
            }
        }
    })?;
    if all_done { Ok(()) } else { Err(CommandError::AlreadySaid) }
}
