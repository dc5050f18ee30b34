//! Being asked to end.

use std::mem::MaybeUninit;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::CommandError;

/// SIGINT, SIGTERM and SIGHUP, which no longer end the process once they are listened for. SIGINT and SIGHUP are not
/// listened for if they were ignored when the process began, as nohup(1) and shells without job control have it.
pub(super) struct Signals {
    interrupt: Option<Signal>,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    /// Listens from now on. Call it within a runtime.
    pub(super) fn listen() -> Result<Self, CommandError> {
        let listen = |kind| {
            signal(kind).map_err(|error| CommandError::Failed(format!("signals cannot be listened for: {error}")))
        };
        Ok(Self {
            interrupt: (!is_ignored(libc::SIGINT)).then(|| listen(SignalKind::interrupt())).transpose()?,
            terminate: listen(SignalKind::terminate())?,
            hangup: (!is_ignored(libc::SIGHUP)).then(|| listen(SignalKind::hangup())).transpose()?,
        })
    }

    /// Waits for any of them.
    pub(super) async fn any(&mut self) {
        tokio::select! {
            () = received(&mut self.interrupt) => {}
            _ = self.terminate.recv() => {}
            () = received(&mut self.hangup) => {}
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether `signal` is ignored.
fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: nothing is set, and there is room for the answer, which is filled in on success.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Ends when the user or the system asks the process to end; listens from its first poll on.
pub(super) async fn interrupted() -> Result<(), CommandError> {
    Signals::listen()?.any().await;
    Ok(())
}
