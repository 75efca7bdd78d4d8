//! The bytes between here and a server: as they are, or inside TLS.
//!
//! Both look the same to whoever reads and writes: a call does something, or says after a moment
//! that it could not, so that somebody looks at the clock. One thread may read while another
//! writes. It knows no message, and does not decide which of the two ways it is.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ftx_channel::Tls;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::interrupt::Interrupt;

/// How long a call waits at most.
const LOOK: Duration = Duration::from_millis(500);

/// How long a server may take for a handshake, from its beginning to its end.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What a server may say in one breath with the end of its handshake: one line that refuses.
const EARLY_BYTES: usize = 4 * 1024;

pub(crate) enum Stream {
    /// The socket blocks, and has LOOK as its time.
    Plain(TcpStream),
    Tls(Box<Secured>),
}

/// The socket does not block: nobody waits while the lock inside `tls` is held.
pub(crate) struct Secured {
    socket: TcpStream,
    tls: Tls,
    /// What came while the handshake was carried on.
    early: Mutex<Vec<u8>>,
}

impl Stream {
    /// As the bytes are.
    pub(crate) fn plain(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(LOOK))?;
        socket.set_write_timeout(Some(LOOK))?;
        Ok(Self::Plain(socket))
    }

    /// Inside TLS. Returns when the handshake is over: the server is the one that `tls` was told to
    /// trust, and nothing has been said to it yet.
    ///
    /// # Errors
    /// Those of the channel; of kind `TimedOut` when it takes too long, of kind `Interrupted` when
    /// somebody wants it to end.
    pub(crate) fn secured(socket: TcpStream, tls: Tls, interrupt: &Interrupt) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let secured = Secured { socket, tls, early: Mutex::default() };
        let end = Instant::now().checked_add(HANDSHAKE);
        while !secured.tls.is_ready() {
            if interrupt.is_set() {
                return Err(ErrorKind::Interrupted.into());
            }
            if end.is_some_and(|end| end <= Instant::now()) {
                return Err(ErrorKind::TimedOut.into());
            }
            secured.carry_on()?;
        }
        Ok(Self::Tls(Box::new(secured)))
    }

    /// Reads once. Nothing is the end, and a cut is no end but an error. Of kind `TimedOut` or
    /// `WouldBlock` when nothing came in a while.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => (&*socket).read(buffer),
            Self::Tls(secured) => secured.read(buffer),
        }
    }

    /// Takes some of the bytes. Of kind `TimedOut` or `WouldBlock` when none could be taken in a
    /// while.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => (&*socket).write(bytes),
            Self::Tls(secured) => {
                secured.wait_for(PollFlags::OUT, |socket| secured.tls.write(socket, bytes))
            }
        }
    }

    /// What was taken leaves. Of kind `TimedOut` or `WouldBlock` when not all of it could in a while.
    pub(crate) fn flush(&self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(secured) => {
                secured.wait_for(PollFlags::OUT, |socket| secured.tls.flush(socket))
            }
        }
    }

    /// Whether it stands, and nothing has come that nobody has read.
    pub(crate) fn is_quiet(&self) -> bool {
        let peeked = match self {
            Self::Plain(socket) => socket.set_nonblocking(true).and_then(|()| {
                let peeked = socket.peek(&mut [0]);
                socket.set_nonblocking(false)?;
                peeked
            }),
            Self::Tls(secured) if secured.tls.has_plain() || !secured.early().is_empty() => Ok(1),
            Self::Tls(secured) => secured.socket.peek(&mut [0]),
        };
        peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }

    /// Ends the sending direction behind all that was written.
    pub(crate) fn finish_sending(&self) -> io::Result<()> {
        if let Self::Tls(secured) = self {
            secured.wait_for(PollFlags::OUT, |socket| secured.tls.close(socket))?;
        }
        self.socket().shutdown(Shutdown::Write)
    }

    /// Ends both directions at once. A server is told that this is meant, if that is possible without
    /// waiting.
    pub(crate) fn close(&self) -> io::Result<()> {
        if let Self::Tls(secured) = self {
            // What cannot be said is then a cut, which is as good an end for whoever wants one now.
            let _ = secured.tls.close(&mut &secured.socket);
        }
        self.socket().shutdown(Shutdown::Both)
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(secured) => &secured.socket,
        }
    }
}

impl Secured {
    fn early(&self) -> MutexGuard<'_, Vec<u8>> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One step of the handshake.
    fn carry_on(&self) -> io::Result<()> {
        let mut room = [0; EARLY_BYTES];
        let step = |socket: &mut &TcpStream| match self.tls.read(socket, &mut room) {
            // The server waits for us now.
            Err(error) if error.kind() == ErrorKind::WouldBlock && self.tls.is_ready() => Ok(None),
            result => result.map(Some),
        };
        match self.wait_for(PollFlags::IN, step) {
            Ok(None) => Ok(()),
            Ok(Some(0)) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(Some(count)) => {
                self.early().extend_from_slice(room.get(..count).unwrap_or_default());
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut early = self.early();
        if !early.is_empty() {
            let count = early.as_slice().read(buffer)?;
            early.drain(..count);
            return Ok(count);
        }
        drop(early);
        self.wait_for(PollFlags::IN, |socket| self.tls.read(socket, buffer))
    }

    /// Acts, and waits if there is nothing to do yet. It acts once more after that at the most.
    fn wait_for<T>(
        &self,
        what: PollFlags,
        mut act: impl FnMut(&mut &TcpStream) -> io::Result<T>,
    ) -> io::Result<T> {
        match act(&mut &self.socket) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            result => return result,
        }
        let look = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK.subsec_nanos()) };
        match poll(&mut [PollFd::new(&self.socket, what)], Some(&look)) {
            // A signal, perhaps: the caller looks whether it is to end.
            Ok(0) | Err(rustix::io::Errno::INTR) => Err(ErrorKind::TimedOut.into()),
            Err(error) => Err(error.into()),
            Ok(_) => match act(&mut &self.socket) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    Err(ErrorKind::TimedOut.into())
                }
                result => result,
            },
        }
    }
}
