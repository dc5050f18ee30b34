//! Holders that die or hang while somebody reads.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::content::{MIB, content, hash_of, hash_of_file};
use super::node::{Node, Sandbox, address_for_later, asking, eventually, fuse_is_here};

/// Many times what is read ahead at once (16 MiB).
const LEN: usize = 96 * MIB + 99;

/// Bytes read before the holder is struck.
const BEFORE: usize = 12 * MIB;

/// Reads all of `bytes` through `file`, 256 KiB at a time, and calls `strike` in the middle. A read that waited for
/// the holder that is struck would fail: how soon another is asked is seen in `tests/engine.rs`, where the clock is
/// that of the test.
fn read_through(file: &File, bytes: &[u8], strike: impl FnOnce()) {
    let mut strike = Some(strike);
    let mut buffer = vec![0; 256 << 10];
    for (number, part) in bytes.chunks(buffer.len()).enumerate() {
        let at = number * buffer.len();
        if at >= BEFORE
            && let Some(strike) = strike.take()
        {
            strike();
        }
        file.read_exact_at(&mut buffer[..part.len()], at as u64).unwrap_or_else(|error| panic!("at {at}: {error}"));
        assert!(buffer[..part.len()] == *part, "wrong bytes at {at}");
    }
}

/// Of two holders the one that has sent `reader` more, and the other.
fn busier_first(reader: &Node, holders: [Node; 2]) -> (Node, Node) {
    let [a, b] = holders;
    if reader.fetched_from(&a.id) >= reader.fetched_from(&b.id) { (a, b) } else { (b, a) }
}

/// A blob that two holders have and one reads; in the middle `signal` is sent to the holder that
/// has served most of it.
fn strike_one_of_two(signal: i32) {
    let sandbox = Sandbox::new();
    let bytes = content(3, LEN);
    let holders = [sandbox.holder("a1", &[&bytes]), sandbox.holder("a2", &[&bytes])];
    let reader = sandbox.reader("b", &[&holders[0], &holders[1]]);
    let file = File::open(reader.file(&hash_of(&bytes))).unwrap();
    let mut struck = None;
    read_through(&file, &bytes, || {
        let (victim, other) = busier_first(&reader, holders);
        assert!(reader.fetched_from(&victim.id) > 0);
        assert!(reader.metric("fetched_bytes") < LEN as u64 * 2 / 3, "still in the middle");
        victim.signal(signal);
        struck = Some((victim, other));
    });
    assert_eq!(reader.metric("read_errors"), 0);
    // Pages that the kernel has cached are not asked for again, so this is another open of it.
    assert_eq!(hash_of_file(&reader.file(&hash_of(&bytes))).unwrap(), hash_of(&bytes));
}

#[test]
fn a_holder_that_is_killed_in_the_middle_of_a_read_is_replaced() {
    if fuse_is_here("a_holder_that_is_killed_in_the_middle_of_a_read_is_replaced") {
        strike_one_of_two(libc::SIGKILL);
    }
}

#[test]
fn a_holder_that_hangs_in_the_middle_of_a_read_is_replaced() {
    if fuse_is_here("a_holder_that_hangs_in_the_middle_of_a_read_is_replaced") {
        strike_one_of_two(libc::SIGSTOP);
    }
}

#[test]
fn what_another_has_is_looked_up_and_read_though_a_holder_hangs() {
    if !fuse_is_here("what_another_has_is_looked_up_and_read_though_a_holder_hangs") {
        return;
    }
    let sandbox = Sandbox::new();
    let blobs: Vec<_> = (20..24).map(|seed| content(seed, 300_000)).collect();
    let parts: Vec<&[u8]> = blobs.iter().map(Vec::as_slice).collect();
    let (hung, good) = (sandbox.holder("a1", &parts), sandbox.holder("a2", &parts));
    let reader = sandbox.reader("b", &[&hung, &good]);
    // A lane to both is open.
    assert!(std::fs::read(reader.file(&hash_of(parts[0]))).unwrap() == parts[0]);
    hung.signal(libc::SIGSTOP);
    for bytes in &parts[1..] {
        assert!(std::fs::read(reader.file(&hash_of(bytes))).unwrap() == *bytes);
    }
}

#[test]
fn a_holder_that_comes_back_is_read_from_again() {
    if !fuse_is_here("a_holder_that_comes_back_is_read_from_again") {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = content(4, LEN);
    let (seat, address) = (sandbox.seat("a"), address_for_later());
    seat.add(&bytes);
    let holder = seat.serve(["--open", "--listen", &address]);
    let reader = sandbox.reader("b", &[&holder]);
    let file = File::open(reader.file(&hash_of(&bytes))).unwrap();
    let (mut before, mut after) = (vec![0; BEFORE], vec![0; LEN - BEFORE]);
    file.read_exact_at(&mut before, 0).unwrap();
    assert!(before == bytes[..BEFORE]);
    let holder = holder.crash().serve(["--open", "--listen", &address]);
    // What was read ahead meanwhile may have failed, and that is remembered for a moment.
    eventually("the rest can be read", || file.read_exact_at(&mut after, BEFORE as u64).is_ok());
    assert!(after == bytes[BEFORE..]);
    assert!(holder.metric("served_bytes") > 0);
}

#[test]
fn a_hung_holder_that_wakes_up_is_read_from_again() {
    if !fuse_is_here("a_hung_holder_that_wakes_up_is_read_from_again") {
        return;
    }
    let sandbox = Sandbox::new();
    let (first, second) = (content(5, 2 * MIB), content(6, 2 * MIB));
    let holder = sandbox.holder("a", &[&first, &second]);
    let reader = sandbox.seat("b").mount(asking(&[&holder]));
    assert!(std::fs::read(reader.file(&hash_of(&first))).unwrap() == first);
    holder.signal(libc::SIGSTOP);
    let error = std::fs::read(reader.file(&hash_of(&second))).unwrap_err().raw_os_error();
    assert!(matches!(error, Some(libc::ETIMEDOUT | libc::EHOSTUNREACH)), "{error:?}");
    holder.signal(libc::SIGCONT);
    eventually("the second blob can be read", || {
        std::fs::read(reader.file(&hash_of(&second))).is_ok_and(|read| read == second)
    });
}
