//! What people do with content: listing, pinning, removing, collecting; with a node and without.

use byhash::control::{Client, Order, Report};
use byhash::ids::ContentHash;
use byhash::store::PinOutcome;
use serde_json::Value;

use super::content::{MIB, content, hash_of};
use super::node::{Node, Sandbox, Seat, asking, failure, stdout};

/// What `ls --json` tells of a blob.
pub fn listed(seat: &Seat, hash: &str) -> Option<Value> {
    let all: Value = serde_json::from_str(&stdout(&seat.run(["ls", "--json"]))).unwrap();
    all.as_array().unwrap().iter().find(|blob| blob["hash"] == hash).cloned()
}

fn is_held(seat: &Seat, hash: &str) -> bool {
    listed(seat, hash).is_some()
}

/// The sentences of a command that failed.
pub fn complaints(output: &std::process::Output) -> Vec<String> {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr.clone())
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("byhash: "))
        .map(str::to_owned)
        .collect()
}

/// Runs `check` on the seat of a node that runs, and again when it has ended.
pub fn both_ways(node: Node, mut check: impl FnMut(&Seat)) -> Seat {
    check(&node);
    let seat = node.stop();
    check(&seat);
    seat
}

#[test]
fn ls_shows_state_size_origin_and_pin() {
    let sandbox = Sandbox::new();
    let (fetched, added) = (content(40, 3 * MIB + 1), content(41, 100_000));
    let holder = sandbox.holder("a", &[&fetched]);
    let (fetched, fetched_len, added_len) = (hash_of(&fetched), fetched.len(), added.len());
    let seat = sandbox.seat("b");
    assert_eq!(stdout(&seat.run(["ls"])), "");
    assert_eq!(stdout(&seat.run(["ls", "--json"])), "[\n]\n");
    let added = seat.add(&added);
    let node = seat.serve(asking(&[&holder]));
    node.run(["get", &fetched]);
    both_ways(node, |seat| {
        let blob = listed(seat, &fetched).unwrap();
        assert_eq!(
            (blob["size"].as_u64(), blob["held"].as_u64()),
            (Some(fetched_len as u64), Some(fetched_len as u64))
        );
        assert_eq!(
            (&blob["complete"], &blob["origin"], &blob["pinned"]),
            (&true.into(), &"fetched".into(), &false.into())
        );
        assert!(blob["last_use_ms"].as_u64().unwrap() > 1_600_000_000_000);
        let blob = listed(seat, &added).unwrap();
        assert_eq!(blob["size"].as_u64(), Some(added_len as u64));
        assert_eq!((&blob["origin"], &blob["pinned"]), (&"local".into(), &true.into()));
        let text = stdout(&seat.run(["ls"]));
        assert_eq!(text.lines().count(), 3, "{text}");
        let line = text.lines().find(|line| line.starts_with(&fetched)).unwrap();
        assert!(["complete", "3.0 MiB", "fetched"].iter().all(|word| line.contains(word)), "{line}");
        // Only those named; one that is not there is said.
        let unknown = hash_of(b"unknown");
        let some = seat.run(["ls", &added, &unknown]);
        assert!(complaints(&some)[0].contains(&unknown));
        assert_eq!(String::from_utf8(some.stdout).unwrap().lines().count(), 2);
    });
}

