//! Whole blobs, which the kernel reads from their files without us.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

use byhash::fuse::{MountOptions, Passthrough};
use byhash::transfer::BlobState;

use super::memory_source::{Answer, Call};
use super::mounted::Mounted;
use super::skip::skip_even_in_ci;

fn content(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

fn all_of(mut file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Reads that came to the source.
fn reads(m: &Mounted) -> usize {
    m.source.take_calls().iter().filter(|call| matches!(call, Call::Read(_))).count()
}

#[test]
fn a_whole_blob_is_read_without_us_by_any_number_of_opens() {
    let Some(m) = Mounted::passing_through("a_whole_blob_is_read_without_us_by_any_number_of_opens") else { return };
    let bytes = content(1, 300_001);
    let path = m.file(m.add_whole("a", &bytes));
    for _ in 0..2 {
        let mut opens: Vec<_> = (0..5).map(|_| File::open(&path).unwrap()).collect();
        for file in &opens {
            assert_eq!(all_of(file), bytes);
        }
        // SAFETY: nothing changes the file.
        let map = unsafe { memmap2::Mmap::map(&opens[0]).unwrap() };
        opens.truncate(1);
        assert_eq!(all_of(&File::open(&path).unwrap()), bytes, "after some were closed");
        drop(opens);
        assert_eq!(map[..], bytes[..], "mapped, and closed");
    }
    assert_eq!(reads(&m), 0);
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o777), (300_001, 0o555));
}

#[test]
fn a_blob_that_becomes_whole_while_it_is_open_is_read_rightly_both_ways() {
    let test = "a_blob_that_becomes_whole_while_it_is_open_is_read_rightly_both_ways";
    let Some(m) = Mounted::passing_through(test) else { return };
    let bytes = content(2, 9_000_001);
    let hash = m.source.add_with(bytes.clone(), |blob| blob.state = BlobState::Partial);
    let (path, file) = (m.file(hash), m.beside("b", &bytes));
    let streamed = File::open(&path).unwrap();
    // SAFETY: nothing changes the file.
    let map = unsafe { memmap2::Mmap::map(&streamed).unwrap() };
    assert_eq!(map[..5000], bytes[..5000]);
    let number = std::fs::metadata(&path).unwrap().ino();
    assert!(reads(&m) > 0);

    m.source.alter(hash, |blob| (blob.state, blob.whole) = (BlobState::Complete, Some(file)));
    let passed = File::open(&path).unwrap();
    assert_eq!(all_of(&passed), bytes);
    // The kernel may still read ahead of what was looked at of the map, but not as far as here.
    let far = |m: &Mounted| {
        let calls = m.source.take_calls();
        calls.iter().any(|call| matches!(call, Call::Read(range) if range.start >= 4 << 20))
    };
    assert!(!far(&m), "passed through while the other is open");
    assert_eq!(map[..], bytes[..]);
    assert!(far(&m), "the first one still streams");
    assert_eq!(all_of(&streamed), bytes);
    let numbers = [passed.metadata().unwrap(), streamed.metadata().unwrap(), std::fs::metadata(&path).unwrap()];
    assert!(numbers.iter().all(|meta| meta.ino() == number), "stat shows one file");
}

#[test]
fn a_blob_that_was_evicted_is_streamed_although_the_kernel_knows_its_name_for_good() {
    let test = "a_blob_that_was_evicted_is_streamed_although_the_kernel_knows_its_name_for_good";
    let Some(m) = Mounted::passing_through(test) else { return };
    let bytes = content(3, 100_000);
    let hash = m.add_whole("c", &bytes);
    let open_before = File::open(m.file(hash)).unwrap();
    m.source.alter(hash, |blob| (blob.state, blob.whole) = (BlobState::Absent, None));
    std::fs::remove_file(m.files.path().join("c")).unwrap();
    assert_eq!(std::fs::read(m.file(hash)).unwrap(), bytes);
    assert!(reads(&m) > 0);
    assert_eq!(all_of(&open_before), bytes, "an open file stays readable");
    assert_eq!(reads(&m), 0);
}

#[test]
fn a_damaged_file_reaches_no_new_open_and_nor_does_it_once_it_is_mended() {
    let test = "a_damaged_file_reaches_no_new_open_and_nor_does_it_once_it_is_mended";
    let Some(m) = Mounted::passing_through(test) else { return };
    let (right, wrong) = (content(4, 100_000), content(5, 100_000));
    let hash = m.add_whole("d", &right);
    let old = File::open(m.file(hash)).unwrap();
    // The disk alters the file, the node finds that out, ...
    std::fs::write(m.files.path().join("d"), &wrong).unwrap();
    m.source.alter(hash, |blob| (blob.state, blob.whole) = (BlobState::Partial, None));
    assert_eq!(std::fs::read(m.file(hash)).unwrap(), right, "streamed");
    assert!(reads(&m) > 0);
    // ... and puts a new one in its place.
    let mended = m.beside("d2", &right);
    m.source.alter(hash, |blob| (blob.state, blob.whole) = (BlobState::Complete, Some(mended)));
    for _ in 0..3 {
        assert_eq!(std::fs::read(m.file(hash)).unwrap(), right, "passed through to the new file");
    }
    assert_eq!(reads(&m), 0);
    assert_eq!(all_of(&old), wrong, "the old open still has what the kernel was given for it");
    drop(old);
    assert_eq!(std::fs::read(m.file(hash)).unwrap(), right);
    assert_eq!(reads(&m), 0);
}

