//! The transfer engine: what to fetch, from whom, in what order; and serving.
//!
//! * [`Engine`]: blobs for the layers above, through [`BlobSource`].
//! * `fetch`: the task that fetches one blob; `exchange`: one request and its reply.
//! * `reader`: bytes from memory, from the store, from peers.
//! * [`Server`]: answers peers' questions and requests.
//! * `buffers`, `recent`, `pending`: the memory budget, the segments verified last, the exchanges
//!   in flight.

mod buffers;
mod engine;
mod exchange;
mod fetch;
mod pending;
mod reader;
mod recent;
mod serve;
mod source;
mod status;

pub use buffers::{BUDGET_LEN, BufferBudget, SEGMENT_LEN};
pub use engine::Engine;
pub use pending::TransferStatus;
pub use serve::Server;
pub use source::{BlobReader, BlobSource, BlobState, BoxFuture, FetchError, Priority, SpaceUsage};
pub use status::{Direction, PeerShare, TransferState};
