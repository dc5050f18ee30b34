//! Read-ahead of one open file: how far to fetch beyond what is read. Pure: no I/O, no clock.
//!
//! A run is a stretch read in order. The window grows with the run, as much again as was read (but
//! at least [`MIN_WINDOW`]), so that a run that ends early wastes no more than it used. A read
//! elsewhere begins another one, with its window closed: random reads fetch nothing beyond themselves, and
//! push out the runs that nobody goes on with.

use std::collections::VecDeque;

use crate::ids::BlobRange;
use crate::transfer::NEAR_AHEAD_LEN;

/// A run from the beginning of a file that is this long (in bytes) is taken for sequential reading. The kernel asks for
/// 16 KiB when a program reads a page there, and for 64 KiB or more when it streams.
const MIN_RUN: u64 = 64 * 1024;

/// The window in bytes that the kernel is asked to read ahead, where it may be asked. Measured: 2.0 GB/s through the node
/// with it, 0.3 to 0.8 with the kernel's own 128 KiB.
pub const KERNEL_WINDOW: u64 = 1024 * 1024;

/// The same as [`MIN_RUN`] of a run that begins elsewhere: more than the kernel reads around a page of a mapped file
/// that is touched, which is all of its window, in several reads.
const MIN_RUN_ELSEWHERE: u64 = KERNEL_WINDOW + 1;

/// The first window in bytes: two of the kernel's default reads.
const MIN_WINDOW: u64 = 256 * 1024;

/// The kernel has several reads in flight and they arrive out of order: a read that begins up to
/// this many times its own length from where it was expected still belongs to the run.
const REORDER_READS: u64 = 4;

const _: () = assert!(MIN_RUN <= MIN_WINDOW && MIN_WINDOW < NEAR_AHEAD_LEN);

/// How many runs of one open file are known: threads that share it read each at a place of its own, and
/// a look elsewhere does not end a stream. The one continued last stays longest.
const MAX_RUNS: usize = 4;

/// The read-ahead of one open file.
#[derive(Debug)]
pub(super) struct ReadAhead {
    size: u64,
    /// The one continued last first; never none.
    runs: VecDeque<Run>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Run {
    /// Where it has come to: one past its furthest byte.
    next: u64,
    /// Bytes read in it.
    len: u64,
    /// Bytes from which on it is sequential reading.
    least: u64,
    /// One past what has been asked for ahead.
    ahead: u64,
}

impl ReadAhead {
    /// For a blob of `size` bytes. Reading is expected to begin at its beginning.
    pub fn new(size: u64) -> Self {
        Self { size, runs: VecDeque::from([Run { least: MIN_RUN, ..Run::default() }]) }
    }

    /// Notes a read of `range` (within the size, not empty) and returns what to fetch ahead of
    /// it, if anything: a range after `range` that was not returned before in its run. At most as many
    /// bytes are wanted beyond it as `most` says, which is asked only of a stream.
    pub fn on_read(&mut self, range: BlobRange, most: impl FnOnce() -> u64) -> Option<BlobRange> {
        let away = |run: &Run| range.start.abs_diff(run.next);
        let nearest = self.runs.iter().enumerate().min_by_key(|(_, run)| away(run));
        let slack = range.len().saturating_mul(REORDER_READS);
        match nearest.filter(|(_, run)| away(run) <= slack) {
            Some((at, run)) => {
                let mut run = *run;
                let ahead = run.on_read(range, self.size, most);
                self.runs.remove(at);
                self.runs.push_front(run);
                ahead
            }
            None => {
                self.runs.truncate(MAX_RUNS - 1);
                let (next, len) = (range.end, range.len());
                self.runs.push_front(Run { next, len, least: MIN_RUN_ELSEWHERE, ahead: next });
                None
            }
        }
    }
}

impl Run {
    /// Notes a read of it.
    fn on_read(&mut self, range: BlobRange, size: u64, most: impl FnOnce() -> u64) -> Option<BlobRange> {
        if range.end <= self.next {
            // A late one of the reads in flight, or the same again: no progress.
            return None;
        }
        self.len = self.len.saturating_add(range.end - range.start.max(self.next));
        self.next = range.end;
        self.extend(size, most)
    }

