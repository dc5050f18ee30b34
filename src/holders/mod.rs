//! Who has what: peers, their standing, have-queries.
