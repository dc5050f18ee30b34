//! byhash beside what people use today, in one run on one machine: the same files, cold and warm, through
//! byhash, sshfs, rclone, casync, curl and the local file system.
//!
//! The servers run on this machine and have the files in memory. Each client is started anew for each round,
//! with nothing kept from before: the first reading is cold, the next one warm. In each round every system has
//! its turn.
//!
//! * large: one file read to its end, as `cat` does, 128 KiB at a time;
//! * small: files of 4 KiB, in folders of a hundred, each opened, read and closed, by eight readers;
//! * random: 4 KiB at places all over the large file, by one reader that says so (`POSIX_FADV_RANDOM`).
//!
//! `cargo bench --bench compare`. BYHASH_BENCH_MIB sets the large file's size in MiB (1024),
//! BYHASH_BENCH_FILES the number of small files (10000), BYHASH_BENCH_PAGES the places read at random (4000),
//! BYHASH_BENCH_ROUNDS the number of rounds (5), BYHASH_BENCH_LIMIT the seconds after which a reading is broken
//! off, and what came until then counts (20; curl is always waited for), BYHASH_BENCH_ONLY the part of a
//! system's name that it must have to be run, BYHASH_BENCH_OUT the folder for the table, the chart and the facts of
//! the machine (target/compare).
//! With `-- --quick` all is small enough for CI, and the ratios are held against those in `ratios.toml`, which
//! also says which systems are run.
//!
//! What is not installed is said to be missing. Debian has it in: sshfs openssh-server rclone nginx-light
//! casync curl.

mod chart;
mod content;
mod facts;
mod processes;
mod ratios;
mod readings;
mod report;
mod systems;

#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use content::Content;
use readings::{Limit, Reading, STARTS};
use report::Results;
use support::{set_aside, setting, touch_memory};
use systems::System;

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let size = |name: &str, full: usize, small: usize| setting(name, if quick { small } else { full });
    let len = size("BYHASH_BENCH_MIB", 1024, 64) << 20;
    let files = size("BYHASH_BENCH_FILES", 10_000, 1000);
    let pages = size("BYHASH_BENCH_PAGES", 4000, 500);
    let rounds = size("BYHASH_BENCH_ROUNDS", 5, 3);
    let limit = Limit(Duration::from_secs(size("BYHASH_BENCH_LIMIT", 20, 5) as u64));
    let only = std::env::var("BYHASH_BENCH_ONLY").unwrap_or_default();
    let out = std::env::var_os("BYHASH_BENCH_OUT").map_or_else(default_out, PathBuf::from);

    let dir = tempfile::tempdir().unwrap();
    let content = Content::make(&dir.path().join("content"), len, files, pages);
    let mut results = Results::new(&content, rounds, limit);
    let mut systems = Vec::new();
    let wanted = |name: &str| name.contains(&only) && (!quick || ratios::name(name));
    for offered in systems::all().into_iter().filter(|offered| wanted(offered.profile.name)) {
        let missing = (offered.missing)();
        results.enter(&offered, &missing);
        if missing.is_empty() {
            systems.push((offered.profile.name, (offered.make)(dir.path(), &content)));
        }
    }
    for round in 0..rounds {
        for (name, system) in &systems {
            let state = dir.path().join("round");
            std::fs::create_dir(&state).unwrap();
            one_round(&**system, &content, &state, limit, round == 0, |reading, figure| {
                println!("round {round}: {name:<22} {reading:<14} {figure:>9.0} {}", reading.unit());
                results.note(name, reading, figure);
            });
            set_aside(&state);
        }
    }
    drop(systems);
    print!("\n{}", results.table());
    if quick {
        ratios::hold_against(&results);
    } else {
        results.write(&out);
        println!("\nThis, a chart and the facts of the machine are in {}.", out.display());
    }
}

/// Beside what else cargo makes.
fn default_out() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("compare")
}

/// Every reading of one system, once. If `check`, what it gives is compared with the content, outside of
/// what is timed.
fn one_round(
    system: &dyn System,
    content: &Content,
    state: &Path,
    limit: Limit,
    check: bool,
    mut note: impl FnMut(Reading, readings::Figure),
) {
    for (number, start) in STARTS.iter().enumerate() {
        if number == 0 {
            touch_memory(state, content.len);
        }
        let home = state.join(number.to_string());
        std::fs::create_dir(&home).unwrap();
        let reached = system.start(&home);
        for reading in *start {
            note(*reading, reached.read(*reading, content, limit));
        }
        if check && number == 0 {
            reached.check(content);
        }
    }
}
