//! A node of the demo: a real process.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use super::super::failure::CommandError;
use super::super::output::print;
use super::sandbox::Sandbox;
use crate::daemon::status::NodeStatus;
use crate::ids::PeerId;

/// How long a node may take until it is ready: far longer than it needs, even on a busy machine.
const READY_WAIT: Duration = Duration::from_secs(30);

/// The state directory of a node, with its key.
pub(super) struct Seed<'a> {
    sandbox: &'a Sandbox,
    pub(super) name: &'static str,
    state: PathBuf,
    pub(super) id: PeerId,
}

/// A running node.
pub(super) struct Node<'a> {
    seed: Seed<'a>,
    process: u32,
    /// Its peer string, `<id>@<addr>`.
    pub(super) peer: String,
}

impl<'a> Seed<'a> {
    /// Makes a state directory called `name` and a key in it.
    pub(super) fn new(sandbox: &'a Sandbox, name: &'static str) -> Result<Self, CommandError> {
        let state = sandbox.dir().join(name);
        let id = sandbox.run(&[OsStr::new("id"), OsStr::new("--state"), state.as_os_str()])?;
        print(&id)?;
        let id = id.trim_end().parse().map_err(|error| CommandError::Failed(format!("byhash id: {error}")))?;
        Ok(Self { sandbox, name, state, id })
    }

    /// Starts `byhash <command> --state ... --listen 127.0.0.1:0 <flags>` and waits until it is ready.
    pub(super) fn start(self, command: &[&OsStr], flags: &[String]) -> Result<Node<'a>, CommandError> {
        let mut args: Vec<OsString> = command.iter().map(|word| word.into()).collect();
        args.extend(["--state".into(), self.state.clone().into(), "--listen".into(), "127.0.0.1:0".into()]);
        args.extend(flags.iter().map(OsString::from));
        let args: Vec<&OsStr> = args.iter().map(OsString::as_os_str).collect();
        let log = self.sandbox.dir().join(format!("{}.log", self.name));
        let (process, stdout) = self.sandbox.start(&args, &log)?;
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            // The receiver has gone only if it has waited long enough.
            let _ = sender.send(read.map(|_| line));
        });
        let line = match receiver.recv_timeout(READY_WAIT) {
            Ok(line) => line.map_err(|error| CommandError::Failed(format!("{}: {error}", self.name)))?,
            Err(_) => return Err(CommandError::Failed(format!("{} was not ready in time", self.name))),
        };
        print(&line)?;
        let Some(peer) = line.trim_end().strip_prefix("ready ") else {
            return Err(CommandError::Failed(format!("{} ended before it was ready", self.name)));
        };
        Ok(Node { process, peer: peer.to_owned(), seed: self })
    }
}

impl Node<'_> {
    /// What it is called.
    pub(super) fn name(&self) -> &'static str {
        self.seed.name
    }

    /// Adds `file` and gives the first word of what was printed: the hash.
    pub(super) fn add(&self, file: &Path) -> Result<String, CommandError> {
        let printed =
            self.seed.sandbox.run(&["add".as_ref(), "--state".as_ref(), self.seed.state.as_ref(), file.as_ref()])?;
        print(&printed)?;
        let hash = printed.split(' ').next().unwrap_or_default();
        Ok(hash.trim_start_matches('\\').to_owned())
    }

    /// The value of the metric `name`.
    pub(super) fn metric(&self, name: &str) -> Result<u64, CommandError> {
        let json = self.seed.sandbox.run(&[
            "status".as_ref(),
            "--json".as_ref(),
            "--state".as_ref(),
            self.seed.state.as_ref(),
        ])?;
        let status: NodeStatus = serde_json::from_str(&json)
            .map_err(|error| CommandError::Failed(format!("byhash status --json: {error}")))?;
        let value = status.metrics.get(name).copied();
        let value = value.ok_or_else(|| CommandError::Failed(format!("byhash status has no metric {name}")))?;
        print(&format!("  ... \"{name}\": {value} ...\n"))?;
        Ok(value)
    }

    /// Kills it (SIGKILL): it has no time to say goodbye.
    pub(super) fn kill(&self) -> Result<(), CommandError> {
        print(&format!("$ kill -KILL {}   # {}\n", self.process, self.seed.name))?;
        self.seed.sandbox.kill(self.process)
    }
}
