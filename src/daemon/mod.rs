//! The composition root: the only place that wires the parts together.

pub mod status;
