//! Reading files, checked and timed.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Instant;

use super::super::failure::CommandError;
use super::sandbox::at;
use crate::ids::ContentHash;

/// Bytes of one read (1 MiB), as `cp` and the like do it.
const READ_LEN: usize = 1 << 20;

/// How often each side of a comparison of speeds is timed; the best counts.
const ROUNDS: usize = 3;

/// Reads all of `path`, calls `reached` with the number of bytes read so far after each read, and
/// gives the hash of what was read, and its length in bytes.
pub(super) fn hash_of(
    path: &Path,
    mut reached: impl FnMut(u64) -> Result<(), CommandError>,
) -> Result<(ContentHash, u64), CommandError> {
    let mut hasher = blake3::Hasher::new();
    let mut len = 0;
    read(path, |bytes| {
        hasher.update(bytes);
        len += bytes.len() as u64;
        reached(len)
    })?;
    Ok((hasher.finalize().into(), len))
}

/// The speeds of reading two files, in bytes a second, each the best of a few rounds in turn.
pub(super) fn speeds(a: &Path, b: &Path) -> Result<(f64, f64), CommandError> {
    let mut best = (0.0_f64, 0.0_f64);
    for _ in 0..ROUNDS {
        best.0 = best.0.max(speed(a)?);
        best.1 = best.1.max(speed(b)?);
    }
    Ok(best)
}

fn speed(path: &Path) -> Result<f64, CommandError> {
    let start = Instant::now();
    let mut len = 0;
    read(path, |bytes| {
        len += bytes.len();
        Ok(())
    })?;
    Ok(len as f64 / start.elapsed().as_secs_f64().max(f64::EPSILON))
}

fn read(path: &Path, mut take: impl FnMut(&[u8]) -> Result<(), CommandError>) -> Result<(), CommandError> {
    let mut file = File::open(path).map_err(|error| at(path, &error))?;
    let mut buffer = vec![0; READ_LEN];
    loop {
        match file.read(&mut buffer).map_err(|error| at(path, &error))? {
            0 => return Ok(()),
            n => take(&buffer[..n])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_read_is_reported_and_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let content = vec![7; READ_LEN + 5];
        std::fs::write(&path, &content).unwrap();
        let mut marks = Vec::new();
        let (hash, len) = hash_of(&path, |reached| {
            marks.push(reached);
            Ok(())
        })
        .unwrap();
        assert_eq!((hash, len), (ContentHash::of(&content), content.len() as u64));
        assert_eq!(marks, [READ_LEN as u64, READ_LEN as u64 + 5]);
        assert!(hash_of(&path, |_| Err(CommandError::AlreadySaid)).is_err());
    }
}
