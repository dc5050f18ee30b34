//! Commands on nodes that have peers.

use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt};

use super::content::{MIB, content, hash_of, hash_of_file};
use super::node::{Sandbox, asking, eventually, failure, fuse_is_here, stdout};

#[test]
fn get_fetches_from_peers_and_what_it_got_is_kept() {
    let sandbox = Sandbox::new();
    let bytes = content(60, 20 * MIB + 3);
    let hash = hash_of(&bytes);
    let a = sandbox.holder("a", &[&bytes]);
    let b = sandbox.seat("b").serve(asking(&[&a]));
    assert!(b.run(["get", &hash]).stdout == bytes);
    a.stop();
    let file = sandbox.path("out");
    stdout(&b.run(["get", &hash, "-o", file.to_str().unwrap()]));
    assert_eq!(hash_of_file(&file).unwrap(), hash);
    // Without the node, from the store.
    let b = b.stop();
    assert!(b.run(["get", &hash]).stdout == bytes);
}

#[test]
fn get_says_whether_a_blob_is_lost_or_its_holders_are() {
    let sandbox = Sandbox::new();
    let a = sandbox.holder("a", &[]);
    let b = sandbox.seat("b").serve(asking(&[&a]));
    let file = sandbox.path("out");
    let why_not = |blob: &[u8]| {
        let hash = hash_of(blob);
        let sentence = failure(&b.run(["get", &hash, "-o", file.to_str().unwrap()]));
        sentence.strip_prefix(&format!("byhash: {hash}: ")).unwrap_or_else(|| panic!("{sentence}")).to_owned()
    };
    let lost = why_not(b"unknown");
    a.stop();
    // Another one: for a moment it is remembered what was said of the first.
    let unreachable = why_not(b"unknown too");
    assert!(
        lost.contains("no reachable peer has it") && unreachable.contains("can be reached"),
        "{lost}; {unreachable}"
    );
    assert!(!file.exists());
}

#[test]
fn a_key_that_others_may_read_keeps_a_node_from_starting() {
    let sandbox = Sandbox::new();
    let seat = sandbox.seat("a");
    let key = seat.state.join("key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    for args in [&["serve"][..], &["mount", "-f", seat.mount_point.to_str().unwrap()]] {
        let output = seat.run(args.iter().chain(&["--listen", "127.0.0.1:0"]));
        let sentence = failure(&output);
        assert!(sentence.contains(&format!("chmod 600 {}", key.display())), "{sentence}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn an_address_in_use_is_named() {
    let sandbox = Sandbox::new();
    let a = sandbox.holder("a", &[]);
    let sentence = failure(&sandbox.seat("b").run(["serve", "--listen", a.address()]));
    assert!(sentence.contains(a.address()), "{sentence}");
}

#[test]
fn a_live_mount_is_refused_in_the_foreground_and_goes_on() {
    if !fuse_is_here("a_live_mount_is_refused_in_the_foreground_and_goes_on") {
        return;
    }
    let sandbox = Sandbox::new();
    let reader = sandbox.reader("a", &[]);
    let point = reader.mount_point.to_str().unwrap().to_owned();
    let output = sandbox.seat("b").run(["mount", "-f", &point, "--listen", "127.0.0.1:0"]);
    assert!(failure(&output).contains(&point) && output.stdout.is_empty());
    let hash = reader.add(b"still here");
    assert_eq!(std::fs::read(reader.file(&hash)).unwrap(), b"still here");
    // Ended by `byhash unmount`, the node ends in order.
    stdout(&reader.run(["unmount", &point]));
    assert_eq!(reader.ended(), Some(0));
}

#[test]
fn a_mount_with_an_open_file_is_unmounted_and_its_node_ends_when_that_is_closed() {
    if !fuse_is_here("a_mount_with_an_open_file_is_unmounted_and_its_node_ends_when_that_is_closed") {
        return;
    }
    let sandbox = Sandbox::new();
    // More than what comes with its open.
    let (bytes, rest) = (content(61, 9 * MIB), 5 * MIB);
    let holder = sandbox.holder("a", &[&bytes]);
    let reader = sandbox.reader("b", &[&holder]);
    let file = std::fs::File::open(reader.file(&hash_of(&bytes))).unwrap();
    let point = reader.mount_point.to_str().unwrap();
    assert!(stdout(&reader.run(["status"])).contains(&format!("\nmounted    {point}\n")));
    let output = reader.run(["unmount", point]);
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stderr).unwrap();
    let goes_on = "files of it are still open, and its node ends once they are closed";
    assert!(said.contains(&format!("'{point}' is unmounted, but {goes_on}")), "{said}");
    assert!(said.contains(&format!("kill process {} ", reader.pid())), "{said}");
    // Whoever asks later is told, too.
    let status = stdout(&reader.run(["status"]));
    assert!(status.contains(&format!("\nunmounted  {point}; {goes_on}\n")), "{status}");
    let again = failure(&reader.run(["unmount", point]));
    assert!(again.contains(&format!("nothing is mounted at '{point}' any more, but {goes_on}")), "{again}");
    // A node that is not the default one is named.
    let stranger = sandbox.seat("c");
    let unnamed = failure(&stranger.run(["unmount", point]));
    assert!(unnamed.ends_with(&format!("nothing is mounted at '{point}'")), "{unnamed}");
    assert_eq!(failure(&stranger.run(["unmount", point, "--state", reader.state.to_str().unwrap()])), again);
    let anew = failure(&reader.run(["mount", point, "--listen", "127.0.0.1:0"]));
    assert!(anew.contains(&format!("process {}", reader.pid())), "{anew}");
    assert!(anew.contains(&format!("it was mounted at '{point}' and is unmounted, but {goes_on}")), "{anew}");
    assert_eq!(std::fs::read_dir(&reader.mount_point).unwrap().count(), 0);
    // The node goes on for it.
    let mut read = vec![0; MIB];
    file.read_exact_at(&mut read, rest as u64).unwrap();
    assert!(read == bytes[rest..rest + MIB]);
    drop(file);
    assert_eq!(reader.ended(), Some(0));
}

#[test]
fn whoever_reads_is_told_that_the_transfer_was_cancelled() {
    if !fuse_is_here("whoever_reads_is_told_that_the_transfer_was_cancelled") {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = content(62, 64 * MIB);
    let hash = hash_of(&bytes);
    let holder = sandbox.seat("a");
    holder.add(&bytes);
    // So fast that what comes next would be there in no time, and so slow that it is not at its end before.
    let holder = holder.serve(["--open", "--serve-rate", "20MB"]);
    let reader = sandbox.reader("b", &[&holder]);
    let mut file = std::fs::File::open(reader.file(&hash)).unwrap();
    let reading = std::thread::spawn(move || {
        let mut read = Vec::new();
        let error = file.read_to_end(&mut read).err().and_then(|error| error.raw_os_error());
        (read, error)
    });
    eventually("it is read", || reader.metric("read_bytes") > MIB as u64);
    let transfers = stdout(&reader.run(["transfers", "ls", "--json"]));
    let transfers: serde_json::Value = serde_json::from_str(&transfers).unwrap();
    stdout(&reader.run(["transfers", "cancel", transfers[0]["id"].as_str().unwrap()]));
    let (read, error) = reading.join().unwrap();
    assert_eq!(error, Some(libc::ECANCELED));
    assert!(read == bytes[..read.len()] && read.len() < bytes.len());
    // Whoever opens it anew gets it.
    assert_eq!(hash_of_file(&reader.file(&hash)).unwrap(), hash);
}
