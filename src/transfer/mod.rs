//! The transfer engine: what to fetch, from whom, in what order; and serving.
//!
//! * [`Engine`]: blobs for the layers above, through [`BlobSource`].
//! * `fetch`: the task that fetches one blob; `exchange`: one request and its reply.
//! * `reader`: bytes from memory, from the store, from peers.
//! * [`Server`]: answers peers' questions and requests.
//! * `recent`, `table`: the segments verified last, the transfers under way.

mod cancelled;
mod engine;
mod exchange;
mod fetch;
mod reader;
mod recent;
mod serve;
mod source;
mod status;
mod table;
mod whole;

pub use crate::ids::Priority;
pub use engine::Engine;
pub use serve::{ServeConfig, ServePolicy, Server};
pub use source::{
    BlobReader, BlobSource, BlobState, BoxFuture, FAR_AHEAD_LEN, FetchError, NEAR_AHEAD_LEN, SpaceUsage, WholeFile,
};
pub use status::{Direction, PeerShare, TransferState, TransferStatus};
