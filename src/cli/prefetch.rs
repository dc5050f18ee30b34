//! `byhash prefetch`.

use clap::Args;

use super::failure::{CommandError, complain};
use super::flags::StateFlags;
use super::hashes::HashArgs;
use super::node::{block_on, running_node};
use super::progress::{Shown, bytes_bar};
use crate::control::PrefetchEvent;

/// The arguments of `byhash prefetch`.
///
/// What is already there is not fetched again. Whoever reads a file meanwhile goes first. Interrupted, it
/// keeps what has come.
#[derive(Debug, Args)]
pub(super) struct Prefetch {
    #[command(flatten)]
    hashes: HashArgs,

    #[command(flatten)]
    which: StateFlags,
}

impl Prefetch {
    pub(super) fn run(self) -> Result<(), CommandError> {
        let mut hashes = self.hashes.hashes()?;
        let state = self.which.state()?;
        let bar = Shown(bytes_bar(Some(0), "prefetch"));
        // Of the batches before.
        let (mut done_before, mut total_before) = (0, 0);
        let mut all_done = true;
        block_on(async {
            loop {
                let batch = hashes.next_batch()?;
                if batch.is_empty() {
                    return Ok(());
                }
                // Anew for each batch: the next one may be long in coming.
                let mut node = running_node(&state).await?;
                let mut events = node.prefetch(batch).await?;
                let (mut done_now, mut total_now) = (0, 0);
                while let Some(event) = events.next().await? {
                    match event {
                        PrefetchEvent::Progress { done, total } => {
                            (done_now, total_now) = (done, total);
                            bar.0.set_length(total_before + total);
                            bar.0.set_position(done_before + done);
                        }
                        PrefetchEvent::Fetched { failure: None, .. } => {}
                        PrefetchEvent::Fetched { hash, failure: Some(failure) } => {
                            bar.0.suspend(|| complain(&format_args!("{hash}: {failure}")));
                            all_done = false;
                        }
                    }
                }
                done_before += done_now;
                total_before += total_now;
            }
        })?;
        if all_done { Ok(()) } else { Err(CommandError::AlreadySaid) }
    }
}
