//! Checking what is held, as people ask for it and as a node does by itself; with a node and without.

use std::ffi::OsStr;

use serde_json::Value;

use super::content::{MIB, content, hash_of};
use super::keeping::{both_ways, complaints, listed};
use super::node::{Sandbox, Seat, asking, eventually, failure, stdout};

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
    let unknown = hash_of(b"unknown");
    let said = complaints(&node.run(["verify", &unknown]));
    assert!(said.len() == 1 && said[0].contains("nothing of it is held"), "{said:?}");
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

#[test]
fn what_was_kept_and_lost_is_damage_to_every_verify_until_it_is_mended() {
    let sandbox = Sandbox::new();
    let blobs = [content(83, 3 * MIB + 3), content(84, 100_000), content(85, 100), content(86, 2 * MIB)];
    let [pinned, gone, added, fetched] = blobs.each_ref().map(|blob| hash_of(blob));
    let holder = sandbox.holder("a", &blobs.each_ref().map(Vec::as_slice));
    let node = sandbox.seat("b").serve(asking(&[&holder]));
    stdout(&node.run(["prefetch", &pinned, &gone, &fetched]));
    stdout(&node.run(["pin", &pinned, &gone]));
    node.add(&blobs[2]);
    let seat = node.stop();
    damage(&seat, &pinned, &[3]);
    std::fs::remove_file(seat.content_file(&gone)).unwrap();
    damage(&seat, &added, &[0]);
    damage(&seat, &fetched, &[0]);
    assert_eq!(complaints(&seat.run(["verify"])).len(), 4, "just found");
    // What was merely fetched need not be whole.
    let seat = both_ways(seat.serve(["--open"]), |seat| {
        for named in [&[][..], &[&pinned, &gone, &added, &fetched]] {
            let output = seat.run(["verify"].into_iter().chain(named.iter().map(|hash| hash.as_str())));
            let said = complaints(&output);
            let tells_of = |hash: &str| said.iter().any(|sentence| sentence.contains(hash));
            assert!(said.len() == 3 && [&pinned, &gone, &added].iter().all(|hash| tells_of(hash)), "{said:?}");
            let summary = String::from_utf8(output.stdout).unwrap();
            assert!(
                summary.starts_with("checked 4 blobs") && summary.ends_with(": 3 damaged, 0 mended\n"),
                "{summary}"
            );
        }
        assert_eq!(complaints(&seat.run(["verify", &pinned])).len(), 1);
        assert_eq!(stdout(&seat.run(["verify", &fetched])), "checked 1 blob, 2.0 MiB: no damage\n");
    });
    // Where nobody has it, a node says so; where a peer has it, it is whole again, and kept as before.
    let node = seat.serve(["--open"]);
    let said = complaints(&node.run(["verify", "--repair", &pinned]));
    assert!(said.len() == 1 && said[0].contains(&pinned) && said[0].contains("no peer"), "{said:?}");
    let node = node.stop().serve(asking(&[&holder]));
    assert!(stdout(&node.run(["verify", "--repair", &pinned])).ends_with(": 1 damaged, 1 mended\n"));
    assert!(stdout(&node.run(["verify", "--repair"])).ends_with(": 2 damaged, 2 mended\n"));
    both_ways(node, |seat| {
        assert!(stdout(&seat.run(["verify"])).ends_with(": no damage\n"));
        for (hash, origin) in [(&pinned, "fetched"), (&gone, "fetched"), (&added, "local")] {
            let blob = listed(seat, hash).unwrap();
            assert_eq!((&blob["complete"], &blob["pinned"]), (&true.into(), &true.into()), "{hash}");
            assert_eq!(blob["origin"], origin);
        }
        assert_eq!(listed(seat, &fetched).unwrap()["complete"], false);
    });
}

#[test]
fn a_file_that_was_removed_behind_the_node_is_missed_although_the_node_has_it_open() {
    let sandbox = Sandbox::new();
    let (whole, proof) = (content(87, 100_000), content(88, 100_000));
    let holder = sandbox.holder("a", &[&whole, &proof]);
    let node = sandbox.seat("b").serve(asking(&[&holder]));
    let (whole, proof) = (hash_of(&whole), hash_of(&proof));
    stdout(&node.run(["prefetch", &whole, &proof]));
    std::fs::remove_file(node.content_file(&whole)).unwrap();
    std::fs::remove_file(node.outboard_file(&proof)).unwrap();
    let said = complaints(&node.run(["verify"]));
    assert!(said.len() == 1 && said[0].contains(&whole), "the other proof is made anew: {said:?}");
    assert!(node.outboard_file(&proof).exists());
    stdout(&node.run(["prefetch", &whole]));
    std::fs::remove_file(node.content_file(&whole)).unwrap();
    assert!(stdout(&node.run(["verify", "--repair"])).ends_with(": 1 damaged, 1 mended\n"));
    assert!(node.content_file(&whole).exists());
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
