//! Being asked to end.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::CommandError;

/// SIGINT, SIGTERM and SIGHUP, which no longer end the process once they are listened for.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Listens from now on. Call it within a runtime.
    pub(super) fn listen() -> Result<Self, CommandError> {
        let listen = |kind| {
            signal(kind).map_err(|error| CommandError::Failed(format!("signals cannot be listened for: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for any of them.
    pub(super) async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Ends when the user or the system asks the process to end; listens from its first poll on.
pub(super) async fn interrupted() -> Result<(), CommandError> {
    Signals::listen()?.any().await;
    Ok(())
}
