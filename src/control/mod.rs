//! The control socket: how the commands talk to a running node.
//!
//! Participants: a node, which listens on `control.sock` in its state directory (mode 0600: the
//! file permissions are the whole of the access control), and the commands of the same user. Goal:
//! small questions, and blobs streamed out as they are fetched.
//! Not a goal: other languages, other machines, or other versions of the program.
//!
//! A conversation is a sequence of questions on one connection, each a [`Request`] in a message
//! frame, answered by a [`Response`] in a message frame. The answer to `get` is a
//! [`Response::Blob`], then the blob's bytes in data frames, then an end frame, or a
//! [`Response::Error`] in a message frame in place of the rest. The answer to `prefetch` is any number of
//! [`Response::Prefetch`], each in a message frame, then an end frame. Before an order is carried out, [`Response::Begun`] is
//! sent, so that a client whose node ends knows whether it may have been. A client that hangs up withdraws
//! its question.

mod client;
mod error;
mod frame;
mod message;
mod of_node;
mod order;
mod prefetch;
mod server;

pub use client::{BlobStream, Client, PrefetchStream};
pub use error::ControlError;
pub use frame::{MAX_DATA_LEN, MAX_MESSAGE_LEN};
pub use message::{Failure, FailureKind, PrefetchEvent, Request, Response};
pub use order::{MAX_HASHES, MAX_STAGED, Order, PAGE_LEN, Report};

pub use server::{ControlHandler, ControlListener, ProgressFn, serve};

#[cfg(test)]
mod tests;
