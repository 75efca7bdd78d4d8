//! One TLS connection over a socket that does not block.
//!
//! It looks like such a socket: a read or a write does what can be done now and else says
//! `WouldBlock`. It owns the state of TLS and never the socket, which is handed in with each call.
//! One thread may read while another writes: the lock is held for one step of at most
//! [`STEP_BYTES`] of cryptography and the nonblocking system calls to it, never while anybody waits.

use std::cell::Cell;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, Connection, Error, IoState, ServerConfig, ServerConnection,
};

use crate::config::ALPN;
use crate::error::TlsError;

/// Bytes that one call encrypts while it has the lock: about 20 µs. Larger steps leave the cache
/// and are slower.
pub const STEP_BYTES: usize = 64 * 1024;

/// What the records around a step are longer than it, with room for a key update.
const STEP_OVERHEAD_BYTES: usize = 4 * 1024;

/// Bytes that are taken from the socket at a time; a buffer of this size belongs to each thread
/// that reads, and none to a connection.
const WIRE_BYTES: usize = 64 * 1024;

/// Bytes that are taken from the socket at least, however little room the caller has: a line is read
/// in small pieces, and each system call should bring what is there. What does not fit is kept.
const WIRE_BYTES_MIN: usize = 4 * 1024;

/// Bytes in a row that may come without a byte of content: a handshake is a few KiB, of which rustls
/// takes messages of 64 KiB. A peer that sends more of them means to keep a thread busy.
const SILENT_BYTES_MAX: usize = 256 * 1024;

