//! What waits for a silent source can be told to end, and holds up nobody else.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use byhash::fs::LOOKUP_DEADLINE;
use byhash::fuse::MountOptions;
use byhash::transfer::{BlobState, FetchError};

use super::memory_source::Answer;
use super::mounted::{Mounted, passing_through};

/// How long the end of a program is awaited: far below the ten minutes of a patient mount, so that what
/// ends within it was not ended by a deadline.
const PATIENCE: Duration = Duration::from_secs(60);

/// The signals by which people and supervisors end programs.
const SIGNALS: [i32; 3] = [libc::SIGINT, libc::SIGKILL, libc::SIGTERM];

fn signal(child: &Child, signal: i32) {
    // SAFETY: kill has no memory preconditions; the child is not reaped, so the id is its own.
    assert_eq!(unsafe { libc::kill(child.id().cast_signed(), signal) }, 0);
}

/// Whether it ends while the mount still has patience.
fn ends(child: &Child) -> bool {
    // SAFETY: no pointers; the child is not reaped, so the id is its own.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was just opened and belongs to nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure, and it outlives the call.
    unsafe { libc::poll(&raw mut poll, 1, PATIENCE.as_millis() as i32) == 1 }
}

/// Starts a program that will wait for the source, and returns when it does.
fn start(m: &Mounted, command: &mut Command) -> Child {
    let before = m.source.waiting();
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    m.source.wait_for_waiting(before + 1);
    child
}

/// Starts a program that will wait for the source, ends it by each signal, and sees that nothing goes on
/// for it.
fn ends_by_each_signal(m: &Mounted, place: &str, mut command: impl FnMut(i32) -> Command) {
    for number in SIGNALS {
        let mut child = start(m, &mut command(number));
        signal(&child, number);
        assert!(ends(&child), "{place}: signal {number} did not end it");
        assert_eq!(child.wait().unwrap().signal(), Some(number), "{place}");
        assert!(m.source.nothing_waits_within(PATIENCE), "{place}: something is still fetched for it");
    }
}

fn cat(path: &Path) -> Command {
    let mut cat = Command::new("cat");
    cat.arg(path);
    cat
}

