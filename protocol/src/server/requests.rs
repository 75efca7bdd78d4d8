//! A request at the server: its phase, with the data of that phase inside it.

use std::collections::VecDeque;

use super::order;
use crate::asked::Asked;
use crate::clock::Time;
use crate::digest::{Algorithm, Digest};
use crate::edges::Phase;
use crate::error::Refusal;
use crate::ids::RequestId;
use crate::limits::{ENTRIES_AHEAD, REQUEST_BYTES};
use crate::message::{Change, End, Entries, Get, List, Okay, Spent, Stat};
use crate::name::Name;
use crate::token::Token;

/// A request without its final reply.
#[derive(Debug)]
pub(super) enum Request {
    /// See [`Phase::Receive`].
    Receive(Receiving),
    /// See [`Phase::Commit`].
    Commit(Committing),
    /// See [`Phase::Open`].
    Open(Opening),
    /// See [`Phase::Send`].
    Send(Sending),
    /// See [`Phase::Ask`]: a stat.
    Stat(Stat),
    /// See [`Phase::Ask`]: a list.
    List(Listing),
    /// See [`Phase::Ask`]: a mkdir, move or remove.
    Change(Change),
    /// See [`Phase::Ask`]: a resume.
    Resume,
}

/// A put whose body is open.
#[derive(Debug)]
pub(super) struct Receiving {
    pub(super) name: Name,
    pub(super) digest: Algorithm,
    pub(super) size: Option<u64>,
    /// Where the next part has to begin.
    pub(super) at: u64,
    /// What was promised last.
    pub(super) kept: u64,
}

/// A put whose body is closed.
#[derive(Debug)]
pub(super) struct Committing {
    pub(super) name: Name,
    pub(super) end: End,
}

/// A get whose file is not open.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) get: Get,
    /// When it was asked for.
    pub(super) since: Time,
}

/// A get whose file is open.
#[derive(Debug)]
pub(super) struct Sending {
    /// Where the next part begins.
    pub(super) at: u64,
    pub(super) size: u64,
    pub(super) body: Body,
    pub(super) outcome: Outcome,
}

/// Where the bytes of a get come from.
#[derive(Debug)]
pub(super) enum Body {
    /// From storage, which has the file open.
    Open,
    /// All that are to be sent are here; storage has closed the file.
    Here(Vec<u8>),
}

/// A list.
#[derive(Debug)]
pub(super) struct Listing {
    pub(super) list: List,
    /// `entries` that may still be sent before the client asks for more.
    pub(super) ahead: u32,
    pub(super) progress: Progress,
    /// When it was asked for.
    pub(super) since: Time,
}

/// Who has the next step of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nobody: others come first.
    Waiting,
    /// Storage, which opens the directory and looks for the first entries.
    Opening,
    /// Storage, which looks for the next entries.
    Storage,
    /// The connection: storage is asked again when there is room for what it finds.
    Connection,
}

impl Listing {
    pub(super) fn new(list: List, since: Time) -> Self {
        Self { list, ahead: ENTRIES_AHEAD, progress: Progress::Waiting, since }
    }
}

/// What a get that is being sent will end with.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Not known.
    Unknown,
    /// `end`, once every byte was sent.
    Digest(Digest, Option<Spent>),
    /// `error`, at the next border of a part.
    Refused(Refusal),
}

impl Request {
    pub(super) fn phase(&self) -> Phase {
        match self {
            Self::Receive(_) => Phase::Receive,
            Self::Commit(_) => Phase::Commit,
            Self::Open(_) => Phase::Open,
            Self::Send(_) => Phase::Send,
            Self::Stat(_) | Self::List(_) | Self::Change(_) | Self::Resume => Phase::Ask,
        }
    }

    /// What it makes the server hold.
    pub(super) fn cost_bytes(&self) -> usize {
        let name_bytes = match self {
            // It keeps its name when it has left the order.
            Self::List(listing) => listing.list.name.as_ref().map_or(0, order::cost_bytes),
            other => other.ordered_names().map(order::cost_bytes).sum(),
        };
        let body_bytes = match self {
            Self::Send(Sending { body: Body::Here(bytes), .. }) => bytes.len(),
            _ => 0,
        };
        REQUEST_BYTES.saturating_add(name_bytes).saturating_add(body_bytes)
    }

    /// The names that the request has places in the order for, as long as it has not taken effect.
    pub(super) fn ordered_names(&self) -> impl Iterator<Item = &Name> {
        let (one, other) = match self {
            Self::Receive(receiving) => (Some(&receiving.name), None),
            Self::Commit(committing) => (Some(&committing.name), None),
            Self::Open(opening) => (Some(&opening.get.name), None),
            Self::Stat(stat) => (Some(&stat.name), None),
            Self::List(Listing { list, progress, .. }) => match progress {
                Progress::Waiting | Progress::Opening => (list.name.as_ref(), None),
                Progress::Storage | Progress::Connection => (None, None),
            },
            Self::Change(change) => {
                let (one, other) = change.names();
                (Some(one), other)
            }
            Self::Send(_) | Self::Resume => (None, None),
        };
        one.into_iter().chain(other)
    }
}

