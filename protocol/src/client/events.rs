//! What comes out of a client's machine: what the server said, or how it broke the protocol.

use std::ops::Range;

use thiserror::Error;

use crate::digest::Digest;
use crate::error::Refusal;
use crate::file::Durability;
use crate::ids::RequestId;
use crate::limits::SILENCE;
use crate::message::{Done, End, Entries, File, Held, Info, Kept, Okay, Welcome};

/// What the server said, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The server is there and speaks ftx.
    Welcome(Welcome),
    /// Bytes of a put are durable.
    Kept(Kept),
    /// A put took effect, with the size and digest that were sent.
    Done(Done),
    /// A get begins.
    File(File),
    /// Bytes of a file.
    Body {
        /// The get.
        id: RequestId,
        /// Where in the file.
        at: u64,
        /// Where in the input that was just given to [`Client::receive`](super::Client::receive).
        bytes: Range<usize>,
    },
    /// Every byte of a get has come. Whether they have this digest is the caller's to see.
    End(End),
    /// What the server holds of a transfer.
    Held(Held),
    /// What a name stands for.
    Info(Info),
    /// What is in a directory, or some of it. Say [`Client::more`](super::Client::more) when it was
    /// dealt with.
    Entries(Entries),
    /// A list is complete, or names were changed.
    Ok(Okay),
    /// The answer to a ping.
    Pong(RequestId),
    /// A request was refused or failed. Of a put whose body is open: send its `abort`.
    Refused {
        /// The request.
        id: RequestId,
        /// Why.
        refusal: Refusal,
    },
    /// The server ends the connection, and this is why.
    Failed(Refusal),
}

/// The server does not keep to the protocol. The connection is of no use any more.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Violation {
    /// What came is no message of ftx.
    #[error("the server does not speak ftx/1: {0}")]
    NoMessage(Refusal),
    /// Another message than the one that has to come.
    #[error("the server sent {got} where it may not")]
    OutOfTurn {
        /// The kind of message.
        got: &'static str,
    },
    /// The message contradicts what was asked, or what was said before.
    #[error("the server's {got} does not follow from what was asked: {why}")]
    Contradiction {
        /// The kind of message.
        got: &'static str,
        /// What does not fit.
        why: &'static str,
    },
    /// `done` names another size or digest than was sent: the server stored something else.
    #[error("the server acknowledged other bytes than were sent: {stored}, not {sent}")]
    FalseAcknowledgement {
        /// What the server says it has.
        stored: Digest,
        /// What was sent.
        sent: Digest,
    },
    /// `done` promises less than was asked for.
    #[error("the server acknowledged durability {given}, where {asked} was asked for")]
    WeakAcknowledgement {
        /// By the put.
        asked: Durability,
        /// By `done`.
        given: Durability,
    },
    /// Nothing came for as long as a client has to wait.
    #[error("the server said nothing for {} s", SILENCE.as_secs())]
    Silence,
    /// The connection ended while an answer was owed.
    #[error("the server closed the connection")]
    Closed,
}
