//! A live mount.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use fuser::{Config, Session, SessionACL};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::adapter::Adapter;
use super::backing::{Backings, NoPassthrough, Passthrough, try_with};
use super::mode::MountModes;
use super::mount_table::MountEntry;
use super::unmount::{connection_dir, detach};
use super::{DEVICE, MountError, SOURCE_NAME, direct, fusermount, kernel_window, mount_point};
use crate::fs::{BY_HASH_NAME, Filesystem};

/// How many event loops serve a mount: two at least, so that one slow request holds up nothing,
/// and four at most, for they only pass requests on.
const MIN_THREADS: usize = 2;
const MAX_THREADS: usize = 4;

/// How long [`Mount::unmount`] waits for programs that still have files open.
const DRAIN: Duration = Duration::from_secs(1);

/// How long the event loops may take to end after the connection was cut.
const ABORT: Duration = Duration::from_secs(1);

/// How to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// Whether other users than the mounting one may read.
    pub allow_other: bool,
    /// Whether whole blobs are passed through.
    pub passthrough: Passthrough,
    /// Every read comes to the filesystem, past the kernel's cache.
    pub direct: bool,
    /// What is shown as the source of the mount; mount(8) tells by it whether a line of fstab is mounted.
    pub source: String,
    /// Files and directories that the process goes on using by name, absolute: a mount that hides one of them is refused.
    pub needed: Vec<PathBuf>,
}

impl Default for MountOptions {
    /// Everybody may read what root mounts; a user's mount is the user's own. No passthrough: which
    /// files there are is for the caller to say.
    fn default() -> Self {
        // SAFETY: this call has no preconditions and cannot fail.
        let is_root = unsafe { libc::geteuid() } == 0;
        Self {
            allow_other: is_root,
            passthrough: Passthrough::Off("not asked for".to_owned()),
            direct: false,
            source: SOURCE_NAME.to_owned(),
            needed: Vec::new(),
        }
    }
}

/// Where a filesystem was mounted.
#[derive(Debug, Clone)]
pub struct MountedAt {
    path: PathBuf,
    /// The device number, `major:minor`, by which this mount is told from others at its place.
    device: String,
}

impl MountedAt {
    /// The mount point: absolute, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is still mounted there, on top.
    pub fn is_there(&self) -> Result<bool, MountError> {
        let entry = MountEntry::at(&self.path);
        let entry = entry.map_err(|source| MountError::Inspect { path: self.path.clone(), source })?;
        Ok(entry.is_some_and(|entry| entry.device == self.device))
    }
}

/// A mounted filesystem. Dropping it unmounts.
pub struct Mount {
    at: MountedAt,
    fs: Arc<Filesystem>,
    /// Closed when the event loops have ended.
    ended: watch::Receiver<()>,
    /// The same for a thread that waits with a limit.
    ended_blocking: Mutex<mpsc::Receiver<()>>,
    modes: Arc<MountModes>,
    /// Whether unmounting has been done, well or badly.
    closed: bool,
}

impl Mount {
    /// Mounts `fs` at the directory `mount_point`, which may hold a dead mount but no live one, and
    /// returns when the mount answers. What waits for peers runs on `runtime`. Blocks for some
    /// milliseconds; needs no runtime to be entered.
    pub fn new(
        mount_point: &Path,
        fs: Arc<Filesystem>,
        options: MountOptions,
        runtime: Handle,
    ) -> Result<Self, MountError> {
        let path = mount_point::prepare(mount_point, &options.needed)?;
        let device_fd = attach(&path, &options)?;
        Self::serve(&path, device_fd, fs, &options, runtime).map_err(|source| {
            if let Err(error) = detach(&path) {
                tracing::warn!(%error, "after a failed start");
            }
            MountError::Session { path, source }
        })
    }

