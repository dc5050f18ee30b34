//! What people can have done with a store, whoever has it open: the node, or the command itself.

use serde::{Deserialize, Serialize};

use crate::ids::ContentHash;
use crate::store::import::StagedBlob;
use crate::store::{Collected, HeldBlob, Page, PinOutcome, Scrubbed, Store, StoreError};

/// The most hashes that one order may name: bounds what it does at a time, and its message to some
/// 70 KiB.
pub const MAX_HASHES: usize = 1024;

/// Blobs that one report tells of: some 40 KiB of JSON, or 600 KiB if all are served from files whose paths
/// are as long as can be.
pub const PAGE_LEN: usize = 128;

/// The most staged blobs that one order may name: some 160 KiB of JSON.
pub const MAX_STAGED: usize = 1024;

/// What is told of why one of them was not added, in bytes at most; a longer sentence is cut.
const MAX_FAILURE_LEN: usize = 512;

/// Bytes that one [`Order::Verify`] checks (64 MiB): a fraction of a second on most disks.
const VERIFY_STEP: u64 = 64 << 20;

/// Ranges found damaged or lacking after which it ends: bounds its answer.
const VERIFY_RANGES: usize = 4096;

/// What is to be done. All of it takes a bounded time, so that whoever asks can stop in between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "lowercase")]
pub enum Order {
    /// List what is held, a page of it.
    List {
        /// Where the last page ended.
        after: Option<ContentHash>,
    },
    /// Show those of these blobs of which something is held.
    Show {
        /// Their names, at most [`PAGE_LEN`].
        hashes: Vec<ContentHash>,
    },
    /// Keep blobs from eviction, or no longer.
    Pin {
        /// Their names, at most [`MAX_HASHES`].
        hashes: Vec<ContentHash>,
        /// Whether to keep them.
        pinned: bool,
    },
    /// Remove blobs.
    Remove {
        /// Their names, at most [`MAX_HASHES`].
        hashes: Vec<ContentHash>,
    },
    /// Check blobs as the disk has them, one after the other, as far as a step goes.
    Verify {
        /// Their names, at most [`MAX_HASHES`].
        hashes: Vec<ContentHash>,
        /// The group of the first one to begin at.
        group: u64,
    },
    /// Make room for a batch of files on their way in.
    MakeRoom {
        /// The batch.
        batch: String,
        /// What it may take in all, in bytes.
        bytes: u64,
    },
    /// Take staged blobs over, durably.
    Adopt {
        /// At most [`MAX_STAGED`].
        blobs: Vec<StagedBlob>,
    },
    /// Remove some of what nobody has asked to keep.
    Collect {
        /// What the store is to take, in bytes; `None`: what it may.
        target: Option<u64>,
    },
}

/// What came of an [`Order`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "lowercase")]
pub enum Report {
    /// Of [`Order::List`].
    List(Page),
    /// Of [`Order::Show`].
    Show {
        /// In the order asked for.
        blobs: Vec<HeldBlob>,
    },
    /// Of [`Order::Pin`].
    Pin {
        /// One a hash.
        outcomes: Vec<PinOutcome>,
    },
    /// Of [`Order::Remove`].
    Remove {
        /// One a hash: the bytes on disk that went; `None` where nothing was held.
        freed: Vec<Option<u64>>,
    },
    /// Of [`Order::Verify`].
    Verify {
        /// One a hash, as far as the step went; `None` where nothing is held. If the last one has a group
        /// to go on at, it is not through.
        results: Vec<Option<Scrubbed>>,
    },
    /// Of [`Order::MakeRoom`]: there is room.
    Room,
    /// Of [`Order::Adopt`].
    Adopted {
        /// One a blob: why it is not there, a sentence; `None` if it is.
        failures: Vec<Option<String>>,
    },
    /// Of [`Order::Collect`].
    Collect(Collected),
}

impl Order {
    /// The blobs that it has to do with, as far as it names them; `None`: all that there are. (Of a list, the first page
    /// stands for all.)
    pub fn about(&self) -> Option<&[ContentHash]> {
        match self {
            Self::Show { hashes }
            | Self::Pin { hashes, .. }
            | Self::Remove { hashes }
            | Self::Verify { hashes, .. } => Some(hashes),
            Self::List { after: None } | Self::Collect { .. } => None,
            Self::List { after: Some(_) } | Self::MakeRoom { .. } | Self::Adopt { .. } => Some(&[]),
        }
    }

    /// Does it. Blocks.
    pub fn carry_out(&self, store: &Store) -> Result<Report, StoreError> {
        Ok(match self {
            Self::List { after } => Report::List(store.list(*after, PAGE_LEN)?),
            Self::Show { hashes } => Report::Show { blobs: store.show(hashes)? },
            Self::Pin { hashes, pinned } => Report::Pin { outcomes: store.set_pinned(hashes, *pinned)? },
            Self::Remove { hashes } => Report::Remove { freed: store.remove_all(hashes)? },
            Self::Verify { hashes, group } => Report::Verify { results: verify(store, hashes, *group, VERIFY_STEP)? },
            Self::MakeRoom { batch, bytes } => {
                store.make_room(batch, *bytes)?;
                Report::Room
            }
            Self::Adopt { blobs } => {
                let failure = |result: Result<(), StoreError>| result.err().map(|error| cut(error.to_string()));
                Report::Adopted { failures: store.adopt_all(blobs).into_iter().map(failure).collect() }
            }
            Self::Collect { target } => Report::Collect(store.collect(*target)?),
        })
    }
}

