//! The commands: what the user typed, parsed, checked and carried out.
