//! Who is let in, and what those who are not see.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use super::content::hash_of;
use super::node::{Sandbox, Seat, eventually, fuse_is_here, stdout};

const BLOB: &[u8] = b"for those who may";

/// A file with a fresh network secret.
fn secret(sandbox: &Sandbox, seat: &Seat, name: &str) -> String {
    let path = sandbox.write(name, stdout(&seat.run(["secret"])));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn who_may_come_in_reads_and_who_may_not_is_told_why() {
    if !fuse_is_here("who_may_come_in_reads_and_who_may_not_is_told_why") {
        return;
    }
    let sandbox = Sandbox::new();
    let (a, b, other) = (sandbox.seat("a"), sandbox.seat("b"), sandbox.seat("other").id);
    a.add(BLOB);
    let (ours, theirs) = (&*secret(&sandbox, &a, "ours"), &*secret(&sandbox, &a, "theirs"));
    let hint = &*format!("add --allow {}", b.id);
    // The holder's flags, the reader's, the id by which the reader names the holder, and what
    // `byhash peers` says if it does not work.
    type Case<'a> = (&'a [&'a str], &'a [&'a str], Option<&'a str>, Option<&'a str>);
    let cases: &[Case] = &[
        (&[], &[], Some(&a.id), Some(hint)),
        (&["--allow", &other], &[], Some(&a.id), Some(hint)),
        (&["--allow", &other, "--allow", &b.id], &[], Some(&a.id), None),
        (&["--open"], &[], Some(&a.id), None),
        (&["--open"], &[], Some(&other), Some("another node answered")),
        (&["--secret-file", ours], &["--secret-file", ours], None, None),
        (&["--secret-file", ours], &["--secret-file", ours], Some(&a.id), None),
        (&["--secret-file", ours], &["--secret-file", theirs], Some(&a.id), Some("another network secret")),
        (&["--secret-file", ours], &["--secret-file", theirs], None, Some("secret")),
        (&["--secret-file", ours], &[], Some(&a.id), Some(hint)),
        (&["--secret-file", ours, "--allow", &b.id], &[], Some(&a.id), None),
        (&["--open"], &["--secret-file", ours], None, Some("does not prove")),
    ];
    for (holder_flags, reader_flags, named, refusal) in cases {
        let case = format!("{holder_flags:?} {reader_flags:?} {named:?}");
        let holder = a.serve(holder_flags.iter().copied());
        let peer = named.map_or(holder.address().to_owned(), |id| format!("{id}@{}", holder.address()));
        let reader = b.mount(reader_flags.iter().copied().chain(["--peer", &peer]));
        let read = || std::fs::read(reader.file(&hash_of(BLOB)));
        match refusal {
            None => assert_eq!(read().unwrap(), BLOB, "{case}"),
            Some(words) => {
                // On a machine that is busy it may not have been told in the time of the first lookup.
                eventually(&case, || read().unwrap_err().raw_os_error() == Some(libc::EHOSTUNREACH));
                let said = stdout(&reader.run(["peers"]));
                assert!(said.contains("refused") && said.contains(words), "{case}: {said}");
                // Neither by itself nor with an answer.
                assert_eq!(holder.metric("served_bytes"), 0, "{case}");
            }
        }
        reader.stop();
        holder.stop();
        // So that the next case starts without the blob.
        std::fs::remove_dir_all(b.state.join("cache")).unwrap();
    }
}

#[test]
fn noise_on_its_port_does_not_keep_a_node_from_serving() {
    if !fuse_is_here("noise_on_its_port_does_not_keep_a_node_from_serving") {
        return;
    }
    let sandbox = Sandbox::new();
    let holder = sandbox.holder("a", &[BLOB]);
    // Some say nothing, some something else than TLS, some leave at once.
    let connect = || TcpStream::connect(holder.address()).unwrap();
    let silent: Vec<_> = (0..300).map(|_| connect()).collect();
    for noise in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 100_000], &[0x16, 0x03, 0x01, 0xff, 0xff, 0x01]] {
        // The node may have closed it before all was written.
        let _ = connect().write_all(noise);
    }
    let reader = sandbox.reader("b", &[&holder]);
    assert_eq!(std::fs::read(reader.file(&hash_of(BLOB))).unwrap(), BLOB);
    drop(silent);
}
