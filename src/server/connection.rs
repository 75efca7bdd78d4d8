//! One connection: its socket, its machine, its lane into storage, and what moves between them.
//!
//! Knows no file: a download's bytes go from storage to the socket without passing here. Never
//! waits: it works until the socket blocks or its turn is over, and says which.

mod commands;
mod later;
mod meeting;
mod reading;
mod saying;

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ftx_protocol::server::{Output, Reason, Server as Machine, Settings};
use ftx_protocol::{Code, Time};
use later::Later;
use reading::ReadEnd;
use saying::Saying;

use super::buffers::{Buffer, Pool};
use super::guest::Guest;
use super::storage::{Claim, Job, Lane, Outcome, Rest, SendEnd};
use super::stream::Stream;

/// When an idle connection is looked at again of which a worker still had something in hand: long after the worker
/// has put it down, and soon beside the time that connections are idle.
const REST_AFTER: Duration = Duration::from_millis(100);

/// Whether a connection may take a buffer now, or others have waited longer for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BufferTurn {
    Ours,
    Others,
}

/// What a turn may read into.
pub(super) struct Buffers<'a> {
    pub(super) pool: &'a Pool,
    /// One that was taken and not used.
    pub(super) spare: &'a mut Option<Buffer>,
    pub(super) turn: BufferTurn,
}

impl Buffers<'_> {
    fn take(&mut self) -> Option<Buffer> {
        match self.turn {
            BufferTurn::Ours => self.spare.take().or_else(|| self.pool.take()),
            BufferTurn::Others => None,
        }
    }
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TurnEnd {
    /// Nothing to do until the socket or storage says something.
    Wait,
    /// There is more, but the turn is over.
    Again,
    /// It could read, had it a buffer.
    WantBuffer,
    /// The connection is over.
    Close(Reason),
}

/// Whether a worker writes to the socket now. While it does, nobody else may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Selector,
    Worker,
}

/// Whether one more write is tried before a peer counts as one that does not read. The system tells of room only when
/// there is much of it: Linux when a third of its buffer is free, for which a peer that reads slowly may take minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastTry {
    Left,
    /// Since anything was written last.
    Made,
}

/// Whether it is known what is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Face {
    /// Not before the first byte.
    Unknown,
    Known,
}

/// Whether the client may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admitted {
    Yes,
    /// Its token is over.
    NoMore,
}

/// One connection.
pub(super) struct Connection {
    stream: Stream,
    /// None: in plain from this machine, which may do everything.
    guest: Option<Box<Guest>>,
    machine: Machine,
    lane: Lane,
    readable: bool,
    writable: bool,
    face: Face,
    sender: Sender,
    saying: Saying,
    last_try: LastTry,
    rest: Rest,
    /// Bytes that have passed the socket since somebody asked, which is after each turn.
    moved_bytes: u32,
    /// Buffers that storage has; those that it has given back are gone.
    lent: Vec<Weak<Buffer>>,
    /// Room of whole files that wait in the machine.
    claim: Claim,
    /// Puts for which there is no place now.
    later: Option<Box<Later>>,
}

impl Connection {
    pub(super) fn new(
        stream: Stream,
        guest: Guest,
        lane: Lane,
        settings: Arc<Settings>,
        now: Time,
    ) -> Self {
        Self {
            stream,
            guest: Some(Box::new(guest)),
            machine: Machine::new(settings, now),
            lane,
            readable: true,
            writable: true,
            face: Face::Unknown,
            sender: Sender::Selector,
            saying: Saying::On,
            last_try: LastTry::Left,
            rest: Rest::Done,
            moved_bytes: 0,
            lent: Vec::new(),
            claim: Claim::default(),
            later: None,
        }
    }

    /// The socket may have become ready. These are hints; only a read or write tells. Until then the peer waits for
    /// its turn, and not the other way round.
    pub(super) fn ready(&mut self, readable: bool, writable: bool, now: Time) {
        if readable {
            self.machine.not_reading(now);
        }
        if writable {
            self.machine.not_blocked(now);
        }
        self.readable |= readable;
        self.writable |= writable;
    }

