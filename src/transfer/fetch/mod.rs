//! Fetching one blob: a task that lives while somebody wants bytes of it.
//!
//! Readers send [`Command`]s. The task asks who has the blob, cuts what is wanted and not yet
//! under way into exchanges, gives each to the holder that will probably have it here first, and
//! hands verified bytes to those who wait. What an exchange leaves undone is simply wanted again:
//! failing over, hedging a silent holder and using several holders at once are the same step.
//!
//! * `actor`: the task, its commands and events.
//! * `plan`: what to ask of whom next; `patience`: how long to wait, and when to give up.
//! * `swarm`: who fetches what of it where many fetch the same blob.
//! * `waiters`: who waits for which groups.
//! * `candidates`: who may be asked, and what those who may not be had to say.
//! * `flight`: one exchange under way, and where its bytes go.
//! * `answered`, `whole_writes`: what came with the answer to the question who has it, without an exchange.

mod actor;
mod answered;
mod candidates;
mod flight;
mod patience;
mod plan;
mod swarm;
mod waiters;
mod whole_writes;

pub use actor::{Command, spawn};
pub(super) use flight::MAX_UNWRITTEN;
pub use waiters::{Destination, Filled};
pub(super) use whole_writes::WholeWrites;
