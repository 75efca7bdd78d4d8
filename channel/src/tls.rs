//! One TLS connection over a socket that does not block.
//!
//! It looks like such a socket: a read or a write does what can be done now and else says
//! `WouldBlock`. It owns the state of TLS and never the socket, which is handed in with each call.
//! One thread may read while another writes: the lock is held for one step, of at most [`WIRE_BYTES`] or
//! [`STEP_BYTES`] of cryptography and the nonblocking system calls to it, never while anybody waits.
//!
//! Records are decrypted and encrypted in buffers that belong to the threads. A connection keeps what
//! cannot be dealt with yet, and nothing when it is idle.

use std::cell::Cell;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, Error, ServerConfig};

use crate::engine::{Engine, Room};
use crate::error::TlsError;

/// Bytes that one call encrypts at the most, while it has the lock. Each step is a system call and may wake the other side:
/// with 64 KiB a get and a put took 3 to 5 % longer.
pub const STEP_BYTES: usize = 256 * 1024;

/// The same before the socket has taken all of [`WHOLE_STEPS`] steps in a row: what is encrypted and not sent is kept, for
/// each of the connections whose peers read slowly.
pub(crate) const NARROW_STEP_BYTES: usize = 64 * 1024;

/// So many steps in a row say that the peer reads.
pub(crate) const WHOLE_STEPS: u8 = 4;

/// Bytes that are taken from the socket at a time at the most, where the caller has so much room; a buffer of as much
/// as was ever taken belongs to each thread that reads, and none to a connection. A client takes all that fits
/// its own buffer.
const WIRE_BYTES: usize = 2 * 1024 * 1024;

/// Bytes that are taken from the socket at least, however little room the caller has: a line is read
/// in small pieces, and each system call should bring what is there. What does not fit is kept.
const WIRE_BYTES_MIN: usize = 4 * 1024;

/// Bytes that are kept of what has come and is not whole: of content less than a record, and of a
/// handshake a message of up to 64 KiB. A peer whose messages are larger is none of ours.
const UNFINISHED_BYTES_MAX: usize = 64 * 1024;

/// Bytes in a row that may come without a byte of content: a handshake is a few KiB. A peer that
/// sends more of them means to keep a thread busy.
const SILENT_BYTES_MAX: usize = 256 * 1024;

thread_local! {
    static WIRE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lends the buffer of this thread.
fn with_wire<T>(act: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut wire = WIRE.try_with(Cell::take).unwrap_or_default();
    let done = act(&mut wire);
    // A thread that is ending has no use for it.
    let _ = WIRE.try_with(|kept| kept.set(wire));
    done
}

/// One TLS connection, for one reader and one writer at a time, from any thread.
pub struct Tls {
    inside: Mutex<Inside>,
}

struct Inside {
    engine: Engine,
    /// Records, or messages of a handshake, that have begun and are not whole.
    unfinished: Vec<u8>,
    /// Content that came and that nobody has read. Empty whenever the socket is read, and so at most
    /// a record and [`WIRE_BYTES_MIN`] long.
    spill: Kept,
    /// What is to be sent, encrypted: a step, and what a handshake says.
    unsent: Kept,
    silent: usize,
    hearing: Hearing,
    sending: Sending,
    /// Steps in a row of which the socket took all.
    whole_steps: u8,
}

/// Bytes of which those in front are gone.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    gone: usize,
}

/// What can still come from the peer.
enum Hearing {
    Open,
    /// It said that it is done. It often says so with its last bytes, and a socket that stays open
    /// never says more: this must be remembered.
    Done,
    /// It went away without a word, which anybody on the way can do for it.
    Cut,
    Broken(Error),
}

enum Sending {
    Open,
    /// `close_notify` is behind what was written.
    Closed,
}

impl Tls {
    /// The server's side of a connection.
    pub fn accept(config: &Arc<ServerConfig>) -> Result<Self, TlsError> {
        Ok(Self::new(Engine::server(config)?))
    }

    /// The client's side of a connection to `host`, a name or an address. What is to be sent first
    /// goes out with the first [`flush`](Self::flush) or [`read`](Self::read).
    pub fn connect(config: &Arc<ClientConfig>, host: &str) -> Result<Self, TlsError> {
        // The zone of an address says something on this machine only.
        let plain = host.split_once('%').map_or(host, |(address, _zone)| address);
        let name = ServerName::try_from(plain.to_owned());
        let name = name.map_err(|_| TlsError::Host(host.to_owned()))?;
        Ok(Self::new(Engine::client(config, name)?))
    }

