//! The composition root: the only place that wires the parts together.

mod mend;
mod node;
mod runtime;
mod scrub;
mod scrub_position;
pub mod status;

pub use mend::MendError;
pub use node::{LOCK_POLL, LOCK_WAIT, Node, SHUTDOWN_DEADLINE};
pub use runtime::runtime;
