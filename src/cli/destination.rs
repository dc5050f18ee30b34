//! Where `get` writes to.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

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
    file: NamedTempFile,
    target: PathBuf,
}

/// The names of standard output as a file.
const STDOUT_PATHS: [&str; 3] = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// Where the names of open descriptors are: what they lead to is written to, whatever it is.
const DESCRIPTOR_DIRS: [&str; 2] = ["/dev/fd", "/proc/self/fd"];

/// The mode of a new file before the umask, as programs usually make them.
const NEW_FILE_MODE: u32 = 0o666;

impl Destination {
    /// Standard output where `path` is `None` or `-`.
    pub(super) fn open(path: Option<&Path>) -> Result<Self, CommandError> {
        let Some(path) =
            path.filter(|path| *path != Path::new("-") && !STDOUT_PATHS.iter().any(|name| *path == Path::new(name)))
        else {
            let stdout = std::io::stdout().as_fd().try_clone_to_owned().map_err(stdout_error)?;
            return Ok(Self::Stdout(stdout.into()));
        };
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                Err(CommandError::Failed(format!("{}: it is a directory", path.display())))
            }
            Ok(metadata) if !metadata.is_file() || DESCRIPTOR_DIRS.iter().any(|dir| path.starts_with(dir)) => {
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
                file.as_file_mut().write_all(bytes).map_err(|error| write_error(target, &error))
            }
        }
    }

    /// The bytes are all there: lets the file appear.
    pub(super) fn finish(self) -> Result<(), CommandError> {
        match self {
            Self::Stdout(_) | Self::Special { .. } => Ok(()),
            Self::Replaced(Replacement { file, target }) => {
                file.persist(&target).map(drop).map_err(|failed| write_error(&target, &failed.error))
            }
        }
    }
}

impl Replacement {
    /// It will have the owner and the permissions of the file that it replaces, as far as this user may give them.
    fn beside(path: &Path) -> Result<Self, CommandError> {
        let failed = |error: std::io::Error| write_error(path, &error);
        // A link stays one: what it leads to is replaced.
        let target = match std::fs::canonicalize(path) {
            Ok(target) => target,
            Err(_) if path.is_symlink() => {
                let path = path.display();
                return Err(CommandError::Failed(format!(
                    "{path}: it is a link to a file that is not there; remove the link or name that file"
                )));
            }
            Err(_) => path.to_owned(),
        };
        if target.file_name().is_none() {
            return Err(CommandError::Failed(format!("{}: it has no file name", path.display())));
        }
        let dir = target.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = make_beside(dir).map_err(failed)?;
        if let Ok(before) = std::fs::metadata(&target) {
            // Only root may give files away.
            let _ = fchown(file.as_file(), Some(before.uid()), Some(before.gid()));
            file.as_file().set_permissions(Permissions::from_mode(before.mode() & 0o777)).map_err(failed)?;
        }
        Ok(Self { file, target })
    }
}

/// A new file in `dir`. What fails is told without its name, which is none of the user's.
fn make_beside(dir: &Path) -> std::io::Result<NamedTempFile> {
    let mut options = File::options();
    options.read(true).write(true).create_new(true).mode(NEW_FILE_MODE);
    tempfile::Builder::new().prefix(".byhash-").make_in(dir, |path| options.open(path))
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
    fn what_is_replaced_hands_on_its_permissions_and_a_new_file_has_the_usual() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new, usual) = (dir.path().join("old"), dir.path().join("new"), dir.path().join("usual"));
        std::fs::write(&old, "old").unwrap();
        std::fs::set_permissions(&old, Permissions::from_mode(0o750)).unwrap();
        std::fs::write(&usual, "").unwrap();
        for path in [&old, &new] {
            let mut destination = Destination::open(Some(path)).unwrap();
            destination.write(b"x").unwrap();
            destination.finish().unwrap();
        }
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&old), mode(&new)), (0o750, mode(&usual)));
    }

    #[test]
    fn a_link_to_nothing_stays_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("nothing", &link).unwrap();
        let error = Destination::open(Some(&link)).unwrap_err().to_string();
        assert!(error.contains(link.to_str().unwrap()) && error.contains("link"), "{error}");
        assert!(link.is_symlink());
    }

    #[test]
    fn the_names_of_descriptors_are_not_replaced() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let name = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file.as_file()));
        let mut destination = Destination::open(Some(Path::new(&name))).unwrap();
        destination.write(b"x").unwrap();
        destination.finish().unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(file.as_file_mut(), &mut text).unwrap();
        assert_eq!(text, "x");
        for name in STDOUT_PATHS {
            assert!(matches!(Destination::open(Some(Path::new(name))).unwrap(), Destination::Stdout(_)), "{name}");
        }
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
            assert!(error.to_string().contains(path) && !error.to_string().contains(".byhash-"), "{error}");
        }
    }
}
