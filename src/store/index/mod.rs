//! The index: what is held, by hash, by have-key and by last use. A database of its own (redb), so
//! that opening it costs the same however many blobs there are.

mod last_commit;

use std::cell::RefCell;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use parking_lot::{RwLock, RwLockWriteGuard};
use redb::backends::InMemoryBackend;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, Table, TableDefinition};

use self::last_commit::{LastCommit, Tables};
use super::StoreError;
use super::error::{index_error, io_error};
use super::record::Record;
use super::space::bytes_on_disk;
use crate::ids::{ContentHash, HaveKey};

/// The format of the tables and of [`Record`]; another one is refused.
const FORMAT_VERSION: u64 = 2;

/// Bytes of the database that are kept in memory (8 MiB; redb's own default is 1 GiB).
const CACHE_LEN: usize = 8 << 20;

type Key = &'static [u8; 32];
const BLOBS: TableDefinition<Key, &[u8]> = TableDefinition::new("blobs");
const HAVE: TableDefinition<Key, Key> = TableDefinition::new("have");
/// Only what may be evicted, by last use.
const LRU: TableDefinition<(u64, Key), ()> = TableDefinition::new("lru");
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");

/// Names in [`NUMBERS`]: the format, what all records are charged for, how many there are, whether
/// the store was closed in order, and whether all files that were there before the index are looked at.
const VERSION: &str = "version";
const BYTES: &str = "bytes";
const COUNT: &str = "blobs";
const CLEAN: &str = "clean";
const REBUILT: &str = "rebuilt";

/// The open index. A commit that fails closes the database, and so does damage, which also sets the
/// file aside; whatever comes next opens it again.
pub(super) struct Index {
    path: Arc<Path>,
    /// It is not at `path`, nor in any file.
    in_memory: bool,
    database: RwLock<Opened>,
    /// Told when an index has been made that knows nothing of the files there are.
    made: Box<dyn Fn() + Send + Sync>,
}

/// The database; none after a failure, until it is opened again.
#[derive(Default)]
struct Opened {
    database: Option<Database>,
    last_commit: LastCommit,
    /// How many times it has been opened.
    times: u64,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Index {
    /// Opens or makes the index at `path`; one that is damaged is set aside. `made` is called whenever
    /// one has been made or [`Batch::set_rebuilt`] has not been called since, here or later.
    pub fn open(path: &Path, made: impl Fn() + Send + Sync + 'static) -> Result<Self, StoreError> {
        Self::new(path, false, Box::new(made))
    }

    /// One that is forgotten with the process, in the place of the one at `path`.
    pub fn in_memory(path: &Path) -> Result<Self, StoreError> {
        Self::new(path, true, Box::new(|| {}))
    }

    fn new(path: &Path, in_memory: bool, made: Box<dyn Fn() + Send + Sync>) -> Result<Self, StoreError> {
        let index = Self { path: path.into(), in_memory, database: RwLock::default(), made };
        let result = index.reopen(&mut index.database.write());
        result.map(|()| index)
    }

    /// What the index takes on the disk, with one that was set aside, in bytes.
    pub fn bytes_on_disk(&self) -> u64 {
        if self.in_memory {
            return 0;
        }
        bytes_on_disk(&self.path) + bytes_on_disk(&self.aside())
    }

    /// Runs `change` in one durable transaction; an error undoes it.
    pub fn write<T>(&self, change: impl FnOnce(&mut Batch) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        self.with_opened(|database, last_commit| {
            let written = write(database, change);
            last_commit.forget();
            written
        })
    }

    /// What all records are charged for, and how many there are.
    pub fn totals(&self) -> Result<(u64, u64), StoreError> {
        self.with_database(|database| {
            let table = database.begin_read()?.open_table(NUMBERS)?;
            let number = |name| Ok::<_, redb::Error>(table.get(name)?.map_or(0, |value| value.value()));
            Ok((number(BYTES)?, number(COUNT)?))
        })
    }

    /// The record of `hash`.
    pub fn get(&self, hash: &ContentHash) -> Result<Option<Record>, StoreError> {
        self.with_tables(|tables| tables.blobs.get(hash.as_bytes())?.map(|value| decode(value.value())).transpose())
    }

    /// What the records together are charged for that may be evicted and that `in_use` does not name; it
    /// is not counted beyond `bytes`.
    pub fn evictable(&self, bytes: u64, in_use: impl Fn(&ContentHash) -> bool) -> Result<u64, StoreError> {
        self.with_database(|database| {
            let transaction = database.begin_read()?;
            let (lru, blobs) = (transaction.open_table(LRU)?, transaction.open_table(BLOBS)?);
            let mut sum = 0;
            for entry in lru.iter()? {
                if sum >= bytes {
                    break;
                }
                let hash = ContentHash::from_bytes(*entry?.0.value().1);
                if let Some(record) = blobs.get(hash.as_bytes())?.filter(|_| !in_use(&hash)) {
                    sum += decode(record.value())?.charge();
                }
            }
            Ok(sum)
        })
    }

    /// The hash that `key` is the have-key of.
    pub fn find(&self, key: &HaveKey) -> Result<Option<ContentHash>, StoreError> {
        self.with_tables(|tables| Ok(tables.have.get(&key.0)?.map(|value| ContentHash::from_bytes(*value.value()))))
    }

    /// Up to `limit` complete blobs with their sizes, by hash, beginning after `after`.
    pub fn complete(&self, after: Option<ContentHash>, limit: usize) -> Result<Vec<(ContentHash, u64)>, StoreError> {
        self.scan(after, limit, |hash, record| record.is_complete().then_some((hash, record.size)))
    }

    /// Up to `limit` records, by hash, beginning after `after`.
    pub fn page(&self, after: Option<ContentHash>, limit: usize) -> Result<Vec<(ContentHash, Record)>, StoreError> {
        self.scan(after, limit, |hash, record| Some((hash, record)))
    }

    /// Up to `limit` of what `choose` makes of the records, by hash, beginning after `after`.
    fn scan<T>(
        &self,
        after: Option<ContentHash>,
        limit: usize,
        choose: impl Fn(ContentHash, Record) -> Option<T>,
    ) -> Result<Vec<T>, StoreError> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.with_database(|database| {
            let table = database.begin_read()?.open_table(BLOBS)?;
            let from = after.as_ref().map_or(Unbounded, |hash| Excluded(hash.as_bytes()));
            let mut found = Vec::new();
            for entry in table.range::<&[u8; 32]>((from, Unbounded))? {
                if found.len() == limit {
                    break;
                }
                let (hash, record) = entry?;
                found.extend(choose(ContentHash::from_bytes(*hash.value()), decode(record.value())?));
            }
            Ok(found)
        })
    }

