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
    let answers = move || mount.as_deref().is_none_or(answers);
    give_signs(expected, answers, || tell(&[NotifyState::Watchdog])).await;
}

/// Gives a `sign` whenever one is due and the node `answers`, for ever.
async fn give_signs(expected: Duration, answers: impl Fn() -> bool + Clone + Send + 'static, sign: impl Fn()) {
    let mut times = tokio::time::interval((expected / SIGNS_OF_LIFE).max(Duration::from_millis(1)));
    loop {
        times.tick().await;
        // On a thread of its own, which is left behind if it hangs: then no sign is given any more.
        if on_own_thread("byhash-watchdog", answers.clone()).await.unwrap_or(false) {
            sign();
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use tokio::sync::mpsc::unbounded_channel;
    use tokio::time::timeout;

    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    enum Event {
        Asked,
        Sign,
    }

    #[tokio::test(start_paused = true)]
    async fn no_sign_is_given_while_the_mount_answers_with_an_error_and_none_once_it_hangs() {
        let (happens, mut events) = unbounded_channel();
        let (answer, to_give) = mpsc::channel();
        let to_give = Arc::new(Mutex::new(to_give));
        let asked = happens.clone();
        // It hangs as long as the test gives no answer.
        let answers = move || asked.send(Event::Asked).is_ok() && to_give.lock().unwrap().recv().unwrap_or(false);
        let signs = give_signs(Duration::from_secs(30), answers, move || happens.send(Event::Sign).unwrap());
        let run = async {
            for is_well in [true, true, false, false, true] {
                assert_eq!(events.recv().await, Some(Event::Asked));
                answer.send(is_well).unwrap();
                if is_well {
                    assert_eq!(events.recv().await, Some(Event::Sign));
                }
            }
            assert_eq!(events.recv().await, Some(Event::Asked));
            let more = timeout(Duration::from_secs(24 * 3600), events.recv()).await;
            assert!(more.is_err(), "{more:?} although it hangs");
        };
        tokio::select! { () = signs => {}, () = run => {} }
    }

    #[test]
    fn a_mount_answers_that_can_be_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        assert!(answers(dir.path()));
        assert!(!answers(&dir.path().join("none")));
    }
}
