//! The index: what is held, by hash, by have-key and by last use. A database of its own (redb), so
//! that opening it costs the same however many blobs there are.

use std::path::{Path, PathBuf};

use redb::{Builder, Database, ReadableDatabase, ReadableTable, Table, TableDefinition};

use super::StoreError;
use super::error::index_error;
use super::record::Record;
use crate::ids::{ContentHash, HaveKey};

/// The format of the tables and of [`Record`]; another one is refused.
const FORMAT_VERSION: u64 = 1;

/// Bytes of the database that are kept in memory (8 MiB; redb's own default is 1 GiB).
const CACHE_LEN: usize = 8 << 20;

type Key = &'static [u8; 32];
const BLOBS: TableDefinition<Key, &[u8]> = TableDefinition::new("blobs");
const HAVE: TableDefinition<Key, Key> = TableDefinition::new("have");
/// Only what may be evicted, by last use.
const LRU: TableDefinition<(u64, Key), ()> = TableDefinition::new("lru");
const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");

/// Names in [`NUMBERS`]: the format, what all records are charged for, how many there are, and
/// whether the store was closed in order.
const VERSION: &str = "version";
const BYTES: &str = "bytes";
const COUNT: &str = "blobs";
const CLEAN: &str = "clean";

/// The open index.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    database: Database,
}

impl Index {
    /// Opens or makes the index at `path`.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database =
            Builder::new().set_cache_size(CACHE_LEN).create(path).map_err(|error| index_error(path, error.into()))?;
        let index = Self { path: path.to_owned(), database };
        let found = index.write(|batch| match batch.number(VERSION)? {
            0 => batch.numbers.insert(VERSION, FORMAT_VERSION).map(|_| FORMAT_VERSION).map_err(redb::Error::from),
            found => Ok(found),
        })?;
        if found != FORMAT_VERSION {
            return Err(StoreError::IndexVersion { path: path.to_owned(), found, known: FORMAT_VERSION });
        }
        Ok(index)
    }

    /// Runs `change` in one durable transaction; an error undoes it.
    pub fn write<T>(&self, change: impl FnOnce(&mut Batch) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        self.wrap(|| {
            let mut transaction = self.database.begin_write()?;
            // After a crash the file is opened without a walk through it.
            transaction.set_quick_repair(true);
            let result = change(&mut Batch {
                blobs: transaction.open_table(BLOBS)?,
                have: transaction.open_table(HAVE)?,
                lru: transaction.open_table(LRU)?,
                numbers: transaction.open_table(NUMBERS)?,
            })?;
            transaction.commit()?;
            Ok(result)
        })
    }

    /// The record of `hash`.
    pub fn get(&self, hash: &ContentHash) -> Result<Option<Record>, StoreError> {
        self.wrap(|| {
            let table = self.database.begin_read()?.open_table(BLOBS)?;
            table.get(hash.as_bytes())?.map(|value| decode(value.value())).transpose()
        })
    }

    /// The hash that `key` is the have-key of.
    pub fn find(&self, key: &HaveKey) -> Result<Option<ContentHash>, StoreError> {
        self.wrap(|| {
            let table = self.database.begin_read()?.open_table(HAVE)?;
            Ok(table.get(&key.0)?.map(|value| ContentHash::from_bytes(*value.value())))
        })
    }

    /// Up to `limit` complete blobs with their sizes, by hash, beginning after `after`.
    pub fn complete(&self, after: Option<ContentHash>, limit: usize) -> Result<Vec<(ContentHash, u64)>, StoreError> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.wrap(|| {
            let table = self.database.begin_read()?.open_table(BLOBS)?;
            let from = after.as_ref().map_or(Unbounded, |hash| Excluded(hash.as_bytes()));
            let mut found = Vec::new();
            for entry in table.range::<&[u8; 32]>((from, Unbounded))? {
                if found.len() == limit {
                    break;
                }
                let (hash, record) = entry?;
                let record = decode(record.value())?;
                if record.is_complete() {
                    found.push((ContentHash::from_bytes(*hash.value()), record.size));
                }
            }
            Ok(found)
        })
    }

    /// Up to `limit` records, by hash, beginning after `after`.
    pub fn page(&self, after: Option<ContentHash>, limit: usize) -> Result<Vec<(ContentHash, Record)>, StoreError> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.wrap(|| {
            let table = self.database.begin_read()?.open_table(BLOBS)?;
            let from = after.as_ref().map_or(Unbounded, |hash| Excluded(hash.as_bytes()));
            let entries = table.range::<&[u8; 32]>((from, Unbounded))?.take(limit);
            entries
                .map(|entry| {
                    let (hash, record) = entry?;
                    Ok((ContentHash::from_bytes(*hash.value()), decode(record.value())?))
                })
                .collect()
        })
    }

    fn wrap<T>(&self, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
        work().map_err(|error| index_error(&self.path, error))
    }
}

