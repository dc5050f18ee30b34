//! The node that a command runs or talks to.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::background;
use super::failure::CommandError;
use super::leaving::lingering;
use super::output::print;
use super::signals::Signals;
use super::status::GOES_ON;
use super::supervisor;
use crate::config::{NodeConfig, StateDir, Verify};
use crate::control::{Client, ControlHandler, ControlListener, serve};
use crate::daemon::{self, Node};
use crate::descriptors;
use crate::fs::{Filesystem, Owner};
use crate::fuse::{Mount, MountError, MountOptions, Passthrough, check};
use crate::ids::PeerId;
use crate::store::StoreError;

/// How long reads and writes on disk that are still under way may hold up the end of a node.
const RUNTIME_END_WAIT: Duration = Duration::from_secs(1);

/// Runs a command's conversation on a runtime of its own.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::Failed(format!("no runtime can be made: {error}")))?
        .block_on(work)
}

/// A connection to the node that runs on `state`, or the sentence that says how to start one.
pub(super) async fn running_node(state: &StateDir) -> Result<Client, CommandError> {
    Client::connect(&state.control_socket()).await?.ok_or_else(|| {
        CommandError::Failed(format!(
            "no node runs on {dir}: start one with 'byhash serve --state {dir}' or 'byhash mount MOUNTPOINT --state {dir}'",
            dir = state.path().display()
        ))
    })
}

/// Where a node mounts.
pub(super) struct Place {
    /// An absolute path.
    pub(super) mountpoint: PathBuf,
    /// What is shown as the source of the mount, if that is not the usual.
    pub(super) source: Option<String>,
    /// Somebody waits on stdout until the node is ready. If he has gone, it is not wanted any more.
    pub(super) awaited: bool,
}

/// Runs a node, with a mount if a `place` is given, until it is told to end.
pub(super) fn run_node(config: &NodeConfig, place: Option<Place>) -> Result<(), CommandError> {
    descriptors::raise_limit();
    let runtime =
        daemon::runtime().map_err(|error| CommandError::Failed(format!("no runtime can be made: {error}")))?;
    let lived = runtime.block_on(live(config, place));
    runtime.shutdown_timeout(RUNTIME_END_WAIT);
    lived
}

async fn live(config: &NodeConfig, place: Option<Place>) -> Result<(), CommandError> {
    // Listened for before there is anything that would have to be cleaned up.
    let mut signals = Signals::listen()?;
    // In a task of its own, for it may have to wait for the disk.
    let config_of_node = config.clone();
    let starting = tokio::spawn(async move { Node::start(&config_of_node).await });
    let node = tokio::select! {
        biased;
        started = starting => match started.map_err(failed)? {
            Ok(node) => node,
            Err(error) => return Err(not_started(config, &error).await),
        },
        () = signals.any() => {
            tracing::info!("told to end before it had started");
            return Ok(());
        }
    };
    let attended = attend(&node, config, place, &mut signals).await;
    node.shutdown().await;
    attended
}

/// Why the node did not start; that another one runs there of which nothing is to be seen any more is said.
async fn not_started(config: &NodeConfig, error: &anyhow::Error) -> CommandError {
    let mut sentence = error.to_string();
    if let Some(StoreError::Locked { .. }) = error.downcast_ref()
        && let Some(mountpoint) = lingering(&config.state).await
    {
        sentence += &format!("; it was mounted at '{}' and is unmounted, but {GOES_ON}", mountpoint.display());
    }
    CommandError::Failed(sentence)
}

