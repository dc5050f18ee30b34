//! The program as its user meets it: help, exit codes, sentences.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use byhash::control::MAX_STAGED;

/// The program with `args`, its state in `state`, cut off from the surroundings.
fn byhash(state: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_byhash"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BYHASH_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command.env("BYHASH_STATE", state).env("BYHASH_CONFIG", "/dev/null").args(args).stdin(Stdio::null());
    command
}

fn run(state: &Path, args: &[&str]) -> Output {
    byhash(state, args).output().unwrap()
}

/// Fails unless `output` has this exit code, an empty stdout, and on stderr one sentence that
/// begins with the program's name and has all of `words` in it.
fn assert_sentence(output: &Output, code: i32, words: &[&str]) {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty());
    assert!(stderr.starts_with("byhash: ") && stderr.trim_end().lines().count() == 1, "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "'{word}' is missing in: {stderr}");
    }
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

const ID: &str = "abababababababababababababababababababababababababababababababab";

#[test]
fn the_help_names_every_command_and_explains_peers_and_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let help = stdout(&run(dir.path(), &["--help"]));
    let commands = [
        "id",
        "secret",
        "serve",
        "mount",
        "unmount",
        "add",
        "get",
        "prefetch",
        "ls",
        "rm",
        "pin",
        "unpin",
        "gc",
        "verify",
        "status",
        "peers",
        "transfers",
        "why",
        "demo",
    ];
    for command in commands {
        assert!(help.contains(&format!("\n  {command} ")), "{command}\n{help}");
        stdout(&run(dir.path(), &[command, "--help"]));
    }
    for part in ["[ID@]HOST:PORT", "Exit codes: 0 done, 1 failed, 2", "Examples:", "BYHASH_"] {
        assert!(help.contains(part), "{part}");
    }
    for command in ["serve", "mount"] {
        let help = stdout(&run(dir.path(), &[command, "--help"]));
        for flag in [
            "--state",
            "--listen",
            "--peer",
            "--allow",
            "--secret-file",
            "--open",
            "--cache-size",
            "--serve-rate",
            "--scrub-rate",
            "--config",
        ] {
            assert!(help.contains(flag), "{command} {flag}");
        }
        assert!(!help.contains("--detached"));
    }
}

