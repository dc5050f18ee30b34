//! Passthrough: content files that the kernel reads without us.
//!
//! The kernel wants one backing file for all opens of a node. So each node that is passed through has one
//! [`BackingId`] at most, made for its first open and given up with its last.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::Arc;

use fuser::{BackingId, FileHandle, FopenFlags, ReplyOpen};
use parking_lot::Mutex;

use crate::fs::Ino;
use crate::transfer::WholeFile;

/// `FUSE_DEV_IOC_BACKING_CLOSE` of linux/fuse.h: `_IOW(229, 2, uint32_t)`. fuser has it for the ids of
/// its replies only.
const BACKING_CLOSE: libc::Ioctl = 0x4004_e502;

/// Whether whole blobs are to be passed through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passthrough {
    /// Yes, if the kernel takes files like this one, which lies where the blobs lie.
    Like(PathBuf),
    /// No, for a reason that completes the sentence "no passthrough: ...".
    Off(String),
}

/// Why there is no passthrough.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPassthrough {
    /// It is not wanted.
    #[error("{0}")]
    Off(String),
    /// The kernel did not offer it.
    #[error("this kernel has none (Linux 6.9 and newer have)")]
    Kernel,
    /// The kernel allows it to the administrator of the machine only.
    #[error("it needs root, outside of user namespaces (CAP_SYS_ADMIN)")]
    Privilege,
    /// The cache's file system has another below it.
    #[error("the cache lies on a stacked file system such as overlayfs; give --state a directory on a plain one")]
    Stacked,
    /// Something else.
    #[error("the kernel does not take the cache's files: {0}")]
    Other(String),
}

impl From<io::Error> for NoPassthrough {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Privilege,
            Some(libc::ELOOP) => Self::Stacked,
            Some(libc::ENOTTY | libc::ENOSYS) => Self::Kernel,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// Asks the kernel at the other end of `device` whether it takes `file`.
pub(super) fn try_with(device: impl AsFd, file: &File) -> Result<(), NoPassthrough> {
    let id = BackingId::create_raw(&device, file)?;
    // SAFETY: the descriptor is open while it is borrowed, and the call reads one u32.
    if unsafe { libc::ioctl(device.as_fd().as_raw_fd(), BACKING_CLOSE, &raw const id) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(())
}

/// Why an open could not be passed through. The reply is still to be given.
#[derive(Debug)]
pub(super) enum Refused {
    /// Other opens of the node have another file.
    OtherFile(ReplyOpen),
    /// The kernel did not take the file.
    Kernel(ReplyOpen, io::Error),
}

struct Backing {
    id: Arc<BackingId>,
    /// Device and inode number of the file.
    file: (u64, u64),
    opens: u64,
}

/// The nodes that are passed through now.
#[derive(Default)]
pub(super) struct Backings {
    open: Mutex<HashMap<Ino, Backing>>,
}

impl Backings {
    /// Answers an open of `node`, which was given `handle`, by passing it through to `file`.
    pub fn open(&self, node: Ino, handle: u64, file: &WholeFile, reply: ReplyOpen) -> Result<(), Refused> {
        let id = match self.id(node, file, &reply) {
            Ok(Some(id)) => id,
            Ok(None) => return Err(Refused::OtherFile(reply)),
            Err(error) => return Err(Refused::Kernel(reply, error)),
        };
        // The release that gives the id up comes after this reply.
        reply.opened_passthrough(FileHandle(handle), FopenFlags::FOPEN_NOFLUSH, &id);
        Ok(())
    }

    /// The id of `file` for one more open of `node`; `None` if others have the node open with another.
    fn id(&self, node: Ino, whole: &WholeFile, reply: &ReplyOpen) -> io::Result<Option<Arc<BackingId>>> {
        let mut open = self.open.lock();
        if let Some(backing) = open.get_mut(&node) {
            if backing.file != whole.identity {
                return Ok(None);
            }
            backing.opens += 1;
            return Ok(Some(backing.id.clone()));
        }
        let id = Arc::new(reply.open_backing(&*whole.file)?);
        open.insert(node, Backing { id: id.clone(), file: whole.identity, opens: 1 });
        Ok(Some(id))
    }

    /// An open of `node` is closed.
    pub fn release(&self, node: Ino) {
        let mut open = self.open.lock();
        if let Some(backing) = open.get_mut(&node) {
            backing.opens -= 1;
            if backing.opens == 0 {
                open.remove(&node);
            }
        }
    }

    /// The kernel is gone.
    pub fn clear(&self) {
        self.open.lock().clear();
    }
}
