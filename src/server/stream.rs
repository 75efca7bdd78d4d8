//! What lies between the bytes of ftx and a socket: nothing, or TLS.
//!
//! A connection inside TLS looks like a nonblocking socket: it is read and written, and says
//! `WouldBlock`. Whoever has it, the selector or the worker that sends, uses it in the same way.
//! Knows no message, and not whether an address may be spoken to in plain.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;

use ftx_channel::{ServerConfig, Tls, TlsError};
use mio::net::TcpStream;

use super::access::Channel;

/// The first byte of a TLS connection: the type of a record with a handshake in it.
pub(super) const TLS_FIRST_BYTE: u8 = 0x16;

/// A socket, and TLS on it if the client speaks that. Cheap to clone; a plain one is the socket and
/// nothing besides, because most connections of most servers are idle.
#[derive(Debug, Clone)]
pub(super) enum Stream {
    Plain(Arc<TcpStream>),
    Tls(Arc<Secured>),
}

#[derive(Debug)]
pub(super) struct Secured {
    socket: Arc<TcpStream>,
    tls: Tls,
}

impl Stream {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self::Plain(Arc::new(socket))
    }

    /// The first byte that the client sent, which stays where it is. `None`: it is done, and sent
    /// nothing.
    pub(super) fn first_byte(&self) -> io::Result<Option<u8>> {
        let mut first = [0];
        match self.socket().peek(&mut first)? {
            0 => Ok(None),
            _ => Ok(first.first().copied()),
        }
    }

    /// The same socket inside TLS, from its first byte on.
    pub(super) fn inside_tls(&self, config: &Arc<ServerConfig>) -> Result<Self, TlsError> {
        let socket = match self {
            Self::Plain(socket) => Arc::clone(socket),
            Self::Tls(secured) => Arc::clone(&secured.socket),
        };
        Ok(Self::Tls(Arc::new(Secured { socket, tls: Tls::accept(config)? })))
    }

    pub(super) fn channel(&self) -> Channel {
        match self {
            Self::Plain(_) => Channel::Plain,
            Self::Tls(_) => Channel::Tls,
        }
    }

    /// The socket, where the kernel may be told to write to it.
    pub(super) fn plain(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(_) => None,
        }
    }

    /// Whether something can be said: inside TLS, not before both sides have agreed on it.
    pub(super) fn is_ready(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Tls(secured) => secured.tls.is_ready(),
        }
    }

    /// Has the socket take everything that was written. `WouldBlock`: it did not take all of it.
    pub(super) fn flush(&self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(secured) => secured.tls.flush(&mut &*secured.socket),
        }
    }

    /// Bytes of what was written that the socket has not taken.
    pub(super) fn unsent_bytes(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Tls(secured) => secured.tls.unsent_bytes(),
        }
    }

    /// Says that nothing more will be written. `WouldBlock`: not all of what was written is out; to
    /// be called again.
    pub(super) fn shut_down_sending(&self) -> io::Result<()> {
        if let Self::Tls(secured) = self {
            secured.tls.close(&mut &*secured.socket)?;
        }
        self.socket().shutdown(Shutdown::Write)
    }

    /// The end, for everybody who has it.
    pub(super) fn shut_down(&self) -> io::Result<()> {
        self.socket().shutdown(Shutdown::Both)
    }

    /// Reads. `Ok(0)` is the peer's word that it is done. Inside TLS, an end without it is an error, and no
    /// more than `left` bytes of records are taken from the socket, which are then subtracted from it; if
    /// there was no content in them it is `Interrupted`.
    pub(super) fn read(&self, room: &mut [u8], left: &mut usize) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => (&**socket).read(room),
            Self::Tls(secured) => {
                let mut within = Within { socket: &secured.socket, left };
                match secured.tls.read(&mut within, room) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock && *within.left == 0 => {
                        Err(ErrorKind::Interrupted.into())
                    }
                    result => result,
                }
            }
        }
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(secured) => &secured.socket,
        }
    }
}

/// A socket of which only so many bytes are read: records may hold a byte each, or none, and whoever fills a
/// buffer from them is to say for how long.
struct Within<'a> {
    socket: &'a TcpStream,
    left: &'a mut usize,
}

impl Read for Within<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if *self.left == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let limit = room.len().min(*self.left);
        let count = self.socket.read(room.get_mut(..limit).unwrap_or_default())?;
        *self.left = self.left.saturating_sub(count);
        Ok(count)
    }
}

impl Write for Within<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

impl Write for &Stream {
    /// Says how much it took, which may not be out yet.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => (&**socket).write(bytes),
            Stream::Tls(secured) => secured.tls.write(&mut &*secured.socket, bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Stream::flush(self)
    }
}