/// Starts readers of a file for whose name another one looks, and returns when the kernel holds all of them.
fn start_behind<const N: usize>(path: &Path) -> [Child; N] {
    let spawn = |_| cat(path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let children = std::array::from_fn(spawn);
    let start = Instant::now();
    for child in &children {
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        while !stat().contains("(cat) D ") {
            assert!(start.elapsed() < PATIENCE, "the kernel does not hold it: {}", stat());
            std::thread::yield_now();
        }
    }
    children
}

/// Ends each by another signal.
fn end_each(children: [Child; SIGNALS.len()]) {
    for (mut child, number) in children.into_iter().zip(SIGNALS) {
        signal(&child, number);
        assert!(ends(&child), "signal {number} did not end it");
        assert_eq!(child.wait().unwrap().signal(), Some(number));
    }
}

/// Reads past the kernel's cache, `skip` pieces of 64 KiB left out.
fn direct(path: &Path, skip: usize) -> Command {
    let mut dd = Command::new("dd");
    dd.args(["iflag=direct", "bs=64k", &format!("skip={skip}"), &format!("if={}", path.display())]);
    dd
}

#[test]
fn whoever_waits_in_a_lookup_goes_when_told_to() {
    let test = "whoever_waits_in_a_lookup_goes_when_told_to";
    let Some(m) = Mounted::patient(test, MountOptions::default(), false) else { return };
    ends_by_each_signal(&m, "for the size", |n| cat(&m.file(m.source.absent(&format!("silent {n}"), Answer::Never))));
    drop(m);
    let Some(m) = Mounted::patient(test, passing_through(), false) else { return };
    let Some(m) = m.if_it_passes_through(test) else { return };
    let small = |n: i32, state, size_known| {
        m.source.add_with(vec![n as u8; 20_000], |blob| {
            (blob.state, blob.size_known, blob.make_whole) = (state, size_known, Answer::Never);
        })
    };
    ends_by_each_signal(&m, "for a small blob", |n| cat(&m.file(small(n, BlobState::Absent, false))));
    ends_by_each_signal(&m, "for the check of a small blob", |n| cat(&m.file(small(n, BlobState::Complete, true))));
}

/// The kernel has one of them look, and the others wait for its answer, whatever signals they get.
#[test]
fn of_many_who_look_for_the_same_name_each_goes_when_told_to() {
    let Some(m) = Mounted::patient_for_sizes("of_many_who_look_for_the_same_name_each_goes_when_told_to") else {
        return;
    };
    let path = m.file(m.source.absent("silent", Answer::Never));
    let mut first = start(&m, &mut cat(&path));
    end_each(start_behind(&path));
    assert!(first.try_wait().unwrap().is_none(), "all that while one waits that nobody tells to end");
    signal(&first, libc::SIGKILL);
    assert!(ends(&first));
    first.wait().unwrap();
    assert!(m.source.nothing_waits_within(PATIENCE), "something is still asked for them");
}

#[test]
fn who_looks_first_and_goes_leaves_the_others_a_name_to_wait_for() {
    let test = "who_looks_first_and_goes_leaves_the_others_a_name_to_wait_for";
    let Some(m) = Mounted::patient(test, MountOptions::default(), false) else { return };
    let silent = m.source.add_with("silent", |blob| {
        (blob.size_known, blob.size, blob.state) = (false, Answer::Never, BlobState::Absent);
    });
    let path = m.file(silent);
    let mut first = start(&m, &mut cat(&path));
    let others = start_behind(&path);
    let [mut last] = start_behind(&path);
    signal(&first, libc::SIGINT);
    assert!(ends(&first));
    first.wait().unwrap();
    m.source.wait_for_waiting(others.len() + 1);
    end_each(others);
    assert!(last.try_wait().unwrap().is_none());
    // Whoever comes when it can be had reads it through the same node.
    m.source.alter(silent, |blob| blob.size_known = true);
    assert_eq!(std::fs::read(&path).unwrap(), b"silent");
    signal(&last, libc::SIGKILL);
    assert!(ends(&last));
    last.wait().unwrap();
}

#[test]
fn many_who_look_for_the_same_name_wait_no_longer_than_one() {
    let Some(m) = Mounted::new("many_who_look_for_the_same_name_wait_no_longer_than_one") else { return };
    let path = m.file(m.source.absent("silent", Answer::Never));
    std::thread::scope(|scope| {
        let lookers: Vec<_> =
            (0..5).map(|_| scope.spawn(|| std::fs::metadata(&path).unwrap_err().raw_os_error())).collect();
        m.source.wait_for_waiting(lookers.len());
        for looker in lookers {
            assert_eq!(looker.join().unwrap(), Some(libc::ETIMEDOUT));
        }
    });
}

#[test]
fn a_size_may_be_longer_in_coming_than_a_lookup_may_take() {
    let Some(m) = Mounted::new("a_size_may_be_longer_in_coming_than_a_lookup_may_take") else { return };
    let late = LOOKUP_DEADLINE + Duration::from_millis(300);
    let far = m.source.add_with(vec![5; 100_000], |blob| {
        (blob.size_known, blob.state, blob.size) = (false, BlobState::Absent, Answer::Late(0, late));
    });
    let gone = m.source.absent("gone", Answer::FailLate(late, FetchError::NotFound));
    let unreachable = m.source.absent("unreachable", Answer::FailLate(late, FetchError::Unreachable));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(std::fs::read(m.file(far)).unwrap(), [5; 100_000]));
            scope.spawn(|| assert_eq!(std::fs::metadata(m.file(far)).unwrap().len(), 100_000));
            for (hash, errno) in [(gone, libc::ENOENT), (unreachable, libc::EHOSTUNREACH)] {
                let path = m.file(hash);
                scope.spawn(move || assert_eq!(File::open(path).unwrap_err().raw_os_error(), Some(errno)));
            }
        }
    });
    m.source.add("gone");
    assert_eq!(std::fs::read(m.file(gone)).unwrap(), b"gone", "a node without a size is no obstacle later");
}

