//! What the demo makes and must take away: a directory, processes, a mount.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::failure::{CommandError, complain};
use super::super::node::block_on;
use super::super::output::print;
use super::super::signals::interrupted;

/// How long a process may take to end after it was asked to; then it is killed.
const END_WAIT: Duration = Duration::from_secs(10);
/// How often it is looked at meanwhile.
const END_POLL: Duration = Duration::from_millis(20);
/// Lines of each node's log that are shown after a failure.
const LOG_LINES: usize = 8;

/// Everything that has to go at the end, whichever way the end comes. Dropping it cleans up too.
pub(super) struct Sandbox {
    program: PathBuf,
    dir: PathBuf,
    interrupted: AtomicBool,
    children: Mutex<Children>,
}

/// The processes that run now.
#[derive(Default)]
struct Children {
    running: Vec<Child>,
    /// Cleaning up has begun: nothing may be started any more.
    closed: bool,
}

impl Sandbox {
    /// Makes a fresh directory under the system's temporary directory.
    pub(super) fn new(program: PathBuf) -> Result<Self, CommandError> {
        use std::os::unix::fs::DirBuilderExt;
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|error| CommandError::Failed(format!("no random numbers: {error}")))?;
        let dir = std::env::temp_dir().join(format!("byhash-demo-{:08x}", u32::from_le_bytes(random)));
        std::fs::DirBuilder::new().mode(0o700).create(&dir).map_err(|error| at(&dir, &error))?;
        Ok(Self { program, dir, interrupted: AtomicBool::new(false), children: Mutex::default() })
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the mounted node mounts.
    pub(super) fn mountpoint(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    /// The program with `args`, cut off from the user's settings.
    fn command(&self, args: &[&OsStr]) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"BYHASH_") {
                command.env_remove(name);
            }
        }
        command.env("BYHASH_CONFIG", "/dev/null").args(args).stdin(Stdio::null());
        command
    }

    /// Prints the command, runs it to its end and gives its stdout.
    pub(super) fn run(&self, args: &[&OsStr]) -> Result<String, CommandError> {
        print(&shown(args))?;
        let mut command = self.command(args);
        command.stdout(Stdio::piped());
        let (id, mut stdout) = self.spawn(command)?;
        let mut text = String::new();
        let read = stdout.read_to_string(&mut text);
        let failed = |error: std::io::Error| CommandError::Failed(format!("the command's output: {error}"));
        let status = self.take(id)?.wait().map_err(failed)?;
        if !status.success() {
            return Err(CommandError::Failed(format!(
                "'{}' ended with {status}",
                shown(args).trim_start_matches("$ ").trim_end()
            )));
        }
        read.map(|_| text).map_err(failed)
    }

    /// Prints the command and starts it as a node: stdout piped, stderr to `log`. It is killed
    /// when this process dies, however it dies.
    pub(super) fn start(&self, args: &[&OsStr], log: &Path) -> Result<(u32, ChildStdout), CommandError> {
        use std::os::unix::process::CommandExt;
        print(&shown(args))?;
        let log_file = std::fs::File::create(log).map_err(|error| at(log, &error))?;
        let mut command = self.command(args);
        // A group of its own: Ctrl-C is for the demo, which then ends its nodes in order.
        command.stdout(Stdio::piped()).stderr(log_file).process_group(0);
        // SAFETY: prctl with PR_SET_PDEATHSIG is async-signal-safe and touches no memory.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        self.spawn(command)
    }

    /// Starts `command`, whose stdout is a pipe, as one of the processes that cleaning up ends.
    fn spawn(&self, mut command: Command) -> Result<(u32, ChildStdout), CommandError> {
        let mut children = self.children();
        if children.closed {
            return Err(CommandError::Failed("the demo is being ended".to_owned()));
        }
        let failed = |why: &dyn Display| CommandError::Failed(format!("byhash cannot be started: {why}"));
        let mut child = command.spawn().map_err(|error| failed(&error))?;
        let (id, stdout) = (child.id(), child.stdout.take());
        children.running.push(child);
        Ok((id, stdout.ok_or_else(|| failed(&"its stdout is not a pipe"))?))
    }

    /// Takes the process `id` off the list.
    fn take(&self, id: u32) -> Result<Child, CommandError> {
        let running = &mut self.children().running;
        let at = running.iter().position(|child| child.id() == id);
        let at = at.ok_or_else(|| CommandError::Failed(format!("process {id} has been ended")))?;
        Ok(running.swap_remove(at))
    }

    /// Kills (SIGKILL) the process `id` and waits until it is gone.
    pub(super) fn kill(&self, id: u32) -> Result<(), CommandError> {
        let mut child = self.take(id)?;
        let killed = child.kill().and_then(|()| child.wait());
        killed.map(drop).map_err(|error| CommandError::Failed(format!("process {id} cannot be killed: {error}")))
    }

    /// Cleans up and ends the process when the user or the system asks it to end.
    pub(super) fn clean_up_on_signals(self: &Arc<Self>) -> Result<(), CommandError> {
        let sandbox = self.clone();
        let wait = move || {
            if block_on(interrupted()).is_ok() {
                sandbox.interrupted.store(true, Ordering::SeqCst);
                complain(&"interrupted: cleaning up");
                if let Err(error) = sandbox.clean_up() {
                    complain(&error);
                }
                std::process::exit(i32::from(super::super::FAILED));
            }
        };
        let spawned = std::thread::Builder::new().name("signals".to_owned()).spawn(wait);
        spawned.map(drop).map_err(|error| CommandError::Failed(format!("no thread can be started: {error}")))
    }

    /// Does not return if the process is being ended by a signal: what fails then is no news.
    pub(super) fn wait_if_interrupted(&self) {
        while self.interrupted.load(Ordering::SeqCst) {
            std::thread::park();
        }
    }

    /// Prints the last lines of the nodes' logs to stderr.
    pub(super) fn show_logs(&self) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.extension() == Some("log".as_ref()))
        {
            let text = std::fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().collect();
            complain(&format_args!("the last lines of {}:", path.display()));
            for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
                complain(&format_args!("    {line}"));
            }
        }
    }

    /// Ends the processes, the last started first, then the mount, then removes the directory.
    /// Safe to call again, from any thread.
    pub(super) fn clean_up(&self) -> Result<(), CommandError> {
        let mut children = self.children();
        children.closed = true;
        while let Some(mut child) = children.running.pop() {
            end(&mut child);
        }
        let mountpoint = self.mountpoint();
        let gone = || match std::fs::remove_dir(&mountpoint) {
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
            Ok(()) => true,
        };
        if !gone() {
            // Still a mount, then: its node had no time to unmount.
            let unmount = [OsStr::new("unmount"), mountpoint.as_os_str()];
            let _ = self.command(&unmount).stdout(Stdio::null()).stderr(Stdio::null()).status();
            if !gone() {
                let (mount, dir) = (mountpoint.display(), self.dir.display());
                return Err(CommandError::Failed(format!("{mount} is still mounted: unmount it and remove {dir}")));
            }
        }
        // The story may be making a file there at this moment; it will not make a second one.
        let removed = std::fs::remove_dir_all(&self.dir).or_else(|_| std::fs::remove_dir_all(&self.dir));
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at(&self.dir, &error)),
            _ => Ok(()),
        }
    }

    fn children(&self) -> MutexGuard<'_, Children> {
        // A list of processes is right after any panic.
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.clean_up();
    }
}

