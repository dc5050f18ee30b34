//! The kernel's own read-ahead on the mount.

use std::io;

use crate::fs::KERNEL_WINDOW;

/// [`KERNEL_WINDOW`] as the kernel wants it.
const READ_AHEAD_KIB: u64 = KERNEL_WINDOW / 1024;

/// Raises the kernel's read-ahead for the mount with this device number (`major:minor`). Only
/// root may; everything works without it, slower.
pub(super) fn raise(device: &str) -> String {
    let file = format!("/sys/class/bdi/{device}/read_ahead_kb");
    match write(&file) {
        Ok(()) => format!("the kernel reads ahead {READ_AHEAD_KIB} KiB"),
        Err(error) => {
            tracing::debug!(file, %error, "the kernel's read-ahead stays as it is");
            format!("the kernel's read-ahead could not be raised ({error}): sequential reads are slower")
        }
    }
}

fn write(file: &str) -> io::Result<()> {
    std::fs::write(file, READ_AHEAD_KIB.to_string())
}
