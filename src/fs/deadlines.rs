//! How long the kernel, and with it a program, may be kept waiting.

use std::time::Duration;

/// How long a caller waits for a lookup at most. The kernel waits for the reply uninterruptibly, and so
/// does whoever looks for the same name meanwhile, of whom we are not told: hard and short.
pub const LOOKUP_DEADLINE: Duration = Duration::from_secs(2);

/// How long one read waits for its bytes while none arrive. A program that handles SIGINT gets it
/// only after the read, so this is what a person can bear; the engine notices a silent holder far
/// earlier, so what takes longer than this is not coming.
pub const READ_DEADLINE: Duration = Duration::from_secs(10);

/// The deadlines of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// A lookup is answered within it; at least half a second.
    pub lookup: Duration,
    /// A read, or an open that fetches the blob, fails when it passes without progress.
    pub read: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { lookup: LOOKUP_DEADLINE, read: READ_DEADLINE }
    }
}
