//! The commands: what the user typed, parsed, checked and carried out; a file a command.

mod add;
mod background;
mod checksum_line;
mod demo;
mod destination;
mod failure;
mod flags;
mod gc;
mod get;
mod hashes;
mod id;
mod keeper;
mod leaving;
mod log_file;
mod logging;
mod ls;
mod mount;
mod node;
mod output;
mod peers;
mod pin;
mod prefetch;
mod progress;
mod rm;
mod secret;
mod serve;
mod signals;
mod status;
mod supervisor;
mod table;
mod transfers;
mod unmount;
mod verify;
mod why;

use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand};

use crate::config::unknown_variables;
use failure::complain;

/// Exit code of a command that did what it was told.
const DONE: u8 = 0;
/// Exit code of a command that failed.
const FAILED: u8 = 1;
/// Exit code of a command that was not understood; the one that clap uses.
const MISUSED: u8 = 2;

/// A filesystem whose file names are content hashes: bytes come from any peer that holds them,
/// verified before anyone reads them.
#[derive(Debug, Parser)]
#[command(name = "byhash", version, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    /// Log more: -v says what happens, -vv everything. BYHASH_LOG (or RUST_LOG) takes a filter
    /// such as 'warn' or 'byhash::transport=trace' instead.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,

    #[command(subcommand)]
    command: Command,
}

/// What every help text ends with.
const AFTER_HELP: &str = "\
Examples:
  byhash demo                              see all of it work, on this machine
  byhash add model.bin                     keep a file here; prints '<hash>  model.bin'
  byhash serve --allow <id>                hand it to the node <id>; prints 'ready <id>@<addr>'
  byhash mount /mnt/net --peer <id>@192.0.2.7:7117
  cat /mnt/net/by-hash/<hash>              read it there, on another machine
  byhash get <hash> -o model.bin           fetch it from the running node, without the mount

A peer is [ID@]HOST:PORT. ID is what 'byhash id' prints there: the peer must prove that it
has that key. It may be left out where both sides have the same --secret-file (made by
'byhash secret'). A node lets nobody in unless --allow, --secret-file or --open says so.

Settings of a node: state, listen, peer, allow, secret-file, open, cache-size, serve-rate,
scrub-rate, allow-other, hydrate, verify. Each comes from its flag (--secret-file), else from
its variable (BYHASH_SECRET_FILE; lists separated by commas), else from its key in the
configuration file (--config or BYHASH_CONFIG). Other flags are flags only.

Exit codes: 0 done, 1 failed, 2 not understood (bad flag, peer, size, hash or configuration).";

#[derive(Debug, Subcommand)]
enum Command {
    /// Print this node's id (64 hexadecimal digits), making its key at first use
    Id(id::Id),
    /// Print a fresh network secret, to be kept in the --secret-file of every node of a network
    Secret(secret::Secret),
    /// Run a node without a mount, in the foreground
    Serve(serve::Serve),
    /// Run a node with a mount, in the background unless --foreground
    Mount(mount::Mount),
    /// End a mount, and the node that runs it
    Unmount(unmount::Unmount),
    /// Put files into the store and print their hashes, as b3sum does
    Add(add::Add),
    /// Fetch a blob to a file or to stdout
    Get(get::Get),
    /// Fetch blobs into the running node's cache, ahead of any reader
    Prefetch(prefetch::Prefetch),
    /// List the blobs held here
    Ls(ls::Ls),
    /// Remove blobs from the store, added here or fetched
    Rm(rm::Rm),
    /// Keep blobs from being evicted
    Pin(pin::Pin),
    /// Let blobs be evicted again
    Unpin(pin::Unpin),
    /// Remove fetched blobs that nobody uses, to make the cache smaller
    Gc(gc::Gc),
    /// Check what is held against its hashes, as the disk has it
    Verify(verify::Verify),
    /// Show how the running node is
    Status(status::Status),
    /// Show how the running node's peers are
    Peers(peers::Peers),
    /// List, show or end what is being fetched and sent
    Transfers(transfers::Transfers),
    /// Show what is held of a blob here, and what each peer said of it
    Why(why::Why),
    /// Show the main job at work: two holders and a mounted node on this machine
    Demo(demo::Demo),
}

/// Runs the program on the arguments of the process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    for name in unknown_variables(std::env::vars_os().map(|(name, _)| name)) {
        complain(&format_args!(
            "the variable {} has no effect: 'byhash --help' names those that have",
            name.escape_debug()
        ));
    }
    let runs_a_node = matches!(cli.command, Command::Serve(_) | Command::Mount(_));
    let result = logging::start(cli.verbose, runs_a_node).and_then(|()| match cli.command {
        Command::Id(command) => command.run(),
        Command::Secret(command) => command.run(),
        Command::Serve(command) => command.run(),
        Command::Mount(command) => command.run(),
        Command::Unmount(command) => command.run(),
        Command::Add(command) => command.run(),
        Command::Get(command) => command.run(),
        Command::Prefetch(command) => command.run(),
        Command::Ls(command) => command.run(),
        Command::Rm(command) => command.run(),
        Command::Pin(command) => command.run(),
        Command::Unpin(command) => command.run(),
        Command::Gc(command) => command.run(),
        Command::Verify(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Peers(command) => command.run(),
        Command::Transfers(command) => command.run(),
        Command::Why(command) => command.run(),
        Command::Demo(command) => command.run(),
    });
    match result {
        Ok(()) => ExitCode::from(DONE),
        Err(error) => error.report(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_help_names_every_setting_and_each_is_a_flag_of_mount() {
        let command = super::Cli::command();
        let mount = command.find_subcommand("mount").unwrap();
        let words: Vec<_> =
            super::AFTER_HELP.split_whitespace().map(|word| word.trim_end_matches([',', '.'])).collect();
        for setting in crate::config::SETTINGS {
            assert!(words.contains(&setting), "{setting}");
            assert!(mount.get_arguments().any(|flag| flag.get_long() == Some(setting)), "{setting}");
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
