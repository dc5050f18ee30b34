//! A range of bytes of a blob.

/// Bytes `start..end` of a blob, in bytes from its beginning; `start <= end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlobRange {
    /// The first byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl BlobRange {
    /// `start..end`; an end before the start makes an empty range.
    pub fn new(start: u64, end: u64) -> Self {
        Self { start, end: end.max(start) }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The part of it below `size`.
    pub fn clip(&self, size: u64) -> Self {
        Self::new(self.start.min(size), self.end.min(size))
    }
}
