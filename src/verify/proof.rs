//! A proof, checked against a blob's name, that some of its groups can be checked with.

use std::ops::Range;

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::tree::Subtree;
use super::{
    GROUP_LEN, MAX_BLOB_LEN, MAX_DEPTH, OutboardRun, PARENT_LEN, VerifyError, group_count, group_len, proof_len,
    proof_runs,
};
use crate::ids::ContentHash;

/// The nodes above some groups of a blob, all checked up to the blob's name. See the module's
/// documentation for when it proves the size.
#[derive(Debug, Clone)]
pub struct Proof {
    root: ContentHash,
    size: u64,
    ranges: Vec<Range<u64>>,
    runs: Vec<OutboardRun>,
    nodes: Vec<u8>,
    /// The hashes of the groups of all ranges, one after the other; unused for a single group.
    leaves: Vec<ChainingValue>,
}

impl Proof {
    /// Checks `bytes`, the nodes above the groups of `ranges` in pre-order, against `root`. `size`
    /// may be a claim. `ranges` must be in order, disjoint, not empty and inside the blob. The memory
    /// it takes is at most twice that of `bytes`, whose length is checked first.
    pub fn verify(root: &ContentHash, size: u64, ranges: &[Range<u64>], bytes: Vec<u8>) -> Result<Self, VerifyError> {
        if size > MAX_BLOB_LEN {
            return Err(VerifyError::TooBig(size));
        }
        let in_order = ranges.windows(2).all(|two| two[0].end <= two[1].start);
        let inside = ranges.last().is_some_and(|last| last.end <= group_count(size));
        if !in_order || !inside || ranges.iter().any(Range::is_empty) {
            return Err(VerifyError::Ranges);
        }
        let expected = proof_len(size, ranges);
        if bytes.len() != expected {
            return Err(VerifyError::ProofLength { expected, actual: bytes.len() });
        }
        let leaves = check_parents(root, size, ranges, &bytes)?;
        let runs = proof_runs(size, ranges);
        Ok(Self { root: *root, size, ranges: ranges.to_vec(), runs, nodes: bytes, leaves })
    }

    /// The size of the blob that the proof was checked with, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The groups that it covers: in order, disjoint.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Checks that `bytes` are group `group`: of the right length and content.
    pub fn check_group(&self, group: u64, bytes: &[u8]) -> Result<(), VerifyError> {
        let index = self.leaf_index(group).ok_or(VerifyError::Uncovered { group })?;
        let expected = group_len(self.size, group);
        if bytes.len() != expected {
            return Err(VerifyError::GroupLength { group, expected, actual: bytes.len() });
        }
        let right = if group_count(self.size) == 1 {
            blake3::hash(bytes) == *self.root.as_bytes()
        } else {
            self.leaves.get(index).is_some_and(|leaf| hash_group(group, bytes) == *leaf)
        };
        if right { Ok(()) } else { Err(VerifyError::Group { group }) }
    }

    /// Checks that `bytes` are whole groups from `first` on. The error names the first wrong one.
    pub fn check_groups(&self, first: u64, bytes: &[u8]) -> Result<(), VerifyError> {
        if bytes.is_empty() {
            return self.check_group(first, bytes);
        }
        let mut groups = first..;
        bytes.chunks(GROUP_LEN as usize).zip(&mut groups).try_for_each(|(bytes, group)| self.check_group(group, bytes))
    }

    /// The nodes, and where they belong in the outboard (in bytes), adjacent ones joined.
    pub fn runs(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let mut rest = self.nodes.as_slice();
        self.runs.iter().map(move |run| {
            // The runs' lengths add up to proof_len, and `verify` has compared that with the nodes.
            let (nodes, after) = rest.split_at(run.len);
            rest = after;
            (run.offset, nodes)
        })
    }

    /// The proof as it is sent: the nodes in pre-order.
    pub fn as_bytes(&self) -> &[u8] {
        &self.nodes
    }

    /// The proof as it is sent: the nodes in pre-order.
    pub fn into_bytes(self) -> Vec<u8> {
        self.nodes
    }

    fn leaf_index(&self, group: u64) -> Option<usize> {
        let mut before = 0;
        for range in &self.ranges {
            if range.contains(&group) {
                return usize::try_from(before + (group - range.start)).ok();
            }
            before += range.end - range.start;
        }
        None
    }
}

/// The hash of group `group` of a blob of several groups.
pub(super) fn hash_group(group: u64, bytes: &[u8]) -> ChainingValue {
    blake3::Hasher::new().set_input_offset(group * GROUP_LEN).update(bytes).finalize_non_root()
}

/// The hash of the node over `left` and `right`; the topmost one is hashed differently.
pub(super) fn hash_parent(left: &ChainingValue, right: &ChainingValue, is_root: bool) -> ChainingValue {
    if is_root {
        *merge_subtrees_root(left, right, Mode::Hash).as_bytes()
    } else {
        merge_subtrees_non_root(left, right, Mode::Hash)
    }
}

