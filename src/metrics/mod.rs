//! Every metric of a node: its name, its unit, what it counts.
//!
//! Counters only grow while the process lives; gauges go up and down. All are relaxed atomics: a
//! snapshot is not one instant, but each number in it was true.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number that is counted or measured.
#[derive(Debug, Default)]
pub struct Metric(AtomicU64);

impl Metric {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Takes `n` away (gauges only).
    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a number is: its name, unit, kind and meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    /// The name, as in `byhash status --json`.
    pub name: &'static str,
    /// `bytes`, `1` (a count) or `groups`.
    pub unit: &'static str,
    /// One sentence.
    pub meaning: &'static str,
}

macro_rules! metrics {
    ($($name:ident, $unit:literal, $meaning:literal;)*) => {
        /// All metrics of one node.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(#[doc = $meaning] pub $name: Metric,)*
        }

        /// The descriptions, in the order of [`Metrics::snapshot`].
        pub const DESCRIPTIONS: &[Description] =
            &[$(Description { name: stringify!($name), unit: $unit, meaning: $meaning },)*];

        impl Metrics {
            /// Name and value of each metric.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
            }
        }
    };
}

metrics! {
    fetched_bytes, "bytes", "Content bytes received from peers and verified.";
    fetched_wire_bytes, "bytes", "Bytes received in replies: frames, proofs and content, wrong ones too.";
    fetched_blobs, "1", "Blobs that became complete by fetching.";
    exchanges_started, "1", "Requests sent to peers.";
    exchanges_failed, "1", "Requests that ended without all bytes asked for.";
    exchanges_hedged, "1", "Requests sent because another made no progress.";
    exchanges_doubled, "1", "Requests sent near the end because another holder was much slower.";
    wrong_bytes, "1", "Replies in which a proof or a group did not verify.";
    came_with_answer, "1", "Blobs whose end, which is all of a small one, came with the answer to a have-query.";
    have_queries, "1", "Have-queries sent to peers.";
    served_bytes, "bytes", "Content bytes sent to peers.";
    served_exchanges, "1", "Requests of peers answered with content.";
    served_with_answer, "1", "Blobs whose end, which is all of a small one, was sent with the answer to a have-query.";
    served_not_found, "1", "Requests of peers answered with NotFound.";
    hostile_frames, "1", "Lanes closed because of a frame that breaks the protocol.";
    lanes_accepted, "1", "Lanes that peers opened and that were let in.";
    lanes_refused, "1", "Connections turned away: unknown key, wrong secret, failed handshake.";
    lanes_dialled, "1", "Lanes opened to peers.";
    lanes_open, "1", "Lanes open now, both directions (gauge).";
    transfers_pending, "1", "Exchanges in flight on the requester's side (gauge).";
    serving_pending, "1", "Exchanges in flight on the holder's side (gauge).";
    fetch_tasks, "1", "Tasks that fetch a blob, or did so a moment ago (gauge).";
    budget_used_bytes, "bytes", "Bytes of the transfer buffer budget in use (gauge).";
    recent_bytes, "bytes", "Bytes of it that keep the segments verified last (gauge).";
    store_bytes, "bytes", "Bytes on disk: content, outboards, files on their way in and the index (gauge).";
    store_blobs, "1", "Blobs held, partial ones included (gauge).";
    store_unflushed_blobs, "1", "Blobs with writes that are not yet durable (gauge).";
    store_evicted_blobs, "1", "Blobs evicted to make room.";
    store_checked_groups, "groups", "Groups on disk checked against their hash: for a read, ahead of one, or by scrubbing.";
    store_corrupt_groups, "groups", "Groups on disk found wrong and dropped.";
    store_write_errors, "1", "Failed writes to the store; the reads concerned went on uncached.";
    store_uncached, "1", "1 if the cache could not be used when the node started: all reads go on from memory.";
    reads, "1", "Reads by users of the mount.";
    read_bytes, "bytes", "Bytes handed to readers of the mount.";
    read_errors, "1", "Reads by users of the mount that ended in an error.";
    lookups, "1", "Names looked up in the mount.";
    opens_passed_through, "1", "Opens whose reads the kernel takes from the content file, past the node.";
    opens_streamed, "1", "Opens whose reads come to the node.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_described() {
        let mut names: Vec<_> = DESCRIPTIONS.iter().map(|d| d.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DESCRIPTIONS.len());
        let metrics = Metrics::default();
        metrics.read_bytes.add(7);
        assert!(metrics.snapshot().contains(&("read_bytes", 7)));
    }
}
