//! BLAKE3 tree proofs.
