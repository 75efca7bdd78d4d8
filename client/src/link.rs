//! One connection: the bytes to and from a server and the client's machine; and where one is kept between uses.

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ftx_disk::lock::lock;
use ftx_protocol::client::{Client as Machine, Event};
use ftx_protocol::{Refusal, Time};

use crate::Client;
use crate::address::ServerAddress;
use crate::connect::Connected;
use crate::failure::{Reached, Trouble};
use crate::interrupt::Interrupt;
use crate::pace::Pace;
use crate::stream::{Stream, Unsent};

/// Read at once: a part and its line fit.
pub(crate) const READ_BYTES: usize = 256 * 1024;

/// What the server may have said and nobody has looked at: twice what is under way on any connection. An
/// honest one says far less.
pub(crate) const UNHEARD_MAX: usize = 4_096;

/// After a failed write the server may still have said why; this is how long it is listened to. And how long whoever
/// interrupts waits for the server to be told.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long a connection that nobody uses is good for: one that died on the way looks as one on which nothing happens, and
/// whoever is the first to ask on it would be told that it broke.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// What a listener has to say: what the server did, or why there is no more.
pub(crate) type Heard = Result<Event, Trouble>;

/// Takes what the server said, and the input that the ranges in it refer to.
pub(crate) type Hear<'a> = dyn FnMut(Event, &[u8]) -> Result<(), Trouble> + 'a;

pub(crate) struct Link {
    stream: Stream,
    machine: Mutex<Machine>,
    started: Instant,
    /// Reading has ended: nothing that is written can be answered.
    ended: AtomicBool,
    /// What the server ended the connection with when it owed nothing: whoever asks more is told.
    farewell: Mutex<Option<Refusal>>,
    interrupt: Interrupt,
    pace: Option<Pace>,
}

/// Where clients leave a connection that they have done with, for the next one to the same server.
#[derive(Clone, Default)]
pub struct Keeper(Arc<Mutex<Option<Kept>>>);

struct Kept {
    server: ServerAddress,
    link: Arc<Link>,
    /// When it was left.
    since: Instant,
}

impl Keeper {
    fn place(&self) -> MutexGuard<'_, Option<Kept>> {
        lock(&self.0)
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = self.place().as_ref().map(|kept| kept.server.to_string());
        f.debug_tuple("Keeper").field(&server).finish()
    }
}

impl Client {
    /// The connection that is kept, if there is one and it still stands; else a new one.
    pub(crate) fn link(&self) -> Result<Arc<Link>, Trouble> {
        self.interrupt.check()?;
        let kept = self.keeper.as_ref().and_then(|keeper| keeper.place().take());
        let link = match kept {
            // One that is kept has the pace of whoever opened it.
            Some(Kept { server, link, since })
                if server == self.server
                    && self.pace.is_none()
                    && since.elapsed() < KEPT_FOR
                    && link.is_quiet() =>
            {
                link
            }
            _ => Arc::new(Link::open(self)?),
        };
        self.set_reached(Reached::Yes);
        Ok(link)
    }

    /// Leaves a connection to whoever comes next. One that cannot be used again is closed.
    pub(crate) fn leave(&self, link: &Arc<Link>) {
        match &self.keeper {
            Some(keeper)
                if link.pace.is_none() && link.machine().requests() == 0 && link.is_quiet() =>
            {
                let (server, link) = (self.server.clone(), Arc::clone(link));
                *keeper.place() = Some(Kept { server, link, since: Instant::now() });
            }
            _ => link.close(),
        }
    }
}

impl Link {
    /// Connects, and says hello.
    fn open(client: &Client) -> Result<Self, Trouble> {
        let Connected { stream, token } = client.connect()?;
        let started = Instant::now();
        let mut hello = Vec::new();
        let agent = concat!("ftx/", env!("CARGO_PKG_VERSION"));
        let machine = Machine::new(agent, token, &mut hello, Time::default());
        let ended = AtomicBool::new(false);
        let (interrupt, pace) = (client.interrupt.clone(), client.pace.clone());
        let (machine, farewell) = (Mutex::new(machine), Mutex::default());
        let link = Self { stream, machine, started, ended, farewell, interrupt, pace };
        link.write(&hello)?;
        Ok(link)
    }

    pub(crate) fn machine(&self) -> MutexGuard<'_, Machine> {
        lock(&self.machine)
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

    /// Whether it stands, and the server has said nothing that nobody has read.
    fn is_quiet(&self) -> bool {
        !self.ended.load(Ordering::Acquire) && self.stream.is_quiet()
    }

    /// How much may be moved now; waits until it is something.
    fn piece(&self, bytes: usize) -> usize {
        match &self.pace {
            Some(pace) => {
                pace.wait(&self.interrupt);
                bytes.min(pace.piece())
            }
            None => bytes,
        }
    }

    fn moved(&self, bytes: usize) {
        if let Some(pace) = &self.pace {
            pace.moved(bytes);
        }
    }

