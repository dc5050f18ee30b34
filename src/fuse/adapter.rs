//! fuser's trait, in terms of [`crate::fs`].
//!
//! What is answered from memory is answered on the event loop; what may wait goes to the runtime
//! with its reply. The kernel bounds how many are under way: [`MAX_BACKGROUND`] it makes itself,
//! and one for each thread that reads. A reply that is dropped unanswered says EIO, by which a
//! panic is answered too.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, FopenFlags, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tokio::runtime::Handle;

use super::backing::{Backings, Refused};
use super::caller::unless_told_to_end;
use super::mode::MountModes;
use super::replies::{errno, file_type, ino, reply_attr, reply_lookup, reply_xattr};
use crate::fs::{AttrStep, Filesystem, FsError, Lookup, LookupStep, Opened};
use crate::ids::ContentHash;
use crate::transfer::WholeFile;

/// How many requests of its own, such as read-ahead, the kernel may have under way. Its default
/// of 12 starves read-ahead of several files; each is at most [`MAX_READ_LEN`](super::MAX_READ_LEN).
const MAX_BACKGROUND: u16 = 64;

/// Asked of the kernel one by one, because fuser refuses all of several when one is unknown.
const CAPABILITIES: [InitFlags; 4] = [
    // Without it lookups in one directory wait for each other, and all blobs are in one.
    InitFlags::FUSE_PARALLEL_DIROPS,
    // Several reads of one file at once.
    InitFlags::FUSE_ASYNC_READ,
    // The same with O_DIRECT.
    InitFlags::FUSE_ASYNC_DIO,
    // Files that are read past the kernel's cache may be mapped all the same.
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
];

/// How many file systems may lie on top of each other, ours included, which then has plain ones below
/// it only. With 2 the cache could lie on overlayfs, but no overlayfs on a mount of ours.
const STACK_DEPTH: u32 = 1;

/// The filesystem as fuser wants it.
pub(super) struct Adapter {
    pub fs: Arc<Filesystem>,
    pub runtime: Handle,
    pub modes: Arc<MountModes>,
    /// Whether passthrough is wanted.
    pub wants_passthrough: bool,
    pub backings: Backings,
}

impl Adapter {
    /// Runs `answer` here; a panic in it must not end the event loop.
    fn inline(&self, operation: &'static str, answer: impl FnOnce(&Filesystem)) {
        if catch_unwind(AssertUnwindSafe(|| answer(&self.fs))).is_err() {
            tracing::error!(operation, "a defect: the handler panicked");
        }
    }

    /// Answers an open that is passed through.
    fn open_whole(&self, caller: u32, node: INodeNo, handle: u64, file: &WholeFile, reply: ReplyOpen) {
        let refused = match self.backings.open(ino(node), handle, file, reply) {
            Ok(()) => return,
            Err(refused) => refused,
        };
        self.fs.release(handle);
        match refused {
            // The blob was damaged and has been mended since. The kernel looks the name up anew, once.
            Refused::OtherFile(reply) => {
                self.fs.retire(ino(node));
                reply.error(Errno::ESTALE);
            }
            Refused::Kernel(reply, error) => {
                tracing::warn!(%error, "the kernel takes no more of the cache's files: no passthrough from now on");
                self.fs.set_passthrough(false);
                self.modes.note_passthrough(Err(error.into()));
                self.answer_open(caller, node, libc::O_RDONLY, reply);
            }
        }
    }

    /// Answers an open with the flags of open(2).
    fn answer_open(&self, caller: u32, node: INodeNo, flags: i32, reply: ReplyOpen) {
        let streamed = self.streamed();
        match self.fs.open(ino(node), flags) {
            Ok(Opened::Streamed(handle)) => reply.opened(FileHandle(handle), streamed),
            Ok(Opened::Whole(handle, file)) => self.open_whole(caller, node, handle, &file, reply),
            Ok(Opened::Unfetched(handle)) => self.spawn("open", move |fs| async move {
                hydrate(&fs, caller, handle, streamed, reply).await;
            }),
            Err(FsError::OpenOtherwise) => self.spawn("open", move |fs| async move {
                match fs.open_in_a_moment(ino(node), flags).await {
                    Ok(Opened::Streamed(handle)) => reply.opened(FileHandle(handle), streamed),
                    Ok(Opened::Unfetched(handle)) => hydrate(&fs, caller, handle, streamed, reply).await,
                    // Whole again in this very moment: the kernel looks the name up anew, once.
                    Ok(Opened::Whole(handle, _)) => {
                        fs.release(handle);
                        reply.error(Errno::ESTALE);
                    }
                    Err(error) => reply.error(errno(&error)),
                }
            }),
            Err(error) => reply.error(errno(&error)),
        }
    }

    /// Answers a lookup of `hash` by `answer`, or early.
    fn look_up<F>(&self, by: &Request, hash: ContentHash, reply: ReplyEntry, answer: impl FnOnce(Arc<Filesystem>) -> F)
    where
        F: Future<Output = Result<Lookup, FsError>> + Send + 'static,
    {
        let (caller, answer) = (by.pid(), answer(Arc::clone(&self.fs)));
        self.spawn("lookup", move |fs| async move {
            let result = match unless_told_to_end(caller, answer).await {
                Err(FsError::Interrupted) => Ok(fs.end_lookup(hash)),
                result => result,
            };
            reply_lookup(result, reply);
        });
    }

