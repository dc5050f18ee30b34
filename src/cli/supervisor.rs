//! What a supervisor such as systemd is told (sd_notify(3)): that the node is ready, that it ends, and
//! again and again, if it asks for that, that it lives. Without one, nothing is told to nobody.

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sd_notify::NotifyState;

use super::node::on_own_thread;

/// How often a sign of life is given within the time in which one is expected.
const SIGNS_OF_LIFE: u32 = 3;

/// The node has started.
pub(super) fn tell_ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The node ends.
pub(super) fn tell_stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(what: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(what) {
        tracing::warn!(%error, "the supervisor was not told");
    }
}

/// Gives signs of life as long as the mount at `mount` answers, if there is one; for ever, if they are
/// expected. A mount that hangs thus ends the node, and the supervisor starts it anew.
pub(super) async fn give_signs_of_life(mount: Option<PathBuf>) {
    let Some(expected) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return std::future::pending().await;
    };
    let mut times = tokio::time::interval((expected / SIGNS_OF_LIFE).max(Duration::from_millis(1)));
    loop {
        times.tick().await;
        let asked = mount.clone();
        // On a thread of its own, which is left behind if it hangs: then no sign is given any more.
        let answers = on_own_thread("byhash-watchdog", move || asked.as_deref().is_none_or(answers)).await;
        if answers.unwrap_or(false) {
            tell(&[NotifyState::Watchdog]);
        }
    }
}

/// Whether the mount answers. Statfs always comes to us, and never waits for the network.
fn answers(mount: &Path) -> bool {
    let Ok(path) = CString::new(mount.as_os_str().as_bytes()) else { return false };
    let mut figures = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the path ends in zero, and there is room for the answer, which is not looked at.
    unsafe { libc::statfs(path.as_ptr(), figures.as_mut_ptr()) == 0 }
}
