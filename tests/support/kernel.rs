//! What the kernel here can do, told without asking byhash.

use std::path::Path;

use super::skip::{skip, skip_even_in_ci};

/// The type of overlayfs in statfs(2), from linux/magic.h.
const OVERLAYFS: u64 = 0x794c_7630;

/// Says that `test` is skipped since nothing is passed through, for the reason that byhash gives. With CI set that is a
/// failure where this kernel could: it is 6.9 or newer, this is root outside of user namespaces, and `dir` lies on no
/// stacked file system.
pub fn skip_without_passthrough(test: &str, dir: &Path, reason: &str) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let is_new = (numbers.next(), numbers.next()) >= (Some(6), Some(9));
    // SAFETY: this call has no preconditions and cannot fail.
    let is_root = unsafe { libc::geteuid() } == 0;
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    let is_outside = map.split_whitespace().collect::<Vec<_>>() == ["0", "0", "4294967295"];
    let can = is_new && is_root && is_outside && !is_stacked(dir);
    let say = if can { skip } else { skip_even_in_ci };
    say(test, reason);
}

fn is_stacked(dir: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(dir.as_os_str().as_bytes()).unwrap();
    let mut figures = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the path ends in zero, and there is room for the answer, which is filled in on success.
    unsafe {
        assert_eq!(libc::statfs(path.as_ptr(), figures.as_mut_ptr()), 0);
        figures.assume_init().f_type as u64 == OVERLAYFS
    }
}
