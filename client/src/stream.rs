//! The bytes between here and a server: as they are, or inside TLS.
//!
//! Both look the same to whoever reads and writes: a call does something, or says after a moment
//! that it could not, so that somebody looks at the clock. One thread may read while another
//! writes. It knows no message, and does not decide which of the two ways it is.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ftx_channel::Tls;
use ftx_disk::lock::lock;
use ftx_protocol::limits::SILENCE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_linger;

use crate::interrupt::Interrupt;

/// How long a call waits at most.
const LOOK: Duration = Duration::from_millis(500);

/// How long a server may take for a handshake, from its beginning to its end: as long as for its
/// greeting without one. One that is full takes connections, and lets them wait for their turn.
const HANDSHAKE: Duration = SILENCE;

/// What a server may say in one breath with the end of its handshake: one line that refuses.
const EARLY_BYTES: usize = 4 * 1024;

/// What becomes of what was written and has not left, when a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unsent {
    /// The system goes on sending it: for minutes, where the line is dead for a while.
    Leaves,
    /// It is dropped. So it is from the beginning, for a process that is killed.
    IsDropped,
}

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

/// Says to the system what it does when the last of this socket is closed.
fn set_unsent(socket: &TcpStream, unsent: Unsent) -> io::Result<()> {
    let linger = match unsent {
        Unsent::Leaves => None,
        Unsent::IsDropped => Some(Duration::ZERO),
    };
    Ok(set_socket_linger(socket, linger)?)
}

