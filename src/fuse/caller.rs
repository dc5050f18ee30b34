//! The process that waits for a reply, watched: the kernel holds it until we answer, and does not tell
//! us of signals (fuser declines FUSE_INTERRUPT), so that whoever is told to end is answered early. That
//! holds for lookups, sizes and opens, for reads past the kernel's cache, and for those by which the kernel
//! reads again, page by page, what failed to be read ahead.

use std::time::Duration;

use crate::fs::{FsError, LOOKUP_DEADLINE};

/// How often a caller that waits is looked at. A tenth of the second within which it has to go.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// When it is looked at first: it may have been told to end while it waited for another caller's lookup.
const FIRST_LOOK: Duration = Duration::from_millis(20);
// Such a caller goes within a second all the same, with a fifth of it to spare.
const _: () = assert!((LOOKUP_DEADLINE.as_millis() + FIRST_LOOK.as_millis()) * 5 < 4 * 1000);

/// Signals by which people and supervisors tell programs to end, whether these handle them or not.
const TOLD_TO_END: u64 = bit(libc::SIGHUP) | bit(libc::SIGINT) | bit(libc::SIGQUIT) | bit(libc::SIGTERM);

/// Signals that end no program by themselves (signal(7)).
const HARMLESS: u64 = bit(libc::SIGCHLD)
    | bit(libc::SIGCONT)
    | bit(libc::SIGURG)
    | bit(libc::SIGWINCH)
    | bit(libc::SIGSTOP)
    | bit(libc::SIGTSTP)
    | bit(libc::SIGTTIN)
    | bit(libc::SIGTTOU);

/// The bit of a signal in the masks of `/proc/PID/status`.
const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Does `work` for the thread `id`, unless that ends or is told to meanwhile. 0 is a thread that cannot be
/// seen from here; it waits. What was read ahead for a thread that is gone, another that wants it asks for anew.
pub(super) async fn unless_told_to_end<T>(
    id: u32,
    work: impl Future<Output = Result<T, FsError>>,
) -> Result<T, FsError> {
    tokio::pin!(work);
    let mut patience = FIRST_LOOK;
    loop {
        match tokio::time::timeout(patience, &mut work).await {
            Ok(result) => return result,
            Err(_elapsed) if is_gone(id) || is_told_to_end(id) => return Err(FsError::Interrupted),
            Err(_elapsed) => patience = LOOK_INTERVAL,
        }
    }
}

/// Whether there is no thread `id` any more. Not told from `/proc`, which may hide those of other users.
fn is_gone(id: u32) -> bool {
    let Ok(id) = i32::try_from(id) else { return false };
    // SAFETY: kill has no memory preconditions, and signal 0 does nothing.
    id != 0 && unsafe { libc::kill(id, 0) } != 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
}

/// Whether a signal is pending for the thread `id` that ends it, or asks it to.
fn is_told_to_end(id: u32) -> bool {
    id != 0 && std::fs::read_to_string(format!("/proc/{id}/status")).is_ok_and(|status| says_end(&status))
}

fn says_end(status: &str) -> bool {
    let mask = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        value.and_then(|value| u64::from_str_radix(value.trim(), 16).ok()).unwrap_or(0)
    };
    let pending = (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:") & !mask("SigIgn:");
    pending & (TOLD_TO_END | !(mask("SigCgt:") | HARMLESS)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pending: u64, blocked: u64, ignored: u64, caught: u64) -> String {
        format!(
            "Name:\tx\nSigPnd:\t{pending:016x}\nShdPnd:\t0\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
        )
    }

    #[test]
    fn only_signals_that_end_a_program_or_ask_it_to_count() {
        let (int, usr1, kill) = (bit(libc::SIGINT), bit(libc::SIGUSR1), bit(libc::SIGKILL));
        assert!(!says_end(&status(0, 0, 0, 0)));
        assert!(says_end(&status(kill, 0, 0, 0)));
        assert!(says_end(&status(int, 0, 0, 0)) && says_end(&status(int, 0, 0, int)));
        assert!(!says_end(&status(int, int, 0, 0)) && !says_end(&status(int, 0, int, 0)));
        assert!(says_end(&status(usr1, 0, 0, 0)) && !says_end(&status(usr1, 0, 0, usr1)));
        assert!(!says_end(&status(bit(libc::SIGCHLD) | bit(libc::SIGWINCH), 0, 0, 0)));
        assert!(!says_end("") && !is_told_to_end(0) && !is_told_to_end(std::process::id()));
    }
}
