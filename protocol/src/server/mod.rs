//! The server's side of one connection, without the connection.
//!
//! Bytes that arrived and answers of storage go in; [`Command`]s for the driver and [`Output`] for
//! the socket come out; the time is passed in. The driver's contract:
//!
//! 1. After each call that changes anything, drain [`Server::poll_command`]. The ranges in
//!    [`Work::Write`] refer to the input of the [`Server::receive`] just before, and of each
//!    [`Server::receive_behind`] that followed it.
//! 2. Ask [`Server::output`] what to write until it says [`Output::Nothing`], and report what was
//!    written with [`Server::wrote`].
//! 3. Read when [`Server::reads`] says so. Say [`Server::starving`] when there was nothing to
//!    read, and [`Server::not_reading`] when nothing is read for a reason of the driver's,
//!    [`Server::blocked`] when nothing more could be written, and [`Server::not_blocked`] when there may be room
//!    again: the clocks that time the peer run only where it is waited for.
//! 4. Call [`Server::on_time`] at [`Server::deadline`].
//! 5. When [`Server::closed`] has a reason, close. If it is [`Reason::Finished`], and what was written is not out yet, say
//!    [`Server::blocked`] and [`Server::wrote_late`] until it is, or [`Server::deadline`] has come.
//!
//! Nothing a peer sends, and nothing storage answers, makes it panic.

mod busy;
mod clocks;
mod endings;
mod events;
mod messages;
mod order;
mod outbound;
mod requests;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Time;
use crate::edges::{self, Edges, Phase, StageKind, Step, Turn};
use crate::error::{Code, Refusal};
use crate::ids::RequestId;
use crate::limits::{DISCARD_BYTES, HELLO_BYTES, LINE_BYTES, REPLY_QUEUE_BYTES};
use crate::line::{LineBuffer, Taken};
use crate::message::{Error, Limits, ServerMessage};

use busy::Lazily;
use clocks::Reading;
use requests::{Body, Request};

pub use outbound::Output;
pub use requests::{Behind, Command, Event, Refused, Work};

/// What a server is set up to do; the same for all its connections.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What it calls itself.
    pub agent: String,
    /// Digests and extras, for `welcome`.
    pub features: Vec<String>,
    /// What it grants; never below the minimum.
    pub limits: Limits,
    /// Requests that one connection may make in all; then it takes no more, and ends.
    pub requests_total_max: u64,
    /// How long `hello`, and any line that was begun, may take.
    pub header_timeout: Duration,
    /// How long a peer that is waited for may say, or read, nothing.
    pub idle_timeout: Duration,
}

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The client was done, and everything it was owed was said.
    Finished,
    /// The client closed or reset the connection while something was open.
    PeerGone,
    /// The server said this error last.
    Failed(Code),
    /// The client spoke another protocol.
    Foreign,
}

/// Where the connection is. See [`StageKind`] for the meaning of each.
#[derive(Debug)]
enum Stage {
    Greet,
    Talk,
    Drain(DrainCause),
    Linger { until: Time, left_bytes: u64, reason: Reason },
    Closed(Reason),
}

/// Why no more requests are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DrainCause {
    PeerFinished,
    /// The server takes none: this is why.
    NoMore(NoMore),
}

/// Why a server takes no more requests on a connection (rule 4.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoMore {
    /// It is about to stop.
    Stops,
    /// There were enough of them.
    Enough,
    /// The client's token was removed (rule 14.10).
    TokenGone,
    /// The time of the client's token is over.
    TokenExpired,
}

impl NoMore {
    /// What is said to further requests, and at the end.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Stops => Code::ShuttingDown.into(),
            Self::Enough => Code::Busy.into(),
            Self::TokenGone => Refusal::new(Code::Denied, "the token was taken back"),
            Self::TokenExpired => Code::Expired.into(),
        }
    }
}

