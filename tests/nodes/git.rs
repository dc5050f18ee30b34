//! A git repository whose packs are in the mount.

use std::path::Path;
use std::process::Command;

use super::node::{Sandbox, fuse_is_here, program_is_here, run};
use super::programs::link;

/// git in `directory`, cut off from the user's settings.
fn git(directory: &Path, args: &[&str]) -> String {
    let mut command = Command::new("git");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GIT_") {
            command.env_remove(name);
        }
    }
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    for role in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{role}_NAME"), "A").env(format!("GIT_{role}_EMAIL"), "a@example.org");
    }
    run(command.args(["-c", "safe.directory=*", "-c", "init.defaultBranch=main"]).args(args).current_dir(directory))
}

#[test]
fn a_repository_with_its_packs_in_the_mount_is_sound() {
    if !fuse_is_here("a_repository_with_its_packs_in_the_mount_is_sound") || !program_is_here("git") {
        return;
    }
    let sandbox = Sandbox::new();
    // A history with many objects: the sources of this package, a directory a commit.
    let work = sandbox.make_dir("work");
    git(&work, &["init", "-q"]);
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut parts: Vec<_> = std::fs::read_dir(sources).unwrap().map(|entry| entry.unwrap().path()).collect();
    parts.sort();
    for part in &parts {
        run(Command::new("cp").arg("-r").arg(part).arg(&work));
        git(&work, &["add", "."]);
        git(&work, &["commit", "-q", "-m", part.file_name().unwrap().to_str().unwrap()]);
    }
    git(&work, &["clone", "-q", "--bare", "--no-local", ".", "../bare"]);
    let bare = sandbox.path("bare");
    git(&bare, &["repack", "-adq"]);

    let holder = sandbox.holder("a", &[]);
    let reader = sandbox.reader("b", &[&holder]);
    let packs: Vec<_> = std::fs::read_dir(bare.join("objects/pack")).unwrap().map(|e| e.unwrap().path()).collect();
    assert!(packs.iter().any(|path| path.extension().is_some_and(|end| end == "pack")));
    for path in packs {
        let moved = sandbox.path(path.file_name().unwrap().to_str().unwrap());
        std::fs::rename(&path, &moved).unwrap();
        link(&holder, &reader, &moved, &path);
    }
    git(&bare, &["fsck", "--full", "--strict"]);
    assert_eq!(git(&bare, &["log", "--format=%s"]).lines().count(), parts.len());
    git(&bare, &["clone", "-q", "--no-local", ".", "../clone"]);
    run(Command::new("diff").args(["-r", "-x", ".git"]).arg(&work).arg(sandbox.path("clone")));
}
