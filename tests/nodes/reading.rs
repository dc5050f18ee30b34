//! The main job: what one node has, others read.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;

use super::content::{MIB, content, hash_of, hash_of_file, scattered};
use super::node::{Sandbox, address_for_later, eventually, fuse_is_here, program_is_here, run};

#[test]
fn what_one_adds_another_reads_and_serves_to_a_third_when_the_first_is_gone() {
    if !fuse_is_here("what_one_adds_another_reads_and_serves_to_a_third_when_the_first_is_gone") {
        return;
    }
    let sandbox = Sandbox::new();
    // One byte; one group; more than the first exchange brings; many pieces and an odd end.
    let files = [1, 16 << 10, 100_000, 33 * MIB + 7].map(|len| {
        let bytes = content(len as u64, len);
        (hash_of(&bytes), sandbox.write(&len.to_string(), bytes))
    });
    let a = sandbox.holder("a", &[]);
    let b = sandbox.reader("b", &[&a]);
    let c = sandbox.reader("c", &[&a, &b]);
    for (hash, path) in &files {
        // With the node running, and with b and c running already.
        assert_eq!(a.add_file(path), *hash);
        run(Command::new("cmp").arg(path).arg(b.file(hash)));
        if program_is_here("b3sum") {
            assert_eq!(run(Command::new("b3sum").arg("--no-names").arg(b.file(hash))).trim_end(), hash);
        }
    }
    let total: u64 = files.iter().map(|(_, path)| std::fs::metadata(path).unwrap().len()).sum();
    assert_eq!(b.metric("fetched_bytes"), total, "each byte once");
    a.stop();
    for (hash, path) in &files {
        run(Command::new("cmp").arg(path).arg(c.file(hash)));
    }
    assert_eq!(c.fetched_from(&b.id), total);
    eventually("b and c list all", || {
        [&b, &c].iter().all(|node| std::fs::read_dir(node.by_hash()).unwrap().count() == files.len())
    });
}

#[test]
fn parts_of_a_big_blob_are_read_before_the_whole() {
    if !fuse_is_here("parts_of_a_big_blob_are_read_before_the_whole") {
        return;
    }
    const LEN: usize = 64 * MIB + 12_345;
    let sandbox = Sandbox::new();
    let bytes = content(2, LEN);
    let hash = hash_of(&bytes);
    let a = sandbox.holder("a", &[&bytes]);
    let b = sandbox.reader("b", &[&a]);
    let file = File::open(b.file(&hash)).unwrap();
    let mut buffer = vec![0; 5000];
    let check = |at: usize, buffer: &mut [u8]| {
        let got = file.read_at(buffer, at as u64).unwrap();
        assert!(buffer[..got] == bytes[at..(at + buffer.len()).min(LEN)], "{} bytes at {at}", buffer.len());
    };
    for at in [LEN - 1, 0, LEN - 5000, LEN, 16_384 - 1, LEN / 2] {
        check(at, &mut buffer);
    }
    for at in scattered(LEN).take(200) {
        check(at, &mut buffer);
    }
    let fetched = b.metric("fetched_bytes");
    assert!(fetched < LEN as u64 / 2, "{fetched} bytes for 206 reads of 5000");
    assert_eq!(hash_of_file(&b.file(&hash)).unwrap(), hash);
    assert_eq!(b.metric("fetched_bytes"), LEN as u64, "what was there is not fetched again");
}

#[test]
fn many_read_several_blobs_at_once() {
    if !fuse_is_here("many_read_several_blobs_at_once") {
        return;
    }
    const LEN: usize = 12 * MIB + 1;
    let sandbox = Sandbox::new();
    let blobs: Vec<_> = (10..14).map(|seed| content(seed, LEN)).collect();
    let parts: Vec<&[u8]> = blobs.iter().map(Vec::as_slice).collect();
    let holders = [sandbox.holder("a1", &parts), sandbox.holder("a2", &parts)];
    let b = sandbox.reader("b", &[&holders[0], &holders[1]]);
    std::thread::scope(|scope| {
        for reader in 0..16 {
            let (b, blobs) = (&b, &blobs);
            scope.spawn(move || {
                for turn in 0..4 {
                    let bytes = &blobs[(reader + turn) % 4];
                    let path = b.file(&hash_of(bytes));
                    if reader % 2 == 0 {
                        assert_eq!(hash_of_file(&path).unwrap(), hash_of(bytes));
                        continue;
                    }
                    let (file, mut buffer) = (File::open(path).unwrap(), vec![0; 70_000]);
                    for at in scattered(LEN - buffer.len()).skip(reader * 100).take(50) {
                        file.read_exact_at(&mut buffer, at as u64).unwrap();
                        assert!(buffer == bytes[at..at + buffer.len()], "at {at}");
                    }
                }
            });
        }
    });
    assert_eq!(b.metric("read_errors"), 0);
    assert_eq!(b.metric("wrong_bytes"), 0);
    eventually("nothing is under way", || b.metric("transfers_pending") == 0);
}

#[test]
fn a_blob_that_nobody_had_is_found_once_somebody_has_it() {
    if !fuse_is_here("a_blob_that_nobody_had_is_found_once_somebody_has_it") {
        return;
    }
    let sandbox = Sandbox::new();
    let a = sandbox.holder("a", &[]);
    let b = sandbox.reader("b", &[&a]);
    let hash = hash_of(b"late");
    assert_eq!(std::fs::read(b.file(&hash)).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    a.add(b"late");
    eventually("the blob appears", || std::fs::read(b.file(&hash)).is_ok_and(|bytes| bytes == b"late"));
}

#[test]
fn nodes_that_know_each_other_read_from_each_other_though_one_comes_later() {
    if !fuse_is_here("nodes_that_know_each_other_read_from_each_other_though_one_comes_later") {
        return;
    }
    let sandbox = Sandbox::new();
    let (first, second) = (sandbox.seat("a"), sandbox.seat("b"));
    let later = address_for_later();
    let first = first.mount(["--allow", &second.id, "--peer", &format!("{}@{later}", second.id)]);
    let (of_first, of_second) = (first.add(b"of the first"), second.add(b"of the second"));
    assert_eq!(std::fs::read(first.file(&of_second)).unwrap_err().raw_os_error(), Some(libc::EHOSTUNREACH));
    let second = second.mount(["--listen", &later, "--allow", &first.id, "--peer", &first.peer]);
    assert_eq!(std::fs::read(second.file(&of_first)).unwrap(), b"of the first");
    eventually("the second has been found", || {
        std::fs::read(first.file(&of_second)).is_ok_and(|bytes| bytes == b"of the second")
    });
    // A question is not passed on in circles.
    let nobody_has = hash_of(b"of neither");
    let asked = second.metric("have_queries");
    assert_eq!(std::fs::read(first.file(&nobody_has)).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    assert_eq!(second.metric("have_queries"), asked);
}
