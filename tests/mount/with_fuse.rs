//! What programs see of a real mount.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use byhash::ids::{BlobRange, ContentHash, PeerId};
use byhash::transfer::{BlobState, FetchError};

use super::memory_source::{Answer, Call};
use super::mounted::Mounted;
use super::skip::skip_even_in_ci;

/// Bytes that differ from page to page and are no multiple of a page long.
fn content(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&len.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn a_file_reads_as_what_its_name_says() {
    let Some(m) = Mounted::new("a_file_reads_as_what_its_name_says") else { return };
    // Nothing, one byte, a page, more than the kernel asks for at once, and many requests.
    for len in [0, 1, 4096, 1_200_000, 9_000_001] {
        let hash = m.source.add(content(len));
        let mut hasher = blake3::Hasher::new();
        let read = std::io::copy(&mut File::open(m.file(hash)).unwrap(), &mut hasher).unwrap();
        assert_eq!((read, ContentHash::from(hasher.finalize())), (len as u64, hash));
    }
}

#[test]
fn stat_shows_the_proven_size_and_constants() {
    let Some(m) = Mounted::new("stat_shows_the_proven_size_and_constants") else { return };
    let hash = m.source.add_with(content(5000), |blob| (blob.size_known, blob.state) = (false, BlobState::Absent));
    let meta = std::fs::metadata(m.file(hash)).unwrap();
    assert_eq!((meta.len(), meta.blocks(), meta.mode(), meta.nlink()), (5000, 10, 0o100_555, 1));
    assert_eq!(meta.modified().unwrap(), SystemTime::UNIX_EPOCH + Duration::from_secs(946_684_800));
    let directory = std::fs::metadata(m.by_hash()).unwrap();
    assert_eq!((directory.mode(), directory.nlink()), (0o040_555, 2));
    assert_eq!(m.source.take_calls(), [Call::Size]);
}

#[test]
fn a_mapped_file_and_pages_here_and_there_are_right() {
    let Some(m) = Mounted::new("a_mapped_file_and_pages_here_and_there_are_right") else { return };
    let bytes = content(3_000_001);
    let file = File::open(m.file(m.source.add(bytes.clone()))).unwrap();
    // SAFETY: nothing changes the file: it is content-addressed.
    let map = unsafe { memmap2::Mmap::map(&file).unwrap() };
    for at in [2_999_999, 0, 1_500_000, 4096] {
        assert_eq!(map[at], bytes[at]);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at as u64).unwrap();
        assert_eq!(byte[0], bytes[at]);
    }
    assert_eq!(map[..], bytes[..]);
}

#[test]
fn a_page_read_at_random_fetches_little_more_than_itself() {
    let Some(m) = Mounted::new("a_page_read_at_random_fetches_little_more_than_itself") else { return };
    let file = File::open(m.file(m.source.add(content(8 << 20)))).unwrap();
    m.source.take_calls();
    file.read_exact_at(&mut [0; 4096], 4 << 20).unwrap();
    assert_eq!(m.source.take_calls(), [Call::Read(BlobRange::new(4 << 20, (4 << 20) + 4096))]);
}

#[test]
fn a_program_runs_from_the_mount() {
    let Some(m) = Mounted::new("a_program_runs_from_the_mount") else { return };
    for (program, success) in [("true", true), ("false", false)] {
        let bytes = std::fs::read(Path::new("/bin").join(program)).unwrap();
        let file = m.file(m.source.add(bytes));
        assert_eq!(Command::new(file).arg0(program).status().unwrap().success(), success);
    }
}

#[test]
fn nothing_can_be_written() {
    let Some(m) = Mounted::new("nothing_can_be_written") else { return };
    let file = m.file(m.source.add("abc"));
    let erofs = Some(libc::EROFS);
    assert_eq!(errno(OpenOptions::new().write(true).open(&file)), erofs);
    assert_eq!(errno(OpenOptions::new().append(true).open(&file)), erofs);
    assert_eq!(errno(File::create(m.by_hash().join("new"))), erofs);
    assert_eq!(errno(std::fs::create_dir(m.by_hash().join("new"))), erofs);
    assert_eq!(errno(std::fs::remove_file(&file)), erofs);
    assert_eq!(errno(std::fs::rename(&file, m.by_hash().join("new"))), erofs);
    assert_eq!(errno(std::fs::hard_link(&file, m.by_hash().join("new"))), erofs);
    assert_eq!(errno(std::os::unix::fs::symlink(&file, m.by_hash().join("new"))), erofs);
    let mut writable = std::fs::metadata(&file).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut writable, 0o777);
    assert_eq!(errno(std::fs::set_permissions(&file, writable)), erofs);
    assert_eq!(std::fs::read(&file).unwrap(), b"abc");
}

