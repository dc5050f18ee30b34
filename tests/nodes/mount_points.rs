//! Mount points that would hide from a node what it needs itself.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use super::node::{Sandbox, eventually, failure, fuse_is_here, stdout};

/// A command that may hang. Dropped, it is killed.
struct Bounded(Option<Child>);

impl Bounded {
    /// What came of `command`, which is to end by itself.
    fn output(command: &mut Command) -> Output {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut bounded = Self(Some(child));
        eventually("the command ends", || bounded.0.as_mut().unwrap().try_wait().unwrap().is_some());
        bounded.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn one_that_would_hide_what_the_node_needs_is_refused() {
    if !fuse_is_here("one_that_would_hide_what_the_node_needs_is_refused") {
        return;
    }
    let sandbox = Sandbox::new();
    let seat = sandbox.seat("a");
    let (point, away) = (sandbox.make_dir("mp"), sandbox.make_dir("away"));
    symlink(&point, sandbox.path("link")).unwrap();
    symlink(sandbox.make_dir("mp/cache"), sandbox.make_dir("linked").join("cache")).unwrap();
    let secret = sandbox.write("mp/secret", stdout(&seat.run(["secret"])));
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    sandbox.write("mp/byhash.toml", "open = true");

    let refused = |cwd: &str, point: &str, args: &[&str], hidden: &Path| {
        for foreground in [true, false] {
            let mut command = seat.command(["mount", point, "--listen", "127.0.0.1:0"]);
            command.args(args).args(foreground.then_some("-f")).current_dir(sandbox.path(cwd));
            let output = Bounded::output(&mut command);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
            let sentence = said.lines().find(|line| line.starts_with("byhash: ")).unwrap();
            let resolved = sandbox.path(cwd).join(point).canonicalize().unwrap();
            for path in [resolved.as_path(), hidden] {
                assert!(sentence.contains(&format!("'{}'", path.display())), "{path:?} is not in: {sentence}");
            }
        }
    };
    let state = point.join("state");
    refused(".", "mp", &["--state", "mp/state"], &state);
    refused(".", "mp", &["--state", "mp"], &point);
    refused(".", "mp", &["--state", "link/state"], &state);
    refused(".", "link", &["--state", "mp/state"], &state);
    refused("mp", ".", &["--state", "state"], &state);
    refused(".", ".", &["--state", "away"], &away);
    refused(".", "mp", &["--state", "linked"], &point.join("cache"));
    refused(".", "mp", &["--secret-file", "mp/secret"], &secret);
    refused(".", "mp", &["--config", "mp/byhash.toml"], &point.join("byhash.toml"));
    refused(".", "/", &[], &seat.state);
    assert!(!state.exists(), "what is refused has made its state directory");
}

#[test]
fn a_mount_that_is_refused_has_made_nothing() {
    let sandbox = Sandbox::new();
    let seat = sandbox.seat("a");
    let fresh = sandbox.path("parent/fresh");
    sandbox.write("file", "");
    for (point, why) in [("missing", "does not exist"), ("file", "not a directory"), ("/proc", "mount point already")] {
        for foreground in [true, false] {
            let mut command = seat.command(["mount", point, "--listen", "127.0.0.1:0", "--state"]);
            command.arg(&fresh).args(foreground.then_some("-f")).current_dir(sandbox.path("."));
            let said = failure(&Bounded::output(&mut command));
            assert!(said.contains(why), "{said}");
            assert!(!sandbox.path("parent").exists(), "{point}: its state directory was made");
        }
    }
}

#[test]
fn a_state_that_is_only_named_through_the_mount_point_is_used() {
    if !fuse_is_here("a_state_that_is_only_named_through_the_mount_point_is_used") {
        return;
    }
    let sandbox = Sandbox::new();
    let seat = sandbox.seat("a");
    let point = sandbox.make_dir("mp");
    symlink(sandbox.make_dir("other"), point.join("link")).unwrap();
    for (named, state) in [("mp/../state", "state"), ("mp/link/state", "other/state")] {
        let mut command = seat.command(["mount", "mp", "--state", named, "--listen", "127.0.0.1:0"]);
        assert!(stdout(&Bounded::output(command.current_dir(sandbox.path(".")))).starts_with("ready "));
        let at = |args: &[&str]| stdout(&seat.command(args).arg("--state").arg(sandbox.path(state)).output().unwrap());
        assert!(at(&["status"]).contains(point.to_str().unwrap()));
        stdout(&seat.run(["unmount", point.to_str().unwrap()]));
        eventually("the node ends", || !sandbox.path(state).join("control.sock").exists());
    }
}
