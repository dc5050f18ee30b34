//! `byhash verify`.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use clap::Args;
use serde::Serialize;

use super::failure::{CommandError, complain};
use super::flags::StoreFlags;
use super::hashes::{Hashes, MaybeHashArgs};
use super::keeper::{Keeper, out_of_place};
use super::node::block_on;
use super::output::{Output, json};
use super::progress::{Shown, bytes_bar};
use super::table::size;
use super::why::ADD_AGAIN;
use crate::config::StateDir;
use crate::control::{Order, Report};
use crate::ids::ContentHash;
use crate::store::{Origin, Scrubbed};

/// The arguments of `byhash verify`.
///
/// Every 16 KiB is read from the disk and checked, whether it was found right before or not. What is wrong
/// or missing is dropped, as it would be by a read, so that it can be fetched again. What was added here or is
/// pinned and is not whole any more counts as damaged, whenever the damage was found. Exits with 1 if there is damage
/// that has not been mended.
#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    hashes: MaybeHashArgs,

    /// Fetch what is damaged again, at once; a node must run
    #[arg(long)]
    repair: bool,

    /// Print the figures as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    store: StoreFlags,
}

/// The figures.
#[derive(Debug, Default, Serialize)]
struct Figures {
    checked_blobs: u64,
    checked_bytes: u64,
    /// Blobs of which something was found damaged, or that were added here or are pinned and were not whole any more.
    damaged_blobs: u64,
    /// What of them was found damaged now.
    dropped_bytes: u64,
    mended_blobs: u64,
    /// Blobs that could not be read, though that is no damage, or are not held.
    unchecked_blobs: u64,
}

impl Figures {
    fn all_is_well(&self) -> bool {
        self.mended_blobs == self.damaged_blobs && self.unchecked_blobs == 0
    }
}

impl Verify {
    pub(super) fn run(self) -> Result<(), CommandError> {
        let hashes = self.hashes.hashes()?;
        let (state, cache_size) = self.store.store()?;
        let figures = block_on(async {
            // That none runs is told before anything is dropped.
            let mut keeper = match self.repair {
                true => Keeper::reach_node(&state, cache_size).await?,
                false => Keeper::reach_existing(&state, cache_size).await?,
            };
            let total = match &hashes {
                None if std::io::stderr().is_terminal() => Some(held(&mut keeper).await?),
                _ => None,
            };
            let bar = Shown(bytes_bar(total, "verify"));
            Check { state, keeper, repair: self.repair, figures: Figures::default(), damaged: BTreeMap::new(), bar }
                .all(hashes)
                .await
        })?;
        let mut output = Output::default();
        output.print(&if self.json { json(&figures)? } else { for_people(&figures) });
        output.conclude(if figures.all_is_well() { Ok(()) } else { Err(CommandError::AlreadySaid) })
    }
}

/// Bytes of all that is held.
async fn held(keeper: &mut Keeper) -> Result<u64, CommandError> {
    let (mut sum, mut after) = (0, None);
    loop {
        sum += keeper.page(&mut after).await?.iter().map(|blob| blob.held).sum::<u64>();
        if after.is_none() {
            return Ok(sum);
        }
    }
}

/// What is damaged of a blob.
#[derive(Debug, Default)]
struct Damage {
    /// Bytes that this check found wrong or missing.
    dropped: u64,
    /// Bytes that were not held before, and should have been.
    lacking: u64,
    /// Why it was not mended, if it was not.
    unmended: Option<String>,
}

impl Damage {
    fn for_people(&self) -> String {
        match (self.dropped, self.lacking) {
            (dropped, 0) => format!("{} were damaged and have been dropped", size(dropped)),
            (0, lacking) => format!("{} have been missing since before", size(lacking)),
            (dropped, lacking) => format!(
                "{} were damaged and have been dropped, and {} have been missing since before",
                size(dropped),
                size(lacking)
            ),
        }
    }
}

/// A check under way.
struct Check {
    state: StateDir,
    keeper: Keeper,
    /// What is damaged is fetched again.
    repair: bool,
    figures: Figures,
    /// The damage to the blob that is being checked.
    damaged: BTreeMap<ContentHash, Damage>,
    bar: Shown,
}

impl Check {
    async fn all(mut self, hashes: Option<Hashes>) -> Result<Figures, CommandError> {
        match hashes {
            Some(mut hashes) => loop {
                let batch = hashes.next_batch()?;
                if batch.is_empty() {
                    break;
                }
                self.batch(&batch, true).await?;
            },
            None => {
                let mut after = None;
                loop {
                    let page = self.keeper.page(&mut after).await?;
                    let batch: Vec<_> = page.iter().map(|blob| blob.hash).collect();
                    self.batch(&batch, false).await?;
                    if after.is_none() {
                        break;
                    }
                }
            }
        }
        Ok(self.figures)
    }

