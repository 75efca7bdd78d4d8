//! What is done once for the whole server, by the first of its selectors: to take connections and
//! hand each to the selector that has the fewest, and to look for uploads that have expired.
//!
//! Knows nothing of what is said on a connection. One listen queue for all selectors, and not one
//! for each by SO_REUSEPORT: with that a second server could take a part of the first one's clients
//! without anybody being told, and the kernel would spread connections by chance.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ftx_protocol::Time;
use mio::net::TcpStream;
use mio::{Interest, Registry, Waker};
use tracing::warn;

use super::Options;
use super::access::Policy;
use super::doors::{Doors, Pass};
use super::key;
use super::listen::Listening;
use super::mailbox::{self, Mailbox};

/// Connections accepted in one go before those that are there have their turn.
const ACCEPT_BATCH: usize = 64;

/// How long accepting pauses when the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often uploads that are over are looked for: this often, or four times in the time that they are kept.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);
const EXPIRE_EVERY_MIN: Duration = Duration::from_millis(100);

/// What a selector is told to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Serve this connection, which has its seat.
    Serve(Arrival),
    /// The tokens have changed: those whose token is over are to go.
    CheckTokens,
    /// No more connections come; finish what runs.
    Stop,
}

/// A connection that was accepted.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) socket: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) policy: Policy,
    pub(super) pass: Pass,
}

/// How many connections each selector has, and how many all may have.
///
/// Touched once when a connection comes and once when it ends.
#[derive(Debug)]
pub(super) struct Seats {
    taken: Vec<AtomicUsize>,
    most: usize,
    /// Whether the front waits for one.
    wanted: AtomicBool,
    front: Arc<Waker>,
}

impl Seats {
    pub(super) fn new(selectors: usize, most: usize, front: Arc<Waker>) -> Self {
        let taken = (0..selectors).map(|_| AtomicUsize::new(0)).collect();
        Self { taken, most, wanted: AtomicBool::new(false), front }
    }

    /// Connections of all selectors.
    pub(super) fn count(&self) -> usize {
        self.taken.iter().map(|taken| taken.load(Ordering::SeqCst)).sum()
    }

    /// Whether nobody else can be let in. Then the front is woken as soon as somebody can.
    fn are_taken(&self) -> bool {
        if self.count() < self.most {
            return false;
        }
        self.wanted.store(true, Ordering::SeqCst);
        // Again: one that became free just before had nobody to tell.
        self.count() >= self.most
    }

    /// Takes a seat at the selector that has the fewest connections, and says which that is. Of
    /// several the first: with few connections none has to be handed over.
    fn take(&self) -> usize {
        let counts = self.taken.iter().map(|taken| taken.load(Ordering::SeqCst));
        let selector = counts.enumerate().min_by_key(|(_, count)| *count);
        let selector = selector.map_or(0, |(selector, _)| selector);
        if let Some(taken) = self.taken.get(selector) {
            taken.fetch_add(1, Ordering::SeqCst);
        }
        selector
    }

    /// A connection of this selector is over.
    pub(super) fn free(&self, selector: usize) {
        if let Some(taken) = self.taken.get(selector) {
            taken.fetch_sub(1, Ordering::SeqCst);
        }
        if self.wanted.load(Ordering::SeqCst) && self.wanted.swap(false, Ordering::SeqCst) {
            mailbox::wake(&self.front);
        }
    }
}

pub(super) struct Front {
    listeners: Vec<Listening>,
    seats: Arc<Seats>,
    doors: Doors,
    /// Of the other selectors.
    others: Vec<Arc<Mailbox<Order>>>,
    queue: Queue,
    expire_every: Duration,
    expire_at: Time,
}

/// What is known of those who wait to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    /// Nobody does; a listener tells of the next one.
    Empty,
    /// Somebody may, and no event says so.
    PerhapsMore,
    /// The same, but the process was out of descriptors or memory: not before this time.
    Paused { until: Time },
}

impl Queue {
    /// Somebody may wait, whatever else is known.
    fn and_perhaps_more(self) -> Self {
        match self {
            Self::Empty | Self::PerhapsMore => Self::PerhapsMore,
            Self::Paused { until } => Self::Paused { until },
        }
    }
}

impl Front {
    pub(super) fn new(
        registry: &Registry,
        mut listeners: Vec<Listening>,
        seats: Arc<Seats>,
        others: Vec<Arc<Mailbox<Order>>>,
        options: &Options,
    ) -> io::Result<Self> {
        listeners.truncate(key::LISTENERS_MAX);
        for (place, listening) in listeners.iter_mut().enumerate() {
            let key = key::listener(place);
            registry.register(&mut listening.listener, key, Interest::READABLE)?;
        }
        let kept = options.partial_ttl.min(options.abandoned_after);
        let expire_every = (kept / 4).clamp(EXPIRE_EVERY_MIN, EXPIRE_EVERY);
        Ok(Self {
            listeners,
            seats,
            doors: Doors::new(options.doors.clone(), options.connections_max),
            others,
            queue: Queue::PerhapsMore,
            expire_every,
            expire_at: Time::default().after(expire_every),
        })
    }