#[test]
fn what_is_no_command_exits_with_2() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&[][..], &["cut"], &["serve", "--speed"], &["get"], &["add"], &["mount"], &["rm"], &["pin"]] {
        assert_eq!(run(dir.path(), args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn malformed_values_exit_with_2_and_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let cases: &[(&[&str], &[&str])] = &[
        (&["serve", "--peer", "nowhere"], &["--peer", "'nowhere'"]),
        (&["serve", "--peer", "beef@h:1"], &["--peer", "'beef'"]),
        (&["serve", "--peer", "h:1"], &["--peer", "'h:1'", "--secret-file"]),
        (&["serve", "--allow", "me"], &["--allow", "'me'"]),
        (&["serve", "--listen", "here"], &["--listen", "'here'"]),
        (&["serve", "--cache-size", "big"], &["--cache-size", "'big'"]),
        (&["serve", "--serve-rate", "1"], &["--serve-rate", "'1'", "64KiB"]),
        (&["serve", "--scrub-rate", "slow"], &["--scrub-rate", "'slow'"]),
        (&["serve", "--cache-size", "1M"], &["--cache-size", "'1M'", "64MiB"]),
        (&["serve", "--config", "/nonexistent.toml"], &["/nonexistent.toml"]),
        (&["mount", "/mnt", "--peer", "nowhere"], &["--peer", "'nowhere'"]),
        (&["add", "x", "--cache-size", "big"], &["--cache-size", "'big'"]),
        (&["get", "x"], &["'x'"]),
        (&["ls", "x"], &["'x'"]),
        (&["rm", ID, "x"], &["'x'"]),
        (&["pin", "x"], &["'x'"]),
        (&["unpin", "x"], &["'x'"]),
        (&["gc", "--to", "small"], &["--to", "'small'"]),
        (&["get", &ID.to_uppercase()], &[&ID.to_uppercase()]),
    ];
    for (args, words) in cases {
        assert_sentence(&run(dir.path(), args), 2, words);
    }
}

#[test]
fn bad_settings_of_the_surroundings_are_named_with_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let with = |name: &str, value: &str| byhash(dir.path(), &["serve"]).env(name, value).output().unwrap();
    assert_sentence(&with("BYHASH_PEER", "h"), 2, &["BYHASH_PEER", "'h'"]);
    assert_sentence(&with("BYHASH_OPEN", "perhaps"), 2, &["BYHASH_OPEN", "'perhaps'"]);
    assert_sentence(&with("BYHASH_LOG", "byhash=loud"), 2, &["BYHASH_LOG", "'byhash=loud'"]);
    let file = dir.path().join("byhash.toml");
    std::fs::write(&file, "open = false\npears = []\n").unwrap();
    let named = file.to_str().unwrap();
    assert_sentence(&with("BYHASH_CONFIG", named), 2, &[&format!("{named}:2:"), "pears"]);
}

#[test]
fn without_a_node_status_and_peers_say_how_to_start_one() {
    let dir = tempfile::tempdir().unwrap();
    let hash = "0".repeat(64);
    for command in [vec!["status"], vec!["peers"], vec!["transfers", "ls"], vec!["why", &hash]] {
        let words = ["no node runs", dir.path().to_str().unwrap(), "byhash serve"];
        assert_sentence(&run(dir.path(), &command), 1, &words);
        assert_sentence(&run(dir.path(), &[&command[..], &["--json"]].concat()), 1, &words);
    }
}

#[test]
fn without_a_node_nothing_is_prefetched() {
    let dir = tempfile::tempdir().unwrap();
    assert_sentence(&run(dir.path(), &["prefetch", ID]), 1, &["no node runs", "byhash serve"]);
    assert_sentence(&run(dir.path(), &["prefetch", ID, "x"]), 2, &["'x'"]);
}

#[test]
fn looking_makes_no_store_and_a_wrong_directory_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    assert_eq!(stdout(&run(&state, &["ls"])), "");
    assert!(stdout(&run(&state, &["gc"])).starts_with("removed 0 blobs"));
    for command in ["ls", "rm", "pin", "unpin"] {
        assert_sentence(&run(&state, &[command, ID]), 1, &[state.to_str().unwrap(), "does not exist"]);
    }
    assert!(!state.exists());
}

#[test]
fn a_line_that_is_no_hash_ends_a_command_after_what_stands_before_it() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let line = add(dir.path(), &state, "file", b"content");
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(format!("{line}what is this\n").as_bytes()).unwrap();
    drop(writer);
    let output = byhash(&state, &["rm", "-"]).stdin(reader).output().unwrap();
    assert_sentence(&output, 2, &["line 2", "'what is this'"]);
    assert_eq!(stdout(&run(&state, &["ls"])), "");
}

#[test]
fn the_empty_blob_is_had_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let empty = blake3::hash(b"").to_string();
    assert_eq!(stdout(&run(dir.path(), &["get", &empty])), "");
    let file = dir.path().join("empty");
    stdout(&run(dir.path(), &["get", &empty, "-o", file.to_str().unwrap()]));
    assert_eq!(std::fs::metadata(file).unwrap().len(), 0);
}

#[test]
fn an_id_is_made_once_and_kept() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let id = stdout(&run(&state, &["id"]));
    assert_eq!(id.trim_end().len(), 64);
    assert!(id.ends_with('\n') && id.trim_end().bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
    assert_eq!(stdout(&run(&state, &["id"])), id);
    assert_ne!(stdout(&run(&dir.path().join("other"), &["id"])), id);
    let key = state.join("key.pem");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_sentence(&run(&state, &["id"]), 1, &[key.to_str().unwrap()]);
}

