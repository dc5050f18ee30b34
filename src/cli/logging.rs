//! Where log lines go and which of them.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::failure::CommandError;

/// Starts logging to stderr. A node tells what it does; other commands only warn.
pub(super) fn start(verbose: u8, runs_a_node: bool) -> Result<(), CommandError> {
    let set = ["BYHASH_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()).map(|value| (name, value)));
    let filter = match (verbose, set) {
        (0, Some((name, value))) => EnvFilter::try_new(&value)
            .map_err(|error| CommandError::Misused(format!("{name}: '{value}' is not a log filter: {error}")))?,
        (0, None) if runs_a_node => EnvFilter::new("info,fuser=off"),
        (0, None) => EnvFilter::new("warn,fuser=off"),
        (1, _) => EnvFilter::new("info,byhash=debug,fuser=off"),
        (_, _) => EnvFilter::new("debug,byhash=trace,fuser=off"),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // It would say on stderr that it cannot write to stderr, and panic when it cannot say that: a full disk or a closed
        // pipe would end a node.
        .log_internal_errors(false)
        .try_init()
        .map_err(|error| CommandError::Failed(format!("logging cannot start: {error}")))
}
