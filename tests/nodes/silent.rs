//! Holders that fall silent, and those who wait for them. That it is the signal alone that ends a waiting
//! program is shown by `tests/mount/patience.rs`, where nothing else can.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::content::{MIB, content, hash_of, hash_of_file};
use super::node::{Node, Sandbox, eventually, fuse_is_here, run};

fn cat(path: &Path) -> Child {
    Command::new("cat").arg(path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Ends `cat` by a signal, and sees that it was that and no error that ended it.
fn end(mut cat: Child, signal: i32) {
    // SAFETY: kill has no memory preconditions; the child is not reaped, so the id is its own.
    assert_eq!(unsafe { libc::kill(cat.id().cast_signed(), signal) }, 0);
    assert_eq!(cat.wait().unwrap().signal(), Some(signal));
}

/// What must not wait for anybody.
fn look_around(reader: &Node) {
    for command in ["df \"$0\"", "ls \"$0\"", "ls \"$0\"/by-hash", "stat \"$0\"/by-hash"] {
        run(Command::new("sh").args(["-c", command]).arg(&reader.mount_point));
    }
}

#[test]
fn a_silent_holder_holds_up_nobody_but_those_who_want_its_bytes_and_they_can_go() {
    if !fuse_is_here("a_silent_holder_holds_up_nobody_but_those_who_want_its_bytes_and_they_can_go") {
        return;
    }
    let sandbox = Sandbox::new();
    let (stuck, fine) = (content(94, 30 * MIB), content(95, 3 * MIB));
    let (silent, holder) = (sandbox.holder("a1", &[&stuck]), sandbox.holder("a2", &[&fine]));
    let reader = sandbox.reader("b", &[&silent, &holder]);
    let path = reader.file(&hash_of(&stuck));
    std::fs::metadata(&path).unwrap();
    silent.signal(libc::SIGSTOP);
    let cats = [libc::SIGINT, libc::SIGKILL].map(|signal| (cat(&path), signal));
    let mut other = cat(&path);
    eventually("they read", || reader.metric("opens_streamed") >= 3 && reader.metric("transfers_pending") > 0);
    look_around(&reader);
    assert_eq!(hash_of_file(&reader.file(&hash_of(&fine))).unwrap(), hash_of(&fine));
    for (cat, signal) in cats {
        end(cat, signal);
    }
    assert!(other.try_wait().unwrap().is_none(), "all that while one waits that nobody tells to end");
    silent.signal(libc::SIGCONT);
    assert_eq!(other.wait().unwrap().code(), Some(0), "and gets what it waited for");
}

#[test]
fn a_holder_that_falls_silent_in_the_middle_leaves_its_readers_free_to_go() {
    if !fuse_is_here("a_holder_that_falls_silent_in_the_middle_leaves_its_readers_free_to_go") {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = content(98, 120 * MIB);
    let holder = sandbox.holder("a", &[&bytes]);
    let reader = sandbox.reader("b", &[&holder]);
    let path = reader.file(&hash_of(&bytes));
    let mut file = File::open(&path).unwrap();
    file.read_exact(&mut vec![0; 20 * MIB]).unwrap();
    holder.signal(libc::SIGSTOP);
    // What has come is at hand, and what is wanted after it does not come.
    let cats = [libc::SIGINT, libc::SIGKILL].map(|signal| (cat(&path), signal));
    let mut other = cat(&path);
    let mut before = 0;
    eventually("all have read what there is", || {
        let now = reader.metric("read_bytes");
        now >= 20 * MIB as u64 && std::mem::replace(&mut before, now) == now
    });
    for (cat, signal) in cats {
        end(cat, signal);
    }
    assert!(other.try_wait().unwrap().is_none(), "all that while one waits that nobody tells to end");
    holder.signal(libc::SIGCONT);
    assert_eq!(other.wait().unwrap().code(), Some(0), "and gets what it waited for");
}

#[test]
fn a_holder_that_says_nothing_of_a_blob_holds_up_no_lookup_beyond_a_signal() {
    if !fuse_is_here("a_holder_that_says_nothing_of_a_blob_holds_up_no_lookup_beyond_a_signal") {
        return;
    }
    let sandbox = Sandbox::new();
    let holder = sandbox.holder("a", &[b"here"]);
    let reader = sandbox.reader("b", &[&holder]);
    let held = reader.file(&hash_of(b"here"));
    assert_eq!(std::fs::read(&held).unwrap(), b"here");
    holder.signal(libc::SIGSTOP);
    let asked = reader.metric("lookups");
    let unknown = |name: &str| cat(&reader.file(&hash_of(name.as_bytes())));
    let cats = [libc::SIGINT, libc::SIGKILL].map(|signal| (unknown(&signal.to_string()), signal));
    let mut other = unknown("other");
    eventually("all ask", || reader.metric("lookups") >= asked + 3);
    for (cat, signal) in cats {
        end(cat, signal);
    }
    look_around(&reader);
    assert_eq!(std::fs::read(held).unwrap(), b"here");
    assert_eq!(other.wait().unwrap().code(), Some(1), "its time is up: there is a deadline");
    holder.signal(libc::SIGCONT);
}
