//! The composition root: the only place that wires the parts together.

mod node;
pub mod status;

pub use node::Node;