    /// What `work` makes of the tables as they were at the last commit.
    fn with_tables<T>(&self, work: impl FnOnce(&Tables) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        self.with_opened(|database, last_commit| last_commit.read(database, work))
    }

    /// What `work` makes of the database.
    fn with_database<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        self.with_opened(|database, _| work(database))
    }

    /// The same. After a failure of the disk the database refuses everything until it has been opened again: it is
    /// closed, so that the next call does that.
    fn with_opened<T>(
        &self,
        work: impl FnOnce(&Database, &LastCommit) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let mut opened = self.database.read();
        if opened.database.is_none() {
            drop(opened);
            let mut closed = self.database.write();
            if closed.database.is_none() {
                self.reopen(&mut closed)?;
            }
            opened = RwLockWriteGuard::downgrade(closed);
        }
        let times = opened.times;
        let database = opened.database.as_ref().expect("it was opened while nobody else could close it");
        let result =
            caught(&self.path, || work(database, &opened.last_commit)).map_err(|error| index_error(&self.path, error));
        drop(opened);
        if let Err(StoreError::Index { .. } | StoreError::IndexDamaged { .. }) = &result {
            let mut opened = self.database.write();
            // Somebody may have opened it again meanwhile.
            if opened.times == times && opened.database.is_some() {
                close(&mut opened);
                if let Err(StoreError::IndexDamaged { source, .. }) = &result {
                    self.set_aside(source)?;
                }
            }
        }
        result
    }

    fn reopen(&self, closed: &mut Opened) -> Result<(), StoreError> {
        let opened = self.try_open().or_else(|error| match error {
            StoreError::IndexDamaged { source, .. } => self.set_aside(&source).and_then(|()| self.try_open()),
            error => Err(error),
        });
        let (opened, is_rebuilt) = opened?;
        *closed = Opened { database: Some(opened), last_commit: LastCommit::default(), times: closed.times + 1 };
        if !is_rebuilt {
            (self.made)();
        }
        Ok(())
    }

    /// The database, and whether it knows of all files.
    fn try_open(&self) -> Result<(Database, bool), StoreError> {
        let opened = caught(&self.path, || {
            let mut builder = Builder::new();
            builder.set_cache_size(CACHE_LEN);
            let database = match self.in_memory {
                true => builder.create_with_backend(InMemoryBackend::new())?,
                false => builder.create(&*self.path)?,
            };
            let found = write(&database, |batch| match batch.number(VERSION)? {
                0 => batch.numbers.insert(VERSION, FORMAT_VERSION).map(|_| (FORMAT_VERSION, false)).map_err(Into::into),
                found => Ok((found, batch.number(REBUILT)? == 1)),
            })?;
            Ok((database, found))
        });
        let (database, (found, is_rebuilt)) = opened.map_err(|error| index_error(&self.path, error))?;
        if found != FORMAT_VERSION {
            return Err(StoreError::IndexVersion { path: self.path.to_path_buf(), found, known: FORMAT_VERSION });
        }
        Ok((database, is_rebuilt))
    }

    /// Renames the damaged file, in the place of one that was renamed before.
    fn set_aside(&self, why: &redb::Error) -> Result<(), StoreError> {
        if self.in_memory {
            return Ok(());
        }
        let aside = self.aside();
        match fs::rename(&self.path, &aside) {
            // It has been done when redb panicked.
            Err(error) if error.kind() == io::ErrorKind::NotFound && aside.exists() => {}
            renamed => renamed.map_err(io_error("rename", &self.path))?,
        }
        let (path, aside) = (self.path.display(), aside.display());
        tracing::error!(
            "the index {path} was damaged ({why}); it is now {aside}, and a new one is made from the files"
        );
        Ok(())
    }

    fn aside(&self) -> PathBuf {
        aside_of(&self.path)
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        close(self.database.get_mut());
    }
}

