//! From a name to an inode: the one place where a blob's size may have to be asked for.

use std::time::Duration;

use super::{ATTR_TTL, Attr, BY_HASH_NAME, Filesystem, FsError, Ino};
use crate::ids::ContentHash;
use crate::transfer::{BlobState, FetchError};

/// How long a caller waits for a lookup at most. A process in LOOKUP cannot be killed before the
/// reply (the kernel waits for it uninterruptibly), so this is hard and short.
pub const LOOKUP_DEADLINE: Duration = Duration::from_secs(2);

/// Kept of [`LOOKUP_DEADLINE`] for the way to the kernel and back.
const LOOKUP_MARGIN: Duration = Duration::from_millis(200);
const _: () = assert!(LOOKUP_MARGIN.as_millis() * 2 < LOOKUP_DEADLINE.as_millis());

/// How long the kernel may believe the name of a complete blob: about a year; content never
/// changes.
pub const COMPLETE_TTL: Duration = ATTR_TTL;

/// How long the kernel may believe the name of a blob that is not complete here: it asks each
/// time, and is answered from memory, so that it learns at once when the blob is complete.
pub const PARTIAL_TTL: Duration = Duration::ZERO;

/// How long the kernel may believe that nobody has a blob: short, for somebody may get it.
pub const NEGATIVE_TTL: Duration = Duration::from_secs(1);

/// How long the kernel may believe that a name which is no hash does not exist: for good.
pub const NO_NAME_TTL: Duration = ATTR_TTL;

/// A name that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What it is. One reference to its inode is counted until [`Filesystem::forget`].
    pub attr: Attr,
    /// How long the kernel may believe the name.
    pub ttl: Duration,
}

/// What a lookup found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// The name exists.
    Found(Entry),
    /// It does not, and the kernel may remember that for so long.
    Missing(Duration),
}

/// A lookup that is done, or one that has to ask peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupStep {
    /// Answered from memory.
    Done(Result<Lookup, FsError>),
    /// Give this to [`Filesystem::ask_size`], away from the event loop.
    Ask(ContentHash),
}

impl Filesystem {
    /// Looks up `name` in `parent` without waiting.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> LookupStep {
        self.metrics.lookups.inc();
        let answer = match parent {
            Ino::ROOT if name == BY_HASH_NAME.as_bytes() => {
                Ok(Lookup::Found(Entry { attr: Attr::directory(Ino::BY_HASH, self.owner), ttl: COMPLETE_TTL }))
            }
            Ino::ROOT => Ok(Lookup::Missing(NO_NAME_TTL)),
            Ino::BY_HASH => match ContentHash::from_name(name) {
                None => Ok(Lookup::Missing(NO_NAME_TTL)),
                Some(hash) => match self.size_at_hand(&hash) {
                    Some(size) => Ok(self.found(hash, size)),
                    None => return LookupStep::Ask(hash),
                },
            },
            _ => Err(FsError::NotADirectory),
        };
        LookupStep::Done(answer)
    }

    /// Asks peers for the size of `hash`, and answers before [`LOOKUP_DEADLINE`]: missing if
    /// everybody reachable said that they have none, an error if it could not be found out.
    pub async fn ask_size(&self, hash: ContentHash) -> Result<Lookup, FsError> {
        let wait = LOOKUP_DEADLINE - LOOKUP_MARGIN;
        match tokio::time::timeout(wait, self.source.size(hash)).await {
            Ok(Ok(size)) => Ok(self.found(hash, size)),
            Ok(Err(FetchError::NotFound)) => Ok(Lookup::Missing(NEGATIVE_TTL)),
            Ok(Err(error)) => Err(error.into()),
            Err(_elapsed) => Err(FetchError::TimedOut.into()),
        }
    }

    /// The kernel dropped `count` references to `ino`.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.inodes.lock().forget(ino, count);
    }

    fn size_at_hand(&self, hash: &ContentHash) -> Option<u64> {
        if *hash == ContentHash::EMPTY {
            return Some(0);
        }
        // The lock is let go before the source is asked: they have no order.
        let known = self.inodes.lock().size(hash);
        known.or_else(|| self.source.known_size(hash))
    }

    fn found(&self, hash: ContentHash, size: u64) -> Lookup {
        let ttl = if self.state(&hash) == BlobState::Complete { COMPLETE_TTL } else { PARTIAL_TTL };
        let ino = self.inodes.lock().look_up(hash, size);
        Lookup::Found(Entry { attr: Attr::file(ino, size, self.owner), ttl })
    }
}