thread_local! {
    static WIRE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// One TLS connection, for one reader and one writer at a time, from any thread.
pub struct Tls {
    inside: Mutex<Inside>,
}

struct Inside {
    connection: Connection,
    /// Content that came and that nobody has read. Empty whenever the socket is read, and so at most
    /// a record and [`WIRE_BYTES_MIN`] long.
    spill: Vec<u8>,
    spilled: usize,
    silent: usize,
    hearing: Hearing,
    sending: Sending,
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
        let connection = ServerConnection::new(Arc::clone(config))?;
        Ok(Self::new(connection.into()))
    }

    /// The client's side of a connection to `host`, a name or an address. What is to be sent first
    /// goes out with the first [`flush`](Self::flush) or [`read`](Self::read).
    pub fn connect(config: &Arc<ClientConfig>, host: &str) -> Result<Self, TlsError> {
        // The zone of an address says something on this machine only.
        let plain = host.split_once('%').map_or(host, |(address, _zone)| address);
        let name = ServerName::try_from(plain.to_owned());
        let name = name.map_err(|_| TlsError::Host(host.to_owned()))?;
        let connection = ClientConnection::new(Arc::clone(config), name)?;
        Ok(Self::new(connection.into()))
    }

    fn new(mut connection: Connection) -> Self {
        connection.set_buffer_limit(Some(STEP_BYTES + STEP_OVERHEAD_BYTES));
        Self {
            inside: Mutex::new(Inside {
                connection,
                spill: Vec::new(),
                spilled: 0,
                silent: 0,
                hearing: Hearing::Open,
                sending: Sending::Open,
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
        !inside.connection.is_handshaking() && !matches!(inside.hearing, Hearing::Broken(_))
    }

    /// Whether a read would give bytes, or an end, without a look at the socket.
    pub fn has_plain(&self) -> bool {
        let inside = self.lock();
        !inside.spill.is_empty() || !matches!(inside.hearing, Hearing::Open)
    }

    #[cfg(test)]
    pub(crate) fn kept_bytes(&self) -> usize {
        self.lock().spill.len()
    }

    /// Content that came: all of it that there is room for, since each piece costs its reader more
    /// than the bytes in it. `Ok(0)` is the peer's word that it is done; a connection that ended without
    /// it is `UnexpectedEof`, and what is no TLS, or not of the right server, is `InvalidData`.
    ///
    /// It carries the handshake on, and sends what that produces as far as the socket takes it.
    pub fn read<S: Read + Write>(&self, socket: &mut S, room: &mut [u8]) -> io::Result<usize> {
        let mut wire = WIRE.try_with(Cell::take).unwrap_or_default();
        wire.resize(WIRE_BYTES, 0);
        let mut got: usize = 0;
        let read = loop {
            let free = room.get_mut(got..).unwrap_or_default();
            if free.is_empty() {
                break Ok(got);
            }
            // Whoever writes has its turn between two steps.
            match self.lock().read(socket, &mut wire, free) {
                Ok(0) => break Ok(got),
                Ok(count) => got = got.saturating_add(count),
                // What came before it is good; an end comes again.
                Err(_) if got > 0 => break Ok(got),
                Err(error) => break Err(error),
            }
        };
        // A thread that is ending has no use for it.
        let _ = WIRE.try_with(|kept| kept.set(wire));
        read
    }

    /// Takes at most [`STEP_BYTES`] of `bytes`, and says how many. What it took may wait for the
    /// socket: [`flush`](Self::flush), or the next write, sends it. `WouldBlock` until what was taken
    /// before is out, and until the handshake is over: then it is a read that carries it on.
    pub fn write<S: Read + Write>(&self, socket: &mut S, bytes: &[u8]) -> io::Result<usize> {
        self.lock().write(socket, bytes)
    }

    /// Sends what was taken; `WouldBlock` while not all of it is out.
    pub fn flush<S: Read + Write>(&self, socket: &mut S) -> io::Result<()> {
        self.lock().flush(socket)
    }

    /// Says that nothing more will be written, once, and sends what was taken.
    pub fn close<S: Read + Write>(&self, socket: &mut S) -> io::Result<()> {
        let mut inside = self.lock();
        if matches!(inside.sending, Sending::Open) {
            inside.sending = Sending::Closed;
            inside.connection.send_close_notify();
        }
        inside.flush(socket)
    }
}

impl Inside {
    fn take_spill(&mut self, room: &mut [u8]) -> usize {
        let mut rest = self.spill.get(self.spilled..).unwrap_or_default();
        // A read of a slice cannot fail.
        let count = rest.read(room).unwrap_or_default();
        self.spilled = self.spilled.saturating_add(count);
        if self.spilled >= self.spill.len() {
            self.spill = Vec::new();
            self.spilled = 0;
        }
        count
    }

    fn read<S: Read + Write>(
        &mut self,
        socket: &mut S,
        wire: &mut [u8],
        room: &mut [u8],
    ) -> io::Result<usize> {
        let count = self.take_spill(room);
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
            let limit = room.len().max(WIRE_BYTES_MIN).min(wire.len());
            let part = wire.get_mut(..limit).unwrap_or_default();
            let count = match socket.read(part) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let Some(came) = part.get(..count).filter(|came| !came.is_empty()) else {
                self.hearing = Hearing::Cut;
                continue;
            };
            let got = self.feed(came, room);
            if got > 0 {
                let _ = self.flush(socket);
                return Ok(got);
            }
        }
    }

    /// Decrypts all of `wire` into `room` and, if that is full, into the spill.
    fn feed(&mut self, mut wire: &[u8], room: &mut [u8]) -> usize {
        let mut got = 0;
        while !wire.is_empty() && matches!(self.hearing, Hearing::Open) {
            let before = wire.len();
            let state = match self.take(&mut wire) {
                Ok(state) => state,
                Err(error) => {
                    self.hearing = Hearing::Broken(error);
                    break;
                }
            };
            let plain = state.plaintext_bytes_to_read();
            self.silent = match plain {
                0 => self.silent.saturating_add(before.saturating_sub(wire.len())),
                _ => 0,
            };
            got = self.drain(plain, room, got);
            if state.peer_has_closed() {
                self.hearing = Hearing::Done;
            } else if self.silent > SILENT_BYTES_MAX {
                self.hearing =
                    Hearing::Broken(Error::General("too much that has no content".to_owned()));
            }
        }
        got
    }

    fn take(&mut self, wire: &mut &[u8]) -> Result<IoState, Error> {
        // Its buffer for content is empty, so it takes something. Otherwise this would not end.
        match self.connection.read_tls(wire) {
            Ok(0) => return Err(Error::General("TLS took nothing".to_owned())),
            Ok(_) => {}
            Err(error) => return Err(Error::General(error.to_string())),
        }
        let state = self.connection.process_new_packets()?;
        self.check_what_is_spoken()?;
        Ok(state)
    }

    /// A server that did not say that it speaks ftx is another service of that host, with the same
    /// certificate: nothing is said to it. (rustls sees to the other side.)
    fn check_what_is_spoken(&self) -> Result<(), Error> {
        match &self.connection {
            Connection::Client(client)
                if !client.is_handshaking() && client.alpn_protocol() != Some(ALPN) =>
            {
                Err(Error::NoApplicationProtocol)
            }
            _ => Ok(()),
        }
    }

    /// Takes `plain` bytes out of rustls, which must have none when it is given more; returns how
    /// many are in `room` now, of which `got` were.
    fn drain(&mut self, plain: usize, room: &mut [u8], mut got: usize) -> usize {
        let mut left = plain;
        while left > 0 {
            let free = room.get_mut(got..).unwrap_or_default();
            if free.is_empty() {
                self.keep(left);
                break;
            }
            match self.connection.reader().read(free) {
                Ok(0) | Err(_) => break,
                Ok(count) => {
                    got = got.saturating_add(count);
                    left = left.saturating_sub(count);
                }
            }
        }
        got
    }

    fn keep(&mut self, left: usize) {
        let at = self.spill.len();
        self.spill.resize(at.saturating_add(left), 0);
        let free = self.spill.get_mut(at..).unwrap_or_default();
        if let Err(error) = self.connection.reader().read_exact(free) {
            self.spill.truncate(at);
            self.hearing = Hearing::Broken(Error::General(error.to_string()));
        }
    }

    fn write<S: Read + Write>(&mut self, socket: &mut S, bytes: &[u8]) -> io::Result<usize> {
        if matches!(self.sending, Sending::Closed) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let flushed = self.flush(socket);
        if let Hearing::Broken(error) = &self.hearing {
            return Err(invalid(error.clone()));
        }
        flushed?;
        if self.connection.is_handshaking() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let step = bytes.get(..STEP_BYTES).unwrap_or(bytes);
        let count = self.connection.writer().write(step)?;
        unblocked(self.flush(socket))?;
        Ok(count)
    }

    fn flush<S: Write>(&mut self, socket: &mut S) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn unblocked(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        result => result,
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