/// Whether the client can still be turned away as if it had said nothing but `hello`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    /// The driver was told to find out who the client is, and nothing since.
    Asked,
    Settled,
}

/// Requests that the client broke off.
#[derive(Debug, Default)]
struct Cancelled {
    since: Time,
    count: u32,
}

/// Whether storage may still have something of this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attachment {
    Attached,
    Detached,
}

/// What the next byte that arrives belongs to.
#[derive(Debug)]
enum Inbound {
    Line {
        /// How long the driver has waited for the rest of the one that was begun.
        waited: Duration,
    },
    /// The raw bytes of a part. Whether they are wanted is asked of the request, each time.
    Part {
        id: RequestId,
        left: u64,
        size: u64,
        /// How long the driver has waited for its bytes.
        waited: Duration,
    },
}

impl Inbound {
    /// A line that is not begun.
    const LINE: Self = Self::Line { waited: Duration::ZERO };
}

/// The machine. See the module's documentation.
#[derive(Debug)]
pub struct Server {
    settings: Arc<Settings>,
    stage: Stage,
    inbound: Inbound,
    line: LineBuffer,
    /// The put whose body is open.
    receiving: Option<RequestId>,
    last_id: Option<RequestId>,
    busy: Lazily,
    storage: Attachment,
    admission: Admission,
    discarded_bytes: u64,
    requests_total: u64,
    cancelled: Cancelled,
    /// When something was last said.
    spoke: Time,
    /// Since when the driver waits for the peer's bytes.
    starving: Option<Time>,
    reading: Reading,
    taken: Edges,
}

impl Server {
    /// A connection that was accepted at `now`.
    pub fn new(settings: impl Into<Arc<Settings>>, now: Time) -> Self {
        Self {
            settings: settings.into(),
            stage: Stage::Greet,
            inbound: Inbound::LINE,
            line: LineBuffer::default(),
            receiving: None,
            last_id: None,
            busy: Lazily::default(),
            storage: Attachment::Attached,
            admission: Admission::Settled,
            discarded_bytes: 0,
            requests_total: 0,
            cancelled: Cancelled::default(),
            spoke: now,
            starving: None,
            reading: Reading::default(),
            taken: Edges::default(),
        }
    }

    /// Takes bytes that arrived, all of them.
    pub fn receive(&mut self, input: &[u8], now: Time) {
        self.receive_behind(0, input, now);
    }

    /// As [`Server::receive`], of input of which so many bytes were taken before, with nothing done since. Returns how
    /// many lines there were: for each of them much more is done than for its bytes.
    pub fn receive_behind(&mut self, taken: usize, input: &[u8], now: Time) -> usize {
        self.not_reading(now);
        let mut used = taken;
        let mut lines: usize = 0;
        while let Some(rest) = input.get(used..)
            && !rest.is_empty()
        {
            let taken = match (&self.stage, &self.inbound) {
                (Stage::Closed(_), _) => break,
                (Stage::Linger { .. }, _) => {
                    self.throw_away(rest.len());
                    break;
                }
                (Stage::Greet, Inbound::Line { .. }) if self.is_foreign(rest) => {
                    self.refuse_foreign(rest, now);
                    break;
                }
                (_, Inbound::Line { .. }) => {
                    lines = lines.saturating_add(1);
                    self.take_line(rest, now)
                }
                (_, Inbound::Part { .. }) => self.take_part(used, rest.len(), now),
            };
            used = used.saturating_add(taken);
        }
        lines
    }

