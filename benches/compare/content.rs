//! What is read through every system.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::pseudo_random;

/// Bytes of a small file, and of a place that is read at random.
pub const SMALL_LEN: usize = 4096;

/// Small files in one folder.
const FOLDER_FILES: usize = 100;

/// One large file, many small ones, and the places in the large one that are read at random.
#[derive(Clone)]
pub struct Content {
    /// The folder that has all of it.
    pub dir: PathBuf,
    /// Bytes of the large file.
    pub len: usize,
    /// Paths of the small files below the folder.
    pub small: Vec<String>,
    /// Numbers of pages of [`SMALL_LEN`] bytes.
    pub pages: Vec<u64>,
}

impl Content {
    /// The path of the large file below the folder.
    pub const LARGE: &str = "large";

    /// Writes `files` small files and a large one of `len` bytes below `dir`.
    pub fn make(dir: &Path, len: usize, files: usize, pages: usize) -> Self {
        fs::create_dir(dir).unwrap();
        let bytes = pseudo_random(len.max(SMALL_LEN + files));
        fs::write(dir.join(Self::LARGE), &bytes[..len]).unwrap();
        let small: Vec<String> = (0..files).map(|n| format!("small/{:03}/{n}", n / FOLDER_FILES)).collect();
        for (n, path) in small.iter().enumerate() {
            if n % FOLDER_FILES == 0 {
                fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
            }
            // Each has a content of its own.
            fs::write(dir.join(path), &bytes[n..n + SMALL_LEN]).unwrap();
        }
        let mut at = 7_u64;
        let page = |_| {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (at >> 16) % (len / SMALL_LEN) as u64
        };
        Self { dir: dir.to_owned(), len, small, pages: (0..pages).map(page).collect() }
    }

    /// Where the large file was written.
    pub fn large(&self) -> PathBuf {
        self.dir.join(Self::LARGE)
    }
}
