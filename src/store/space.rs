//! How much the store holds, and how much it may.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Usage;
use crate::metrics::Metrics;

/// What an eviction frees beyond the need in a store of [`SURPLUS_FROM`] or more, in bytes (16 MiB).
const SURPLUS: u64 = 16 << 20;

/// The capacity, in bytes, from which a surplus is evicted (1 GiB, 64 times the surplus).
const SURPLUS_FROM: u64 = 1 << 30;

/// The bytes charged for, reserved ones included, under the cap.
#[derive(Debug)]
pub(super) struct Space {
    dir: PathBuf,
    capacity: u64,
    keep_free: u64,
    used: AtomicU64,
    blobs: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Space {
    /// Room below `dir` of which `used` bytes are already taken by `blobs` blobs.
    pub fn new(dir: &Path, config: &super::Config, used: u64, blobs: u64, metrics: Arc<Metrics>) -> Self {
        metrics.store_bytes.add(used);
        metrics.store_blobs.add(blobs);
        let (capacity, keep_free) = (config.capacity, config.keep_free);
        Self { dir: dir.to_owned(), capacity, keep_free, used: used.into(), blobs: blobs.into(), metrics }
    }

    /// Takes `bytes` if the cap allows it.
    pub fn charge(&self, bytes: u64) -> bool {
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.capacity);
        let charged = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok();
        if charged {
            self.metrics.store_bytes.add(bytes);
        }
        charged
    }

    /// Gives `bytes` back.
    pub fn release(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.metrics.store_bytes.sub(bytes);
    }

    /// Counts one more blob.
    pub fn add_blob(&self) {
        self.blobs.fetch_add(1, Ordering::Relaxed);
        self.metrics.store_blobs.inc();
    }

    /// Counts one blob less.
    pub fn remove_blob(&self) {
        self.blobs.fetch_sub(1, Ordering::Relaxed);
        self.metrics.store_blobs.sub(1);
    }

    /// Bytes that have to go before `bytes` more fit within the cap and leave the disk the space to keep free.
    pub fn shortfall(&self, bytes: u64) -> u64 {
        let over = self.used.load(Ordering::Relaxed).saturating_add(bytes).saturating_sub(self.capacity);
        over.max(self.disk_shortfall(bytes))
    }

    /// Whether `bytes` could fit if everything were evicted.
    pub fn could_fit(&self, bytes: u64) -> bool {
        bytes <= self.capacity
    }

    /// Bytes that have to go before the disk has room for `bytes` beside the space to keep free.
    pub fn disk_shortfall(&self, bytes: u64) -> u64 {
        if self.keep_free == 0 {
            return 0;
        }
        // A file system that does not tell its space is written to until it refuses.
        file_system_available(&self.dir)
            .map_or(0, |available| self.keep_free.saturating_add(bytes).saturating_sub(available))
    }

    /// What to evict beyond the need, so that commits are few: nothing in a small store.
    pub fn surplus(&self) -> u64 {
        if self.capacity < SURPLUS_FROM { 0 } else { SURPLUS }
    }

    /// The figures for people.
    pub fn usage(&self) -> Usage {
        let used = self.used.load(Ordering::Relaxed);
        let on_disk = file_system_available(&self.dir).map_or(u64::MAX, |free| free.saturating_sub(self.keep_free));
        Usage {
            capacity: self.capacity,
            used,
            available: self.capacity.saturating_sub(used).min(on_disk),
            blobs: self.blobs.load(Ordering::Relaxed),
        }
    }
}

/// Bytes that an ordinary user can still write to the file system of `path`.
fn file_system_available(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut figures = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` is a NUL-terminated string and `figures` has room for the result; both live through the call.
    if unsafe { libc::statvfs(path.as_ptr(), figures.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: statvfs has returned 0, so it has filled in the structure.
    let figures = unsafe { figures.assume_init() };
    Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_is_never_passed_and_gauges_follow() {
        let metrics = Arc::new(Metrics::default());
        let config = super::super::Config { dir: "/".into(), capacity: 100, keep_free: 0 };
        let space = Space::new(&config.dir, &config, 60, 1, metrics.clone());
        assert!(!space.charge(41));
        assert!(!space.charge(u64::MAX));
        assert!(space.charge(40));
        assert_eq!(space.shortfall(7), 7);
        assert_eq!(metrics.store_bytes.get(), 100);
        space.release(100);
        assert_eq!((space.usage().used, metrics.store_bytes.get()), (0, 0));
    }

    #[test]
    fn the_disk_keeps_its_free_space() {
        let config = super::super::Config { dir: "/".into(), capacity: u64::MAX, keep_free: u64::MAX / 2 };
        let space = Space::new(&config.dir, &config, 0, 0, Arc::default());
        assert!(space.shortfall(1) > 0);
        assert_eq!(space.usage().available, 0);
    }
}
