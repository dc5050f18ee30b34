//! The shape of a blob's tree: which groups and nodes there are, and where they lie.

use std::ops::Range;

use super::{GROUP_LEN, MAX_DEPTH, PARENT_LEN};
use crate::ids::BlobRange;

/// Groups in a blob of `size` bytes. The empty blob has one, of no bytes.
pub const fn group_count(size: u64) -> u64 {
    if size == 0 { 1 } else { size.div_ceil(GROUP_LEN) }
}

/// Bytes in the outboard of a blob of `size` bytes: 0 for a blob of one group.
pub const fn outboard_len(size: u64) -> u64 {
    (group_count(size) - 1) * PARENT_LEN as u64
}

/// Bytes in group `group` of a blob of `size` bytes; 0 beyond its end.
pub const fn group_len(size: u64, group: u64) -> usize {
    let rest = size.saturating_sub(group.saturating_mul(GROUP_LEN));
    if rest < GROUP_LEN { rest as usize } else { GROUP_LEN as usize }
}

/// The groups that hold bytes of `range`, which is clipped to `size`; empty for an empty range.
pub fn groups_of(size: u64, range: BlobRange) -> Range<u64> {
    let range = range.clip(size);
    if range.is_empty() {
        let group = range.start / GROUP_LEN;
        return group..group;
    }
    range.start / GROUP_LEN..range.end.div_ceil(GROUP_LEN)
}

/// The groups that `len` bytes of content, whole groups from `first` on, are. No bytes are the one
/// group of the empty blob.
pub const fn groups_from(first: u64, len: usize) -> Range<u64> {
    let groups = (len as u64).div_ceil(GROUP_LEN);
    first..first.saturating_add(if groups == 0 { 1 } else { groups })
}

/// The bytes that `groups` consist of in a blob of `size` bytes.
pub fn bytes_of(size: u64, groups: &Range<u64>) -> BlobRange {
    BlobRange::new(groups.start.saturating_mul(GROUP_LEN), groups.end.saturating_mul(GROUP_LEN)).clip(size)
}

/// The last group of a blob of `size` bytes: its proof proves the size.
pub fn last_group(size: u64) -> Range<u64> {
    let count = group_count(size);
    count - 1..count
}

/// The ranges of an exchange that asks for `wanted` and for the proof of the size: `wanted` and
/// the last group, as one range where they touch. `wanted` must not be empty nor reach beyond the end.
pub fn with_last_group(size: u64, wanted: Range<u64>) -> Vec<Range<u64>> {
    let last = last_group(size).start;
    let touching = wanted.end >= last;
    let first = if touching { wanted.start..last + 1 } else { wanted };
    std::iter::once(first).chain((!touching).then_some(last..last + 1)).collect()
}

/// Adjacent nodes of an outboard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboardRun {
    /// Where the first one lies in the outboard, in bytes.
    pub offset: u64,
    /// How many bytes they take: a multiple of [`PARENT_LEN`], not 0.
    pub len: usize,
}

/// A subtree: the groups below it and the place of its topmost node in the outboard.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subtree {
    /// Its first group.
    pub start: u64,
    /// How many groups it has; at least 1.
    pub groups: u64,
    /// The pre-order index of its topmost inner node, meaningless for a single group.
    pub node: u64,
}

impl Subtree {
    /// The tree of a blob of `size` bytes.
    pub fn whole(size: u64) -> Self {
        Self { start: 0, groups: group_count(size), node: 0 }
    }

    /// Its two children; there must be more than one group.
    pub fn split(self) -> (Self, Self) {
        let left = left_groups(self.groups);
        (
            Self { start: self.start, groups: left, node: self.node + 1 },
            // The left subtree has left - 1 nodes and stands between its parent and the right one.
            Self { start: self.start + left, groups: self.groups - left, node: self.node + left },
        )
    }

    /// Whether any of `ranges` (in order, disjoint) reaches into it.
    pub fn touches(self, ranges: &[Range<u64>]) -> bool {
        self.first_at(ranges).is_some_and(|range| range.start < self.start + self.groups)
    }

    fn is_covered_by(self, ranges: &[Range<u64>]) -> bool {
        self.first_at(ranges).is_some_and(|range| range.start <= self.start && range.end >= self.start + self.groups)
    }

    /// The first range that ends beyond its start.
    fn first_at(self, ranges: &[Range<u64>]) -> Option<&Range<u64>> {
        ranges.get(ranges.partition_point(|range| range.end <= self.start))
    }
}

/// Groups in the left subtree of a node over `groups` (at least 2): the largest power of two below.
pub(super) const fn left_groups(groups: u64) -> u64 {
    1 << (groups - 1).ilog2()
}

