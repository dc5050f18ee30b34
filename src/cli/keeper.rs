//! Who keeps the store: the running node, or, where none runs, this process for a moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::failure::CommandError;
use crate::config::{StateDir, store_config};
use crate::control::{Client, ControlError, Order, Report};
use crate::metrics::Metrics;
use crate::store::{Store, StoreError};

/// How long a store may be in use by a process that does not answer on the control socket: another
/// command that will soon be done, or a node that is just starting or ending.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// How often it is tried meanwhile.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// Whoever keeps the store.
pub(super) enum Keeper {
    /// A node runs.
    Node(Client),
    /// None runs; the store is open here, and locked.
    Store(Store),
}

impl Keeper {
    /// Connects to the node on `state` or opens its store; waits a bounded time while neither can be.
    pub(super) async fn reach(state: &StateDir, cache_size: u64) -> Result<Self, CommandError> {
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            if let Some(node) = Client::connect(&state.control_socket()).await? {
                return Ok(Self::Node(node));
            }
            match Store::open(store_config(state, cache_size), Arc::new(Metrics::default())) {
                Ok(store) => return Ok(Self::Store(store)),
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
        Self::reach(state, cache_size).await
    }

    /// Has something done with the store.
    pub(super) async fn order(&mut self, order: Order) -> Result<Report, CommandError> {
        match self {
            Self::Node(node) => Ok(node.order(order).await?),
            Self::Store(store) => Ok(order.carry_out(store)?),
        }
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
