//! Lanes without sockets, for tests and simulations.
//!
//! A [`MemoryNetwork`] joins nodes of one process by pipes in memory. Nodes have ids but no keys:
//! nobody is refused. Works under tokio's paused clock, and can be broken on purpose: see
//! [`Fault`] and [`MemoryNetwork::cut`].

mod lane;
mod network;
#[cfg(test)]
mod tests;

pub use network::{Fault, MemoryDialer, MemoryListener, MemoryNetwork};
