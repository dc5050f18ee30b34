//! What a peer may ask second: send me that.

use std::ops::Range;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::sending::Sent;
use super::turns::Turn;
use super::{SEND_DEADLINE, ServeError, Server, send};
use crate::buffers::SEGMENT_LEN;
use crate::ids::{BlobRange, Priority};
use crate::store::{Blob, StoreError};
use crate::transfer::TransferState;
use crate::transfer::exchange::pieces;
use crate::transport::BoxLane;
use crate::verify::{GROUP_LEN, bytes_of, group_count, groups_of, with_last_group};
use crate::wire::{Found, Message, NotFound, Request, encode};

impl Server {
    pub(super) async fn answer_request(
        &self,
        lane: &mut BoxLane,
        request: Request,
        sent: &Sent,
    ) -> Result<(), ServeError> {
        if !self.may_have(&lane.peer(), &request.hash) {
            return self.not_found(lane, &request).await;
        }
        let opened = while_there(lane, self.store.blob_soon(request.hash)).await?;
        let Ok(Some(blob)) = opened else { return self.not_found(lane, &request).await };
        // As urgent as a read here, but of a bounded number: neither side starves the other.
        // The last group, which proves the size, may come on top.
        let len = (request.len + GROUP_LEN).min(SEGMENT_LEN as u64) as usize;
        let mut buffer = self.budget.buffer(len, Priority::Foreground).await;
        let (asked, slice) = (request.clone(), self.turns.slice_len());
        let prepared = blob.blocking(move |blob| {
            let reply = prepare(blob, &asked, slice, &mut buffer);
            (buffer, reply)
        });
        let (mut buffer, reply) = while_there(lane, prepared).await?.map_err(failed)?;
        let Some(reply) = reply? else { return self.not_found(lane, &request).await };
        sent.note_size(blob.size());
        let found = Message::Found(Found { transfer_id: request.transfer_id, total_len: blob.size() });
        let mut head = encode(&found);
        head.extend_from_slice(&reply.proof);
        let turn = self.turn(lane, &request, sent, head.len() + reply.first).await?;
        let write = async {
            lane.write_all(&head).await?;
            lane.write_all(&buffer[..reply.first]).await
        };
        in_time(turn.spend(write)).await?;
        self.note_sent(sent, reply.first);
        drop(head);
        for piece in reply.rest {
            let len = piece.len() as usize;
            let mut turn = self.turn(lane, &request, sent, len).await?;
            // Whoever has little to do goes first. Not before the turn, or it would look as if nothing more
            // had been waiting.
            yield_now().await;
            if !blob.read_at_once(piece.start, &mut buffer[..len]) {
                drop(turn);
                let read = blob.blocking(move |blob| {
                    let read = blob.read_into(piece.start, &mut buffer[..len]);
                    (buffer, read)
                });
                let (filled, read) = while_there(lane, read).await?.map_err(failed)?;
                read.map_err(failed)?;
                buffer = filled;
                turn = self.turn(lane, &request, sent, 0).await?;
            }
            in_time(turn.spend(lane.write_all(&buffer[..len]))).await?;
            self.note_sent(sent, len);
        }
        timeout(SEND_DEADLINE, lane.flush())
            .await
            .map_err(|_| ServeError::Stuck)?
            .map_err(|e| ServeError::Lane(e.into()))?;
        self.metrics.served_exchanges.inc();
        Ok(())
    }

    async fn not_found(&self, lane: &mut BoxLane, request: &Request) -> Result<(), ServeError> {
        self.metrics.served_not_found.inc();
        send(lane, &Message::NotFound(NotFound { transfer_id: request.transfer_id })).await
    }

    /// Waits for the requester's turn to be sent `len` bytes, as long as it is there.
    async fn turn(&self, lane: &mut BoxLane, request: &Request, sent: &Sent, len: usize) -> Result<Turn, ServeError> {
        let turn = self.turns.turn(lane.peer(), request.transfer_id, request.weight, len);
        sent.note_state(TransferState::Waiting);
        let turn = while_there(lane, turn).await?;
        sent.note_state(TransferState::Moving);
        Ok(turn)
    }

    fn note_sent(&self, sent: &Sent, content: usize) {
        self.metrics.served_bytes.add(content as u64);
        sent.note_content(content as u64);
    }
}

/// Waits for `wanted` as long as the requester is there.
async fn while_there<T>(lane: &mut BoxLane, wanted: impl Future<Output = T>) -> Result<T, ServeError> {
    let mut byte = [0];
    tokio::select! {
        biased;
        wanted = wanted => Ok(wanted),
        read = lane.read(&mut byte) => match read {
            Ok(1..) => Err(ServeError::OutOfTurn),
            Ok(0) | Err(_) => Err(ServeError::Gone),
        },
    }
}

fn failed(error: StoreError) -> ServeError {
    ServeError::Store(error.to_string())
}

/// Waits for a peer to take what is written to it.
pub(super) async fn in_time(write: impl Future<Output = std::io::Result<()>>) -> Result<(), ServeError> {
    let written = timeout(SEND_DEADLINE, write).await.map_err(|_| ServeError::Stuck)?;
    written.map_err(|error| ServeError::Lane(error.into()))
}

/// A reply whose first bytes were read, and found right.
struct Reply {
    proof: Vec<u8>,
    /// Bytes of content read already.
    first: usize,
    rest: Vec<BlobRange>,
}

/// Reads what a reply begins with, the first of its content into `buffer`, which has room for as much
/// as was asked for and another group, up to a segment; what is sent at a time has `slice` bytes. `None`: this node has not got it,
/// or not in good order.
fn prepare(blob: &Arc<Blob>, request: &Request, slice: u64, buffer: &mut [u8]) -> Result<Option<Reply>, ServeError> {
    let size = blob.size();
    if request.start >= size.max(1) {
        return Err(ServeError::BeyondTheEnd);
    }
    let mut wanted: Range<u64> = groups_of(size, request.range());
    wanted.end = wanted.end.max(wanted.start + 1).min(group_count(size));
    let ranges = if request.prove_size { with_last_group(size, wanted) } else { vec![wanted] };
    if !ranges.iter().all(|groups| blob.has(groups.clone())) {
        return Ok(None);
    }
    let mut pieces: Vec<BlobRange> = ranges.iter().flat_map(|groups| pieces(bytes_of(size, groups), slice)).collect();
    let first = pieces.remove(0);
    let len = first.len() as usize;
    match (blob.read_proof(&ranges), blob.read_into(first.start, &mut buffer[..len])) {
        (Ok(proof), Ok(())) => Ok(Some(Reply { proof, first: len, rest: pieces })),
        (Err(error), _) | (_, Err(error)) => {
            tracing::warn!(hash = %request.hash, "not served: {error}");
            Ok(None)
        }
    }
}
