//! How far scrubbing is, kept over restarts.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::ids::ContentHash;

/// From the beginning of one pass to that of the next, at least: damage is rare, and a small cache would
/// otherwise be read without end.
const PASS_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// Where a pass is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// When it began, in seconds since 1970.
    began: u64,
    /// What it has come to.
    pub at: At,
}

/// What a pass has come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum At {
    /// What lies behind this hash is still to be checked; `None`: everything.
    Behind(Option<ContentHash>),
    /// The end.
    Through,
}

impl Position {
    /// A pass that begins now.
    pub fn beginning() -> Self {
        Self { began: now(), at: At::Behind(None) }
    }

    /// Whether the pass is at its end.
    pub fn is_through(&self) -> bool {
        self.at == At::Through
    }

    /// How long the next pass is to wait. No longer than the interval, whatever the clock did.
    pub fn until_next_pass(&self) -> Duration {
        let since = Duration::from_secs(now().saturating_sub(self.began));
        PASS_INTERVAL.saturating_sub(since)
    }

    /// The position in the file at `path`, if it holds one.
    pub fn load(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Writes it to the file at `path`, for this user only, since a hash is a right to read. If it is lost, a
    /// pass begins anew.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(&serde_json::to_vec(self)?)
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_kept_for_this_user_alone_and_what_is_none_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("position");
        assert_eq!(Position::load(&path), None);
        for at in [At::Behind(None), At::Behind(Some(ContentHash::EMPTY)), At::Through] {
            let position = Position { began: 7, at };
            position.save(&path).unwrap();
            assert_eq!(Position::load(&path), Some(position));
        }
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Position::load(&path), None);
    }

    #[test]
    fn the_next_pass_is_due_a_day_after_the_last_began() {
        let began_ago = |seconds: u64| Position { began: now() - seconds, at: At::Through };
        assert!(began_ago(0).until_next_pass() > PASS_INTERVAL - Duration::from_secs(60));
        assert!(began_ago(24 * 3600).until_next_pass().is_zero());
        let future = Position { began: now() + 1000, at: At::Through };
        assert!(future.until_next_pass() <= PASS_INTERVAL);
    }
}
