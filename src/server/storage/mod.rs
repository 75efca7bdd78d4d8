//! The boundary of storage: jobs in, outcomes out, as messages.
//!
//! No descriptor, path or error number of a disk passes it. Whoever stands behind it (today a
//! [`Directory`]) may wait for disks; whoever stands before it never waits for an answer.

mod abandoned;
pub(super) mod audit;
mod body;
mod client;
mod committer;
mod directory;
mod download;
mod lane;
mod listing;
mod partials;
mod places;
mod queue;
mod room;
mod shares;
mod sweeper;
mod transfers;
mod upload;
mod workers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ftx_disk::sys::Native;
use ftx_protocol::message::{Change, End, Get, List, Put, Resume, Stat};
use ftx_protocol::server::{Behind, Event};
use ftx_protocol::{Refusal, RequestId};

use super::access::{Granted, Who};
use super::buffers::Piece;
use super::key::ConnectionKey;
use super::mailbox::Mailbox;
use super::network::Network;
use super::stream::Stream;

pub(super) use directory::Directory;
pub(super) use lane::{Lane, Rest};
pub use partials::{PARTIALS_OF_ADDRESS, PARTIALS_OF_ANYONE};
pub(super) use places::{Place, Standing};
pub(super) use room::Claim;

/// The store, and what it hands out, on the disk of this machine.
type Store = ftx_disk::store::Store<Native>;
type Upload = ftx_disk::store::Upload<Native>;
type Checkpoint = ftx_disk::store::Checkpoint<Native>;
type Finished = ftx_disk::store::Finished<Native>;
type Reading = ftx_disk::store::Reading<Native>;
type Listing = ftx_disk::store::Listing<Native>;
type Step = ftx_disk::store::Step<Native>;
type Turn<'a> = ftx_disk::store::Turn<'a, Native>;

/// What storage is asked to do for one connection. Jobs of one [`Lane`] side keep their order.
#[derive(Debug)]
pub(super) enum Job {
    /// Begin, or go on with, a put, in this place.
    Begin(Put, Behind, Granted, Place),
    /// Take the next bytes of a put.
    Write { id: RequestId, piece: Piece },
    /// Check, make durable and name a put.
    Finish(End),
    /// Drop a put and what is stored of it: this is why.
    Discard(RequestId, Refusal),
    /// The body of a put broke off.
    Suspend(RequestId),
    /// Take a transfer over.
    Resume(Resume, Granted),
    /// Say what a name stands for.
    Stat(Stat, Granted),
    /// Change names.
    Change(Change, Granted),
    /// Say what a file is, and its digest.
    Sum(Stat, Granted),
    /// Open a directory and say what is in it.
    List(List, Granted),
    /// Say more of what is in an open directory.
    More(RequestId),
    /// Open a file to send it.
    Open(Get, Granted),
    /// Send so many bytes of an open file, from this offset, until the socket blocks. `rest` bytes of their part come
    /// after them.
    Send { id: RequestId, at: u64, size: u64, rest: u64, stream: Stream },
    /// Say the digest of an open file.
    Digest(RequestId),
    /// Close an open file or directory.
    Close(RequestId),
    /// The connection is over.
    HangUp,
}

impl Job {
    /// Whether nothing but a line in the log is missed if it is never begun, because its connection is gone and would
    /// hear of nothing.
    fn is_for_nobody(&self) -> bool {
        match self {
            Self::Resume(..)
            | Self::Stat(..)
            | Self::Change(..)
            | Self::Sum(..)
            | Self::List(..)
            | Self::More(_)
            | Self::Open(..)
            | Self::Digest(_)
            // The end closes all.
            | Self::Close(_) => true,
            // What has come of a body is worth keeping.
            Self::Begin(..)
            | Self::Write { .. }
            | Self::Finish(_)
            | Self::Discard(..)
            | Self::Suspend(_)
            | Self::Send { .. }
            | Self::HangUp => false,
        }
    }
}

/// A transfer that took less is not told where its time went.
const WORTH_TELLING: Duration = Duration::from_millis(100);

/// What storage answers.
#[derive(Debug)]
pub(super) enum Outcome {
    /// An answer to a request.
    Event(Event),
    /// An answer that brings a file whole, and the room that it takes until it has left.
    Whole { event: Event, claim: Claim },
    /// Bytes of bodies were taken; buffers that they were in may be free again.
    Taken,
    /// The place for a put that was waited for.
    Place(Place),
    /// A [`Job::Send`] is over.
    Sent { count: u64, end: SendEnd },
}

/// Why a [`Job::Send`] is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SendEnd {
    /// All of it was sent.
    Complete,
    /// The socket takes no more now.
    Blocked,
    /// The socket is broken.
    Broken,
    /// The file could not be read to the end; an [`Event::Refused`] went before.
    Short,
}

/// The way back: outcomes gather here until the selector of their connection takes them.
#[derive(Debug)]
pub(super) struct Outcomes {
    /// One for each selector.
    mailboxes: Vec<Mailbox<(ConnectionKey, Outcome)>>,
}

impl Outcomes {
    pub(super) fn new(wakers: &[Arc<mio::Waker>]) -> Self {
        Self { mailboxes: wakers.iter().cloned().map(Mailbox::new).collect() }
    }

    fn push(&self, key: ConnectionKey, outcome: Outcome) {
        self.push_run(key, [outcome]);
    }

    /// Adds what came about together for one connection. The first since its selector looked wakes it.
    fn push_run(&self, key: ConnectionKey, outcomes: impl IntoIterator<Item = Outcome>) {
        if let Some(mailbox) = self.mailboxes.get(key.selector()) {
            mailbox.push(outcomes.into_iter().map(|outcome| (key, outcome)));
        }
    }

    /// Adds what came about together for many, with one wake-up for each selector that it is for.
    fn push_all(&self, mut outcomes: Vec<(ConnectionKey, Outcome)>) {
        for (selector, mailbox) in self.mailboxes.iter().enumerate() {
            mailbox.push(outcomes.extract_if(.., |(key, _)| key.selector() == selector));
        }
    }

    fn push_event(&self, key: ConnectionKey, event: Event) {
        self.push(key, Outcome::Event(event));
    }

    /// Takes all that have gathered for a selector.
    pub(super) fn take(&self, selector: usize) -> Vec<(ConnectionKey, Outcome)> {
        self.mailboxes.get(selector).map(Mailbox::take).unwrap_or_default()
    }
}

/// Who a job is for, for outcomes and for the log.
#[derive(Debug, Clone)]
struct Origin {
    key: ConnectionKey,
    peer: SocketAddr,
    who: Who,
}

impl Origin {
    /// Who is counted together with it.
    fn network(&self) -> Network {
        Network::of(self.peer.ip())
    }
}
