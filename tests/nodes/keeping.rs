//! What people do with content: listing, pinning, removing, collecting; with a node and without.

use std::ffi::OsStr;

use serde_json::Value;

use super::content::{MIB, content, hash_of};
use super::node::{Node, Sandbox, Seat, asking, eventually, failure, stdout};

/// What `ls --json` tells of a blob.
fn listed(seat: &Seat, hash: &str) -> Option<Value> {
    let all: Value = serde_json::from_str(&stdout(&seat.run(["ls", "--json"]))).unwrap();
    all.as_array().unwrap().iter().find(|blob| blob["hash"] == hash).cloned()
}

fn is_held(seat: &Seat, hash: &str) -> bool {
    listed(seat, hash).is_some()
}

/// The sentences of a command that failed.
fn complaints(output: &std::process::Output) -> Vec<String> {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr.clone())
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("byhash: "))
        .map(str::to_owned)
        .collect()
}

/// Runs `check` on the seat of a node that runs, and again when it has ended.
fn both_ways(node: Node, mut check: impl FnMut(&Seat)) -> Seat {
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

/// Alters a byte in each of these groups of a blob's file.
fn damage(seat: &Seat, hash: &str, groups: &[u64]) {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    let path = seat.content_file(hash);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    for group in groups {
        let mut byte = [0];
        file.read_exact_at(&mut byte, group * GROUP).unwrap();
        file.write_all_at(&[!byte[0]], group * GROUP).unwrap();
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444)).unwrap();
}

/// The unit of verification, in bytes.
const GROUP: u64 = 16 << 10;

#[test]
fn verify_finds_damage_and_mends_it_with_a_node() {
    let sandbox = Sandbox::new();
    let (large, small) = (content(80, 5 * MIB + 3), content(81, 1000));
    let holder = sandbox.holder("a", &[&large, &small]);
    let node = sandbox.seat("b").serve(asking(&[&holder]));
    let (large, small) = (hash_of(&large), hash_of(&small));
    stdout(&node.run(["prefetch", &large, &small]));
    stdout(&node.run(["pin", &small]));
    let added = node.add(b"mine");
    let seat = both_ways(node, |seat| {
        assert_eq!(stdout(&seat.run(["verify"])), "checked 3 blobs, 5.0 MiB: no damage\n");
    });
    // Without a node it is dropped and said.
    damage(&seat, &large, &[0, 7, 100]);
    assert!(failure(&seat.run(["verify", "--repair"])).contains("no node runs"));
    let output = seat.run(["verify", "--json"]);
    let said = complaints(&output);
    assert!(said.len() == 1 && said[0].contains(&large) && said[0].contains("48.0 KiB"), "{said:?}");
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&figures["damaged_blobs"], &figures["dropped_bytes"]), (&1.into(), &(3 * GROUP).into()));
    let blob = listed(&seat, &large).unwrap();
    assert_eq!((&blob["complete"], blob["held"].as_u64()), (&false.into(), Some(5 * MIB as u64 + 3 - 3 * GROUP)));
    // With one it is fetched again: what is missing now, on demand; what is found, at once.
    let node = seat.serve(asking(&[&holder]));
    stdout(&node.run(["prefetch", &large]));
    damage(&node, &large, &[1, 320]);
    damage(&node, &small, &[0]);
    damage(&node, &added, &[0]);
    let output = node.run(["verify", "--repair", &large, &small]);
    assert_eq!(stdout(&output), "checked 2 blobs, 5.0 MiB: 2 damaged, 2 mended\n");
    assert!(String::from_utf8(output.stderr).unwrap().contains("fetched again"));
    assert_eq!(listed(&node, &large).unwrap()["complete"], true);
    let blob = listed(&node, &small).unwrap();
    assert_eq!((&blob["complete"], &blob["pinned"]), (&true.into(), &true.into()), "nothing of it was left");
    // What nobody else has is lost, and that is said.
    let output = node.run(["verify", "--repair"]);
    let said = complaints(&output);
    assert!(said.len() == 1 && said[0].contains("no reachable peer") && said[0].contains("add it again"), "{said:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "checked 3 blobs, 5.0 MiB: 1 damaged, 0 mended\n");
    let unknown = complaints(&node.run(["verify", &added]));
    assert!(unknown[0].contains("nothing of it is held"), "{unknown:?}");
}

#[test]
fn damage_to_what_was_added_is_said_each_time_until_it_is_added_again() {
    let sandbox = Sandbox::new();
    let blob = content(82, MIB + 3);
    let node = sandbox.seat("a").serve([]);
    let hash = node.add(&blob);
    damage(&node, &hash, &[3]);
    for _ in 0..2 {
        let said = complaints(&node.run(["verify"]));
        assert!(said.len() == 1 && said[0].contains(&hash) && said[0].contains("add it again"), "{said:?}");
    }
    assert_eq!(node.add(&blob), hash);
    assert_eq!(stdout(&node.run(["verify"])), "checked 1 blob, 1.0 MiB: no damage\n");
}

/// How far the node's scrubbing is.
fn scrub_status(seat: &Seat) -> Value {
    serde_json::from_str::<Value>(&stdout(&seat.run(["status", "--json"]))).unwrap()["scrub"].clone()
}

/// Has the next node scrub at once, as it would a day later.
fn begin_the_next_pass(seat: Seat) -> Seat {
    std::fs::remove_file(seat.state.join("scrub-position")).unwrap();
    seat
}

