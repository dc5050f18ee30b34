//! A file system with one file and one directory that answers nobody while it hangs, as that of a server that is gone.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner, OpenFlags, ReplyAttr,
    ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, Request, Session,
};

const FILE: INodeNo = INodeNo(2);
const FILE_NAME: &str = "file";

const DIR: INodeNo = INodeNo(3);
const DIR_NAME: &str = "dir";

/// How long a question may be waited for, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Gate {
    is_shut: bool,
    /// Who stands before it.
    asked: bool,
}

/// The mounted file system. Dropped, it no longer hangs; the mount is to be taken off by whoever has made the directory.
pub struct HangingFiles {
    path: PathBuf,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

impl HangingFiles {
    /// Mounts it at `path`, with `content` in its file.
    pub fn mount(path: &Path, content: &[u8]) -> Self {
        let gate = Arc::<(Mutex<Gate>, Condvar)>::default();
        let files = Files { content: content.to_vec(), gate: gate.clone() };
        let session = Session::new(files, path, &Config::default()).unwrap();
        std::thread::spawn(|| session.run());
        Self { path: path.to_owned(), gate }
    }

    pub fn file(&self) -> PathBuf {
        self.path.join(FILE_NAME)
    }

    /// Its directory, which is empty.
    pub fn dir(&self) -> PathBuf {
        self.path.join(DIR_NAME)
    }

    /// From now on nobody is answered.
    pub fn hang(&self) {
        *self.gate.0.lock().unwrap() = Gate { is_shut: true, asked: false };
    }

    /// Waits until somebody waits for an answer.
    pub fn wait_until_asked(&self) {
        let gate = self.gate.0.lock().unwrap();
        let (gate, _) = self.gate.1.wait_timeout_while(gate, PATIENCE, |gate| !gate.asked).unwrap();
        assert!(gate.asked, "nobody has asked for the file");
    }

    /// All are answered again.
    pub fn go_on(&self) {
        self.gate.0.lock().unwrap().is_shut = false;
        self.gate.1.notify_all();
    }
}

impl Drop for HangingFiles {
    fn drop(&mut self) {
        self.go_on();
    }
}

struct Files {
    content: Vec<u8>,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

impl Files {
    fn pass(&self) {
        let mut gate = self.gate.0.lock().unwrap();
        gate.asked = true;
        self.gate.1.notify_all();
        drop(self.gate.1.wait_while(gate, |gate| gate.is_shut).unwrap());
    }

    fn attr(&self, ino: INodeNo) -> FileAttr {
        let (kind, perm, size) = match ino {
            FILE => (FileType::RegularFile, 0o444, self.content.len() as u64),
            _ => (FileType::Directory, 0o755, 0),
        };
        let time = UNIX_EPOCH;
        FileAttr {
            ino,
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }
}

impl Filesystem for Files {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.pass();
        match [(FILE_NAME, FILE), (DIR_NAME, DIR)].into_iter().find(|(known, _)| name == *known) {
            Some((_, ino)) => reply.entry(&Duration::ZERO, &self.attr(ino), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.pass();
        reply.attr(&Duration::ZERO, &self.attr(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.pass();
        reply.opened(FileHandle(0), fuser::FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.pass();
        let start = self.content.len().min(offset as usize);
        let end = self.content.len().min(start + size as usize);
        reply.data(&self.content[start..end]);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.pass();
        reply.ok();
    }
}
