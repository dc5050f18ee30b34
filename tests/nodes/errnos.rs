//! What a reader is told who cannot have what he asks for.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::content::{MIB, content, hash_of};
use super::node::{Sandbox, fuse_is_here};

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// The errno of looking at `path`. That it comes within two seconds is seen in `tests/engine.rs`, where the clock is that
/// of the test.
fn errno_of(path: &Path) -> Option<i32> {
    errno(std::fs::metadata(path))
}

#[test]
fn lost_and_unreachable_are_told_apart() {
    if !fuse_is_here("lost_and_unreachable_are_told_apart") {
        return;
    }
    let sandbox = Sandbox::new();
    let (a1, a2) = (sandbox.holder("a1", &[]), sandbox.holder("a2", &[]));
    let reader = sandbox.reader("b", &[&a1, &a2]);
    let unknown = |name: &str| reader.file(&hash_of(name.as_bytes()));
    assert_eq!(errno_of(&unknown("all say no")), Some(libc::ENOENT));
    a1.end(libc::SIGKILL);
    assert_eq!(errno_of(&unknown("the one who is there says no")), Some(libc::ENOENT));
    a2.end(libc::SIGKILL);
    assert_eq!(errno_of(&unknown("nobody answers")), Some(libc::EHOSTUNREACH));
    assert_eq!(errno_of(&unknown("nobody answers")), Some(libc::EHOSTUNREACH), "again");
}

#[test]
fn an_address_that_swallows_everything_is_unreachable() {
    if !fuse_is_here("an_address_that_swallows_everything_is_unreachable") {
        return;
    }
    let sandbox = Sandbox::new();
    let seat = sandbox.seat("b");
    // Takes connections, as the kernel does for a process that hangs, and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = format!("{}@{}", sandbox.seat("a").id, silent.local_addr().unwrap());
    let reader = seat.mount(["--peer", &peer]);
    let errno = errno_of(&reader.file(&hash_of(b"x")));
    assert!(matches!(errno, Some(libc::EHOSTUNREACH | libc::ETIMEDOUT)), "{errno:?}");
}

#[test]
fn names_that_are_no_hashes_and_the_empty_blob_need_nobody() {
    if !fuse_is_here("names_that_are_no_hashes_and_the_empty_blob_need_nobody") {
        return;
    }
    let sandbox = Sandbox::new();
    let a = sandbox.holder("a", &[]);
    let reader = sandbox.reader("b", &[&a]);
    let hash = hash_of(b"x");
    for name in [
        "x",
        &hash[1..],
        &format!("{hash}0"),
        &hash.to_uppercase(),
        &format!("{}g", &hash[1..]),
        ".git",
        &"x".repeat(255),
    ] {
        assert_eq!(errno_of(&reader.file(name)), Some(libc::ENOENT), "{name}");
    }
    let empty = reader.file(&hash_of(b""));
    assert_eq!(std::fs::metadata(&empty).unwrap().len(), 0);
    assert_eq!(std::fs::read(&empty).unwrap(), b"");
    assert_eq!(reader.metric("have_queries"), 0);

    let nobody = sandbox.seat("c").mount([]);
    assert_eq!(std::fs::read(nobody.file(&hash_of(b""))).unwrap(), b"");
    assert_eq!(errno_of(&nobody.file(&hash)), Some(libc::EHOSTUNREACH));
}

#[test]
fn the_rest_of_a_blob_whose_only_holder_is_gone_is_unreachable_and_what_came_stays() {
    if !fuse_is_here("the_rest_of_a_blob_whose_only_holder_is_gone_is_unreachable_and_what_came_stays") {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = content(50, 64 * MIB);
    let a = sandbox.holder("a", &[&bytes]);
    let reader = sandbox.reader("b", &[&a]);
    let file = File::open(reader.file(&hash_of(&bytes))).unwrap();
    let mut page = [0; 4096];
    file.read_exact_at(&mut page, 5 << 20).unwrap();
    a.end(libc::SIGKILL);
    // Not ETIMEDOUT: that nobody can be reached is found out before the patience of a read is over.
    assert_eq!(errno(file.read_exact_at(&mut page, 50 << 20)), Some(libc::EHOSTUNREACH));
    // Its neighbour came with it. The kernel reads ahead here, and that much cannot be had.
    file.read_exact_at(&mut page, (5 << 20) + 8192).unwrap();
    assert!(page == bytes[(5 << 20) + 8192..][..4096]);
    // The name is still known.
    assert_eq!(std::fs::metadata(reader.file(&hash_of(&bytes))).unwrap().len(), bytes.len() as u64);
}
