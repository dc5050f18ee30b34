//! byhash: a filesystem whose file names are content hashes.
//!
//! `/mnt/net/by-hash/<64 lower-case hex>` is a file whose name is the BLAKE3 hash of its content,
//! the digest `b3sum` prints. Reading it fetches the bytes from whichever peers hold them, checks
//! every 16 KiB group against the name before any reader sees it, keeps the verified bytes on
//! disk and serves them to other peers.
//!
//! # Layers
//!
//! A module imports only from modules below it (`tests/tidy.rs` checks the `use` lines):
//!
//! ```text
//! main        the process: exit codes
//! cli         what the user typed, a file a command
//! control     the control socket: how commands talk to a running node
//! daemon      the composition root: the one place that wires parts together
//! config      flags > environment > file > defaults, composed into each part's own Config
//! fuse        thin adapter: fuser types in, our types out
//! fs          names, inodes, handles, read-ahead; knows neither fuser nor the network
//! transfer    the engine: what to fetch, from whom, in what order; serving
//! holders     who has it: peers, scores, have-queries
//! transport   authenticated lanes: TCP + TLS 1.3 with raw public keys
//! wire        frames: numbers, sizes, limits; no I/O
//! store       bytes on disk, index, quota, eviction, crash order
//! buffers     the memory that content in flight may take: one budget
//! verify      BLAKE3 tree proofs; pure
//! metrics     every metric: name, unit
//! permits     a counted resource that goes to the most urgent first
//! descriptors how many files and sockets the process may have open
//! seldom      telling of what happens again and again only so often
//! ids         ContentHash, BlobRange, PeerId, TransferId
//! ```
//!
//! # Glossary
//!
//! * **blob**: a byte string named by its BLAKE3 hash.
//! * **group**: 16 KiB of a blob at a multiple of 16 KiB, the unit of verification (the last one
//!   may be shorter). Ranges on the wire consist of whole groups.
//! * **outboard**: the inner nodes of a blob's hash tree, 64 bytes each, in pre-order.
//! * **proof**: the part of an outboard that ties some groups to the hash.
//! * **holder**: a peer that has a blob, whole or in part.
//! * **lane**: one authenticated, encrypted connection to a peer; carries one exchange at a time.
//! * **exchange**: one request on a lane and its reply.
//! * **transfer**: one fetch of one blob, with all its exchanges; it has a [`ids::TransferId`].
#![warn(missing_docs)]

pub mod buffers;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod descriptors;
pub mod fs;
pub mod fuse;
pub mod holders;
pub mod ids;
pub mod metrics;
pub mod permits;
pub mod seldom;
pub mod store;
pub mod transfer;
pub mod transport;
pub mod verify;
pub mod wire;
