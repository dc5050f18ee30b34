//! The mount as mount(8) makes it, by hand and from a table like `/etc/fstab`.

use std::path::Path;
use std::process::Command;

use super::content::{MIB, content, hash_of};
use super::node::{Sandbox, eventually, fuse_is_here, run};
use super::skip::skip;

/// In a name space of mounts in which the helper is where mount(8) looks for it: $0 is the helper, $1 the
/// directory of byhash, $2 a directory, $3 a peer, $4 a hash.
const SCRIPT: &str = r#"
set -e
mount -t tmpfs none /sbin
sed "s#@PREFIX@/bin#$1#" "$0" >/sbin/mount.byhash
chmod 755 /sbin/mount.byhash
export BYHASH_CONFIG=/dev/null
echo "$3 $2/mnt byhash _netdev,nofail,x-systemd.automount,open,listen=127.0.0.1:0,state=$2/state 0 0" >"$2/fstab"
/bin/mount -T "$2/fstab" "$2/mnt" >/dev/null
sha256sum <"$2/mnt/by-hash/$4"
findmnt -n -o FSTYPE,OPTIONS "$2/mnt"
# What is mounted already is not mounted again.
/bin/mount -a -T "$2/fstab" >/dev/null && findmnt -n -o SOURCE "$2/mnt"
/bin/mount -T "$2/fstab" -o remount,noatime "$2/mnt"
findmnt -n -o OPTIONS "$2/mnt"
# And again at once, while the node of the first mount is still ending.
umount "$2/mnt"
ls "$2/mnt" | wc -l
# In a directory that has a file of the name, mount(8) makes a path of the word.
mkdir "$2/byhash" && cd "$2"
/bin/mount -t byhash byhash "$2/mnt" -o "state=$2/state,listen=127.0.0.1:0" >/dev/null
sha256sum <"$2/mnt/by-hash/$4"
umount "$2/mnt"
/bin/mount -t byhash byhash "$2/mnt" -o "state=$2/state,perr=x" || echo "exit code $?"
/bin/mount -t byhash /dev/null "$2/mnt" -o "state=$2/state" || echo "exit code $?"
"#;

#[test]
fn mount_mounts_by_hand_and_from_a_table_and_umount_ends_the_node() {
    let test = "mount_mounts_by_hand_and_from_a_table_and_umount_ends_the_node";
    if !fuse_is_here(test) {
        return;
    }
    if !Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success()) {
        return skip(test, "only root can have mounts of its own");
    }
    let sandbox = Sandbox::new();
    let bytes = content(120, 5 * MIB + 1);
    let holder = sandbox.holder("a", &[&bytes]);
    let home = sandbox.make_dir("b");
    sandbox.make_dir("b/mnt");
    let helper = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-scripts/mount.byhash");
    let program = Path::new(env!("CARGO_BIN_EXE_byhash")).parent().unwrap();
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", SCRIPT]).args([&helper, program, &home]);
    let said = run(command.args([&holder.peer, &hash_of(&bytes)]));
    let sum = run(Command::new("sha256sum").arg(sandbox.write("plain", &bytes)));
    let lines: Vec<_> = said.lines().collect();
    let [fetched, kind, source, remounted, left, again, wrong, path] = lines[..] else { panic!("{said}") };
    assert!(fetched.starts_with(&sum[..64]) && again.starts_with(&sum[..64]), "{said}");
    assert!(kind.starts_with("fuse.byhash") && kind.contains("ro,nosuid,nodev"), "{said}");
    assert_eq!(source, holder.peer, "once");
    assert!(remounted.starts_with("ro,nosuid,nodev,noatime"), "{said}");
    assert_eq!((left.trim(), wrong, path), ("0", "exit code 1", "exit code 1"), "{said}");
    eventually("no node is left", || !home.join("state/control.sock").exists());
}
