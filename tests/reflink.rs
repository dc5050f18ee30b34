//! Adding a file where the file system can share blocks, and where it cannot.

#[path = "support/skip.rs"]
mod skip;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use skip::skip;

/// Large enough to stand out from what the store itself takes; not whole blocks.
const LEN: usize = (24 << 20) + 5;

/// A btrfs file system in a file, mounted.
struct Btrfs {
    dir: tempfile::TempDir,
}

impl Btrfs {
    /// `None` where there is no mkfs.btrfs, or nothing can be mounted.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
        let btrfs = Self { dir };
        std::fs::create_dir(btrfs.point()).unwrap();
        let succeeds = |command: &mut Command| {
            command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
        };
        let made = succeeds(Command::new("mkfs.btrfs").arg("-q").arg(&image));
        let mounted = made && succeeds(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(btrfs.point()));
        mounted.then_some(btrfs)
    }

    fn point(&self) -> PathBuf {
        self.dir.path().join("point")
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.point()).stderr(Stdio::null()).status();
    }
}

/// Bytes that are taken on the file system of `path`.
fn taken(path: &Path) -> u64 {
    use std::mem::MaybeUninit;
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut figures = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` is a NUL-terminated string and `figures` has room for the result; both live through the call.
    assert_eq!(unsafe { libc::statvfs(path.as_ptr(), figures.as_mut_ptr()) }, 0);
    // SAFETY: statvfs has returned 0, so it has filled in the structure.
    let figures = unsafe { figures.assume_init() };
    (figures.f_blocks - figures.f_bfree) * figures.f_frsize
}

fn byhash(state: &Path, args: &[&str]) -> Vec<u8> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_byhash"));
    command.env("BYHASH_STATE", state).env("BYHASH_CONFIG", "/dev/null").args(args).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Adds `file` to a store in `state`, alters the file, and checks that the store's copy is not altered.
fn add_and_alter(state: &Path, file: &Path, content: &[u8]) {
    let hash = blake3::hash(content).to_string();
    let printed = byhash(state, &["add", file.to_str().unwrap()]);
    assert!(printed.starts_with(hash.as_bytes()));
    std::fs::write(file, "altered").unwrap();
    assert!(byhash(state, &["get", &hash]) == content);
    byhash(state, &["verify"]);
}

fn content() -> Vec<u8> {
    // Nothing that a file system could compress or find twice.
    let mut content = vec![0; LEN];
    blake3::Hasher::new().update(b"reflink").finalize_xof().fill(&mut content);
    content
}

#[test]
fn where_blocks_can_be_shared_an_added_file_takes_none_and_is_its_own() {
    let Some(btrfs) = Btrfs::mount() else {
        return skip("what needs a btrfs", "it cannot be mounted without root and btrfs-progs");
    };
    let (state, file, content) = (btrfs.point().join("state"), btrfs.point().join("file"), content());
    byhash(&state, &["id"]);
    std::fs::write(&file, &content).unwrap();
    sync(&file);
    let before = taken(&btrfs.point());
    let hash = blake3::hash(&content).to_string();
    byhash(&state, &["add", file.to_str().unwrap()]);
    sync(&file);
    let grown = taken(&btrfs.point()).saturating_sub(before);
    assert!(grown < LEN as u64 / 2, "{grown} bytes more are taken");
    byhash(&state, &["rm", &hash]);
    add_and_alter(&state, &file, &content);
}

#[test]
fn where_they_cannot_the_file_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, content()).unwrap();
    add_and_alter(&dir.path().join("state"), &file, &content());
}

#[test]
fn from_another_file_system_the_file_is_copied() {
    let Some(btrfs) = Btrfs::mount() else {
        return skip("what needs a btrfs", "it cannot be mounted without root and btrfs-progs");
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, content()).unwrap();
    add_and_alter(&btrfs.point().join("state"), &file, &content());
}

/// Writes out what the kernel still has of the file system of `file`.
fn sync(file: &Path) {
    assert!(Command::new("sync").arg("-f").arg(file).status().unwrap().success());
}
