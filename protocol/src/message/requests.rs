//! What a client says, but for the bodies of its puts.

use serde::{Deserialize, Serialize};

use super::{is_default, is_zero};
use crate::asked::Verb;
use crate::digest::Algorithm;
use crate::file::{Condition, Depth, Durability, FileTime, Mode, Parents};
use crate::ids::{RequestId, TransferId, Version};
use crate::name::Name;
use crate::token::Token;
use crate::word::words;

/// See [`ClientMessage::Hello`](super::ClientMessage::Hello).
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

/// See [`ClientMessage::Put`](super::ClientMessage::Put).
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

/// Whether a digest may come from the server's memory of an earlier reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cache {
    /// It may.
    #[default]
    Use,
    /// It must be computed from the bytes now.
    Bypass,
}

words!(Cache { Use = "use", Bypass = "bypass" });

/// See [`ClientMessage::Get`](super::ClientMessage::Get).
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

/// See [`ClientMessage::Resume`](super::ClientMessage::Resume).
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

/// See [`ClientMessage::Stat`](super::ClientMessage::Stat).
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

/// See [`ClientMessage::List`](super::ClientMessage::List).
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

/// See [`ClientMessage::More`](super::ClientMessage::More).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct More {
    /// The list.
    pub id: RequestId,
}

/// See [`ClientMessage::Mkdir`](super::ClientMessage::Mkdir).
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

/// See [`ClientMessage::Move`](super::ClientMessage::Move).
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

/// See [`ClientMessage::Remove`](super::ClientMessage::Remove).
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
    /// See [`ClientMessage::Mkdir`](super::ClientMessage::Mkdir).
    Mkdir(Mkdir),
    /// See [`ClientMessage::Move`](super::ClientMessage::Move).
    Move(Move),
    /// See [`ClientMessage::Remove`](super::ClientMessage::Remove).
    Remove(Remove),
}

impl Change {
    /// Which kind of request it is.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Mkdir(_) => Verb::Mkdir,
            Self::Move(_) => Verb::Move,
            Self::Remove(_) => Verb::Remove,
        }
    }

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

/// See [`ClientMessage::Ping`](super::ClientMessage::Ping).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// The request.
    pub id: RequestId,
    /// Words that the server must know, or refuse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub need: Vec<String>,
}
