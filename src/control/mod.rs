//! The control socket: how the commands talk to a running node.
