//! BLAKE3 tree proofs: which bytes tie a piece of a blob to its hash, and whether they do.
//!
//! BLAKE3 is a binary tree over chunks of 1024 bytes. We cut it at **groups** of 16 chunks: the
//! hash of each group is a leaf here, and the inner nodes above, the **outboard**, are stored in
//! pre-order, 64 bytes each (the hashes of the left and the right child), without a header. The
//! left subtree of a node over `n` groups has the largest power of two below `n`, so the shape
//! follows from the size alone. This is the outboard of bao-tree with blocks of 16 KiB.
//!
//! # When is a size proven?
//!
//! A claimed size is proven once [`Proof::check_group`] has accepted the *last* group. Every hash
//! of a chunk covers its index and its length, and chunks and inner nodes are hashed with
//! different flags. The path from the root that goes right at every step ends in the true last
//! chunk, whatever shape is claimed; so a group is only accepted as the last one if the chunk at
//! its end has the claimed index and length, and these two are the size. Other groups do not prove
//! it: two sizes may share the whole way from the root to a group.
//!
//! Pure: no I/O, nothing asynchronous, no memory beyond a small multiple of what the caller hands in.

mod outboard;
mod proof;
mod tree;
#[cfg(test)]
mod vectors;

pub use outboard::{OutboardBuilder, OutboardPiece, PIECE_LEN, build_outboard};
pub use proof::Proof;
pub use tree::{
    OutboardRun, bytes_of, group_count, group_len, groups_from, groups_of, last_group, outboard_len, proof_len,
    proof_runs, with_last_group,
};

/// Bytes in a group, the unit of verification; only the last group of a blob may be shorter.
/// 16 chunks, as in iroh-blobs: 0.39 % of outboard, and enough chunks to fill SIMD lanes.
pub const GROUP_LEN: u64 = 16 * 1024;

/// Bytes in an inner node: the hashes of its two children.
pub const PARENT_LEN: usize = 64;

/// The largest size of a blob, in bytes (1 PiB). Bounds the depth of the tree.
pub const MAX_BLOB_LEN: u64 = 1 << 50;

/// Levels of inner nodes that the largest blob has.
pub const MAX_DEPTH: u32 = (MAX_BLOB_LEN / GROUP_LEN).ilog2();

const _: () = assert!(GROUP_LEN.is_power_of_two() && GROUP_LEN.is_multiple_of(blake3::CHUNK_LEN as u64));
const _: () = assert!(MAX_BLOB_LEN.is_multiple_of(GROUP_LEN) && MAX_DEPTH <= 40);
const _: () = assert!(MAX_BLOB_LEN <= usize::MAX as u64, "lengths of outboards and blobs fit a usize");
const _: () = assert!(PARENT_LEN == 2 * blake3::OUT_LEN);

/// What does not hold. All but [`VerifyError::Ranges`] and [`VerifyError::PieceLength`] can be the
/// fault of whoever sent the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A size above [`MAX_BLOB_LEN`].
    #[error("a size of {0} bytes is above the limit of {MAX_BLOB_LEN}")]
    TooBig(u64),
    /// Ranges of groups that are empty, not in order, overlapping or beyond the end.
    #[error("the ranges of groups are empty, not in order, or beyond the end of the blob")]
    Ranges,
    /// A proof of another length than the ranges need.
    #[error("the proof has {actual} bytes instead of {expected}")]
    ProofLength {
        /// Bytes that the proof must have.
        expected: usize,
        /// Bytes that it has.
        actual: usize,
    },
    /// An inner node that does not hash to what its parent, or the blob's name, says.
    #[error("the node at byte {offset} of the outboard is wrong")]
    Parent {
        /// Where the node lies in the outboard, in bytes.
        offset: u64,
    },
    /// A group that the proof does not cover.
    #[error("group {group} is not covered by the proof")]
    Uncovered {
        /// Its index.
        group: u64,
    },
    /// A group of another length than the size implies.
    #[error("group {group} has {actual} bytes instead of {expected}")]
    GroupLength {
        /// Its index.
        group: u64,
        /// Bytes that it must have.
        expected: usize,
        /// Bytes that it has.
        actual: usize,
    },
    /// A group whose content does not hash to what the proof says.
    #[error("group {group} is wrong")]
    Group {
        /// Its index.
        group: u64,
    },
    /// A piece of another length than [`OutboardBuilder::next_len`].
    #[error("a piece of {actual} bytes came instead of one of {expected}")]
    PieceLength {
        /// Bytes that the piece must have.
        expected: usize,
        /// Bytes that it has.
        actual: usize,
    },
}
