//! What is known of the peers' speed, kept over restarts.
//!
//! Only a hint: it decides who is asked first until the peer has shown how fast it is now. A file
//! that is missing, damaged or wrong costs nothing but that.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bytes of the largest file that is read: some 6000 peers.
const MAX_FILE_LEN: u64 = 1 << 20;

/// Rates outside of this are no rates, in bytes a second: a modem's, and more than memory has.
const SANE_RATES: std::ops::RangeInclusive<f64> = 100.0..=1e12;

/// The longest round trip that is believed.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(10);

/// What one peer was like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerHint {
    /// Who, as configured.
    pub peer: String,
    /// Content bytes a second that an exchange brought, smoothed.
    pub rate: Option<f64>,
    /// Milliseconds to the first byte of an answer, smoothed.
    pub round_trip_ms: Option<f64>,
}

impl PeerHint {
    /// The rate if it can be one.
    pub(super) fn sane_rate(&self) -> Option<f64> {
        self.rate.filter(|rate| SANE_RATES.contains(rate))
    }

    /// The round trip in seconds if it can be one.
    pub(super) fn sane_round_trip(&self) -> Option<f64> {
        let seconds = self.round_trip_ms? / 1e3;
        (0.0..=MAX_ROUND_TRIP.as_secs_f64()).contains(&seconds).then_some(seconds)
    }
}

/// Reads the hints at `path`. None, with a line in the log, if there is something else.
pub fn load(path: &Path) -> Vec<PeerHint> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut text = Vec::new();
        fs::File::open(path)?.take(MAX_FILE_LEN + 1).read_to_end(&mut text)?;
        Ok(text)
    };
    let parsed = match read() {
        Ok(text) if text.len() as u64 > MAX_FILE_LEN => Err("it is too long".to_owned()),
        Ok(text) => serde_json::from_slice(&text).map_err(|error| error.to_string()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => Err(error.to_string()),
    };
    parsed.unwrap_or_else(|error| {
        tracing::warn!("{} is ignored: {error}; peers are timed anew", path.display());
        Vec::new()
    })
}

/// Puts `hints` at `path`, in place of those that were there: all of them or, after a crash, the
/// old ones.
///
/// # Errors
/// As for making, writing and renaming a file.
pub fn save(path: &Path, hints: &[PeerHint]) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(&serde_json::to_vec(hints).map_err(std::io::Error::other)?)?;
    file.sync_data()?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(rate: f64, round_trip_ms: f64) -> PeerHint {
        PeerHint { peer: "h:7117".to_owned(), rate: Some(rate), round_trip_ms: Some(round_trip_ms) }
    }

    #[test]
    fn what_was_saved_is_loaded_again_and_replaces_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peer-hints.json");
        assert_eq!(load(&path), []);
        save(&path, &[hint(1e6, 2.5), hint(1e6, 2.5)]).unwrap();
        save(&path, &[hint(2e6, 0.5)]).unwrap();
        assert_eq!(load(&path), [hint(2e6, 0.5)]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_of_nonsense_is_no_hints() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peer-hints.json");
        let long = format!("[{}]", " ".repeat(MAX_FILE_LEN as usize));
        for text in ["", "{", "[{\"peer\":7}]", "[1,2]", &long] {
            fs::write(&path, text).unwrap();
            assert_eq!(load(&path), [], "{:.20}", text);
        }
    }

    #[test]
    fn figures_that_cannot_be_are_not_believed() {
        assert_eq!((hint(1e6, 2.5).sane_rate(), hint(1e6, 2.5).sane_round_trip()), (Some(1e6), Some(0.0025)));
        for wrong in [-1.0, 1e300, f64::NAN] {
            assert_eq!((hint(wrong, wrong).sane_rate(), hint(wrong, wrong).sane_round_trip()), (None, None));
        }
    }
}
