//! Programs of the system, and mounts that end with the process behind them.

use std::ffi::CString;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub use crate::support::running::{Running, printed as output};

/// Where daemons are, if not on the path of who runs this.
const SBIN: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// The file of `program`, if it is installed.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(SBIN.map(PathBuf::from));
    dirs.map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Those of `programs` that are not installed.
pub fn missing(programs: &[&'static str]) -> Vec<&'static str> {
    programs.iter().copied().filter(|program| find(program).is_none()).collect()
}

/// A command for a program that is installed.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(find(name).unwrap_or_else(|| panic!("{name} is not installed")));
    command.stdin(Stdio::null());
    command
}

/// The first line of what a command says of itself, on whichever side.
pub fn first_line(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).lines().next().unwrap_or_default().trim().to_owned()
}

/// A port of this machine that is free now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Whether something listens there.
pub fn listens(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}

/// Whether something is mounted at `dir`.
pub fn is_mounted(dir: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).any(|point| Path::new(point) == dir)
}

/// A mount, and the process behind it: both end when this is dropped.
pub struct MountPoint {
    /// Where it is.
    pub dir: PathBuf,
    _process: Running,
}

impl MountPoint {
    /// Makes `dir`, starts what mounts there and waits until it has.
    pub fn start(dir: PathBuf, what: &str, command: impl FnOnce(&Path) -> Command) -> Self {
        std::fs::create_dir(&dir).unwrap();
        let log = dir.with_extension("log");
        let mut command = command(&dir);
        command.stdout(Stdio::null());
        let process = Running::start(&mut command, &log).wait_until(what, || is_mounted(&dir));
        Self { dir, _process: process }
    }
}

impl Drop for MountPoint {
    fn drop(&mut self) {
        let path = CString::new(self.dir.as_os_str().as_encoded_bytes()).unwrap();
        // SAFETY: the pointer is to a string that ends in zero and outlives the call.
        let done = unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) } == 0;
        if !done && is_mounted(&self.dir) {
            let _ = Command::new("fusermount3").arg("-uz").arg(&self.dir).status();
        }
    }
}
