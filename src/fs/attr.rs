//! What `stat` shows. Nothing of it ever changes.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Filesystem, FsError, Ino};
use crate::ids::ContentHash;
use crate::transfer::FetchError;

/// Permission bits of everything: readable and executable by all, so that programs run from here.
pub const MODE: u16 = 0o555;

/// All times of everything, since the Unix epoch: 2000-01-01 00:00 UTC. Content has no date, so
/// this is a constant; not the epoch, because ZIP cannot say years before 1980 and Python's
/// `zipfile` refuses such files.
pub const MTIME: Duration = Duration::from_secs(946_684_800);

/// `st_blksize` in bytes: a page, so that a random read takes no more than it needs.
pub const BLOCK_SIZE: u32 = 4096;

/// The unit of `st_blocks` in bytes, as stat(2) has it.
const STAT_BLOCK: u64 = 512;

/// How long the kernel may believe attributes: about a year, for they never change.
pub const ATTR_TTL: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Whose files they are: the user who mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Owner {
    /// The user that this process runs as.
    pub fn of_process() -> Self {
        // SAFETY: these calls have no preconditions and cannot fail.
        unsafe { Self { uid: libc::geteuid(), gid: libc::getegid() } }
    }
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The root or `by-hash`.
    Directory,
    /// A blob.
    File,
}

/// The attributes of an inode that are not the same for all (see [`MODE`], [`MTIME`],
/// [`BLOCK_SIZE`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// The inode number.
    pub ino: Ino,
    /// Directory or file.
    pub kind: Kind,
    /// Size in bytes, proven; 0 while it is not known.
    pub size: u64,
    /// Size in units of 512 bytes, rounded up.
    pub blocks: u64,
    /// Number of links: 1, directories 2.
    pub nlink: u32,
    /// Whose it is.
    pub owner: Owner,
}

impl Attr {
    /// A file of `size` bytes.
    pub(super) fn file(ino: Ino, size: u64, owner: Owner) -> Self {
        Self { ino, kind: Kind::File, size, blocks: size.div_ceil(STAT_BLOCK), nlink: 1, owner }
    }

    /// A directory.
    pub(super) fn directory(ino: Ino, owner: Owner) -> Self {
        Self { ino, kind: Kind::Directory, size: 0, blocks: 0, nlink: 2, owner }
    }
}

/// Attributes that are known, or that peers have to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttrStep {
    /// From memory.
    Done(Attr),
    /// Give this to [`Filesystem::ask_attr`], away from the event loop.
    Ask(ContentHash),
}

impl Filesystem {
    /// What `stat` shows of `ino`, without waiting; for both nodes of a blob the same. [`FsError::Stale`] if
    /// the kernel forgot it.
    pub fn attr(&self, ino: Ino) -> Result<AttrStep, FsError> {
        if matches!(ino, Ino::ROOT | Ino::BY_HASH) {
            return Ok(AttrStep::Done(Attr::directory(ino, self.owner)));
        }
        let blob = self.inodes.lock().blob(ino).ok_or(FsError::Stale)?;
        let size = blob.size.or_else(|| self.source.known_size(&blob.hash));
        Ok(size.map_or(AttrStep::Ask(blob.hash), |size| AttrStep::Done(self.sized(ino, size))))
    }

    /// Asks peers for the size of the blob `hash`, which is `ino`. The deadline counts from when the size was
    /// first asked for by those who wait for it now.
    pub async fn ask_attr(&self, ino: Ino, hash: ContentHash) -> Result<Attr, FsError> {
        let end = self.inodes.lock().wait_for_size(ino, Instant::now(), self.deadlines.size);
        let size = timeout_at(end, self.source.size(hash)).await.unwrap_or(Err(FetchError::TimedOut))?;
        Ok(self.sized(ino, size))
    }

    /// What `stat` shows of `ino` now that its size is known.
    fn sized(&self, ino: Ino, size: u64) -> Attr {
        self.inodes.lock().set_size(ino, size);
        Attr::file(ino.shown(), size, self.owner)
    }
}