    /// Writes all. Goes on waiting for a slow server as long as it is heard.
    ///
    /// # Errors
    /// Those of the socket; of kind `Interrupted` when somebody wants it to end.
    pub(crate) fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let piece = self.piece(bytes.len());
            let piece = bytes.get(..piece).unwrap_or_default();
            match self.step(|| self.stream.write(piece))? {
                Some(0) => return Err(ErrorKind::WriteZero.into()),
                Some(count) => {
                    self.moved(count);
                    bytes = bytes.get(count..).unwrap_or_default();
                }
                None => {}
            }
        }
        while self.step(|| self.stream.flush())?.is_none() {}
        Ok(())
    }

    /// Does a step of writing; nothing, when it could not be done yet and may be done later.
    fn step<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<Option<T>> {
        if self.interrupt.is_set() {
            return Err(ErrorKind::Interrupted.into());
        }
        match act() {
            Ok(done) => Ok(Some(done)),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(None),
            Err(error) if is_timeout(&error) && !self.ended.load(Ordering::Acquire) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads once, and hands over what the server said, with the input that the ranges in it refer
    /// to.
    pub(crate) fn receive(&self, buffer: &mut [u8], each: &mut Hear<'_>) -> Result<(), Trouble> {
        let result = self.interrupt.check().and_then(|()| self.receive_once(buffer, each));
        if result.is_err() {
            self.ended.store(true, Ordering::Release);
        }
        result
    }

    fn farewell(&self) -> MutexGuard<'_, Option<Refusal>> {
        lock(&self.farewell)
    }

    /// Whether the server has ended it, with nothing that it owed.
    pub(crate) fn is_over(&self) -> bool {
        self.farewell().is_some()
    }

    fn receive_once(&self, buffer: &mut [u8], each: &mut Hear<'_>) -> Result<(), Trouble> {
        if let Some(refusal) = self.farewell().clone() {
            return Err(Trouble::Refused(refusal));
        }
        let piece = self.piece(buffer.len());
        match self.stream.read(buffer.get_mut(..piece).unwrap_or_default()) {
            Ok(0) => {
                self.machine().receive_end()?;
                return Err(Trouble::Broken("the server closed the connection".to_owned()));
            }
            Ok(count) => {
                self.moved(count);
                let input = buffer.get(..count).unwrap_or_default();
                let mut machine = self.machine();
                let violation = machine.receive(input, self.now());
                let events: Vec<Event> = std::iter::from_fn(|| machine.poll_event()).collect();
                let owes_nothing = machine.requests() == 0 && !machine.was_turned_away();
                drop(machine);
                for event in events {
                    match event {
                        // It comes with the answer that somebody waits for, and is none to that.
                        Event::Failed(refusal) if owes_nothing => {
                            self.ended.store(true, Ordering::Release);
                            *self.farewell() = Some(refusal);
                        }
                        Event::Failed(refusal) => return Err(Trouble::Refused(refusal)),
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

    /// Reads what the server says until the connection ends, or has nothing more to bring.
    pub(crate) fn listen(&self, heard: &SyncSender<Heard>, is_last: impl Fn(&Event) -> bool) {
        let mut buffer = vec![0; READ_BYTES];
        let mut over = false;
        let result = loop {
            let received = self.receive(&mut buffer, &mut |event, _| {
                over |= is_last(&event);
                match heard.try_send(Ok(event)) {
                    // It must not wait: then nobody would time the server.
                    Err(TrySendError::Full(_)) => {
                        Err(Trouble::Broken("the server says more than it was asked".to_owned()))
                    }
                    // Nobody listens any more when the transfer is over.
                    Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
                }
            });
            match received {
                Err(trouble) => break trouble,
                Ok(()) if over => return,
                Ok(()) => {}
            }
        };
        // As above; who still listens takes what is before it.
        let _ = heard.send(Err(result));
    }

    /// Hands over what the server still answers to somebody who was interrupted: what it owes for all that was sent.
    /// That is not waited for long.
    pub(crate) fn hear_out(&self, each: &mut dyn FnMut(Event)) {
        self.finish_sending();
        let mut buffer = vec![0; READ_BYTES];
        let began = Instant::now();
        let mut hear = |event, _: &[u8]| {
            each(event);
            Ok(())
        };
        while began.elapsed() < LAST_WORDS && self.receive_once(&mut buffer, &mut hear).is_ok() {}
    }

    /// Ends the sending direction: what was sent arrives, and the server knows that it was all.
    pub(crate) fn finish_sending(&self) {
        // A socket that is gone already is what this would bring about.
        let _ = self.stream.finish_sending();
    }

    /// Ends both directions, so that whoever reads or writes stops. A change that was asked for and is not answered is
    /// given up: one that has not left must not be made after others that were asked for since.
    pub(crate) fn close(&self) {
        let unsent = match self.machine().awaits_a_change() {
            true => Unsent::IsDropped,
            false => Unsent::Leaves,
        };
        // A socket that is gone already is what this would bring about.
        let _ = self.stream.close(unsent);
    }
}

/// A server that is not spoken to any more is told so, and does not have to take it for a cut.
impl Drop for Link {
    fn drop(&mut self) {
        self.close();
    }
}

/// What the server said before the connection broke, if it said anything that explains it.
pub(crate) fn last_words(
    heard: &Receiver<Heard>,
    mut explains: impl FnMut(Heard) -> Option<Trouble>,
) -> Option<Trouble> {
    loop {
        match heard.recv_timeout(LAST_WORDS) {
            Ok(said) => {
                if let Some(trouble) = explains(said) {
                    return Some(trouble);
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::Retry;

    #[test]
    fn a_connection_that_was_left_is_used_again_unless_that_was_long_ago() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let keeper = Keeper::default();
        let client = Client::new(address.parse().unwrap(), Retry::default());
        let client = client.with_keeper(keeper.clone());
        let first = client.link().unwrap();
        client.leave(&first);
        let again = client.link().unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        client.leave(&again);
        let kept = keeper.place().take();
        let long_ago = Instant::now().checked_sub(KEPT_FOR).unwrap();
        *keeper.place() = kept.map(|kept| Kept { since: long_ago, ..kept });
        assert!(!Arc::ptr_eq(&first, &client.link().unwrap()));
    }
}
