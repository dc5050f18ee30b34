//! How urgent something is.

/// How urgent a read is; the first is the most urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Somebody waits for these bytes now.
    Foreground,
    /// Somebody will probably want them soon.
    ReadAhead,
    /// Asked for ahead of any reader.
    Prefetch,
    /// Replaces what was found damaged; nobody has asked for it.
    Scrub,
}

impl Priority {
    /// The weight that a request of this priority asks for at a holder, where requests of one
    /// requester share what it gets in proportion to their weights.
    pub const fn weight(self) -> u8 {
        match self {
            Self::Foreground => 16,
            Self::ReadAhead => 4,
            Self::Prefetch => 2,
            Self::Scrub => 1,
        }
    }
}
