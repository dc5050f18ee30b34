//! `byhash demo`: the main job in one command, with real processes and nothing pretended.

mod node;
mod reading;
mod sandbox;
mod second_blob;
mod story;

use std::io::IsTerminal;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::failure::CommandError;
use super::output::print;
use sandbox::Sandbox;

/// The arguments of `byhash demo`.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// The file to share [default: byhash's own program]
    file: Option<PathBuf>,
}

impl Demo {
    pub(super) fn run(self) -> Result<(), CommandError> {
        can_mount()?;
        let program = std::env::current_exe()
            .map_err(|error| CommandError::Failed(format!("the program's own file cannot be found: {error}")))?;
        let file = self.file.unwrap_or_else(|| program.clone());
        let file = regular_file(&file)?;
        let sandbox = Arc::new(Sandbox::new(program)?);
        sandbox.clean_up_on_signals()?;
        let told = story::tell(&sandbox, &file).and_then(|mountpoint| leave_to_user(&mountpoint));
        if told.is_err() {
            sandbox.wait_if_interrupted();
            sandbox.show_logs();
        }
        let cleaned = sandbox.clean_up();
        match told.and(cleaned) {
            Ok(()) => print("\nAll of it held.\n"),
            // Even if only stdout is gone: exit code 0 would say that all of it held.
            Err(CommandError::StdoutClosed) => Err(CommandError::AlreadySaid),
            Err(error) => Err(error),
        }
    }
}

/// Where `path` leads to, if that is a regular file.
fn regular_file(path: &Path) -> Result<PathBuf, CommandError> {
    let refused = |reason: &dyn std::fmt::Display| CommandError::Misused(format!("{}: {reason}", path.display()));
    let found = std::fs::canonicalize(path).map_err(|error| refused(&error))?;
    let kind = std::fs::metadata(&found).map_err(|error| refused(&error))?.file_type();
    if kind.is_file() {
        return Ok(found);
    }
    let what = match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    Err(refused(&format_args!("it is {what}, not a regular file")))
}

/// On a terminal, leaves the mount to the user until Enter.
fn leave_to_user(mountpoint: &Path) -> Result<(), CommandError> {
    if !(std::io::stdin().is_terminal() && std::io::stdout().is_terminal()) {
        return Ok(());
    }
    let names = mountpoint.join("by-hash");
    print(&format!(
        "\nThe mount is yours to try, from another terminal: ls -l {}\nPress Enter to end it.\n",
        names.display()
    ))?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map(drop).map_err(|error| CommandError::Failed(format!("stdin: {error}")))
}

/// Mounting takes root or `fusermount3`, and the kernel's FUSE device.
fn can_mount() -> Result<(), CommandError> {
    // SAFETY: geteuid has no preconditions and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    let on_path = |name: &str| {
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).is_file()))
    };
    if !root && !on_path("fusermount3") {
        let sentence = "the demo mounts a filesystem and needs root or fusermount3 (package fuse3); it has neither";
        return Err(CommandError::Failed(sentence.to_owned()));
    }
    if !Path::new("/dev/fuse").exists() {
        let sentence = "the demo mounts a filesystem and needs /dev/fuse, which is not here: load the kernel module \
                        fuse, or give the container the device";
        return Err(CommandError::Failed(sentence.to_owned()));
    }
    Ok(())
}