    /// What the driver should do next, until there is nothing.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.admission = Admission::Settled;
        if self.busy.commands.is_empty() {
            self.busy.rest();
            return None;
        }
        let command = self.busy.commands.pop_front();
        if let Some(Command::Login(_)) = command {
            self.admission = Admission::Asked;
        }
        command
    }

    /// What to write next.
    pub fn output(&mut self, now: Time) -> Output<'_> {
        if let Stage::Closed(_) = self.stage {
            return Output::Shutdown;
        }
        if !self.busy.outbound.has_part() && matches!(self.stage, Stage::Talk | Stage::Drain(_)) {
            self.continue_sending(now);
        }
        let over = matches!(self.stage, Stage::Linger { .. });
        match self.busy.outbound.next() {
            Output::Nothing if over => Output::Shutdown,
            output => output,
        }
    }

    /// So many bytes of the last [`Output`] were written.
    pub fn wrote(&mut self, count: u64, now: Time) {
        self.admission = Admission::Settled;
        self.reading.wrote(count, now);
        self.spoke = now;
        if let Some(id) = self.busy.outbound.wrote(count) {
            self.part_sent(id, now);
            if matches!(self.stage, Stage::Linger { .. }) {
                self.detach();
            }
        }
        self.send_whole(now);
        self.continue_list();
        self.finish_drain(now);
    }

    /// Whether the driver should read.
    pub fn reads(&self) -> Reads {
        match self.stage {
            Stage::Closed(_) | Stage::Drain(DrainCause::PeerFinished) => Reads::Nothing,
            _ if self.busy.outbound.queued_bytes() > REPLY_QUEUE_BYTES => Reads::Nothing,
            Stage::Linger { .. } => Reads::Lines,
            _ => match self.inbound {
                Inbound::Line { .. } => Reads::Lines,
                Inbound::Part { left, .. } => Reads::Part { left_bytes: left },
            },
        }
    }

    /// Bytes of unfinished lines, unread replies and live requests that this connection makes the server hold.
    pub fn held_bytes(&self) -> usize {
        let lines = self.line.held_bytes().saturating_add(self.busy.outbound.queued_bytes());
        lines.saturating_add(self.busy.requests_bytes)
    }

    /// Requests without their final reply.
    pub fn requests(&self) -> usize {
        self.busy.requests.len()
    }

    /// Whether a put that was asked for before this request is without its final reply.
    pub fn has_put_before(&self, id: RequestId) -> bool {
        let is_put =
            |request: &Request| matches!(request, Request::Receive(_) | Request::Commit(_));
        self.busy.requests.range(..id).any(|(_, request)| is_put(request))
    }

    /// Whether a list is under way, which may wait for a `more`.
    pub fn has_list(&self) -> bool {
        !self.busy.lists.is_empty()
    }

    /// The edges that were taken.
    pub fn edges_taken(&self) -> Edges {
        self.taken
    }

    /// Why the connection is over, once it is.
    pub fn closed(&self) -> Option<Reason> {
        match self.stage {
            Stage::Closed(reason) => Some(reason),
            _ => None,
        }
    }

    /// Whether all that it had to say was written.
    pub fn has_said_all(&self) -> bool {
        self.busy.outbound.is_empty()
    }

    fn say(&mut self, message: &ServerMessage, now: Time) {
        self.busy.outbound.say(message);
        self.spoke = now;
    }

    /// Takes a line, or what there is of it; returns how many bytes that were.
    fn take_line(&mut self, input: &[u8], now: Time) -> usize {
        // The first line has one patience for all, from before its first byte.
        if self.line.held_bytes() == 0 && !matches!(self.stage, Stage::Greet) {
            self.inbound = Inbound::LINE;
        }
        let line_bytes = match self.stage {
            Stage::Greet => HELLO_BYTES,
            _ => LINE_BYTES,
        };
        match self.line.take_within(line_bytes, input) {
            Taken::Line(line, used) => {
                self.read_line(&line, now);
                used
            }
            Taken::Partial => input.len(),
            Taken::TooLong => {
                self.refuse_line(Code::LineTooLong.into(), now);
                input.len()
            }
        }
    }

    /// Takes bytes of the open part; returns how many.
    fn take_part(&mut self, position: usize, available: usize, now: Time) -> usize {
        let Inbound::Part { id, left, .. } = &mut self.inbound else { return available };
        let count = usize::try_from(*left).map_or(available, |left| left.min(available));
        let id = *id;
        *left = left.saturating_sub(count as u64);
        if *left == 0 {
            self.inbound = Inbound::LINE;
        }
        if self.receiving == Some(id) {
            let bytes = position..position.saturating_add(count);
            self.busy.ask(Work::Write { id, bytes });
        } else {
            self.discarded_bytes = self.discarded_bytes.saturating_add(count as u64);
            if self.discarded_bytes > DISCARD_BYTES {
                self.fail(Code::TooMuchDiscarded.into(), now);
            }
        }
        count
    }

    /// The one place where the stage changes.
    fn turn(&mut self, turn: Turn, to: Stage) {
        debug_assert_eq!(edges::connection(self.stage.kind(), turn), Some(to.kind()));
        self.taken.connection(self.stage.kind(), turn);
        self.stage = to;
    }
}