fn write<T>(database: &Database, change: impl FnOnce(&mut Batch) -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    let mut transaction = database.begin_write()?;
    // After a crash the file is opened without a walk through it.
    transaction.set_quick_repair(true);
    let mut batch = Batch {
        blobs: transaction.open_table(BLOBS)?,
        have: transaction.open_table(HAVE)?,
        lru: transaction.open_table(LRU)?,
        numbers: transaction.open_table(NUMBERS)?,
        added: (0, 0),
    };
    let result = change(&mut batch)?;
    batch.write_totals()?;
    drop(batch);
    transaction.commit()?;
    Ok(result)
}

/// Where a damaged index is put.
fn aside_of(path: &Path) -> PathBuf {
    path.with_extension("redb.damaged")
}

thread_local! {
    /// The index that this thread is working with.
    static AT_WORK: RefCell<Option<Arc<Path>>> = const { RefCell::new(None) };
}

/// Has an index set aside at the very moment when redb panics over it: what redb does while the panic unwinds
/// may panic again, and that ends the process. The next start must not meet the same index.
fn set_aside_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let path = AT_WORK.try_with(|path| path.try_borrow_mut().ok()?.take()).ok().flatten();
            if let Some(path) = path {
                // It can only be tried.
                let _ = fs::rename(&path, aside_of(&path));
            }
            before(info);
        }));
    });
}

/// What `work` makes of the database at `path`. redb panics on some damage: that is an error like any other.
fn caught<T>(path: &Arc<Path>, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    set_aside_on_panic();
    AT_WORK.set(Some(path.clone()));
    // After a panic the database is closed, and nothing else that `work` could leave half done is used.
    let done = catch_unwind(AssertUnwindSafe(work));
    AT_WORK.set(None);
    done.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(redb::Error::Corrupted(text.unwrap_or("redb panicked").to_owned()))
    })
}

/// Closes the database, which may panic if it is damaged.
fn close(opened: &mut Opened) {
    let (database, last_commit) = (opened.database.take(), std::mem::take(&mut opened.last_commit));
    // The tables first: a database that is being read is not closed at once.
    let dropped =
        catch_unwind(AssertUnwindSafe(|| drop(last_commit))).and(catch_unwind(AssertUnwindSafe(|| drop(database))));
    if dropped.is_err() {
        tracing::warn!("the index could not be closed in order");
    }
}

/// The tables in one write transaction.
pub(super) struct Batch<'t> {
    blobs: Table<'t, Key, &'static [u8]>,
    have: Table<'t, Key, Key>,
    lru: Table<'t, (u64, Key), ()>,
    numbers: Table<'t, &'static str, u64>,
    /// What has come to the two totals and is not written yet, modulo 2^64.
    added: (u64, u64),
}