    /// Checks a batch; `named` if the user has named these blobs, so that one that is not held is to be said.
    async fn batch(&mut self, mut batch: &[ContentHash], named: bool) -> Result<(), CommandError> {
        let mut group = 0;
        while !batch.is_empty() {
            let order = Order::Verify { hashes: batch.to_vec(), group };
            let Report::Verify { results } = self.keeper.order(order).await? else { return Err(out_of_place()) };
            if results.is_empty() {
                return Err(out_of_place());
            }
            group = 0;
            for result in results {
                let (hash, rest) = batch.split_first().ok_or_else(out_of_place)?;
                let next = match result {
                    Some(scrubbed) => self.note(&scrubbed).await?,
                    None if named => {
                        self.say(&format_args!("{hash}: nothing of it is held here"));
                        self.figures.unchecked_blobs += 1;
                        None
                    }
                    None => None,
                };
                match next {
                    Some(next) => group = next,
                    None => batch = rest,
                }
            }
        }
        Ok(())
    }

    /// Takes note of a step, and mends what it has dropped or found lacking. Gives the group to go on at.
    async fn note(&mut self, scrubbed: &Scrubbed) -> Result<Option<u64>, CommandError> {
        self.figures.checked_bytes += scrubbed.checked;
        self.bar.0.set_position(self.figures.checked_bytes);
        if !scrubbed.to_mend().is_empty() {
            let unmended = match self.repair {
                true => self.keeper.mend(scrubbed).await.err().map(|error| error.to_string()),
                false => Some(format!("'byhash prefetch {}' fetches it again where a peer has it", scrubbed.hash)),
            };
            let damage = self.damaged.entry(scrubbed.hash).or_default();
            damage.dropped += scrubbed.dropped_bytes;
            damage.lacking += scrubbed.lacking_bytes;
            damage.unmended = damage.unmended.take().or(unmended);
            self.figures.dropped_bytes += scrubbed.dropped_bytes;
        }
        if scrubbed.next.is_none() {
            self.figures.checked_blobs += 1;
            self.conclude(scrubbed);
        }
        Ok(scrubbed.next)
    }

    /// Says what there is to say of a blob that is through.
    fn conclude(&mut self, scrubbed: &Scrubbed) {
        let hash = scrubbed.hash;
        if let Some(failure) = &scrubbed.failure {
            self.say(&format_args!("{hash}: {failure}"));
            self.figures.unchecked_blobs += 1;
        }
        let Some(found) = self.damaged.remove(&hash) else { return };
        self.figures.damaged_blobs += 1;
        let damage = match (scrubbed.origin, scrubbed.in_place.as_ref().and_then(|place| place.complaint())) {
            (Origin::Reference, why) => {
                let why = why.unwrap_or("the file from which it was served has changed".to_owned());
                format!("{hash}: {why}; it is served no more{ADD_AGAIN}")
            }
            _ => format!("{hash}: {}", found.for_people()),
        };
        let kept = match scrubbed.origin {
            Origin::Local => format!("; it was added here: add it again, to {}", self.state.path().display()),
            Origin::Fetched if scrubbed.pinned => "; it is pinned".to_owned(),
            Origin::Fetched | Origin::Reference => String::new(),
        };
        match found.unmended {
            None => {
                self.figures.mended_blobs += 1;
                self.say(&format_args!("{damage}; they have been fetched again"));
            }
            Some(reason) => self.say(&format_args!("{damage}: {reason}{kept}")),
        }
    }

    fn say(&self, sentence: &dyn std::fmt::Display) {
        self.bar.0.suspend(|| complain(sentence));
    }
}

fn for_people(figures: &Figures) -> String {
    let blobs = |count: u64| format!("{count} {}", if count == 1 { "blob" } else { "blobs" });
    let checked = format!("checked {}, {}", blobs(figures.checked_blobs), size(figures.checked_bytes));
    let damage = match (figures.damaged_blobs, figures.mended_blobs) {
        (0, _) => "no damage".to_owned(),
        (damaged, mended) => format!("{damaged} damaged, {mended} mended"),
    };
    let unchecked = match figures.unchecked_blobs {
        0 => String::new(),
        count => format!("; {} could not be checked", blobs(count)),
    };
    format!("{checked}: {damage}{unchecked}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_tells_damage_from_what_was_mended() {
        let mut figures = Figures { checked_blobs: 2, checked_bytes: 3 << 20, ..Figures::default() };
        assert_eq!(for_people(&figures), "checked 2 blobs, 3.0 MiB: no damage\n");
        assert!(figures.all_is_well());
        figures.damaged_blobs = 1;
        assert!(for_people(&figures).ends_with(": 1 damaged, 0 mended\n") && !figures.all_is_well());
        figures.mended_blobs = 1;
        assert!(for_people(&figures).contains("1 mended") && figures.all_is_well());
        figures.unchecked_blobs = 1;
        assert!(for_people(&figures).ends_with("1 blob could not be checked\n") && !figures.all_is_well());
    }
}