/// What the driver should read, so that it can choose a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// Nothing: replies back up, or nothing is expected.
    Nothing,
    /// Lines, each with at most a small body in all likelihood.
    Lines,
    /// At least this many raw bytes.
    Part {
        /// What is left of the part.
        left_bytes: u64,
    },
}

impl Stage {
    fn kind(&self) -> StageKind {
        match self {
            Self::Greet => StageKind::Greet,
            Self::Talk => StageKind::Talk,
            Self::Drain(_) => StageKind::Drain,
            Self::Linger { .. } => StageKind::Linger,
            Self::Closed(_) => StageKind::Closed,
        }
    }
}

impl Server {
    /// The one place where a request begins.
    fn start(&mut self, id: RequestId, request: Request) {
        let other = self.hold(id, request);
        debug_assert!(other.is_none(), "{id} begins twice");
    }

    /// The one place where a request changes its phase.
    fn enter(&mut self, id: RequestId, step: Step, to: Request) {
        let phase = to.phase();
        let Some(from) = self.hold(id, to) else { return };
        debug_assert_eq!(edges::request(from.phase(), step), Some(phase));
        self.taken.request(from.phase(), step);
    }

    /// Holds a request in place of what it was, and counts that.
    fn hold(&mut self, id: RequestId, request: Request) -> Option<Request> {
        let busy = &mut *self.busy;
        busy.requests_bytes = busy.requests_bytes.saturating_add(request.cost_bytes());
        let from = busy.requests.insert(id, request)?;
        busy.requests_bytes = busy.requests_bytes.saturating_sub(from.cost_bytes());
        Some(from)
    }

    /// The one place where a request ends. Nothing is said.
    fn forget(&mut self, id: RequestId, step: Step) {
        let Some(request) = self.busy.requests.remove(&id) else { return };
        debug_assert_eq!(edges::request(request.phase(), step), Some(Phase::Reply));
        self.taken.request(request.phase(), step);
        self.busy.order.leave(request.ordered_names(), id);
        self.busy.requests_bytes = self.busy.requests_bytes.saturating_sub(request.cost_bytes());
        self.busy.opening.remove(&id);
        match request {
            Request::Send(sending) => {
                self.busy.send_queue.retain(|queued| *queued != id);
                if let Body::Open = sending.body {
                    self.busy.ask(Work::Close(id));
                }
            }
            Request::List(_) => {
                self.busy.lists.retain(|queued| *queued != id);
                self.busy.ask(Work::Close(id));
                self.continue_list();
            }
            _ => {}
        }
    }

    /// Ends a request with its final reply.
    fn reply(&mut self, id: RequestId, step: Step, message: &ServerMessage, now: Time) {
        self.forget(id, step);
        self.say(message, now);
        self.answered(now);
        self.release();
    }

    fn refuse(&mut self, id: RequestId, step: Step, refusal: Refusal, now: Time) {
        if self.receiving == Some(id) {
            self.receiving = None;
        }
        let message = ServerMessage::Error(Error::new(Some(id), refusal));
        self.reply(id, step, &message, now);
    }
}