/// What the driver is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Find out who the client is: whose token this is, or what is allowed without one. The first
    /// command of a connection, and its only one of this kind. The driver carries it out before it
    /// polls the next command: those behind it are on the word of this token. Where it is not
    /// admitted the driver calls [`super::Server::refuse_login`] at once, and of what came behind
    /// `hello` nothing is left.
    Login(Option<Token>),
    /// Have storage do this.
    Work(Work),
    /// Nothing is to be done: the machine has answered a request by itself, or ended the connection for it, and
    /// nobody else knows that there was one. For the driver's log.
    Refused(Box<Refused>),
}

/// What a put comes behind when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// Nothing that has to do with its name.
    Nothing,
    /// Requests that have not taken effect, and come first (rule 4.6): what has the name now tells nothing of what it
    /// will find there.
    Others,
}

/// What storage is asked to do. Ids are those of the requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Begin, or go on with, a put.
    Begin(crate::message::Put, Behind),
    /// Take bytes of the body of a put, in order.
    Write {
        /// The put.
        id: RequestId,
        /// Where in the input that was just given to [`super::Server::receive`].
        bytes: std::ops::Range<usize>,
    },
    /// Check size and digest, make the file durable and give it its name.
    Finish(End),
    /// Drop a put and what is stored of it, for this reason, which its client was told.
    Discard(RequestId, Refusal),
    /// The body of a put broke off: keep what is durable of it.
    Suspend(RequestId),
    /// Take a transfer over and say what is held of it.
    Resume(crate::message::Resume),
    /// Say what a name stands for.
    Stat(Stat),
    /// Say what a file is, and its digest.
    Sum(Stat),
    /// Open a directory and say what is in it, a first message of it.
    List(List),
    /// Say more of what is in an open directory.
    More(RequestId),
    /// Change names.
    Change(Change),
    /// Open a file to send it.
    Open(Get),
    /// Every byte of a get was sent: say its digest.
    Digest(RequestId),
    /// A get or a list is over.
    Close(RequestId),
    /// The connection is over for storage: suspend and close everything of it.
    HangUp,
}

/// A request, or a login, that ended before anything was asked of storage. One that was never answered, because the
/// connection ended before its turn came, is none of them: nothing was done, and nothing told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What it asked for.
    pub asked: Asked,
    /// What its client was told.
    pub refusal: Refusal,
    /// When it came.
    pub since: Time,
}

impl Work {
    /// The request that it is part of: none for what is about the whole connection.
    pub fn id(&self) -> Option<RequestId> {
        match self {
            Self::HangUp => None,
            Self::Begin(put, _) => Some(put.id),
            Self::Write { id, .. }
            | Self::Discard(id, _)
            | Self::Suspend(id)
            | Self::More(id)
            | Self::Digest(id)
            | Self::Close(id) => Some(*id),
            Self::Finish(end) => Some(end.id),
            Self::Resume(resume) => Some(resume.id),
            Self::Stat(stat) | Self::Sum(stat) => Some(stat.id),
            Self::List(list) => Some(list.id),
            Self::Change(change) => Some(change.id()),
            Self::Open(get) => Some(get.id),
        }
    }
}

/// What storage answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bytes of a put are durable.
    Kept(crate::message::Kept),
    /// A put took effect.
    Stored(crate::message::Done),
    /// A get's file is open.
    Opened(crate::message::File),
    /// A get's file, whole: it was opened, read and closed again. Only if no more than
    /// [`WHOLE_BYTES`](crate::limits::WHOLE_BYTES) of it are to be sent.
    Whole {
        /// What [`Event::Opened`] would say.
        file: crate::message::File,
        /// Everything from the offset that was asked for to the end.
        bytes: Vec<u8>,
        /// Of the whole file.
        digest: Digest,
        /// Where the time went.
        spent: Option<Spent>,
    },
    /// The digest of a get's file.
    Digest {
        /// The get.
        id: RequestId,
        /// Of the whole file.
        digest: Digest,
        /// Where the time went.
        spent: Option<Spent>,
    },
    /// What is held of a transfer.
    Held(crate::message::Held),
    /// What a name stands for.
    Info(crate::message::Info),
    /// Some of what is in a directory.
    Entries(Entries),
    /// A list is complete, or names were changed.
    Ok(Okay),
    /// A request failed.
    Refused {
        /// The request.
        id: RequestId,
        /// Why.
        refusal: Refusal,
    },
}

/// The gets whose files are open, in the order in which they are sent: the first has the turn.
pub(super) type SendQueue = VecDeque<RequestId>;
