//! Hashing content and making its outboard, on all cores.

use blake3::hazmat::ChainingValue;

use super::proof::{hash_group, hash_parent};
use super::tree::{Subtree, left_groups};
use super::{GROUP_LEN, MAX_BLOB_LEN, PARENT_LEN, VerifyError, group_count, outboard_len};
use crate::ids::ContentHash;

/// Bytes in a piece for [`OutboardBuilder::update`] (16 MiB): enough to keep all cores busy, and a
/// power of two of groups, so that each piece is a subtree.
pub const PIECE_LEN: usize = 16 << 20;

/// Groups in a full piece.
const PIECE_GROUPS: u64 = PIECE_LEN as u64 / GROUP_LEN;

/// Subtrees of this many groups or fewer (256 KiB) are hashed by one thread.
const SEQUENTIAL_GROUPS: u64 = 16;

const _: () = assert!(PIECE_GROUPS.is_power_of_two() && PIECE_GROUPS * GROUP_LEN == PIECE_LEN as u64);

/// Hashes `content` on all cores, and on this one alone if it is short: its name and its outboard.
pub fn build_outboard(content: &[u8]) -> (ContentHash, Vec<u8>) {
    let size = content.len() as u64;
    let mut outboard = vec![0; outboard_len(size) as usize];
    let root = hash_top(content, &mut outboard);
    (root, outboard)
}

/// Hashes content of a known size that comes in pieces. Apart from the piece at hand it takes 32
/// bytes of memory a piece: 2 MiB for a blob of 1 TiB.
#[derive(Debug)]
pub struct OutboardBuilder {
    size: u64,
    fed: u64,
    root: Option<ContentHash>,
    pieces: Vec<ChainingValue>,
}

/// The nodes of an outboard that became known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboardPiece {
    /// Where they belong in the outboard, in bytes.
    pub offset: u64,
    /// Adjacent nodes, [`PARENT_LEN`] bytes each; may be empty.
    pub nodes: Vec<u8>,
}

impl OutboardBuilder {
    /// A builder for content of exactly `size` bytes.
    pub fn new(size: u64) -> Result<Self, VerifyError> {
        if size > MAX_BLOB_LEN {
            return Err(VerifyError::TooBig(size));
        }
        let root = (size == 0).then_some(ContentHash::EMPTY);
        Ok(Self { size, fed: 0, root, pieces: Vec::new() })
    }

    /// Bytes that the next piece must have: [`PIECE_LEN`], less for the last one, then 0.
    pub fn next_len(&self) -> usize {
        (self.size - self.fed).min(PIECE_LEN as u64) as usize
    }

    /// Hashes the next piece, of exactly [`Self::next_len`] bytes (not 0), and returns the nodes
    /// inside its subtree.
    pub fn update(&mut self, piece: &[u8]) -> Result<OutboardPiece, VerifyError> {
        let expected = self.next_len();
        if piece.len() != expected || piece.is_empty() {
            return Err(VerifyError::PieceLength { expected, actual: piece.len() });
        }
        let start = self.fed / GROUP_LEN;
        self.fed += piece.len() as u64;
        if self.size <= PIECE_LEN as u64 {
            let (root, nodes) = build_outboard(piece);
            self.root = Some(root);
            return Ok(OutboardPiece { offset: 0, nodes });
        }
        let mut nodes = vec![0; outboard_len(piece.len() as u64) as usize];
        self.pieces.push(hash_subtree(start, piece, &mut nodes));
        Ok(OutboardPiece { offset: self.node_of(start) * PARENT_LEN as u64, nodes })
    }

    /// The hash, and the nodes above the pieces, in pre-order, once all pieces have been fed.
    pub fn finish(self) -> Result<(ContentHash, Vec<OutboardPiece>), VerifyError> {
        if self.fed != self.size {
            return Err(VerifyError::PieceLength { expected: self.next_len(), actual: 0 });
        }
        let mut above = Vec::new();
        let root = match self.root {
            Some(root) => root,
            None => ContentHash::from_bytes(merge_pieces(Subtree::whole(self.size), true, &self.pieces, &mut above)),
        };
        Ok((root, above))
    }

    /// The pre-order index of the topmost node of the piece that starts at group `start`.
    fn node_of(&self, start: u64) -> u64 {
        let mut tree = Subtree::whole(self.size);
        while tree.groups > PIECE_GROUPS {
            let (left, right) = tree.split();
            tree = if start < right.start { left } else { right };
        }
        tree.node
    }
}

/// Hashes a whole blob and fills in its outboard, whose length must be the right one.
fn hash_top(content: &[u8], outboard: &mut [u8]) -> ContentHash {
    let groups = group_count(content.len() as u64);
    if groups == 1 {
        return ContentHash::of(content);
    }
    let (node, below) = outboard.split_at_mut(PARENT_LEN);
    let (left, right) = hash_children(0, content, groups, below);
    write_node(node, &left, &right);
    ContentHash::from_bytes(hash_parent(&left, &right, true))
}

