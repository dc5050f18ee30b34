//! What a store does to its files, written down as it happens; and, where asked for, refused.
//!
//! This test program defines the functions of the C library through which the standard library changes
//! files, and so is called in their place, by the store and by redb alike. Neither knows.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::Permissions;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use libc::{mode_t, off64_t, size_t, ssize_t};

/// A file, whatever its name.
pub type FileId = usize;

/// What was done. Paths are relative to the directory recorded.
#[derive(Debug, Clone)]
pub enum Op {
    Create {
        file: FileId,
        path: PathBuf,
    },
    /// A symbolic link; what it leads to is there with its name.
    Link {
        file: FileId,
        path: PathBuf,
        to: PathBuf,
    },
    Write {
        file: FileId,
        at: u64,
        bytes: Vec<u8>,
    },
    SetLen {
        file: FileId,
        len: u64,
    },
    Mode {
        file: FileId,
        mode: u32,
    },
    Rename {
        file: FileId,
        from: PathBuf,
        to: PathBuf,
    },
    Unlink {
        path: PathBuf,
    },
    /// The content and length of a file, and its mode if `all`.
    SyncFile {
        file: FileId,
        all: bool,
    },
    SyncDir {
        path: PathBuf,
    },
    SyncAll,
    /// Nobody's doing, and durable: the disk has altered a byte.
    Damage {
        file: FileId,
        at: u64,
    },
    /// The same: a file is gone.
    Lose {
        path: PathBuf,
    },
    /// Not an operation: the test has come so far.
    Mark(usize),
}

/// A kind of call that can be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Read,
    Write,
    Sync,
}

/// Calls that fail.
#[derive(Debug, Clone)]
pub struct Fault {
    pub call: Call,
    /// Only of files whose path contains this.
    pub path: String,
    pub errno: c_int,
}

#[derive(Default)]
struct Recorder {
    dir: PathBuf,
    ops: Vec<Op>,
    /// By device and inode, as long as it has a name.
    files: HashMap<(u64, u64), FileId>,
    count: usize,
    fault: Option<Fault>,
}

static RECORDER: Mutex<Option<Recorder>> = Mutex::new(None);

/// Records what happens below `dir` while `work` runs.
pub fn record(dir: &Path, work: impl FnOnce()) -> Vec<Op> {
    *RECORDER.lock().unwrap() = Some(Recorder { dir: dir.canonicalize().unwrap(), ..Recorder::default() });
    work();
    RECORDER.lock().unwrap().take().unwrap().ops
}

/// Notes how far the test has come.
pub fn mark(number: usize) {
    if let Some(recorder) = RECORDER.lock().unwrap().as_mut() {
        recorder.ops.push(Op::Mark(number));
    }
}

/// Has the disk alter the byte `at` of the file at `path`. Nobody else may be at work.
pub fn damage(path: &Path, at: u64) {
    by_itself(|recorder| {
        let mode = std::fs::metadata(path).unwrap().permissions();
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[!byte[0]], at).unwrap();
        std::fs::set_permissions(path, mode).unwrap();
        let file = recorder.file(file.as_raw_fd()).unwrap();
        recorder.ops.push(Op::Damage { file, at });
    });
}

/// Has the disk lose the file at `path`. Nobody else may be at work.
pub fn lose(path: &Path) {
    by_itself(|recorder| {
        let lost = recorder.relative(path).unwrap();
        recorder.forget(&lost);
        std::fs::remove_file(path).unwrap();
        recorder.ops.push(Op::Lose { path: lost });
    });
}

/// Runs `work`, of which nothing is recorded but what it notes itself.
fn by_itself(work: impl FnOnce(&mut Recorder)) {
    let mut recorder = RECORDER.lock().unwrap().take().expect("recording");
    work(&mut recorder);
    *RECORDER.lock().unwrap() = Some(recorder);
}

/// From now on `fault` happens below the directory recorded; or none any more.
pub fn set_fault(fault: Option<Fault>) {
    RECORDER.lock().unwrap().as_mut().expect("recording").fault = fault;
}

