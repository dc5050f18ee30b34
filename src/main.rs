//! The `byhash` program.

fn main() -> std::process::ExitCode {
    byhash::cli::main()
}
