//! The filesystem: names, inodes, handles, read-ahead. Knows neither fuser nor the network.
//!
//! The tree is `/` with one directory, `by-hash`, whose entries are the blobs: a lookup of 64
//! lower-case hexadecimal digits asks the [`BlobSource`] for the size, and a listing shows the
//! blobs held complete. Everything else answers from memory. What may wait for peers is `async`
//! and has a deadline; what is not `async` never waits.
//!
//! # Sizes that are long in coming
//!
//! The kernel lets one caller at a time look for a name it does not know, and the others wait for that one,
//! whatever signals they get. So a lookup ends soon, if need be with a node whose size is not known yet, and
//! whoever needs the size then waits for it as itself ([`AttrStep::Ask`]), and can be told to end.
//!
//! # Passthrough
//!
//! Where the kernel can read content files without us, each open of a whole blob (complete, and known to be
//! right on disk) of more than 16 KiB is passed through, and each other open is streamed. The kernel does not mix the
//! two among the opens of one node, so a blob has a second node, for an open that does not go together with those which
//! the first one has; if a blob is whole and cannot be passed through for that reason, it is streamed. A lookup holds for good if the
//! blob is whole, and else has no time to live, so that the blob is looked up again when it may have become whole. An
//! open of a blob that is no longer whole, because it was found damaged, through a node that others have open and
//! passed through is [`FsError::OpenOtherwise`]: the kernel then looks the name up anew, once, and opens what that gives.
//! That fails where there is no name of ours to look up, as through overlayfs or a bind mount of one file. So a node is
//! kept as long as that goes.

mod attr;
mod deadlines;
mod dir;
mod error;
mod failures;
mod handle;
mod hydrate;
mod inode;
mod lookup;
mod read;
mod readahead;
mod statfs;
mod xattr;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

pub use attr::{ATTR_TTL, Attr, AttrStep, BLOCK_SIZE, Kind, MODE, MTIME, Owner};
pub use deadlines::{Deadlines, LOOKUP_DEADLINE, READ_DEADLINE, SIZE_DEADLINE};
pub use dir::DirEntry;
pub use error::FsError;
pub use handle::Opened;
pub use inode::Ino;
pub use lookup::{COMPLETE_TTL, Entry, Lookup, LookupStep, NEGATIVE_TTL, NO_NAME_TTL, PARTIAL_TTL};
pub use readahead::KERNEL_WINDOW;
pub use statfs::Statfs;
pub use xattr::{CONTROL_ATTRIBUTE, MAX_LISTED_HOLDERS, XattrReply};

use crate::ids::ContentHash;
use crate::metrics::Metrics;
use crate::transfer::{BlobSource, BlobState};
use crate::verify::GROUP_LEN;
use failures::FailedLookups;
use handle::OpenFiles;
use inode::Inodes;

/// The only directory below the root.
pub const BY_HASH_NAME: &str = "by-hash";

/// The largest blob, in bytes, whose opens are streamed also where they could be passed through: one group. The kernel
/// has it in memory once it was read, and each open that is passed through takes two calls more: to register the content
/// file, and to take it back. Measured, eight readers open, read and close 10,000 files of 4 KiB 1.5 times as often when
/// they are streamed, and of 16 KiB 1.3 times.
const MAX_ALWAYS_STREAMED: u64 = GROUP_LEN;

/// A read-only filesystem over a [`BlobSource`].
pub struct Filesystem {
    source: Arc<dyn BlobSource>,
    metrics: Arc<Metrics>,
    owner: Owner,
    inodes: Mutex<Inodes>,
    files: OpenFiles,
    failed_lookups: Mutex<FailedLookups>,
    /// Whole blobs are passed through.
    passthrough: AtomicBool,
    /// An open waits until the blob is complete here.
    hydrates: bool,
    deadlines: Deadlines,
    /// The socket on which the node takes commands.
    control: Option<PathBuf>,
}

impl Filesystem {
    /// A filesystem that shows the blobs of `source`, all belonging to `owner`.
    pub fn new(source: Arc<dyn BlobSource>, metrics: Arc<Metrics>, owner: Owner) -> Self {
        Self {
            source,
            metrics,
            owner,
            inodes: Mutex::default(),
            files: OpenFiles::default(),
            failed_lookups: Mutex::default(),
            passthrough: AtomicBool::new(false),
            hydrates: false,
            deadlines: Deadlines::default(),
            control: None,
        }
    }

    /// Tells who asks for it ([`CONTROL_ATTRIBUTE`]) that the node takes commands on the socket at `path`.
    pub fn controlled_at(self, path: PathBuf) -> Self {
        Self { control: Some(path), ..self }
    }

    /// Has every open fetch the whole blob first, for programs that cannot bear an error later.
    pub fn hydrating(self) -> Self {
        Self { hydrates: true, ..self }
    }

    /// Has callers wait for so long instead of the default.
    pub fn with_deadlines(self, deadlines: Deadlines) -> Self {
        Self { deadlines, ..self }
    }

    /// Whether opens of whole blobs that are not very small are [`Opened::Whole`] from now on.
    pub fn set_passthrough(&self, on: bool) {
        self.passthrough.store(on, Ordering::Relaxed);
    }

    /// Whether every open fetches the whole blob first.
    pub fn hydrates(&self) -> bool {
        self.hydrates
    }

    /// Whether opens of a blob of `size` bytes are passed through once it is whole.
    fn passes_through(&self, size: u64) -> bool {
        size > MAX_ALWAYS_STREAMED && self.passthrough.load(Ordering::Relaxed)
    }

    /// How many inodes the kernel refers to now, the two directories not counted.
    pub fn inode_count(&self) -> usize {
        self.inodes.lock().len()
    }

    /// How many files are open now.
    pub fn open_count(&self) -> usize {
        self.files.len()
    }

    /// The kernel is gone, and what it held will neither be forgotten nor released one by one:
    /// drops all inodes and open files.
    pub fn disconnect(&self) {
        *self.inodes.lock() = Inodes::default();
        self.files.clear();
    }

    /// How much of `hash` is here. The empty blob is complete everywhere.
    fn state(&self, hash: &ContentHash) -> BlobState {
        if *hash == ContentHash::EMPTY { BlobState::Complete } else { self.source.state(hash) }
    }
}
