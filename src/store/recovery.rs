//! The thread that looks at the files after a crash, or when the index is new: it removes those that
//! nobody knows, or takes them over as far as they verify.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::StoreError;
use super::claim::{self, Verified};
use super::layout::{SHARDS, sync_file_system};
use super::shared::Shared;
use super::sweep::{count_unknown, sweep_shard, unknown_blobs};
use crate::ids::ContentHash;

/// How long a write waits for all files to be counted. After that it is refused, and reads go on uncached.
pub(super) const WRITE_WAIT: Duration = Duration::from_secs(1);

/// How long somebody who adds a file waits for that. He would rather wait than be refused.
pub(super) const ADD_WAIT: Duration = Duration::from_secs(60);

/// The time between two looks at whether there is something to do after a failure.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// What is verified before the index is told, in bytes (64 MiB, some 20 ms of hashing).
const STEP_BYTES: u64 = 64 << 20;

/// Blobs that are verified before the index is told; each keeps two files open.
const STEP_BLOBS: usize = 64;

/// How often a file is looked at that was changed while it was, before it is left for the next start.
const MAX_LOOKS: u32 = 3;

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// All files are known.
    Nothing,
    /// Files that the index does not know are left over from a crash, and go.
    Sweep,
    /// The index is new: what it does not know may be good.
    Rebuild,
}

/// What the thread has to do, and how far it is.
#[derive(Debug)]
pub(super) struct Recovery {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    work: Work,
    /// What the files take that the index does not know is charged for, or nothing.
    counted: bool,
    /// It could not be done, and is not tried again.
    failed: bool,
    /// Changes whenever the work begins anew.
    round: u64,
    closing: bool,
}

