//! One connection: its socket, its machine, its lane into storage, and what moves between them.
//!
//! Knows no file: a download's bytes go from storage to the socket without passing here. Never
//! waits: it works until the socket blocks or its turn is over, and says which.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::{Arc, Weak};

use ftx_protocol::server::{Command, Output, Reads, Reason, Server as Machine, Settings};
use ftx_protocol::{Code, Time};
use mio::net::TcpStream;

use super::buffers::{Buffer, Piece, Pool};
use super::storage::{Claim, Job, Lane, Outcome, SendEnd};

/// Bytes of bodies that one connection may have with storage and not yet stored: a worker has enough to
/// do while the selector hears of what was stored and reads more; one slow disk does not get the whole pool.
const UNSTORED_BYTES: usize = 2 * 1024 * 1024;

/// Buffers of the pool that one connection may have with storage: a byte in a part of its own takes
/// a whole one. Fewer where a pool is small.
const LENT_BUFFERS: usize = 8;

/// How much is read when lines are expected: they are short, and a body that follows is read into
/// a buffer of its own.
const LINES_BYTES: usize = 64 * 1024;

/// Whether a connection may take a buffer now, or others have waited longer for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BufferTurn {
    Ours,
    Others,
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

/// What became of one step of a turn.
enum Moved {
    Bytes(usize),
    Nothing,
    WantBuffer,
}

/// Whether a worker writes to the socket now. While it does, nobody else may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Selector,
    Worker,
}

/// One connection.
pub(super) struct Connection {
    socket: Arc<TcpStream>,
    machine: Machine,
    lane: Lane,
    readable: bool,
    writable: bool,
    sender: Sender,
    shut_down: bool,
    unstored_bytes: usize,
    /// Bytes that have passed the socket since somebody asked.
    moved_bytes: u64,
    /// Buffers that storage has; those that it has given back are gone.
    lent: Vec<Weak<Buffer>>,
    /// Room of whole files that wait in the machine.
    claim: Claim,
}

impl Connection {
    pub(super) fn new(
        socket: Arc<TcpStream>,
        lane: Lane,
        settings: Arc<Settings>,
        now: Time,
    ) -> Self {
        Self {
            socket,
            machine: Machine::new(settings, now),
            lane,
            readable: true,
            writable: true,
            sender: Sender::Selector,
            shut_down: false,
            unstored_bytes: 0,
            moved_bytes: 0,
            lent: Vec::new(),
            claim: Claim::default(),
        }
    }

