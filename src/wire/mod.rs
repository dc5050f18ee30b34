//! The protocol: frames, explicit numbers, sizes and limits. No I/O.