/// The beginning of a sentence that is too long.
fn cut(mut sentence: String) -> String {
    if sentence.len() > MAX_FAILURE_LEN {
        sentence.truncate(sentence.floor_char_boundary(MAX_FAILURE_LEN));
        sentence.push('…');
    }
    sentence
}

/// Checks about `left` bytes of `hashes`, the first from `group` on.
fn verify(
    store: &Store,
    hashes: &[ContentHash],
    mut group: u64,
    mut left: u64,
) -> Result<Vec<Option<Scrubbed>>, StoreError> {
    let mut results = Vec::new();
    let (mut ranges, mut paths) = (0, 0);
    for hash in hashes {
        let result = store.scrub(hash, std::mem::take(&mut group), left)?;
        if let Some(scrubbed) = &result {
            left = left.saturating_sub(scrubbed.checked);
            ranges += scrubbed.dropped.len() + scrubbed.lacking.len();
            paths += usize::from(scrubbed.in_place.is_some());
        }
        let unfinished = result.as_ref().is_some_and(|scrubbed| scrubbed.next.is_some());
        results.push(result);
        if unfinished || left == 0 || ranges >= VERIFY_RANGES || paths >= PAGE_LEN {
            break;
        }
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::super::{MAX_MESSAGE_LEN, Request, Response};
    use super::*;
    use crate::store::import::{Source, stage};
    use crate::store::{Config, InPlace, InPlaceState, Origin};
    use crate::verify::GROUP_LEN;
    use std::sync::Arc;

    #[test]
    fn the_json_of_orders_and_reports() {
        let hash = ContentHash::EMPTY;
        let request = Request::Store(Order::Pin { hashes: vec![hash], pinned: true });
        let json = serde_json::to_string(&request).unwrap();
        assert_eq!(json, format!(r#"{{"request":"store","order":"pin","hashes":["{hash}"],"pinned":true}}"#));
        assert_eq!(serde_json::from_str::<Request>(&json).unwrap(), request);
        let report = Response::Store(Report::Remove { freed: vec![Some(u64::MAX), None] });
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(json, format!(r#"{{"response":"store","report":"remove","freed":[{},null]}}"#, u64::MAX));
        assert_eq!(serde_json::from_str::<Response>(&json).unwrap(), report);
    }

    #[test]
    fn the_largest_messages_fit() {
        let hash = ContentHash::from_bytes([0xff; 32]);
        let order = Request::Store(Order::Remove { hashes: vec![hash; MAX_HASHES] });
        assert!(serde_json::to_vec(&order).unwrap().len() < MAX_MESSAGE_LEN);
        let blob = HeldBlob {
            hash,
            size: u64::MAX,
            held: u64::MAX,
            complete: false,
            origin: Origin::Fetched,
            pinned: false,
            last_use_ms: u64::MAX,
            in_place: Some(InPlace { path: "p".repeat(4096), state: InPlaceState::Changed }),
        };
        let report = Response::Store(Report::Show { blobs: vec![blob; PAGE_LEN] });
        assert!(serde_json::to_vec(&report).unwrap().len() < MAX_MESSAGE_LEN);
        let staged = StagedBlob { hash, size: u64::MAX, name: "n".repeat(80), reference: false };
        let order = Request::Store(Order::Adopt { blobs: vec![staged; MAX_STAGED] });
        assert!(serde_json::to_vec(&order).unwrap().len() < MAX_MESSAGE_LEN);
        let report = Response::Store(Report::Adopted { failures: vec![Some(cut("ä".repeat(4096))); MAX_STAGED] });
        assert!(serde_json::to_vec(&report).unwrap().len() < MAX_MESSAGE_LEN);
    }

    #[test]
    fn a_long_sentence_is_cut_between_letters() {
        assert_eq!(cut("short".to_owned()), "short");
        assert_eq!(cut("ä".repeat(256)), "ä".repeat(256));
        assert_eq!(cut(format!("a{}", "ä".repeat(256))), format!("a{}…", "ä".repeat(255)));
    }

    #[test]
    fn a_step_of_verifying_is_bounded_and_tells_where_to_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { dir: dir.path().to_owned(), capacity: 1 << 24, keep_free: 0 };
        let store = Store::open(config, Arc::default()).unwrap();
        let hashes = [1, 2, 3].map(|seed| {
            let content = [seed; 2 * GROUP_LEN as usize];
            let staged = stage(dir.path(), Source::Stream(&mut &content[..]), &|_| {}).unwrap();
            store.adopt(staged.blob()).unwrap();
            staged.blob().hash
        });
        let (mut at, mut group, mut steps, mut checked) = (0, 0, 0, 0);
        while at < hashes.len() {
            let results = verify(&store, &hashes[at..], group, 3 * GROUP_LEN).unwrap();
            let last = results.last().unwrap().as_ref().unwrap().next;
            checked += results.iter().flatten().map(|scrubbed| scrubbed.checked).sum::<u64>();
            (at, group) = (at + results.len() - usize::from(last.is_some()), last.unwrap_or(0));
            steps += 1;
        }
        assert_eq!((steps, checked), (2, 6 * GROUP_LEN));
    }
}
