//! The threads that a node runs on, and the descriptors that it may have open.

use std::mem::MaybeUninit;

/// Threads for blocking work: the disk, and the hashing of what is read from it. More would only
/// queue at the disk, and each costs memory.
const BLOCKING_THREADS: usize = 32;

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

/// Lets the process have as many descriptors open as the administrator allows it: peers, readers and files
/// of the cache each take some, and the usual 1024 are for programs that call select(2).
pub fn raise_descriptor_limit() {
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    // SAFETY: there is room for the answer, which is filled in on success; the second call reads it.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, limit.as_mut_ptr()) != 0 {
            return;
        }
        let mut limit = limit.assume_init();
        limit.rlim_cur = limit.rlim_max;
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0 {
            tracing::debug!("the number of descriptors stays as it is");
        }
    }
}