/// Where the nodes of the proof of `ranges` lie in the outboard of a blob of `size` bytes, in
/// pre-order, adjacent ones joined: what has to be read, and in which order it is sent. `ranges`
/// are groups, in order and disjoint. Its cost grows with the depth of the tree and the number of
/// ranges, not with their length.
pub fn proof_runs(size: u64, ranges: &[Range<u64>]) -> Vec<OutboardRun> {
    let mut runs: Vec<OutboardRun> = Vec::new();
    let mut todo = Vec::with_capacity(MAX_DEPTH as usize + 1);
    todo.push(Subtree::whole(size));
    while let Some(tree) = todo.pop() {
        if tree.groups == 1 || !tree.touches(ranges) {
            continue;
        }
        let nodes = if tree.is_covered_by(ranges) {
            tree.groups - 1
        } else {
            let (left, right) = tree.split();
            todo.extend([right, left]);
            1
        };
        let (offset, len) = (tree.node * PARENT_LEN as u64, nodes as usize * PARENT_LEN);
        match runs.last_mut() {
            Some(last) if last.offset + last.len as u64 == offset => last.len += len,
            _ => runs.push(OutboardRun { offset, len }),
        }
    }
    runs
}

/// Bytes in the proof of `ranges` (groups, in order, disjoint) of a blob of `size` bytes.
pub fn proof_len(size: u64, ranges: &[Range<u64>]) -> usize {
    proof_runs(size, ranges).iter().map(|run| run.len).sum()
}

#[cfg(test)]
mod tests {
    use super::super::MAX_BLOB_LEN;
    use super::*;

    #[test]
    fn groups_and_outboards_grow_with_the_size() {
        // No byte, one byte, one group, one byte more, the largest blob.
        for (size, groups) in [(0, 1), (1, 1), (16384, 1), (16385, 2), (MAX_BLOB_LEN, 1 << 36)] {
            assert_eq!(group_count(size), groups);
            assert_eq!(outboard_len(size), (groups - 1) * 64);
        }
        assert_eq!([group_len(16385, 0), group_len(16385, 1), group_len(16385, 2)], [16384, 1, 0]);
    }

    #[test]
    fn bytes_map_to_groups_and_back() {
        assert_eq!(groups_of(40_000, BlobRange::new(0, 1)), 0..1);
        assert_eq!(groups_of(40_000, BlobRange::new(16_383, 16_385)), 0..2);
        assert_eq!(groups_of(40_000, BlobRange::new(20_000, u64::MAX)), 1..3);
        assert!(groups_of(40_000, BlobRange::new(50_000, 60_000)).is_empty());
        assert_eq!(bytes_of(40_000, &(1..3)), BlobRange::new(16_384, 40_000));
        assert!(bytes_of(0, &(0..1)).is_empty());
    }

    #[test]
    fn the_last_group_joins_the_wanted_ones_where_they_touch() {
        let size = 10 * GROUP_LEN;
        assert_eq!(with_last_group(size, 0..3), [0..3, 9..10]);
        assert_eq!(with_last_group(size, 3..9).first(), Some(&(3..10)));
        assert_eq!(with_last_group(size, 9..10).first(), Some(&(9..10)));
    }

    /// The plain definition: every node above a wanted group, in pre-order.
    fn nodes_above(tree: Subtree, ranges: &[Range<u64>], found: &mut Vec<u64>) {
        let wanted = (tree.start..tree.start + tree.groups).any(|group| ranges.iter().any(|r| r.contains(&group)));
        if tree.groups > 1 && wanted {
            found.push(tree.node);
            let (left, right) = tree.split();
            nodes_above(left, ranges, found);
            nodes_above(right, ranges, found);
        }
    }

    #[test]
    fn runs_are_the_nodes_above_the_wanted_groups() {
        for groups in 1..40u64 {
            let size = groups * GROUP_LEN;
            for start in 0..groups {
                for end in start + 1..=groups {
                    let ranges = with_last_group(size, start..end);
                    let mut expected = Vec::new();
                    nodes_above(Subtree::whole(size), &ranges, &mut expected);
                    let runs = proof_runs(size, &ranges);
                    let actual: Vec<u64> = runs
                        .iter()
                        .flat_map(|run| (0..run.len / PARENT_LEN).map(|i| run.offset / PARENT_LEN as u64 + i as u64))
                        .collect();
                    assert_eq!(actual, expected, "{ranges:?} of {groups}");
                    assert_eq!(proof_len(size, &ranges), expected.len() * PARENT_LEN);
                    assert!(runs.windows(2).all(|two| two[0].offset + (two[0].len as u64) < two[1].offset));
                }
            }
        }
    }

    #[test]
    fn a_small_range_of_the_largest_blob_has_a_small_proof() {
        // 16 MiB, the largest range of one request, at an even place far inside.
        let ranges = [1 << 30..(1 << 30) + 1024, (1 << 36) - 1..1 << 36];
        let runs = proof_runs(MAX_BLOB_LEN, &ranges);
        assert!(runs.len() <= 2 * MAX_DEPTH as usize);
        assert!(proof_len(MAX_BLOB_LEN, &ranges) <= (1023 + 2 * MAX_DEPTH as usize) * PARENT_LEN);
    }
}
