//! Whole messages on a byte stream.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::TransportError;
use crate::wire::{FRAME_PREFIX_LEN, Message, decode, encode, frame_len};

/// Reads the next message; `None` if the stream ends before it begins. Reads no byte beyond it,
/// so that a body may follow. Has no deadline of its own.
///
/// Not safe to cancel: if the future is dropped before it is done, part of a message may be lost,
/// and the lane has to be dropped too.
///
/// # Errors
///
/// [`TransportError::Wire`] if the peer breaks the protocol, [`TransportError::Closed`] if the
/// stream ends inside the message, [`TransportError::Io`] if it breaks. The lane is of no more use.
pub async fn read_message<R: AsyncRead + Unpin + ?Sized>(lane: &mut R) -> Result<Option<Message>, TransportError> {
    let mut prefix = [0; FRAME_PREFIX_LEN];
    match lane.read(&mut prefix).await {
        // TLS reports an end without a farewell as an error; between messages nothing is lost by it.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
        Ok(0) => return Ok(None),
        Ok(some) => lane.read_exact(&mut prefix[some..]).await?,
    };
    let mut frame = vec![0; frame_len(prefix)?];
    lane.read_exact(&mut frame).await?;
    Ok(Some(decode(&frame)?))
}

/// Writes a message and flushes it. Has no deadline of its own.
///
/// Not safe to cancel: if the future is dropped before it is done, part of a message may have been
/// sent, and the lane has to be dropped too.
///
/// # Errors
///
/// [`TransportError::Io`] or [`TransportError::Closed`]; the lane is of no more use.
pub async fn write_message<W: AsyncWrite + Unpin + ?Sized>(
    lane: &mut W,
    message: &Message,
) -> Result<(), TransportError> {
    lane.write_all(&encode(message)).await?;
    lane.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TransferId;
    use crate::wire::{MAX_FRAME_LEN, NotFound, WireError};

    fn message() -> Message {
        Message::NotFound(NotFound { transfer_id: TransferId::from_nonce(1) })
    }

    #[tokio::test]
    async fn a_message_leaves_the_body_behind_it_alone() {
        let mut stream = encode(&message());
        stream.extend_from_slice(b"body");
        let mut stream = &stream[..];
        assert_eq!(read_message(&mut stream).await.unwrap(), Some(message()));
        assert_eq!(stream, b"body");
    }

    #[tokio::test]
    async fn an_end_between_messages_is_clean_and_one_inside_is_not() {
        let frame = encode(&message());
        assert_eq!(read_message(&mut &frame[..0]).await.unwrap(), None);
        for cut in 1..frame.len() {
            let ended = read_message(&mut &frame[..cut]).await;
            assert!(matches!(ended, Err(TransportError::Closed)), "{cut}: {ended:?}");
        }
    }

    #[tokio::test]
    async fn an_oversized_frame_is_refused_by_its_length_alone() {
        let stream = u32::try_from(MAX_FRAME_LEN + 1).unwrap().to_le_bytes();
        let refused = read_message(&mut &stream[..]).await;
        assert!(matches!(refused, Err(TransportError::Wire(WireError::TooLong(_)))), "{refused:?}");
    }
}
