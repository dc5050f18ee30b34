//! Extended attributes: of files, how much of the blob is here, and who else has it; of the root, how its node is reached.

use std::os::unix::ffi::OsStrExt;

use super::{Filesystem, FsError, Ino};
use crate::transfer::BlobState;

/// `absent`, `partial` or `complete`.
const STATE: &[u8] = b"user.byhash.state";
/// The ids of known holders, one a line.
const HOLDERS: &[u8] = b"user.byhash.holders";
/// Both names, each ended by a zero byte, as listxattr(2) wants them.
const NAMES: &[u8] = b"user.byhash.state\0user.byhash.holders\0";

/// Of the root: the path of the socket on which its node takes commands.
pub const CONTROL_ATTRIBUTE: &str = "user.byhash.control";
/// Its name, ended by a zero byte.
const ROOT_NAMES: &[u8] = b"user.byhash.control\0";

/// How many holders are listed at most.
pub const MAX_LISTED_HOLDERS: usize = 1000;
/// What one takes: 64 digits and a line feed, in bytes.
const HOLDER_LINE: usize = 65;
/// The longest value Linux accepts, in bytes (`XATTR_SIZE_MAX` of linux/limits.h).
const XATTR_SIZE_MAX: usize = 65_536;
const _: () = assert!(MAX_LISTED_HOLDERS * HOLDER_LINE <= XATTR_SIZE_MAX);

/// The answer to getxattr(2) and listxattr(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum XattrReply {
    /// The caller gave no buffer: it asks how large one must be, in bytes.
    Size(u32),
    /// The value.
    Data(Vec<u8>),
}

impl XattrReply {
    fn fit(value: Vec<u8>, buffer: u32) -> Result<Self, FsError> {
        let size = u32::try_from(value.len()).map_err(|_| FsError::BufferTooSmall)?;
        match buffer {
            0 => Ok(Self::Size(size)),
            _ if size <= buffer => Ok(Self::Data(value)),
            _ => Err(FsError::BufferTooSmall),
        }
    }
}

impl Filesystem {
    /// The attribute `name` of `ino` for a caller with a buffer of `buffer` bytes. No network.
    /// [`FsError::NoAttribute`] if there is none of this name.
    pub fn xattr(&self, ino: Ino, name: &[u8], buffer: u32) -> Result<XattrReply, FsError> {
        if matches!(ino, Ino::ROOT | Ino::BY_HASH) {
            let socket = self.control.as_ref().filter(|_| ino == Ino::ROOT && name == CONTROL_ATTRIBUTE.as_bytes());
            let socket = socket.ok_or(FsError::NoAttribute)?;
            return XattrReply::fit(socket.as_os_str().as_bytes().to_vec(), buffer);
        }
        let hash = self.inodes.lock().blob(ino).ok_or(FsError::Stale)?.hash;
        let value = if name == STATE {
            match self.state(&hash) {
                BlobState::Absent => "absent",
                BlobState::Partial => "partial",
                BlobState::Complete => "complete",
            }
            .to_owned()
        } else if name == HOLDERS {
            let holders = self.source.known_holders(&hash);
            let lines: Vec<_> = holders.iter().take(MAX_LISTED_HOLDERS).map(ToString::to_string).collect();
            lines.join("\n")
        } else {
            return Err(FsError::NoAttribute);
        };
        XattrReply::fit(value.into_bytes(), buffer)
    }

    /// The names of the attributes of `ino`, each ended by a zero byte.
    pub fn xattr_names(&self, ino: Ino, buffer: u32) -> Result<XattrReply, FsError> {
        let names = match ino {
            Ino::ROOT if self.control.is_some() => ROOT_NAMES,
            Ino::ROOT | Ino::BY_HASH => &[],
            _ => NAMES,
        };
        XattrReply::fit(names.to_vec(), buffer)
    }
}