#[test]
fn a_small_blob_is_made_whole_before_its_first_open() {
    let Some(m) = Mounted::passing_through("a_small_blob_is_made_whole_before_its_first_open") else { return };
    let bytes = content(6, 50_000);
    let file = m.beside("e", &bytes);
    let unknown = m.source.add_with(bytes.clone(), |blob| {
        (blob.size_known, blob.state, blob.whole) = (false, BlobState::Absent, Some(file));
    });
    assert_eq!(std::fs::read(m.file(unknown)).unwrap(), bytes);
    assert_eq!(m.source.take_calls(), [Call::Size, Call::MakeWhole]);
    // A larger one is not waited for, and one that nobody can bring is found all the same.
    let large =
        m.source.add_with(content(7, 80_000), |blob| (blob.size_known, blob.state) = (false, BlobState::Absent));
    std::fs::metadata(m.file(large)).unwrap();
    assert_eq!(m.source.take_calls(), [Call::Size]);
    let silent = m.source.add_with(content(8, 20_000), |blob| {
        (blob.size_known, blob.state, blob.make_whole) = (false, BlobState::Absent, Answer::Never);
    });
    assert_eq!(std::fs::metadata(m.file(silent)).unwrap().len(), 20_000);
}

#[test]
fn a_blob_of_one_group_is_streamed_once_and_then_read_from_the_kernels_memory() {
    let test = "a_blob_of_one_group_is_streamed_once_and_then_read_from_the_kernels_memory";
    let Some(m) = Mounted::passing_through(test) else { return };
    let [small, larger] = [16_384, 16_385].map(|len| content(11, len));
    let [one, two] = [("one", &small), ("two", &larger)].map(|(name, bytes)| m.file(m.add_whole(name, bytes)));
    for expected in [1, 0] {
        assert_eq!(std::fs::read(&one).unwrap(), small);
        assert_eq!(reads(&m), expected);
        assert_eq!(std::fs::read(&two).unwrap(), larger);
        assert_eq!(reads(&m), 0, "passed through");
    }
}

#[test]
fn what_is_here_but_was_not_checked_is_checked_first() {
    let Some(m) = Mounted::passing_through("what_is_here_but_was_not_checked_is_checked_first") else { return };
    let small = m.source.add(content(9, 4 << 20));
    std::fs::metadata(m.file(small)).unwrap();
    assert_eq!(m.source.take_calls(), [Call::MakeWhole], "before the lookup is answered");
    let large = m.source.add(content(10, (4 << 20) + 1));
    let _open = File::open(m.file(large)).unwrap();
    assert_eq!(m.source.take_calls(), [Call::CheckSoon], "in the background");
}

#[test]
fn programs_run_and_copy_from_whole_blobs() {
    let Some(m) = Mounted::passing_through("programs_run_and_copy_from_whole_blobs") else { return };
    let path = m.file(m.add_whole("true", &std::fs::read("/bin/true").unwrap()));
    assert!(Command::new(&path).status().unwrap().success());
    let direct = m.add_whole("f", &content(11, 1 << 20));
    let copy = m.files.path().join("copy");
    let (from, to) = (format!("if={}", m.file(direct).display()), format!("of={}", copy.display()));
    let dd = Command::new("dd").args([&from, &to, "bs=64k", "iflag=direct"]).output().unwrap();
    assert!(dd.status.success(), "{}", String::from_utf8_lossy(&dd.stderr));
    assert_eq!(std::fs::read(copy).unwrap(), content(11, 1 << 20));
    assert_eq!(reads(&m), 0);
}

#[test]
fn without_passthrough_the_same_files_are_streamed_and_the_reason_is_told() {
    let test = "without_passthrough_the_same_files_are_streamed_and_the_reason_is_told";
    for (wanted, told) in [
        (Passthrough::Off("for a reason".to_owned()), "for a reason"),
        (Passthrough::Like("/no/such/file".into()), "No such file"),
        // No file system whose files can be read like this; an older kernel takes none, and says so.
        (Passthrough::Like("/proc/self/status".into()), ""),
    ] {
        let options = MountOptions { passthrough: wanted, ..MountOptions::default() };
        let Some(m) = Mounted::with(test, options) else { return };
        let said = m.mount.modes().sentences();
        assert!(said[0].starts_with("no passthrough") && said[0].contains(told), "{said:?}");
        let bytes = content(12, 100_000);
        let path = m.file(m.add_whole("g", &bytes));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert!(reads(&m) > 0);
        let mut byte = [0];
        File::open(&path).unwrap().read_exact_at(&mut byte, 50_000).unwrap();
        assert_eq!((byte[0], reads(&m)), (bytes[50_000], 0), "the kernel kept it");
    }
}

