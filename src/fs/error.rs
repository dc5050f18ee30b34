//! Why an operation failed, and the one table of errnos.

use crate::transfer::FetchError;

/// Why an operation of the filesystem failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    /// The bytes could not be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A write of any kind.
    #[error("the file system is read-only")]
    ReadOnly,
    /// An inode number that was forgotten or never given out.
    #[error("no such inode")]
    Stale,
    /// The blob has to be streamed, and others have this node open and passed through.
    #[error("it is open otherwise")]
    OpenOtherwise,
    /// A file handle that is not open.
    #[error("no such open file")]
    BadHandle,
    /// A directory operation on a file.
    #[error("not a directory")]
    NotADirectory,
    /// A file operation on a directory.
    #[error("is a directory")]
    IsADirectory,
    /// An extended attribute that files here do not have.
    #[error("no such attribute")]
    NoAttribute,
    /// The caller's buffer is too small for the attribute.
    #[error("the buffer is too small")]
    BufferTooSmall,
    /// The blob is to be fetched whole, and the cache has no room for it.
    #[error("the cache has no room for the whole blob")]
    NoRoom,
    /// The caller was told to end while it waited.
    #[error("interrupted")]
    Interrupted,
    /// The source returned another number of bytes than it was asked for: a defect, not a fault
    /// of peers. A short reply would make the kernel cut the file, so it must not get out.
    #[error("the blob source returned {got} bytes instead of {wanted}")]
    WrongLength {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes returned.
        got: u64,
    },
}

impl FsError {
    /// The errno that programs see. ENOENT, EHOSTUNREACH, ETIMEDOUT and EIO tell "lost" from
    /// "unreachable", "silent" and "corrupt". A cancelled transfer is ECANCELED: EINTR would make
    /// programs repeat the read at once, and EIO says that only wrong bytes were to be had.
    pub const fn errno(&self) -> i32 {
        match self {
            Self::Fetch(FetchError::NotFound) => libc::ENOENT,
            Self::Fetch(FetchError::Unreachable) => libc::EHOSTUNREACH,
            Self::Fetch(FetchError::TimedOut) => libc::ETIMEDOUT,
            Self::Fetch(FetchError::WrongBytes) => libc::EIO,
            Self::Fetch(FetchError::Cancelled) => libc::ECANCELED,
            Self::ReadOnly => libc::EROFS,
            Self::NoRoom => libc::ENOSPC,
            Self::Interrupted => libc::EINTR,
            Self::Stale | Self::OpenOtherwise => libc::ESTALE,
            Self::BadHandle => libc::EBADF,
            Self::NotADirectory => libc::ENOTDIR,
            Self::IsADirectory => libc::EISDIR,
            Self::NoAttribute => libc::ENODATA,
            Self::BufferTooSmall => libc::ERANGE,
            Self::WrongLength { .. } => libc::EIO,
        }
    }
}
