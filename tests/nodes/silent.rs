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

/// Reads past the kernel's cache, for which the kernel waits whatever signal comes.
fn direct(path: &Path) -> Child {
    let mut dd = Command::new("dd");
    dd.args(["iflag=direct", "bs=64k", &format!("if={}", path.display())]);
    dd.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Programs that read the file, with the signals that are to end them.
fn readers(path: &Path) -> [(Child, i32); 4] {
    let [int, kill] = [libc::SIGINT, libc::SIGKILL];
    [(cat(path), int), (cat(path), kill), (direct(path), int), (direct(path), kill)]
}

fn signal(program: &Child, signal: i32) {
    // SAFETY: kill has no memory preconditions; the child is not reaped, so the id is its own.
    assert_eq!(unsafe { libc::kill(program.id().cast_signed(), signal) }, 0);
}

/// Ends a program by a signal, and sees that it was that and no error that ended it.
fn end(mut program: Child, number: i32) {
    signal(&program, number);
    assert_eq!(program.wait().unwrap().signal(), Some(number));
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
    let readers = readers(&path);
    let mut other = cat(&path);
    eventually("they read", || reader.metric("opens_streamed") >= 5 && reader.metric("transfers_pending") > 0);
    look_around(&reader);
    assert_eq!(hash_of_file(&reader.file(&hash_of(&fine))).unwrap(), hash_of(&fine));
    for (program, signal) in readers {
        end(program, signal);
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
    let readers = readers(&path);
    let mut other = cat(&path);
    let mut before = 0;
    eventually("all have read what there is", || {
        let now = reader.metric("read_bytes");
        now >= 20 * MIB as u64 && std::mem::replace(&mut before, now) == now
    });
    for (program, signal) in readers {
        end(program, signal);
    }
    assert!(other.try_wait().unwrap().is_none(), "all that while one waits that nobody tells to end");
    holder.signal(libc::SIGCONT);
    assert_eq!(other.wait().unwrap().code(), Some(0), "and gets what it waited for");
}

#[test]
fn while_all_holders_are_silent_only_what_is_not_here_is_waited_for_and_not_for_long() {
    if !fuse_is_here("while_all_holders_are_silent_only_what_is_not_here_is_waited_for_and_not_for_long") {
        return;
    }
    // Whoever waits does so for two seconds only, in which a busy machine may not get to the others.
    let seen = (0..10).any(|_| others_are_answered_while_one_waits());
    assert!(seen, "the one that waited was always gone before the others were answered");
}

/// Asks silent holders for a blob, and has others ask for it, and for what needs no asking; whether all that was done
/// before the time of the first was up.
fn others_are_answered_while_one_waits() -> bool {
    let sandbox = Sandbox::new();
    let holders = ["a1", "a2"].map(|name| sandbox.holder(name, &[b"here"]));
    let reader = sandbox.reader("b", &[&holders[0], &holders[1]]);
    let held = reader.file(&hash_of(b"here"));
    assert_eq!(std::fs::read(&held).unwrap(), b"here");
    holders.iter().for_each(|holder| holder.signal(libc::SIGSTOP));
    let asked = reader.metric("lookups");
    let unknown = reader.file(&hash_of(b"unknown"));
    let mut waiting = cat(&unknown);
    eventually("it asks", || reader.metric("lookups") > asked);
    let ended = [libc::SIGINT, libc::SIGKILL].map(|number| {
        // The kernel has it wait for the other one's lookup.
        let mut behind = cat(&unknown);
        signal(&behind, number);
        behind.wait().unwrap().signal() == Some(number)
    });
    look_around(&reader);
    assert_eq!(std::fs::read(held).unwrap(), b"here");
    let in_time = waiting.try_wait().unwrap().is_none();
    assert!(ended == [true; 2] || !in_time, "another end than by the signal: {ended:?}");
    assert_eq!(waiting.wait().unwrap().code(), Some(1), "its time is up");
    holders.iter().for_each(|holder| holder.signal(libc::SIGCONT));
    in_time
}