    /// Takes an answer of storage. What follows from it, if it is no place, is done in the next turn: then the jobs
    /// that follow from several answers reach storage together.
    pub(super) fn outcome(&mut self, outcome: Outcome, now: Time) {
        match outcome {
            Outcome::Event(event) => self.machine.handle(event, now),
            Outcome::Whole { event, claim } => {
                self.claim.join(claim);
                self.machine.handle(event, now);
            }
            // Buffers may be free, of which it asks in its turn.
            Outcome::Taken => {}
            Outcome::Place(place) => self.give_place(place),
            Outcome::Sent { count, end } => {
                self.sender = Sender::Selector;
                if count > 0 {
                    self.wrote(count, now);
                }
                match end {
                    // The socket may have become writable since the worker found it blocked; then
                    // that was noted, and stands.
                    SendEnd::Blocked => self.machine.blocked(now),
                    SendEnd::Broken => self.machine.broken(),
                    SendEnd::Complete | SendEnd::Short => self.writable = true,
                }
            }
        }
    }

    /// The time has come that [`Connection::deadline`] named.
    pub(super) fn on_time(&mut self, now: Time) -> Admitted {
        let admitted = self.check_token(now);
        if self.last_try == LastTry::Left && self.machine.is_unread(now) {
            self.last_try = LastTry::Made;
            self.ready(false, true, now);
        } else if self.can_be_told() {
            self.machine.on_time(now);
        } else if self.machine.deadline().is_some_and(|time| time <= now) {
            self.machine.end_untold(Code::Timeout);
        }
        self.carry_out(None, now);
        admitted
    }

    /// Ends the connection, with what runs on it, if its token is over.
    pub(super) fn check_token(&mut self, now: Time) -> Admitted {
        let checked = self.guest.as_mut().map_or(Ok(()), |guest| guest.check_token(now));
        match checked {
            Ok(()) => Admitted::Yes,
            Err(why) => {
                self.refuse_later(&why.refusal(), now);
                self.machine.end_admission(why, now);
                self.carry_out(None, now);
                Admitted::NoMore
            }
        }
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.lane.peer()
    }

    /// When it wants to be told of the time, as it is after a turn.
    pub(super) fn deadline(&self, now: Time) -> Option<Time> {
        let token = self.guest.as_ref().and_then(|guest| guest.deadline());
        let rest = (self.rest == Rest::Later).then(|| now.after(REST_AFTER));
        [self.machine.deadline(), token, rest].into_iter().flatten().min()
    }

    /// Finishes what runs and takes no more.
    pub(super) fn shut_down(&mut self, now: Time) {
        match self.can_be_told() {
            true => self.machine.shut_down(now),
            false => self.machine.end_untold(Code::ShuttingDown),
        }
        self.carry_out(None, now);
    }

    /// Ends the connection with an error.
    pub(super) fn fail(&mut self, code: Code, now: Time) {
        match self.can_be_told() {
            true => self.machine.fail(code.into(), now),
            false => self.machine.end_untold(code),
        }
        self.carry_out(None, now);
    }

    /// Whether the two sides have agreed on how to speak. A client that has not said a byte may be about to speak
    /// TLS: a line in plain would be a fault of the server to it, and silence is one of the line, after which it
    /// tries again.
    fn can_be_told(&self) -> bool {
        let may_speak_tls = self.guest.as_ref().is_some_and(|guest| guest.tls().is_some());
        self.stream.is_ready() && !(self.face == Face::Unknown && may_speak_tls)
    }

    /// Ends the connection without a word.
    pub(super) fn give_up(&mut self, now: Time) {
        self.machine.broken();
        self.carry_out(None, now);
    }

    /// Lets the peer see the end now: a worker that still sends may hold the socket open for a
    /// while. Its registration goes when it is closed; events until then find nobody.
    pub(super) fn close(&self) {
        // A socket that is gone already is what this would bring about.
        let _ = self.stream.shut_down();
    }