/// Gives the node its control socket and its mount, says that it is ready, and waits for the end.
async fn attend(
    node: &Arc<Node>,
    config: &NodeConfig,
    place: Option<Place>,
    signals: &mut Signals,
) -> Result<(), CommandError> {
    let listener = match ControlListener::bind(&config.state.control_socket()) {
        // Its content is served all the same; only commands find no node.
        Err(error) if error.is_of_the_disk() => {
            tracing::warn!("no command can reach this node: {error}");
            None
        }
        bound => Some(bound?),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let socket = listener.is_some().then(|| config.state.control_socket());
    let handler: Arc<dyn ControlHandler> = node.clone();
    let control = listener.map(|listener| tokio::spawn(serve(listener, handler, async { drop(stopped.await) })));
    let awaited = place.as_ref().is_some_and(|place| place.awaited);
    let mount = match place {
        Some(place) => tokio::select! {
            biased;
            mounted = mount_at(node, config, place, socket) => Some(mounted?),
            // The mount point may lie on a file system that hangs. What is mounted after all is taken off again.
            () = signals.any() => {
                tracing::info!("told to end before it was mounted");
                return Ok(());
            }
        },
        None => None,
    };
    if awaited {
        background::leave_session();
    }
    if announce(node.id(), node.listen_addr()) || !awaited {
        run_until_the_end(mount.as_ref(), signals).await;
    } else {
        tracing::info!("whoever started the node has gone before it was ready");
    }
    supervisor::tell_stopping();
    let ended = match mount {
        // It blocks for a bounded time, until programs have closed their files.
        Some(mount) => on_own_thread("byhash-unmount", move || take_off(mount)).await.and_then(|ended| ended),
        None => Ok(()),
    };
    drop(stop);
    // It ends at once, and a panic in it is no reason not to end in order.
    if let Some(control) = control {
        let _ = control.await;
    }
    ended
}

/// Waits until the node is to end.
async fn run_until_the_end(mount: Option<&Mount>, signals: &mut Signals) {
    supervisor::tell_ready(&match mount {
        Some(mount) => format!("mounted at {}", mount.path().display()),
        None => "serving".to_owned(),
    });
    let unmounted = async {
        match mount {
            Some(mount) => mount.ended().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = signals.any() => tracing::info!("told to end"),
        () = unmounted => tracing::info!("the mount has ended"),
        () = supervisor::give_signs_of_life(mount.map(|mount| mount.path().to_owned())) => {}
    }
}

/// Unmounts, and tells of a mount that had not been unmounted before but cut off: a supervisor then starts the node anew.
fn take_off(mount: Mount) -> Result<(), CommandError> {
    let (path, is_cut) = (mount.path().display().to_string(), mount.is_cut());
    mount.unmount().map_err(failed)?;
    if is_cut {
        return Err(CommandError::Failed(format!("the kernel has cut the connection of the mount at {path}")));
    }
    Ok(())
}

/// Does what blocks where nothing else can be in the way, as the disk may be for a long time.
pub(super) async fn on_own_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CommandError> {
    let (tell, told) = oneshot::channel();
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || drop(tell.send(work())));
    thread.map_err(failed)?;
    told.await.map_err(failed)
}

async fn mount_at(
    node: &Arc<Node>,
    config: &NodeConfig,
    place: Place,
    socket: Option<PathBuf>,
) -> Result<Mount, CommandError> {
    let mut filesystem = Filesystem::new(Arc::new(node.engine().clone()), node.metrics().clone(), Owner::of_process());
    if config.mount.hydrate {
        filesystem = filesystem.hydrating();
    }
    if let Some(socket) = socket {
        filesystem = filesystem.controlled_at(socket);
    }
    let filesystem = Arc::new(filesystem);
    let defaults = MountOptions::default();
    let (passthrough, direct) = match config.mount.verify {
        // The store keeps a file of its own where the blobs are.
        Verify::Once => (Passthrough::Like(config.store().lock_file()), false),
        Verify::Always => (Passthrough::Off("every read is checked (--verify=always)".to_owned()), true),
    };
    let allow_other = defaults.allow_other || config.mount.allow_other;
    let source = place.source.unwrap_or(defaults.source);
    let options = MountOptions { allow_other, passthrough, direct, source, needed: config.places() };
    let runtime = tokio::runtime::Handle::current();
    let mounting = move || Mount::new(&place.mountpoint, filesystem, options, runtime);
    let mount = tokio::task::spawn_blocking(mounting).await.map_err(failed)?.map_err(not_mounted)?;
    node.note_mount(mount.at().clone(), mount.modes());
    Ok(mount)
}

/// Refuses a mount point that cannot be one for the node of `config`. Waits for its file system as long as that takes: to
/// be called while there is nothing that a signal would leave behind.
pub(super) fn check_place(config: &NodeConfig, mountpoint: &Path) -> Result<(), CommandError> {
    check(mountpoint, &config.places()).map_err(not_mounted)
}

fn not_mounted(error: MountError) -> CommandError {
    match error {
        MountError::Hides { .. } => CommandError::Misused(error.to_string()),
        error => failed(error),
    }
}

fn failed(error: impl std::fmt::Display) -> CommandError {
    CommandError::Failed(error.to_string())
}

/// Prints the one line that a node prints on stdout: that it is ready, and its peer string. Tells whether it could be
/// printed.
fn announce(id: PeerId, bound: SocketAddr) -> bool {
    let ready = format!("ready {id}@{}", reachable(bound));
    tracing::info!("{ready}");
    let printed = print(&format!("{ready}\n"));
    if let Err(error) = &printed {
        tracing::warn!("nobody was told: {error}");
    }
    printed.is_ok()
}

/// `bound`, with an unspecified address replaced by one that others can dial: the address from
/// which this host would reach the world, or loopback where it has no route.
fn reachable(bound: SocketAddr) -> SocketAddr {
    if !bound.ip().is_unspecified() {
        return bound;
    }
    // Connecting a UDP socket sends nothing; 192.0.2.1 and 2001:db8::1 are set apart for
    // documentation (RFC 5737, RFC 3849), so the default route decides.
    let source = |local: SocketAddr, remote: SocketAddr| {
        let socket = UdpSocket::bind(local).ok()?;
        socket.connect(remote).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    };
    let v4 = source((Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv4Addr::new(192, 0, 2, 1), 9).into());
    let v6 = || source((Ipv6Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into());
    let ip = match bound {
        SocketAddr::V4(_) => v4.unwrap_or(Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(_) => v6().or(v4).unwrap_or(Ipv6Addr::LOCALHOST.into()),
    };
    SocketAddr::new(ip, bound.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_is_announced_as_one_that_can_be_dialled() {
        for bound in ["0.0.0.0:7117", "[::]:7117"] {
            let reachable = reachable(bound.parse().unwrap());
            assert!(!reachable.ip().is_unspecified());
            assert_eq!(reachable.port(), 7117);
        }
        let plain = "192.0.2.9:1".parse().unwrap();
        assert_eq!(reachable(plain), plain);
    }
}
