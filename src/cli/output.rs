//! Writing to stdout, whose reader may have gone.

use std::io::Write;

use super::failure::CommandError;

/// Writes `text` to stdout and flushes it.
pub(super) fn print(text: &str) -> Result<(), CommandError> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(stdout_error)
}

/// The output of a command whose work goes on when nobody reads it any more.
#[derive(Debug, Default)]
pub(super) struct Output {
    failed: Option<CommandError>,
}

impl Output {
    /// Writes `text` to stdout, unless that has failed before.
    pub(super) fn print(&mut self, text: &str) {
        if self.failed.is_none() {
            self.failed = print(text).err();
        }
    }

    /// What is to be said in the end: that the work was `done` badly, or that the output could not be written.
    pub(super) fn conclude(self, done: Result<(), CommandError>) -> Result<(), CommandError> {
        done.and(self.failed.map_or(Ok(()), Err))
    }
}

/// Writes `value` to stdout as indented JSON.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), CommandError> {
    print(&json(value)?)
}

/// `value` as indented JSON, with a newline at the end.
pub(super) fn json(value: &impl serde::Serialize) -> Result<String, CommandError> {
    let json = serde_json::to_string_pretty(value).map_err(|error| CommandError::Failed(error.to_string()))?;
    Ok(json + "\n")
}

/// What a failed write to stdout means.
pub(super) fn stdout_error(error: std::io::Error) -> CommandError {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => CommandError::StdoutClosed,
        _ => CommandError::Failed(format!("stdout cannot be written: {error}")),
    }
}
