//! The messages, as types. Each is one line of JSON: an object with one member, whose key is the
//! kind of message. Reading and writing lines is [`crate::line`]'s work.

use serde::{Deserialize, Serialize};

use crate::digest::{Algorithm, Digest};
use crate::error::{Code, Refusal};
use crate::file::{Condition, Depth, Durability, FileTime, Kind, Mode, Parents, Replay};
use crate::ids::{RequestId, TransferId, Version};
use crate::limits;
use crate::name::Name;
use crate::token::Token;

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

/// See [`ClientMessage::Hello`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the protocol that the client speaks.
    pub ftx: u64,
    /// The client program, for the server's log.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub agent: String,
    /// Who the client is, if it wants to say so. Inside TLS only (rule 14.4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
}

/// See [`ClientMessage::Put`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// The request.
    pub id: RequestId,
    /// Where the file goes.
    pub name: Name,
    /// How its digest is computed.
    pub digest: Algorithm,
    /// Bytes of the whole file; left out when the client does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The offset of the first byte that follows: what `held` said, or 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub at: u64,
    /// The attempt that this is, so that it can be resumed.
    pub transfer: TransferId,
    /// Last modification to give the file; the server's time if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime: Option<FileTime>,
    /// Permissions to give the file; the server's default if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// When the file may take its name.
    #[serde(default, rename = "if", skip_serializing_if = "Condition::is_always")]
    pub condition: Condition,
    /// What an acknowledgement has to mean.
    #[serde(default, skip_serializing_if = "is_default")]
    pub durability: Durability,
    /// Words that the server must know, or refuse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub need: Vec<String>,
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

/// Whether a digest may come from the server's memory of an earlier reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// It may.
    #[default]
    Use,
    /// It must be computed from the bytes now.
    Bypass,
}

/// See [`ClientMessage::Get`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Get {
    /// The request.
    pub id: RequestId,
    /// Which file.
    pub name: Name,
    /// How its digest is computed.
    pub digest: Algorithm,
    /// The offset to begin at; `end` carries the digest of the whole file all the same.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub at: u64,
    /// The version that the first part of the file came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Where the digest may come from.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cache: Cache,
    /// Words that the server must know, or refuse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub need: Vec<String>,
}

/// See [`ClientMessage::Resume`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The request.
    pub id: RequestId,
    /// The transfer.
    pub transfer: TransferId,
    /// Words that the server must know, or refuse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub need: Vec<String>,
}

/// See [`ClientMessage::Stat`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// The request.
    pub id: RequestId,
    /// Which name.
    pub name: Name,
    /// Asks for the digest of a file too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Algorithm>,
    /// Where the digest may come from.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cache: Cache,
    /// Words that the server must know, or refuse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub need: Vec<String>,
}

impl Stat {
    /// The question without its digest. The request is numbered when it is sent.
    pub fn of(name: Name) -> Self {
        Self { id: RequestId(0), name, digest: None, cache: Cache::Use, need: Vec::new() }
    }
}

/// See [`ClientMessage::List`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// The request.
    pub id: RequestId,
    /// Which directory; the root if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Whether the directories below are listed too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub depth: Depth,
    /// Words that the server must know, or refuse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub need: Vec<String>,
}

/// See [`ClientMessage::More`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct More {
    /// The list.
    pub id: RequestId,
}

/// See [`ClientMessage::Mkdir`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mkdir {
    /// The request.
    pub id: RequestId,
    /// The directory.
    pub name: Name,
    /// What becomes of missing directories above it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub parents: Parents,
    /// Last modification to give it, new or old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime: Option<FileTime>,
    /// Permissions to give it, new or old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// Whether it may be there already.
    #[serde(default, rename = "if", skip_serializing_if = "Condition::is_always")]
    pub condition: Condition,
    /// What the answer has to mean.
    #[serde(default, skip_serializing_if = "is_default")]
    pub durability: Durability,
    /// Words that the server must know, or refuse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub need: Vec<String>,
}

/// See [`ClientMessage::Move`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The request.
    pub id: RequestId,
    /// The old name.
    pub name: Name,
    /// The new name.
    pub to: Name,
    /// When the new name may be taken.
    #[serde(default, rename = "if", skip_serializing_if = "Condition::is_always")]
    pub condition: Condition,
    /// What the answer has to mean.
    #[serde(default, skip_serializing_if = "is_default")]
    pub durability: Durability,
    /// Words that the server must know, or refuse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub need: Vec<String>,
}

/// See [`ClientMessage::Remove`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remove {
    /// The request.
    pub id: RequestId,
    /// What goes.
    pub name: Name,
    /// Whether a directory goes with what is in it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub depth: Depth,
    /// What the answer has to mean.
    #[serde(default, skip_serializing_if = "is_default")]
    pub durability: Durability,
    /// Words that the server must know, or refuse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub need: Vec<String>,
}

/// A request that changes names and brings no body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// See [`ClientMessage::Mkdir`].
    Mkdir(Mkdir),
    /// See [`ClientMessage::Move`].
    Move(Move),
    /// See [`ClientMessage::Remove`].
    Remove(Remove),
}

impl Change {
    /// The request.
    pub fn id(&self) -> RequestId {
        match self {
            Self::Mkdir(mkdir) => mkdir.id,
            Self::Move(moving) => moving.id,
            Self::Remove(remove) => remove.id,
        }
    }

