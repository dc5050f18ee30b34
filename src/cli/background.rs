//! Leaving a node in the background: the program starts itself anew and waits until that process is ready, which then
//! leaves for a session of its own. Forking would be simpler to say but not to do: threads do not survive it.

use std::ffi::OsString;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::FAILED;
use super::failure::CommandError;
use super::log_file;
use super::node::block_on;
use super::output::print;
use super::signals::Signals;
use crate::config::StateDir;

/// The hidden flag of the process in the background.
pub(super) const DETACHED: &str = "detached";

/// Starts the process's own command line again in the background, and passes its `ready` line
/// on, or its failure.
pub(super) fn start(state: &StateDir) -> Result<(), CommandError> {
    state.create()?;
    let path = state.log();
    let log_failed = |error| {
        let path = path.display();
        CommandError::Failed(format!("the log {path} cannot be written: {error} (--foreground logs to stderr)"))
    };
    let mut log = log_file::open(&path).map_err(log_failed)?;
    let begin = log.metadata().map_err(log_failed)?.len();
    let program = std::env::current_exe()
        .map_err(|error| CommandError::Failed(format!("the program's own file cannot be found: {error}")))?;
    let mut command = Command::new(program);
    command.args(detached(std::env::args_os().skip(1))).stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(log.try_clone().map_err(log_failed)?);
    let line = block_on(first_line(command))?;
    match line {
        Ok(ready) => print(&ready),
        Err(status) => {
            log.seek(SeekFrom::Start(begin)).map_err(log_failed)?;
            let mut text = Vec::new();
            log.read_to_end(&mut text).map_err(log_failed)?;
            Err(failure(status, &String::from_utf8_lossy(&text), &path.display().to_string()))
        }
    }
}

/// Leaves the session of whoever started the process, whose end is its end no longer. Not before it is mounted: to an
/// automount point that is being mounted on, only the process group of who does it has access.
pub(super) fn leave_session() {
    // SAFETY: setsid has no preconditions.
    if unsafe { libc::setsid() } < 0 {
        tracing::debug!("it leads a process group of its own already");
    }
}

/// `arguments` with the hidden flag behind the word `mount`. Only flags without a value may
/// precede a command, so the first such word is the command.
fn detached(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut all: Vec<_> = arguments.collect();
    let at = all.iter().position(|word| word == "mount").map_or(0, |at| at + 1);
    all.insert(at, format!("--{DETACHED}").into());
    all
}

/// The `ready` line of the process that `command` starts, or how the process ended without one.
async fn first_line(mut command: Command) -> Result<Result<String, ExitStatus>, CommandError> {
    let failed = |error| CommandError::Failed(format!("the background process cannot be started: {error}"));
    // Listened for before there is a process that would be left behind.
    let mut signals = Signals::listen()?;
    let mut child = command.spawn().map_err(failed)?;
    let Some(stdout) = child.stdout.take() else { unreachable!("stdout was asked to be a pipe") };
    let mut stdout = BufReader::new(stdout);
    let mut line = String::new();
    tokio::select! {
        read = stdout.read_line(&mut line) => { read.map_err(failed)?; }
        () = signals.any() => {
            if let Some(pid) = child.id() {
                // SAFETY: kill has no memory preconditions; the child is not reaped, so the id is its own.
                unsafe { libc::kill(pid.cast_signed(), libc::SIGTERM) };
            }
            tokio::select! {
                ended = child.wait() => { ended.map_err(failed)?; }
                () = signals.any() => {}
            }
            return Err(CommandError::Failed("interrupted before the node was ready".to_owned()));
        }
    }
    if line.starts_with("ready ") { Ok(Ok(line)) } else { Ok(Err(child.wait().await.map_err(failed)?)) }
}

/// What to say of a node that ended before it was ready: its own last sentence and exit code.
fn failure(status: ExitStatus, log: &str, path: &str) -> CommandError {
    let sentence = log.lines().rev().find_map(|line| line.strip_prefix("byhash: "));
    let message = match (sentence, status.signal()) {
        (Some(sentence), None) => sentence.to_owned(),
        (_, Some(signal)) => format!("the node was ended by signal {signal} before it was ready; see {path}"),
        (None, None) => format!("the node ended before it was ready; see {path}"),
    };
    let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(FAILED);
    CommandError::Child { message, code }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hidden_flag_follows_the_command_and_nothing_is_lost() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(detached(words("-v mount -- mount").into_iter()), words("-v mount --detached -- mount"));
        assert_eq!(detached(words("mount /m --open").into_iter()), words("mount --detached /m --open"));
    }

    #[test]
    fn the_nodes_own_sentence_and_code_are_passed_on() {
        let log = "INFO x\nbyhash: first\nbyhash: the last\nINFO y\n";
        let exited = |code: i32| ExitStatus::from_raw(code << 8);
        let CommandError::Child { message, code } = failure(exited(2), log, "/log") else { panic!() };
        assert_eq!((message.as_str(), code), ("the last", 2));
        let CommandError::Child { message, code } = failure(exited(0), "", "/log") else { panic!() };
        assert!(message.contains("/log"));
        assert_eq!(code, FAILED);
        let CommandError::Child { message, code } = failure(ExitStatus::from_raw(9), log, "/log") else { panic!() };
        assert!(message.contains("signal 9"));
        assert_eq!(code, FAILED);
    }
}
