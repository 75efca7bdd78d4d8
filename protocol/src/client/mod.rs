//! The client's side of one connection, without the connection.
//!
//! Requests go in and come out as lines to write; bytes that arrived go in and come out as
//! [`Event`]s; the time is passed in. It mirrors [`crate::server`]: the same phases, the same
//! edges. It believes nothing: an answer that does not follow from what was asked is a
//! [`Violation`], and an acknowledgement of other bytes than were sent is one above all.
//!
//! The driver writes what the calls append to `out` in the order of the calls, and the raw bytes
//! of a part right behind the line of its [`Client::data`]. After [`Client::receive`] it drains
//! [`Client::poll_event`]. It calls [`Client::on_time`] at [`Client::deadline`].

mod answers;
mod events;
mod requests;

use std::collections::{BTreeMap, VecDeque};

use crate::clock::Time;
use crate::digest::Algorithm;
use crate::edges::{self, Edges, Phase, Step};
use crate::error::Code;
use crate::file::Durability;
use crate::ids::RequestId;
use crate::limits::SILENCE;
use crate::line::{self, LineBuffer, Taken};
use crate::message::{
    ClientMessage, End, FTX_VERSION, Get, Hello, Limits, List, ServerMessage, Stat, Welcome,
};
use crate::name::Name;
use crate::token::Token;

pub use events::{Event, Violation};

/// The stage of the connection, as its client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// `welcome` has not come.
    Greet,
    /// It has.
    Talk,
    /// The server said its last.
    Closed,
    /// It did so in the place of `welcome`.
    TurnedAway,
}

