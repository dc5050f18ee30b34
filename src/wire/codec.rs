//! Messages to bytes and back.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Message;
use super::limits::{FRAME_PREFIX_LEN, MAX_FRAME_LEN};

/// Why bytes are not a message. All of them mean that the peer breaks the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A frame without even a message number.
    #[error("an empty frame")]
    Empty,
    /// A frame above [`MAX_FRAME_LEN`].
    #[error("a frame of {0} bytes, more than {MAX_FRAME_LEN}")]
    TooLong(usize),
    /// No message has this number.
    #[error("unknown message number {0}")]
    UnknownNumber(u8),
    /// The bytes do not form the message whose number they carry.
    #[error("message {number} is malformed: {error}")]
    Malformed {
        /// The message's number.
        number: u8,
        /// What the decoder met.
        error: postcard::Error,
    },
    /// Bytes after the end of the message.
    #[error("message {number} is followed by {surplus} surplus bytes")]
    Surplus {
        /// The message's number.
        number: u8,
        /// How many bytes were left.
        surplus: usize,
    },
    /// A field is out of its bounds.
    #[error("message {number} breaks a rule: {rule}")]
    Rule {
        /// The message's number.
        number: u8,
        /// The rule that it breaks.
        rule: &'static str,
    },
}

/// The length in bytes of the frame behind `prefix`, not counting the prefix itself: 1 to
/// [`MAX_FRAME_LEN`], so that a buffer of this length may be allocated.
///
/// # Errors
///
/// [`WireError::Empty`], [`WireError::TooLong`].
pub fn frame_len(prefix: [u8; FRAME_PREFIX_LEN]) -> Result<usize, WireError> {
    let len = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX);
    match len {
        0 => Err(WireError::Empty),
        1..=MAX_FRAME_LEN => Ok(len),
        _ => Err(WireError::TooLong(len)),
    }
}

/// The whole frame of `message`, length included. The message must keep the rules that
/// [`decode`] checks: a peer hangs up on one that does not (debug builds panic here).
pub fn encode(message: &Message) -> Vec<u8> {
    debug_assert_eq!(message.check(), Ok(()), "{message:?}");
    match message {
        Message::Hello(body) => frame(1, body),
        Message::Have(body) => frame(2, body),
        Message::HaveReply(body) => frame(3, body),
        Message::Request(body) => frame(4, body),
        Message::Found(body) => frame(5, body),
        Message::NotFound(body) => frame(6, body),
        Message::Busy(body) => frame(7, body),
        Message::Refused(body) => frame(8, body),
    }
}

fn frame(number: u8, body: &impl Serialize) -> Vec<u8> {
    let mut frame = vec![0; FRAME_PREFIX_LEN];
    frame.push(number);
    let mut frame = postcard::to_extend(body, frame)
        .expect("a vector takes all bytes, and no message has a sequence of unknown length or a float");
    let len = u32::try_from(frame.len() - FRAME_PREFIX_LEN).expect("limits.rs asserts that messages are short");
    frame[..FRAME_PREFIX_LEN].copy_from_slice(&len.to_le_bytes());
    frame
}

/// The message in `frame`, the bytes behind a frame's length. All limits hold for what it returns.
///
/// # Errors
///
/// Any [`WireError`]: the peer breaks the protocol and the lane is to be closed.
pub fn decode(frame: &[u8]) -> Result<Message, WireError> {
    let (&number, body) = frame.split_first().ok_or(WireError::Empty)?;
    if frame.len() > MAX_FRAME_LEN {
        return Err(WireError::TooLong(frame.len()));
    }
    let message = match number {
        1 => Message::Hello(parse(number, body)?),
        2 => Message::Have(parse(number, body)?),
        3 => Message::HaveReply(parse(number, body)?),
        4 => Message::Request(parse(number, body)?),
        5 => Message::Found(parse(number, body)?),
        6 => Message::NotFound(parse(number, body)?),
        7 => Message::Busy(parse(number, body)?),
        8 => Message::Refused(parse(number, body)?),
        unknown => return Err(WireError::UnknownNumber(unknown)),
    };
    message.check().map_err(|rule| WireError::Rule { number, rule })?;
    Ok(message)
}

fn parse<T: DeserializeOwned>(number: u8, body: &[u8]) -> Result<T, WireError> {
    let (message, rest) = postcard::take_from_bytes(body).map_err(|error| WireError::Malformed { number, error })?;
    if rest.is_empty() { Ok(message) } else { Err(WireError::Surplus { number, surplus: rest.len() }) }
}