#[test]
fn each_failure_has_its_own_errno() {
    let Some(m) = Mounted::new("each_failure_has_its_own_errno") else { return };
    for (error, code) in [
        (FetchError::NotFound, libc::ENOENT),
        (FetchError::Unreachable, libc::EHOSTUNREACH),
        (FetchError::TimedOut, libc::ETIMEDOUT),
        (FetchError::WrongBytes, libc::EIO),
        (FetchError::Cancelled, libc::ECANCELED),
    ] {
        let absent = m.source.absent(&format!("{error:?}"), Answer::Fail(error.clone()));
        assert_eq!(errno(std::fs::metadata(m.file(absent))), Some(code), "stat, {error:?}");
        let broken = m.source.add_with(format!("{error:?}!"), |blob| blob.read = Answer::Fail(error.clone()));
        assert_eq!(errno(std::fs::read(m.file(broken))), Some(code), "read, {error:?}");
    }
}

#[test]
fn what_is_no_hash_does_not_exist_and_nobody_is_asked() {
    let Some(m) = Mounted::new("what_is_no_hash_does_not_exist_and_nobody_is_asked") else { return };
    let hash = ContentHash::of(b"x").to_string();
    for name in ["x", &hash[1..], &hash.to_uppercase()] {
        assert_eq!(errno(File::open(m.by_hash().join(name))), Some(libc::ENOENT), "{name}");
    }
    assert_eq!(errno(File::open(m.directory.path().join("by-hush"))), Some(libc::ENOENT));
    assert_eq!(m.source.take_calls(), []);
}

#[test]
fn that_nobody_has_it_is_remembered_for_a_moment_only() {
    let Some(m) = Mounted::new("that_nobody_has_it_is_remembered_for_a_moment_only") else { return };
    let hash = ContentHash::of(b"abc");
    for _ in 0..3 {
        assert_eq!(errno(File::open(m.file(hash))), Some(libc::ENOENT));
    }
    assert_eq!(m.source.take_calls(), [Call::Size], "peers are not asked each time");
    // What is added here is there at once.
    m.source.add("abc");
    assert_eq!(std::fs::read(m.file(hash)).unwrap(), b"abc");
    // And what a peer has added soon.
    let other = ContentHash::of(b"def");
    assert_eq!(errno(File::open(m.file(other))), Some(libc::ENOENT));
    m.source.add_with("def", |blob| blob.size_known = false);
    while errno(File::open(m.file(other))) == Some(libc::ENOENT) {
        std::thread::yield_now();
    }
    assert_eq!(std::fs::read(m.file(other)).unwrap(), b"def");
}

#[test]
fn by_hash_lists_thousands_of_names_and_asks_nobody() {
    let Some(m) = Mounted::new("by_hash_lists_thousands_of_names_and_asks_nobody") else { return };
    let mut expected: Vec<_> = (0..5000u32).map(|n| m.source.add(n.to_string()).to_string()).collect();
    expected.sort_unstable();
    let list = || -> Vec<_> {
        let entries = std::fs::read_dir(m.by_hash()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(list(), expected);
    assert_eq!(list(), expected, "a second time");
    let root: Vec<_> = std::fs::read_dir(m.directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(root, ["by-hash"]);
    assert_eq!(m.source.take_calls(), []);
}

#[test]
fn df_shows_the_cache() {
    let Some(m) = Mounted::new("df_shows_the_cache") else { return };
    m.source.add(content(8192));
    let path = CString::new(m.directory.path().as_os_str().as_bytes()).unwrap();
    let mut figures = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: a path that ends in zero, and room for the answer, which is filled in on success.
    let figures = unsafe {
        assert_eq!(libc::statvfs(path.as_ptr(), figures.as_mut_ptr()), 0);
        figures.assume_init()
    };
    assert_eq!((figures.f_blocks, figures.f_bfree, figures.f_bavail), (1 << 18, (1 << 18) - 2, 1 << 16));
    // Files have no number that could run out: df -i shows a dash.
    assert_eq!((figures.f_frsize, figures.f_files, figures.f_namemax), (4096, 0, 64));
    assert_ne!(figures.f_flag & libc::ST_RDONLY, 0);
}

/// getxattr(2) with a buffer of `room` bytes.
fn xattr(path: &Path, name: &str, room: usize) -> Result<(usize, Vec<u8>), Option<i32>> {
    let (path, name) = (CString::new(path.as_os_str().as_bytes()).unwrap(), CString::new(name).unwrap());
    let mut value = vec![0; room];
    // SAFETY: strings that end in zero, and a buffer of the length given.
    let len = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), room) };
    let len = usize::try_from(len).map_err(|_| std::io::Error::last_os_error().raw_os_error())?;
    value.truncate(len);
    Ok((len, value))
}

