//! Frames on the control socket: `u32` little-endian length of the payload, one byte for the kind
//! (1 message, 2 data, 3 end of data), the payload.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::ControlError;

/// The longest message, in bytes (1 MiB): a status or some thousands of peers.
pub const MAX_MESSAGE_LEN: usize = 1 << 20;

/// The longest piece of a blob, in bytes (256 KiB): large enough that its cost is the copy.
pub const MAX_DATA_LEN: usize = 256 << 10;

const _: () = assert!(MAX_DATA_LEN <= MAX_MESSAGE_LEN && MAX_MESSAGE_LEN <= u32::MAX as usize);

const MESSAGE: u8 = 1;
const DATA: u8 = 2;
const END: u8 = 3;

/// One frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A JSON message.
    Message(Vec<u8>),
    /// A piece of a blob.
    Data(Vec<u8>),
    /// The blob is over.
    End,
}

/// The next frame, or `None` if the other side closed between frames. A length is checked against
/// the kind's limit before anything is allocated.
pub(super) async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Frame>, ControlError> {
    let mut header = [0; 5];
    let mut filled = 0;
    while filled < header.len() {
        match from.read(&mut header[filled..]).await? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(ControlError::Ended),
            n => filled += n,
        }
    }
    let [a, b, c, d, kind] = header;
    let len = u32::from_le_bytes([a, b, c, d]);
    let limit = match kind {
        MESSAGE => MAX_MESSAGE_LEN,
        DATA => MAX_DATA_LEN,
        END => 0,
        unknown => return Err(ControlError::UnknownFrame(unknown)),
    };
    if len as usize > limit {
        return Err(ControlError::FrameTooLong { len: u64::from(len), limit });
    }
    let mut payload = vec![0; len as usize];
    from.read_exact(&mut payload).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => ControlError::Ended,
        _ => ControlError::Broken(error),
    })?;
    Ok(Some(match kind {
        MESSAGE => Frame::Message(payload),
        DATA => Frame::Data(payload),
        _ => Frame::End,
    }))
}

/// Sends `message` as a message frame.
pub(super) async fn write_message(
    to: &mut (impl AsyncWrite + Unpin),
    message: &impl serde::Serialize,
) -> Result<(), ControlError> {
    let payload = serde_json::to_vec(message)?;
    if payload.len() > MAX_MESSAGE_LEN {
        return Err(ControlError::FrameTooLong { len: payload.len() as u64, limit: MAX_MESSAGE_LEN });
    }
    write_frame(to, MESSAGE, &payload).await
}

/// Sends `bytes` in as many data frames as it takes.
pub(super) async fn write_data(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), ControlError> {
    for piece in bytes.chunks(MAX_DATA_LEN) {
        write_frame(to, DATA, piece).await?;
    }
    Ok(())
}

/// Sends the end of a blob.
pub(super) async fn write_end(to: &mut (impl AsyncWrite + Unpin)) -> Result<(), ControlError> {
    write_frame(to, END, &[]).await
}

async fn write_frame(to: &mut (impl AsyncWrite + Unpin), kind: u8, payload: &[u8]) -> Result<(), ControlError> {
    let [a, b, c, d] = u32::try_from(payload.len()).expect("payloads are cut or checked to their limits").to_le_bytes();
    to.write_all(&[a, b, c, d, kind]).await?;
    to.write_all(payload).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Result<Option<Frame>, ControlError> {
        read_frame(&mut &*bytes).await
    }

    #[tokio::test]
    async fn the_bytes_of_each_kind() {
        let mut wire = Vec::new();
        write_message(&mut wire, &7).await.unwrap();
        write_data(&mut wire, b"ab").await.unwrap();
        write_end(&mut wire).await.unwrap();
        #[rustfmt::skip]
        assert_eq!(wire, [
            1, 0, 0, 0, 1, b'7',        // message: length 1, kind 1
            2, 0, 0, 0, 2, b'a', b'b',  // data: length 2, kind 2
            0, 0, 0, 0, 3,              // end: length 0, kind 3
        ]);
        let mut from = &wire[..];
        assert_eq!(read_frame(&mut from).await.unwrap(), Some(Frame::Message(b"7".to_vec())));
        assert_eq!(read_frame(&mut from).await.unwrap(), Some(Frame::Data(b"ab".to_vec())));
        assert_eq!(read_frame(&mut from).await.unwrap(), Some(Frame::End));
        assert_eq!(read_frame(&mut from).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_long_piece_travels_in_frames_within_the_limit() {
        let bytes = vec![7; 2 * MAX_DATA_LEN + 1];
        let mut wire = Vec::new();
        write_data(&mut wire, &bytes).await.unwrap();
        let mut from = &wire[..];
        for len in [MAX_DATA_LEN, MAX_DATA_LEN, 1] {
            assert_eq!(read_frame(&mut from).await.unwrap(), Some(Frame::Data(vec![7; len])));
        }
    }

    #[tokio::test]
    async fn what_breaks_the_rules_is_refused() {
        let too_long = |len: usize, kind| {
            let mut bytes = u32::try_from(len).unwrap().to_le_bytes().to_vec();
            bytes.push(kind);
            bytes
        };
        for bytes in [
            too_long(MAX_MESSAGE_LEN + 1, MESSAGE),
            too_long(MAX_DATA_LEN + 1, DATA),
            too_long(1, END),
            too_long(u32::MAX as usize, DATA),
        ] {
            assert!(matches!(read(&bytes).await, Err(ControlError::FrameTooLong { .. })), "{bytes:?}");
        }
        assert!(matches!(read(&[0, 0, 0, 0, 9]).await, Err(ControlError::UnknownFrame(9))));
        assert!(matches!(read(&[1, 0]).await, Err(ControlError::Ended)));
        assert!(matches!(read(&[2, 0, 0, 0, DATA, 1]).await, Err(ControlError::Ended)));
    }
}