/// Asks `child` to end, waits, and kills it if it does not.
fn end(child: &mut Child) {
    // SAFETY: kill has no memory preconditions; the child is not reaped, so the id is its own.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
    let deadline = Instant::now() + END_WAIT;
    while let Ok(None) = child.try_wait() {
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        std::thread::sleep(END_POLL);
    }
}

/// `$ byhash args...` as a shell would take it.
fn shown(args: &[&OsStr]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@[]=+,".contains(c);
    let mut line = "$ byhash".to_owned();
    for arg in args {
        let arg = arg.to_string_lossy();
        line.push(' ');
        if !arg.is_empty() && arg.chars().all(plain) {
            line.push_str(&arg);
        } else {
            line.push_str(&format!("'{}'", arg.replace('\'', "'\\''")));
        }
    }
    line.push('\n');
    line
}

/// `error`, and the path it is about.
pub(super) fn at(path: &Path, error: &std::io::Error) -> CommandError {
    CommandError::Failed(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_a_shell_takes_them() {
        let args = ["add", "--state", "/tmp/x", "it's", ""].map(OsStr::new);
        assert_eq!(shown(&args), "$ byhash add --state /tmp/x 'it'\\''s' ''\n");
    }

    #[test]
    fn nothing_is_left_even_of_a_process_that_is_still_running() {
        let sandbox = Sandbox::new("/bin/sleep".into()).unwrap();
        let dir = sandbox.dir().to_owned();
        std::fs::create_dir(sandbox.mountpoint()).unwrap();
        let (id, _stdout) = sandbox.start(&[OsStr::new("1000")], &dir.join("a.log")).unwrap();
        assert!(Path::new(&format!("/proc/{id}")).exists());
        drop(sandbox);
        assert!(!Path::new(&format!("/proc/{id}")).exists());
        assert!(!dir.exists());
    }
}