#[test]
fn pinned_blobs_outlive_a_collection_until_they_are_unpinned() {
    let sandbox = Sandbox::new();
    let blobs: Vec<_> = (0..3).map(|seed| content(50 + seed, MIB)).collect();
    let holder = sandbox.holder("a", &blobs.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let hashes: Vec<_> = blobs.iter().map(|blob| hash_of(blob)).collect();
    let b = sandbox.seat("b").serve(asking(&[&holder]));
    for with_node in [true, false] {
        let fetch = |node: &Node| hashes.iter().for_each(|hash| assert!(node.run(["get", hash]).status.success()));
        fetch(&b);
        let added = b.add(b"mine");
        let stopped;
        let seat: &Seat = if with_node {
            &b
        } else {
            let other = sandbox.seat("c").serve(asking(&[&holder]));
            fetch(&other);
            other.add(b"mine");
            stopped = other.stop();
            &stopped
        };
        assert_eq!(stdout(&seat.run(["pin", &hashes[0], &hashes[1]])), "");
        assert_eq!(listed(seat, &hashes[0]).unwrap()["pinned"], true);
        let collected = stdout(&seat.run(["gc", "--all"]));
        let lines: Vec<_> = collected.lines().collect();
        assert_eq!(lines[0], hashes[2]);
        assert!(lines[1].starts_with("removed 1 blob, freed 1.0 MiB"), "{collected}");
        assert!(is_held(seat, &hashes[0]) && is_held(seat, &added) && !is_held(seat, &hashes[2]));
        // To nothing is as far as can be, and that is where it is.
        assert!(stdout(&seat.run(["gc", "--to", "0"])).starts_with("removed 0 blobs"));
        // To a size that cannot be had: what goes goes, and the rest is said.
        stdout(&seat.run(["unpin", &hashes[0]]));
        let sentence = failure(&seat.run(["gc", "--to", "1KiB"]));
        assert!(sentence.contains("pinned"), "{sentence}");
        assert!(!is_held(seat, &hashes[0]) && is_held(seat, &hashes[1]));
        let figures: Value = serde_json::from_str(&stdout(&seat.run(["gc", "--json"]))).unwrap();
        assert_eq!(figures["removed_blobs"], 0);
        assert!(figures["used_bytes"].as_u64().unwrap() >= MIB as u64);
        // What was added stays, and `unpin` says so.
        let refused = complaints(&seat.run(["unpin", &added, &hashes[1]]));
        assert!(refused.len() == 1 && refused[0].contains(&format!("byhash rm {added}")), "{refused:?}");
        assert_eq!(listed(seat, &hashes[1]).unwrap()["pinned"], false);
        let refused = complaints(&seat.run(["pin", &hashes[0]]));
        assert!(refused[0].contains(&format!("byhash prefetch {}", hashes[0])), "{refused:?}");
    }
}

#[test]
fn rm_removes_what_is_named_and_says_what_is_not_there() {
    let sandbox = Sandbox::new();
    let seat = sandbox.seat("a");
    let dir = sandbox.make_dir("files");
    let names: Vec<_> = (0..40).map(|i| format!("file {i}")).collect();
    names.iter().for_each(|name| std::fs::write(dir.join(name), name).unwrap());
    let args = std::iter::once("add".to_owned()).chain(names);
    let printed = stdout(&seat.command(args).current_dir(&dir).output().unwrap());
    let (first, rest) = printed.split_once('\n').unwrap();
    let lines = sandbox.write("lines", format!("{first}\n"));
    let remove = |seat: &Seat, lines: &std::path::Path| {
        seat.command(["rm", "-"]).stdin(std::fs::File::open(lines).unwrap()).output().unwrap()
    };
    assert_eq!(stdout(&remove(&seat, &lines)), "");
    let again = complaints(&remove(&seat, &lines));
    assert!(again.len() == 1 && again[0].starts_with(&format!("byhash: {}: ", &first[..64])), "{again:?}");
    let node = seat.serve([]);
    assert_eq!(stdout(&node.run(["ls"])).lines().count(), 40);
    let lines = sandbox.write("lines", rest);
    assert_eq!(stdout(&remove(&node, &lines)), "");
    assert_eq!(stdout(&node.run(["ls"])), "");
    assert_eq!(node.metric("store_blobs"), 0);
}

#[test]
fn prefetch_fills_the_cache_and_names_what_nobody_has() {
    let sandbox = Sandbox::new();
    let blobs: Vec<_> =
        [5 * MIB + 3, 0, 1, 70_000].into_iter().zip(60..).map(|(len, seed)| content(seed, len)).collect();
    let holder = sandbox.holder("a", &blobs.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let node = sandbox.seat("b").serve(asking(&[&holder]));
    let sums: String = blobs.iter().map(|blob| format!("{}  some file\n", hash_of(blob))).collect();
    let lines = sandbox.write("sums", &sums);
    let prefetch = || node.command(["prefetch", "-"]).stdin(std::fs::File::open(&lines).unwrap()).output().unwrap();
    assert_eq!(stdout(&prefetch()), "");
    let fetched = node.metric("fetched_bytes");
    let unknown = hash_of(b"unknown");
    let complaints = complaints(&node.run(["prefetch", &unknown, &hash_of(&blobs[0])]));
    assert!(complaints.len() == 1 && complaints[0].starts_with(&format!("byhash: {unknown}: no reachable peer")));
    holder.stop();
    assert_eq!(stdout(&prefetch()), "", "nothing is fetched twice");
    assert_eq!(node.metric("fetched_bytes"), fetched);
    let seat = node.stop();
    assert!(blobs.iter().all(|blob| seat.run(["get", &hash_of(blob)]).stdout == *blob));
}

#[test]
fn more_than_the_cache_can_hold_is_said_by_prefetch() {
    let sandbox = Sandbox::new();
    let blobs: Vec<_> = (0..5).map(|seed| content(70 + seed, 16 * MIB)).collect();
    let holder = sandbox.holder("a", &blobs.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let mut flags = asking(&[&holder]);
    flags.extend(["--cache-size", "64MiB"]);
    let node = sandbox.seat("b").serve(flags);
    let hashes: Vec<_> = blobs.iter().map(|blob| hash_of(blob)).collect();
    let said = complaints(&node.run(std::iter::once("prefetch").chain(hashes.iter().map(String::as_str))));
    let held = hashes.iter().filter(|hash| listed(&node, hash).is_some_and(|blob| blob["complete"] == true)).count();
    assert!(said.len() == 5 - held && !said.is_empty(), "{held} held; {said:?}");
}

#[test]
fn a_file_is_served_to_peers_from_where_it_lies_until_it_changes() {
    let sandbox = Sandbox::new();
    let bytes = content(95, 3 * MIB + 3);
    let (hash, file) = (hash_of(&bytes), sandbox.write("a file", &bytes));
    let path = file.canonicalize().unwrap();
    let path = path.to_str().unwrap();
    let seat = sandbox.seat("a");
    let line = format!("{hash}  {path}\n");
    assert_eq!(stdout(&seat.run(["add", "--reference", path])), line);
    let first = seat.serve(["--open"]);
    assert!(std::fs::symlink_metadata(first.content_file(&hash)).unwrap().is_symlink(), "nothing is copied");
    // Through the node that runs, too.
    assert_eq!(stdout(&first.run(["add", "--reference", path])), line);
    let place = |seat: &Seat| listed(seat, &hash).unwrap()["in_place"].clone();
    assert_eq!(place(&first), serde_json::json!({"path": path, "state": "present"}));
    let text = stdout(&first.run(["ls"]));
    assert!(["complete", "in place", "pinned", path].iter().all(|word| text.contains(word)), "{text}");
    assert!(complaints(&first.run(["unpin", &hash]))[0].contains("byhash rm"));
    let get = |name: &str, holders: &[&Node]| sandbox.seat(name).serve(asking(holders)).run(["get", &hash]);
    assert!(get("b", &[&first]).stdout == bytes);
    assert!(stdout(&first.run(["why", &hash])).contains("served from there"));
    // Altered in the middle: no peer is given a wrong byte, and another holder takes over.
    let mut altered = bytes.clone();
    altered[2 * MIB] ^= 1;
    std::fs::write(&file, &altered).unwrap();
    let alone = get("c", &[&first]);
    assert!(!alone.status.success() && bytes.starts_with(&alone.stdout), "{} bytes", alone.stdout.len());
    let second = sandbox.holder("other", &[&bytes]);
    assert!(get("d", &[&first, &second]).stdout == bytes);
    let seat = both_ways(first, |seat| {
        assert_eq!(place(seat), serde_json::json!({"path": path, "state": "changed"}));
        let said = complaints(&seat.run(["verify"]));
        assert!(
            said.len() == 1 && said[0].contains("has changed since") && said[0].contains("add it again"),
            "{said:?}"
        );
        assert!(stdout(&seat.run(["ls"])).contains(" changed "));
    });
    // Mended, it is a copy, kept as the file was.
    let node = seat.serve(asking(&[&second]));
    assert!(stdout(&node.run(["why", &hash])).contains("has changed since"));
    assert!(stdout(&node.run(["verify", "--repair"])).ends_with("1 damaged, 1 mended\n"));
    let blob = listed(&node, &hash).unwrap();
    assert_eq!((&blob["origin"], &blob["pinned"]), (&"fetched".into(), &true.into()));
    // And of one that is gone, that is said at once.
    std::fs::write(&file, &bytes).unwrap();
    stdout(&node.run(["rm", &hash]));
    stdout(&node.run(["add", "--reference", path]));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(place(&node)["state"], "missing");
    stdout(&node.run(["rm", &hash]));
    std::fs::write(&file, &bytes).unwrap();
    assert_eq!(stdout(&node.run(["ls"])), "");
    for (path, word) in [("-", "--reference"), (sandbox.path("").to_str().unwrap(), "directory")] {
        assert!(complaints(&node.run(["add", "--reference", path]))[0].contains(word));
    }
    assert!(std::fs::read(&file).unwrap() == bytes, "it is the user's");
}

#[test]
fn a_changed_file_is_shown_and_named_before_a_read_meets_it() {
    let sandbox = Sandbox::new();
    let mut bytes = content(96, 3 * MIB + 3);
    let (hash, file) = (hash_of(&bytes), sandbox.write("a file", &bytes));
    let path = file.canonicalize().unwrap();
    let node = sandbox.seat("a").serve([]);
    stdout(&node.run(["add", "--reference", path.to_str().unwrap()]));
    bytes[MIB] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let assert_is_shown_as = |seat: &Seat, state: &str| {
        let blob = listed(seat, &hash).unwrap();
        assert_eq!((&blob["in_place"]["state"], &blob["complete"]), (&state.into(), &false.into()));
        assert_eq!(blob["held"], 0);
    };
    assert_is_shown_as(&node, "changed");
    let why = stdout(&node.run(["why", &hash]));
    assert!(["here     none of it", "offline  no", "has changed since"].iter().all(|part| why.contains(part)), "{why}");
    // Without a node: when it is met, when it is known, and when it is gone.
    let seat = node.stop();
    let named = |seat: &Seat, what: &str| {
        let said = failure(&seat.run(["get", &hash]));
        assert!(said.contains(path.to_str().unwrap()) && said.contains(what) && !said.contains("blobs/"), "{said}");
    };
    named(&seat, "has changed since");
    named(&seat, "has changed since");
    std::fs::remove_file(&file).unwrap();
    named(&seat, "is not there");
    assert_is_shown_as(&seat, "missing");
}

#[test]
fn commands_without_a_node_keep_to_the_size_that_the_last_one_was_given() {
    let sandbox = Sandbox::new();
    let seat = sandbox.seat("a").serve(["--cache-size", "64MiB"]).stop();
    let file = sandbox.write("large", content(87, 70 * MIB));
    let said = failure(&seat.run(["add", file.to_str().unwrap()]));
    assert!(said.contains("64.0 MiB"), "{said}");
    // As it was given last.
    let seat = seat.serve(["--cache-size", "1GiB"]).stop();
    stdout(&seat.run(["add", file.to_str().unwrap()]));
    let other = sandbox.write("other", content(88, 70 * MIB));
    assert!(failure(&seat.run(["add", "--cache-size", "64MiB", other.to_str().unwrap()])).contains("64.0 MiB"));
}

/// A holder of `blobs`, a node with a cache of 64 MiB that has fetched them, and their hashes.
fn fetched_to_a_small_cache(sandbox: &Sandbox, blobs: &[Vec<u8>]) -> (Node, Node, Vec<String>) {
    let holder = sandbox.holder("a", &blobs.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let hashes: Vec<_> = blobs.iter().map(|blob| hash_of(blob)).collect();
    let mut flags = asking(&[&holder]);
    flags.extend(["--cache-size", "64MiB"]);
    let node = sandbox.seat("b").serve(flags);
    stdout(&node.run(std::iter::once("prefetch").chain(hashes.iter().map(String::as_str))));
    (holder, node, hashes)
}

#[test]
fn adding_makes_room_first_and_says_what_to_do_when_there_is_none() {
    let sandbox = Sandbox::new();
    let blobs: Vec<_> = (0..3).map(|seed| content(110 + seed, 16 * MIB)).collect();
    let (_holder, node, hashes) = fetched_to_a_small_cache(&sandbox, &blobs);
    let (mine, too_much) =
        (sandbox.write("mine", content(120, 40 * MIB)), sandbox.write("more", content(121, 40 * MIB)));
    stdout(&node.run(["add", mine.to_str().unwrap()]));
    let held = |seat: &Seat| hashes.iter().filter(|hash| is_held(seat, hash)).count();
    assert!(held(&node) < 2);
    let seat = both_ways(node, |seat| {
        let before = held(seat);
        let said = complaints(&seat.run(["add", "--cache-size", "64MiB", too_much.to_str().unwrap()]));
        assert!(said.len() == 1 && said[0].contains("byhash rm") && said[0].contains("64.0 MiB"), "{said:?}");
        assert_eq!(held(seat), before, "what would not have been enough stays");
    });
    stdout(&seat.run(["rm", &hash_of(&content(120, 40 * MIB))]));
    stdout(&seat.run(["add", "--cache-size", "64MiB", too_much.to_str().unwrap()]));
}

#[test]
fn a_file_larger_than_the_cache_is_refused_as_such_and_nothing_goes_for_it() {
    let sandbox = Sandbox::new();
    let blobs: Vec<_> = (0..2).map(|seed| content(130 + seed, 16 * MIB)).collect();
    let (_holder, node, hashes) = fetched_to_a_small_cache(&sandbox, &blobs);
    let large = sandbox.write("large", content(132, 65 * MIB));
    both_ways(node, |seat| {
        let named = seat.run(["add", large.to_str().unwrap()]);
        let stdin = std::fs::File::open(&large).unwrap();
        let given = seat.command(["add", "-"]).stdin(stdin).output().unwrap();
        for output in [named, given] {
            let said = complaints(&output);
            let parts = ["larger than the cache", "64.0 MiB in all", "--cache-size"];
            assert!(said.len() == 1 && parts.iter().all(|part| said[0].contains(part)), "{said:?}");
        }
        assert!(hashes.iter().all(|hash| is_held(seat, hash)));
        // There is room for it, but not for more: what a file that is standard input says of its length is enough.
        let fitting = sandbox.write("fitting", content(133, 20 * MIB));
        let stdin = std::fs::File::open(&fitting).unwrap();
        stdout(&seat.command(["add", "-"]).stdin(stdin).output().unwrap());
        assert!(hashes.iter().all(|hash| is_held(seat, hash)));
        stdout(&seat.run(["rm", &hash_of(&content(133, 20 * MIB))]));
    });
}

#[tokio::test]
async fn what_was_read_just_now_is_listed_pinned_and_removed_as_if_it_had_been_written() {
    let sandbox = Sandbox::new();
    let blobs: Vec<_> = (0..30).map(|seed| content(470 + seed, 300_000)).collect();
    let of_holder: Vec<_> = blobs.iter().map(Vec::as_slice).collect();
    let holder = sandbox.holder("a", &of_holder);
    let node = sandbox.seat("b").serve(asking(&[&holder]));
    let hashes: Vec<ContentHash> = blobs.iter().map(|bytes| ContentHash::of(bytes)).collect();
    // No process has to be started between a read and what follows it.
    let mut client = Client::connect(&node.state.join("control.sock")).await.unwrap().unwrap();
    for three in hashes.chunks(3) {
        read_all(&mut client, three[0]).await;
        let Report::List(page) = client.order(Order::List { after: None }).await.unwrap() else { panic!() };
        assert!(page.blobs.iter().any(|blob| blob.hash == three[0] && blob.complete), "it is not listed as complete");
        read_all(&mut client, three[1]).await;
        let pin = Order::Pin { hashes: vec![three[1]], pinned: true };
        assert_eq!(client.order(pin).await.unwrap(), Report::Pin { outcomes: vec![PinOutcome::Done] });
        read_all(&mut client, three[2]).await;
        let removed = client.order(Order::Remove { hashes: vec![three[2]] }).await.unwrap();
        assert!(matches!(removed, Report::Remove { freed } if freed[0].is_some()), "nothing of it was held");
    }
    let seat = node.stop();
    let removed = hashes.iter().skip(2).step_by(3);
    assert_eq!(removed.filter(|hash| is_held(&seat, &hash.to_string())).count(), 0, "some came back");
}

/// Reads a blob to its end.
async fn read_all(client: &mut Client, hash: ContentHash) {
    let mut blob = client.get(hash).await.unwrap();
    while blob.next().await.unwrap().is_some() {}
}
