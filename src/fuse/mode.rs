//! How a mount runs: what was asked for, and what the kernel grants.

use parking_lot::Mutex;

use super::backing::NoPassthrough;

/// Why there is no passthrough, or that there is.
pub(super) type PassthroughMode = Result<(), NoPassthrough>;

/// The modes of a mount, as its log and `byhash status` tell them. The only one that can change
/// while it is mounted is passthrough, which can end.
#[derive(Debug)]
pub struct MountModes {
    passthrough: Mutex<PassthroughMode>,
    /// Set by the event loops' first answer to the kernel.
    offered: Mutex<bool>,
    /// What came of raising the kernel's read-ahead.
    window: Mutex<String>,
    threads: usize,
    /// Every read comes to us, past the kernel's cache.
    direct: bool,
    hydrates: bool,
}

impl MountModes {
    pub(super) fn new(threads: usize, direct: bool, hydrates: bool) -> Self {
        let not_yet = NoPassthrough::Off("not mounted yet".to_owned());
        Self {
            passthrough: Mutex::new(Err(not_yet)),
            offered: Mutex::new(false),
            window: Mutex::default(),
            threads,
            direct,
            hydrates,
        }
    }

    pub(super) fn note_offered(&self, offered: bool) {
        *self.offered.lock() = offered;
    }

    pub(super) fn is_offered(&self) -> bool {
        *self.offered.lock()
    }

    /// Whether every read comes to us, past the kernel's cache.
    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    pub(super) fn note_passthrough(&self, mode: PassthroughMode) {
        *self.passthrough.lock() = mode;
    }

    pub(super) fn note_window(&self, window: String) {
        *self.window.lock() = window;
    }

    /// A sentence each, for people.
    pub fn sentences(&self) -> Vec<String> {
        let mut sentences = vec![match &*self.passthrough.lock() {
            Ok(()) => "passthrough: the kernel reads whole blobs from the cache's files by itself".to_owned(),
            Err(why) => format!("no passthrough, reads come to the node: {why}"),
        }];
        sentences.push(match self.direct {
            true => "the kernel keeps nothing that was read: every read is checked here".to_owned(),
            false => self.window.lock().clone(),
        });
        sentences.push(format!("{} threads answer the kernel", self.threads));
        if self.hydrates {
            sentences.push("an open fetches the whole blob first (--hydrate)".to_owned());
        }
        sentences
    }
}