    /// Shakes hands with the kernel, starts the event loops and sees that they answer.
    fn serve(
        path: &Path,
        device_fd: OwnedFd,
        fs: Arc<Filesystem>,
        options: &MountOptions,
        runtime: Handle,
    ) -> io::Result<Self> {
        let entry = MountEntry::at(path)?.ok_or(io::ErrorKind::NotConnected)?;
        let threads = std::thread::available_parallelism().map_or(MIN_THREADS, usize::from);
        let threads = threads.clamp(MIN_THREADS, MAX_THREADS);
        let modes = Arc::new(MountModes::new(threads, options.direct, fs.hydrates()));
        let adapter = Adapter {
            fs: Arc::clone(&fs),
            runtime,
            modes: Arc::clone(&modes),
            wants_passthrough: matches!(options.passthrough, Passthrough::Like(_)),
            backings: Backings::default(),
        };
        let mut config = Config::default();
        config.n_threads = Some(threads);
        // A descriptor for each loop needs the device, which a user may not be able to open.
        config.clone_fd = direct::open_device().is_ok();
        // The kernel has checked who may come in, by allow_other.
        let session = Session::from_fd(adapter, device_fd, SessionACL::All, config)?;
        let passthrough = decide(&options.passthrough, modes.is_offered(), &session);
        fs.set_passthrough(passthrough.is_ok());
        modes.note_passthrough(passthrough);

        let (ended_tx, ended) = watch::channel(());
        let (ended_blocking_tx, ended_blocking) = mpsc::channel();
        std::thread::Builder::new().name("byhash-fuse".to_owned()).spawn(move || {
            // Dropped at the end of the thread, however it ends: first what those are asked by who are told by the other.
            let _ended = (ended_blocking_tx, ended_tx);
            match session.run() {
                Ok(()) => tracing::debug!("the FUSE session has ended"),
                Err(error) => tracing::error!(%error, "the FUSE session broke"),
            }
        })?;
        std::fs::metadata(path.join(BY_HASH_NAME))?;
        modes.note_window(kernel_window::raise(&entry.device));
        for sentence in modes.sentences() {
            tracing::info!("{sentence}");
        }
        let ended_blocking = Mutex::new(ended_blocking);
        let at = MountedAt { path: path.to_owned(), device: entry.device };
        Ok(Self { at, fs, ended, ended_blocking, modes, closed: false })
    }

    /// Where it was mounted.
    pub fn at(&self) -> &MountedAt {
        &self.at
    }

    /// The mount point: absolute, without symbolic links.
    pub fn path(&self) -> &Path {
        self.at.path()
    }

    /// How it runs.
    pub fn modes(&self) -> Arc<MountModes> {
        Arc::clone(&self.modes)
    }

    /// Waits until the mount is gone: unmounted here or by somebody else, or broken. May be
    /// dropped and called again.
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        // Nothing is ever sent, so this returns when the sender is gone.
        while ended.changed().await.is_ok() {}
    }

    /// Unmounts: at once for those who come later; programs that have files open get a second to
    /// finish, and then errors. Blocks for two seconds at most.
    pub fn unmount(mut self) -> Result<(), MountError> {
        self.end()
    }

    /// Whether it is still there although the kernel has cut its connection: by force, or because it waited too long for
    /// an answer. Blocks for some seconds at most.
    pub fn is_cut(&self) -> bool {
        self.wait(Duration::ZERO) && self.at.is_there().unwrap_or(false) && mount_point::is_dead(self.path())
    }

    fn end(&mut self) -> Result<(), MountError> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        if self.wait(Duration::ZERO) {
            return if self.is_cut() { detach(self.path()) } else { Ok(()) };
        }
        // Whatever else has been mounted here since is not ours to unmount.
        if self.at.is_there()? {
            detach(self.path())?;
        }
        if !self.wait(DRAIN) {
            tracing::warn!(files = self.fs.open_count(), "files are still open on the mount and break now");
            self.abort();
            self.fs.disconnect();
        }
        Ok(())
    }

    /// Whether the event loops end within `limit`.
    fn wait(&self, limit: Duration) -> bool {
        let ended = self.ended_blocking.lock().recv_timeout(limit);
        matches!(ended, Err(mpsc::RecvTimeoutError::Disconnected))
    }

    /// Cuts the connection by the kernel's control file system. Where that is not mounted, as in
    /// containers, the event loops are left to the end of the process.
    fn abort(&self) {
        let file = connection_dir(&self.at.device).join("abort");
        match std::fs::write(&file, "1") {
            Ok(()) if self.wait(ABORT) => {}
            Ok(()) => tracing::warn!("the FUSE session does not end although its connection was cut"),
            Err(error) => tracing::debug!(file = %file.display(), %error, "the connection could not be cut"),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "unmounting at the end");
        }
    }
}

/// Whether whole blobs are passed through, and if not, why. Decided once, before the first lookup.
fn decide(wanted: &Passthrough, offered: bool, device: impl AsFd) -> Result<(), NoPassthrough> {
    match wanted {
        Passthrough::Off(why) => Err(NoPassthrough::Off(why.clone())),
        Passthrough::Like(_) if !offered => Err(NoPassthrough::Kernel),
        Passthrough::Like(path) => try_with(device, &File::open(path)?),
    }
}

/// Mounts by the system call if we may, else by the helper.
fn attach(path: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let error = match direct::mount(path, options) {
        Ok(device_fd) => return Ok(device_fd),
        Err(error) => error,
    };
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => fusermount::mount(path, options),
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => Err(MountError::NoDevice { device: DEVICE, source: error }),
        _ => Err(MountError::Kernel { path: path.to_owned(), source: error }),
    }
}
