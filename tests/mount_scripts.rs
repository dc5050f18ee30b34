//! The scripts of `mount-scripts/`, run.

#[path = "support/skip.rs"]
mod skip;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use skip::{skip, skip_even_in_ci};
use tempfile::TempDir;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-scripts").join(name)
}

/// A directory with a `byhash` that writes its arguments, one a line, to `arguments` beside it
/// and ends with `status`.
fn fake_byhash(status: i32) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("byhash");
    let text =
        format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >\"{}/arguments\"\nexit {status}\n", directory.path().display());
    // Written by another process: one that another test starts could inherit a descriptor of ours that is
    // open for writing, and while it has it, the file cannot be run.
    let source = directory.path().join("source");
    std::fs::write(&source, text).unwrap();
    assert!(Command::new("install").args(["-m", "755"]).args([&source, &program]).status().unwrap().success());
    directory
}

fn run_helper(fake: &TempDir, arguments: &[&str]) -> Output {
    let path = format!("{}:/usr/bin:/bin", fake.path().display());
    Command::new(script("mount.byhash")).args(arguments).env("PATH", path).output().unwrap()
}

/// What `byhash` is called with when mount(8) calls the helper with `arguments`.
fn command_line(arguments: &[&str]) -> Vec<String> {
    let fake = fake_byhash(0);
    let output = run_helper(&fake, arguments);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let called = std::fs::read_to_string(fake.path().join("arguments")).unwrap_or_default();
    called.lines().map(str::to_owned).collect()
}

#[test]
fn options_become_flags_and_mounts_own_are_ignored() {
    assert_eq!(command_line(&["byhash", "/mnt/net"]), ["mount", "/mnt/net", "--fsname", "byhash"]);
    let fstab = "rw,_netdev,nofail,x-systemd.automount,noatime,peer=a:1,peer=id@[::1]:2,allow=x,open,hydrate,allow_other,\
                 secret-file=/etc/a b/$(touch x)*,cache-size=20GiB,serve-rate=50MB,verify=always,state=/s,config=/c.toml,listen=[::]:7117";
    let mut expected: Vec<_> = "mount /mnt/net --fsname none --peer a:1 --peer id@[::1]:2 --allow x --open --hydrate --allow-other --secret-file SECRET \
                                --cache-size 20GiB --serve-rate 50MB --verify always --state /s --config /c.toml --listen [::]:7117"
        .split_whitespace()
        .collect();
    let secret = expected.iter().position(|word| *word == "SECRET").unwrap();
    expected[secret] = "/etc/a b/$(touch x)*";
    assert_eq!(command_line(&["none", "/mnt/net", "-o", fstab]), expected);
}

#[test]
fn the_source_may_be_a_peer_and_options_may_come_in_parts() {
    let called = command_line(&["h:7117", "/mnt/my net", "-s", "-n", "-o", "defaults,open", "-v", "-o", "peer=b:1"]);
    assert_eq!(called, ["mount", "/mnt/my net", "--fsname", "h:7117", "--peer", "h:7117", "--open", "--peer", "b:1"]);
}

#[test]
fn every_flag_of_a_mount_is_an_option() {
    let output = Command::new(env!("CARGO_BIN_EXE_byhash")).args(["mount", "--help"]).output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let of_the_process = ["foreground", "verbose", "help"];
    let mut seen = BTreeSet::new();
    for line in help.lines() {
        let Some((_, flag)) = line.split_once("--").filter(|(before, _)| before.len() <= 6) else { continue };
        let (name, value) = flag.split_once(' ').unwrap_or((flag, ""));
        let name = name.trim_end_matches('.');
        if of_the_process.contains(&name) || !seen.insert(name) {
            continue;
        }
        let option = if value.trim_start().starts_with('<') || value.starts_with('[') {
            format!("{name}=x")
        } else {
            name.to_owned()
        };
        let called = command_line(&["byhash", "/mnt/net", "-o", &option]);
        assert!(called.contains(&format!("--{name}")), "{option}: {called:?}");
    }
    assert!(seen.contains("scrub-rate") && seen.contains("peer") && seen.contains("hydrate"), "{seen:?}");
}

