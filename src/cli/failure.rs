//! How commands fail: one sentence on stderr and an exit code.

use std::process::ExitCode;

use super::{DONE, FAILED, MISUSED};
use crate::config::ConfigError;
use crate::control::ControlError;
use crate::ids::ParseIdError;

/// Why a command did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// The user's words are at fault.
    #[error("{0}")]
    Misused(String),
    /// Anything else that ends the command.
    #[error("{0}")]
    Failed(String),
    /// It failed with the sentence and exit code of a child process.
    #[error("{message}")]
    Child {
        /// The child's own sentence.
        message: String,
        /// The child's exit code.
        code: u8,
    },
    /// It failed, and each failure has been said already.
    #[error("some of it failed")]
    AlreadySaid,
    /// Whoever read stdout has gone, as `head` does; nobody is left who would want more.
    #[error("stdout is closed")]
    StdoutClosed,
}

impl CommandError {
    /// Says what there is to say and gives the exit code.
    pub(super) fn report(&self) -> ExitCode {
        let code = match self {
            Self::Misused(_) => MISUSED,
            Self::Failed(_) => FAILED,
            Self::Child { code, .. } => *code,
            Self::AlreadySaid => return ExitCode::from(FAILED),
            Self::StdoutClosed => return ExitCode::from(DONE),
        };
        complain(self);
        ExitCode::from(code)
    }
}

/// Prints `byhash: <sentence>` to stderr.
pub(super) fn complain(sentence: &dyn std::fmt::Display) {
    use std::io::Write;
    // Nobody can be told that stderr is gone.
    let _ = writeln!(std::io::stderr(), "byhash: {sentence}");
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        if error.is_misuse() { Self::Misused(error.to_string()) } else { Self::Failed(error.to_string()) }
    }
}

impl From<ControlError> for CommandError {
    fn from(error: ControlError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<ParseIdError> for CommandError {
    fn from(error: ParseIdError) -> Self {
        Self::Misused(error.to_string())
    }
}
