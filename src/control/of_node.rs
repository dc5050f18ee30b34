//! What the control socket of a real node answers.

use std::sync::Arc;

use super::{ControlHandler, Failure, FailureKind, ProgressFn};
use crate::daemon::status::{BlobReport, NodeStatus, PeerStatus};
use crate::daemon::{MendError, Node};
use crate::ids::{ContentHash, TransferId};
use crate::store::Store;
use crate::transfer::{BlobReader, BlobSource, BlobState, BoxFuture, TransferStatus};

impl ControlHandler for Node {
    fn status(&self) -> BoxFuture<'_, NodeStatus> {
        Box::pin(async { Self::status(self) })
    }

    fn peers(&self) -> BoxFuture<'_, Vec<PeerStatus>> {
        Box::pin(async { Self::peers(self) })
    }

    fn transfers(&self) -> BoxFuture<'_, Vec<TransferStatus>> {
        Box::pin(async { Self::transfers(self) })
    }

    fn cancel(&self, id: TransferId) -> BoxFuture<'_, bool> {
        Box::pin(async move { self.cancel_transfer(id) })
    }

    fn why(&self, hash: ContentHash, ask: bool) -> BoxFuture<'_, BlobReport> {
        Box::pin(Self::why(self, hash, ask))
    }

    fn fetch(&self, hash: ContentHash, progress: ProgressFn) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            self.engine().fetch(hash, progress).await?;
            if self.is_held(hash) {
                return Ok(());
            }
            Err(Failure { kind: FailureKind::Other, error: MendError::NotKept.to_string() })
        })
    }

    fn mend(&self, hash: ContentHash, groups: Vec<(u64, u64)>, pinned: bool) -> BoxFuture<'_, Result<(), Failure>> {
        Box::pin(async move {
            Self::mend(self, hash, &groups, pinned).await.map_err(|error| match error {
                MendError::Fetch(error) => error.into(),
                error => Failure { kind: FailureKind::Other, error: error.to_string() },
            })
        })
    }

    fn land<'a>(&'a self, hashes: Option<&'a [ContentHash]>) -> BoxFuture<'a, ()> {
        Box::pin(self.engine().land(hashes))
    }

    fn is_held(&self, hash: ContentHash) -> bool {
        self.engine().state(&hash) == BlobState::Complete
    }

    fn store(&self) -> &Store {
        Self::store(self)
    }

    fn open_blob(&self, hash: ContentHash) -> BoxFuture<'_, Result<Arc<dyn BlobReader>, Failure>> {
        Box::pin(async move {
            let size = self.engine().size(hash).await?;
            Ok(self.engine().open(hash, size))
        })
    }
}