#[test]
fn secrets_are_fresh_and_a_malformed_one_exits_with_2() {
    let dir = tempfile::tempdir().unwrap();
    let secret = stdout(&run(dir.path(), &["secret"]));
    assert_eq!(secret.trim_end().len(), 64);
    assert_ne!(stdout(&run(dir.path(), &["secret"])), secret);
    let file = dir.path().join("secret");
    std::fs::write(&file, "hush").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, mode).unwrap();
    let named = file.to_str().unwrap();
    let output = run(dir.path(), &["serve", "--secret-file", named]);
    assert_sentence(&output, 2, &[named]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("hush"));
}

#[test]
fn a_reader_of_stdout_that_has_gone_is_no_news_and_a_full_disk_is() {
    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = byhash(dir.path(), &["secret"]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = byhash(dir.path(), &["secret"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert_sentence(&output, 1, &["stdout"]);
}

#[test]
fn what_is_not_mounted_is_not_unmounted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    assert_sentence(&run(dir.path(), &["unmount", path]), 1, &[path]);
}

#[test]
fn what_is_no_file_for_the_demo_is_named_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let fifo = &format!("{path}/fifo");
    assert!(Command::new("mkfifo").arg(fifo).status().unwrap().success());
    let kinds = [(path, "it is a directory"), (fifo, "it is a FIFO"), ("/dev/null", "it is a device")];
    for (word, reason) in kinds.into_iter().chain([("/nonexistent/file", "No such file")]) {
        let output = run(dir.path(), &["demo", word]);
        // Where nothing can be mounted, that is said first.
        if Path::new("/dev/fuse").exists() {
            assert_sentence(&output, 2, &[word, reason]);
        }
    }
}

#[test]
fn the_demo_of_a_file_that_is_too_large_says_what_room_it_needs() {
    if !Path::new("/dev/fuse").exists() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("large");
    // It takes no room itself.
    std::fs::File::create(&file).unwrap().set_len(8 << 40).unwrap();
    let output = run(dir.path(), &["demo", file.to_str().unwrap()]);
    assert_sentence(&output, 1, &["the demo needs", "TMPDIR"]);
}

/// Adds `content` as a file called `name` in `dir` and gives what was printed.
fn add(dir: &Path, state: &Path, name: &str, content: &[u8]) -> String {
    let file = dir.join(name);
    std::fs::write(&file, content).unwrap();
    let output = byhash(state, &["add", name]).current_dir(dir).output().unwrap();
    stdout(&output)
}

#[test]
fn without_a_node_files_are_added_to_the_store_and_had_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    // Several groups, and a last one that is not full.
    let content: Vec<u8> = (0..100_001_u32).flat_map(u32::to_le_bytes).collect();
    let hash = blake3::hash(&content).to_string();
    assert_eq!(add(dir.path(), &state, "some file", &content), format!("{hash}  some file\n"));
    assert_eq!(add(dir.path(), &state, "some file", &content), format!("{hash}  some file\n"));
    assert_eq!(add(dir.path(), &state, "a\nb", b""), format!("\\{}  a\\nb\n", blake3::hash(b"")));
    assert!(run(&state, &["get", &hash]).stdout == content);
    let unknown = blake3::hash(b"unknown").to_string();
    let file = dir.path().join("out");
    assert_sentence(&run(&state, &["get", &unknown, "-o", file.to_str().unwrap()]), 1, &[&unknown, "byhash serve"]);
    assert!(!file.exists());
}