#[test]
fn whoever_waits_in_an_open_goes_when_told_to() {
    let test = "whoever_waits_in_an_open_goes_when_told_to";
    let Some(m) = Mounted::patient(test, MountOptions::default(), true) else { return };
    let silent =
        m.source.add_with("silent", |blob| (blob.state, blob.make_whole) = (BlobState::Partial, Answer::Never));
    ends_by_each_signal(&m, "an open", |_| cat(&m.file(silent)));
}

#[test]
fn whoever_waits_in_a_read_goes_when_told_to() {
    let test = "whoever_waits_in_a_read_goes_when_told_to";
    let direct_mount = MountOptions { direct: true, ..MountOptions::default() };
    for options in [MountOptions::default(), direct_mount] {
        let Some(m) = Mounted::patient(test, options, false) else { return };
        // Each with a blob of its own, or the kernel would have the beginning.
        let blob =
            |seed: u8, ready: u64| m.source.add_with(vec![seed; 8 << 20], |blob| blob.read = Answer::Until(ready));
        ends_by_each_signal(&m, "at the beginning", |n| cat(&m.file(blob(n as u8, 0))));
        ends_by_each_signal(&m, "in the middle", |n| cat(&m.file(blob(100 + n as u8, 4 << 20))));
        ends_by_each_signal(&m, "directly", |n| direct(&m.file(blob(150 + n as u8, 0)), 0));
        ends_by_each_signal(&m, "directly, in the middle", |n| direct(&m.file(blob(200 + n as u8, 4 << 20)), 60));
    }
}

/// The kernel holds such a program until the read has failed.
#[test]
fn a_program_that_handles_the_signal_gets_to_do_so() {
    let test = "a_program_that_handles_the_signal_gets_to_do_so";
    let Some(m) = Mounted::patient(test, MountOptions::default(), false) else { return };
    let silent = m.source.add_with(vec![1; 1 << 20], |blob| blob.read = Answer::Never);
    for number in [libc::SIGINT, libc::SIGTERM] {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap 'exit 7' INT TERM; read -r line <\"$0\"; exit 8"]).arg(m.file(silent));
        let mut child = start(&m, &mut shell);
        signal(&child, number);
        assert!(ends(&child), "signal {number} did not get through");
        assert_eq!(child.wait().unwrap().code(), Some(7));
    }
}

#[test]
fn an_open_that_fetches_the_whole_blob_first_does_or_tells_why_not() {
    let Some(m) = Mounted::hydrating("an_open_that_fetches_the_whole_blob_first_does_or_tells_why_not") else {
        return;
    };
    let incomplete = |answer: Answer| {
        let name = format!("{answer:?}");
        m.source.add_with(name, |blob| (blob.state, blob.make_whole) = (BlobState::Partial, answer))
    };
    let good = incomplete(Answer::Give);
    let _open = File::open(m.file(good)).unwrap();
    m.source.alter(good, |blob| assert_eq!(blob.state, BlobState::Complete, "before anything is read"));
    for (error, errno) in [(FetchError::Unreachable, libc::EHOSTUNREACH), (FetchError::WrongBytes, libc::EIO)] {
        let failed = File::open(m.file(incomplete(Answer::Fail(error)))).unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(errno));
    }
    let no_room = m.source.add_with("no room", |blob| (blob.state, blob.fits) = (BlobState::Partial, false));
    assert_eq!(File::open(m.file(no_room)).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(m.fs.open_count(), 1, "what failed is not open");
    // A deadline without a byte ends it.
    let silent = incomplete(Answer::Never);
    assert_eq!(File::open(m.file(silent)).unwrap_err().raw_os_error(), Some(libc::ETIMEDOUT));
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
