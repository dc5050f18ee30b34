//! The system calls by which programs read files, on passed-through and on streamed ones.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use byhash::fuse::MountOptions;
use byhash::transfer::FetchError;

use super::memory_source::{Answer, Call};
use super::mounted::Mounted;

/// How long is waited for what the kernel does by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// No multiple of a page, and more than the kernel reads ahead.
const LEN: usize = 5_000_001;

fn content() -> Vec<u8> {
    let mut bytes = vec![0; LEN];
    blake3::Hasher::new().update(b"semantics").finalize_xof().fill(&mut bytes);
    bytes
}

/// Tries `what` with a file of [`content`] on a mount that passes through, on one that does not, and on
/// one of which the kernel keeps nothing.
fn in_each_mode(test: &str, what: impl Fn(&Mounted, PathBuf, &[u8])) {
    let bytes = content();
    let direct = MountOptions { direct: true, ..MountOptions::default() };
    for m in [Mounted::passing_through(test), Mounted::new(test), Mounted::with(test, direct)].into_iter().flatten() {
        let path = m.file(m.add_whole("content", &bytes));
        what(&m, path, &bytes);
    }
}

fn last_errno() -> Option<i32> {
    std::io::Error::last_os_error().raw_os_error()
}

/// What system calls that count bytes return.
fn count(returned: isize) -> usize {
    usize::try_from(returned).unwrap_or_else(|_| panic!("{}", std::io::Error::last_os_error()))
}

#[test]
fn maps_private_and_shared_show_the_content() {
    in_each_mode("maps_private_and_shared_show_the_content", |_, path, bytes| {
        let file = File::open(path).unwrap();
        for flags in [libc::MAP_PRIVATE, libc::MAP_SHARED] {
            // SAFETY: a new map, whose address the kernel chooses; nothing changes the file.
            let map = unsafe {
                let at = libc::mmap(null_mut(), LEN, libc::PROT_READ, flags, file.as_raw_fd(), 0);
                assert_ne!(at, libc::MAP_FAILED, "{flags}: {}", std::io::Error::last_os_error());
                std::slice::from_raw_parts(at.cast::<u8>(), LEN)
            };
            assert!(map == bytes, "flags {flags}");
            // SAFETY: the map was made above and is used no more.
            unsafe { libc::munmap(map.as_ptr().cast_mut().cast(), LEN) };
        }
        // SAFETY: as above; what is written stays in this process.
        unsafe {
            let both = libc::PROT_READ | libc::PROT_WRITE;
            let private = libc::mmap(null_mut(), LEN, both, libc::MAP_PRIVATE, file.as_raw_fd(), 0);
            private.cast::<u8>().write(!bytes[0]);
            libc::munmap(private, LEN);
            let shared = libc::mmap(null_mut(), LEN, both, libc::MAP_SHARED, file.as_raw_fd(), 0);
            assert_eq!((shared, last_errno()), (libc::MAP_FAILED, Some(libc::EACCES)));
        }
        assert_eq!(std::fs::read(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()[0], bytes[0]);
    });
}

/// Tells a copy of this program to touch a map of this file.
const TOUCH: &str = "BYHASH_TEST_TOUCH_A_MAP_OF";

/// Not a test of its own: the program of [`a_failed_fetch_under_a_map_is_a_sigbus_and_no_lasting_harm`].
#[test]
fn touch_a_map() {
    let Some(path) = std::env::var_os(TOUCH) else { return };
    // SAFETY: nothing changes the file.
    let map = unsafe { memmap2::Mmap::map(&File::open(path).unwrap()).unwrap() };
    println!("\ntouched {}", map[LEN / 2]);
}

#[test]
fn a_failed_fetch_under_a_map_is_a_sigbus_and_no_lasting_harm() {
    let test = "a_failed_fetch_under_a_map_is_a_sigbus_and_no_lasting_harm";
    let direct = MountOptions { direct: true, ..MountOptions::default() };
    for m in [Mounted::new(test), Mounted::with(test, direct)].into_iter().flatten() {
        let hash = m.source.add_with(content(), |blob| blob.read = Answer::Fail(FetchError::Unreachable));
        let touch = || {
            let mut program = Command::new(std::env::current_exe().unwrap());
            program.args(["--exact", "semantics::touch_a_map", "--nocapture"]).env(TOUCH, m.file(hash));
            program.output().unwrap()
        };
        assert_eq!(touch().status.signal(), Some(libc::SIGBUS));
        m.source.alter(hash, |blob| blob.read = Answer::Give);
        let output = touch();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains(&format!("touched {}\n", content()[LEN / 2])), "{said}");
    }
}

#[test]
fn programs_are_executed() {
    in_each_mode("programs_are_executed", |m, _, _| {
        let program = m.file(m.add_whole("program", &std::fs::read("/bin/true").unwrap()));
        assert!(Command::new(&program).status().unwrap().success());
        let script = m.file(m.add_whole("script", b"#!/bin/sh\nexit 7\n"));
        assert_eq!(Command::new(&script).status().unwrap().code(), Some(7));
    });
}

