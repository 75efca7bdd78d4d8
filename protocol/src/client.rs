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

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use thiserror::Error;

use crate::clock::Time;
use crate::digest::{Algorithm, Digest};
use crate::edges::{self, Edges, Phase, Step};
use crate::error::{Code, Refusal};
use crate::file::{Depth, Durability, Kind};
use crate::ids::RequestId;
use crate::limits::{SILENCE, UNKEPT_BYTES};
use crate::line::{self, LineBuffer, Taken};
use crate::message::{
    Abort, Change, ClientMessage, Data, Done, End, Entries, FTX_VERSION, File, Get, Held,
    HeldState, Hello, Info, Kept, Limits, List, Mkdir, More, Move, Okay, Ping, Put, Remove, Resume,
    ServerMessage, Stat, Welcome,
};
use crate::name::Name;
use crate::token::Token;

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
        /// Where in the input that was just given to [`Client::receive`].
        bytes: Range<usize>,
    },
    /// Every byte of a get has come. Whether they have this digest is the caller's to see.
    End(End),
    /// What the server holds of a transfer.
    Held(Held),
    /// What a name stands for.
    Info(Info),
    /// What is in a directory, or some of it. Say [`Client::more`] when it was dealt with.
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

/// The stage of the connection, as its client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// `welcome` has not come.
    Greet,
    /// It has.
    Talk,
    /// The server said its last.
    Closed,
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

    /// Asks to put a file. The `id` in `put` is set here. The body is open until
    /// [`Client::end`] or [`Client::abort`].
    pub fn put(&mut self, mut put: Put, out: &mut Vec<u8>, now: Time) -> RequestId {
        let id = self.begin(now);
        put.id = id;
        let name = put.name.clone();
        let receiving = Receiving { name, durability: put.durability, at: put.at, kept: put.at };
        self.requests.insert(id, Request::Receive(receiving));
        line::write(&ClientMessage::Put(put), out);
        id
    }

    /// Announces the next part of a put; exactly `size` raw bytes have to follow. Returns the
    /// offset of the part, or `None`, with nothing announced, when the put was refused in the
    /// meantime.
    pub fn data(&mut self, id: RequestId, size: u64, out: &mut Vec<u8>) -> Option<u64> {
        let Some(Request::Receive(receiving)) = self.requests.get_mut(&id) else { return None };
        let at = receiving.at;
        receiving.at = at.saturating_add(size);
        line::write(&ClientMessage::Data(Data { id, at, size }), out);
        Some(at)
    }

    /// How many bytes of the put may be sent before more of it must be durable (rule 7.3).
    pub fn window_bytes(&self, id: RequestId) -> u64 {
        match self.requests.get(&id) {
            Some(Request::Receive(receiving)) => {
                receiving.kept.saturating_add(UNKEPT_BYTES).saturating_sub(receiving.at)
            }
            _ => 0,
        }
    }

    /// Closes the body of a put: all of it was sent. A put that was refused in the meantime needs
    /// its `end` too.
    pub fn end(&mut self, id: RequestId, size: u64, digest: Digest, out: &mut Vec<u8>) {
        let end = End { id, size, digest, spent: None };
        line::write(&ClientMessage::End(end.clone()), out);
        if let Some(Request::Receive(receiving)) = self.requests.get(&id) {
            let (name, durability) = (receiving.name.clone(), receiving.durability);
            self.enter(id, Step::End, Request::Commit(Committing { name, end, durability }));
        }
    }

    /// Closes the body of a put that is not to take effect, or stops a get. The final reply still
    /// comes, unless it has come.
    pub fn abort(&mut self, id: RequestId, code: Code, out: &mut Vec<u8>) {
        line::write(&ClientMessage::Abort(Abort { id, code }), out);
    }

    /// Asks for a file. The `id` in `get` is set here.
    pub fn get(&mut self, mut get: Get, out: &mut Vec<u8>, now: Time) -> RequestId {
        let id = self.begin(now);
        get.id = id;
        self.requests.insert(id, Request::Open(get.clone()));
        line::write(&ClientMessage::Get(get), out);
        id
    }

    /// Asks what is durable of a transfer. The `id` in `resume` is set here.
    pub fn resume(&mut self, mut resume: Resume, out: &mut Vec<u8>, now: Time) -> RequestId {
        let id = self.begin(now);
        resume.id = id;
        self.requests.insert(id, Request::Resume);
        line::write(&ClientMessage::Resume(resume), out);
        id
    }

    /// Asks what a name stands for. The `id` in `stat` is set here.
    pub fn stat(&mut self, mut stat: Stat, out: &mut Vec<u8>, now: Time) -> RequestId {
        let id = self.begin(now);
        stat.id = id;
        self.requests.insert(id, Request::Stat(stat.clone()));
        line::write(&ClientMessage::Stat(stat), out);
        id
    }

    /// Asks what is in a directory. The `id` in `list` is set here.
    pub fn list(&mut self, mut list: List, out: &mut Vec<u8>, now: Time) -> RequestId {
        let id = self.begin(now);
        list.id = id;
        self.requests.insert(id, Request::List(list.clone()));
        line::write(&ClientMessage::List(list), out);
        id
    }

    /// Allows one further [`Event::Entries`] of a list. Nothing when the list is over.
    pub fn more(&mut self, id: RequestId, out: &mut Vec<u8>) {
        if let Some(Request::List(_)) = self.requests.get(&id) {
            line::write(&ClientMessage::More(More { id }), out);
        }
    }

    /// Asks to change names. The `id` in `change` is set here.
    pub fn change(&mut self, change: Change, out: &mut Vec<u8>, now: Time) -> RequestId {
        let id = self.begin(now);
        self.requests.insert(id, Request::Change(change.durability()));
        let message = match change {
            Change::Mkdir(mkdir) => ClientMessage::Mkdir(Mkdir { id, ..mkdir }),
            Change::Move(moving) => ClientMessage::Move(Move { id, ..moving }),
            Change::Remove(remove) => ClientMessage::Remove(Remove { id, ..remove }),
        };
        line::write(&message, out);
        id
    }

    /// Asks for a sign of life.
    pub fn ping(&mut self, out: &mut Vec<u8>, now: Time) -> RequestId {
        let id = self.begin(now);
        self.requests.insert(id, Request::Ping);
        line::write(&ClientMessage::Ping(Ping { id, need: Vec::new() }), out);
        id
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
            && self.stage != Stage::Closed
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
        let said = self.stage == Stage::Closed;
        self.stage = Stage::Closed;
        if owed && !said { Err(Violation::Closed) } else { Ok(()) }
    }

    /// What the server said, until there is nothing.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When the client's patience with a server that owes an answer ends.
    pub fn deadline(&self) -> Option<Time> {
        let owed = !self.requests.is_empty() || self.stage == Stage::Greet;
        (owed && self.stage != Stage::Closed).then(|| self.heard.after(SILENCE))
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

    /// Requests without their final reply.
    pub fn requests(&self) -> usize {
        self.requests.len()
    }

    fn begin(&mut self, now: Time) -> RequestId {
        if self.requests.is_empty() {
            self.heard = now;
        }
        let id = RequestId(self.next_id);
        self.next_id = self.next_id.saturating_add(1);
        id
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
                self.stage = Stage::Closed;
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

    fn answered(&mut self, message: ServerMessage) -> Result<(), Violation> {
        match message {
            ServerMessage::Alive(_) => Ok(()),
            ServerMessage::Kept(kept) => self.kept(kept),
            ServerMessage::Done(done) => self.done(done),
            ServerMessage::File(file) => self.file(file),
            ServerMessage::Data(data) => self.part(data),
            ServerMessage::End(end) => self.ended(end),
            ServerMessage::Held(held) => self.held(held),
            ServerMessage::Info(info) => self.info(info),
            ServerMessage::Entries(entries) => self.entries(entries),
            ServerMessage::Ok(okay) => self.okay(okay),
            ServerMessage::Pong(pong) => match self.requests.get(&pong.id) {
                Some(Request::Ping) => {
                    self.forget(pong.id, Step::Answered);
                    self.events.push_back(Event::Pong(pong.id));
                    Ok(())
                }
                _ => Err(Violation::OutOfTurn { got: "pong" }),
            },
            ServerMessage::Error(error) => match error.id {
                Some(id) if self.requests.contains_key(&id) => {
                    self.forget(id, Step::Refused);
                    self.events.push_back(Event::Refused { id, refusal: error.refusal() });
                    Ok(())
                }
                _ => Err(Violation::OutOfTurn { got: "error" }),
            },
            ServerMessage::Welcome(_) => Err(Violation::OutOfTurn { got: "welcome" }),
        }
    }

    fn kept(&mut self, kept: Kept) -> Result<(), Violation> {
        match self.requests.get_mut(&kept.id) {
            Some(Request::Receive(receiving)) => {
                if kept.at < receiving.kept || kept.at > receiving.at {
                    let why = "it shrinks, or names bytes that were not sent";
                    return Err(Violation::Contradiction { got: "kept", why });
                }
                receiving.kept = kept.at;
                self.events.push_back(Event::Kept(kept));
                Ok(())
            }
            // It crossed the `end`; the final reply will say all.
            Some(Request::Commit(_)) => {
                self.taken.request(Phase::Commit, Step::Kept);
                Ok(())
            }
            _ => Err(Violation::OutOfTurn { got: "kept" }),
        }
    }

    fn done(&mut self, done: Done) -> Result<(), Violation> {
        let Some(Request::Commit(Committing { name, end: sent, durability })) =
            self.requests.get(&done.id)
        else {
            return Err(Violation::OutOfTurn { got: "done" });
        };
        if done.digest != sent.digest || done.size != sent.size {
            let (stored, sent) = (done.digest, sent.digest);
            return Err(Violation::FalseAcknowledgement { stored, sent });
        }
        // Rule 6.3: what is in memory is as durable as that server's disk gets.
        let least = (*durability).min(Durability::Memory);
        if done.durability < least {
            return Err(Violation::WeakAcknowledgement {
                asked: *durability,
                given: done.durability,
            });
        }
        if done.name.as_ref().is_some_and(|given| !given.is_numbered(name)) {
            let why = "its name is not the one asked for with a number";
            return Err(Violation::Contradiction { got: "done", why });
        }
        self.forget(done.id, Step::Stored);
        self.events.push_back(Event::Done(done));
        Ok(())
    }

    fn file(&mut self, file: File) -> Result<(), Violation> {
        const GOT: &str = "file";
        let Some(Request::Open(get)) = self.requests.get(&file.id) else {
            return Err(Violation::OutOfTurn { got: GOT });
        };
        if file.at != get.at || file.at > file.size {
            return Err(Violation::Contradiction { got: GOT, why: "it begins elsewhere" });
        }
        if get.version.as_ref().is_some_and(|version| *version != file.version) {
            return Err(Violation::Contradiction { got: GOT, why: "it is another version" });
        }
        let sending = Sending { digest: get.digest, size: file.size, at: file.at };
        self.enter(file.id, Step::Opened, Request::Send(sending));
        self.events.push_back(Event::File(file));
        Ok(())
    }

    fn part(&mut self, data: Data) -> Result<(), Violation> {
        const GOT: &str = "data";
        let part_max = self.limits.part;
        let Some(Request::Send(sending)) = self.requests.get_mut(&data.id) else {
            return Err(Violation::OutOfTurn { got: GOT });
        };
        let end = data.at.saturating_add(data.size);
        if data.at != sending.at || end > sending.size || data.size > part_max {
            let why = "it does not follow on the part before it";
            return Err(Violation::Contradiction { got: GOT, why });
        }
        sending.at = end;
        if data.size > 0 {
            self.inbound = Inbound::Part { id: data.id, at: data.at, left: data.size };
        }
        Ok(())
    }

    fn ended(&mut self, end: End) -> Result<(), Violation> {
        const GOT: &str = "end";
        let Some(Request::Send(sending)) = self.requests.get(&end.id) else {
            return Err(Violation::OutOfTurn { got: GOT });
        };
        if end.size != sending.size || sending.at != sending.size {
            return Err(Violation::Contradiction { got: GOT, why: "bytes are missing" });
        }
        if end.digest.algorithm != sending.digest {
            return Err(Violation::Contradiction { got: GOT, why: "a digest of another kind" });
        }
        self.forget(end.id, Step::Finished);
        self.events.push_back(Event::End(end));
        Ok(())
    }

    fn held(&mut self, held: Held) -> Result<(), Violation> {
        const GOT: &str = "held";
        let Some(Request::Resume) = self.requests.get(&held.id) else {
            return Err(Violation::OutOfTurn { got: GOT });
        };
        let fits = match (held.state, held.ranges.as_slice()) {
            (HeldState::Nothing, []) => held.digest.is_none(),
            (HeldState::Partial | HeldState::Complete, [(0, _)]) => held.digest.is_some(),
            _ => false,
        };
        if !fits {
            let why = "its ranges do not fit its state";
            return Err(Violation::Contradiction { got: GOT, why });
        }
        self.forget(held.id, Step::Answered);
        self.events.push_back(Event::Held(held));
        Ok(())
    }

    fn info(&mut self, info: Info) -> Result<(), Violation> {
        const GOT: &str = "info";
        let Some(Request::Stat(stat)) = self.requests.get(&info.id) else {
            return Err(Violation::OutOfTurn { got: GOT });
        };
        let asked = if info.kind == Kind::File { stat.digest } else { None };
        if info.digest.map(|digest| digest.algorithm) != asked {
            return Err(Violation::Contradiction {
                got: GOT,
                why: "another digest than asked for",
            });
        }
        self.forget(info.id, Step::Answered);
        self.events.push_back(Event::Info(info));
        Ok(())
    }

    fn entries(&mut self, entries: Entries) -> Result<(), Violation> {
        const GOT: &str = "entries";
        let Some(Request::List(list)) = self.requests.get(&entries.id) else {
            return Err(Violation::OutOfTurn { got: GOT });
        };
        if entries.entries.iter().any(|entry| !is_listed(list, &entry.name)) {
            return Err(Violation::Contradiction { got: GOT, why: "a name of another place" });
        }
        self.events.push_back(Event::Entries(entries));
        Ok(())
    }

    fn okay(&mut self, okay: Okay) -> Result<(), Violation> {
        const GOT: &str = "ok";
        match (self.requests.get(&okay.id), okay.durability) {
            (Some(Request::List(_)), _) => {}
            (Some(&Request::Change(asked)), Some(given)) => {
                if given < asked.min(Durability::Memory) {
                    return Err(Violation::WeakAcknowledgement { asked, given });
                }
            }
            _ => return Err(Violation::OutOfTurn { got: GOT }),
        }
        self.forget(okay.id, Step::Answered);
        self.events.push_back(Event::Ok(okay));
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

/// Whether a name may be an entry of what was listed.
fn is_listed(list: &List, name: &Name) -> bool {
    match (&list.name, list.depth) {
        (None, Depth::All) => true,
        (Some(above), Depth::All) => name != above && name.is_or_is_below(above),
        (above, Depth::One) => name.parent() == *above,
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
