//! The tables as they were at the last commit, kept open from one read to the next: to open them takes several
//! times as long as to look something up.

use parking_lot::{RwLock, RwLockWriteGuard};
use redb::{Database, ReadOnlyTable, ReadableDatabase};

use super::{BLOBS, HAVE, Key};

/// The tables that single entries are read from.
pub(super) struct Tables {
    pub blobs: ReadOnlyTable<Key, &'static [u8]>,
    pub have: ReadOnlyTable<Key, Key>,
}

/// Open once something was read since the last commit.
#[derive(Default)]
pub(super) struct LastCommit(RwLock<Option<Tables>>);

impl LastCommit {
    /// What `work` makes of the tables of `database`, which is the same for all calls.
    pub fn read<T>(
        &self,
        database: &Database,
        work: impl FnOnce(&Tables) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        let mut tables = self.0.read();
        if tables.is_none() {
            drop(tables);
            // They are opened under the lock that `forget` takes after a commit: none from before it stay.
            let mut closed = self.0.write();
            if closed.is_none() {
                let transaction = database.begin_read()?;
                *closed = Some(Tables { blobs: transaction.open_table(BLOBS)?, have: transaction.open_table(HAVE)? });
            }
            tables = RwLockWriteGuard::downgrade(closed);
        }
        work(tables.as_ref().expect("they were opened while nobody else could close them"))
    }

    /// There has been another commit.
    pub fn forget(&self) {
        *self.0.write() = None;
    }
}
