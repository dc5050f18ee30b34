//! The transfer engine: what to fetch, from whom, in what order; and serving.

mod source;

pub use source::{BlobReader, BlobSource, BlobState, BoxFuture, FetchError, Priority, SpaceUsage};
