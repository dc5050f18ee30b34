//! A node whose mount is taken off: it ends by itself, at once or when the last file is closed.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::node::block_on;
use super::status::GOES_ON;
use crate::config::StateDir;
use crate::control::Client;
use crate::daemon::LOCK_WAIT;
use crate::daemon::status::NodeStatus;
use crate::fuse::control_socket;

/// How long a node may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(3);

/// How long it may take a node that has no files open to begin to end.
const FILES_WAIT: Duration = Duration::from_secs(1);

/// How long it may take to end then.
const END_WAIT: Duration = LOCK_WAIT;

/// The node of a mount that is going to be taken off.
pub(super) struct Leaving {
    socket: PathBuf,
    process: u32,
    /// Can be read once the process has ended.
    descriptor: File,
}

impl Leaving {
    /// The node of the mount at `mountpoint`; `None` if it is dead, hangs or cannot be seen from here.
    pub(super) fn of(mountpoint: &Path) -> Option<Self> {
        let socket = control_socket(mountpoint)?;
        let process =
            block_on(async { Ok(Client::connect(&socket).await?.and_then(|node| node.process())) }).ok()??;
        // SAFETY: no pointers are involved.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) };
        let descriptor = i32::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0)?;
        // SAFETY: it was just opened and belongs to nobody else.
        Some(Self { socket, process, descriptor: unsafe { File::from_raw_fd(descriptor) } })
    }

    /// Waits until the node, whose mount has been taken off, has ended; for a bounded time, and not for files that are
    /// open. What there is to say if it has not.
    pub(super) fn wait(&self) -> Option<String> {
        if self.ends_within(FILES_WAIT) {
            return None;
        }
        let status = block_on(async { Ok(status(&self.socket).await) }).ok().flatten();
        if status.is_some_and(|status| status.detached) {
            return Some(format!("{GOES_ON}; kill process {} to break them off", self.process));
        }
        (!self.ends_within(END_WAIT)).then(|| format!("its node, process {}, has not ended yet", self.process))
    }

    fn ends_within(&self, limit: Duration) -> bool {
        let limit = i32::try_from(limit.as_millis()).unwrap_or(i32::MAX);
        let mut poll = libc::pollfd { fd: self.descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure, and it outlives the call.
        unsafe { libc::poll(&raw mut poll, 1, limit) == 1 }
    }
}

/// Where the node on `state` was mounted, if it goes on only for files that are still open.
pub(super) async fn lingering(state: &StateDir) -> Option<PathBuf> {
    let status = status(&state.control_socket()).await.filter(|status| status.detached)?;
    status.mountpoint
}

/// How the node is that takes commands on `socket`, if it answers.
async fn status(socket: &Path) -> Option<NodeStatus> {
    let answer = async { Client::connect(socket).await.ok()??.status().await.ok() };
    tokio::time::timeout(ANSWER_WAIT, answer).await.ok()?
}
