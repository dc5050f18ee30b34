//! Programs that know nothing of byhash, on files of the mount.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::content::{MIB, content, hash_of, scattered};
use super::node::{Node, Sandbox, fuse_is_here, program_is_here, run};

/// A holder, and a node with a mount that asks it.
fn holder_and_reader(sandbox: &Sandbox) -> (Node, Node) {
    let holder = sandbox.holder("a", &[]);
    let reader = sandbox.reader("b", &[&holder]);
    (holder, reader)
}

/// Gives `file` to `holder` and makes the link `name` to it in the mount of `reader`.
pub fn link(holder: &Node, reader: &Node, file: &Path, name: &Path) -> PathBuf {
    symlink(reader.file(&holder.add_file(file)), name).unwrap();
    name.to_owned()
}

#[test]
fn programs_run_from_the_mount() {
    if !fuse_is_here("programs_run_from_the_mount") {
        return;
    }
    let sandbox = Sandbox::new();
    let (holder, reader) = holder_and_reader(&sandbox);
    let ls = reader.file(&holder.add_file(Path::new("/bin/ls")));
    assert_eq!(run(Command::new(ls).arg0("ls").arg(&reader.mount_point)), "by-hash\n");
    let byhash = Path::new(env!("CARGO_BIN_EXE_byhash"));
    let of_mount = reader.file(&holder.add_file(byhash));
    assert_eq!(run(Command::new(&of_mount).arg0("x").arg("--help")), run(Command::new(byhash).arg0("x").arg("--help")));
    let script = reader.file(&holder.add(b"#!/bin/sh\necho \"$1 from $0\"\n"));
    assert_eq!(run(Command::new(&script).arg("hello")), format!("hello from {}\n", script.display()));
}

#[test]
fn a_map_of_a_file_that_is_not_here_yet_is_right_everywhere() {
    if !fuse_is_here("a_map_of_a_file_that_is_not_here_yet_is_right_everywhere") {
        return;
    }
    const LEN: usize = 24 * MIB + 77;
    let sandbox = Sandbox::new();
    let bytes = content(80, LEN);
    let holder = sandbox.holder("a", &[&bytes]);
    let reader = sandbox.reader("b", &[&holder]);
    let file = File::open(reader.file(&hash_of(&bytes))).unwrap();
    // SAFETY: nothing changes the file: it is content-addressed.
    let map = unsafe { memmap2::Mmap::map(&file).unwrap() };
    for at in scattered(LEN).take(300) {
        assert_eq!(map[at], bytes[at], "at {at}");
    }
    assert!(map[..] == bytes[..]);
}

#[test]
fn archives_are_read_through_links() {
    if !fuse_is_here("archives_are_read_through_links") || !program_is_here("python3") {
        return;
    }
    let sandbox = Sandbox::new();
    let (holder, reader) = holder_and_reader(&sandbox);
    // Nobody made these files for this test: the sources of this very package.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let plain = sandbox.make_dir("plain");
    let links = sandbox.make_dir("links");
    run(Command::new("tar").arg("-cf").arg(plain.join("src.tar")).arg("-C").arg(root).arg("src"));
    run(Command::new("python3").args(["-m", "zipfile", "-c"]).arg(plain.join("src.whl")).arg(root.join("src")));

    let tar = link(&holder, &reader, &plain.join("src.tar"), &links.join("src.tar"));
    run(Command::new("tar").arg("-df").arg(&tar).arg("-C").arg(root));
    let unpacked = sandbox.make_dir("unpacked");
    run(Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(&unpacked));
    run(Command::new("diff").arg("-r").arg(root.join("src")).arg(unpacked.join("src")));

    let wheel = link(&holder, &reader, &plain.join("src.whl"), &links.join("src.whl"));
    let listed = run(Command::new("python3").args(["-m", "zipfile", "-l"]).arg(&wheel));
    assert!(listed.contains("src/lib.rs"), "{listed}");
    run(Command::new("python3").args(["-m", "zipfile", "-t"]).arg(&wheel));

    // The files themselves, copied out of the farm by cp, and into an archive by tar and zipfile.
    run(Command::new("cp").arg("-rL").arg(&links).arg(sandbox.path("copied")));
    run(Command::new("diff").arg("-r").arg(&plain).arg(sandbox.path("copied")));
    run(Command::new("tar").arg("-chf").arg(sandbox.path("farm.tar")).arg("-C").arg(sandbox.path("")).arg("links"));
    run(Command::new("tar").arg("-xf").arg(sandbox.path("farm.tar")).arg("-C").arg(&unpacked));
    run(Command::new("diff").arg("-r").arg(&plain).arg(unpacked.join("links")));
    // ZIP knows no years before 1980.
    run(Command::new("python3").args(["-m", "zipfile", "-c"]).arg(sandbox.path("farm.zip")).arg(reader.by_hash()));
}

#[test]
fn fio_finds_every_block_as_it_was_written() {
    if !fuse_is_here("fio_finds_every_block_as_it_was_written") || !program_is_here("fio") {
        return;
    }
    let sandbox = Sandbox::new();
    let (holder, reader) = holder_and_reader(&sandbox);
    for (number, (pattern, engine, direct, block)) in [
        ("read", "psync", 0, "128k"),
        ("randread", "psync", 0, "4k"),
        ("randread", "mmap", 0, "4k"),
        ("randread", "psync", 1, "64k"),
        ("randread", "io_uring", 0, "4k"),
        ("randread", "io_uring", 1, "64k"),
    ]
    .into_iter()
    .enumerate()
    {
        // Each with a file of its own, so that each is cold.
        let plain = sandbox.path(&format!("plain{number}"));
        let fio = |rw: &str, file: &Path| {
            let mut command = Command::new("fio");
            command.args(["--name=x", "--size=8m", "--verify=crc32c", "--verify_fatal=1", "--allow_mounted_write=0"]);
            command.arg(format!("--bs={block}")).arg(format!("--rw={rw}")).arg("--filename").arg(file);
            command.arg(format!("--randseed={}", number + 1)).current_dir(sandbox.path(""));
            command
        };
        run(fio("write", &plain).args(["--do_verify=0", "--ioengine=psync"]));
        let file = link(&holder, &reader, &plain, &sandbox.path(&format!("link{number}")));
        let args = ["--readonly".to_owned(), format!("--ioengine={engine}"), format!("--direct={direct}")];
        run(fio(pattern, &file).args(&args));
        // Cold it was streamed; once it is here it is passed through, where that can be.
        run(fio(pattern, &file).args(&args));
        // And it does find what is wrong: a bit of one block.
        let mut bytes = std::fs::read(&plain).unwrap();
        bytes[5 * MIB + 4321] ^= 4;
        let wrong = link(&holder, &reader, &sandbox.write(&format!("wrong{number}"), bytes), &sandbox.path("wrong"));
        let output = fio(pattern, &wrong).args(&args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("verify"), "{engine}: {said}");
        std::fs::remove_file(wrong).unwrap();
    }
    assert_eq!(reader.metric("read_errors"), 0);
}