    /// The socket may have become ready. These are hints; only a read or write tells.
    pub(super) fn ready(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// Takes an answer of storage. What follows from it is done in the next turn: then the jobs that
    /// follow from several answers reach storage together.
    pub(super) fn outcome(&mut self, outcome: Outcome, now: Time) {
        match outcome {
            Outcome::Event(event) => self.machine.handle(event, now),
            Outcome::Whole { event, claim } => {
                self.claim.join(claim);
                self.machine.handle(event, now);
            }
            Outcome::Taken { bytes } => {
                self.unstored_bytes = self.unstored_bytes.saturating_sub(bytes);
            }
            Outcome::Sent { count, end } => {
                self.sender = Sender::Selector;
                if count > 0 {
                    self.moved_bytes = self.moved_bytes.saturating_add(count);
                    self.machine.wrote(count, now);
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
    pub(super) fn on_time(&mut self, now: Time) {
        self.machine.on_time(now);
        self.carry_out(None);
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.lane.peer()
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.machine.deadline()
    }

    /// Finishes what runs and takes no more.
    pub(super) fn shut_down(&mut self, now: Time) {
        self.machine.shut_down(now);
        self.carry_out(None);
    }

    /// Ends the connection with an error.
    pub(super) fn fail(&mut self, code: Code, now: Time) {
        self.machine.fail(code.into(), now);
        self.carry_out(None);
    }

    /// Ends the connection without a word.
    pub(super) fn give_up(&mut self) {
        self.machine.broken();
        self.carry_out(None);
    }

    /// Lets the peer see the end now: a worker that still sends may hold the socket open for a
    /// while. Its registration goes when it is closed; events until then find nobody.
    pub(super) fn close(&self) {
        // A socket that is gone already is what this would bring about.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Bytes outside the pool that this connection makes the server hold.
    pub(super) fn held_bytes(&self) -> usize {
        self.machine.held_bytes()
    }

    /// Bytes that have passed the socket since this was last asked.
    pub(super) fn take_moved_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.moved_bytes)
    }

    /// Reads, carries out and writes until there is nothing to do or the turn is over.
    pub(super) fn turn(
        &mut self,
        pool: &Pool,
        spare: &mut Option<Buffer>,
        turn: BufferTurn,
        turn_bytes: usize,
        now: Time,
    ) -> TurnEnd {
        self.carry_out(None);
        let mut moved_bytes: usize = 0;
        loop {
            let written = self.write(turn_bytes, now);
            let read = self.read(pool, spare, turn, turn_bytes, now);
            if let Some(reason) = self.machine.closed() {
                return TurnEnd::Close(reason);
            }
            moved_bytes = match (written, read) {
                (Moved::Nothing, Moved::Nothing) => {
                    if self.machine.requests() == 0 {
                        self.lane.rest();
                    }
                    return TurnEnd::Wait;
                }
                (Moved::Nothing, Moved::WantBuffer) => return TurnEnd::WantBuffer,
                (Moved::Bytes(written), Moved::Bytes(read)) => {
                    moved_bytes.saturating_add(written).saturating_add(read)
                }
                (Moved::Bytes(bytes), _) | (_, Moved::Bytes(bytes)) => {
                    moved_bytes.saturating_add(bytes)
                }
                (Moved::WantBuffer, _) => return TurnEnd::WantBuffer,
            };
            if moved_bytes >= turn_bytes {
                return TurnEnd::Again;
            }
        }
    }

    fn read(
        &mut self,
        pool: &Pool,
        spare: &mut Option<Buffer>,
        turn: BufferTurn,
        turn_bytes: usize,
        now: Time,
    ) -> Moved {
        self.lent.retain(|buffer| buffer.strong_count() > 0);
        if self.unstored_bytes >= UNSTORED_BYTES
            || self.lent.len() >= LENT_BUFFERS.min(pool.share())
        {
            return Moved::Nothing;
        }
        let limit = match self.machine.reads() {
            Reads::Nothing => return Moved::Nothing,
            Reads::Lines => LINES_BYTES,
            Reads::Part { .. } => turn_bytes,
        };
        if !self.readable {
            self.machine.starving(now);
            return Moved::Nothing;
        }
        let buffer = match turn {
            BufferTurn::Ours => spare.take().or_else(|| pool.take()),
            BufferTurn::Others => None,
        };
        let Some(mut buffer) = buffer else { return Moved::WantBuffer };
        let filled = self.fill(buffer.bytes_mut(), limit);
        let buffer = Arc::new(buffer);
        match &filled {
            Ok(0) => {
                self.readable = false;
                self.machine.receive_end(now);
            }
            Ok(count) => {
                self.moved_bytes = self.moved_bytes.saturating_add(*count as u64);
                let input = buffer.filled(*count);
                self.machine.receive(input, now);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.machine.starving(now);
            }
            Err(_) => self.machine.broken(),
        }
        self.carry_out(Some(&buffer));
        // A buffer that no job took is as good as new for the next connection.
        let lent = Arc::downgrade(&buffer);
        match Arc::into_inner(buffer) {
            Some(buffer) => *spare = Some(buffer),
            None => self.lent.push(lent),
        }
        match filled {
            Ok(count) => Moved::Bytes(count.max(1)),
            Err(_) => Moved::Nothing,
        }
    }

    /// Reads until the buffer is full or the socket is empty: fewer, larger jobs.
    fn fill(&mut self, buffer: &mut [u8], limit: usize) -> io::Result<usize> {
        let limit = limit.min(buffer.len());
        let mut filled: usize = 0;
        while let Some(room) = buffer.get_mut(filled..limit)
            && !room.is_empty()
        {
            match (&*self.socket).read(room) {
                Ok(0) if filled > 0 => break,
                Ok(0) => return Ok(0),
                Ok(count) => filled = filled.saturating_add(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    if filled > 0 {
                        break;
                    }
                    return Err(error);
                }
                // What came before the error is good; the error comes again.
                Err(_) if filled > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write(&mut self, turn_bytes: usize, now: Time) -> Moved {
        if self.sender == Sender::Worker {
            return Moved::Nothing;
        }
        let output = self.machine.output(now);
        let result = match output {
            Output::Nothing => return Moved::Nothing,
            Output::Shutdown => {
                if !self.shut_down {
                    self.shut_down = true;
                    // A socket that is gone already is what this would bring about.
                    let _ = self.socket.shutdown(Shutdown::Write);
                }
                return Moved::Nothing;
            }
            _ if !self.writable => return Moved::Nothing,
            Output::File { id, at, size } => {
                self.sender = Sender::Worker;
                // Set again by an event that comes while the worker sends.
                self.writable = false;
                let size = size.min(turn_bytes as u64);
                let socket = Arc::clone(&self.socket);
                self.lane.submit(vec![Job::Send { id, at, size, socket }]);
                return Moved::Nothing;
            }
            Output::Bytes(bytes) => (&*self.socket).write(bytes),
            Output::Zeros(count) => {
                const ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];
                let count = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROS.len());
                (&*self.socket).write(ZEROS.get(..count).unwrap_or_default())
            }
        };
        match result {
            Ok(count) => {
                self.moved_bytes = self.moved_bytes.saturating_add(count as u64);
                self.machine.wrote(count as u64, now);
                self.claim.shrink_to(self.machine.held_bytes());
                self.carry_out(None);
                Moved::Bytes(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Moved::Bytes(1),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                self.machine.blocked(now);
                Moved::Nothing
            }
            Err(_) => {
                self.machine.broken();
                self.carry_out(None);
                Moved::Nothing
            }
        }
    }

    /// Turns the machine's commands into jobs.
    fn carry_out(&mut self, input: Option<&Arc<Buffer>>) {
        let mut jobs = Vec::new();
        while let Some(command) = self.machine.poll_command() {
            jobs.push(match command {
                Command::Login(_) => continue,
                Command::Begin(put) => Job::Begin(put),
                Command::Write { id, bytes, .. } => {
                    let Some(buffer) = input else { continue };
                    self.unstored_bytes = self.unstored_bytes.saturating_add(bytes.len());
                    Job::Write { id, piece: Piece::new(buffer, bytes) }
                }
                Command::Finish(end) => Job::Finish(end),
                Command::Discard(id) => Job::Discard(id),
                Command::Suspend(id) => Job::Suspend(id),
                Command::Resume(resume) => Job::Resume(resume),
                Command::Stat(stat) => Job::Stat(stat),
                Command::Sum(stat) => Job::Sum(stat),
                Command::List(list) => Job::List(list),
                Command::More(id) => Job::More(id),
                Command::Change(change) => Job::Change(change),
                Command::Open(get) => Job::Open(get),
                Command::Digest(id) => Job::Digest(id),
                Command::Close(id) => Job::Close(id),
                Command::HangUp => Job::HangUp,
            });
        }
        self.lane.submit(jobs);
    }
}
