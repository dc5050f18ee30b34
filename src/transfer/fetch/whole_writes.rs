//! Writing what came with answers: small blobs, and there may be many. Several are written by one thread, one after the
//! other: to wake a thread for each, and to be woken by it, takes longer than the writing.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::flight::{Write, write_each};
use crate::transfer::engine::Shared;

/// How many are written before those who wait for them are told; more that wait have another thread write them, too.
const MAX_TOGETHER: usize = 8;

/// Threads that write such blobs at the same time: a file system that takes its time is given several things to do.
const MAX_WRITERS: usize = 8;

/// What waits to be written. It lies in memory of the budget, which bounds it.
#[derive(Default)]
pub(in crate::transfer) struct WholeWrites(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Write>,
    writers: usize,
}

impl WholeWrites {
    fn next(&self) -> Vec<Write> {
        let mut queue = self.0.lock();
        let count = queue.waiting.len().min(MAX_TOGETHER);
        if count == 0 {
            queue.writers -= 1;
        }
        queue.waiting.drain(..count).collect()
    }
}

/// Has something written soon that takes but a moment: those who are written with it wait. Nor has it to do with a file
/// of the user's.
pub(super) fn write_soon(shared: &Arc<Shared>, write: Write) {
    let mut queue = shared.whole_writes.0.lock();
    queue.waiting.push_back(write);
    let wanted = queue.waiting.len().div_ceil(MAX_TOGETHER).min(MAX_WRITERS);
    if queue.writers < wanted {
        queue.writers += 1;
        tokio::spawn(write_all(shared.clone()));
    }
}

async fn write_all(shared: Arc<Shared>) {
    loop {
        let writes = shared.whole_writes.next();
        if writes.is_empty() {
            return;
        }
        write_each(&shared, &[], writes).await;
    }
}