/// Hashes the subtree over `content`, whose first group is `start`, and fills in its nodes.
fn hash_subtree(start: u64, content: &[u8], nodes: &mut [u8]) -> ChainingValue {
    let groups = group_count(content.len() as u64);
    if groups == 1 {
        return hash_group(start, content);
    }
    let (node, below) = nodes.split_at_mut(PARENT_LEN);
    let (left, right) = hash_children(start, content, groups, below);
    write_node(node, &left, &right);
    hash_parent(&left, &right, false)
}

fn hash_children(start: u64, content: &[u8], groups: u64, below: &mut [u8]) -> (ChainingValue, ChainingValue) {
    let left = left_groups(groups);
    let (left_content, right_content) = content.split_at((left * GROUP_LEN) as usize);
    let (left_nodes, right_nodes) = below.split_at_mut((left - 1) as usize * PARENT_LEN);
    let mut hash_left = || hash_subtree(start, left_content, left_nodes);
    let mut hash_right = || hash_subtree(start + left, right_content, right_nodes);
    if groups <= SEQUENTIAL_GROUPS { (hash_left(), hash_right()) } else { rayon::join(hash_left, hash_right) }
}

fn write_node(node: &mut [u8], left: &ChainingValue, right: &ChainingValue) {
    let (left_half, right_half) = node.split_at_mut(left.len());
    left_half.copy_from_slice(left);
    right_half.copy_from_slice(right);
}

/// Merges the hashes of the pieces below `tree`; as deep as the tree, at most `MAX_DEPTH` levels.
fn merge_pieces(
    tree: Subtree,
    is_root: bool,
    pieces: &[ChainingValue],
    above: &mut Vec<OutboardPiece>,
) -> ChainingValue {
    if tree.groups <= PIECE_GROUPS {
        return pieces[(tree.start / PIECE_GROUPS) as usize];
    }
    let place = above.len();
    above.push(OutboardPiece { offset: tree.node * PARENT_LEN as u64, nodes: vec![0; PARENT_LEN] });
    let (left, right) = tree.split();
    let left = merge_pieces(left, false, pieces, above);
    let right = merge_pieces(right, false, pieces, above);
    write_node(&mut above[place].nodes, &left, &right);
    hash_parent(&left, &right, is_root)
}

#[cfg(test)]
mod tests {
    use bao_tree::BlockSize;
    use bao_tree::io::outboard::PreOrderMemOutboard;
    use proptest::prelude::*;

    use super::*;

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8).collect()
    }

    fn built_in_pieces(content: &[u8]) -> (ContentHash, Vec<u8>) {
        let mut builder = OutboardBuilder::new(content.len() as u64).unwrap();
        let mut outboard = vec![0; outboard_len(content.len() as u64) as usize];
        let mut put =
            |piece: OutboardPiece| outboard[piece.offset as usize..][..piece.nodes.len()].copy_from_slice(&piece.nodes);
        let mut rest = content;
        while builder.next_len() > 0 {
            let (piece, after) = rest.split_at(builder.next_len());
            put(builder.update(piece).unwrap());
            rest = after;
        }
        let (root, above) = builder.finish().unwrap();
        above.into_iter().for_each(put);
        (root, outboard)
    }

    fn assert_like_bao_tree(content: &[u8]) {
        let oracle = PreOrderMemOutboard::create(content, BlockSize::from_chunk_log(4));
        let expected = (ContentHash::from(oracle.root), oracle.data);
        assert!(build_outboard(content) == expected, "{} bytes at once", content.len());
        assert!(built_in_pieces(content) == expected, "{} bytes in pieces", content.len());
    }

    #[test]
    fn outboards_are_those_of_bao_tree() {
        let group = GROUP_LEN as usize;
        for groups in 0..=17 {
            for extra in [0, 1, 1024, group - 1] {
                assert_like_bao_tree(&content(groups * group + extra));
            }
        }
        // Pieces: exactly two, and two with one byte in a third.
        assert_like_bao_tree(&content(2 * PIECE_LEN));
        assert_like_bao_tree(&content(2 * PIECE_LEN + 1));
    }

    #[test]
    fn a_piece_of_another_length_is_refused() {
        let mut builder = OutboardBuilder::new(5).unwrap();
        for wrong in [&b""[..], b"four", b"sixsix"] {
            let refused = Err(VerifyError::PieceLength { expected: 5, actual: wrong.len() });
            assert_eq!(builder.update(wrong), refused);
        }
        assert!(OutboardBuilder::new(5).unwrap().finish().is_err());
        assert!(OutboardBuilder::new(MAX_BLOB_LEN + 1).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases((ProptestConfig::default().cases / 15).max(1)))]
        #[test]
        fn outboards_of_any_size_are_those_of_bao_tree(size in 0..2_000_000usize) {
            assert_like_bao_tree(&content(size));
        }
    }
}
