//! Connection attempts to the addresses of a server, beside each other where one does not answer: "Happy Eyeballs",
//! RFC 8305, section 5. An address that is dead, as those of IPv6 are where the way of IPv6 is broken, then costs a quarter of
//! a second and not the whole patience of an attempt.
//!
//! It knows no TLS and no server: whether somebody who takes a connection is the right one is for the caller to find out,
//! who asks for the next one if not.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Domain, Socket, Type};

use crate::interrupt::Interrupt;

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(10);

/// How long an attempt has before the next one begins beside it: the Connection Attempt Delay of RFC 8305, as that
/// recommends it.
const HEAD_START: Duration = Duration::from_millis(250);

/// How long it waits at most before it looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// The attempts at the addresses of one server.
pub(crate) struct Attempts<'a> {
    interrupt: &'a Interrupt,
    /// Addresses that nothing was attempted at, in the order of the system's choice (RFC 6724).
    left: VecDeque<SocketAddr>,
    /// When the first of them has its turn.
    turn: Instant,
    under_way: Vec<Attempt>,
}

/// An attempt that is neither taken nor refused yet.
struct Attempt {
    address: SocketAddr,
    socket: Socket,
    end: Instant,
}

impl<'a> Attempts<'a> {
    pub(crate) fn at(
        addresses: impl IntoIterator<Item = SocketAddr>,
        interrupt: &'a Interrupt,
    ) -> Self {
        let left = addresses.into_iter().collect();
        Self { interrupt, left, turn: Instant::now(), under_way: Vec::new() }
    }

    /// The next connection that is taken, or the next address where none is. `None` when there are no more.
    /// Whoever has got a connection may have it for long: so all others begin anew after that, and none is grown old.
    ///
    /// The errors are those of connect(2); of kind `TimedOut` where nobody answers, of kind `Interrupted` when somebody wants
    /// it to end.
    pub(crate) fn next(&mut self) -> Option<io::Result<(SocketAddr, TcpStream)>> {
        loop {
            if self.interrupt.is_set() {
                return Some(Err(ErrorKind::Interrupted.into()));
            }
            let now = Instant::now();
            if (self.turn <= now || self.under_way.is_empty())
                && let Some(address) = self.left.pop_front()
            {
                self.turn = now.checked_add(HEAD_START).unwrap_or(now);
                match begin(address, now) {
                    Ok(attempt) => self.under_way.push(attempt),
                    Err(error) => return Some(self.failed(error)),
                }
            }
            if self.under_way.is_empty() {
                return None;
            }
            let ready = match self.wait(now) {
                Ok(ready) => ready,
                Err(error) => {
                    self.under_way.clear();
                    return Some(Err(error));
                }
            };
            let Some(index) = ready else { continue };
            let Attempt { address, socket, .. } = self.under_way.swap_remove(index);
            return Some(match outcome(&socket) {
                Ok(()) => {
                    let others = self.under_way.drain(..).rev().map(|other| other.address);
                    others.for_each(|other| self.left.push_front(other));
                    Ok((address, socket.into()))
                }
                Err(error) => self.failed(error),
            });
        }
    }

    /// Where nobody is the next address need not wait.
    fn failed(&mut self, error: io::Error) -> io::Result<(SocketAddr, TcpStream)> {
        self.turn = Instant::now();
        Err(error)
    }

    /// Waits until one of those under way is decided, or over; returns which.
    fn wait(&self, now: Instant) -> io::Result<Option<usize>> {
        let until = |then: Instant| then.saturating_duration_since(now);
        let mut patience = LOOK;
        if !self.left.is_empty() {
            patience = patience.min(until(self.turn));
        }
        for attempt in &self.under_way {
            patience = patience.min(until(attempt.end));
        }
        let mut sockets: Vec<PollFd<'_>> = self
            .under_way
            .iter()
            .map(|attempt| PollFd::new(&attempt.socket, PollFlags::OUT))
            .collect();
        let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(patience.subsec_nanos()) };
        match poll(&mut sockets, Some(&patience)) {
            // A signal, perhaps.
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let decided = sockets.iter().position(|socket| !socket.revents().is_empty());
        let over = || self.under_way.iter().position(|attempt| attempt.end <= Instant::now());
        Ok(decided.or_else(over))
    }
}

fn begin(address: SocketAddr, now: Instant) -> io::Result<Attempt> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        begun => begun?,
    }
    Ok(Attempt { address, socket, end: now.checked_add(ATTEMPT).unwrap_or(now) })
}

/// What became of an attempt that was waited for; whoever has it now waits for its socket.
fn outcome(socket: &Socket) -> io::Result<()> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        Err(error) if error.kind() == ErrorKind::NotConnected => Err(ErrorKind::TimedOut.into()),
        taken => taken.and_then(|_| socket.set_nonblocking(false)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// An address that answers nothing, as long as what is returned with it lives: its queue is full.
    fn dead() -> ((Socket, Vec<Socket>), SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut waiting = Vec::new();
        loop {
            let attempt = begin(address, Instant::now()).unwrap();
            let is_taken = outcome(&attempt.socket).is_ok();
            waiting.push(attempt.socket);
            if !is_taken {
                return ((socket, waiting), address);
            }
        }
    }

    #[test]
    fn a_dead_address_does_not_keep_the_others_from_being_tried() {
        let ((_queue, _waiting), dead) = dead();
        let (_listener, alive) = listen();
        let interrupt = Interrupt::default();
        let began = Instant::now();
        let mut attempts = Attempts::at([dead, dead, alive], &interrupt);
        let (address, _) = attempts.next().unwrap().unwrap();
        assert_eq!(address, alive);
        assert!(began.elapsed() < ATTEMPT, "{:?}", began.elapsed());
        // They are tried anew after that: what was begun at the same time may be of no use by now.
        assert!(attempts.under_way.is_empty());
        assert_eq!(attempts.left, [dead, dead]);
    }

    #[test]
    fn what_is_dead_is_told_as_such_in_its_time() {
        let ((_queue, _waiting), dead) = dead();
        let interrupt = Interrupt::default();
        let mut attempts = Attempts::at([], &interrupt);
        let attempt = begin(dead, Instant::now()).unwrap();
        // As if that were over.
        attempts.under_way.push(Attempt { end: Instant::now(), ..attempt });
        assert_eq!(attempts.next().unwrap().unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(attempts.next().is_none());
    }

    #[test]
    fn each_address_is_told_of_once_in_their_order_and_the_first_has_no_rival_while_it_answers() {
        let nobody = listen().1;
        let [(_one, first), (two, second)] = [listen(), listen()];
        let interrupt = Interrupt::default();
        let mut attempts = Attempts::at([nobody, first, second], &interrupt);
        let refused = attempts.next().unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(attempts.next().unwrap().unwrap().0, first);
        two.set_nonblocking(true).unwrap();
        assert_eq!(two.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(attempts.next().unwrap().unwrap().0, second);
        assert!(attempts.next().is_none());
    }

    #[test]
    fn who_waits_for_a_dead_address_can_be_interrupted() {
        let ((_queue, _waiting), dead) = dead();
        let interrupt = Interrupt::default();
        let mut attempts = Attempts::at([dead], &interrupt);
        let flag = interrupt.flag();
        let began = Instant::now();
        std::thread::spawn(move || flag.store(true, std::sync::atomic::Ordering::Release));
        assert_eq!(attempts.next().unwrap().unwrap_err().kind(), ErrorKind::Interrupted);
        assert!(began.elapsed() < ATTEMPT);
    }
}
