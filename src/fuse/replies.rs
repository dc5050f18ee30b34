//! Our types as fuser's.

use std::time::{Duration, SystemTime};

use fuser::{Errno, FileAttr, FileType, Generation, INodeNo, ReplyAttr, ReplyEntry, ReplyXattr};

use crate::fs::{ATTR_TTL, Attr, BLOCK_SIZE, FsError, Ino, Kind, Lookup, MODE, MTIME, Owner, XattrReply};

pub(super) fn errno(error: &FsError) -> Errno {
    Errno::from_i32(error.errno())
}

pub(super) fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    let time = SystemTime::UNIX_EPOCH + MTIME;
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attr.kind),
        perm: MODE,
        nlink: attr.nlink,
        uid: attr.owner.uid,
        gid: attr.owner.gid,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

pub(super) fn reply_attr(result: Result<Attr, FsError>, reply: ReplyAttr) {
    match result {
        Ok(attr) => reply.attr(&ATTR_TTL, &file_attr(&attr)),
        Err(error) => reply.error(errno(&error)),
    }
}

/// Inode numbers are not used again for another blob while the kernel knows them.
const GENERATION: Generation = Generation(0);

pub(super) fn reply_lookup(result: Result<Lookup, FsError>, reply: ReplyEntry) {
    match result {
        Ok(Lookup::Found(entry)) => {
            let mut attr = file_attr(&entry.attr);
            // fuser has one number for the node and for what stat shows. Where they differ, the
            // kernel has to ask for the attributes.
            let attr_ttl = if entry.node == entry.attr.ino { entry.attr_ttl } else { Duration::ZERO };
            attr.ino = INodeNo(entry.node.0);
            reply.entry_with_ttls(&attr_ttl, &entry.ttl, &attr, GENERATION);
        }
        Ok(Lookup::Missing(ttl)) => reply_missing(ttl, reply),
        Err(error) => reply.error(errno(&error)),
    }
}

/// Inode 0 tells the kernel that there is nothing, and for how long that holds.
fn reply_missing(ttl: Duration, reply: ReplyEntry) {
    let nothing = Attr { ino: Ino(0), kind: Kind::File, size: 0, blocks: 0, nlink: 0, owner: Owner { uid: 0, gid: 0 } };
    reply.entry(&ttl, &file_attr(&nothing), GENERATION);
}

pub(super) fn reply_xattr(result: Result<XattrReply, FsError>, reply: ReplyXattr) {
    match result {
        Ok(XattrReply::Size(size)) => reply.size(size),
        Ok(XattrReply::Data(value)) => reply.data(&value),
        Err(error) => reply.error(errno(&error)),
    }
}