    /// The flags of an open whose reads come to us.
    fn streamed(&self) -> FopenFlags {
        let cache = if self.modes.is_direct() { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::FOPEN_KEEP_CACHE };
        cache | FopenFlags::FOPEN_NOFLUSH
    }

    /// Runs `answer` on the runtime, which catches panics.
    fn spawn<F>(&self, operation: &'static str, answer: impl FnOnce(Arc<Filesystem>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let answer = answer(Arc::clone(&self.fs));
        self.runtime.spawn(async move {
            let _note = NotePanic(operation);
            answer.await;
        });
    }
}

/// Answers an open once the blob has been fetched whole.
async fn hydrate(fs: &Filesystem, caller: u32, handle: u64, flags: FopenFlags, reply: ReplyOpen) {
    match unless_told_to_end(caller, fs.hydrate(handle)).await {
        Ok(()) => reply.opened(FileHandle(handle), flags),
        Err(error) => {
            fs.release(handle);
            reply.error(errno(&error));
        }
    }
}

/// Logs when it is dropped by a panic.
struct NotePanic(&'static str);

impl Drop for NotePanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(operation = self.0, "a defect: the handler panicked");
        }
    }
}

impl fuser::Filesystem for Adapter {
    /// `max_write` stays as it is: it bounds READ too. So does `max_readahead`, which is already
    /// the most that the kernel accepts here.
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in CAPABILITIES {
            if config.add_capabilities(capability).is_err() {
                tracing::debug!(?capability, "not known to this kernel");
            }
        }
        if let Err(nearest) = config.set_max_background(MAX_BACKGROUND) {
            tracing::debug!(nearest, "the number of background requests stays as it is");
        }
        let offered = self.wants_passthrough
            && config.set_max_stack_depth(STACK_DEPTH).is_ok()
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
        self.modes.note_offered(offered);
        Ok(())
    }

    fn destroy(&mut self) {
        self.inline("destroy", Filesystem::disconnect);
        self.backings.clear();
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.inline("lookup", |fs| match fs.lookup(ino(parent), name.as_bytes()) {
            LookupStep::Done(result) => reply_lookup(result, reply),
            LookupStep::Ask(hash) => {
                self.look_up(request, hash, reply, move |fs| async move { fs.ask_size(hash).await });
            }
            LookupStep::Check(hash, size) => {
                self.look_up(request, hash, reply, move |fs| async move { fs.check_small(hash, size).await });
            }
        });
    }

    fn forget(&self, _: &Request, number: INodeNo, count: u64) {
        self.inline("forget", |fs| fs.forget(ino(number), count));
    }

    fn getattr(&self, request: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.inline("getattr", |fs| match fs.attr(ino(number)) {
            Ok(AttrStep::Done(attr)) => reply_attr(Ok(attr), reply),
            Ok(AttrStep::Ask(hash)) => {
                let caller = request.pid();
                self.spawn("getattr", move |fs| async move {
                    reply_attr(unless_told_to_end(caller, fs.ask_attr(ino(number), hash)).await, reply);
                });
            }
            Err(error) => reply_attr(Err(error), reply),
        });
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _runtime = self.runtime.enter();
        self.inline("open", |_| self.answer_open(request.pid(), number, flags.0, reply));
    }

    fn read(
        &self,
        request: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        // What is at hand is sent from here: handing it over would cost more than sending it.
        let mut at_hand = None;
        self.inline("read", |fs| {
            let _runtime = self.runtime.enter();
            at_hand = fs.read_at_hand(handle.0, offset, size);
        });
        if let Some(bytes) = at_hand {
            return reply.data(&bytes);
        }
        // The kernel holds who reads past its cache, or again what failed to be read ahead.
        let caller = request.pid();
        self.spawn("read", move |fs| async move {
            match unless_told_to_end(caller, fs.read(handle.0, offset, size)).await {
                Ok(bytes) => reply.data(&bytes),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn release(
        &self,
        _: &Request,
        number: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.inline("release", |fs| {
            if fs.release(handle.0) {
                self.backings.release(ino(number));
            }
            reply.ok();
        });
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.inline("readdir", |fs| {
            let listed = fs.list(ino(number), offset, &mut |entry| {
                reply.add(INodeNo(entry.ino.0), entry.cookie, file_type(entry.kind), &entry.name)
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.inline("statfs", |fs| {
            let s = fs.statfs();
            // No number of files is all that there may be: 0, for which df shows a dash.
            reply.statfs(s.blocks, s.free, s.available, 0, 0, s.block_size, s.name_max, s.block_size);
        });
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.inline("getxattr", |fs| reply_xattr(fs.xattr(ino(number), name.as_bytes(), size), reply));
    }

    fn listxattr(&self, _: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        self.inline("listxattr", |fs| reply_xattr(fs.xattr_names(ino(number), size), reply));
    }

    // Writes. The kernel refuses most itself, the mount being read-only; fuser would log the rest.

    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(Errno::EROFS);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn rename(&self, _: &Request, _: INodeNo, _: &OsStr, _: INodeNo, _: &OsStr, _: RenameFlags, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EROFS);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::EROFS);
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(Errno::EROFS);
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(Errno::EROFS);
    }

    // Not for a read-only filesystem of files without links. After ENOSYS the kernel does it by
    // itself (flush and fsync succeed, locks are local, seeking sees no holes) and asks no more.

    fn readlink(&self, _: &Request, _: INodeNo, reply: ReplyData) {
        reply.error(Errno::EINVAL);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn getlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        _: i32,
        _: u32,
        reply: ReplyLock,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn setlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        _: i32,
        _: u32,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }
}
