//! The thin adapter between the kernel, through `fuser`, and [`crate::fs`].
//!
//! `fuser` parses requests and writes replies. Mounting and unmounting are done here, because its
//! own are faulty (it unmounts by path whatever is mounted there, and can hang at the end).

mod adapter;
mod backing;
mod caller;
mod direct;
mod error;
mod fusermount;
mod kernel_window;
mod mode;
mod mount;
mod mount_point;
mod mount_table;
mod replies;
mod unmount;

pub use backing::Passthrough;
pub use error::MountError;
pub use mode::MountModes;
pub use mount::{Mount, MountOptions, MountedAt};
pub use mount_point::{check, clear_dead};
pub use unmount::{control_socket, unmount};

/// What `mount` and `df` show as the source of a mount, if nothing else is said.
const SOURCE_NAME: &str = "byhash";

/// The type of a mount in `/proc/self/mountinfo`: the kernel's `fuse`, with our subtype.
const FS_TYPE: &str = "fuse.byhash";

/// The longest READ that the kernel may send, in bytes: one segment of the transfer engine, so that
/// a stream's replies are slices of what was just verified, and so that the kernel's window is read
/// in several requests at once. Measured on two cores: a cold stream is a sixth faster than with 1 MiB.
const MAX_READ_LEN: u32 = 256 * 1024;

/// The mount options that both ways to mount share.
fn shared_options(options: &MountOptions) -> String {
    let allow_other = if options.allow_other { ",allow_other" } else { "" };
    format!("default_permissions,max_read={MAX_READ_LEN}{allow_other}")
}

/// The kernel's door to FUSE.
const DEVICE: &str = "/dev/fuse";