    /// Asks for more once a quarter of the window is used up: the rest keeps those busy who have it.
    fn extend(&mut self, size: u64, most: impl FnOnce() -> u64) -> Option<BlobRange> {
        if self.len < self.least {
            return None;
        }
        let window = self.len.clamp(MIN_WINDOW, most().max(MIN_WINDOW));
        let start = self.ahead.max(self.next);
        if start - self.next > window / 4 * 3 {
            return None;
        }
        let more = BlobRange::new(start, self.next.saturating_add(window)).clip(size);
        self.ahead = more.end;
        (!more.is_empty()).then_some(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIB: u64 = 1024;
    const GIB: u64 = 1 << 30;

    fn read(state: &mut ReadAhead, start: u64, len: u64) -> Option<BlobRange> {
        let range = BlobRange::new(start, start + len).clip(state.size);
        state.on_read(range, || NEAR_AHEAD_LEN)
    }

    #[test]
    fn a_stream_grows_its_window_to_the_largest_and_stays_ahead() {
        let mut state = ReadAhead::new(GIB);
        assert_eq!(read(&mut state, 0, 128 * KIB), Some(BlobRange::new(128 * KIB, 384 * KIB)));
        let mut at = 128 * KIB;
        let mut asked = 384 * KIB;
        let mut times = 0;
        while at < 64 << 20 {
            assert!(asked >= at + 128 * KIB, "the next read was not asked for ahead, at {at}");
            if let Some(range) = read(&mut state, at, 128 * KIB) {
                assert_eq!(range.start, asked, "a gap or an overlap");
                asked = range.end;
                times += 1;
            }
            at += 128 * KIB;
        }
        assert!(times < 48, "a quarter of a window at a time, not a bit with each of the 511 reads: {times}");
        assert!(asked - at > NEAR_AHEAD_LEN / 4 * 3 && asked - at <= NEAR_AHEAD_LEN);
    }

    #[test]
    fn reads_in_flight_may_arrive_out_of_order_and_overlap() {
        let mut state = ReadAhead::new(GIB);
        let mut asked = 0;
        for block in (0..64).step_by(4) {
            for part in [1, 0, 3, 2, 2] {
                if let Some(range) = read(&mut state, (block + part) * 128 * KIB, 128 * KIB) {
                    asked = range.end;
                }
            }
        }
        assert!(asked > 64 * 128 * KIB + 2048 * KIB, "the stream was not recognised: {asked}");
    }

    #[test]
    fn a_page_here_and_there_fetches_nothing_ahead() {
        let mut state = ReadAhead::new(GIB);
        let mut at = 7;
        for _ in 0..1000 {
            at = (at * 48_271 + 1) % (GIB / 4096);
            assert_eq!(read(&mut state, at * 4096, 4096), None);
        }
    }

    #[test]
    fn a_look_at_the_beginning_fetches_nothing_ahead() {
        let mut state = ReadAhead::new(GIB);
        assert_eq!(read(&mut state, 0, 16 * KIB), None);
        assert_eq!(read(&mut state, GIB - 4096, 4096), None);
    }

    #[test]
    fn one_large_read_in_the_middle_is_not_a_stream_but_two_are() {
        let mut state = ReadAhead::new(GIB);
        assert_eq!(read(&mut state, GIB / 2, 1024 * KIB), None);
        let ahead = read(&mut state, GIB / 2 + 1024 * KIB, 1024 * KIB).unwrap();
        assert_eq!((ahead.start, ahead.len()), (GIB / 2 + 2048 * KIB, 2048 * KIB));
    }

    /// Reads 64 MiB from `start` on, and tells how far it was asked for.
    fn stream(state: &mut ReadAhead, start: u64) -> u64 {
        (0..64).filter_map(|block| read(state, start + block * 1024 * KIB, 1024 * KIB)).last().unwrap().end
    }

    #[test]
    fn where_a_jump_leads_the_window_is_closed() {
        let mut state = ReadAhead::new(GIB);
        stream(&mut state, 0);
        assert_eq!(read(&mut state, GIB / 2, 4096), None);
        assert_eq!(read(&mut state, GIB / 4, 4096), None);
        assert_eq!(read(&mut state, GIB / 4 + 4096, 4096), None, "too short a run to open it again");
        let ahead = read(&mut state, GIB / 4 + 8192, 1024 * KIB).unwrap();
        assert_eq!(ahead.len(), 1032 * KIB, "and then it is as any other that has read as much");
    }

    #[test]
    fn what_the_kernel_reads_around_a_touched_page_is_not_a_stream() {
        let mut state = ReadAhead::new(GIB);
        for place in [GIB / 2, GIB / 4, GIB / 8] {
            for part in [0, 1, 3, 2] {
                assert_eq!(read(&mut state, place + part * 256 * KIB, 256 * KIB), None);
            }
        }
        assert!(read(&mut state, GIB / 8 + 1024 * KIB, 512 * KIB).is_some(), "but what goes on is");
    }

    #[test]
    fn a_look_elsewhere_does_not_end_a_stream_but_random_reads_do() {
        let mut state = ReadAhead::new(GIB);
        let asked = stream(&mut state, 0);
        assert_eq!(read(&mut state, GIB / 2, 4096), None);
        let more: Vec<_> = (64..80).filter_map(|block| read(&mut state, block * 1024 * KIB, 1024 * KIB)).collect();
        assert_eq!(more[0].start, asked, "it goes on where it was");
        assert!(more[0].len() > MIN_WINDOW, "with the window it had");
        for place in 0..MAX_RUNS as u64 {
            assert_eq!(read(&mut state, GIB / 2 + place * 50 * 1024 * KIB, 4096), None);
        }
        let at = 80 * 1024 * KIB;
        assert_eq!(read(&mut state, at, 1024 * KIB), None);
        let ahead = read(&mut state, at + 1024 * KIB, 1024 * KIB).unwrap();
        assert_eq!((ahead.start, ahead.len()), (at + 2048 * KIB, 2048 * KIB), "it begins anew");
    }

    #[test]
    fn several_who_share_an_open_file_each_have_a_stream() {
        let mut state = ReadAhead::new(GIB);
        let mut asked = [0; MAX_RUNS];
        for block in 0..256 {
            for (reader, asked) in (0..).zip(&mut asked) {
                let start = reader * GIB / 4 + block * 128 * KIB;
                assert!(block < 9 || *asked >= start + 128 * KIB, "reader {reader}: not asked for ahead, at {start}");
                if let Some(range) = read(&mut state, start, 128 * KIB) {
                    assert!(block < 9 || range.start == *asked, "a gap or an overlap");
                    *asked = range.end;
                }
            }
        }
        for (reader, asked) in (0..).zip(asked) {
            let at = reader * GIB / 4 + 256 * 128 * KIB;
            assert!(asked - at > NEAR_AHEAD_LEN / 2 && asked - at <= NEAR_AHEAD_LEN, "reader {reader}");
        }
    }

    #[test]
    fn nothing_is_asked_for_beyond_the_end() {
        let mut state = ReadAhead::new(300 * KIB);
        assert_eq!(read(&mut state, 0, 128 * KIB), Some(BlobRange::new(128 * KIB, 300 * KIB)));
        assert_eq!(read(&mut state, 128 * KIB, 128 * KIB), None);
        assert_eq!(read(&mut state, 256 * KIB, 128 * KIB), None);
    }

    proptest! {
        #[test]
        fn a_stream_is_asked_for_once_without_gaps(size in 1u64..GIB, lens in prop::collection::vec(1u64..2 << 20, 1..99)) {
            let mut state = ReadAhead::new(size);
            let (mut at, mut asked) = (0, None);
            for len in lens {
                let range = BlobRange::new(at, at + len).clip(size);
                if range.is_empty() {
                    break;
                }
                at = range.end;
                if let Some(ahead) = state.on_read(range, || NEAR_AHEAD_LEN) {
                    prop_assert_eq!(ahead.start, asked.unwrap_or(at).max(at));
                    prop_assert!(ahead.end - at <= at.clamp(MIN_WINDOW, NEAR_AHEAD_LEN));
                    asked = Some(ahead.end);
                }
            }
        }

        #[test]
        fn whatever_is_read_little_is_fetched_in_vain(
            size in 1u64..GIB,
            reads in prop::collection::vec((0u64..GIB, 1u64..2 << 20, any::<bool>()), 1..200),
        ) {
            let mut state = ReadAhead::new(size);
            let (mut read_bytes, mut ahead_bytes, mut at) = (0, 0, 0);
            for (start, len, jump) in reads {
                if jump {
                    at = start % size;
                }
                let range = BlobRange::new(at, at + len).clip(size);
                if range.is_empty() {
                    continue;
                }
                read_bytes += range.len();
                at = range.end;
                if let Some(ahead) = state.on_read(range, || NEAR_AHEAD_LEN) {
                    prop_assert!(ahead.start >= range.end, "what is being read is not read ahead");
                    prop_assert!(ahead.end <= size && !ahead.is_empty() && ahead.len() <= NEAR_AHEAD_LEN);
                    ahead_bytes += ahead.len();
                }
            }
            // A run covers what it read and the gaps it was forgiven, and then one window.
            prop_assert!(ahead_bytes <= read_bytes * (1 + REORDER_READS + MIN_WINDOW / MIN_RUN));
        }
    }
}
