//! How a mount runs: passed through or not, checked once or always, by root, by a user, in a container.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use super::content::{MIB, content, hash_of, hash_of_file};
use super::kernel::skip_without_passthrough;
use super::node::{Node, Sandbox, asking, eventually, fuse_is_here, run, stdout};
use super::skip::{skip, skip_even_in_ci};

fn sentences(node: &Node) -> Vec<String> {
    let status: serde_json::Value = serde_json::from_str(&stdout(&node.run(["status", "--json"]))).unwrap();
    status["mount"].as_array().unwrap().iter().map(|sentence| sentence.as_str().unwrap().to_owned()).collect()
}

/// Whether the node passes whole blobs through; what needs that is left out where it cannot be.
fn passes_through(node: &Node) -> bool {
    sentences(node)[0].starts_with("passthrough: ")
}

#[test]
fn a_small_blob_is_passed_through_at_its_first_open_and_a_large_one_once_it_is_here() {
    if !fuse_is_here("a_small_blob_is_passed_through_at_its_first_open_and_a_large_one_once_it_is_here") {
        return;
    }
    let sandbox = Sandbox::new();
    let (small, large) = (content(90, 60_000), content(91, 20 * MIB + 3));
    let holder = sandbox.holder("a", &[&small, &large]);
    let mut reader = sandbox.reader("b", &[&holder]);
    if !passes_through(&reader) {
        let test = "a_small_blob_is_passed_through_at_its_first_open_and_a_large_one_once_it_is_here";
        return skip_without_passthrough(test, &sandbox.path("b"), &sentences(&reader)[0]);
    }
    assert!(std::fs::read(reader.file(&hash_of(&small))).unwrap() == small);
    assert_eq!((reader.metric("opens_passed_through"), reader.metric("reads")), (1, 0));
    assert_eq!(hash_of_file(&reader.file(&hash_of(&large))).unwrap(), hash_of(&large));
    eventually("the large one is passed through", || {
        assert_eq!(hash_of_file(&reader.file(&hash_of(&large))).unwrap(), hash_of(&large));
        reader.metric("opens_passed_through") > 1
    });
    // After a restart nobody knows what the disk has done meanwhile: small ones are checked when they are
    // looked up, large ones when they are opened.
    let seat = reader.stop();
    reader = seat.mount([]);
    assert!(std::fs::read(reader.file(&hash_of(&small))).unwrap() == small);
    assert_eq!((reader.metric("opens_passed_through"), reader.metric("reads")), (1, 0));
    assert!(reader.metric("store_checked_groups") >= 4);
    eventually("the large one is passed through again", || {
        let mut byte = [0];
        File::open(reader.file(&hash_of(&large))).unwrap().read_exact_at(&mut byte, 77).unwrap();
        assert_eq!(byte[0], large[77]);
        reader.metric("opens_passed_through") > 1
    });
}

