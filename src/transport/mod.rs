//! Authenticated lanes to peers.
//!
//! A [`Lane`] is one ordered byte stream to a peer whose key is known; it carries one exchange at
//! a time, and a node opens several to a busy peer. [`TcpDialer`] and [`Listener`] make lanes of
//! TCP and TLS 1.3 with raw Ed25519 keys (RFC 7250) on both sides; [`memory`] makes lanes without
//! sockets, keys or clocks, for tests and simulations. Nothing else knows of `rustls`.
//!
//! # Who may connect
//!
//! An [`Admission`] lets in keys on its allow-list, whoever proves the [`NetworkSecret`], or
//! anyone where it says `open`; an empty one lets in nobody. A dialler in turn accepts only the
//! key it named, or, where it named none, one that proves the secret.
//!
//! # Opening a lane
//!
//! 1. TLS: each side proves that it holds its key. A dialler that named another key stops here,
//!    before it has said who it is.
//! 2. The dialler sends its [`Hello`](crate::wire::Hello), with its proof of the secret if it has one.
//! 3. The listener answers with its own `Hello`, or with `Refused` and the reason. Its proof of
//!    the secret goes only to a dialler that proved it too: a stranger learns nothing from it.
//!
//! A proof is a keyed BLAKE3 hash over the TLS exporter value and the prover's role, so that it
//! is good for this lane and this direction only. The secret is 256 random bits, so that a proof
//! shown to an impostor cannot be searched for it.
//!
//! # Ending one
//!
//! Dropping a lane closes it. Whoever gives up in the middle of a message or body must drop the
//! lane: what follows on it makes no sense any more.

mod admission;
mod dialer;
mod error;
mod framing;
mod handshake;
mod identity;
mod key_file;
mod lane;
mod listener;
pub mod memory;
mod names;
mod secret;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;

pub use admission::Admission;
pub use dialer::{CONNECT_TIMEOUT, Dialer, TcpDialer};
pub use error::TransportError;
pub use framing::{read_message, write_message};
pub use handshake::HANDSHAKE_TIMEOUT;
pub use identity::Identity;
pub use key_file::KeyFileError;
pub use lane::{BoxFuture, BoxLane, Lane};
pub use listener::{Acceptor, Listener, MAX_HANDSHAKES};
pub use secret::NetworkSecret;