/// Checks the nodes from the root downwards and returns the hashes of the groups in `ranges`.
fn check_parents(
    root: &ContentHash,
    size: u64,
    ranges: &[Range<u64>],
    nodes: &[u8],
) -> Result<Vec<ChainingValue>, VerifyError> {
    let whole = Subtree::whole(size);
    let mut leaves = Vec::with_capacity(nodes.len() / PARENT_LEN + 1);
    let mut nodes = nodes.as_chunks::<PARENT_LEN>().0.iter();
    let mut todo = Vec::with_capacity(MAX_DEPTH as usize + 1);
    todo.push((whole, *root.as_bytes()));
    while let Some((tree, expected)) = todo.pop() {
        if !tree.touches(ranges) {
            continue;
        }
        if tree.groups == 1 {
            leaves.push(expected);
            continue;
        }
        let wrong = VerifyError::Parent { offset: tree.node * PARENT_LEN as u64 };
        let Some(([left, right], [])) = nodes.next().map(|node| node.as_chunks::<{ blake3::OUT_LEN }>()) else {
            return Err(wrong);
        };
        if hash_parent(left, right, tree.groups == whole.groups) != expected {
            return Err(wrong);
        }
        let (left_tree, right_tree) = tree.split();
        todo.extend([(right_tree, *right), (left_tree, *left)]);
    }
    Ok(leaves)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{build_outboard, with_last_group};
    use super::*;

    fn one(range: Range<u64>) -> Vec<Range<u64>> {
        vec![range]
    }

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8).collect()
    }

    fn proof_from(outboard: &[u8], size: u64, ranges: &[Range<u64>]) -> Vec<u8> {
        let slices = proof_runs(size, ranges).into_iter().map(|run| &outboard[run.offset as usize..][..run.len]);
        slices.collect::<Vec<_>>().concat()
    }

    fn slice(content: &[u8], groups: Range<u64>) -> &[u8] {
        let at = |group: u64| ((group * GROUP_LEN) as usize).min(content.len());
        &content[at(groups.start)..at(groups.end)]
    }

    #[test]
    fn every_false_size_fails_when_the_last_group_is_included() {
        // Whole chunks and groups and one byte more or less, trees of up to 9 groups.
        let sizes: Vec<u64> = (0..=9u64)
            .flat_map(|g| [g * GROUP_LEN, g * GROUP_LEN + 1, g * GROUP_LEN + 1024, (g + 1) * GROUP_LEN - 1])
            .collect();
        let largest = content(10 * GROUP_LEN as usize);
        for &size in &sizes {
            let content = &largest[..size as usize];
            let (root, outboard) = build_outboard(content);
            for &claim in sizes.iter().filter(|claim| **claim != size) {
                // The liar's best try: real nodes from the real outboard, and for deeper claims the
                // real halves of groups, followed by a group of the claimed length.
                let ranges = with_last_group(claim, 0..1);
                let expected = proof_len(claim, &ranges);
                let mut tries = vec![proof_from_padded(&outboard, claim, &ranges)];
                let mut right_spine: Vec<u8> = proof_from(&outboard, size, &with_last_group(size, 0..1));
                right_spine.resize(expected, 0);
                tries.push(right_spine);
                for bytes in tries {
                    let Ok(proof) = Proof::verify(&root, claim, &ranges, bytes) else { continue };
                    let last = group_count(claim) - 1;
                    let begin = (last * GROUP_LEN) as usize;
                    let group = &largest[begin..claim as usize];
                    assert!(proof.check_group(last, group).is_err(), "{claim} taken for {size}");
                }
            }
        }
    }

    fn proof_from_padded(outboard: &[u8], size: u64, ranges: &[Range<u64>]) -> Vec<u8> {
        let mut padded = outboard.to_vec();
        padded.resize(super::super::outboard_len(size) as usize, 0);
        proof_from(&padded, size, ranges)
    }

    #[test]
    fn a_deeper_claim_with_the_halves_of_a_real_group_fails_at_the_group() {
        // One group of 16 chunks passes for two of 8 as far as nodes go; the indices give it away.
        let content = content(GROUP_LEN as usize);
        let root = ContentHash::of(&content);
        let half = |i: usize| {
            blake3::Hasher::new()
                .set_input_offset(i as u64 * GROUP_LEN / 2)
                .update(&content[i * 8192..][..8192])
                .finalize_non_root()
        };
        let node = [half(0), half(1)].concat();
        let proof = Proof::verify(&root, 2 * GROUP_LEN, &one(0..2), node).unwrap();
        assert_eq!(proof.check_group(1, &content), Err(VerifyError::Group { group: 1 }));
        let short = Proof::verify(&root, GROUP_LEN + 8192, &one(0..2), proof.as_bytes().to_vec()).unwrap();
        assert_eq!(short.check_group(1, &content[8192..]), Err(VerifyError::Group { group: 1 }));
    }

    #[test]
    fn bad_ranges_sizes_and_lengths_are_refused() {
        let content = content(3 * GROUP_LEN as usize);
        let (root, outboard) = build_outboard(&content);
        let verify = |size, ranges: &[Range<u64>], bytes: &[u8]| Proof::verify(&root, size, ranges, bytes.to_vec());
        #[allow(clippy::reversed_empty_ranges)]
        let reversed = 2..1;
        for ranges in [vec![], one(1..1), one(reversed), vec![1..2, 0..1], vec![0..2, 1..3], one(0..4)] {
            assert_eq!(verify(content.len() as u64, &ranges, &outboard).unwrap_err(), VerifyError::Ranges);
        }
        assert_eq!(verify(MAX_BLOB_LEN + 1, &one(0..1), &outboard).unwrap_err(), VerifyError::TooBig(MAX_BLOB_LEN + 1));
        let proof = verify(content.len() as u64, &one(0..1), &outboard).unwrap();
        assert_eq!(proof.check_group(1, slice(&content, 1..2)), Err(VerifyError::Uncovered { group: 1 }));
        assert!(matches!(proof.check_group(0, &content[..100]), Err(VerifyError::GroupLength { .. })));
        assert!(matches!(
            proof.check_groups(0, &content[..GROUP_LEN as usize + 1]),
            Err(VerifyError::Uncovered { .. })
        ));
        assert!(matches!(proof.check_groups(0, b""), Err(VerifyError::GroupLength { .. })));
    }

    #[test]
    fn the_empty_blob_is_one_group_of_nothing() {
        let proof = Proof::verify(&ContentHash::EMPTY, 0, &one(0..1), Vec::new()).unwrap();
        assert_eq!(proof.check_groups(0, b""), Ok(()));
        let wrong = Proof::verify(&ContentHash::of(b"x"), 0, &one(0..1), Vec::new()).unwrap();
        assert_eq!(wrong.check_group(0, b""), Err(VerifyError::Group { group: 0 }));
    }

    /// A size of up to 20 groups, and groups of it.
    fn blob_and_range() -> impl Strategy<Value = (usize, Range<u64>)> {
        (0..20 * GROUP_LEN as usize).prop_flat_map(|size| {
            let groups = group_count(size as u64);
            (0..groups)
                .prop_flat_map(move |start| (Just(size), Just(start), start + 1..=groups))
                .prop_map(|(size, start, end)| (size, start..end))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases((ProptestConfig::default().cases / 5).max(1)))]

        #[test]
        fn any_range_verifies_and_any_flipped_bit_is_found((size, range) in blob_and_range(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let content = content(size);
            let (root, outboard) = build_outboard(&content);
            let ranges = with_last_group(size as u64, range.clone());
            let bytes = proof_from(&outboard, size as u64, &ranges);
            let proof = Proof::verify(&root, size as u64, &ranges, bytes.clone()).unwrap();
            for range in &ranges {
                prop_assert_eq!(proof.check_groups(range.start, slice(&content, range.clone())), Ok(()));
            }
            let mut stored = outboard.clone();
            for (offset, nodes) in proof.runs() {
                let place = &mut stored[offset as usize..][..nodes.len()];
                prop_assert_eq!(&*place, nodes);
                place.fill(0);
            }

            let mut data = slice(&content, range.clone()).to_vec();
            if !data.is_empty() {
                let flipped = at.index(data.len());
                data[flipped] ^= 1 << bit;
                let group = range.start + flipped as u64 / GROUP_LEN;
                prop_assert_eq!(proof.check_groups(range.start, &data), Err(VerifyError::Group { group }));
            }
            let mut altered = bytes.clone();
            if !altered.is_empty() {
                let at = at.index(altered.len());
                altered[at] ^= 1 << bit;
                let wrong_parent = matches!(
                    Proof::verify(&root, size as u64, &ranges, altered),
                    Err(VerifyError::Parent { .. })
                );
                prop_assert!(wrong_parent);
                let truncated = bytes[..bytes.len() - 1].to_vec();
                prop_assert!(Proof::verify(&root, size as u64, &ranges, truncated).is_err());
            }
            let extended = [bytes, vec![0; PARENT_LEN]].concat();
            prop_assert!(Proof::verify(&root, size as u64, &ranges, extended).is_err());
        }

        #[test]
        fn arbitrary_bytes_and_claims_never_panic(size in any::<u64>(), range in any::<Range<u64>>(), bytes in any::<Vec<u8>>()) {
            prop_assert!(Proof::verify(&ContentHash::of(b"?"), size % (MAX_BLOB_LEN * 2), &[range], bytes).is_err());
        }
    }
}
