//! The messages, and the rules that each must keep.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::RefusedReason;
use super::bounded::{bounded_vec, optional_transfer_id, transfer_id};
use super::limits::{
    GROUP_LEN, MAX_BLOB_GROUPS, MAX_BLOB_LEN, MAX_HAVE_CONTENT, MAX_HAVE_KEYS, MAX_HAVE_RANGES, MAX_RANGE_LEN,
    MAX_WHOLE_END_LEN, VERSION,
};
use crate::ids::{BlobRange, ContentHash, HaveKey, KnowledgeProof, TransferId};
use crate::verify::{bytes_of, group_count, last_group, proof_len};

/// Message 1, the first in each direction. Its layout is the same in every version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the protocol that the sender speaks.
    pub version: u16,
    /// Bits for what the sender can do beyond version 1; unknown bits are ignored.
    pub features: u64,
    /// The longest range it serves in one exchange, in bytes: whole groups, not 0.
    pub max_range_len: u64,
    /// Proves that it knows the network secret, on this lane and in its role.
    pub secret_proof: Option<[u8; 32]>,
}

impl Hello {
    /// The greeting of this version, without features.
    pub fn new(secret_proof: Option<[u8; 32]>) -> Self {
        Self { version: VERSION, features: 0, max_range_len: MAX_RANGE_LEN, secret_proof }
    }
}

/// Message 2: which of these blobs do you have?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// 1 to [`MAX_HAVE_KEYS`] questions.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_HAVE_KEYS>")]
    pub questions: Vec<HaveQuestion>,
}

/// Do you have this blob?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaveQuestion {
    /// Its blinded hash.
    pub key: HaveKey,
    /// The asker knows the hash, and would have the blob with the answer, if it is that small.
    pub proof: Option<KnowledgeProof>,
}

impl HaveQuestion {
    /// A question that is to be answered, and no more.
    pub fn bare(key: HaveKey) -> Self {
        Self { key, proof: None }
    }
}

/// Message 3: the answers to a [`Have`], in the order of its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HaveReply {
    /// 1 to [`MAX_HAVE_KEYS`] answers. Whether there is one for each question, and content only where it was
    /// asked for, is for the asker to check.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_HAVE_KEYS>")]
    pub answers: Vec<HaveAnswer>,
    /// For each answer that is not [`HaveAnswer::None`], in their order: that who gives it knows the hash, as
    /// [`ContentHash::holder_proof`] has it. Whether that is so is for the asker to check: else it would tell the
    /// hash to whoever says yes.
    #[serde(deserialize_with = "bounded_vec::<_, _, MAX_HAVE_KEYS>")]
    pub proofs: Vec<KnowledgeProof>,
}

/// How much of one blob a holder has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HaveAnswer {
    /// Nothing.
    None,
    /// All of it.
    Complete,
    /// Some of it.
    Partial {
        /// Groups `start..end` by number, sorted and disjoint; [`MAX_HAVE_RANGES`] at most over
        /// all answers of a reply. A hint: left out from where the reply is full, so that there
        /// may be more than is said, and an empty list says "some".
        #[serde(deserialize_with = "bounded_vec::<_, _, MAX_HAVE_RANGES>")]
        ranges: Vec<(u64, u64)>,
    },
    /// All of it, and its end, which proves the size, comes behind this frame: the proof of the groups that
    /// [`end_groups`] says, then those groups, [`end_len`] bytes together and [`MAX_HAVE_CONTENT`] at most over all
    /// answers of a reply.
    WithEnd {
        /// The size of the blob in bytes, not 0, at most [`MAX_BLOB_LEN`]: a claim until its end matches the hash.
        size: u64,
    },
}

/// Message 4: send me this range of this blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The requester's name for this exchange.
    #[serde(with = "transfer_id")]
    pub transfer_id: TransferId,
    /// The blob.
    pub hash: ContentHash,
    /// The first byte, a multiple of [`GROUP_LEN`].
    pub start: u64,
    /// The length in bytes: a multiple of [`GROUP_LEN`], not 0, at most [`MAX_RANGE_LEN`]. What
    /// reaches beyond the blob's end is not sent.
    pub len: u64,
    /// The share of the holder's bandwidth among this requester's exchanges, not 0.
    pub weight: u8,
    /// The requester does not know the size: the last group is to come too, as its proof.
    pub prove_size: bool,
}

impl Request {
    /// The bytes asked for, before they are clipped to the size of the blob.
    pub fn range(&self) -> BlobRange {
        BlobRange::new(self.start, self.start + self.len)
    }
}

/// Message 5: it comes, right behind this frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// As in the request.
    #[serde(with = "transfer_id")]
    pub transfer_id: TransferId,
    /// The size of the blob in bytes, at most [`MAX_BLOB_LEN`]: a claim until it is proven.
    pub total_len: u64,
}

