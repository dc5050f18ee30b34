//! What the control socket of a real node answers.

use std::sync::Arc;

use super::{ControlHandler, Failure, StagedBlob};
use crate::daemon::Node;
use crate::daemon::status::{NodeStatus, PeerStatus};
use crate::ids::ContentHash;
use crate::transfer::{BlobReader, BlobSource, BoxFuture};

impl ControlHandler for Node {
    fn status(&self) -> BoxFuture<'_, NodeStatus> {
        Box::pin(async { Self::status(self) })
    }

    fn peers(&self) -> BoxFuture<'_, Vec<PeerStatus>> {
        Box::pin(async { Self::peers(self) })
    }

    fn adopt(&self, blob: StagedBlob) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { Self::adopt(self, blob).await.map_err(|error| error.to_string()) })
    }

    fn open_blob(&self, hash: ContentHash) -> BoxFuture<'_, Result<Arc<dyn BlobReader>, Failure>> {
        Box::pin(async move {
            let size = self.engine().size(hash).await?;
            Ok(self.engine().open(hash, size))
        })
    }
}
