//! How long the kernel, and with it a program, may be kept waiting.

use std::time::Duration;

/// How long a lookup may take. Whoever looks for the same name meanwhile waits in the kernel for this one's
/// answer, deaf to signals, and we are not told of them: well below the second within which they have to go
/// when told to end. A size that is not known by then is waited for in each caller's own name.
pub const LOOKUP_DEADLINE: Duration = Duration::from_millis(700);

/// How long a caller waits for the size of a blob at most, its lookup included: so long may `stat` and `open`
/// take.
pub const SIZE_DEADLINE: Duration = Duration::from_secs(2);
const _: () = assert!(LOOKUP_DEADLINE.as_millis() < SIZE_DEADLINE.as_millis());

/// How long one read waits for its bytes while none arrive. A program that handles SIGINT gets it
/// only after the read, so this is what a person can bear; the engine notices a silent holder far
/// earlier, so what takes longer than this is not coming.
pub const READ_DEADLINE: Duration = Duration::from_secs(10);

/// The deadlines of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// A lookup is answered within it.
    pub lookup: Duration,
    /// What needs a size fails when it has not come within it.
    pub size: Duration,
    /// A read, or an open that fetches the blob, fails when it passes without progress.
    pub read: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { lookup: LOOKUP_DEADLINE, size: SIZE_DEADLINE, read: READ_DEADLINE }
    }
}