#[test]
fn a_node_scrubs_in_the_background_and_mends() {
    let sandbox = Sandbox::new();
    let blob = content(90, 3 * MIB + 3);
    let holder = sandbox.holder("a", &[&blob]);
    let hash = hash_of(&blob);
    let node = sandbox.seat("b").serve(asking(&[&holder]));
    stdout(&node.run(["prefetch", &hash]));
    assert!(scrub_status(&node).is_null());
    let seat = node.stop();
    damage(&seat, &hash, &[0, 100]);
    let mut flags = asking(&[&holder]);
    flags.extend(["--scrub-rate", "1GB"]);
    let node = seat.serve(flags.clone());
    eventually("a pass of scrubbing", || scrub_status(&node)["passes"] == 1);
    let scrub = scrub_status(&node);
    assert_eq!((&scrub["checked_blobs"], &scrub["resting"]), (&1.into(), &true.into()));
    assert_eq!((&scrub["damaged_bytes"], &scrub["unmended_blobs"]), (&(2 * GROUP).into(), &0.into()));
    assert!(stdout(&node.run(["status"])).contains("scrub"));
    assert_eq!(listed(&node, &hash).unwrap()["complete"], true);
    assert_eq!(node.metric("fetched_bytes"), 2 * GROUP);
    // A restart does not bring the next pass forward.
    let node = node.stop().serve(flags);
    eventually("the scrubber rests", || scrub_status(&node)["resting"] == true);
    assert_eq!(scrub_status(&node)["passes"], 0);
}

#[test]
fn blobs_that_scrubbing_could_not_mend_are_counted_named_and_tried_again() {
    let sandbox = Sandbox::new();
    let seat = sandbox.seat("a");
    let blob = content(91, 3 * MIB + 3);
    let hash = seat.add(&blob);
    // In two steps of a pass.
    damage(&seat, &hash, &[0, 100]);
    let node = seat.serve(["--scrub-rate", "1GB"]);
    eventually("a pass of scrubbing", || scrub_status(&node)["passes"] == 1);
    let scrub = scrub_status(&node);
    assert_eq!((&scrub["damaged_bytes"], &scrub["unmended_blobs"]), (&(2 * GROUP).into(), &1.into()));
    let log = node.log();
    let errors: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert!(errors.len() == 1 && errors[0].contains(&hash), "{errors:?}");
    // The next pass does no better; once a peer has the blob, it does.
    let mut flags = vec!["--open", "--scrub-rate", "1GB"];
    let node = begin_the_next_pass(node.stop()).serve(flags.clone());
    eventually("a pass of scrubbing", || scrub_status(&node)["passes"] == 1);
    let scrub = scrub_status(&node);
    assert_eq!((&scrub["damaged_bytes"], &scrub["unmended_blobs"]), (&0.into(), &1.into()));
    let holder = sandbox.holder("b", &[&blob]);
    flags.extend(["--peer", &holder.peer]);
    let node = begin_the_next_pass(node.stop()).serve(flags.clone());
    eventually("a pass of scrubbing", || scrub_status(&node)["passes"] == 1);
    assert_eq!(scrub_status(&node)["unmended_blobs"], 0);
    assert_eq!(node.metric("fetched_bytes"), 2 * GROUP);
    assert_eq!(listed(&node, &hash).unwrap()["complete"], true);
}

#[test]
fn scrubbing_fetches_nothing_in_place_of_a_file_that_its_owner_has_removed() {
    let sandbox = Sandbox::new();
    let blob = content(92, 3 * MIB + 3);
    let (hash, file) = (hash_of(&blob), sandbox.write("a file", &blob));
    let holder = sandbox.holder("a", &[&blob]);
    let mut seat = sandbox.seat("b");
    stdout(&seat.run([OsStr::new("add"), OsStr::new("--reference"), file.as_os_str()]));
    std::fs::remove_file(&file).unwrap();
    let mut flags = asking(&[&holder]);
    flags.extend(["--scrub-rate", "1GB"]);
    // Once when it is found out, once when it is known.
    for damaged in [blob.len() as u64, 0] {
        let node = seat.serve(flags.clone());
        eventually("a pass of scrubbing", || scrub_status(&node)["passes"] == 1);
        let scrub = scrub_status(&node);
        assert_eq!((&scrub["damaged_bytes"], &scrub["unmended_blobs"]), (&damaged.into(), &0.into()));
        let listed = listed(&node, &hash).unwrap();
        assert_eq!((&listed["in_place"]["state"], &listed["held"]), (&"missing".into(), &0.into()));
        assert_eq!(node.metric("fetched_bytes"), 0);
        seat = begin_the_next_pass(node.stop());
    }
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

#[test]
fn adding_makes_room_first_and_says_what_to_do_when_there_is_none() {
    let sandbox = Sandbox::new();
    let blobs: Vec<_> = (0..3).map(|seed| content(110 + seed, 16 * MIB)).collect();
    let holder = sandbox.holder("a", &blobs.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let hashes: Vec<_> = blobs.iter().map(|blob| hash_of(blob)).collect();
    let mut flags = asking(&[&holder]);
    flags.extend(["--cache-size", "64MiB"]);
    let node = sandbox.seat("b").serve(flags);
    stdout(&node.run(std::iter::once("prefetch").chain(hashes.iter().map(String::as_str))));
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
