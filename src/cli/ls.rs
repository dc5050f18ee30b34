//! `byhash ls`.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use super::failure::{CommandError, complain};
use super::flags::StoreFlags;
use super::hashes::MaybeHashArgs;
use super::keeper::{Keeper, out_of_place};
use super::node::block_on;
use super::output::print;
use super::table::{age, size};
use crate::config::StateDir;
use crate::control::{Order, PAGE_LEN, Report};
use crate::ids::ContentHash;
use crate::store::{HeldBlob, InPlaceState, Origin};

/// The arguments of `byhash ls`.
#[derive(Debug, Args)]
pub(super) struct Ls {
    #[command(flatten)]
    hashes: MaybeHashArgs,

    /// Print everything as JSON: an array with an object a line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    store: StoreFlags,
}

impl Ls {
    pub(super) fn run(self) -> Result<(), CommandError> {
        let hashes = self.hashes.hashes()?;
        let (state, cache_size) = self.store.store()?;
        let mut list = List { json: self.json, lines: 0, now_ms: now_ms() };
        list.begin()?;
        // Asking must not make a store.
        if !state.path().exists() && hashes.is_none() {
            return list.end();
        }
        let mut all_held = true;
        // Whoever reads the list may take his time: nobody waits for the store meanwhile.
        let Some(mut hashes) = hashes else {
            let mut after = None;
            loop {
                let blobs = block_on(some(&state, cache_size, &mut after))?;
                list.put(&blobs)?;
                if after.is_none() {
                    return list.end();
                }
            }
        };
        loop {
            let batch = hashes.next_batch()?;
            if batch.is_empty() {
                break;
            }
            let blobs = block_on(those(&state, cache_size, &batch))?;
            list.put(&blobs)?;
            let held: HashSet<_> = blobs.iter().map(|blob| blob.hash).collect();
            for hash in batch.iter().filter(|hash| !held.contains(hash)) {
                complain(&format_args!("{hash}: nothing of it is held here"));
                all_held = false;
            }
        }
        list.end()?;
        if all_held { Ok(()) } else { Err(CommandError::AlreadySaid) }
    }
}

/// Blobs that are held in memory while they are printed, at most, but for one page.
const BATCH: usize = 16 * 1024;

/// Some of the blobs that are held, from `after` on, which is moved on; `None` if these are the last.
async fn some(
    state: &StateDir,
    cache_size: u64,
    after: &mut Option<ContentHash>,
) -> Result<Vec<HeldBlob>, CommandError> {
    let mut keeper = Keeper::reach_existing(state, cache_size).await?;
    let mut blobs = Vec::new();
    loop {
        blobs.extend(keeper.page(after).await?);
        if after.is_none() || blobs.len() >= BATCH {
            return Ok(blobs);
        }
    }
}

/// Those of `hashes` of which something is held.
async fn those(state: &StateDir, cache_size: u64, hashes: &[ContentHash]) -> Result<Vec<HeldBlob>, CommandError> {
    let mut keeper = Keeper::reach_existing(state, cache_size).await?;
    let mut found = Vec::new();
    for part in hashes.chunks(PAGE_LEN) {
        let report = keeper.order(Order::Show { hashes: part.to_vec() }).await?;
        let Report::Show { blobs } = report else { return Err(out_of_place()) };
        found.extend(blobs);
    }
    Ok(found)
}

/// A list that is printed as it comes.
struct List {
    json: bool,
    lines: u64,
    now_ms: u64,
}

impl List {
    fn begin(&self) -> Result<(), CommandError> {
        if self.json { print("[") } else { Ok(()) }
    }

    fn put(&mut self, blobs: &[HeldBlob]) -> Result<(), CommandError> {
        let mut text = String::new();
        for blob in blobs {
            if self.json {
                let json = serde_json::to_string(blob).map_err(|error| CommandError::Failed(error.to_string()))?;
                text += if self.lines == 0 { "\n" } else { ",\n" };
                text += &json;
            } else {
                if self.lines == 0 {
                    text += &line(["HASH", "STATE", "HELD", "SIZE", "LAST USE", "ORIGIN", "PIN"]);
                }
                text += &self.for_people(blob);
            }
            self.lines += 1;
        }
        print(&text)
    }

    fn end(&self) -> Result<(), CommandError> {
        if self.json { print("\n]\n") } else { Ok(()) }
    }

    fn for_people(&self, blob: &HeldBlob) -> String {
        line([
            &blob.hash.to_string(),
            match (&blob.in_place, blob.complete) {
                (Some(place), _) if place.state == InPlaceState::Changed => "changed",
                (Some(place), _) if place.state == InPlaceState::Missing => "missing",
                (_, true) => "complete",
                (_, false) => "partial",
            },
            &size(blob.held),
            &size(blob.size),
            &age(self.now_ms.saturating_sub(blob.last_use_ms)),
            match blob.origin {
                Origin::Local => "added",
                Origin::Fetched => "fetched",
                Origin::Reference => "in place",
            },
            &match (&blob.in_place, blob.pinned) {
                (Some(place), _) => format!("pinned  {}", place.path.escape_debug()),
                (None, true) => "pinned".to_owned(),
                (None, false) => "-".to_owned(),
            },
        ])
    }
}

/// A line of the list. The widths are fixed, since what comes later is not known yet.
fn line([hash, state, held, size, last_use, origin, pin]: [&str; 7]) -> String {
    format!("{hash:<64}  {state:<8}  {held:>10}  {size:>10}  {last_use:>8}  {origin:<9}  {pin}\n")
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::InPlace;

    #[test]
    fn a_blob_is_a_line_below_its_headings() {
        let list = List { json: false, lines: 0, now_ms: 7_200_000 };
        let blob = HeldBlob {
            hash: ContentHash::EMPTY,
            size: 3 << 30,
            held: 5 << 19,
            complete: false,
            origin: Origin::Fetched,
            pinned: true,
            last_use_ms: 0,
            in_place: None,
        };
        let words: Vec<_> = list.for_people(&blob).split_whitespace().map(str::to_owned).collect();
        let hash = ContentHash::EMPTY.to_string();
        assert_eq!(words, [&hash, "partial", "2.5", "MiB", "3.0", "GiB", "2", "h", "fetched", "pinned"]);
        let local = HeldBlob { complete: true, origin: Origin::Local, pinned: false, ..blob.clone() };
        assert!(list.for_people(&local).ends_with("added      -\n"));
        let in_place = Some(InPlace { path: "/a b\n".to_owned(), state: InPlaceState::Changed });
        let changed = list.for_people(&HeldBlob { origin: Origin::Reference, in_place, ..blob });
        assert!(changed.contains(" changed ") && changed.ends_with("in place   pinned  /a b\\n\n"), "{changed}");
    }
}
