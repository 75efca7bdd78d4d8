//! What a request asks for, as far as whoever keeps a log wants it: also of one that is none.

use std::fmt;

use data_encoding::BASE64;
use serde_json::{Map, Value};

use crate::escape::Escaped;
use crate::message::{ClientMessage, Get, List, Mkdir, Move, Ping, Put, Remove, Resume, Stat};
use crate::name::Name;

/// Bytes that are shown of a name that breaks the rules: such a one may be as long as a line.
const BAD_NAME_BYTES: usize = 255;

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Which kind it is of.
    pub verb: Verb,
    /// Of what.
    pub name: Option<Called>,
    /// What that is to be called.
    pub to: Option<Called>,
}

/// The kinds of requests, and the `hello` before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// To be let in.
    Login,
    /// To bring a file.
    Put,
    /// To fetch a file.
    Get,
    /// To hear what is held of a transfer.
    Resume,
    /// To hear what a name stands for.
    Stat,
    /// The same, with a digest.
    Sum,
    /// To hear what is in a directory.
    List,
    /// To make a directory.
    Mkdir,
    /// To change a name.
    Move,
    /// To take a name away.
    Remove,
    /// To hear anything.
    Ping,
    /// Something that this program does not know.
    Unknown,
}

impl Verb {
    /// Its word in a log. A peer's own word for what is unknown is not: it could be one of these.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Put => "put",
            Self::Get => "get",
            Self::Resume => "resume",
            Self::Stat => "stat",
            Self::Sum => "sum",
            Self::List => "list",
            Self::Mkdir => "mkdir",
            Self::Move => "move",
            Self::Remove => "remove",
            Self::Ping => "ping",
            Self::Unknown => "unknown",
        }
    }

    /// That of a kind of message, by its word on the wire.
    fn of(kind: &str, fields: &Map<String, Value>) -> Self {
        match kind {
            "put" => Self::Put,
            "get" => Self::Get,
            "resume" => Self::Resume,
            "stat" if fields.contains_key("digest") => Self::Sum,
            "stat" => Self::Stat,
            "list" => Self::List,
            "mkdir" => Self::Mkdir,
            "move" => Self::Move,
            "remove" => Self::Remove,
            "ping" => Self::Ping,
            _ => Self::Unknown,
        }
    }
}

/// What something is called, by the rules or not. It is shown without line breaks, and never longer than
/// the longest name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Called {
    /// A name.
    Name(Name),
    /// What breaks the rules for names, escaped and cut.
    Bad(Box<str>),
}

impl Called {
    fn of(bytes: &[u8]) -> Self {
        if let Ok(name) = Name::parse(bytes) {
            return Self::Name(name);
        }
        let (start, more) = match bytes.split_at_checked(BAD_NAME_BYTES) {
            Some((start, rest)) if !rest.is_empty() => (start, "…"),
            _ => (bytes, ""),
        };
        Self::Bad(format!("{}{more}", Escaped(start)).into())
    }

    /// As it is written on the line, if it is written in one of the two ways at all.
    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Some(Self::of(text.as_bytes())),
            Value::Object(object) => {
                let text = object.get("b64").and_then(Value::as_str)?;
                BASE64.decode(text.as_bytes()).ok().map(|bytes| Self::of(&bytes))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Called {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Bad(text) => f.write_str(text),
        }
    }
}

impl Asked {
    /// That of somebody who wants to be let in.
    pub const LOGIN: Self = Self { verb: Verb::Login, name: None, to: None };

    /// What is asked of these names.
    pub(crate) fn about(verb: Verb, name: Option<&Name>, to: Option<&Name>) -> Self {
        let called = |name: &Name| Called::Name(name.clone());
        Self { verb, name: name.map(called), to: to.map(called) }
    }

    /// What a request asks for. Of what is none it is [`Verb::Unknown`].
    pub fn of(message: &ClientMessage) -> Self {
        match message {
            ClientMessage::Put(Put { name, .. }) => Self::about(Verb::Put, Some(name), None),
            ClientMessage::Get(Get { name, .. }) => Self::about(Verb::Get, Some(name), None),
            ClientMessage::Resume(Resume { .. }) => Self::about(Verb::Resume, None, None),
            ClientMessage::Stat(Stat { name, digest, .. }) => {
                let verb = if digest.is_some() { Verb::Sum } else { Verb::Stat };
                Self::about(verb, Some(name), None)
            }
            ClientMessage::List(List { name, .. }) => Self::about(Verb::List, name.as_ref(), None),
            ClientMessage::Mkdir(Mkdir { name, .. }) => Self::about(Verb::Mkdir, Some(name), None),
            ClientMessage::Move(Move { name, to, .. }) => {
                Self::about(Verb::Move, Some(name), Some(to))
            }
            ClientMessage::Remove(Remove { name, .. }) => {
                Self::about(Verb::Remove, Some(name), None)
            }
            ClientMessage::Ping(Ping { .. }) => Self::about(Verb::Ping, None, None),
            ClientMessage::Hello(_)
            | ClientMessage::Data(_)
            | ClientMessage::End(_)
            | ClientMessage::Abort(_)
            | ClientMessage::More(_) => Self::about(Verb::Unknown, None, None),
        }
    }

    /// What a request asks for that cannot be read as one.
    pub(crate) fn read(kind: &str, fields: &Map<String, Value>) -> Self {
        let called = |key| fields.get(key).and_then(Called::read);
        Self { verb: Verb::of(kind, fields), name: called("name"), to: called("to") }
    }
}
