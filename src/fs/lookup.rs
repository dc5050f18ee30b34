//! From a name to an inode: the one place where a blob's size may have to be asked for.

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::{ATTR_TTL, Attr, BY_HASH_NAME, Filesystem, FsError, Ino};
use crate::ids::ContentHash;
use crate::transfer::{BlobState, BoxFuture, FetchError};

/// How long a size goes on being asked for after its lookup was answered without it: those who need it have
/// asked for it by then, and keep the question going.
const HANDOVER: Duration = Duration::from_millis(200);

/// The largest blob, in bytes, that a lookup fetches before it answers, so that its first open is passed through. It
/// takes a round trip more than the size.
const MAX_FETCHED_AT_LOOKUP: u64 = 64 * 1024;

/// The largest blob, in bytes, that a lookup reads and checks before it answers: some milliseconds from
/// a disk, and well below the deadline from a slow one.
const MAX_CHECKED_AT_LOOKUP: u64 = 4 << 20;

/// How long the kernel may believe the name of a complete blob: about a year; content never
/// changes.
pub const COMPLETE_TTL: Duration = ATTR_TTL;

/// How long the kernel may believe the name of a blob that is not complete here: it asks each
/// time, and is answered from memory, so that it learns at once when the blob is complete.
pub const PARTIAL_TTL: Duration = Duration::ZERO;

/// How long the kernel may believe that nobody has a blob: not at all, since it would not learn that it has been added
/// here a moment later. It is remembered here instead.
pub const NEGATIVE_TTL: Duration = Duration::ZERO;

/// How long the kernel may believe that a name which is no hash does not exist: for good.
pub const NO_NAME_TTL: Duration = ATTR_TTL;

/// A name that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The node. One reference to it is counted until [`Filesystem::forget`].
    pub node: Ino,
    /// What it is.
    pub attr: Attr,
    /// How long the kernel may believe what it is: not at all while the size is not known.
    pub attr_ttl: Duration,
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
    /// Give this to [`Filesystem::check_small`], away from the event loop: hash and size.
    Check(ContentHash, u64),
}

impl Filesystem {
    /// Looks up `name` in `parent` without waiting.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> LookupStep {
        self.metrics.lookups.inc();
        let answer = match parent {
            Ino::ROOT if name == BY_HASH_NAME.as_bytes() => {
                let attr = Attr::directory(Ino::BY_HASH, self.owner);
                Ok(Lookup::Found(Entry { node: Ino::BY_HASH, attr, attr_ttl: ATTR_TTL, ttl: COMPLETE_TTL }))
            }
            Ino::ROOT => Ok(Lookup::Missing(NO_NAME_TTL)),
            Ino::BY_HASH => match ContentHash::from_name(name) {
                None => Ok(Lookup::Missing(NO_NAME_TTL)),
                Some(hash) => match self.size_at_hand(&hash) {
                    None if self.inodes.lock().knows(&hash) => Ok(self.unsized_one(hash, None)),
                    None => match self.failed_lookups.lock().of(&hash, Instant::now()) {
                        Some(FetchError::NotFound) => Ok(Lookup::Missing(NEGATIVE_TTL)),
                        Some(error) => Err(error.into()),
                        None => return LookupStep::Ask(hash),
                    },
                    Some(size) if self.is_worth_checking(&hash, size) => return LookupStep::Check(hash, size),
                    Some(size) => Ok(self.found(hash, size)),
                },
            },
            _ => Err(FsError::NotADirectory),
        };
        LookupStep::Done(answer)
    }

    /// Asks peers for the size of `hash`, and answers within the deadline of lookups: missing if
    /// everybody reachable said that they have none, an error if it cannot be found out, and a node without
    /// a size if that is still to be seen. An error is remembered for as long as it took to come, for those who
    /// waited behind this one.
    pub async fn ask_size(&self, hash: ContentHash) -> Result<Lookup, FsError> {
        let begun = Instant::now();
        let end = begun + self.deadlines.lookup;
        let source = self.source.clone();
        let mut question: BoxFuture<'static, _> = Box::pin(async move { source.size(hash).await });
        let Ok(answer) = timeout_at(end, &mut question).await else {
            tokio::spawn(timeout(HANDOVER, question));
            return Ok(self.unsized_one(hash, Some(begun)));
        };
        match answer {
            Ok(size) => {
                if size <= MAX_FETCHED_AT_LOOKUP && self.passes_through(size) {
                    // Whatever becomes of it, the name is there.
                    let _ = timeout_at(end, self.source.make_whole(hash)).await;
                }
                Ok(self.found(hash, size))
            }
            Err(error) => {
                self.failed_lookups.lock().note(hash, error.clone(), begun, Instant::now());
                match error {
                    FetchError::NotFound => Ok(Lookup::Missing(NEGATIVE_TTL)),
                    error => Err(error.into()),
                }
            }
        }
    }

    /// Checks a small blob that is here, so that its first open is passed through.
    pub async fn check_small(&self, hash: ContentHash, size: u64) -> Result<Lookup, FsError> {
        // A disk that takes longer, or damage that is fetched again: it is streamed.
        let _ = timeout(self.deadlines.lookup, self.source.make_whole(hash)).await;
        Ok(self.found(hash, size))
    }

    /// Ends a lookup whose caller was told to end, with what is known: an error would have those who wait
    /// behind it begin anew, one after another.
    pub fn end_lookup(&self, hash: ContentHash) -> Lookup {
        match self.size_at_hand(&hash) {
            Some(size) => self.found(hash, size),
            None => self.unsized_one(hash, None),
        }
    }

    /// Whether it is complete and small and not yet known to be right on disk.
    fn is_worth_checking(&self, hash: &ContentHash, size: u64) -> bool {
        size <= MAX_CHECKED_AT_LOOKUP
            && self.passes_through(size)
            && self.state(hash) == BlobState::Complete
            && !self.source.is_whole(hash)
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
        let may_be_whole = self.passes_through(size);
        let whole = may_be_whole && self.source.is_whole(&hash);
        let final_node = whole || !may_be_whole && self.state(&hash) == BlobState::Complete;
        let ttl = if final_node { COMPLETE_TTL } else { PARTIAL_TTL };
        let node = self.inodes.lock().look_up(hash, size, whole);
        Lookup::Found(Entry { node, attr: Attr::file(node.shown(), size, self.owner), attr_ttl: ATTR_TTL, ttl })
    }

    /// A blob, if it is one, whose size is asked for since `asked`, or not at all.
    fn unsized_one(&self, hash: ContentHash, asked: Option<Instant>) -> Lookup {
        let mut inodes = self.inodes.lock();
        let node = inodes.look_up(hash, None, false);
        if let Some(begun) = asked {
            inodes.note_asked(node, begun);
        }
        let attr = Attr::file(node, 0, self.owner);
        Lookup::Found(Entry { node, attr, attr_ttl: Duration::ZERO, ttl: PARTIAL_TTL })
    }
}
