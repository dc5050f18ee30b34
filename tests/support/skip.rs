//! Tests that cannot be run everywhere, and say so where they are not.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::io::Write;

/// Says that `what` is skipped since the machine lacks something. In CI that is a failure: `.ci/run` sees to all
/// that this is said of.
pub fn skip(what: &str, why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{what} may not be skipped in CI: {why}");
    skip_even_in_ci(what, why);
}

/// The same for what `.ci/run` cannot or does not provide: abilities of the kernel, some programs.
pub fn skip_even_in_ci(what: &str, why: &str) {
    // Not with `eprintln!`, of which nothing is shown for a test that passes.
    let _ = writeln!(std::io::stderr(), "{what} is skipped: {}", why.trim_end());
}
