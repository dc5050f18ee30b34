//! What the user configured: flags over environment over file over defaults.
