//! The protocol between two nodes, version 1. No I/O, no clock: bytes in, messages out.
//!
//! # Participants
//!
//! Two nodes joined by a lane: an authenticated, encrypted, ordered byte stream. The *dialler*
//! opened it, the *listener* was listening. After the hellos the dialler is the *requester* and
//! the listener the *holder*; a node that wants something of one that dialled it dials back.
//!
//! # Goals
//!
//! * A requester gets any range of a blob from anyone who has it, and can check it on its own.
//! * A blob of one group is had in one round trip, the question who has it included, and so is the size of any other;
//!   what is wanted of that takes one more.
//! * Asking who has a blob does not give the blob's hash (which is the right to read it) away.
//! * A hostile peer can make this node allocate no more than one frame, and break no invariant:
//!   every limit is checked while a message is decoded, so that the code above need not.
//!
//! # Non-goals
//!
//! * Authentication and secrecy: the lane gives them.
//! * Several exchanges at once on one lane: nodes open several lanes.
//! * Cancelling: whoever wants no more closes the lane.
//!
//! # Mechanism
//!
//! A frame is a `u32` in little-endian order, the length of what follows (1 to
//! [`MAX_FRAME_LEN`]); one byte, the message's number; the [postcard] form of its fields.
//!
//! | number | message | sent by | answer |
//! | --- | --- | --- | --- |
//! | 1 | [`Hello`] | the dialler, first of all | [`Hello`] or [`Refused`] |
//! | 2 | [`Have`] | the requester | [`HaveReply`] and ends of blobs, [`Refused`] |
//! | 3 | [`HaveReply`] | the holder | |
//! | 4 | [`Request`] | the requester | [`Found`] and a body, [`NotFound`], [`Busy`], [`Refused`] |
//! | 5 | [`Found`] | the holder | |
//! | 6 | [`NotFound`] | the holder | |
//! | 7 | [`Busy`] | the holder | |
//! | 8 | [`Refused`] | either; without a transfer id it is about the lane, which then closes | |
//!
//! The body that follows [`Found`] is not framed: first the proof, then the content, of lengths
//! that both sides compute from the request and `total_len`.
//!
//! Behind a [`HaveReply`] follow the ends that it says come with it, in the order of its answers, not framed either.
//! They are sent only to a requester that has proved to know their hashes, on this very lane: a question alone may
//! have been heard by anyone who was asked it.
//!
//! A message that breaks a rule ends the lane. A peer of another version is recognised by its
//! [`Hello`], whose layout is the same in every version.
//!
//! [postcard]: https://postcard.jamesmunns.com/wire-format

mod bounded;
mod codec;
mod limits;
mod message;
mod reason;
#[cfg(test)]
mod tests;

pub use codec::{WireError, decode, encode, frame_len};
pub use limits::{
    FRAME_PREFIX_LEN, GROUP_LEN, MAX_BLOB_GROUPS, MAX_BLOB_LEN, MAX_FRAME_LEN, MAX_HAVE_CONTENT, MAX_HAVE_KEYS,
    MAX_HAVE_RANGES, MAX_RANGE_LEN, MAX_WHOLE_END_LEN, VERSION,
};
pub use message::{
    Busy, Found, Have, HaveAnswer, HaveQuestion, HaveReply, Hello, Message, NotFound, Refused, Request, end_groups,
    end_len, end_lens,
};
pub use reason::RefusedReason;
