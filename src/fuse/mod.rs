//! The thin adapter between the kernel, through `fuser`, and [`crate::fs`].