impl Batch<'_> {
    /// The record of `hash`.
    pub fn get(&self, hash: &ContentHash) -> Result<Option<Record>, redb::Error> {
        self.blobs.get(hash.as_bytes())?.map(|value| decode(value.value())).transpose()
    }

    /// Sets the record of `hash`; tells what it was before.
    pub fn put(&mut self, hash: &ContentHash, record: &Record) -> Result<Option<Record>, redb::Error> {
        let value = postcard::to_allocvec(record).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
        let before = self.blobs.insert(hash.as_bytes(), value.as_slice())?;
        let before = before.map(|value| decode(value.value())).transpose()?;
        match &before {
            None => _ = self.have.insert(&hash.have_key().0, hash.as_bytes())?,
            Some(before) => {
                self.lru.remove((before.last_use, hash.as_bytes()))?;
                self.count(before, false);
            }
        }
        if record.is_evictable() {
            self.lru.insert((record.last_use, hash.as_bytes()), ())?;
        }
        self.count(record, true);
        Ok(before)
    }

    /// Removes the record of `hash` and returns it.
    pub fn take(&mut self, hash: &ContentHash) -> Result<Option<Record>, redb::Error> {
        let Some(record) = self.blobs.remove(hash.as_bytes())?.map(|value| decode(value.value())).transpose()? else {
            return Ok(None);
        };
        self.have.remove(&hash.have_key().0)?;
        self.lru.remove((record.last_use, hash.as_bytes()))?;
        self.count(&record, false);
        Ok(Some(record))
    }

    /// Sets the last use of `hash`, if it has a record.
    pub fn touch(&mut self, hash: &ContentHash, last_use: u64) -> Result<(), redb::Error> {
        match self.get(hash)? {
            Some(record) if record.last_use < last_use => self.put(hash, &Record { last_use, ..record }).map(drop),
            _ => Ok(()),
        }
    }

    /// Removes the least recently used records that `in_use` does not name, until `bytes` bytes
    /// are free, `limit` are gone or no more can go, and returns them.
    pub fn evict(
        &mut self,
        bytes: u64,
        limit: usize,
        in_use: impl Fn(&ContentHash) -> bool,
    ) -> Result<Vec<(ContentHash, Record)>, redb::Error> {
        let mut chosen = Vec::new();
        let mut freed = 0;
        for entry in self.lru.iter()? {
            if freed >= bytes || chosen.len() >= limit {
                break;
            }
            let hash = ContentHash::from_bytes(*entry?.0.value().1);
            if in_use(&hash) {
                continue;
            }
            if let Some(record) = self.get(&hash)? {
                freed += record.charge();
                chosen.push((hash, record));
            }
        }
        for (hash, _) in &chosen {
            self.take(hash)?;
        }
        Ok(chosen)
    }

    /// The latest use of a blob that may be evicted.
    pub fn latest_use(&self) -> Result<u64, redb::Error> {
        Ok(self.lru.last()?.map_or(0, |entry| entry.0.value().0))
    }

    /// What all records are charged for, and how many there are.
    pub fn totals(&self) -> Result<(u64, u64), redb::Error> {
        let (bytes, blobs) = self.added;
        Ok((self.number(BYTES)?.wrapping_add(bytes), self.number(COUNT)?.wrapping_add(blobs)))
    }

    /// Notes whether the store is closed in order, and returns what was noted before.
    pub fn set_clean(&mut self, clean: bool) -> Result<bool, redb::Error> {
        let before = self.number(CLEAN)? == 1;
        self.numbers.insert(CLEAN, u64::from(clean))?;
        Ok(before)
    }

    /// Notes that all files that were there before the index have been looked at.
    pub fn set_rebuilt(&mut self) -> Result<(), redb::Error> {
        self.numbers.insert(REBUILT, 1)?;
        Ok(())
    }

    fn number(&self, name: &str) -> Result<u64, redb::Error> {
        Ok(self.numbers.get(name)?.map_or(0, |value| value.value()))
    }

    /// Counts `record` as one that has come, or gone.
    fn count(&mut self, record: &Record, has_come: bool) {
        let (bytes, blobs) = (record.charge(), 1u64);
        let (bytes, blobs) = if has_come { (bytes, blobs) } else { (bytes.wrapping_neg(), blobs.wrapping_neg()) };
        self.added = (self.added.0.wrapping_add(bytes), self.added.1.wrapping_add(blobs));
    }

    fn write_totals(&mut self) -> Result<(), redb::Error> {
        if self.added != (0, 0) {
            let (bytes, blobs) = self.totals()?;
            self.numbers.insert(BYTES, bytes)?;
            self.numbers.insert(COUNT, blobs)?;
        }
        Ok(())
    }
}

fn decode(value: &[u8]) -> Result<Record, redb::Error> {
    postcard::from_bytes(value).map_err(|error| redb::Error::Corrupted(format!("a blob's record: {error}")))
}

#[cfg(test)]
mod tests;
