//! What a server says, but for the bodies of gets.

use serde::{Deserialize, Serialize};

use super::Spent;
use crate::digest::Digest;
use crate::error::{Code, Refusal};
use crate::file::{Durability, FileTime, Kind, Mode, Replay};
use crate::ids::{RequestId, Version};
use crate::limits;
use crate::name::Name;
use crate::word::words;

/// See [`ServerMessage::Welcome`](super::ServerMessage::Welcome).
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

/// See [`ServerMessage::Kept`](super::ServerMessage::Kept).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The request.
    pub id: RequestId,
    /// Every byte before this offset is durable.
    pub at: u64,
}

/// See [`ServerMessage::Done`](super::ServerMessage::Done).
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

/// See [`ServerMessage::File`](super::ServerMessage::File).
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldState {
    /// Nothing: begin at 0.
    Nothing,
    /// The ranges, durable: go on behind them.
    Partial,
    /// All of it, under its name: put at its end, with no data, to have the reply again.
    Complete,
}

words!(HeldState { Nothing = "nothing", Partial = "partial", Complete = "complete" });

/// See [`ServerMessage::Held`](super::ServerMessage::Held).
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

/// See [`ServerMessage::Info`](super::ServerMessage::Info).
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

/// See [`ServerMessage::Entries`](super::ServerMessage::Entries).
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

/// See [`ServerMessage::Ok`](super::ServerMessage::Ok).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Okay {
    /// The request.
    pub id: RequestId,
    /// What a change of names survives; left out for a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
}

/// See [`ServerMessage::Pong`](super::ServerMessage::Pong).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The request.
    pub id: RequestId,
}

/// See [`ServerMessage::Alive`](super::ServerMessage::Alive).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {}

/// See [`ServerMessage::Error`](super::ServerMessage::Error).
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
