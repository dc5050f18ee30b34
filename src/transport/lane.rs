//! A lane: what every kind of connection to a peer looks like to the engine.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::ids::{LaneBinding, PeerId};
use crate::wire::Hello;

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An authenticated, encrypted, ordered byte stream to a peer. Dropping it closes it.
///
/// Reads go straight to the caller's buffer; 128 KiB and more at a time are best. Written bytes
/// may wait in the lane until `flush`: flush once behind the last write of a message or body.
/// Writing up to 256 KiB at a time is best.
pub trait Lane: AsyncRead + AsyncWrite + Send + Unpin {
    /// The key that the other side proved to hold.
    fn peer(&self) -> PeerId;

    /// What stands for this lane and for no other.
    fn binding(&self) -> &LaneBinding;

    /// What the other side said of itself: version, features, limits.
    fn hello(&self) -> &Hello;
}

/// A lane of any kind.
pub type BoxLane = Box<dyn Lane>;

impl fmt::Debug for dyn Lane + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lane({})", self.peer().short())
    }
}