#[test]
fn extended_attributes_tell_state_and_holders() {
    let test = "extended_attributes_tell_state_and_holders";
    let Some(m) = Mounted::new(test) else { return };
    let holder = PeerId::from_bytes([5; 32]);
    let file = m.file(m.source.add_with("abc", |blob| blob.holders.push(holder)));
    assert_eq!(xattr(&file, "user.byhash.state", 0), Ok((8, vec![])));
    assert_eq!(xattr(&file, "user.byhash.state", 8), Ok((8, b"complete".to_vec())));
    assert_eq!(xattr(&file, "user.byhash.state", 7), Err(Some(libc::ERANGE)));
    assert_eq!(xattr(&file, "user.byhash.holders", 99), Ok((64, holder.to_string().into_bytes())));
    assert_eq!(xattr(&file, "user.other", 99), Err(Some(libc::ENODATA)));
    let getfattr = Command::new("getfattr").args(["-d", "--absolute-names"]).arg(&file).output();
    match getfattr {
        Ok(output) => {
            assert!(String::from_utf8(output.stdout).unwrap().contains("user.byhash.state=\"complete\""));
        }
        Err(_) => skip_even_in_ci(&format!("{test}, as getfattr shows them,"), "getfattr is not installed"),
    }
}

#[test]
fn the_kernels_read_ahead_is_what_is_told_of_it() {
    let Some(m) = Mounted::new("the_kernels_read_ahead_is_what_is_told_of_it") else { return };
    let device = std::fs::metadata(m.directory.path()).unwrap().dev();
    let file = format!("/sys/class/bdi/{}:{}/read_ahead_kb", libc::major(device), libc::minor(device));
    let window = std::fs::read_to_string(&file).unwrap();
    let told = m.mount.modes().sentences().remove(1);
    let is_raised = told == "the kernel reads ahead 1024 KiB" && window == "1024\n";
    // Only root may, and where /sys can be written to.
    let may = File::options().write(true).open(&file).is_ok();
    assert!(
        is_raised || !may && told.contains("could not be raised") && window != "1024\n",
        "{told}, in fact {window}"
    );
}

#[test]
fn a_reader_of_a_silent_holder_can_be_killed() {
    let Some(m) = Mounted::new("a_reader_of_a_silent_holder_can_be_killed") else { return };
    let hash = m.source.add_with(content(1 << 20), |blob| blob.read = Answer::Never);
    let mut cat = Command::new("cat").arg(m.file(hash)).stdout(Stdio::null()).spawn().unwrap();
    m.source.wait_for_waiting(1);
    cat.kill().unwrap();
    assert_eq!(cat.wait().unwrap().signal(), Some(libc::SIGKILL));
    // Others are served meanwhile.
    assert_eq!(std::fs::read(m.file(m.source.add("abc"))).unwrap(), b"abc");
}

#[test]
fn a_lookup_that_waits_holds_up_no_other() {
    let Some(m) = Mounted::new("a_lookup_that_waits_holds_up_no_other") else { return };
    let (silent, held) = (m.source.absent("silent", Answer::Never), m.source.add("abc"));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| errno(File::open(m.file(silent))));
        m.source.wait_for_waiting(1);
        assert_eq!(std::fs::read(m.file(held)).unwrap(), b"abc");
        assert!(m.source.waiting() >= 1, "answered while the other waits");
        assert_eq!(waits.join().unwrap(), Some(libc::ETIMEDOUT));
    });
}

#[test]
fn a_panic_is_an_error_and_the_mount_lives_on() {
    let Some(m) = Mounted::new("a_panic_is_an_error_and_the_mount_lives_on") else { return };
    let broken = m.source.add_with("abc", |blob| blob.read = Answer::Panic);
    let absent = m.source.absent("xyz", Answer::Panic);
    for _ in 0..8 {
        assert_eq!(errno(std::fs::read(m.file(broken))), Some(libc::EIO));
        assert_eq!(errno(File::open(m.file(absent))), Some(libc::EIO));
    }
    m.source.alter(broken, |blob| blob.read = Answer::Give);
    let mut file = File::open(m.file(broken)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "abc");
}

#[test]
fn ls_of_a_big_cache_takes_the_names_in_small_portions() {
    let Some(m) = Mounted::new("ls_of_a_big_cache_takes_the_names_in_small_portions") else { return };
    let mut hashes: Vec<_> = (0..5000_u32).map(|n| m.source.add(n.to_string()).to_string()).collect();
    hashes.sort_unstable();
    let output = Command::new("ls").arg(m.by_hash()).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().lines().eq(&hashes));
    let taken = m.source.take_listed();
    assert!(taken.iter().all(|names| *names <= 128), "{taken:?}");
    let all: usize = taken.iter().sum();
    assert!(all < 2 * hashes.len(), "{all} names read to show {}", hashes.len());
}