#[test]
fn a_fake_mount_checks_and_does_nothing() {
    assert_eq!(command_line(&["byhash", "/mnt/net", "-f", "-o", "open"]), [""; 0]);
}

#[test]
fn what_is_wrong_is_named() {
    let fake = fake_byhash(0);
    for (arguments, named) in [
        (&["byhash", "/m", "-o", "opne"][..], "'opne'"),
        (&["byhash", "/m", "-o", "peer="][..], "'peer'"),
        (&["byhash", "/m", "-o", "state,open"][..], "'state'"),
        (&["byhash"][..], "usage"),
        (&["byhash", "/m", "surplus"][..], "usage"),
        (&["/dev/sda1", "/m"][..], "'/dev/sda1' is a path"),
    ] {
        let output = run_helper(&fake, arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(said.contains(named), "{arguments:?}: {said}");
        assert!(!fake.path().join("arguments").exists());
    }
}

#[test]
fn a_failed_mount_has_the_exit_code_of_mount() {
    assert_eq!(run_helper(&fake_byhash(1), &["byhash", "/m"]).status.code(), Some(32));
}

/// All files below `directory`, relative to it.
fn files(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.insert(path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

fn install(destination: &Path, arguments: &[&str]) -> Output {
    install_below("/opt/byhash", destination, arguments)
}

fn install_below(prefix: &str, destination: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(script("install.sh"));
    command.args(arguments).env("DESTDIR", destination).env("PREFIX", prefix);
    command.env_remove("SBINDIR").env_remove("UNITDIR").output().unwrap()
}

/// The directories in which every systemd looks for units that it did not bring.
const UNIT_DIRS: [&str; 3] = ["etc/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system"];

#[test]
fn units_go_where_systemd_looks_whatever_the_prefix() {
    let fake = fake_byhash(0);
    let program = fake.path().join("byhash");
    for prefix in ["/usr", "/usr/local", "/opt/byhash", "/srv/usr"] {
        let destination = tempfile::tempdir().unwrap();
        let installed = install_below(prefix, destination.path(), &["--binary", program.to_str().unwrap()]);
        assert!(installed.status.success(), "{installed:?}");
        let installed = files(destination.path());
        let units: Vec<_> = installed.iter().filter(|file| file.ends_with(".service")).collect();
        let is_found = |unit: &str| UNIT_DIRS.contains(&unit.rsplit_once('/').unwrap().0);
        assert!(units.len() == 2 && units.iter().all(|unit| is_found(unit)), "{prefix}: {units:?}");
        // A slash at the end changes nothing.
        assert!(install_below(&format!("{prefix}/"), destination.path(), &["--uninstall"]).status.success());
        assert_eq!(files(destination.path()), BTreeSet::new());
        let again = install_below(prefix, destination.path(), &["--uninstall"]);
        let said = String::from_utf8(again.stderr).unwrap();
        assert!(said.contains("not there: ") && said.contains(&format!("{prefix}/bin/byhash")), "{said}");
    }
}

#[test]
fn what_is_installed_is_removed_again_and_settings_that_were_changed_are_kept() {
    let fake = fake_byhash(0);
    let program = fake.path().join("byhash");
    let destination = tempfile::tempdir().unwrap();
    let root = destination.path();
    let install_it = || assert!(install(root, &["--binary", program.to_str().unwrap()]).status.success());

    install_it();
    let expected = [
        "etc/byhash.toml",
        "etc/systemd/system/byhash.service",
        "etc/systemd/system/byhash@.service",
        "opt/byhash/bin/byhash",
        "opt/byhash/share/doc/byhash/byhash.toml",
        "sbin/mount.byhash",
    ];
    assert!(files(root).iter().eq(&expected), "{:?}", files(root));
    for unit in [expected[1], expected[2]] {
        let unit = std::fs::read_to_string(root.join(unit)).unwrap();
        assert!(unit.contains("ExecStart=/opt/byhash/bin/byhash mount ") && !unit.contains("@PREFIX"), "{unit}");
    }
    for program in [expected[3], expected[5]] {
        assert_eq!(std::fs::metadata(root.join(program)).unwrap().permissions().mode() & 0o777, 0o755);
    }
    assert!(install(root, &["--uninstall"]).status.success());
    assert_eq!(files(root), BTreeSet::new());

    install_it();
    std::fs::write(root.join("etc/byhash.toml"), "open = true\n").unwrap();
    install_it();
    assert_eq!(std::fs::read_to_string(root.join("etc/byhash.toml")).unwrap(), "open = true\n", "not overwritten");
    assert!(install(root, &["--uninstall"]).status.success());
    assert!(files(root).iter().eq(["etc/byhash.toml"]));
}

/// systemd's own judgement, with a program in place of byhash that exists, and of the template one
/// instance.
#[test]
fn systemd_accepts_the_units() {
    for (name, instance) in [("byhash.service", "byhash.service"), ("byhash@.service", "byhash@srv-blobs.service")] {
        let directory = tempfile::tempdir().unwrap();
        let text = std::fs::read_to_string(script(name)).unwrap();
        let text = text.replace("@PREFIX@/bin/byhash", "/bin/true").replace("@PREFIX@", "/usr");
        let unit = directory.path().join(instance);
        std::fs::write(&unit, text).unwrap();
        let Ok(output) = Command::new("systemd-analyze").arg("verify").arg(&unit).output() else {
            return skip_even_in_ci("systemd_accepts_the_units", "systemd-analyze is not installed");
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("byhash"), "{said}");
    }
}

/// A private name space of mounts would keep the mount from everybody else (systemd.exec(5)).
#[test]
fn no_hardening_hides_the_mount_and_the_supervisor_is_told() {
    let hiding = [
        "Private",
        "Protect",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "Inaccessible",
        "Bind",
        "DynamicUser",
        "Root",
        "TemporaryFileSystem",
        "MountFlags",
    ];
    for name in ["byhash.service", "byhash@.service"] {
        let text = std::fs::read_to_string(script(name)).unwrap();
        for line in text.lines() {
            assert!(!hiding.iter().any(|word| line.starts_with(word)), "{name}: {line}");
        }
        for line in [
            "Type=notify",
            "WatchdogSec=30",
            "Restart=on-failure",
            "RestartSec=1",
            "RestartPreventExitStatus=2",
            "StartLimitIntervalSec=0",
            "NoNewPrivileges=yes",
        ] {
            assert!(text.lines().any(|have| have == line), "{name} lacks {line}");
        }
    }
}

#[test]
fn a_program_that_was_not_built_is_missed_in_a_sentence() {
    let destination = tempfile::tempdir().unwrap();
    let output = install(destination.path(), &["--binary", "/no/such/program"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("'/no/such/program'"));
    assert_eq!(files(destination.path()), BTreeSet::new());
}

/// Every example in the settings file is valid and is one of the node's settings.
#[test]
fn the_examples_of_the_settings_file_are_settings() {
    let text = std::fs::read_to_string(script("byhash.toml")).unwrap();
    assert!(text.parse::<toml::Table>().unwrap().is_empty(), "as it stands it sets nothing");
    let is_example = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
    let examples: String = text.lines().filter(is_example).map(|line| format!("{}\n", &line[1..])).collect();
    let settings: BTreeSet<_> = examples.parse::<toml::Table>().unwrap().keys().cloned().collect();
    let known = [
        "allow",
        "allow-other",
        "cache-size",
        "hydrate",
        "listen",
        "open",
        "peer",
        "scrub-rate",
        "secret-file",
        "serve-rate",
        "state",
        "verify",
    ];
    assert!(settings.iter().eq(&known), "{settings:?}");
}

#[test]
fn shellcheck_finds_nothing() {
    let Ok(output) = Command::new("shellcheck").args([script("mount.byhash"), script("install.sh")]).output() else {
        return skip("shellcheck_finds_nothing", "shellcheck is not installed");
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
