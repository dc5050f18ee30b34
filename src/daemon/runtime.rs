//! The threads that a node runs on.

use crate::store::MAX_IN_PLACE_THREADS;

/// Threads for blocking work: the disk, and the hashing of what is read from it. More would only
/// queue at the disk, and each costs memory.
const BLOCKING_THREADS: usize = 32;

// Files of users that hang leave most of them to all else.
const _: () = assert!(BLOCKING_THREADS >= 4 * MAX_IN_PLACE_THREADS);

/// Tasks that a thread runs before it looks again for what came from the network or from other
/// threads. Tokio's own 61 and 31 keep a small read waiting for as many slices of bulk, at each of its
/// steps: measured with `benches/holders.rs`, eight bulk fetches on two cores made its median 8 ms
/// instead of 4.
const TASKS_BETWEEN_LOOKS: u32 = 4;

/// A runtime for one node.
///
/// # Errors
/// When the system gives no threads or no event queue.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .event_interval(TASKS_BETWEEN_LOOKS)
        .global_queue_interval(TASKS_BETWEEN_LOOKS)
        .build()
}
