//! A blob source in memory, with faults on demand, for tests of what lies above the engine.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use byhash::ids::{BlobRange, ContentHash, PeerId};
use byhash::transfer::{BlobReader, BlobSource, BlobState, BoxFuture, FetchError, Priority, SpaceUsage, WholeFile};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

/// How long a question that a program has to ask is awaited.
const LIMIT: Duration = Duration::from_secs(60);

/// How a question about a blob is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// As it should be.
    Give,
    /// With this error.
    Fail(FetchError),
    /// With this error, after so long.
    FailLate(Duration, FetchError),
    /// Never.
    Never,
    /// Reads that end within the first so many bytes as they should be, others never.
    Until(u64),
    /// Reads that end within the first so many bytes as they should be, others after so long.
    Late(u64, Duration),
    /// With a panic, at once where the question is first about what is known.
    Panic,
}

/// A blob as the stand-in has it.
#[derive(Debug, Clone)]
pub struct FakeBlob {
    pub content: Bytes,
    pub state: BlobState,
    /// Whether the size needs no asking.
    pub size_known: bool,
    pub size: Answer,
    pub read: Answer,
    pub holders: Vec<PeerId>,
    /// The content file, if the blob is whole.
    pub whole: Option<PathBuf>,
    /// How making it whole is answered; `Give` does what it can.
    pub make_whole: Answer,
    /// Whether there is room for it.
    pub fits: bool,
    /// Bytes come from those who are asked for it.
    pub moves: bool,
}

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Size,
    Read(BlobRange),
    Prefetch(BlobRange),
    MakeWhole,
    CheckSoon,
}

#[derive(Default)]
struct Shared {
    blobs: Mutex<BTreeMap<ContentHash, FakeBlob>>,
    /// How a size is answered that no blob has; `Fail(NotFound)` unless set.
    absent: Mutex<HashMap<ContentHash, Answer>>,
    calls: Mutex<Vec<Call>>,
    progress: std::sync::atomic::AtomicU64,
    /// How many names were given each time some were asked for.
    listed: Mutex<Vec<usize>>,
    /// Reads and sizes under way that will never be answered.
    waiting: Mutex<usize>,
    changed: Condvar,
}

/// Blobs in memory.
#[derive(Clone, Default)]
pub struct MemorySource(Arc<Shared>);

impl MemorySource {
    /// Adds a complete blob.
    pub fn add(&self, content: impl Into<Bytes>) -> ContentHash {
        self.add_with(content, |_| {})
    }

    /// Adds a complete blob as altered by `alter`.
    pub fn add_with(&self, content: impl Into<Bytes>, alter: impl FnOnce(&mut FakeBlob)) -> ContentHash {
        let content = content.into();
        let hash = ContentHash::of(&content);
        let mut blob = FakeBlob {
            content,
            state: BlobState::Complete,
            size_known: true,
            size: Answer::Give,
            read: Answer::Give,
            holders: Vec::new(),
            whole: None,
            make_whole: Answer::Give,
            fits: true,
            moves: false,
        };
        alter(&mut blob);
        self.0.blobs.lock().insert(hash, blob);
        hash
    }

    /// Alters a blob.
    pub fn alter(&self, hash: ContentHash, alter: impl FnOnce(&mut FakeBlob)) {
        alter(self.0.blobs.lock().get_mut(&hash).expect("the blob was added"));
    }

    /// A hash that no blob has, about whose size is answered so.
    pub fn absent(&self, text: &str, answer: Answer) -> ContentHash {
        let hash = ContentHash::of(text.as_bytes());
        self.0.absent.lock().insert(hash, answer);
        hash
    }

    /// What was asked since the last call of this.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut *self.0.calls.lock())
    }

    /// How many names were given each time some were asked for, since the last call of this.
    pub fn take_listed(&self) -> Vec<usize> {
        std::mem::take(&mut *self.0.listed.lock())
    }

    /// How many questions under way will never be answered.
    pub fn waiting(&self) -> usize {
        *self.0.waiting.lock()
    }

    /// Blocks until at least `count` questions are under way that will never be answered.
    pub fn wait_for_waiting(&self, count: usize) {
        let mut waiting = self.0.waiting.lock();
        let in_time = !self.0.changed.wait_while_for(&mut waiting, |waiting| *waiting < count, LIMIT).timed_out();
        assert!(in_time, "{} instead of {count} questions are under way", *waiting);
    }

    /// Whether, within `limit`, nothing is under way any more that will never be answered.
    pub fn nothing_waits_within(&self, limit: Duration) -> bool {
        let mut waiting = self.0.waiting.lock();
        !self.0.changed.wait_while_for(&mut waiting, |waiting| *waiting > 0, limit).timed_out()
    }

    fn note(&self, call: Call) {
        self.0.calls.lock().push(call);
    }

    async fn answer<T>(&self, answer: Answer, value: T) -> Result<T, FetchError> {
        struct Waiting(Arc<Shared>);
        impl Drop for Waiting {
            fn drop(&mut self) {
                *self.0.waiting.lock() -= 1;
                self.0.changed.notify_all();
            }
        }
        match answer {
            Answer::Give => Ok(value),
            Answer::Late(_, wait) => {
                tokio::time::sleep(wait).await;
                Ok(value)
            }
            Answer::Fail(error) => Err(error),
            Answer::FailLate(wait, error) => {
                tokio::time::sleep(wait).await;
                Err(error)
            }
            Answer::Panic => panic!("a defect in the source, as the test wants it"),
            Answer::Never | Answer::Until(_) => {
                *self.0.waiting.lock() += 1;
                self.0.changed.notify_all();
                let _waiting = Waiting(Arc::clone(&self.0));
                std::future::pending().await
            }
        }
    }
}