    /// Somebody may wait to be accepted.
    pub(super) fn ready(&mut self) {
        self.queue = self.queue.and_perhaps_more();
    }

    /// When it has to do something, though no event comes.
    pub(super) fn deadline(&self, now: Time) -> Time {
        match self.queue {
            Queue::Paused { until } => until.min(self.expire_at),
            Queue::PerhapsMore if self.can_accept() => now,
            Queue::PerhapsMore | Queue::Empty => self.expire_at,
        }
    }

    /// Whether it is time to look for what has expired. Asked once for each time.
    pub(super) fn must_expire(&mut self, now: Time) -> bool {
        let must = self.expire_at <= now;
        if must {
            self.expire_at = now.after(self.expire_every);
            self.doors.sweep(now);
        }
        must
    }

    fn can_accept(&self) -> bool {
        self.queue == Queue::PerhapsMore && !self.listeners.is_empty() && !self.seats.are_taken()
    }

    /// Takes who waits, and returns those that the front's own selector is to serve.
    pub(super) fn accept(&mut self, now: Time) -> Vec<Arrival> {
        if matches!(self.queue, Queue::Paused { until } if until <= now) {
            self.queue = Queue::PerhapsMore;
        }
        let mut own = Vec::new();
        if !self.can_accept() {
            return own;
        }
        let Self { listeners, seats, doors, others, queue, .. } = self;
        *queue = Queue::Empty;
        for Listening { listener, policy, .. } in &*listeners {
            for taken in 0..=ACCEPT_BATCH {
                if taken == ACCEPT_BATCH || seats.are_taken() {
                    *queue = queue.and_perhaps_more();
                    break;
                }
                match listener.accept() {
                    // Who is not let in is gone with the socket, before anything is made for it.
                    Ok((socket, peer)) => {
                        let peer = canonical(peer);
                        if let Ok(pass) = doors.enter(peer.ip(), now) {
                            let arrival = Arrival { socket, peer, policy: *policy, pass };
                            seat(seats, others, arrival, &mut own);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if is_of_one_peer(&error) => {}
                    Err(error) => {
                        // Out of descriptors or memory. What waits gives no new event.
                        warn!(%error, "cannot accept connections; trying again shortly");
                        *queue = Queue::Paused { until: now.after(ACCEPT_PAUSE) };
                        break;
                    }
                }
            }
        }
        own
    }

    /// Takes no more connections. The other selectors are told after the last that they get.
    pub(super) fn close(&mut self, registry: &Registry) {
        for listening in &mut self.listeners {
            // Closed right after; an error here has no consequence.
            let _ = registry.deregister(&mut listening.listener);
        }
        self.listeners.clear();
        for orders in &self.others {
            orders.push([Order::Stop]);
        }
    }
}

/// Gives a connection to the selector that has the fewest.
fn seat(seats: &Seats, others: &[Arc<Mailbox<Order>>], arrival: Arrival, own: &mut Vec<Arrival>) {
    match seats.take().checked_sub(1).and_then(|place| others.get(place)) {
        Some(orders) => orders.push([Order::Serve(arrival)]),
        None => own.push(arrival),
    }
}

/// A socket for both families says of IPv4 that it is `[::ffff:192.0.2.1]`, under which nobody looks for it in a log.
fn canonical(peer: SocketAddr) -> SocketAddr {
    match peer.ip().to_canonical() {
        address @ IpAddr::V4(_) => SocketAddr::new(address, peer.port()),
        // As it is, with the interface that an address of one link is of.
        IpAddr::V6(_) => peer,
    }
}

/// Errors of accept(2) that concern the one connection that was being accepted.
fn is_of_one_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::TimedOut
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_where_the_fewest_are_and_there_are_no_more_than_all_may_have() {
        let poll = mio::Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), key::WAKER).unwrap());
        let seats = Seats::new(3, 5, waker);
        assert_eq!([(); 4].map(|()| seats.take()), [0, 1, 2, 0]);
        assert!(!seats.are_taken());
        seats.free(1);
        assert_eq!([seats.take(), seats.take()], [1, 1]);
        assert!(seats.are_taken());
        assert!(seats.wanted.load(Ordering::SeqCst));
        seats.free(2);
        assert!(!seats.wanted.load(Ordering::SeqCst), "the front was told");
        assert!(!seats.are_taken());
        assert_eq!(seats.count(), 4);
    }
}
