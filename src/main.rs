//! The `byhash` program.

fn main() {}
