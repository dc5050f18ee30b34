//! On what it was measured.

use std::fs;
use std::process::Command;

use crate::processes::first_line;

/// The machine, in a few lines.
pub fn facts() -> String {
    let field = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or("unknown", |(_, value)| value.trim()).to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let said = |program: &str, args: &[&str]| first_line(Command::new(program).args(args));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
    format!(
        "processor: {} x {}\nmemory: {}\nkernel: {}\nfile system: {}\nload at the end (1, 5, 15 minutes): {load}\n\
         byhash: {} ({})\n",
        cores,
        field("/proc/cpuinfo", "model name"),
        field("/proc/meminfo", "MemTotal"),
        said("uname", &["-srm"]),
        file_system(),
        said(env!("CARGO_BIN_EXE_byhash"), &["--version"]),
        said("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]),
    )
}

/// The kind of file system that all of it is on.
pub fn file_system() -> String {
    let said = Command::new("df").arg("--output=fstype").arg(std::env::temp_dir()).output();
    let said = said.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    said.lines().nth(1).unwrap_or("unknown").trim().to_owned()
}
