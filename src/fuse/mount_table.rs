//! What is mounted where, from `/proc/self/mountinfo`: without touching any mount, for a dead one
//! answers nothing and a hung one never.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line of the table, as proc_pid_mountinfo(5) describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MountEntry {
    /// The device number, as `major:minor`.
    pub device: String,
    /// Where it is mounted.
    pub path: PathBuf,
    /// The file system's type and subtype.
    pub kind: String,
}

impl MountEntry {
    /// What is mounted exactly at `path` (absolute, without symbolic links): the topmost.
    pub fn at(path: &Path) -> io::Result<Option<Self>> {
        let table = std::fs::read("/proc/self/mountinfo")?;
        let mut entries = table.split(|byte| *byte == b'\n').filter_map(Self::parse);
        Ok(entries.rfind(|entry| entry.path == path))
    }

    /// Whether it is a FUSE mount of any kind.
    pub fn is_fuse(&self) -> bool {
        self.kind == "fuse" || self.kind.starts_with("fuse.")
    }

    /// `36 35 0:42 / /mnt/net ro,nosuid shared:1 - fuse.byhash byhash ro`: the third field is the
    /// device, the fifth the place, and the type comes after a lone dash.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
        let path = unescape(fields.nth(1)?);
        fields.find(|field| *field == b"-")?;
        let kind = String::from_utf8_lossy(fields.next()?).into_owned();
        Some(Self { device, path: OsString::from_vec(path).into(), kind })
    }
}

/// Undoes the kernel's escapes: a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        match (byte, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_optional_fields_and_escapes_is_read() {
        let line = br"36 35 0:42 / /mnt/a\040b\134c ro,nosuid shared:1 master:2 - fuse.byhash byhash ro,user_id=0";
        let entry = MountEntry::parse(line).unwrap();
        let expected = MountEntry { device: "0:42".into(), path: r"/mnt/a b\c".into(), kind: "fuse.byhash".into() };
        assert_eq!(entry, expected);
        assert!(entry.is_fuse());
        assert_eq!(MountEntry::parse(b""), None);
        assert_eq!(MountEntry::parse(b"36 35 0:42 / /mnt rw"), None);
    }

    #[test]
    fn the_running_system_has_proc_and_not_nonsense() {
        let proc = MountEntry::at(Path::new("/proc")).unwrap().unwrap();
        assert_eq!((proc.kind.as_str(), proc.is_fuse()), ("proc", false));
        assert_eq!(MountEntry::at(Path::new("/no/such/place")).unwrap(), None);
    }
}
