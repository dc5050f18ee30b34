//! Writing what came with answers: small blobs, and there may be many. Several are written by one thread, one after the
//! other: to wake a thread for each, and to be woken by it, takes longer than the writing.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, mpsc};

use super::flight::{Event, write};
use crate::ids::ContentHash;
use crate::transfer::engine::Shared;
use crate::verify::{Proof, groups_from};

/// How many are written before those who wait for them are told; more that wait have another thread write them, too.
const MAX_TOGETHER: usize = 8;

/// Threads that write such blobs at the same time: a file system that takes its time is given several things to do.
const MAX_WRITERS: usize = 8;

/// What waits to be written. It lies in memory of the budget, which bounds it.
#[derive(Default)]
pub(in crate::transfer) struct WholeWrites(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    waiting: VecDeque<WholeWrite>,
    writers: usize,
}

/// Verified groups to be written, of which it is known that that takes but a moment: those who are written with it wait.
pub(super) struct WholeWrite {
    pub hash: ContentHash,
    /// The first group.
    pub first: u64,
    pub content: Bytes,
    pub proof: Proof,
    /// Nobody else writes to the blob.
    pub turn: OwnedMutexGuard<()>,
    /// To the fetch task, which is told when it is done.
    pub events: mpsc::Sender<Event>,
}

impl WholeWrites {
    fn next(&self) -> Vec<WholeWrite> {
        let mut queue = self.0.lock();
        let count = queue.waiting.len().min(MAX_TOGETHER);
        if count == 0 {
            queue.writers -= 1;
        }
        queue.waiting.drain(..count).collect()
    }
}

/// Has it written soon.
pub(super) fn write_soon(shared: &Arc<Shared>, whole: WholeWrite) {
    let mut queue = shared.whole_writes.0.lock();
    queue.waiting.push_back(whole);
    let wanted = queue.waiting.len().div_ceil(MAX_TOGETHER).min(MAX_WRITERS);
    if queue.writers < wanted {
        queue.writers += 1;
        tokio::spawn(write_all(shared.clone()));
    }
}

async fn write_all(shared: Arc<Shared>) {
    loop {
        let wholes = shared.whole_writes.next();
        if wholes.is_empty() {
            return;
        }
        let (mut work, mut told) = (Vec::with_capacity(wholes.len()), Vec::with_capacity(wholes.len()));
        for WholeWrite { hash, first, content, proof, turn, events } in wholes {
            told.push((turn, events, groups_from(first, content.len())));
            work.push((hash, (first, content), proof));
        }
        let writing = shared.clone();
        let write_each = move || {
            for (hash, segment, proof) in work {
                write(&writing, hash, std::slice::from_ref(&segment), &proof);
            }
        };
        let _ = shared.store.blocking(&[], write_each).await;
        for (turn, events, groups) in told {
            drop(turn);
            let _ = events.send(Event::Stored(vec![groups])).await;
        }
    }
}
