//! The composition root: the only place that wires the parts together.

mod node;
mod runtime;
pub mod status;

pub use node::Node;
pub use runtime::runtime;