/// The tables in one write transaction.
pub(super) struct Batch<'t> {
    blobs: Table<'t, Key, &'static [u8]>,
    have: Table<'t, Key, Key>,
    lru: Table<'t, (u64, Key), ()>,
    numbers: Table<'t, &'static str, u64>,
}

impl Batch<'_> {
    /// The record of `hash`.
    pub fn get(&self, hash: &ContentHash) -> Result<Option<Record>, redb::Error> {
        self.blobs.get(hash.as_bytes())?.map(|value| decode(value.value())).transpose()
    }

    /// Sets the record of `hash`.
    pub fn put(&mut self, hash: &ContentHash, record: &Record) -> Result<(), redb::Error> {
        self.take(hash)?;
        let value = postcard::to_allocvec(record).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
        self.blobs.insert(hash.as_bytes(), value.as_slice())?;
        self.have.insert(&hash.have_key().0, hash.as_bytes())?;
        if record.is_evictable() {
            self.lru.insert((record.last_use, hash.as_bytes()), ())?;
        }
        self.add(BYTES, record.charge())?;
        self.add(COUNT, 1)
    }

    /// Removes the record of `hash` and returns it.
    pub fn take(&mut self, hash: &ContentHash) -> Result<Option<Record>, redb::Error> {
        let Some(record) = self.blobs.remove(hash.as_bytes())?.map(|value| decode(value.value())).transpose()? else {
            return Ok(None);
        };
        self.have.remove(&hash.have_key().0)?;
        self.lru.remove((record.last_use, hash.as_bytes()))?;
        self.add(BYTES, record.charge().wrapping_neg())?;
        self.add(COUNT, 1u64.wrapping_neg())?;
        Ok(Some(record))
    }

    /// Sets the last use of `hash`, if it has a record.
    pub fn touch(&mut self, hash: &ContentHash, last_use: u64) -> Result<(), redb::Error> {
        match self.get(hash)? {
            Some(record) if record.last_use < last_use => self.put(hash, &Record { last_use, ..record }),
            _ => Ok(()),
        }
    }

    /// Removes the least recently used records that `in_use` does not name, until `bytes` bytes
    /// are free, `limit` records gone or no more can go, and returns them.
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
        Ok((self.number(BYTES)?, self.number(COUNT)?))
    }

    /// Notes whether the store is closed in order, and returns what was noted before.
    pub fn set_clean(&mut self, clean: bool) -> Result<bool, redb::Error> {
        let before = self.number(CLEAN)? == 1;
        self.numbers.insert(CLEAN, u64::from(clean))?;
        Ok(before)
    }

    fn number(&self, name: &str) -> Result<u64, redb::Error> {
        Ok(self.numbers.get(name)?.map_or(0, |value| value.value()))
    }

    fn add(&mut self, name: &'static str, difference: u64) -> Result<(), redb::Error> {
        let sum = self.number(name)?.wrapping_add(difference);
        self.numbers.insert(name, sum)?;
        Ok(())
    }
}