/// Something mounted on a directory; taken off when dropped.
struct Over(std::path::PathBuf);

impl Over {
    fn mount(args: &[&str], at: &std::path::Path) -> Self {
        let mounted = Command::new("mount").args(args).arg(at).output().unwrap();
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        Self(at.to_owned())
    }

    /// An overlayfs with a file, at `merged` in `dir`. `None`, with a word about it, where there is no overlayfs.
    fn mount_overlayfs(test: &str, dir: &std::path::Path) -> Option<Self> {
        for name in ["lower", "upper", "work", "merged"] {
            std::fs::create_dir(dir.join(name)).unwrap();
        }
        std::fs::write(dir.join("lower/file"), "x").unwrap();
        let script = "cd \"$0\" && mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged";
        let mounted = Command::new("sh").args(["-c", script]).arg(dir).output().unwrap();
        if !mounted.status.success() {
            skip_even_in_ci(test, &String::from_utf8_lossy(&mounted.stderr));
            return None;
        }
        Some(Self(dir.join("merged")))
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn overlayfs_on_a_mount_reads_what_comes_to_be_whole_and_what_goes() {
    let test = "overlayfs_on_a_mount_reads_what_comes_to_be_whole_and_what_goes";
    let Some(m) = Mounted::passing_through(test) else { return };
    let dir = tempfile::tempdir().unwrap();
    // Whether there is overlayfs at all is not told by one on a mount of ours, which might be to blame.
    let Some(elsewhere) = Over::mount_overlayfs(test, dir.path()) else { return };
    drop(elsewhere);
    for name in ["on_ours", "work_on_ours"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let place = |name: &str| dir.path().join(name).display().to_string();
    let options =
        format!("lowerdir={},upperdir={},workdir={}", m.by_hash().display(), place("on_ours"), place("work_on_ours"));
    let merged = dir.path().join("merged");
    let over = Over::mount(&["-t", "overlay", "overlay", "-o", &options], &merged);
    let bytes = content(13, 3_000_001);
    let hash = m.source.add_with(bytes.clone(), |blob| blob.state = BlobState::Partial);
    let (path, file) = (merged.join(hash.to_string()), m.beside("h", &bytes));
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "cold");
    m.source.alter(hash, |blob| (blob.state, blob.whole) = (BlobState::Complete, Some(file.clone())));
    m.source.take_calls();
    for _ in 0..2 {
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "whole");
        assert_eq!(std::fs::read(m.file(hash)).unwrap(), bytes);
    }
    assert_eq!(reads(&m), 0, "passed through");
    m.source.alter(hash, |blob| (blob.state, blob.whole) = (BlobState::Absent, None));
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "evicted");
    m.source.alter(hash, |blob| (blob.state, blob.whole) = (BlobState::Complete, Some(file)));
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "and there again");
    drop(over);
}

#[test]
fn a_bind_mount_of_one_file_is_read_whatever_becomes_of_the_blob() {
    let test = "a_bind_mount_of_one_file_is_read_whatever_becomes_of_the_blob";
    let Some(m) = Mounted::passing_through(test) else { return };
    let bytes = content(14, 100_000);
    let hash = m.add_whole("i", &bytes);
    let dir = tempfile::tempdir().unwrap();
    let point = dir.path().join("model.bin");
    std::fs::write(&point, "").unwrap();
    let from = m.file(hash).display().to_string();
    let bound = Over::mount(&["--bind", &from], &point);
    assert_eq!(std::fs::read(&point).unwrap(), bytes, "passed through");
    assert_eq!(reads(&m), 0);
    m.source.alter(hash, |blob| (blob.state, blob.whole) = (BlobState::Absent, None));
    assert_eq!(std::fs::read(&point).unwrap(), bytes, "evicted");
    assert!(reads(&m) > 0);
    let streamed = File::open(&point).unwrap();
    let back = m.beside("i2", &bytes);
    m.source.alter(hash, |blob| (blob.state, blob.whole) = (BlobState::Complete, Some(back)));
    assert_eq!(std::fs::read(&point).unwrap(), bytes, "here again, and open as before");
    drop(streamed);
    m.source.take_calls();
    assert_eq!(std::fs::read(&point).unwrap(), bytes);
    assert_eq!(reads(&m), 0, "passed through again");
    drop(bound);
}

/// overlayfs may lie on a mount of ours; then nothing of it may lie on overlayfs.
#[test]
fn a_cache_on_a_stacked_file_system_is_told_from_other_reasons() {
    let test = "a_cache_on_a_stacked_file_system_is_told_from_other_reasons";
    let dir = tempfile::tempdir().unwrap();
    let Some(over) = Over::mount_overlayfs(test, dir.path()) else { return };
    let options = MountOptions { passthrough: Passthrough::Like(over.0.join("file")), ..MountOptions::default() };
    let Some(said) = Mounted::with(test, options).map(|m| m.mount.modes().sentences()) else { return };
    assert!(said[0].contains("stacked") && said[0].contains("--state"), "{said:?}");
}
