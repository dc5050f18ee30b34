//! Why mounting or unmounting failed, each with the way out.

use std::io;
use std::path::PathBuf;

/// Why mounting or unmounting failed. The messages are whole sentences for people.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// No such directory.
    #[error("the mount point '{}' does not exist; make it first: mkdir -p '{}'", .0.display(), .0.display())]
    Missing(PathBuf),
    /// Something else than a directory.
    #[error("the mount point '{}' is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// Something lives there.
    #[error("'{}' is a mount point already ({kind}); unmount it first or choose another directory", .path.display())]
    InUse {
        /// The mount point.
        path: PathBuf,
        /// The type of what is mounted.
        kind: String,
    },
    /// The mount would hide what its own node needs: the node would then wait for itself.
    #[error(
        "the mount point '{}' would hide '{}', which the node itself needs, and hang: \
         choose another mount point, or another place for that",
        .path.display(), .needed.display()
    )]
    Hides {
        /// The mount point.
        path: PathBuf,
        /// What lies there or below.
        needed: PathBuf,
    },
    /// The mount point cannot be looked at.
    #[error("the mount point '{}' cannot be examined: {source}", .path.display())]
    Inspect {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel has no FUSE, or a container hides it.
    #[error(
        "{device} cannot be opened: {source}; load FUSE with 'modprobe fuse', \
         or give the container '--device {device} --cap-add SYS_ADMIN'"
    )]
    NoDevice {
        /// The device file.
        device: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Neither the privilege nor the helper.
    #[error("mounting needs root or the program fusermount3: run as root, or install it ('apt install fuse3')")]
    NoPrivilege,
    /// A user may not open his mount to others.
    #[error(
        "--allow-other is for root only here: root may allow it to everybody by the line \
         'user_allow_other' in {conf}; or leave --allow-other out"
    )]
    NotForOthers {
        /// The helper's settings.
        conf: &'static str,
    },
    /// The kernel refused.
    #[error("the kernel did not mount at '{}': {source}", .path.display())]
    Kernel {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// fusermount3 refused.
    #[error("fusermount3 failed at '{}': {message}", .path.display())]
    Helper {
        /// The mount point.
        path: PathBuf,
        /// What it said.
        message: String,
    },
    /// The kernel and we did not come to talk.
    #[error("the FUSE session at '{}' did not start: {source}", .path.display())]
    Session {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing to unmount.
    #[error("nothing is mounted at '{}'", .0.display())]
    NotMounted(PathBuf),
    /// Somebody else's mount.
    #[error("what is mounted at '{}' is not byhash but {kind}", .path.display())]
    NotOurs {
        /// The mount point.
        path: PathBuf,
        /// The type of what is mounted.
        kind: String,
    },
    /// The kernel did not unmount.
    #[error("'{}' could not be unmounted: {source}", .path.display())]
    Detach {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
