//! The messages, as types. Each is one line of JSON: an object with one member, whose key is the
//! kind of message. Reading and writing lines is [`crate::line`]'s work. The bodies,
//! which both sides send, are described here; requests and answers have a file each.

mod answers;
mod requests;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Code;
use crate::ids::RequestId;

pub use answers::{
    Alive, Done, Entries, Entry, Error, File, Held, HeldState, Info, Kept, Limits, Okay, Pong,
    Unread, Welcome,
};
pub use requests::{
    Cache, Change, Get, Hello, List, Mkdir, More, Move, Ping, Put, Remove, Resume, Stat,
};

/// The version of the protocol that this crate speaks.
pub const FTX_VERSION: u64 = 1;

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientMessage {
    /// Opens the conversation.
    Hello(Hello),
    /// Asks to store a file; its body follows.
    Put(Put),
    /// A part of the body of the open put; raw bytes follow.
    Data(Data),
    /// Closes the body of the open put: all bytes were sent.
    End(End),
    /// Closes the body of the open put without its bytes, or stops a get.
    Abort(Abort),
    /// Asks for a file.
    Get(Get),
    /// Asks what is durable of a transfer, and takes it over.
    Resume(Resume),
    /// Asks what a name stands for.
    Stat(Stat),
    /// Asks what is in a directory.
    List(List),
    /// Allows one further `entries` of a list.
    More(More),
    /// Asks to make a directory, or to set its time and permissions.
    Mkdir(Mkdir),
    /// Asks to give something another name.
    Move(Move),
    /// Asks to remove a name.
    Remove(Remove),
    /// Asks for a sign of life.
    Ping(Ping),
}

/// What a server sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerMessage {
    /// Answers `hello`.
    Welcome(Welcome),
    /// Bytes of a put up to here are durable. Not a final reply.
    Kept(Kept),
    /// The final reply to a put that took effect.
    Done(Done),
    /// What a get is about to send. Not a final reply.
    File(File),
    /// A part of a file; raw bytes follow.
    Data(Data),
    /// The final reply to a get whose bytes were all sent.
    End(End),
    /// The final reply to a resume.
    Held(Held),
    /// The final reply to a stat.
    Info(Info),
    /// What is in a directory, or some of it. Not a final reply.
    Entries(Entries),
    /// The final reply to a list, mkdir, move or remove.
    Ok(Okay),
    /// The final reply to a ping.
    Pong(Pong),
    /// Nothing yet, but the server lives.
    Alive(Alive),
    /// The final reply to a request that was refused or failed; without an id, the last message
    /// before the server closes the connection.
    Error(Error),
}

/// See [`ClientMessage::Data`] and [`ServerMessage::Data`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// The request whose body this is.
    pub id: RequestId,
    /// The offset in the file of the first raw byte.
    pub at: u64,
    /// How many raw bytes follow the line. May be 0.
    pub size: u64,
}

/// See [`ClientMessage::End`] and [`ServerMessage::End`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The request.
    pub id: RequestId,
    /// Bytes of the whole file.
    pub size: u64,
    /// The digest of the whole file.
    pub digest: Digest,
    /// Of a get: where the server's time went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<Spent>,
}

/// Where a server's time went, in microseconds. What ran beside each other is counted in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Spent {
    /// In calls of the file system: writing the body, or reading and sending it.
    pub disk: u64,
    /// Computing digests.
    pub hash: u64,
    /// From the end of the body until it was durable and had its name.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sync: u64,
}

/// See [`ClientMessage::Abort`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abort {
    /// The request.
    pub id: RequestId,
    /// Why: `changed` when the source changed while it was read, else `aborted`.
    pub code: Code,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