    /// Bytes outside the pool that this connection makes the server hold.
    pub(super) fn held_bytes(&self) -> usize {
        let later = self.later.as_ref().map_or(0, |later| later.held_bytes());
        self.machine.held_bytes().saturating_add(later)
    }

    /// Bytes that have passed the socket since this was last asked.
    pub(super) fn take_moved_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.moved_bytes).into()
    }

    /// The socket took so much of what the machine has to say.
    fn wrote(&mut self, bytes: u64, now: Time) {
        self.moved(bytes);
        self.last_try = LastTry::Left;
        self.machine.wrote(bytes, now);
    }

    fn moved(&mut self, bytes: u64) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.moved_bytes = self.moved_bytes.saturating_add(bytes);
    }

    /// Reads, carries out and writes until there is nothing to do or the turn is over.
    pub(super) fn turn(
        &mut self,
        buffers: &mut Buffers<'_>,
        turn_bytes: usize,
        now: Time,
    ) -> TurnEnd {
        self.carry_out(None, now);
        let mut moved_bytes: usize = 0;
        loop {
            let written = self.write(turn_bytes, now);
            let read = self.read(buffers, turn_bytes, now);
            if let Some(reason) = self.machine.closed() {
                return self.leave(reason, now);
            }
            let bytes = match (written, read) {
                (None, ReadEnd::Nothing) => {
                    self.rest();
                    return TurnEnd::Wait;
                }
                (None, ReadEnd::WantBuffer) => return TurnEnd::WantBuffer,
                (Some(written), ReadEnd::Bytes(read)) => written.saturating_add(read),
                (Some(bytes), ReadEnd::Nothing | ReadEnd::WantBuffer)
                | (None, ReadEnd::Bytes(bytes)) => bytes,
            };
            moved_bytes = moved_bytes.saturating_add(bytes);
            if moved_bytes >= turn_bytes {
                return TurnEnd::Again;
            }
        }
    }

    /// Lets go of what an idle connection has no use for.
    fn rest(&mut self) {
        if self.machine.requests() > 0 {
            self.rest = Rest::Done;
            return;
        }
        self.rest = self.lane.rest();
        self.lent.retain(|buffer| buffer.strong_count() > 0);
        if self.lent.is_empty() {
            self.lent = Vec::new();
        }
    }

    /// Writes what there is to write, if the socket takes it; returns how much it took.
    fn write(&mut self, turn_bytes: usize, now: Time) -> Option<usize> {
        if self.sender == Sender::Worker {
            return None;
        }
        // What TLS holds back is out first, so that it counts.
        self.flush(now);
        let output = self.machine.output(now);
        let result = match output {
            Output::Nothing => return None,
            Output::Shutdown => {
                self.end_saying(now);
                return None;
            }
            _ if !self.writable => return None,
            Output::File { id, at, size } => {
                self.sender = Sender::Worker;
                // Set again by an event that comes while the worker sends.
                self.writable = false;
                // The worker is waited for, and what it reads from, until it says that the socket is full.
                self.machine.not_blocked(now);
                let in_turn = size.min(turn_bytes as u64);
                let (rest, stream) = (size.saturating_sub(in_turn), self.stream.clone());
                self.submit(vec![Job::Send { id, at, size: in_turn, rest, stream }]);
                return None;
            }
            Output::Bytes(bytes) => {
                let in_turn = bytes.get(..turn_bytes).unwrap_or(bytes);
                (&self.stream).write(in_turn)
            }
            Output::Zeros(count) => {
                const ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];
                let count = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROS.len());
                (&self.stream).write(ZEROS.get(..count).unwrap_or_default())
            }
        };
        match result {
            Ok(count) => {
                self.wrote(count as u64, now);
                self.carry_out(None, now);
                Some(count)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Some(1),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.writable = false;
                self.machine.blocked(now);
                None
            }
            Err(_) => {
                self.machine.broken();
                self.carry_out(None, now);
                None
            }
        }
    }
}
