//! A FUSE file system that does nothing: one file, whose every READ is answered from the same memory. What reading it
//! takes is what the kernel and the two ways through its device take, and no file system can take less.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use byhash::fs::KERNEL_WINDOW;
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, LockOwner,
    MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, Request,
};

/// As a mount of byhash has them: bytes of a READ, event loops.
const READ_LEN: usize = 256 << 10;
const THREADS: usize = 2;

const FILE: INodeNo = INodeNo(2);
const TTL: Duration = Duration::from_secs(3600);

struct OneFile {
    len: u64,
    content: Vec<u8>,
}

impl OneFile {
    fn attr(&self, number: INodeNo) -> FileAttr {
        let (size, kind) = if number == FILE { (self.len, FileType::RegularFile) } else { (0, FileType::Directory) };
        FileAttr {
            ino: number,
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: 0o555,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl fuser::Filesystem for OneFile {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "file" {
            reply.entry(&TTL, &self.attr(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(number));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
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
        let len = self.len.saturating_sub(offset).min(size.into());
        reply.data(&self.content[..len as usize]);
    }
}

/// It is mounted as long as this lives.
pub struct BareFuse {
    dir: PathBuf,
    _session: BackgroundSession,
}

impl BareFuse {
    /// Mounts it at `dir`, which is made, with a file of `len` bytes.
    pub fn mount(dir: &Path, len: usize) -> Self {
        std::fs::create_dir(dir).unwrap();
        let mut config = Config::default();
        config.mount_options = vec![MountOption::RO, MountOption::CUSTOM(format!("max_read={READ_LEN}"))];
        config.n_threads = Some(THREADS);
        config.clone_fd = true;
        let content = vec![5; READ_LEN];
        let session = fuser::spawn_mount(OneFile { len: len as u64, content }, dir, &config).unwrap();
        let device = std::fs::metadata(dir).unwrap().dev();
        let window = format!("/sys/class/bdi/{}:{}/read_ahead_kb", libc::major(device), libc::minor(device));
        std::fs::write(&window, (KERNEL_WINDOW / 1024).to_string()).unwrap();
        Self { dir: dir.to_owned(), _session: session }
    }

    pub fn file(&self) -> PathBuf {
        self.dir.join("file")
    }
}