#[test]
fn every_read_is_checked_when_that_is_asked_for() {
    if !fuse_is_here("every_read_is_checked_when_that_is_asked_for") {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = content(92, 5 * MIB + 3);
    let groups = bytes.len().div_ceil(16 << 10) as u64;
    let hash = hash_of(&bytes);
    let holder = sandbox.holder("a", &[&bytes]);
    let reader = sandbox.seat("b").mount(asking(&[&holder]).into_iter().chain(["--verify", "always"]));
    assert!(sentences(&reader)[0].contains("--verify=always"), "{:?}", sentences(&reader));
    assert_eq!(hash_of_file(&reader.file(&hash)).unwrap(), hash);
    eventually("it is complete", || std::fs::read_dir(reader.by_hash()).unwrap().count() == 1);
    for _ in 0..3 {
        let before = reader.metric("store_checked_groups");
        assert_eq!(hash_of_file(&reader.file(&hash)).unwrap(), hash);
        assert!(reader.metric("store_checked_groups") >= before + groups);
    }
    let file = File::open(reader.file(&hash)).unwrap();
    // SAFETY: nothing changes the file: it is content-addressed.
    let map = unsafe { memmap2::Mmap::map(&file).unwrap() };
    assert!(map[..] == bytes[..]);
    // What the disk alters is right for a reader that has the file open already.
    let content_file = reader.content_file(&hash);
    std::fs::set_permissions(&content_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let disk = File::options().write(true).open(content_file).unwrap();
    disk.write_all_at(&[!bytes[3 * MIB]], 3 * MIB as u64).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 3 * MIB as u64).unwrap();
    assert_eq!(byte[0], bytes[3 * MIB]);
    assert_eq!(reader.metric("store_corrupt_groups"), 1);
}

#[test]
fn a_file_is_fetched_whole_by_its_open_when_that_is_asked_for() {
    if !fuse_is_here("a_file_is_fetched_whole_by_its_open_when_that_is_asked_for") {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = content(93, 30 * MIB + 1);
    let holder = sandbox.holder("a", &[&bytes]);
    let reader = sandbox.seat("b").mount(asking(&[&holder]).into_iter().chain(["--hydrate"]));
    std::fs::metadata(reader.file(&hash_of(&bytes))).unwrap();
    assert!(reader.metric("fetched_bytes") < MIB as u64, "to look at it fetches little");
    let mut file = File::open(reader.file(&hash_of(&bytes))).unwrap();
    holder.stop();
    let mut read = Vec::new();
    file.read_to_end(&mut read).unwrap();
    assert!(read == bytes);
}

/// What the user `nobody` does, where everybody may open /dev/fuse, as on most machines: $0 is byhash, $1
/// a directory, $2 a peer, $3 a hash.
const AS_A_USER: &str = r#"
set -e
mkdir "$1/dev" "$1/state"
mount -t tmpfs none "$1/dev"
mknod -m 666 "$1/dev/fuse" c 10 229
mount --bind "$1/dev/fuse" /dev/fuse
cp "$0" "$1/dev/byhash"
chown nobody "$1/state" "$1/mnt"
chmod 755 "$1" "$1/.."
state=$1/state
user() { setpriv --reuid=nobody --regid=65534 --clear-groups env "BYHASH_STATE=$state" BYHASH_CONFIG=/dev/null "$@" 2>&1; }
if ! grep -qx user_allow_other /etc/fuse.conf; then
    echo "others: $(user "$1/dev/byhash" mount "$1/mnt" --allow-other -f || :)"
fi
user "$1/dev/byhash" mount "$1/mnt" --peer "$2" --listen 127.0.0.1:0
user sha256sum "$1/mnt/by-hash/$3"
user "$1/dev/byhash" status
if ls "$1/mnt/by-hash" 2>/dev/null; then echo "open to others"; fi
user "$1/dev/byhash" unmount "$1/mnt"
"#;

#[test]
fn a_user_mounts_with_fusermount3_all_but_passthrough_and_the_window() {
    let test = "a_user_mounts_with_fusermount3_all_but_passthrough_and_the_window";
    if !fuse_is_here(test) || !super::node::program_is_here("fusermount3") {
        return;
    }
    if !Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success()) {
        return skip(test, "only root can make another user's surroundings");
    }
    let sandbox = Sandbox::new();
    let bytes = content(96, 9 * MIB + 1);
    let holder = sandbox.holder("a", &[&bytes]);
    let home = sandbox.make_dir("user");
    std::fs::create_dir(home.join("mnt")).unwrap();
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", AS_A_USER, env!("CARGO_BIN_EXE_byhash")]).arg(&home);
    let said = run(command.args([&holder.peer, &hash_of(&bytes)]));
    let sum = run(Command::new("sha256sum").arg(sandbox.write("plain", &bytes)));
    assert!(said.contains(&sum[..64]), "{said}");
    assert!(said.contains("no passthrough") && said.contains("needs root"), "{said}");
    assert!(said.contains("could not be raised"), "{said}");
    let refused = said.lines().any(|line| line.contains("--allow-other") && line.contains("/etc/fuse.conf"));
    assert!(refused || !said.contains("others: "), "{said}");
    assert!(!said.contains("open to others"), "it is the user's own, even before root: {said}");
}

#[test]
fn what_root_mounts_is_open_to_others_and_its_state_is_not() {
    let test = "what_root_mounts_is_open_to_others_and_its_state_is_not";
    if !fuse_is_here(test) {
        return;
    }
    let as_nobody = |program: &str, path: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=nobody", "--regid=65534", "--clear-groups", program]).arg(path);
        command.output()
    };
    if !as_nobody("ls", Path::new("/")).is_ok_and(|listed| listed.status.success()) {
        return skip(test, "only root can be another user");
    }
    let sandbox = Sandbox::new();
    let (fetched, held) = (content(98, 9 * MIB + 1), content(99, 60_000));
    let holder = sandbox.holder("a", &[&fetched]);
    let seat = sandbox.seat("b");
    seat.add(&held);
    let node = seat.mount(asking(&[&holder]));
    for dir in ["", "b"] {
        std::fs::set_permissions(sandbox.path(dir), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    for bytes in [&fetched, &held] {
        let read = as_nobody("cat", &node.file(&hash_of(bytes))).unwrap();
        assert!(read.status.success() && read.stdout == *bytes, "{}", String::from_utf8_lossy(&read.stderr));
    }
    let refused = as_nobody("ls", &node.content_file(&hash_of(&held))).unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Permission denied"));
}

#[test]
fn a_container_mounts_in_name_spaces_of_its_own() {
    let test = "a_container_mounts_in_name_spaces_of_its_own";
    if !fuse_is_here(test) {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = content(97, 9 * MIB + 1);
    let holder = sandbox.holder("a", &[&bytes]);
    let seat = sandbox.seat("b");
    if !Command::new("unshare").args(["-Urm", "true"]).status().is_ok_and(|status| status.success()) {
        return skip_even_in_ci(test, "no user name spaces here");
    }
    let script = "set -e; \"$0\" mount \"$1\" --peer \"$2\" --listen 127.0.0.1:0 >/dev/null; b3=$(cat \"$1/by-hash/$3\" | \"$0\" add -); \
                  \"$0\" status; echo \"$b3\"; \"$0\" unmount \"$1\"";
    let hash = hash_of(&bytes);
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-c", script, env!("CARGO_BIN_EXE_byhash")]).arg(&seat.mount_point);
    command.args([&holder.peer, &hash]).env("BYHASH_STATE", &seat.state).env("BYHASH_CONFIG", "/dev/null");
    let said = run(&mut command);
    assert!(said.contains(&format!("\n{hash}")), "what was read is what it is called: {said}");
    assert!(said.contains("no passthrough") && said.contains("CAP_SYS_ADMIN"), "{said}");
    assert_eq!(std::fs::read_dir(&seat.mount_point).unwrap().count(), 0, "nothing is left behind");
}
