//! Processes that end with the bench, and mounts that go with them.

use std::ffi::CString;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(30);

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

/// What a command printed that ended well.
pub fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
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

/// A process that runs until this is dropped, or the bench ends.
pub struct Running(Child);

impl Running {
    /// Starts it; what it says on stderr goes to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stderr(log);
        // SAFETY: prctl with these arguments is safe to call between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            })
        };
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// The first line that it prints.
    pub fn first_line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Waits until `ready`, as long as it runs.
    pub fn wait_until(mut self, what: &str, ready: impl Fn() -> bool) -> Self {
        let start = Instant::now();
        while !ready() {
            assert!(start.elapsed() < PATIENCE, "{what} was not ready in time");
            if let Some(status) = self.0.try_wait().unwrap() {
                panic!("{what} ended before it was ready: {status}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SAFETY: kill has no memory preconditions; the child is not reaped, so the id is its own.
        unsafe { libc::kill(self.0.id().cast_signed(), libc::SIGTERM) };
        let start = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) {
            if start.elapsed() > PATIENCE {
                let _ = self.0.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
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
    pub process: Running,
}

impl MountPoint {
    /// Makes `dir`, starts what mounts there and waits until it has.
    pub fn start(dir: PathBuf, what: &str, command: impl FnOnce(&Path) -> Command) -> Self {
        std::fs::create_dir(&dir).unwrap();
        let log = dir.with_extension("log");
        let mut command = command(&dir);
        command.stdout(Stdio::piped());
        let process = Running::start(&mut command, &log).wait_until(what, || is_mounted(&dir));
        Self { dir, process }
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
