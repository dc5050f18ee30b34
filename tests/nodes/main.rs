//! Nodes as their users run them: real processes, real sockets, real mounts, end to end.
//!
//! What a peer that lies, cuts off or falls silent in every possible place does to a reader is
//! shown by `tests/engine.rs`, where such peers are easily made up.

mod automount;
mod churn;
mod commands;
mod content;
mod damage;
mod errnos;
mod failover;
mod fstab;
mod git;
mod hanging;
#[path = "../support/hanging_files.rs"]
mod hanging_files;
mod keeping;
#[path = "../support/kernel.rs"]
mod kernel;
mod killed;
mod limits;
mod listing;
mod lying;
mod modes;
mod mount_points;
mod no_cache;
mod node;
mod programs;
mod reading;
mod removed;
mod restart;
mod rustc;
mod silent;
#[path = "../support/skip.rs"]
mod skip;
mod starting;
mod supervised;
mod toolchains;
mod trust;
mod verifying;
