//! Where `get` writes to.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::failure::CommandError;
use super::output::stdout_error;

/// A place for a blob's bytes.
#[derive(Debug)]
pub(super) enum Destination {
    /// Standard output, unbuffered.
    Stdout(File),
    /// A device, pipe or the like, which must not be replaced by a file.
    Special { file: File, path: PathBuf },
    /// A file that appears, whole, at the end.
    Replaced(Replacement),
}

/// A temporary file beside its target; gone if dropped before it took its place.
#[derive(Debug)]
pub(super) struct Replacement {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
}

impl Destination {
    /// Standard output where `path` is `None` or `-`.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, CommandError> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else {
            let stdout = std::io::stdout().as_fd().try_clone_to_owned().map_err(stdout_error)?;
            return Ok(Self::Stdout(stdout.into()));
        };
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                Err(CommandError::Failed(format!("{}: it is a directory", path.display())))
            }
            Ok(metadata) if !metadata.is_file() => {
                let file = File::options().write(true).open(path).map_err(|error| write_error(path, &error))?;
                Ok(Self::Special { file, path: path.to_owned() })
            }
            _ => Ok(Self::Replaced(Replacement::beside(path)?)),
        }
    }

    /// Whether an end in the middle would leave something behind that dropping it removes.
    pub(super) fn needs_cleaning(&self) -> bool {
        matches!(self, Self::Replaced(_))
    }

    /// Writes all of `bytes`.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), CommandError> {
        match self {
            Self::Stdout(file) => file.write_all(bytes).map_err(stdout_error),
            Self::Special { file, path } => file.write_all(bytes).map_err(|error| write_error(path, &error)),
            Self::Replaced(Replacement { file, target, .. }) => {
                file.write_all(bytes).map_err(|error| write_error(target, &error))
            }
        }
    }

    /// The bytes are all there: lets the file appear.
    pub(super) fn finish(self) -> Result<(), CommandError> {
        match self {
            Self::Stdout(_) | Self::Special { .. } => Ok(()),
            Self::Replaced(replacement) => std::fs::rename(&replacement.temporary, &replacement.target)
                .map_err(|error| write_error(&replacement.target, &error)),
        }
    }
}

impl Replacement {
    fn beside(path: &Path) -> Result<Self, CommandError> {
        // A link stays one: what it points at is replaced.
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let Some(name) = target.file_name() else {
            return Err(CommandError::Failed(format!("{}: it has no file name", path.display())));
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".byhash-{}", std::process::id()));
        let temporary = target.with_file_name(hidden);
        let file =
            File::options().write(true).create_new(true).open(&temporary).map_err(|error| write_error(path, &error))?;
        Ok(Self { file, temporary, target })
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // After the rename there is nothing of that name.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

fn write_error(path: &Path, error: &std::io::Error) -> CommandError {
    CommandError::Failed(format!("{} cannot be written: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut destination = Destination::open(Some(&path)).unwrap();
        destination.write(b"half").unwrap();
        assert!(!path.exists());
        drop(destination);
        assert!(names(dir.path()).is_empty());

        let mut destination = Destination::open(Some(&path)).unwrap();
        destination.write(b"who").unwrap();
        destination.write(b"le").unwrap();
        destination.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn an_existing_file_stays_until_the_new_one_is_whole_and_a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("out"), dir.path().join("link"));
        std::fs::write(&path, "old").unwrap();
        std::os::unix::fs::symlink("out", &link).unwrap();
        let mut destination = Destination::open(Some(&link)).unwrap();
        destination.write(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        destination.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert!(link.is_symlink());
    }

    #[test]
    fn a_device_is_written_to_and_not_replaced() {
        let mut destination = Destination::open(Some(Path::new("/dev/null"))).unwrap();
        assert!(!destination.needs_cleaning());
        destination.write(b"x").unwrap();
        destination.finish().unwrap();
        assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn a_directory_or_a_place_that_is_not_there_is_named() {
        for path in ["/", "/nonexistent/x"] {
            let error = Destination::open(Some(Path::new(path))).unwrap_err();
            assert!(error.to_string().contains(path), "{error}");
        }
    }
}