impl Stage {
    fn is_over(self) -> bool {
        match self {
            Self::Greet | Self::Talk => false,
            Self::Closed | Self::TurnedAway => true,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Inbound {
    Line,
    Part { id: RequestId, at: u64, left: u64 },
}

/// A request without its final reply.
#[derive(Debug)]
enum Request {
    Receive(Receiving),
    Commit(Committing),
    Open(Get),
    Send(Sending),
    Resume,
    Stat(Stat),
    List(List),
    Change(Durability),
    Ping,
}

/// A put whose body is open.
#[derive(Debug)]
struct Receiving {
    /// What the file is to be called.
    name: Name,
    /// What an acknowledgement has to mean.
    durability: Durability,
    /// Where the next part begins.
    at: u64,
    /// The last offset that the server has promised.
    kept: u64,
}

/// A put whose body is closed.
#[derive(Debug)]
struct Committing {
    name: Name,
    end: End,
    durability: Durability,
}

/// A get whose file is on its way.
#[derive(Debug)]
struct Sending {
    digest: Algorithm,
    size: u64,
    at: u64,
}

impl Request {
    fn phase(&self) -> Phase {
        match self {
            Self::Receive(_) => Phase::Receive,
            Self::Commit(_) => Phase::Commit,
            Self::Open(_) => Phase::Open,
            Self::Send(_) => Phase::Send,
            Self::Resume | Self::Stat(_) | Self::List(_) | Self::Change(_) | Self::Ping => {
                Phase::Ask
            }
        }
    }
}

/// The machine. See the module's documentation.
#[derive(Debug)]
pub struct Client {
    stage: Stage,
    inbound: Inbound,
    line: LineBuffer,
    limits: Limits,
    next_id: u64,
    requests: BTreeMap<RequestId, Request>,
    events: VecDeque<Event>,
    /// When the server was last heard, or began to owe an answer.
    heard: Time,
    taken: Edges,
}

impl Client {
    /// A new connection. Appends `hello`; requests may follow at once. A token may be given only if
    /// what is appended goes through TLS, to a server that is known to be the right one.
    pub fn new(agent: &str, token: Option<Token>, out: &mut Vec<u8>, now: Time) -> Self {
        let hello = Hello { ftx: FTX_VERSION, agent: agent.to_owned(), token };
        line::write(&ClientMessage::Hello(hello), out);
        Self {
            stage: Stage::Greet,
            inbound: Inbound::Line,
            line: LineBuffer::default(),
            limits: Limits::default(),
            next_id: 1,
            requests: BTreeMap::new(),
            events: VecDeque::new(),
            heard: now,
            taken: Edges::default(),
        }
    }

    /// What the server grants: the minimum, until it has said more.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes bytes that arrived, all of them.
    ///
    /// # Errors
    /// When the server breaks the protocol. The connection is of no use after that.
    pub fn receive(&mut self, input: &[u8], now: Time) -> Result<(), Violation> {
        self.heard = now;
        let mut used: usize = 0;
        while let Some(rest) = input.get(used..)
            && !rest.is_empty()
            && !self.stage.is_over()
        {
            let taken = match self.inbound {
                Inbound::Part { .. } => self.take_part(used, rest.len()),
                Inbound::Line => match self.line.take(rest) {
                    Taken::Line(line, taken) => {
                        self.read_line(&line)?;
                        taken
                    }
                    Taken::Partial => rest.len(),
                    Taken::TooLong => return Err(Violation::NoMessage(Code::LineTooLong.into())),
                },
            };
            used = used.saturating_add(taken);
        }
        Ok(())
    }

    /// The server will send no more.
    ///
    /// # Errors
    /// [`Violation::Closed`] when it owed something, or had not said its last.
    pub fn receive_end(&mut self) -> Result<(), Violation> {
        let owed = !self.requests.is_empty() || self.stage == Stage::Greet;
        let said = self.stage.is_over();
        if !said {
            self.stage = Stage::Closed;
        }
        if owed && !said { Err(Violation::Closed) } else { Ok(()) }
    }

    /// What the server said, until there is nothing.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When the client's patience with a server that owes an answer ends.
    pub fn deadline(&self) -> Option<Time> {
        let owed = !self.requests.is_empty() || self.stage == Stage::Greet;
        (owed && !self.stage.is_over()).then(|| self.heard.after(SILENCE))
    }

    /// Looks at the time.
    ///
    /// # Errors
    /// [`Violation::Silence`] when the deadline has passed.
    pub fn on_time(&mut self, now: Time) -> Result<(), Violation> {
        match self.deadline() {
            Some(deadline) if deadline <= now => Err(Violation::Silence),
            _ => Ok(()),
        }
    }

    /// The edges that were taken.
    pub fn edges_taken(&self) -> Edges {
        self.taken
    }

    /// Whether an error has come in the place of `welcome`: nothing that was asked has any effect (14.6).
    pub fn was_turned_away(&self) -> bool {
        self.stage == Stage::TurnedAway
    }

    /// Whether a change of names was asked for that is not answered: a put whose body is closed, a mkdir, a move or a remove.
    pub fn awaits_a_change(&self) -> bool {
        self.requests.values().any(|request| match request {
            Request::Commit(_) | Request::Change(_) => true,
            Request::Receive(_)
            | Request::Open(_)
            | Request::Send(_)
            | Request::Resume
            | Request::Stat(_)
            | Request::List(_)
            | Request::Ping => false,
        })
    }

    /// Requests without their final reply.
    pub fn requests(&self) -> usize {
        self.requests.len()
    }

    fn take_part(&mut self, position: usize, available: usize) -> usize {
        let Inbound::Part { id, at, left } = self.inbound else { return available };
        let count = usize::try_from(left).map_or(available, |left| left.min(available));
        let left = left.saturating_sub(count as u64);
        self.inbound = match left {
            0 => Inbound::Line,
            left => Inbound::Part { id, at: at.saturating_add(count as u64), left },
        };
        let bytes = position..position.saturating_add(count);
        self.events.push_back(Event::Body { id, at, bytes });
        count
    }

    fn read_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        let Some(message) = line::read_server(line).map_err(Violation::NoMessage)? else {
            return Ok(());
        };
        match (self.stage, message) {
            (Stage::Greet, ServerMessage::Welcome(welcome)) => self.welcome(welcome),
            (Stage::Greet | Stage::Talk, ServerMessage::Error(error)) if error.id.is_none() => {
                self.stage = match self.stage {
                    Stage::Greet => Stage::TurnedAway,
                    _ => Stage::Closed,
                };
                self.events.push_back(Event::Failed(error.refusal()));
                Ok(())
            }
            (Stage::Talk, message) => self.answered(message),
            (_, message) => Err(Violation::OutOfTurn { got: kind(&message) }),
        }
    }

    fn welcome(&mut self, welcome: Welcome) -> Result<(), Violation> {
        const GOT: &str = "welcome";
        if welcome.ftx != FTX_VERSION {
            return Err(Violation::Contradiction { got: GOT, why: "another version" });
        }
        let minimum = Limits::default();
        let granted = &welcome.limits;
        if granted.line < minimum.line
            || granted.part < minimum.part
            || granted.requests < minimum.requests
            || granted.grid == 0
            || granted.grid > minimum.grid
        {
            return Err(Violation::Contradiction {
                got: GOT,
                why: "a limit that no server may set",
            });
        }
        self.limits = welcome.limits.clone();
        self.stage = Stage::Talk;
        self.events.push_back(Event::Welcome(welcome));
        Ok(())
    }

    /// The one place where a request changes its phase.
    fn enter(&mut self, id: RequestId, step: Step, to: Request) {
        if let Some(from) = self.requests.get(&id) {
            debug_assert_eq!(edges::request(from.phase(), step), Some(to.phase()));
            self.taken.request(from.phase(), step);
        }
        self.requests.insert(id, to);
    }

    /// The one place where a request ends.
    fn forget(&mut self, id: RequestId, step: Step) {
        if let Some(request) = self.requests.remove(&id) {
            debug_assert_eq!(edges::request(request.phase(), step), Some(Phase::Reply));
            self.taken.request(request.phase(), step);
        }
    }
}

fn kind(message: &ServerMessage) -> &'static str {
    match message {
        ServerMessage::Welcome(_) => "welcome",
        ServerMessage::Kept(_) => "kept",
        ServerMessage::Done(_) => "done",
        ServerMessage::File(_) => "file",
        ServerMessage::Data(_) => "data",
        ServerMessage::End(_) => "end",
        ServerMessage::Held(_) => "held",
        ServerMessage::Info(_) => "info",
        ServerMessage::Entries(_) => "entries",
        ServerMessage::Ok(_) => "ok",
        ServerMessage::Pong(_) => "pong",
        ServerMessage::Alive(_) => "alive",
        ServerMessage::Error(_) => "error",
    }
}
