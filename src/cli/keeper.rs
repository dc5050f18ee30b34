//! Who keeps the store: the running node, or, where none runs, this process for a moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::failure::{CommandError, complain};
use super::node::running_node;
use crate::config::{StateDir, store_config};
use crate::control::{Client, ControlError, Order, Report};
use crate::daemon::{LOCK_POLL, LOCK_WAIT};
use crate::ids::ContentHash;
use crate::metrics::Metrics;
use crate::store::{HeldBlob, Scrubbed, Store, StoreError};

/// How long a command waits for a new index. What is done by then is kept, and the next command goes on from there.
const SETTLE_WAIT: Duration = Duration::from_secs(60);

/// How long it waits without a word.
const SILENT_WAIT: Duration = Duration::from_secs(1);

/// The time between two looks at whether the index is done.
const SETTLE_POLL: Duration = Duration::from_millis(10);

/// Whoever keeps the store of a state directory.
pub(super) struct Keeper {
    state: StateDir,
    cache_size: u64,
    who: Who,
}

/// Who it is.
pub(super) enum Who {
    /// A node runs.
    Node(Client),
    /// None runs; the store is open here, and locked.
    Store(Store),
}

impl Keeper {
    /// Connects to the node on `state` or opens its store; waits a bounded time while neither can be.
    pub(super) async fn reach(state: &StateDir, cache_size: u64) -> Result<Self, CommandError> {
        let deadline = Instant::now() + LOCK_WAIT;
        let with = |who| Ok(Self { state: state.clone(), cache_size, who });
        loop {
            if let Some(node) = Client::connect(&state.control_socket()).await? {
                return with(Who::Node(node));
            }
            match Store::open(store_config(state, cache_size), Arc::new(Metrics::default())) {
                Ok(store) => return with(Who::Store(store)),
                Err(StoreError::Locked { .. }) if Instant::now() < deadline => tokio::time::sleep(LOCK_POLL).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The same, where asking must not make a store.
    pub(super) async fn reach_existing(state: &StateDir, cache_size: u64) -> Result<Self, CommandError> {
        if !state.path().exists() {
            return Err(CommandError::Failed(format!(
                "{} does not exist, so nothing is held there: --state names a node's directory",
                state.path().display()
            )));
        }
        let keeper = Self::reach(state, cache_size).await?;
        if let Who::Store(store) = &keeper.who {
            settle(store).await;
        }
        Ok(keeper)
    }

    /// The node on `state`, which must run.
    pub(super) async fn reach_node(state: &StateDir, cache_size: u64) -> Result<Self, CommandError> {
        Ok(Self { state: state.clone(), cache_size, who: Who::Node(running_node(state).await?) })
    }

    /// Who it is now.
    pub(super) fn who(&mut self) -> &mut Who {
        &mut self.who
    }

    /// Whether that is this process.
    pub(super) fn is_here(&self) -> bool {
        matches!(self.who, Who::Store(_))
    }

    /// Looks for whoever keeps the store now, after a node that was ending.
    pub(super) async fn reach_again(&mut self) -> Result<(), CommandError> {
        tokio::time::sleep(LOCK_POLL).await;
        *self = Self::reach_existing(&self.state, self.cache_size).await?;
        Ok(())
    }

    /// Has what a check has dropped or found lacking fetched again. Only a node can.
    pub(super) async fn mend(&mut self, scrubbed: &Scrubbed) -> Result<(), CommandError> {
        match &mut self.who {
            Who::Node(node) => Ok(node.mend(scrubbed).await?),
            Who::Store(_) => Err(CommandError::Failed("the node that could fetch it has ended".to_owned())),
        }
    }

    /// Has something done with the store; by whoever keeps it next, if a node has ended before it began.
    pub(super) async fn order(&mut self, order: Order) -> Result<Report, CommandError> {
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match &mut self.who {
                Who::Node(node) => match node.order(order.clone()).await {
                    Err(ControlError::Closing) if Instant::now() < deadline => self.reach_again().await?,
                    done => return Ok(done?),
                },
                Who::Store(store) => return Ok(order.carry_out(store)?),
            }
        }
    }

    /// A page of what is held, from `after` on, which is moved on; to `None` if it is the last.
    pub(super) async fn page(&mut self, after: &mut Option<ContentHash>) -> Result<Vec<HeldBlob>, CommandError> {
        let Report::List(page) = self.order(Order::List { after: *after }).await? else { return Err(out_of_place()) };
        *after = page.next;
        Ok(page.blobs)
    }
}

/// Waits until the store knows all of its files again, if its index had to be made anew: what is not known yet would be
/// taken for lost.
async fn settle(store: &Store) {
    let start = Instant::now();
    let mut told = false;
    while store.is_rebuilding() {
        let waited = start.elapsed();
        if waited > SETTLE_WAIT {
            return complain(&"not all files of the cache are in its new index yet; what is not, is missing here");
        }
        if waited > SILENT_WAIT && !std::mem::replace(&mut told, true) {
            complain(&"the index of the cache is being made anew from its files");
        }
        tokio::time::sleep(SETTLE_POLL).await;
    }
}

/// What to say when the report is one of another order.
pub(super) fn out_of_place() -> CommandError {
    ControlError::OutOfPlace.into()
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}
