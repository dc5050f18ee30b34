//! The node that a command runs or talks to.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use super::failure::CommandError;
use super::output::print;
use crate::config::{NodeConfig, StateDir};
use crate::control::{self, Client, ControlListener};
use crate::daemon::Node;
use crate::fs::{Filesystem, Owner};
use crate::fuse::{Mount, MountOptions};
use crate::ids::PeerId;
use crate::transfer::BlobSource;

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

/// Ends when the user or the system asks the process to end.
pub(super) async fn interrupted() -> Result<(), CommandError> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen =
        |kind| signal(kind).map_err(|error| CommandError::Failed(format!("no signal can be awaited: {error}")));
    let (mut int, mut term, mut hup) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
        _ = hup.recv() => {}
    }
    Ok(())
}

/// Threads for blocking work (disk, hashing of what is read from it). More would only queue at the
/// disk, and each costs memory.
const BLOCKING_THREADS: usize = 32;

/// Runs a node, with a mount if `mountpoint` is given, until it is told to end.
pub(super) fn run_node(config: NodeConfig, mountpoint: Option<PathBuf>) -> Result<(), CommandError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(|error| CommandError::Failed(format!("no runtime can be made: {error}")))?
        .block_on(run(config, mountpoint))
}

async fn run(config: NodeConfig, mountpoint: Option<PathBuf>) -> Result<(), CommandError> {
    let mut interrupted = std::pin::pin!(interrupted());
    let failed = |error: anyhow::Error| CommandError::Failed(format!("{error:#}"));
    let node = Node::start(&config).await.map_err(failed)?;
    let control = ControlListener::bind(&config.state.control_socket())?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let control = tokio::spawn(control::serve(control, node.clone(), async {
        let _ = stopped.await;
    }));
    let result = match mount(&node, mountpoint).await {
        Ok(mount) => match announce(node.id(), node.listen_addr()) {
            Ok(()) => until_the_end(&mut interrupted, mount).await,
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    let _ = stop.send(());
    let _ = control.await;
    node.shutdown().await;
    result
}

/// Mounts the node's filesystem, if it is to have one.
async fn mount(node: &Arc<Node>, mountpoint: Option<PathBuf>) -> Result<Option<Mount>, CommandError> {
    let Some(mountpoint) = mountpoint else { return Ok(None) };
    let source: Arc<dyn BlobSource> = Arc::new(node.engine().clone());
    let fs = Arc::new(Filesystem::new(source, node.metrics().clone(), Owner::of_process()));
    let runtime = tokio::runtime::Handle::current();
    let mounted = tokio::task::spawn_blocking(move || Mount::new(&mountpoint, fs, MountOptions::default(), runtime));
    let mounted = mounted.await.map_err(|error| CommandError::Failed(error.to_string()))?;
    let mount = mounted.map_err(|error| CommandError::Failed(error.to_string()))?;
    node.note_mount(mount.path().to_owned(), mount.notes());
    Ok(Some(mount))
}

/// Waits for a signal, or for somebody to unmount the filesystem; then unmounts it.
async fn until_the_end(
    interrupted: &mut (impl Future<Output = Result<(), CommandError>> + Unpin),
    mount: Option<Mount>,
) -> Result<(), CommandError> {
    let Some(mount) = mount else { return interrupted.await };
    let result = tokio::select! {
        result = interrupted => result,
        () = mount.ended() => {
            tracing::info!("{} was unmounted", mount.path().display());
            Ok(())
        }
    };
    let unmounted = tokio::task::spawn_blocking(move || mount.unmount()).await;
    match unmounted {
        Ok(Ok(())) => result,
        Ok(Err(error)) => Err(CommandError::Failed(error.to_string())),
        Err(error) => Err(CommandError::Failed(error.to_string())),
    }
}

/// Prints the one line that a node prints on stdout: that it is ready, and its peer string.
fn announce(id: PeerId, bound: SocketAddr) -> Result<(), CommandError> {
    print(&format!("ready {id}@{}\n", reachable(bound)))
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