    /// The name that it changes, and the other one that it changes with it.
    pub fn names(&self) -> (&Name, Option<&Name>) {
        match self {
            Self::Mkdir(mkdir) => (&mkdir.name, None),
            Self::Move(moving) => (&moving.name, Some(&moving.to)),
            Self::Remove(remove) => (&remove.name, None),
        }
    }

    /// What the answer has to mean.
    pub fn durability(&self) -> Durability {
        match self {
            Self::Mkdir(mkdir) => mkdir.durability,
            Self::Move(moving) => moving.durability,
            Self::Remove(remove) => remove.durability,
        }
    }
}

/// See [`ClientMessage::Ping`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// The request.
    pub id: RequestId,
    /// Words that the server must know, or refuse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub need: Vec<String>,
}

/// See [`ServerMessage::Welcome`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version of the protocol that the server speaks.
    pub ftx: u64,
    /// The server program.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub agent: String,
    /// What the server can do beyond the minimum, and the digests that it has.
    pub features: Vec<String>,
    /// The limits it grants.
    pub limits: Limits,
}

/// What a server grants. A limit that is left out is the guaranteed minimum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of a line with its end.
    pub line: u64,
    /// Raw bytes of one `data`.
    pub part: u64,
    /// Requests without a final reply.
    pub requests: u64,
    /// The grid of durable offsets.
    pub grid: u64,
    /// Bytes of the largest file that a put may bring.
    pub file: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            line: limits::LINE_BYTES as u64,
            part: limits::PART_BYTES,
            requests: limits::REQUESTS as u64,
            grid: limits::GRID_BYTES,
            file: limits::INTEGER_MAX,
        }
    }
}

/// See [`ServerMessage::Kept`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The request.
    pub id: RequestId,
    /// Every byte before this offset is durable.
    pub at: u64,
}

/// See [`ServerMessage::Done`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The request.
    pub id: RequestId,
    /// Bytes of the stored file.
    pub size: u64,
    /// The digest of the stored bytes, computed by the server.
    pub digest: Digest,
    /// What the file survives from now on.
    pub durability: Durability,
    /// The version that the name holds. Left out in a replay that says `changed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Last modification of the stored file. Left out like `version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime: Option<FileTime>,
    /// Permissions of the stored file. Left out like `version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// There when the file had been acknowledged, or renamed, before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed: Option<Replay>,
    /// The name that the file has, if it is another one than the put has (rule 14.9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Where the server's time went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<Spent>,
}

/// See [`ServerMessage::File`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// The request.
    pub id: RequestId,
    /// Bytes of the whole file.
    pub size: u64,
    /// The offset of the first byte that follows: the `at` of the request.
    pub at: u64,
    /// What a resumed get has to name.
    pub version: Version,
    /// Last modification.
    pub mtime: FileTime,
    /// Permissions.
    pub mode: Mode,
}

/// What a server has of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeldState {
    /// Nothing: begin at 0.
    Nothing,
    /// The ranges, durable: go on behind them.
    Partial,
    /// All of it, under its name: put at its end, with no data, to have the reply again.
    Complete,
}

/// See [`ServerMessage::Held`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The request.
    pub id: RequestId,
    /// How much there is.
    pub state: HeldState,
    /// Durable ranges, `[from, to)`. In ftx/1 none, or one that begins at 0.
    pub ranges: Vec<(u64, u64)>,
    /// The digest of the bytes in the range; left out when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// See [`ServerMessage::Info`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The request.
    pub id: RequestId,
    /// What the name stands for.
    pub kind: Kind,
    /// Bytes of a file; 0 for a directory.
    pub size: u64,
    /// Last modification.
    pub mtime: FileTime,
    /// Permissions.
    pub mode: Mode,
    /// What a file holds; left out for a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// The digest of a file, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// See [`ServerMessage::Entries`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entries {
    /// The list.
    pub id: RequestId,
    /// What is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<Entry>,
    /// What could not be looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<Unread>,
}

/// Something in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its whole name, from the root.
    pub name: Name,
    /// What it is; a symlink is not followed.
    pub kind: Kind,
    /// Bytes of a file; 0 for anything else.
    pub size: u64,
    /// Last modification.
    pub mtime: FileTime,
    /// Permissions.
    pub mode: Mode,
}

/// Something that could not be looked at. Of a directory: entries of it are missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// Its whole name; left out for the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// What programs decide by.
    pub code: Code,
    /// What a person reads.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// See [`ServerMessage::Ok`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Okay {
    /// The request.
    pub id: RequestId,
    /// What a change of names survives; left out for a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
}

/// See [`ServerMessage::Pong`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The request.
    pub id: RequestId,
}

/// See [`ServerMessage::Alive`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {}

/// See [`ServerMessage::Error`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// The request; left out when the connection is at an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<RequestId>,
    /// What programs decide by.
    pub code: Code,
    /// What a person reads.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Error {
    /// The message that carries a refusal.
    pub fn new(id: Option<RequestId>, refusal: Refusal) -> Self {
        Self { id, code: refusal.code, message: refusal.message }
    }

    /// The refusal that the message carries, cut to what a person should have to read.
    pub fn refusal(&self) -> Refusal {
        Refusal::new(self.code, self.message.clone())
    }
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
