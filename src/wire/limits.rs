//! Every limit of the protocol, with its unit.

/// The version of the protocol spoken here.
pub const VERSION: u16 = 1;

/// The length of the length before each frame, in bytes.
pub const FRAME_PREFIX_LEN: usize = 4;

/// The longest frame, in bytes, without its length. The longest message is a full [`Have`] at a
/// little over 12 KiB; the rest is room for later fields.
///
/// [`Have`]: super::Have
pub const MAX_FRAME_LEN: usize = 16 << 10;

use crate::ids::KnowledgeProof;
pub use crate::verify::{GROUP_LEN, MAX_BLOB_LEN};

/// The longest range of one request, in bytes. The seed's limit for a blob.
pub const MAX_RANGE_LEN: u64 = 16 << 20;

/// The number of groups of the longest blob.
pub const MAX_BLOB_GROUPS: u64 = MAX_BLOB_LEN / GROUP_LEN;

/// The most keys in one have-query.
pub const MAX_HAVE_KEYS: usize = 256;

/// The most ranges in one reply to a have-query, over all its answers.
pub const MAX_HAVE_RANGES: usize = 256;

/// The largest blob, in bytes, all of which comes with the answer to a have-query. Such files are many (sources, headers,
/// objects), and with a request of their own they take twice the round trips.
pub const MAX_WHOLE_END_LEN: u64 = 4 * GROUP_LEN;

/// The most that may come behind one reply to a have-query, in bytes: it holds up the other answers of the reply. Two
/// of the largest whole blobs, and some small ones; the end of the longest blob fits.
pub const MAX_HAVE_CONTENT: usize = 10 * GROUP_LEN as usize;

/// The length of a [`HaveKey`](crate::ids::HaveKey), in bytes.
const HAVE_KEY_LEN: usize = 32;
/// The length of a question with its [`KnowledgeProof`], in bytes.
const MAX_QUESTION_LEN: usize = HAVE_KEY_LEN + 1 + KnowledgeProof::LEN;
/// The longest postcard form of a `u64`, in bytes.
const MAX_U64_LEN: usize = 10;
/// The longest postcard form of a count or a variant's number within these limits, in bytes.
const MAX_COUNT_LEN: usize = 2;

const _: () = assert!(MAX_HAVE_KEYS < 1 << (7 * MAX_COUNT_LEN) && MAX_HAVE_RANGES < 1 << (7 * MAX_COUNT_LEN));
const _: () = assert!(1 + MAX_COUNT_LEN + MAX_HAVE_KEYS * MAX_QUESTION_LEN <= MAX_FRAME_LEN);
/// The longest reply to a have-query, in bytes: answers, ranges and proofs.
const MAX_HAVE_REPLY_LEN: usize = 1
    + 2 * MAX_COUNT_LEN
    + MAX_HAVE_KEYS * (MAX_COUNT_LEN + MAX_U64_LEN + KnowledgeProof::LEN)
    + MAX_HAVE_RANGES * 2 * MAX_U64_LEN;
const _: () = assert!(MAX_HAVE_REPLY_LEN <= MAX_FRAME_LEN);
const _: () = assert!(MAX_FRAME_LEN <= u32::MAX as usize);
const _: () = assert!(MAX_RANGE_LEN.is_multiple_of(GROUP_LEN) && MAX_RANGE_LEN >= GROUP_LEN);
const _: () = assert!(MAX_BLOB_LEN.is_multiple_of(GROUP_LEN) && MAX_BLOB_LEN >= MAX_RANGE_LEN);