impl Recovery {
    /// Nothing to do.
    pub fn new() -> Self {
        let state = State { work: Work::Nothing, counted: true, failed: false, round: 0, closing: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Asks for `work`; what is greater stays.
    pub fn want(&self, work: Work) {
        let mut state = self.state.lock();
        if state.work != Work::Rebuild || work == Work::Rebuild {
            state.work = work;
            (state.counted, state.failed) = (work == Work::Nothing, false);
            state.round += 1;
            self.changed.notify_all();
        }
    }

    /// Ends the thread soon.
    pub fn close(&self) {
        self.state.lock().closing = true;
        self.changed.notify_all();
    }

    /// What is still to be done.
    pub fn work(&self) -> Work {
        self.state.lock().work
    }

    /// Whether the index does not know yet what there is, and soon will.
    pub fn is_rebuilding(&self) -> bool {
        let state = self.state.lock();
        state.work == Work::Rebuild && !state.failed
    }

    /// Whether all files are counted; waits for it, but no longer than `patience`.
    pub fn wait_until_counted(&self, patience: Duration) -> bool {
        let mut state = self.state.lock();
        let until = Instant::now() + patience;
        while !state.counted && !state.closing {
            if self.changed.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        state.counted
    }

    /// Waits until nothing is left to do. For tests, and for tools that look at all blobs.
    #[cfg(test)]
    pub fn wait_until_done(&self) {
        let mut state = self.state.lock();
        while state.work != Work::Nothing {
            self.changed.wait(&mut state);
        }
    }

    /// Waits for something to do; none when the store is closing.
    fn next(&self) -> Option<(Work, u64)> {
        let mut state = self.state.lock();
        loop {
            match (state.closing, state.work) {
                (true, _) => return None,
                (false, Work::Nothing) => self.changed.wait(&mut state),
                (false, work) => return Some((work, state.round)),
            }
        }
    }

    /// Whether the work of `round` is still the one to do.
    fn goes_on(&self, round: u64) -> bool {
        let state = self.state.lock();
        !state.closing && state.round == round
    }

    /// Waits for `pause`, unless the store is closing.
    fn rest(&self, pause: Duration) {
        let mut state = self.state.lock();
        if !state.closing {
            self.changed.wait_for(&mut state, pause);
        }
    }

    fn set_failed(&self, round: u64) {
        let mut state = self.state.lock();
        state.failed |= state.round == round;
    }

    fn set_counted(&self, round: u64) {
        let mut state = self.state.lock();
        state.counted |= state.round == round;
        self.changed.notify_all();
    }

    fn set_done(&self, round: u64) {
        let mut state = self.state.lock();
        if state.round == round {
            (state.work, state.counted) = (Work::Nothing, true);
        }
        self.changed.notify_all();
    }
}

/// Runs until the store closes.
pub(super) fn run(shared: &Arc<Shared>) {
    let recovery = &shared.recovery;
    while let Some((work, round)) = recovery.next() {
        let done = match work {
            Work::Nothing => Ok(()),
            Work::Sweep => sweep(shared, round),
            Work::Rebuild => rebuild(shared, round),
        };
        match done {
            Ok(()) if recovery.goes_on(round) => {
                recovery.set_done(round);
                // What a crash has brought back may be more than there is room for.
                if let Err(error) = shared.trim() {
                    tracing::warn!(%error, "the cache takes more than it may; the next write tries again to make room");
                }
            }
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(%error, "the files of the cache could not all be looked at; that is done at the next start");
                // Writes would wait for it in vain.
                recovery.set_counted(round);
                recovery.set_failed(round);
                while recovery.goes_on(round) {
                    recovery.rest(FAILURE_PAUSE);
                }
            }
        }
    }
}

fn sweep(shared: &Shared, round: u64) -> Result<(), StoreError> {
    let goes_on = || shared.recovery.goes_on(round);
    for shard in (0..SHARDS).take_while(|_| goes_on()) {
        sweep_shard(shared, shard as u8, &goes_on, &HashSet::new())?;
    }
    Ok(())
}

/// Counts all files that the index does not know, and then takes them over or removes them.
fn rebuild(shared: &Arc<Shared>, round: u64) -> Result<(), StoreError> {
    let goes_on = || shared.recovery.goes_on(round);
    (0..SHARDS).for_each(|shard| shared.space.set_unknown(shard as u8, 0));
    // What somebody has open or the index knows stays counted; all else is unknown now, and counted anew.
    let stale = shared.requeue_opened()?;
    for shard in (0..SHARDS).take_while(|_| goes_on()) {
        count_unknown(shared, shard as u8)?;
    }
    shared.space.forget_blobs(stale);
    if goes_on() {
        shared.recovery.set_counted(round);
    }
    if shared.space.unknown() > 0 && goes_on() {
        // Once for all files: a sync of each would cost as much as writing it.
        sync_file_system(shared.layout.dir())?;
    }
    let mut taken = 0;
    for shard in (0..SHARDS).take_while(|_| goes_on()) {
        let (of_shard, unsettled) = take_over(shared, shard as u8, &goes_on)?;
        taken += of_shard;
        sweep_shard(shared, shard as u8, &goes_on, &unsettled)?;
        shared.space.set_unknown(shard as u8, 0);
    }
    if goes_on() {
        shared.write_index(|batch| batch.set_rebuilt())?;
        if taken > 0 {
            tracing::info!(blobs = taken, "the index is complete again: it knows all files that verify");
        }
    }
    Ok(())
}

/// Takes over the files of a shard that the index does not know, in steps; tells how many, and which were changed
/// each time that they were looked at.
fn take_over(
    shared: &Arc<Shared>,
    shard: u8,
    goes_on: &dyn Fn() -> bool,
) -> Result<(usize, HashSet<ContentHash>), StoreError> {
    let mut unknown: Vec<ContentHash> = unknown_blobs(shared, shard)?;
    let (mut again, mut looks): (Vec<ContentHash>, u32) = (Vec::new(), 1);
    if shared.space.unknown() > 0 && goes_on() {
        // Once for all files: a sync of each would cost as much as writing it.
        sync_file_system(shared.layout.dir())?;
    }
    let mut taken = 0;
    while !unknown.is_empty() && goes_on() {
        let begun = Instant::now();
        let (mut step, mut bytes): (Vec<Verified>, u64) = (Vec::new(), 0);
        while bytes < STEP_BYTES
            && step.len() < STEP_BLOBS.min(shared.space.entries_per_commit())
            && let Some(hash) = unknown.pop()
        {
            if let Some(verified) = claim::verify(shared, &hash, goes_on)? {
                bytes += verified.bytes();
                step.push(verified);
            }
        }
        let (number, changed) = claim::take_over(shared, step)?;
        taken += number;
        again.extend(changed);
        if unknown.is_empty() && looks < MAX_LOOKS {
            unknown.append(&mut again);
            looks += 1;
        }
        // Half of the disk and of a core is left to others.
        if !unknown.is_empty() || bytes >= STEP_BYTES {
            shared.recovery.rest(begun.elapsed());
        }
    }
    Ok((taken, again.into_iter().collect()))
}
