//! Why the store could not do what it was asked.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::ids::ContentHash;

/// What failed in the store. Messages name the file concerned.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has the cache directory open.
    #[error("the cache {} is in use by {}", dir.display(), match pid { Some(pid) => format!("process {pid}"), None => "another process".to_owned() })]
    Locked {
        /// The cache directory.
        dir: PathBuf,
        /// The process that has it open, if it has already left its number.
        pid: Option<u32>,
    },
    /// No room: the capacity is taken by blobs that may not be evicted, or the disk has only the
    /// space left that is to be kept free. The caller goes on uncached.
    #[error("the cache has no room for {wanted} more bytes")]
    Full {
        /// Bytes that were asked for.
        wanted: u64,
    },
    /// No room below the cap for something that is to be added.
    #[error(
        "the cache has no room for {}: it may take {}, and what it holds is pinned, was added here or is in use \
         ({} with the index and what is being added): 'byhash rm' and 'byhash unpin' make room, 'byhash ls' shows \
         what is held, and --cache-size allows more",
        shown(*wanted), shown(*capacity), shown(*used)
    )]
    NoRoom {
        /// Bytes that were asked for.
        wanted: u64,
        /// What the store may take, in bytes.
        capacity: u64,
        /// What it takes, in bytes.
        used: u64,
    },
    /// Something that is to be added is larger than all that the cache may hold.
    #[error(
        "it is larger than the cache: it would take {} there, and the cache may take {} in all, with its index; \
         a larger --cache-size (that of the node, if one runs) allows it",
        shown(*wanted), shown(*capacity)
    )]
    LargerThanCache {
        /// Bytes that were asked for.
        wanted: u64,
        /// What the store may take, in bytes.
        capacity: u64,
    },
    /// No room on the disk for something that is to be added.
    #[error(
        "the disk of the cache has no room for {}: {} are free, of which {} are to stay free, and nothing that is \
         held may be evicted: remove something, with 'byhash rm' or elsewhere on that disk",
        shown(*wanted), shown(*free), shown(*keep_free)
    )]
    DiskFull {
        /// Bytes that were asked for.
        wanted: u64,
        /// Bytes free on the file system.
        free: u64,
        /// Bytes that are to stay free there.
        keep_free: u64,
    },
    /// The outboard of a blob, or of others, is being made anew from the content, which takes a while, and enough
    /// wait for that. Nothing is dropped: the caller tries again.
    #[error("the outboard of {hash} is damaged and waits to be made anew")]
    Mending {
        /// The blob.
        hash: ContentHash,
    },
    /// Nothing new is taken any more.
    #[error("the cache has been closed")]
    Closed,
    /// What failed for several blobs at once, or in another process; a sentence.
    #[error("{0}")]
    Said(String),
    /// The files of a blob are not what the index says: the groups named have been dropped and may be fetched again.
    #[error("groups {groups:?} of {hash} were damaged on disk and have been dropped")]
    Corrupt {
        /// The blob.
        hash: ContentHash,
        /// The groups that are no longer held.
        groups: Range<u64>,
    },
    /// A file of a blob is gone or has another length: the blob has been dropped and may be fetched again.
    #[error("{} is missing or has another length; {hash} has been dropped", path.display())]
    Missing {
        /// The blob.
        hash: ContentHash,
        /// The file.
        path: PathBuf,
    },
    /// The blob, or these groups of it, are not held.
    #[error("groups {groups:?} of {hash} are not held")]
    NotHeld {
        /// The blob.
        hash: ContentHash,
        /// The groups asked for.
        groups: Range<u64>,
    },
    /// What was to be written is not whole groups of the blob, or the proof is one of another size.
    #[error("{len} bytes at group {first} are not whole groups of {hash}")]
    NotGroups {
        /// The blob.
        hash: ContentHash,
        /// The first group.
        first: u64,
        /// How many bytes there were.
        len: usize,
    },
    /// A size that differs from the one that has been proven.
    #[error("{hash} has {held} bytes, not {claimed}")]
    OtherSize {
        /// The blob.
        hash: ContentHash,
        /// The size known, in bytes.
        held: u64,
        /// The size that was given, in bytes.
        claimed: u64,
    },
    /// What was to be added is a directory.
    #[error("{} is a directory; only files can be added", .0.display())]
    Directory(PathBuf),
    /// A file that cannot be served from where it lies.
    #[error("{} cannot be served from where it lies: {why}", path.display())]
    NotInPlace {
        /// The file.
        path: PathBuf,
        /// Why, as a sentence.
        why: &'static str,
    },
    /// A file that became shorter while it was added.
    #[error("{} became shorter while it was read", .0.display())]
    Shrank(PathBuf),
    /// A name of a staged file that is none, or a staged file that is not what it should be.
    #[error("'{0}' is not a staged file of this cache")]
    NotStaged(String),
    /// A file larger than any blob may be.
    #[error("a blob of {0} bytes is above the limit of {limit}", limit = crate::verify::MAX_BLOB_LEN)]
    TooBig(u64),
    /// The index was written by another version of byhash.
    #[error("{} has format {found}, this byhash knows format {known}: remove the cache directory or use the other byhash", path.display())]
    IndexVersion {
        /// The index.
        path: PathBuf,
        /// The format found.
        found: u64,
        /// The format known.
        known: u64,
    },
    /// The index cannot be read or written.
    #[error("the index {} failed: {source}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// What redb says.
        source: Box<redb::Error>,
    },
    /// What the index file holds is no index, or no longer one. The next call finds a new one.
    #[error("the index {} is damaged ({source}); it is set aside and made anew from the files", path.display())]
    IndexDamaged {
        /// The index.
        path: PathBuf,
        /// What redb says.
        source: Box<redb::Error>,
    },
    /// An operation on a file failed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl StoreError {
    /// Whether it is the disk that failed, is full or may not be written to, and not what was asked of it.
    pub fn is_of_the_disk(&self) -> bool {
        let of_disk = |error: &io::Error| {
            matches!(error.raw_os_error(), Some(libc::EROFS | libc::ENOSPC | libc::EDQUOT | libc::EIO))
        };
        match self {
            Self::Io { source, .. } => of_disk(source),
            Self::Index { source, .. } => matches!(&**source, redb::Error::Io(error) if of_disk(error)),
            _ => false,
        }
    }
}

/// `bytes` for people, in binary units.
fn shown(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

/// Turns an `io::Error` into a [`StoreError::Io`] about `path`.
pub(super) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io { what, path: path.to_owned(), source }
}

/// What redb says about the index at `path`, as a [`StoreError`].
pub(super) fn index_error(path: &Path, source: redb::Error) -> StoreError {
    use redb::Error as Redb;
    let damaged = match &source {
        Redb::Io(error) => matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof),
        Redb::Corrupted(_)
        | Redb::UpgradeRequired(_)
        | Redb::TableTypeMismatch { .. }
        | Redb::TypeDefinitionChanged { .. }
        | Redb::TableIsMultimap(_) => true,
        // The disk, the memory or this program failed: nothing says that the file is to blame.
        _ => false,
    };
    let (path, source) = (path.to_owned(), Box::new(source));
    if damaged { StoreError::IndexDamaged { path, source } } else { StoreError::Index { path, source } }
}
