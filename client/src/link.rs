//! One connection: a blocking socket and the client's machine.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ftx_protocol::client::{Client as Machine, Event};
use ftx_protocol::{Refusal, Time};

use crate::address::ServerAddress;
use crate::failure::{Trouble, plain};

/// How long one attempt to connect to one address may take.
const CONNECT: Duration = Duration::from_secs(10);

/// How often a read or write that waits looks at the machine's clock.
const LOOK: Duration = Duration::from_millis(500);

/// Read at once: a part and its line fit.
pub(crate) const READ_BYTES: usize = 256 * 1024;

/// Takes what the server said, and the input that the ranges in it refer to.
pub(crate) type Hear<'a> = dyn FnMut(Event, &[u8]) -> Result<(), Trouble> + 'a;

pub(crate) struct Link {
    socket: TcpStream,
    machine: Mutex<Machine>,
    started: Instant,
    /// Reading has ended: nothing that is written can be answered.
    ended: AtomicBool,
}

impl Link {
    /// Connects, and says hello.
    pub(crate) fn open(server: &ServerAddress) -> Result<Self, Trouble> {
        let unreachable = |error: &io::Error| Trouble::Unreachable(plain(error));
        let addresses = (server.host(), server.port())
            .to_socket_addrs()
            .map_err(|error| unreachable(&error))?;
        let mut last = io::Error::new(ErrorKind::NotFound, "the host has no address");
        for address in addresses {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(socket) => return Ok(Self::greet(socket)?),
                Err(error) => last = error,
            }
        }
        Err(unreachable(&last))
    }

    fn greet(socket: TcpStream) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(LOOK))?;
        socket.set_write_timeout(Some(LOOK))?;
        let started = Instant::now();
        let mut hello = Vec::new();
        let machine =
            Machine::new(concat!("ftx/", env!("CARGO_PKG_VERSION")), &mut hello, Time::default());
        let ended = AtomicBool::new(false);
        let link = Self { socket, machine: Mutex::new(machine), started, ended };
        link.write(&hello)?;
        Ok(link)
    }

    pub(crate) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> Time {
        Time::default().after(self.started.elapsed())
    }

    /// Has the machine make lines, and writes them.
    pub(crate) fn send<T>(
        &self,
        make: impl FnOnce(&mut Machine, &mut Vec<u8>, Time) -> T,
    ) -> io::Result<T> {
        let mut lines = Vec::new();
        let made = make(&mut self.machine(), &mut lines, self.now());
        self.write(&lines)?;
        Ok(made)
    }

    /// Writes all. Goes on waiting for a slow server as long as it is heard.
    pub(crate) fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match (&self.socket).write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) && !self.ended.load(Ordering::Acquire) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads once, and hands over what the server said, with the input that the ranges in it refer
    /// to.
    pub(crate) fn receive(&self, buffer: &mut [u8], each: &mut Hear<'_>) -> Result<(), Trouble> {
        let result = self.receive_once(buffer, each);
        if result.is_err() {
            self.ended.store(true, Ordering::Release);
        }
        result
    }

    fn receive_once(&self, buffer: &mut [u8], each: &mut Hear<'_>) -> Result<(), Trouble> {
        match (&self.socket).read(buffer) {
            Ok(0) => {
                self.machine().receive_end()?;
                return Err(Trouble::Broken("the server closed the connection".to_owned()));
            }
            Ok(count) => {
                let input = buffer.get(..count).unwrap_or_default();
                let mut machine = self.machine();
                let violation = machine.receive(input, self.now());
                let events: Vec<Event> = std::iter::from_fn(|| machine.poll_event()).collect();
                drop(machine);
                for event in events {
                    match event {
                        Event::Failed(refusal) => return Err(ended(refusal)),
                        event => each(event, input)?,
                    }
                }
                violation?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if is_timeout(&error) => {
                let now = self.now();
                self.machine().on_time(now)?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Reads what the server says until the connection ends.
    pub(crate) fn listen(&self, heard: &SyncSender<Result<Event, Trouble>>) {
        let mut buffer = vec![0; READ_BYTES];
        let result = loop {
            let received =
                self.receive(&mut buffer, &mut |event, _| match heard.try_send(Ok(event)) {
                    // It must not wait: then nobody would time the server.
                    Err(TrySendError::Full(_)) => {
                        Err(Trouble::Broken("the server says more than it was asked".to_owned()))
                    }
                    // Nobody listens any more when the transfer is over.
                    Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
                });
            if let Err(trouble) = received {
                break trouble;
            }
        };
        // As above; who still listens takes what is before it.
        let _ = heard.send(Err(result));
    }

    /// Ends the sending direction: what was sent arrives, and the server knows that it was all.
    pub(crate) fn finish_sending(&self) {
        // A socket that is gone already is what this would bring about.
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// Ends both directions, so that whoever reads or writes stops.
    pub(crate) fn close(&self) {
        // A socket that is gone already is what this would bring about.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

fn ended(refusal: Refusal) -> Trouble {
    Trouble::Refused(refusal)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
