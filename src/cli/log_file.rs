//! The log of a node in the background, which is the process's stderr: never much larger than two times its limit.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A log larger than this, in bytes (8 MiB), becomes the old one, in place of the one before, and a new one is begun.
const LOG_LIMIT: u64 = 8 << 20;

/// The time between two looks at its length.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Opens the log at `path`, for this user only; one that is too large is set aside first.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let log = open_for_append(path)?;
    if log.metadata()?.len() <= LOG_LIMIT {
        return Ok(log);
    }
    std::fs::rename(path, old(path))?;
    open_for_append(path)
}

/// Sees to it, on a thread of its own, that the log at `path`, which stderr goes to, does not become too large.
pub(super) fn keep_small(path: PathBuf) {
    let watch = move || {
        loop {
            std::thread::sleep(LOOK_INTERVAL);
            if let Err(error) = turn_over(&path, &io::stderr(), LOG_LIMIT) {
                tracing::debug!(%error, "the log could not be begun anew");
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("byhash-log".to_owned()).spawn(watch) {
        tracing::warn!(%error, "the log may become large");
    }
}

/// If the log at `path`, to which the descriptor of `writer` leads, has more than `limit` bytes, sets it aside and lets
/// the descriptor lead to a new one.
fn turn_over(path: &Path, writer: &impl AsRawFd, limit: u64) -> io::Result<()> {
    if std::fs::metadata(path)?.len() <= limit {
        return Ok(());
    }
    std::fs::rename(path, old(path))?;
    let fresh = open_for_append(path)?;
    // SAFETY: both descriptors are open, and no pointers are involved.
    if unsafe { libc::dup2(fresh.as_raw_fd(), writer.as_raw_fd()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn open_for_append(path: &Path) -> io::Result<File> {
    File::options().read(true).append(true).create(true).mode(0o600).open(path)
}

fn old(path: &Path) -> PathBuf {
    path.with_extension("1")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_large_log_is_set_aside_and_whoever_writes_goes_on_in_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = open(&path).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default();
        for round in 1..4 {
            write!(log, "round {round}").unwrap();
            turn_over(&path, &log, 7).unwrap();
            assert_eq!(read("log"), format!("round {round}"), "not too large yet");
            write!(log, "!").unwrap();
            turn_over(&path, &log, 7).unwrap();
            assert_eq!((read("log").as_str(), read("log.1")), ("", format!("round {round}!")));
        }
        log.set_len(LOG_LIMIT + 1).unwrap();
        // Another process opens it: the one that writes to it goes on.
        assert_eq!(open(&path).unwrap().metadata().unwrap().len(), 0);
        write!(log, "end").unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("log.1")).unwrap().len(), LOG_LIMIT + 4);
    }
}