#[test]
fn a_damaged_index_is_named_once_and_nothing_that_was_added_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    add(dir.path(), &state, "file", b"content");
    let index = state.join("cache/index.redb");
    std::fs::write(&index, "no index").unwrap();
    let output = run(&state, &["get", &blake3::hash(b"content").to_string()]);
    assert_eq!(stdout(&output), "content");
    let (stderr, aside) = (String::from_utf8(output.stderr).unwrap(), state.join("cache/index.redb.damaged"));
    assert_eq!(stderr.matches("damaged (").count(), 1, "{stderr}");
    assert!(stderr.contains(index.to_str().unwrap()) && stderr.contains(aside.to_str().unwrap()), "{stderr}");
    assert_eq!(std::fs::read(aside).unwrap(), b"no index");
    // It is mended: nobody speaks of it again.
    let output = run(&state, &["get", &blake3::hash(b"content").to_string()]);
    assert_eq!((stdout(&output).as_str(), output.stderr.as_slice()), ("content", &b""[..]));
}

#[test]
fn what_the_index_has_lost_is_found_before_a_command_says_that_it_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let blobs: Vec<_> = (0..20_u8).map(|number| vec![number; 100_000]).collect();
    for (number, blob) in blobs.iter().enumerate() {
        add(dir.path(), &state, &format!("file{number}"), blob);
    }
    let lose_index = || std::fs::remove_file(state.join("cache/index.redb")).unwrap();
    lose_index();
    assert_eq!(stdout(&run(&state, &["ls", "--json"])).matches("\"hash\"").count(), 20);
    lose_index();
    assert!(stdout(&run(&state, &["verify"])).starts_with("checked 20 blobs, "));
    lose_index();
    assert_eq!(run(&state, &["get", &blake3::hash(&blobs[7]).to_string()]).stdout, blobs[7]);
    lose_index();
    stdout(&run(&state, &["rm", &blake3::hash(&blobs[8]).to_string()]));
    assert_eq!(stdout(&run(&state, &["ls", "--json"])).matches("\"hash\"").count(), 19);
}

#[test]
fn a_file_that_does_not_know_its_size_is_added_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let made_up = "/proc/version";
    let bytes = std::fs::read(made_up).unwrap();
    assert!(!bytes.is_empty() && std::fs::metadata(made_up).unwrap().len() == 0);
    let hash = blake3::hash(&bytes).to_string();
    assert_eq!(stdout(&run(dir.path(), &["add", made_up])), format!("{hash}  {made_up}\n"));
    assert_eq!(run(dir.path(), &["get", &hash]).stdout, bytes);
    let refused = run(dir.path(), &["add", "--reference", made_up]);
    assert_sentence(&refused, 1, &[made_up, "says that it is empty"]);
    assert_eq!(String::from_utf8(refused.stderr).unwrap().matches(made_up).count(), 1, "it is named once");
}

#[test]
fn what_is_not_there_is_called_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    let missing = missing.to_str().unwrap();
    assert_sentence(&run(dir.path(), &["unmount", missing]), 1, &[missing, "nothing is mounted"]);
    let output = run(dir.path(), &["serve", "--secret-file", missing]);
    assert_sentence(&output, 2, &[missing, "No such file or directory"]);
}

#[test]
fn standard_input_is_added_under_the_name_of_a_dash() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"from a pipe").unwrap();
    drop(writer);
    let output = byhash(dir.path(), &["add", "-"]).stdin(reader).output().unwrap();
    let hash = blake3::hash(b"from a pipe").to_string();
    assert_eq!(stdout(&output), format!("{hash}  -\n"));
    assert_eq!(stdout(&run(dir.path(), &["get", &hash])), "from a pipe");
}

#[test]
fn what_cannot_be_added_is_said_and_the_rest_is_added() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    std::fs::write(dir.path().join("good"), "good").unwrap();
    let output = byhash(&state, &["add", "missing", ".", "good"]).current_dir(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}  good\n", blake3::hash(b"good")));
    let stderr = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{stderr}");
    assert!(lines[0].starts_with("byhash: missing: "), "{stderr}");
    assert!(lines[1].starts_with("byhash: .: ") && lines[1].ends_with("name the files in it"), "{stderr}");
}

