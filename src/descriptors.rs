//! How many files, sockets and directories the process may have open at a time.

use std::io;
use std::mem::MaybeUninit;

/// How many descriptors the process may have open; 0 if the system does not tell.
pub fn limit() -> u64 {
    limits().map_or(0, |limits| limits.rlim_cur)
}

/// Lets the process have as many open as the administrator allows it: peers, readers and files of the cache each
/// take some, and the usual 1024 are for programs that call select(2).
pub fn raise_limit() {
    let raised = limits().and_then(|mut limits| {
        limits.rlim_cur = limits.rlim_max;
        // SAFETY: it reads the structure, which outlives the call.
        match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    });
    if let Err(error) = raised {
        tracing::debug!("the number of descriptors stays as it is: {error}");
    }
}

fn limits() -> io::Result<libc::rlimit> {
    let mut limits = MaybeUninit::uninit();
    // SAFETY: there is room for the answer, which outlives the call.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, limits.as_mut_ptr()) } {
        // SAFETY: getrlimit has returned 0, so it has filled in the structure.
        0 => Ok(unsafe { limits.assume_init() }),
        _ => Err(io::Error::last_os_error()),
    }
}