fn decode(value: &[u8]) -> Result<Record, redb::Error> {
    postcard::from_bytes(value).map_err(|error| redb::Error::Corrupted(format!("a blob's record: {error}")))
}

#[cfg(test)]
mod tests {
    use super::super::record::Origin;
    use super::*;

    fn record(groups: u64, last_use: u64) -> Record {
        Record { size: groups * 16384, held: vec![(0, groups)], origin: Origin::Fetched, pinned: false, last_use }
    }

    #[test]
    fn records_are_found_by_hash_and_by_have_key_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index.redb")).unwrap();
        let hash = ContentHash::of(b"a");
        index.write(|batch| batch.put(&hash, &record(2, 5))).unwrap();
        index.write(|batch| batch.put(&hash, &record(3, 6))).unwrap();
        assert_eq!(index.get(&hash).unwrap(), Some(record(3, 6)));
        assert_eq!(index.find(&hash.have_key()).unwrap(), Some(hash));
        assert_eq!(index.write(|batch| batch.totals()).unwrap(), (record(3, 6).charge(), 1));
        assert_eq!(index.write(|batch| batch.take(&hash)).unwrap(), Some(record(3, 6)));
        assert_eq!(index.find(&hash.have_key()).unwrap(), None);
        assert_eq!(index.write(|batch| batch.totals()).unwrap(), (0, 0));
    }

    #[test]
    fn the_least_recently_used_goes_first_and_pinned_or_local_never() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index.redb")).unwrap();
        let hashes: Vec<_> = (0..5u8).map(|i| ContentHash::of(&[i])).collect();
        index
            .write(|batch| {
                batch.put(&hashes[0], &Record { pinned: true, ..record(1, 1) })?;
                batch.put(&hashes[1], &Record { origin: Origin::Local, ..record(1, 2) })?;
                batch.put(&hashes[2], &record(1, 3))?;
                batch.put(&hashes[3], &record(1, 4))?;
                batch.put(&hashes[4], &record(1, 5))?;
                batch.touch(&hashes[3], 6)
            })
            .unwrap();
        let evicted = index.write(|batch| batch.evict(16385, usize::MAX, |hash| *hash == hashes[2])).unwrap();
        let evicted: Vec<_> = evicted.into_iter().map(|(hash, _)| hash).collect();
        assert_eq!(evicted, [hashes[4], hashes[3]]);
        assert_eq!(index.write(|batch| batch.evict(u64::MAX, usize::MAX, |_| false)).unwrap().len(), 1);
    }

    #[test]
    fn another_format_is_refused_with_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.redb");
        let index = Index::open(&path).unwrap();
        index.write(|batch| Ok(batch.numbers.insert(VERSION, 77).map(|_| ())?)).unwrap();
        drop(index);
        let refused = Index::open(&path).unwrap_err();
        assert!(matches!(refused, StoreError::IndexVersion { found: 77, .. }));
        assert!(refused.to_string().contains("index.redb"), "{refused}");
    }

    #[test]
    fn a_damaged_file_is_told_from_one_that_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index.redb");
        drop(Index::open(&path).unwrap());
        let sound = std::fs::read(&path).unwrap();
        let header_altered = sound.iter().enumerate().map(|(at, byte)| if at / 512 == 0 { byte ^ 0x55 } else { *byte });
        let magic_only = sound[..64].to_vec();
        for damaged in [b"no index".to_vec(), vec![0; sound.len()], header_altered.collect(), magic_only] {
            std::fs::write(&path, damaged).unwrap();
            let refused = Index::open(&path).unwrap_err();
            assert!(matches!(refused, StoreError::IndexDamaged { .. }), "{refused:?}");
        }
        let refused = Index::open(dir.path()).unwrap_err();
        assert!(matches!(refused, StoreError::Index { .. }), "a directory: {refused:?}");
    }
}