#[test]
fn sendfile_splice_and_what_follows_copy_file_range_copy_it() {
    in_each_mode("sendfile_splice_and_what_follows_copy_file_range_copy_it", |m, path, bytes| {
        let file = File::open(&path).unwrap();
        let target = |name: &str| {
            let path = m.files.path().join(name);
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap()
        };
        let (sent, copied) = (target("sent"), target("copied"));
        let mut offset = 0;
        while (offset as usize) < LEN {
            // SAFETY: open descriptors, and an offset that outlives the call.
            let n = unsafe { libc::sendfile(sent.as_raw_fd(), file.as_raw_fd(), &raw mut offset, LEN) };
            assert!(count(n) > 0);
        }
        // As between any two file systems (copy_file_range(2)); programs then copy by themselves.
        // SAFETY: open descriptors.
        let n = unsafe { libc::copy_file_range(file.as_raw_fd(), null_mut(), copied.as_raw_fd(), null_mut(), LEN, 0) };
        assert_eq!((n, last_errno()), (-1, Some(libc::EXDEV)));
        assert!(Command::new("cp").arg(&path).arg(m.files.path().join("copied")).status().unwrap().success());
        for mut copy in [sent, copied] {
            let mut all = Vec::new();
            std::io::Seek::rewind(&mut copy).unwrap();
            copy.read_to_end(&mut all).unwrap();
            assert!(all == bytes);
        }
        let (mut out, into) = std::io::pipe().unwrap();
        let mut offset: i64 = 0;
        let mut part = vec![0; 1 << 16];
        while (offset as usize) < LEN {
            let start = offset as usize;
            // SAFETY: open descriptors, and an offset that outlives the call.
            let n =
                unsafe { libc::splice(file.as_raw_fd(), &raw mut offset, into.as_raw_fd(), null_mut(), part.len(), 0) };
            let n = count(n);
            out.read_exact(&mut part[..n]).unwrap();
            assert!(n > 0 && part[..n] == bytes[start..start + n], "at {start}");
        }
    });
}

#[test]
fn direct_reads_are_right_at_any_place() {
    in_each_mode("direct_reads_are_right_at_any_place", |_, path, bytes| {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
        let mut buffer = vec![0_u8; (64 << 10) + 4096];
        let skip = buffer.as_ptr().align_offset(4096);
        for at in [0, 4096, 1 << 20, LEN & !4095] {
            let part = &mut buffer[skip..skip + (64 << 10)];
            let n = file.read_at(part, at as u64).unwrap();
            assert_eq!(n, (LEN - at).min(64 << 10));
            assert!(part[..n] == bytes[at..at + n], "at {at}");
        }
    });
}

#[test]
fn there_are_no_holes_and_the_kernel_may_be_advised() {
    in_each_mode("there_are_no_holes_and_the_kernel_may_be_advised", |_, path, bytes| {
        let file = File::open(&path).unwrap();
        // SAFETY: an open descriptor.
        let seek = |at: i64, whence: i32| unsafe { libc::lseek(file.as_raw_fd(), at, whence) };
        assert_eq!(seek(100, libc::SEEK_DATA), 100);
        assert_eq!(seek(100, libc::SEEK_HOLE), LEN as i64);
        assert_eq!((seek(LEN as i64, libc::SEEK_DATA), last_errno()), (-1, Some(libc::ENXIO)));
        assert_eq!(seek(-1, libc::SEEK_END), LEN as i64 - 1);
        let advices = [
            libc::POSIX_FADV_WILLNEED,
            libc::POSIX_FADV_SEQUENTIAL,
            libc::POSIX_FADV_RANDOM,
            libc::POSIX_FADV_DONTNEED,
        ];
        for advice in advices {
            // SAFETY: an open descriptor.
            assert_eq!(unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, LEN as i64, advice) }, 0);
        }
        let mut page = [0; 4096];
        file.read_exact_at(&mut page, 777_777).unwrap();
        assert_eq!(page[..], bytes[777_777..][..4096]);
    });
}

/// What the kernel tells us of the advice are reads.
#[test]
fn what_will_be_needed_is_read_ahead() {
    let Some(m) = Mounted::new("what_will_be_needed_is_read_ahead") else { return };
    let file = File::open(m.file(m.source.add(content()))).unwrap();
    // SAFETY: an open descriptor.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 2 << 20, 1 << 20, libc::POSIX_FADV_WILLNEED) };
    // The least that any kernel reads ahead; root's mount has all of it read.
    let mut left: u64 = 128 << 10;
    let start = Instant::now();
    while left > 0 {
        assert!(start.elapsed() < PATIENCE, "{left} bytes were never asked for");
        for call in m.source.take_calls() {
            let Call::Read(range) = call else { continue };
            assert!(range.start >= 2 << 20 && range.end <= 3 << 20, "{range:?} was not advised");
            left = left.saturating_sub(range.len());
        }
        std::thread::yield_now();
    }
}

