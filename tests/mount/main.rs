//! The filesystem over blobs in memory: without FUSE, and mounted for real.

#[path = "../support/kernel.rs"]
mod kernel;
mod life;
mod memory_source;
mod mounted;
mod passthrough;
mod patience;
mod semantics;
#[path = "../support/skip.rs"]
mod skip;
mod with_fuse;
mod without_fuse;
