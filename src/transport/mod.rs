//! Authenticated lanes to peers.