#[test]
fn statx_is_the_same_before_and_after_a_read_and_the_number_is_that_of_the_listing() {
    let test = "statx_is_the_same_before_and_after_a_read_and_the_number_is_that_of_the_listing";
    in_each_mode(test, |m, path, _| {
        let name = CString::new(path.as_os_str().as_bytes()).unwrap();
        let statx = || {
            let mut out = MaybeUninit::<libc::statx>::uninit();
            // SAFETY: a path that ends in zero, and room for the answer, which is filled in on success.
            unsafe {
                assert_eq!(libc::statx(libc::AT_FDCWD, name.as_ptr(), 0, libc::STATX_BASIC_STATS, out.as_mut_ptr()), 0);
                out.assume_init()
            }
        };
        let key = |s: &libc::statx| (s.stx_ino, s.stx_size, s.stx_mode, s.stx_nlink, s.stx_mtime.tv_sec, s.stx_blocks);
        let before = statx();
        assert_eq!((before.stx_size, before.stx_mode), (LEN as u64, 0o100_555));
        std::fs::read(&path).unwrap();
        assert_eq!(key(&statx()), key(&before));
        let listed = std::fs::read_dir(m.by_hash()).unwrap().map(|entry| entry.unwrap());
        let numbers: Vec<_> = listed.map(|entry| std::os::unix::fs::DirEntryExt::ino(&entry)).collect();
        assert_eq!(numbers, [before.stx_ino]);
        assert_eq!(File::open(&path).unwrap().metadata().unwrap().ino(), before.stx_ino);
    });
}

#[test]
fn nothing_is_changed_made_or_linked() {
    in_each_mode("nothing_is_changed_made_or_linked", |m, path, bytes| {
        let refused = |what: &str, returned: i32| {
            let errno = last_errno();
            assert!(returned == -1 && matches!(errno, Some(libc::EROFS | libc::EPERM)), "{what}: {errno:?}");
        };
        let c = |path: &PathBuf| CString::new(path.as_os_str().as_bytes()).unwrap();
        let (file, new, directory) = (c(&path), c(&m.by_hash().join("new")), c(&m.by_hash()));
        let (file, new, directory) = (file.as_ptr(), new.as_ptr(), directory.as_ptr());
        // SAFETY: each call has strings that end in zero, and null where that is allowed.
        unsafe {
            refused("open for writing", libc::open(file, libc::O_RDWR));
            refused("open to append", libc::open(file, libc::O_WRONLY | libc::O_APPEND));
            refused("open to truncate", libc::open(file, libc::O_RDONLY | libc::O_TRUNC));
            refused("open without a name", libc::open(directory, libc::O_TMPFILE | libc::O_RDWR, 0o600));
            refused("creat", libc::creat(new, 0o644));
            refused("truncate", libc::truncate(file, 0));
            refused("chmod", libc::chmod(file, 0o777));
            refused("chown", libc::chown(file, 1, 1));
            refused("utimes", libc::utimes(file, std::ptr::null()));
            refused("link", libc::link(file, new));
            refused("symlink", libc::symlink(file, new));
            refused("rename", libc::rename(file, new));
            refused("unlink", libc::unlink(file));
            refused("mkdir", libc::mkdir(new, 0o755));
            refused("rmdir", libc::rmdir(directory));
            refused("mknod", libc::mknod(new, libc::S_IFIFO | 0o644, 0));
            refused("setxattr", libc::setxattr(file, c"user.x".as_ptr(), c"y".as_ptr().cast(), 1, 0));
            refused("removexattr", libc::removexattr(file, c"user.byhash.state".as_ptr()));
            let open = libc::open(file, libc::O_RDONLY);
            refused("fchmod", libc::fchmod(open, 0o777));
            refused("fchown", libc::fchown(open, 1, 1));
            refused("futimens", libc::futimens(open, std::ptr::null()));
            // What is open for reading only cannot be written to, as on any file system.
            assert_eq!((libc::write(open, c"x".as_ptr().cast(), 1), last_errno()), (-1, Some(libc::EBADF)));
            assert_eq!((libc::ftruncate(open, 0), last_errno()), (-1, Some(libc::EINVAL)));
            assert_eq!((libc::fallocate(open, 0, 0, 1), last_errno()), (-1, Some(libc::EBADF)));
            libc::close(open);
        }
        let reopened =
            OpenOptions::new().write(true).open(format!("/proc/self/fd/{}", File::open(&path).unwrap().as_raw_fd()));
        assert!(reopened.is_err());
        assert!(std::fs::read(&path).unwrap() == bytes);
    });
}
