//! A mount point at which something waits to mount there, as systemd does for `x-systemd.automount`: autofs, which holds
//! whoever asks for anything below, but for the process group of who mounts.

use std::ffi::CString;
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::content::{MIB, content, hash_of};
use super::node::{Sandbox, fuse_is_here, stdout};
use super::skip::skip;

/// `_IO(0x93, 0x60)` of linux/auto_fs.h: what was asked for is mounted.
const AUTOFS_IOC_READY: libc::c_ulong = 0x9360;

/// `_IO(0x93, 0x62)`: nobody will mount here any more.
const AUTOFS_IOC_CATATONIC: libc::c_ulong = 0x9362;

/// Where the token is in the kernel's packet, behind the version and the type.
const TOKEN: std::ops::Range<usize> = 8..12;

/// An automount point that this process group serves as long as this lives. It is taken off with the sandbox.
struct Automount {
    directory: File,
    asked: PipeReader,
    _kernels: PipeWriter,
}

impl Automount {
    fn new(dir: &Path) -> std::io::Result<Self> {
        let (asked, kernels) = std::io::pipe()?;
        // SAFETY: getpgrp has no preconditions.
        let group = unsafe { libc::getpgrp() };
        let options = format!("fd={},pgrp={group},minproto=5,maxproto=5,direct", kernels.as_raw_fd());
        let [path, options] = [dir.as_os_str().as_bytes(), options.as_bytes()].map(|text| CString::new(text).unwrap());
        // SAFETY: all pointers are to strings that end in zero and outlive the call.
        let mounted =
            unsafe { libc::mount(c"test".as_ptr(), path.as_ptr(), c"autofs".as_ptr(), 0, options.as_ptr().cast()) };
        if mounted != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(Self { directory: File::open(dir)?, asked, _kernels: kernels })
    }

    /// Waits until somebody asks for something below, and gives the token of that.
    fn asked(&mut self) -> u32 {
        let mut packet = [0; 512];
        let len = self.asked.read(&mut packet).unwrap();
        assert!(len >= TOKEN.end, "a packet of {len} bytes");
        u32::from_ne_bytes(packet[TOKEN].try_into().unwrap())
    }

    /// What was asked for is there.
    fn ready(&self, token: u32) {
        // SAFETY: the request takes a number, and the descriptor is open.
        let told = unsafe { libc::ioctl(self.directory.as_raw_fd(), AUTOFS_IOC_READY, libc::c_ulong::from(token)) };
        assert_eq!(told, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for Automount {
    /// Lets go of those who still wait.
    fn drop(&mut self) {
        // SAFETY: the request takes nothing, and the descriptor is open.
        unsafe { libc::ioctl(self.directory.as_raw_fd(), AUTOFS_IOC_CATATONIC, 0) };
    }
}

#[test]
fn who_looks_below_an_automount_point_finds_what_is_mounted_for_him() {
    let test = "who_looks_below_an_automount_point_finds_what_is_mounted_for_him";
    if !fuse_is_here(test) {
        return;
    }
    let sandbox = Sandbox::new();
    let bytes = content(130, 3 * MIB + 1);
    let holder = sandbox.holder("a", &[&bytes]);
    let seat = sandbox.seat("b");
    let mut automount = match Automount::new(&seat.mount_point) {
        Ok(automount) => automount,
        Err(error) => return skip(test, &format!("autofs cannot be mounted: {error}")),
    };
    let file = seat.mount_point.join("by-hash").join(hash_of(&bytes));
    let cat = Command::new("cat").arg(file).process_group(0).stdout(Stdio::piped()).spawn().unwrap();
    let token = automount.asked();

    // As the helper of mount(8) does, in the process group of the test, with a limit.
    let node = seat.command(["mount"]);
    let mut mount = Command::new("timeout");
    mount.args(["--foreground", "60"]).arg(node.get_program()).args(node.get_args()).arg(&seat.mount_point);
    mount.args(["--open", "--listen", "127.0.0.1:0", "--peer", &holder.peer]);
    mount.envs(node.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mounted = mount.output().unwrap();
    automount.ready(token);
    assert!(stdout(&mounted).starts_with("ready "));
    let read = cat.wait_with_output().unwrap();
    assert!(read.status.success() && read.stdout == bytes);

    stdout(&seat.run([Path::new("unmount"), &seat.mount_point]));
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let kinds = table.lines().filter(|line| line.split(' ').nth(4) == seat.mount_point.to_str());
    let kinds: Vec<_> = kinds.filter_map(|line| line.split(" - ").nth(1)?.split(' ').next()).collect();
    assert_eq!(kinds, ["autofs"], "and then it waits again");
}