impl BlobSource for MemorySource {
    fn known_size(&self, hash: &ContentHash) -> Option<u64> {
        // On the event loop, where `size` is on the runtime.
        let defect = self.0.absent.lock().get(hash) == Some(&Answer::Panic);
        assert!(!defect, "a defect in the source, as the test wants it");
        self.0.blobs.lock().get(hash).filter(|blob| blob.size_known).map(|blob| blob.content.len() as u64)
    }

    fn size(&self, hash: ContentHash) -> BoxFuture<'_, Result<u64, FetchError>> {
        self.note(Call::Size);
        let blob = self.0.blobs.lock().get(&hash).map(|blob| (blob.size.clone(), blob.content.len() as u64));
        let (answer, size) = blob.unwrap_or_else(|| {
            let answer = self.0.absent.lock().get(&hash).cloned();
            (answer.unwrap_or(Answer::Fail(FetchError::NotFound)), 0)
        });
        Box::pin(self.answer(answer, size))
    }

    fn open(&self, hash: ContentHash, size: u64) -> Arc<dyn BlobReader> {
        Arc::new(MemoryReader { source: self.clone(), hash, size })
    }

    fn is_whole(&self, hash: &ContentHash) -> bool {
        self.0.blobs.lock().get(hash).is_some_and(|blob| blob.whole.is_some())
    }

    fn make_whole(&self, hash: ContentHash) -> BoxFuture<'_, Result<bool, FetchError>> {
        self.note(Call::MakeWhole);
        let answer = self.0.blobs.lock()[&hash].make_whole.clone();
        Box::pin(async move {
            self.answer(answer, ()).await?;
            let mut blobs = self.0.blobs.lock();
            let blob = blobs.get_mut(&hash).expect("the blob was added");
            if blob.fits {
                blob.state = BlobState::Complete;
            }
            Ok(blob.whole.is_some())
        })
    }

    fn check_soon(&self, _: ContentHash) {
        self.note(Call::CheckSoon);
    }

    fn progress(&self, hash: &ContentHash) -> u64 {
        let moves = self.0.blobs.lock().get(hash).is_some_and(|blob| blob.moves);
        self.0.progress.fetch_add(moves.into(), std::sync::atomic::Ordering::Relaxed)
    }

    fn state(&self, hash: &ContentHash) -> BlobState {
        self.0.blobs.lock().get(hash).map_or(BlobState::Absent, |blob| blob.state)
    }

    fn known_holders(&self, hash: &ContentHash) -> Vec<PeerId> {
        self.0.blobs.lock().get(hash).map(|blob| blob.holders.clone()).unwrap_or_default()
    }

    fn complete_blobs(&self, after: Option<ContentHash>, limit: usize) -> Vec<(ContentHash, u64)> {
        let blobs = self.0.blobs.lock();
        let complete = blobs.iter().filter(|(_, blob)| blob.state == BlobState::Complete);
        let later = complete.filter(|(hash, _)| after.is_none_or(|after| **hash > after));
        let names: Vec<_> = later.take(limit).map(|(hash, blob)| (*hash, blob.content.len() as u64)).collect();
        self.0.listed.lock().push(names.len());
        names
    }

    fn usage(&self) -> SpaceUsage {
        let blobs = self.0.blobs.lock();
        let used = blobs.values().map(|blob| blob.content.len() as u64).sum();
        SpaceUsage { capacity: 1 << 30, used, available: 1 << 28, blobs: blobs.len() as u64 }
    }
}

struct MemoryReader {
    source: MemorySource,
    hash: ContentHash,
    size: u64,
}

impl BlobReader for MemoryReader {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, range: BlobRange, _priority: Priority) -> BoxFuture<'_, Result<Bytes, FetchError>> {
        self.source.note(Call::Read(range));
        let blob = self.source.0.blobs.lock()[&self.hash].clone();
        let range = range.clip(blob.content.len() as u64);
        let bytes = blob.content.slice(range.start as usize..range.end as usize);
        let answer = match blob.read {
            Answer::Late(ready, _) | Answer::Until(ready) if range.end <= ready => Answer::Give,
            other => other,
        };
        Box::pin(self.source.answer(answer, bytes))
    }

    fn read_here(&self, range: BlobRange) -> BoxFuture<'_, Option<Bytes>> {
        let blob = self.source.0.blobs.lock()[&self.hash].clone();
        let range = range.clip(blob.content.len() as u64);
        let is_here = match blob.read {
            Answer::Give => true,
            Answer::Late(ready, _) | Answer::Until(ready) => range.end <= ready,
            _ => false,
        };
        let bytes = is_here.then(|| blob.content.slice(range.start as usize..range.end as usize));
        Box::pin(std::future::ready(bytes))
    }

    fn whole_file(&self) -> Option<WholeFile> {
        let path = self.source.0.blobs.lock().get(&self.hash)?.whole.clone()?;
        let file = Arc::new(File::open(path).ok()?);
        let metadata = file.metadata().ok()?;
        Some(WholeFile { file, identity: (metadata.dev(), metadata.ino()) })
    }

    fn prefetch(&self, range: BlobRange) {
        self.source.note(Call::Prefetch(range));
    }
}
