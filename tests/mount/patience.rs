//! What waits for a silent source can be told to end, and holds up nobody else.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use byhash::fs::{LOOKUP_DEADLINE, READ_DEADLINE};
use byhash::fuse::MountOptions;
use byhash::transfer::{BlobState, FetchError};

use super::memory_source::Answer;
use super::mounted::Mounted;

/// Starts `program` on `arguments`, waits until it waits for the source, signals it, and gives how long
/// that took to end it.
fn end_while_it_waits(m: &Mounted, command: &mut Command, signal: i32) -> Duration {
    let before = m.source.waiting();
    let mut child: Child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    m.source.wait_for_waiting(before + 1);
    let start = Instant::now();
    // SAFETY: kill has no memory preconditions; the child is not reaped, so the id is its own.
    assert_eq!(unsafe { libc::kill(child.id().cast_signed(), signal) }, 0);
    assert_eq!(child.wait().unwrap().signal(), Some(signal));
    start.elapsed()
}

fn cat(path: &std::path::Path) -> Command {
    let mut cat = Command::new("cat");
    cat.arg(path);
    cat
}

#[test]
fn whoever_waits_in_any_call_goes_when_told_to() {
    let Some(m) = Mounted::new("whoever_waits_in_any_call_goes_when_told_to") else { return };
    let silent = m.source.add_with(vec![1; 1 << 20], |blob| blob.read = Answer::Never);
    for signal in [libc::SIGINT, libc::SIGKILL, libc::SIGTERM] {
        let unknown = m.source.absent(&format!("silent {signal}"), Answer::Never);
        let lookup = end_while_it_waits(&m, &mut cat(&m.file(unknown)), signal);
        assert!(lookup < LOOKUP_DEADLINE - Duration::from_millis(300), "in a lookup: {lookup:?}");
        let read = end_while_it_waits(&m, &mut cat(&m.file(silent)), signal);
        assert!(read < READ_DEADLINE / 2, "in a read: {read:?}");
        let mut dd = Command::new("dd");
        dd.args(["iflag=direct", "bs=64k", "count=1", &format!("if={}", m.file(silent).display())]);
        let direct = end_while_it_waits(&m, &mut dd, signal);
        assert!(direct < READ_DEADLINE / 2, "in a read past the cache: {direct:?}");
    }
}

#[test]
fn an_open_that_fetches_the_whole_blob_first_does_and_can_be_ended() {
    let Some(m) = Mounted::hydrating("an_open_that_fetches_the_whole_blob_first_does_and_can_be_ended") else {
        return;
    };
    let incomplete = |answer: Answer| {
        let name = format!("{answer:?}");
        m.source.add_with(name, |blob| (blob.state, blob.make_whole) = (BlobState::Partial, answer))
    };
    let good = incomplete(Answer::Give);
    let _open = std::fs::File::open(m.file(good)).unwrap();
    m.source.alter(good, |blob| assert_eq!(blob.state, BlobState::Complete, "before anything is read"));
    for (error, errno) in [(FetchError::Unreachable, libc::EHOSTUNREACH), (FetchError::WrongBytes, libc::EIO)] {
        let failed = std::fs::File::open(m.file(incomplete(Answer::Fail(error)))).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(errno));
    }
    let no_room = m.source.add_with("no room", |blob| (blob.state, blob.fits) = (BlobState::Partial, false));
    assert_eq!(std::fs::File::open(m.file(no_room)).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    let silent = incomplete(Answer::Never);
    for signal in [libc::SIGINT, libc::SIGKILL] {
        let open = end_while_it_waits(&m, &mut cat(&m.file(silent)), signal);
        assert!(open < READ_DEADLINE / 2, "{open:?}");
    }
    assert_eq!(m.fs.open_count(), 1, "what failed is not open");
    // Nobody tells this one to end: a deadline without a byte does.
    assert_eq!(std::fs::File::open(m.file(silent)).unwrap_err().raw_os_error(), Some(libc::ETIMEDOUT));
}

#[test]
fn a_reader_past_the_kernels_cache_reads_each_time_anew() {
    let test = "a_reader_past_the_kernels_cache_reads_each_time_anew";
    let Some(m) = Mounted::with(test, MountOptions { direct: true, ..MountOptions::default() }) else { return };
    let path = m.file(m.source.add(vec![7; 100_000]));
    for _ in 0..3 {
        m.source.take_calls();
        assert_eq!(std::fs::read(&path).unwrap(), [7; 100_000]);
        assert!(!m.source.take_calls().is_empty());
    }
    assert!(m.mount.modes().sentences()[1].contains("keeps nothing"));
}