impl Recorder {
    fn relative(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.dir).ok().map(Path::to_owned)
    }

    /// The path of an open file below the directory, if it still has one.
    fn path_of(&self, fd: RawFd) -> Option<PathBuf> {
        let path = std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
        self.relative(&path).filter(|path| !path.to_string_lossy().ends_with(" (deleted)"))
    }

    /// The file, and its creation noted if it is new.
    fn file(&mut self, fd: RawFd) -> Option<FileId> {
        let path = self.path_of(fd)?;
        let metadata = std::fs::metadata(self.dir.join(&path)).ok()?;
        let key = (metadata.dev(), metadata.ino());
        if let Some(file) = self.files.get(&key) {
            return Some(*file);
        }
        let file = self.add(key);
        self.ops.push(Op::Create { file, path });
        Some(file)
    }

    fn add(&mut self, key: (u64, u64)) -> FileId {
        let file = self.count;
        self.count += 1;
        self.files.insert(key, file);
        file
    }

    /// Notes a link that has just been made.
    fn note_link(&mut self, path: PathBuf, to: PathBuf) {
        let Ok(metadata) = std::fs::symlink_metadata(self.dir.join(&path)) else { return };
        let file = self.add((metadata.dev(), metadata.ino()));
        self.ops.push(Op::Link { file, path, to });
    }

    /// The file at `path` loses its name.
    fn forget(&mut self, path: &Path) -> Option<FileId> {
        let metadata = std::fs::symlink_metadata(self.dir.join(path)).ok()?;
        self.files.remove(&(metadata.dev(), metadata.ino()))
    }

    fn refuses(&self, call: Call, fd: RawFd) -> Option<c_int> {
        let fault = self.fault.as_ref().filter(|fault| fault.call == call)?;
        let path = self.path_of(fd)?;
        path.to_string_lossy().contains(&fault.path).then_some(fault.errno)
    }
}

/// Runs `call` with what records it; alone, so that the order noted is the order in which things happened.
fn recorded<T: From<i8>>(
    kind: Option<Call>,
    fd: RawFd,
    note: impl FnOnce(&mut Recorder),
    call: impl FnOnce() -> T,
) -> T {
    let Ok(mut recorder) = RECORDER.lock() else { return call() };
    let Some(recorder) = recorder.as_mut() else { return call() };
    if let Some(errno) = kind.and_then(|kind| recorder.refuses(kind, fd)) {
        // SAFETY: the place of this thread's errno is always valid.
        unsafe { *libc::__errno_location() = errno };
        return T::from(-1);
    }
    note(recorder);
    call()
}

fn path(name: *const c_char) -> PathBuf {
    // SAFETY: what is passed as a path to the C library ends in NUL.
    PathBuf::from(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

fn note_write(recorder: &mut Recorder, fd: c_int, bytes: *const c_void, len: size_t, at: u64) {
    if let Some(file) = recorder.file(fd) {
        // SAFETY: the caller of write gives `len` readable bytes.
        let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), len) }.to_vec();
        recorder.ops.push(Op::Write { file, at, bytes });
    }
}