/// Message 6: the holder has not got all of the range (or could not read it).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotFound {
    /// As in the request.
    #[serde(with = "transfer_id")]
    pub transfer_id: TransferId,
}

/// Message 7: the holder has too much to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Busy {
    /// As in the request.
    #[serde(with = "transfer_id")]
    pub transfer_id: TransferId,
    /// When to come back, in milliseconds. A wish: the requester sets its own bounds.
    pub retry_after_ms: u32,
}

/// Message 8: no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The exchange refused; `None` if it is the lane, which then closes.
    #[serde(with = "optional_transfer_id")]
    pub transfer_id: Option<TransferId>,
    /// Why.
    pub reason: RefusedReason,
}

/// Any message.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is named after its message, documented there")]
pub enum Message {
    Hello(Hello),
    Have(Have),
    HaveReply(HaveReply),
    Request(Request),
    Found(Found),
    NotFound(NotFound),
    Busy(Busy),
    Refused(Refused),
}

impl Message {
    /// Checks the rules that the layout alone does not enforce; names the one that is broken.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let rule = |kept: bool, rule: &'static str| if kept { Ok(()) } else { Err(rule) };
        match self {
            Self::Hello(hello) => {
                rule(hello.max_range_len > 0, "a longest range is not empty")?;
                rule(hello.max_range_len.is_multiple_of(GROUP_LEN), "a longest range is whole groups")
            }
            Self::Have(have) => {
                rule(!have.questions.is_empty(), "a have-query has a question")?;
                rule(have.questions.len() <= MAX_HAVE_KEYS, "a have-query has few questions")
            }
            Self::HaveReply(reply) => {
                check_answers(&reply.answers)?;
                let claims = reply.answers.iter().filter(|answer| **answer != HaveAnswer::None).count();
                rule(reply.proofs.len() == claims, "who claims to have something proves to know it")
            }
            Self::Request(request) => {
                rule(request.start.is_multiple_of(GROUP_LEN), "a range begins at a group")?;
                rule(request.start < MAX_BLOB_LEN, "a range begins within the longest blob")?;
                rule(request.len > 0, "a range is not empty")?;
                rule(request.len.is_multiple_of(GROUP_LEN), "a range is whole groups")?;
                rule(request.len <= MAX_RANGE_LEN, "a range is not too long")?;
                rule(request.weight > 0, "a weight is not 0")
            }
            Self::Found(found) => rule(found.total_len <= MAX_BLOB_LEN, "a blob is not too long"),
            Self::NotFound(_) | Self::Busy(_) | Self::Refused(_) => Ok(()),
        }
    }
}

/// The groups that come behind a [`HaveAnswer::WithEnd`] for a blob of `size` bytes: all up to [`MAX_WHOLE_END_LEN`],
/// the last one of a larger blob.
pub fn end_groups(size: u64) -> Range<u64> {
    if size <= MAX_WHOLE_END_LEN { 0..group_count(size) } else { last_group(size) }
}

/// The bytes that come behind a [`HaveAnswer::WithEnd`] for a blob of `size` bytes: those of the proof of [`end_groups`],
/// [`MAX_DEPTH`](crate::verify::MAX_DEPTH) nodes at most, and those of the groups, at most [`MAX_WHOLE_END_LEN`].
pub fn end_lens(size: u64) -> (usize, usize) {
    let groups = end_groups(size);
    (proof_len(size, std::slice::from_ref(&groups)), bytes_of(size, &groups).len() as usize)
}

/// The same together.
pub fn end_len(size: u64) -> usize {
    let (proof, content) = end_lens(size);
    proof + content
}

fn check_answers(answers: &[HaveAnswer]) -> Result<(), &'static str> {
    if answers.is_empty() || answers.len() > MAX_HAVE_KEYS {
        return Err("a have-reply has an answer for each key");
    }
    let (mut ranges_seen, mut content) = (0, 0);
    for answer in answers {
        let ranges = match answer {
            HaveAnswer::None | HaveAnswer::Complete => continue,
            HaveAnswer::Partial { ranges } => ranges,
            HaveAnswer::WithEnd { size } => {
                if *size == 0 || *size > MAX_BLOB_LEN {
                    return Err("what comes with an answer is the end of a blob");
                }
                content += end_len(*size);
                if content > MAX_HAVE_CONTENT {
                    return Err("what comes with answers is not much in all");
                }
                continue;
            }
        };
        ranges_seen += ranges.len();
        if ranges_seen > MAX_HAVE_RANGES {
            return Err("a have-reply has few ranges");
        }
        let mut covered = 0;
        for &(start, end) in ranges {
            if start < covered || start >= end || end > MAX_BLOB_GROUPS {
                return Err("ranges are not empty, sorted, disjoint and within the longest blob");
            }
            covered = end;
        }
    }
    Ok(())
}