impl Stream {
    /// As the bytes are.
    pub(crate) fn plain(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(LOOK))?;
        socket.set_write_timeout(Some(LOOK))?;
        set_unsent(&socket, Unsent::IsDropped)?;
        Ok(Self::Plain(socket))
    }

    /// Inside TLS. Returns when the handshake is over: the server is the one that `tls` was told to
    /// trust, and nothing has been said to it yet.
    ///
    /// # Errors
    /// Those of the channel; of kind `TimedOut` when it takes too long, of kind `Interrupted` when
    /// somebody wants it to end.
    pub(crate) fn secured(socket: TcpStream, tls: Tls, interrupt: &Interrupt) -> io::Result<Self> {
        Self::secured_within(HANDSHAKE, socket, tls, interrupt)
    }

    fn secured_within(
        patience: Duration,
        socket: TcpStream,
        tls: Tls,
        interrupt: &Interrupt,
    ) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let secured = Secured { socket, tls, early: Mutex::default() };
        let end = Instant::now().checked_add(patience);
        while !secured.tls.is_ready() {
            if interrupt.is_set() {
                return Err(ErrorKind::Interrupted.into());
            }
            if end.is_some_and(|end| end <= Instant::now()) {
                return Err(ErrorKind::TimedOut.into());
            }
            secured.carry_on()?;
        }
        set_unsent(&secured.socket, Unsent::IsDropped)?;
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
    /// waiting, and if what was written is to leave.
    pub(crate) fn close(&self, unsent: Unsent) -> io::Result<()> {
        match (unsent, self) {
            (Unsent::IsDropped, _) => {}
            (Unsent::Leaves, Self::Plain(socket)) => set_unsent(socket, unsent)?,
            (Unsent::Leaves, Self::Tls(secured)) => {
                set_unsent(&secured.socket, unsent)?;
                // What cannot be said is then a cut, which is as good an end for whoever wants one now.
                let _ = secured.tls.close(&mut &secured.socket);
            }
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
        lock(&self.early)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::sync::Arc;

    use ftx_channel::{Identity, Sight, Trust, client_config, server_config};

    /// A client of a server that does what it is told once the handshake is over.
    fn connected(serve: impl FnOnce(TcpStream, &Tls) + Send + 'static) -> io::Result<Stream> {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["ftx".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let key = key.serialize_pem();
        let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
        let identity = Arc::new(identity);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let trust = Trust::Pin(identity.pin());
        std::thread::spawn(move || {
            let tls = Tls::accept(&server_config(&identity).unwrap()).unwrap();
            let (mut socket, _) = listener.accept().unwrap();
            while !tls.is_ready() {
                // The client's Finished is its last word; a byte of content would be too much.
                assert!(matches!(tls.read(&mut Shy(&mut socket), &mut [0]), Ok(0) | Err(_)));
            }
            serve(socket, &tls);
        });
        let config = client_config(trust, &Sight::default()).unwrap();
        let tls = Tls::connect(&config, "127.0.0.1").unwrap();
        Stream::secured(TcpStream::connect(address).unwrap(), tls, &Interrupt::default())
    }

    /// A socket that blocks, but does not wait for what comes behind the handshake.
    struct Shy<'a>(&'a mut TcpStream);

    impl Read for Shy<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.set_read_timeout(Some(Duration::from_millis(20)))?;
            let count = self.0.read(buffer);
            self.0.set_read_timeout(None)?;
            count
        }
    }

    impl Write for Shy<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }

    fn all(stream: &Stream) -> (Vec<u8>, io::Result<()>) {
        let mut bytes = Vec::new();
        let mut room = [0; 3];
        loop {
            match stream.read(&mut room) {
                Ok(0) => return (bytes, Ok(())),
                Ok(count) => bytes.extend_from_slice(&room[..count]),
                Err(error) if error.kind() == ErrorKind::TimedOut => {}
                Err(error) => return (bytes, Err(error)),
            }
        }
    }

    #[test]
    fn an_end_is_one_only_if_the_server_says_so_and_nothing_of_what_it_said_is_lost() {
        let said = connected(|mut socket, tls| {
            tls.write(&mut socket, b"all of it").unwrap();
            tls.close(&mut socket).unwrap();
            // It stays open: its word is what counts.
            std::thread::sleep(Duration::from_secs(5));
        });
        let (bytes, end) = all(&said.unwrap());
        assert_eq!(bytes, b"all of it");
        end.unwrap();
        let cut = connected(|mut socket, tls| {
            tls.write(&mut socket, b"some of it").unwrap();
        });
        let (bytes, end) = all(&cut.unwrap());
        assert_eq!(bytes, b"some of it");
        assert_eq!(end.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    /// A server that reads nothing until the other end is closed; returns how much of what was written came, and how it
    /// ended.
    fn came_of(close: impl FnOnce(Stream)) -> (usize, usize, io::Result<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let stream = Stream::plain(socket).unwrap();
        let (piece, mut written) = ([0; 64 * 1024], 0);
        while let Ok(count) = stream.write(&piece) {
            written += count;
        }
        close(stream);
        let mut came = Vec::new();
        let end = server.read_to_end(&mut came);
        (written, came.len(), end)
    }

    #[test]
    fn what_has_not_left_goes_with_the_connection_unless_it_is_to_leave() {
        let (written, came, end) = came_of(|stream| stream.close(Unsent::Leaves).unwrap());
        assert_eq!((came, end.unwrap()), (written, written));
        let given_up = |stream: Stream| stream.close(Unsent::IsDropped).unwrap();
        // As when the process is killed.
        let killed = |stream: Stream| drop(stream);
        for (written, came, end) in [came_of(given_up), came_of(killed)] {
            assert!(came < written, "{came} of {written}");
            assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
    }

    #[test]
    fn it_is_quiet_until_something_has_come() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let stream = connected(move |mut socket, tls| {
            wait.recv().unwrap();
            tls.write(&mut socket, b"ab").unwrap();
            let _ = wait.recv();
        })
        .unwrap();
        assert!(stream.is_quiet());
        let began = Instant::now();
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(began.elapsed() >= LOOK / 2);
        go.send(()).unwrap();
        while stream.is_quiet() {}
        let mut room = [0];
        assert_eq!(stream.read(&mut room).unwrap(), 1);
        assert!(!stream.is_quiet(), "a byte is still there, inside");
        assert_eq!(stream.read(&mut room).unwrap(), 1);
        assert!(stream.is_quiet());
    }

    #[test]
    fn one_thread_sends_while_another_hears() {
        const BYTES: usize = 8 * 1024 * 1024;
        let stream = connected(|mut socket, tls| {
            // Gives back what comes.
            let mut room = vec![0; 50_000];
            while let Ok(count @ 1..) = tls.read(&mut socket, &mut room) {
                let mut rest = &room[..count];
                while !rest.is_empty() {
                    let count = tls.write(&mut socket, rest).unwrap();
                    rest = &rest[count..];
                }
            }
            tls.close(&mut socket).unwrap();
        })
        .unwrap();
        let sent: Vec<u8> = (0..BYTES).map(|place| (place / 7) as u8).collect();
        let again = |error: &io::Error| error.kind() == ErrorKind::TimedOut;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut rest = sent.as_slice();
                while !rest.is_empty() {
                    match stream.write(rest) {
                        Ok(count) => rest = &rest[count..],
                        Err(error) => assert!(again(&error), "{error}"),
                    }
                }
                while stream.flush().is_err_and(|error| again(&error)) {}
                stream.finish_sending().unwrap();
            });
            let (heard, end) = all(&stream);
            end.unwrap();
            assert!(heard == sent);
        });
    }

    #[test]
    fn a_server_that_never_says_who_it_is_is_not_waited_for_and_nor_is_an_interrupted_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let config = client_config(Trust::Ask, &Sight::default()).unwrap();
        let patience = Duration::from_secs(2);
        let wait = |interrupt: &Interrupt| {
            let tls = Tls::connect(&config, "127.0.0.1").unwrap();
            let socket = TcpStream::connect(address).unwrap();
            Stream::secured_within(patience, socket, tls, interrupt).err().unwrap().kind()
        };
        let interrupt = Interrupt::default();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| wait(&interrupt));
            std::thread::sleep(Duration::from_millis(100));
            interrupt.flag().store(true, std::sync::atomic::Ordering::Release);
            let began = Instant::now();
            assert_eq!(waiting.join().unwrap(), ErrorKind::Interrupted);
            assert!(began.elapsed() < patience);
        });
        let began = Instant::now();
        assert_eq!(wait(&Interrupt::default()), ErrorKind::TimedOut);
        assert!(began.elapsed() >= patience);
    }
}
