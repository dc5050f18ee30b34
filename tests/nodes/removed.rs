//! What becomes of open files when `byhash rm` takes their content away.

use std::fs::File;
use std::io::Read;

use super::content::{MIB, content, hash_of};
use super::node::{Node, Sandbox, asking, eventually, fuse_is_here, stdout};

/// Removes a blob of 20 MiB that lies in the cache of `reader` while it is open and mapped, and reads it then.
fn read_what_was_removed(reader: &Node, bytes: &[u8]) {
    let hash = hash_of(bytes);
    let mut file = File::open(reader.file(&hash)).unwrap();
    // SAFETY: nothing changes the file: it is content-addressed.
    let map = unsafe { memmap2::Mmap::map(&file).unwrap() };
    let content_file = reader.content_file(&hash);
    stdout(&reader.run(["rm", &hash]));
    assert!(!content_file.exists());
    let mut read = Vec::new();
    file.read_to_end(&mut read).unwrap();
    assert!(read == bytes, "read as a file");
    assert!(map[..] == *bytes, "read as memory");
}

#[test]
fn what_was_removed_is_read_to_its_end_by_those_who_have_it_open() {
    if !fuse_is_here("what_was_removed_is_read_to_its_end_by_those_who_have_it_open") {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = content(110, 20 * MIB + 5);
    for (name, flags) in [("a", &[][..]), ("b", &["--verify", "always"]), ("c", &["--hydrate"])] {
        let seat = sandbox.seat(name);
        seat.add(&bytes);
        let reader = seat.mount(asking(&[]).into_iter().chain(flags.iter().copied()));
        read_what_was_removed(&reader, &bytes);
        // What is left of it is given back to the disk.
        let pid = reader.pid();
        let has_it_open = || {
            let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
            let names = files.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok());
            names.filter(|name| name.to_string_lossy().ends_with("(deleted)")).count() > 0
        };
        eventually("the node closes it", || !has_it_open());
    }
}

#[test]
fn what_was_removed_of_a_part_is_read_by_those_who_have_it_open() {
    if !fuse_is_here("what_was_removed_of_a_part_is_read_by_those_who_have_it_open") {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = content(111, 20 * MIB);
    let hash = hash_of(&bytes);
    let holder = sandbox.holder("a", &[&bytes]);
    // Nothing that was read stays in memory: neither the kernel's nor, beyond its last megabytes, the node's.
    let reader = sandbox.seat("b").mount(asking(&[&holder]).into_iter().chain(["--verify", "always"]));
    let mut file = File::open(reader.file(&hash)).unwrap();
    let mut first = vec![0; 12 * MIB];
    file.read_exact(&mut first).unwrap();
    eventually("what came is written", || reader.metric("store_unflushed_blobs") == 0);
    holder.stop();
    stdout(&reader.run(["rm", &hash]));
    have_the_kernel_forget(&file);
    let again = std::os::unix::fs::FileExt::read_exact_at(&file, &mut first, 0);
    assert!(again.is_ok() && first == bytes[..12 * MIB], "{again:?}");
}

/// Has the kernel forget what it has of the file.
fn have_the_kernel_forget(file: &File) {
    use std::os::fd::AsRawFd;
    // SAFETY: no pointers, and the descriptor is open.
    let refused = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(refused, 0);
}