    fn new(engine: Engine) -> Self {
        Self {
            inside: Mutex::new(Inside {
                engine,
                unfinished: Vec::new(),
                spill: Kept::default(),
                unsent: Kept::default(),
                silent: 0,
                hearing: Hearing::Open,
                sending: Sending::Open,
                whole_steps: 0,
            }),
        }
    }

    /// A thread that ended while it held the lock has ended the program, or a test.
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the handshake is over, and went well: before that nothing can be written.
    pub fn is_ready(&self) -> bool {
        let inside = self.lock();
        !inside.engine.is_handshaking() && !matches!(inside.hearing, Hearing::Broken(_))
    }

    /// Whether a read would give bytes, or an end, without a look at the socket.
    pub fn has_plain(&self) -> bool {
        let inside = self.lock();
        !inside.spill.is_empty() || !matches!(inside.hearing, Hearing::Open)
    }

    #[cfg(test)]
    pub(crate) fn kept_bytes(&self) -> usize {
        let inside = self.lock();
        let kept = [&inside.unfinished, &inside.spill.bytes, &inside.unsent.bytes];
        kept.iter().map(|bytes| bytes.capacity()).sum()
    }

    /// Content that came: all of it that there is room for, since each piece costs its reader more
    /// than the bytes in it. `Ok(0)` is the peer's word that it is done; a connection that ended without
    /// it is `UnexpectedEof`, and what is no TLS, or not of the right server, is `InvalidData`.
    ///
    /// It carries the handshake on, and sends what that produces as far as the socket takes it.
    pub fn read<S: Read + Write>(&self, socket: &mut S, room: &mut [u8]) -> io::Result<usize> {
        with_wire(|wire| {
            let mut got: usize = 0;
            loop {
                let free = room.get_mut(got..).unwrap_or_default();
                if free.is_empty() {
                    return Ok(got);
                }
                // Whoever writes has its turn between two steps.
                match self.lock().read(socket, wire, free) {
                    Ok(0) => return Ok(got),
                    Ok(count) => got = got.saturating_add(count),
                    // What came before it is good; an end comes again.
                    Err(_) if got > 0 => return Ok(got),
                    Err(error) => return Err(error),
                }
            }
        })
    }

    /// Takes at most [`STEP_BYTES`] of `bytes`, and says how many. What it took may wait for the
    /// socket: [`flush`](Self::flush), or the next write, sends it. `WouldBlock` until what was taken
    /// before is out, and until the handshake is over: then it is a read that carries it on.
    pub fn write<S: Read + Write>(&self, socket: &mut S, bytes: &[u8]) -> io::Result<usize> {
        with_wire(|wire| self.lock().write(socket, wire, bytes))
    }

    /// Sends what was taken; `WouldBlock` while not all of it is out.
    pub fn flush<S: Read + Write>(&self, socket: &mut S) -> io::Result<()> {
        self.lock().flush(socket)
    }

    /// Bytes that were taken, encrypted, and are not out.
    pub fn unsent_bytes(&self) -> usize {
        self.lock().unsent.rest().len()
    }

    /// Says that nothing more will be written, once, and sends what was taken. Before the handshake is
    /// over there is nothing to say it with, and the peer sees a cut.
    pub fn close<S: Read + Write>(&self, socket: &mut S) -> io::Result<()> {
        let mut inside = self.lock();
        if matches!(inside.sending, Sending::Open) {
            inside.sending = Sending::Closed;
            inside.say_closed();
        }
        inside.flush(socket)
    }
}