#[test]
fn what_the_disk_takes_no_place_for_is_said_and_the_rest_is_added() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    add(dir.path(), &state, "first", b"first");
    let shard = state.join("cache/blobs").join(&blake3::hash(b"refused").to_string()[..2]);
    std::fs::remove_dir(&shard).unwrap();
    std::fs::write(&shard, "in the way").unwrap();
    std::fs::write(dir.path().join("refused"), "refused").unwrap();
    std::fs::write(dir.path().join("good"), "good").unwrap();
    let output = byhash(&state, &["add", "refused", "good"]).current_dir(dir.path()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{}  good\n", blake3::hash(b"good")));
    let complaints: Vec<_> = stderr.lines().filter(|line| line.starts_with("byhash: ")).collect();
    assert!(complaints.len() == 1 && complaints[0].starts_with("byhash: refused: cannot "), "{stderr}");
    assert_eq!(stdout(&run(&state, &["get", &blake3::hash(b"good").to_string()])), "good");
}

#[test]
fn many_files_are_added_in_the_order_in_which_they_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    // More than two of the batches in which they are handed over; one file is missing in each.
    let names: Vec<_> = (0..2 * MAX_STAGED + 22).map(|i| format!("file {i}")).collect();
    let missing = |i: usize| i % MAX_STAGED == 7;
    let mut expected = String::new();
    for (_, name) in names.iter().enumerate().filter(|(i, _)| !missing(*i)) {
        std::fs::write(dir.path().join(name), name).unwrap();
        expected += &format!("{}  {name}\n", blake3::hash(name.as_bytes()));
    }
    let args: Vec<_> = std::iter::once("add").chain(names.iter().map(String::as_str)).collect();
    let output = byhash(&state, &args).current_dir(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 3);
    for i in [0, MAX_STAGED - 1, MAX_STAGED, names.len() - 1] {
        assert_eq!(stdout(&run(&state, &["get", &blake3::hash(names[i].as_bytes()).to_string()])), names[i]);
    }
}

#[test]
fn files_added_at_the_same_time_are_all_there() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let names: Vec<_> = (0..6).map(|i| format!("file {i}")).collect();
    let running: Vec<_> = names
        .iter()
        .map(|name| {
            std::fs::write(dir.path().join(name), name).unwrap();
            byhash(&state, &["add", name]).current_dir(dir.path()).stdout(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut child in running {
        assert!(child.wait().unwrap().success());
    }
    for name in names {
        assert_eq!(stdout(&run(&state, &["get", &blake3::hash(name.as_bytes()).to_string()])), name);
    }
}

#[test]
fn who_reads_a_list_slowly_keeps_nobody_from_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    // More than fits into a pipe.
    let names: Vec<_> = (0..1000).map(|i| format!("file {i}")).collect();
    names.iter().for_each(|name| std::fs::write(dir.path().join(name), name).unwrap());
    let args: Vec<_> = std::iter::once("add").chain(names.iter().map(String::as_str)).collect();
    assert!(byhash(&state, &args).current_dir(dir.path()).output().unwrap().status.success());
    let mut ls = byhash(&state, &["ls"]).stdout(Stdio::piped()).spawn().unwrap();
    let (mut list, mut first) = (ls.stdout.take().unwrap(), [0]);
    list.read_exact(&mut first).unwrap();
    assert!(ls.try_wait().unwrap().is_none(), "it waits for its reader");
    let hash = blake3::hash(b"file 7").to_string();
    assert_eq!(stdout(&run(&state, &["rm", &hash])), "");
    let mut rest = String::new();
    list.read_to_string(&mut rest).unwrap();
    assert!(ls.wait().unwrap().success());
    assert_eq!(rest.lines().count(), 1 + names.len());
    assert!(rest.contains(&hash), "as it was when it was asked");
}

#[test]
fn a_variable_that_has_no_effect_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let output = byhash(dir.path(), &["id"]).env("BYHASH_PEERS", "x").env("BYHASH_BENCH_MIB", "1").output().unwrap();
    assert_eq!(stdout(&output).len(), 65);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.starts_with("byhash: the variable BYHASH_PEERS has no effect") && said.lines().count() == 1, "{said}");
}
