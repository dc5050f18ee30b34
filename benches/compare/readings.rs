//! What is read, and how it is timed.

use std::fmt;
use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::content::{Content, SMALL_LEN};

/// Readers of small files.
pub const READERS: usize = 8;

/// A warm reading is repeated until it has taken this long: one time through is over too soon to be timed.
const WARM_TIME: Duration = Duration::from_millis(500);

/// What is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Large,
    Small,
    Random,
}

/// One thing that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reading {
    pub what: What,
    pub warm: bool,
}

const fn reading(what: What, warm: bool) -> Reading {
    Reading { what, warm }
}

/// The readings of a round, by the start of the client that they share. After the large file has been read
/// to its end, no place in it is cold.
pub const STARTS: [&[Reading]; 2] = [
    &[reading(What::Large, false), reading(What::Large, true), reading(What::Small, false), reading(What::Small, true)],
    &[reading(What::Random, false), reading(What::Random, true)],
];

impl Reading {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        STARTS.into_iter().flatten().copied()
    }

    /// What its figures count, in a second.
    pub fn unit(self) -> &'static str {
        match self.what {
            What::Large => "MB/s",
            What::Small => "files/s",
            What::Random => "reads/s",
        }
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            What::Large => "large",
            What::Small => "small",
            What::Random => "random",
        };
        f.pad(&format!("{what} {}", if self.warm { "warm" } else { "cold" }))
    }
}

/// Of its unit, in a second.
pub type Figure = f64;

/// How long a reading may take.
#[derive(Debug, Clone, Copy)]
pub struct Limit(pub Duration);

impl Limit {
    /// Calls `once` until it says that nothing is left, or the time since `start` is over; gives what it
    /// counted, in a second.
    fn rate(self, start: Instant, mut once: impl FnMut() -> Option<f64>) -> Figure {
        let mut done = 0.0;
        while start.elapsed() < self.0
            && let Some(more) = once()
        {
            done += more;
        }
        done / start.elapsed().as_secs_f64()
    }
}

/// The content as a client of some system reaches it.
pub trait Reached {
    /// Reads once, or again and again if it is warm.
    fn read(&self, reading: Reading, content: &Content, limit: Limit) -> Figure;

    /// Panics if what it gives is not the content.
    fn check(&self, content: &Content);
}

/// The content as files, and what is to be ended when it is no longer read.
pub struct Files<G> {
    large: PathBuf,
    small: Vec<PathBuf>,
    _guard: G,
}

impl<G> Files<G> {
    /// Files at these places.
    pub fn new(large: PathBuf, small: Vec<PathBuf>, guard: G) -> Self {
        Self { large, small, _guard: guard }
    }

    /// The same names below `dir`.
    pub fn below(dir: &Path, content: &Content, guard: G) -> Self {
        let small = content.small.iter().map(|path| dir.join(path)).collect();
        Self::new(dir.join(Content::LARGE), small, guard)
    }

    /// Takes the files out of the kernel's memory, so that they are read from the disk next.
    pub fn drop_from_memory(&self) {
        for path in self.small.iter().chain([&self.large]) {
            let file = File::open(path).unwrap();
            file.sync_data().unwrap();
            // SAFETY: an open descriptor.
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        }
    }

    /// Reads all of them, so that they are in memory.
    pub fn read_all(&self) {
        for path in self.small.iter().chain([&self.large]) {
            std::fs::read(path).unwrap();
        }
    }

    fn large_once(&self, limit: Limit) -> Figure {
        let mut buf = vec![0; 128 << 10];
        // Before the open: over a network that may take longer than many a read.
        let start = Instant::now();
        let mut file = File::open(&self.large).unwrap();
        limit.rate(start, || Some(file.read(&mut buf).unwrap()).filter(|n| *n > 0).map(|n| n as f64 / 1e6))
    }

    fn small_once(&self, limit: Limit) -> Figure {
        let (small, next, start) = (&self.small, AtomicUsize::new(0), Instant::now());
        let read = || {
            let mut done = 0;
            while start.elapsed() < limit.0
                && let Some(path) = small.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let mut buf = [0; 2 * SMALL_LEN];
                assert_eq!(File::open(path).unwrap().read(&mut buf).unwrap(), SMALL_LEN);
                black_box(buf);
                done += 1;
            }
            done
        };
        let done: usize = std::thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(read)).collect();
            readers.into_iter().map(|reader| reader.join().unwrap()).sum()
        });
        done as f64 / start.elapsed().as_secs_f64()
    }

    fn random_once(&self, pages: &[u64], limit: Limit) -> Figure {
        let start = Instant::now();
        let file = File::open(&self.large).unwrap();
        // SAFETY: an open descriptor.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
        let (mut page, mut numbers) = ([0; SMALL_LEN], pages.iter());
        limit.rate(start, || {
            file.read_exact_at(&mut page, numbers.next()? * SMALL_LEN as u64).unwrap();
            black_box(page);
            Some(1.0)
        })
    }
}

impl<G> Reached for Files<G> {
    fn read(&self, reading: Reading, content: &Content, limit: Limit) -> Figure {
        let once = || match reading.what {
            What::Large => self.large_once(limit),
            What::Small => self.small_once(limit),
            What::Random => self.random_once(&content.pages, limit),
        };
        if reading.warm { repeat(once) } else { once() }
    }

    fn check(&self, content: &Content) {
        let same = |ours: &Path, theirs: &Path| std::fs::read(ours).unwrap() == std::fs::read(theirs).unwrap();
        assert!(same(&content.large(), &self.large), "{} has other bytes", self.large.display());
        for (ours, theirs) in content.small.iter().zip(&self.small).step_by(100) {
            assert!(same(&content.dir.join(ours), theirs), "{} has other bytes", theirs.display());
        }
    }
}

/// The mean of as many times as fit into [`WARM_TIME`], one at least.
pub fn repeat(mut once: impl FnMut() -> Figure) -> Figure {
    let (start, mut inverse, mut times) = (Instant::now(), 0.0, 0.0);
    while times == 0.0 || start.elapsed() < WARM_TIME {
        inverse += 1.0 / once();
        times += 1.0;
    }
    times / inverse
}
