//! What comes from the socket: how much is read in one go, into which buffer, and when a turn has had enough of it.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use ftx_protocol::Time;
use ftx_protocol::server::Reads;
use tracing::debug;

use super::{Buffers, Connection, Face};
use crate::server::buffers::{Buffer, Pool};

/// How much is read when lines are expected: they are short, and a body that follows is read into
/// a buffer of its own.
const LINES_BYTES: usize = 64 * 1024;

/// How much is read in one go behind the rest of a part: small files, mostly, whose bodies would be cut at its end.
const BEHIND_PART_BYTES: usize = 256 * 1024;

/// What a line counts for in a turn: as many bytes of a body are moved while one is carried out that asks for nothing.
const LINE_COST_BYTES: usize = 1024;

/// After so many lines nothing more is read in the same go: they are a turn. They are counted when a stretch was read, and
/// so there may be as many more as the last stretch has.
const LINES_MAX: usize = 1024;

/// Bytes of a TLS connection's records that are read in one step: they may hold a byte each, and then a
/// buffer takes many times its size of them to fill. After so many the others have their turn.
const RECORDS_BYTES: usize = 512 * 1024;

/// What came from the socket in one go.
#[derive(Debug, Clone, Copy, Default)]
struct Arrived {
    bytes: usize,
    lines: usize,
}

impl Arrived {
    /// How much that is of a turn.
    fn cost_bytes(self) -> usize {
        self.bytes.max(self.lines.saturating_mul(LINE_COST_BYTES))
    }
}

/// What a turn read.
pub(super) enum ReadEnd {
    /// Or what took as long as to read so many.
    Bytes(usize),
    Nothing,
    WantBuffer,
}

impl Connection {
    pub(super) fn read(
        &mut self,
        buffers: &mut Buffers<'_>,
        turn_bytes: usize,
        now: Time,
    ) -> ReadEnd {
        if self.has_to_hand_on() {
            return self.hand_on(buffers, now);
        }
        let Some(limit) = self.wanted_bytes(buffers.pool, turn_bytes, now) else {
            return ReadEnd::Nothing;
        };
        let Some(mut buffer) = buffers.take() else {
            self.machine.not_reading(now);
            return ReadEnd::WantBuffer;
        };
        let filled = self.fill(buffer.bytes_mut(), limit, now);
        let buffer = Arc::new(buffer);
        match &filled {
            Ok(Arrived { bytes: 0, .. }) => {
                self.readable = false;
                self.machine.receive_end(now);
            }
            Ok(arrived) => self.moved(arrived.bytes as u64),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.machine.starving(now);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                debug!(peer = %self.peer(), %error, "the connection broke");
                self.machine.broken();
            }
        }
        self.carry_out(Some(&buffer), now);
        self.lend(buffer, buffers.spare);
        match filled {
            // Its records took all that there is in a turn.
            Ok(arrived)
                if arrived.bytes < limit && self.readable && self.stream.plain().is_none() =>
            {
                ReadEnd::Bytes(turn_bytes.max(1))
            }
            Ok(arrived) => ReadEnd::Bytes(arrived.cost_bytes().max(1)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                ReadEnd::Bytes(turn_bytes.max(1))
            }
            Err(_) => ReadEnd::Nothing,
        }
    }

    /// Counts a buffer that jobs have; one that none took is as good as new for the next connection.
    pub(super) fn lend(&mut self, buffer: Arc<Buffer>, spare: &mut Option<Buffer>) {
        let lent = Arc::downgrade(&buffer);
        match Arc::into_inner(buffer) {
            Some(buffer) => *spare = Some(buffer),
            None => self.lent.push(lent),
        }
    }

    /// Whether storage has as many buffers of this connection as it may have.
    pub(super) fn has_its_share(&mut self, pool: &Pool) -> bool {
        self.lent.retain(|buffer| buffer.strong_count() > 0);
        self.lent.len() >= pool.share()
    }

    /// How much is to be read now, if anything: the machine wants it, there is room for it with
    /// storage, and the socket has not said that it has none.
    fn wanted_bytes(&mut self, pool: &Pool, turn_bytes: usize, now: Time) -> Option<usize> {
        if self.face == Face::Unknown && self.meet(now) == Face::Unknown {
            return None;
        }
        if self.has_its_share(pool) || self.is_held_up() {
            self.machine.not_reading(now);
            return None;
        }
        let limit = match self.machine.reads() {
            Reads::Nothing => return None,
            Reads::Lines => LINES_BYTES.min(turn_bytes).min(self.bearable_bytes(0)),
            Reads::Part { left_bytes } => turn_bytes.min(self.bearable_bytes(left_bytes)),
        };
        if !self.readable {
            self.machine.starving(now);
            return None;
        }
        Some(limit)
    }

    /// Reads until the buffer is full, the socket is empty or a stretch has come to many lines: fewer, larger jobs. The
    /// machine has what came after each stretch, because only it can tell how much of the next one may be lines.
    fn fill(&mut self, buffer: &mut [u8], limit: usize, now: Time) -> io::Result<Arrived> {
        let limit = limit.min(buffer.len());
        let mut records_left = RECORDS_BYTES;
        let mut arrived = Arrived::default();
        while arrived.bytes < limit && arrived.lines < LINES_MAX {
            let stretch_bytes = match self.machine.reads() {
                Reads::Nothing => break,
                Reads::Lines => LINES_BYTES,
                Reads::Part { left_bytes } => usize::try_from(left_bytes)
                    .unwrap_or(usize::MAX)
                    .saturating_add(BEHIND_PART_BYTES),
            };
            let taken = arrived.bytes;
            let end = taken.saturating_add(stretch_bytes).min(limit);
            let room = buffer.get_mut(taken..end).unwrap_or_default();
            match self.fill_stretch(room, &mut records_left) {
                // What came before it is good; an end or an error comes again.
                Ok(0) | Err(_) if taken > 0 => break,
                Ok(0) => return Ok(arrived),
                Ok(count) => arrived.bytes = taken.saturating_add(count),
                Err(error) => return Err(error),
            }
            let input = buffer.get(..arrived.bytes).unwrap_or_default();
            let lines = self.machine.receive_behind(taken, input, now);
            arrived.lines = arrived.lines.saturating_add(lines);
            if !self.readable {
                break;
            }
        }
        if arrived.bytes == 0 { Err(ErrorKind::Interrupted.into()) } else { Ok(arrived) }
    }

    fn fill_stretch(&mut self, stretch: &mut [u8], records_left: &mut usize) -> io::Result<usize> {
        let mut filled: usize = 0;
        while let Some(room) = stretch.get_mut(filled..)
            && !room.is_empty()
            && *records_left > 0
        {
            match self.stream.read(room, records_left) {
                Ok(0) if filled > 0 => break,
                Ok(0) => return Ok(0),
                Ok(count) => filled = filled.saturating_add(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
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
        // Many records, and nothing in them.
        if filled == 0 { Err(ErrorKind::Interrupted.into()) } else { Ok(filled) }
    }
}