// SAFETY (of all below): they have the signatures of the C library's functions and hand all they are
// given to the kernel as these do.

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(fd: c_int, bytes: *const c_void, len: size_t, at: off64_t) -> ssize_t {
    let note = |recorder: &mut Recorder| note_write(recorder, fd, bytes, len, at as u64);
    // SAFETY: see above.
    recorded(Some(Call::Write), fd, note, || unsafe { libc::syscall(libc::SYS_pwrite64, fd, bytes, len, at) }
        as ssize_t)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, len: size_t) -> ssize_t {
    // SAFETY: lseek takes no pointer.
    let at = || unsafe { libc::syscall(libc::SYS_lseek, fd, 0, libc::SEEK_CUR) } as u64;
    // Pipes and terminals are none of ours, and may be written to while a panic is reported.
    if fd <= 2 {
        // SAFETY: see above.
        return unsafe { libc::syscall(libc::SYS_write, fd, bytes, len) } as ssize_t;
    }
    let note = |recorder: &mut Recorder| note_write(recorder, fd, bytes, len, at());
    // SAFETY: see above.
    recorded(Some(Call::Write), fd, note, || unsafe { libc::syscall(libc::SYS_write, fd, bytes, len) } as ssize_t)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pread64(fd: c_int, bytes: *mut c_void, len: size_t, at: off64_t) -> ssize_t {
    // SAFETY: see above.
    recorded(
        Some(Call::Read),
        fd,
        |_| {},
        || unsafe { libc::syscall(libc::SYS_pread64, fd, bytes, len, at) } as ssize_t,
    )
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ftruncate64(fd: c_int, len: off64_t) -> c_int {
    let note = |recorder: &mut Recorder| {
        if let Some(file) = recorder.file(fd) {
            recorder.ops.push(Op::SetLen { file, len: len as u64 });
        }
    };
    // SAFETY: see above.
    recorded(Some(Call::Write), fd, note, || unsafe { libc::syscall(libc::SYS_ftruncate, fd, len) } as c_int)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fchmod(fd: c_int, mode: mode_t) -> c_int {
    let note = |recorder: &mut Recorder| {
        if let Some(file) = recorder.file(fd) {
            recorder.ops.push(Op::Mode { file, mode });
        }
    };
    // SAFETY: see above.
    recorded(None, fd, note, || unsafe { libc::syscall(libc::SYS_fchmod, fd, mode) } as c_int)
}

fn sync(fd: c_int, number: libc::c_long) -> c_int {
    let call = || {
        // SAFETY: see above.
        let done = unsafe { libc::syscall(number, fd) };
        done as c_int
    };
    let note = |recorder: &mut Recorder| {
        let Some(path) = recorder.path_of(fd) else { return };
        if number == libc::SYS_syncfs {
            recorder.ops.push(Op::SyncAll);
        } else if recorder.dir.join(&path).is_dir() {
            recorder.ops.push(Op::SyncDir { path });
        } else if let Some(file) = recorder.file(fd) {
            recorder.ops.push(Op::SyncFile { file, all: number == libc::SYS_fsync });
        }
    };
    recorded(Some(Call::Sync), fd, note, call)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    sync(fd, libc::SYS_fsync)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync(fd, libc::SYS_fdatasync)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn syncfs(fd: c_int) -> c_int {
    sync(fd, libc::SYS_syncfs)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(name: *const c_char) -> c_int {
    let note = |recorder: &mut Recorder| {
        let is_there = |path: &PathBuf| std::fs::symlink_metadata(recorder.dir.join(path)).is_ok();
        if let Some(path) = recorder.relative(&path(name)).filter(is_there) {
            recorder.forget(&path);
            recorder.ops.push(Op::Unlink { path });
        }
    };
    // SAFETY: see above.
    recorded(None, -1, note, || unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, name, 0) } as c_int)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rename(old: *const c_char, new: *const c_char) -> c_int {
    let note = |recorder: &mut Recorder| {
        let (Some(from), Some(to)) = (recorder.relative(&path(old)), recorder.relative(&path(new))) else { return };
        recorder.forget(&to);
        let Ok(metadata) = std::fs::symlink_metadata(recorder.dir.join(&from)) else { return };
        if let Some(file) = recorder.files.get(&(metadata.dev(), metadata.ino())).copied() {
            recorder.ops.push(Op::Rename { file, from, to });
        }
    };
    let here = libc::AT_FDCWD;
    // SAFETY: see above.
    recorded(None, -1, note, || unsafe { libc::syscall(libc::SYS_renameat2, here, old, here, new, 0) } as c_int)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn symlink(to: *const c_char, name: *const c_char) -> c_int {
    // SAFETY: see above.
    let call = || unsafe { libc::syscall(libc::SYS_symlinkat, to, libc::AT_FDCWD, name) } as c_int;
    // Only once it is made it can be told by its inode.
    let made = Cell::new(None);
    let note = |recorder: &mut Recorder| {
        made.set(Some(call()));
        if let Some(name) = recorder.relative(&path(name)).filter(|_| made.get() == Some(0)) {
            recorder.note_link(name, path(to));
        }
    };
    recorded(None, -1, note, || made.get().unwrap_or_else(call))
}
