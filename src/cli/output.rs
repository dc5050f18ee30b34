//! Writing to stdout, whose reader may have gone.

use std::io::Write;

use super::failure::CommandError;

/// Writes `text` to stdout and flushes it.
pub(super) fn print(text: &str) -> Result<(), CommandError> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(stdout_error)
}

/// Writes `value` to stdout as indented JSON.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), CommandError> {
    let json = serde_json::to_string_pretty(value).map_err(|error| CommandError::Failed(error.to_string()))?;
    print(&format!("{json}\n"))
}

/// What a failed write to stdout means.
pub(super) fn stdout_error(error: std::io::Error) -> CommandError {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => CommandError::StdoutClosed,
        _ => CommandError::Failed(format!("stdout cannot be written: {error}")),
    }
}
