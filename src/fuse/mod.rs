//! The thin adapter between the kernel, through `fuser`, and [`crate::fs`].
//!
//! `fuser` parses requests and writes replies. Mounting and unmounting are done here, because its
//! own are faulty (it unmounts by path whatever is mounted there, and can hang at the end).

mod adapter;
mod direct;
mod error;
mod fusermount;
mod kernel_window;
mod mount;
mod mount_point;
mod mount_table;
mod unmount;

pub use error::MountError;
pub use mount::{Mount, MountOptions};
pub use unmount::unmount;

/// What `mount` and `df` show as the source of a mount.
const SOURCE_NAME: &str = "byhash";

/// The type of a mount in `/proc/self/mountinfo`: the kernel's `fuse`, with our subtype.
const FS_TYPE: &str = "fuse.byhash";

/// The kernel's door to FUSE.
const DEVICE: &str = "/dev/fuse";
