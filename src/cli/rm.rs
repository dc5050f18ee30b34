//! `byhash rm`.

use clap::Args;

use super::failure::{CommandError, complain};
use super::flags::StoreFlags;
use super::hashes::HashArgs;
use super::keeper::{Keeper, out_of_place};
use super::node::block_on;
use crate::control::{Order, Report};

/// The arguments of `byhash rm`.
///
/// Pinned blobs and added ones go too. A program that is reading one goes on reading it. What peers hold
/// stays there, and can be fetched again.
#[derive(Debug, Args)]
pub(super) struct Rm {
    #[command(flatten)]
    hashes: HashArgs,

    #[command(flatten)]
    store: StoreFlags,
}

impl Rm {
    pub(super) fn run(self) -> Result<(), CommandError> {
        let mut hashes = self.hashes.hashes()?;
        let (state, cache_size) = self.store.store()?;
        let mut all_done = true;
        block_on(async {
            loop {
                let batch = hashes.next_batch()?;
                if batch.is_empty() {
                    return Ok(());
                }
                // Anew each time: whoever hands over the hashes may take his time.
                let mut keeper = Keeper::reach_existing(&state, cache_size).await?;
                let order = Order::Remove { hashes: batch.clone() };
                let Report::Remove { freed } = keeper.order(order).await? else { return Err(out_of_place()) };
                for (hash, freed) in batch.iter().zip(freed) {
                    if freed.is_none() {
                        complain(&format_args!("{hash}: nothing of it is held here"));
                        all_done = false;
                    }
                }
            }
        })?;
        if all_done { Ok(()) } else { Err(CommandError::AlreadySaid) }
    }
}