impl Inside {
    fn read<S: Read + Write>(
        &mut self,
        socket: &mut S,
        wire: &mut Vec<u8>,
        room: &mut [u8],
    ) -> io::Result<usize> {
        let count = self.spill.take(room);
        if count > 0 {
            return Ok(count);
        }
        loop {
            // Whoever waits for an answer must not have to write for it: a client's first words, an
            // answer of the handshake, an alert. If the socket takes no more, there may still be
            // something to hear on it, and a write says so.
            let _ = self.flush(socket);
            match &self.hearing {
                Hearing::Open => {}
                Hearing::Done => return Ok(0),
                Hearing::Cut => return Err(ErrorKind::UnexpectedEof.into()),
                Hearing::Broken(error) => return Err(invalid(error.clone())),
            }
            // Content is shorter than its records: what is read now fits, but for what was begun.
            let limit = room.len().clamp(WIRE_BYTES_MIN, WIRE_BYTES);
            let begun = self.unfinished.len();
            let end = begun.saturating_add(limit);
            if wire.len() < end {
                wire.resize(end, 0);
            }
            let count = match socket.read(wire.get_mut(begun..end).unwrap_or_default()) {
                Ok(0) => {
                    self.hearing = Hearing::Cut;
                    continue;
                }
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if let Some(place) = wire.get_mut(..begun) {
                place.copy_from_slice(&self.unfinished);
            }
            let came = begun.saturating_add(count);
            let got = self.feed(wire.get_mut(..came).unwrap_or_default(), count, room);
            if got > 0 {
                let _ = self.flush(socket);
                return Ok(got);
            }
        }
    }

    /// Decrypts what there is in `wire`, of which the last `new` bytes came now, into `room` and, if
    /// that is full, into the spill. Keeps what is not whole.
    fn feed(&mut self, wire: &mut [u8], new: usize, room: &mut [u8]) -> usize {
        let mut room = Room::new(room, &mut self.spill.bytes);
        let fed = self.engine.feed(wire, &mut room, &mut self.unsent.bytes);
        let got = room.filled();
        self.silent = if got > 0 { 0 } else { self.silent.saturating_add(new) };
        self.unfinished = Vec::new();
        match fed {
            Err(error) => self.hearing = Hearing::Broken(error),
            Ok(fed) if fed.has_ended => self.hearing = Hearing::Done,
            Ok(_) if self.silent > SILENT_BYTES_MAX => {
                self.hearing =
                    Hearing::Broken(Error::General("too much that has no content".to_owned()));
            }
            Ok(fed) => {
                let rest = wire.get(fed.taken..).unwrap_or_default();
                if rest.len() > UNFINISHED_BYTES_MAX {
                    self.hearing =
                        Hearing::Broken(Error::General("too large a message".to_owned()));
                } else {
                    self.unfinished = rest.to_vec();
                }
            }
        }
        got
    }

    fn write<S: Read + Write>(
        &mut self,
        socket: &mut S,
        wire: &mut Vec<u8>,
        bytes: &[u8],
    ) -> io::Result<usize> {
        if matches!(self.sending, Sending::Closed) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let flushed = self.flush(socket);
        if let Hearing::Broken(error) = &self.hearing {
            return Err(invalid(error.clone()));
        }
        flushed?;
        if self.engine.is_handshaking() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let step_bytes =
            if self.whole_steps < WHOLE_STEPS { NARROW_STEP_BYTES } else { STEP_BYTES };
        let step = bytes.get(..step_bytes).unwrap_or(bytes);
        let count = match self.engine.encrypt(&mut self.unfinished, step, wire) {
            Ok(count) => count,
            Err(error) => {
                self.hearing = Hearing::Broken(error.clone());
                return Err(invalid(error));
            }
        };
        let mut rest = wire.get(..count).unwrap_or_default();
        let sent = send(socket, &mut rest);
        self.whole_steps = if rest.is_empty() { self.whole_steps.saturating_add(1) } else { 0 };
        // It was taken, and belongs behind what was sent before, whatever the socket does now.
        self.unsent.bytes.extend_from_slice(rest);
        match sent {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(step.len()),
        }
    }

    fn say_closed(&mut self) {
        if matches!(self.hearing, Hearing::Broken(_)) {
            return;
        }
        // A connection on which it cannot be said is one that ends in another way.
        let _ = self.engine.say_closed(&mut self.unfinished, &mut self.unsent.bytes);
    }

    fn flush<S: Write>(&mut self, socket: &mut S) -> io::Result<()> {
        self.engine.speak(&mut self.unsent.bytes);
        if self.unsent.is_empty() {
            return Ok(());
        }
        let mut rest = self.unsent.rest();
        let before = rest.len();
        let sent = send(socket, &mut rest);
        let count = before.saturating_sub(rest.len());
        self.unsent.pass(count);
        sent
    }
}

/// Writes as much as the socket takes, and leaves the rest.
fn send<S: Write>(socket: &mut S, rest: &mut &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match socket.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => *rest = rest.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Kept {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.gone..).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    fn take(&mut self, room: &mut [u8]) -> usize {
        // A read of a slice cannot fail.
        let count = self.rest().read(room).unwrap_or_default();
        self.pass(count);
        count
    }

    /// So many more are gone. Keeps no memory when all are.
    fn pass(&mut self, count: usize) {
        self.gone = self.gone.saturating_add(count);
        if self.gone >= self.bytes.len() {
            *self = Self::default();
        }
    }
}

fn invalid(error: Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}
