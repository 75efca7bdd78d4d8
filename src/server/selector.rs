//! The loop: one thread that waits for sockets and gives each connection its turn.
//!
//! Knows neither files nor messages. Never waits for anything but [`mio::Poll`]. Registrations are
//! edge-triggered and made once: a connection works until it blocks, or until its turn is over and
//! it stands in the run queue.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ftx_protocol::message::{Limits, Welcome};
use ftx_protocol::server::{Reason, Settings};
use ftx_protocol::{Algorithm, Code, Time};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use tracing::{debug, info, warn};

use super::Options;
use super::buffers::{BUFFERS, Buffer, Pool};
use super::connection::{BufferTurn, Connection, TurnEnd};
use super::listen::Listening;
use super::rate::Rate;
use super::storage::{ConnectionKey, Directory, Outcomes};

/// Connections accepted in one go before those that are there have their turn.
const ACCEPT_BATCH: usize = 64;

/// How long accepting pauses when the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Readiness events taken in one go.
const EVENTS: usize = 1_024;

/// Unfinished lines and unread replies of all connections together. Far more than honest clients
/// need; past it the connection that adds to it is ended.
const HELD_BYTES: usize = 64 * 1024 * 1024;

/// What a connection that is ended for that may leave to be written.
const LAST_WORDS_BYTES: usize = 4 * 1024;

/// How often expired uploads are looked for: this often, or four times in their time to live.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);
const EXPIRE_EVERY_MIN: Duration = Duration::from_millis(100);

/// Bytes that one connection may move in one turn before the others have theirs.
const TURN_BYTES: usize = 1024 * 1024;

const WAKER: Token = Token(usize::MAX);

/// Listeners have the tokens below the waker's; connections the rest.
const LISTENERS_MAX: usize = 1_024;

/// The number of low bits of a token that are the connection's place in the table. The bits above
/// count how often places were taken, so that an event for a connection that is gone never reaches
/// its successor.
const PLACE_BITS: u32 = usize::BITS / 2;

/// Stops a server from another thread.
#[derive(Debug, Clone)]
pub struct Stopper {
    asked: Arc<AtomicBool>,
    outcomes: Arc<Outcomes>,
}

impl Stopper {
    /// Takes no more requests, lets what runs finish within the drain time, and stops.
    pub fn stop(&self) {
        self.asked.store(true, Ordering::Release);
        self.outcomes.wake();
    }
}

/// Whether the loop takes connections, and until when it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Run,
    Drain {
        until: Time,
    },
    /// Every connection was told that it is over.
    Cut {
        until: Time,
    },
}

struct Entry {
    connection: Connection,
    key: ConnectionKey,
    deadline: Option<Time>,
    held_bytes: usize,
    queued: Queued,
    waits: Waits,
}

/// Whether a connection stands in the run queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queued {
    No,
    Run,
}

/// Whether a connection waits for a buffer. It has its turns all the same: only reading waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    No,
    ForBuffer,
    /// Its turn for one has come.
    Served,
}

pub(super) struct Selector {
    poll: Poll,
    listeners: Vec<Listening>,
    directory: Directory,
    outcomes: Arc<Outcomes>,
    settings: Arc<Settings>,
    connections_max: usize,
    drain_timeout: Duration,
    started: Instant,
    connections: Slab<Entry>,
    generation: usize,
    run_queue: VecDeque<ConnectionKey>,
    /// Connections that could read, had they a buffer; served in the order in which they came.
    buffer_queue: VecDeque<ConnectionKey>,
    deadlines: BTreeSet<(Time, ConnectionKey)>,
    pool: Pool,
    rate: Option<Rate>,
    /// The buffer that was read into last and that no job kept.
    spare: Option<Buffer>,
    held_bytes: usize,
    /// Not before this time: the process was out of descriptors.
    accept_after: Option<Time>,
    /// Whether a listener may have more connections than were taken.
    accept_more: bool,
    expire_every: Duration,
    expire_at: Time,
    asked_to_stop: Arc<AtomicBool>,
    phase: Phase,
}

/// A waker for this poll; there can be only one.
pub(super) fn waker(poll: &Poll) -> io::Result<Waker> {
    Waker::new(poll.registry(), WAKER)
}

impl Selector {
    pub(super) fn new(
        poll: Poll,
        mut listeners: Vec<Listening>,
        directory: Directory,
        outcomes: Arc<Outcomes>,
        options: &Options,
    ) -> io::Result<Self> {
        let expire_every = (options.partial_ttl / 4).clamp(EXPIRE_EVERY_MIN, EXPIRE_EVERY);
        listeners.truncate(LISTENERS_MAX);
        for (place, listening) in listeners.iter_mut().enumerate() {
            let token = listener_token(place);
            poll.registry().register(&mut listening.listener, token, Interest::READABLE)?;
        }
        Ok(Self {
            poll,
            listeners,
            directory,
            outcomes,
            settings: Arc::new(settings(options)),
            connections_max: options.connections_max,
            drain_timeout: options.drain_timeout,
            started: Instant::now(),
            connections: Slab::new(),
            generation: 0,
            run_queue: VecDeque::new(),
            buffer_queue: VecDeque::new(),
            deadlines: BTreeSet::new(),
            pool: Pool::new(BUFFERS),
            rate: options.limit_rate.map(Rate::new),
            spare: None,
            held_bytes: 0,
            accept_after: None,
            accept_more: true,
            expire_every,
            expire_at: Time::default().after(expire_every),
            asked_to_stop: Arc::new(AtomicBool::new(false)),
            phase: Phase::Run,
        })
    }

    pub(super) fn stopper(&self) -> Stopper {
        Stopper { asked: Arc::clone(&self.asked_to_stop), outcomes: Arc::clone(&self.outcomes) }
    }

    /// Serves until it is stopped and everything is over.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        while !self.is_over() {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let now = self.now();
            for event in &events {
                self.dispatch(event);
            }
            self.take_outcomes(now);
            self.serve_buffers();
            self.look_at_the_time(now);
            self.accept(now);
            self.give_turns(now);
        }
        drop(self.connections);
        self.directory.finish();
        Ok(())
    }

    fn now(&self) -> Time {
        Time::default().after(self.started.elapsed())
    }

    fn is_over(&self) -> bool {
        match self.phase {
            Phase::Run => false,
            Phase::Drain { .. } => self.connections.is_empty(),
            Phase::Cut { until } => self.connections.is_empty() || until <= self.now(),
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let can_serve = !self.buffer_queue.is_empty() && self.buffers_available() > 0;
        let free_at = self.rate.as_ref().map(Rate::free_at).unwrap_or_default();
        let now = self.now();
        let can_turn = !self.run_queue.is_empty() && free_at <= now;
        if can_turn || self.can_accept() || can_serve {
            return Some(Duration::ZERO);
        }
        let turn = (!self.run_queue.is_empty()).then_some(free_at);
        let phase = match self.phase {
            Phase::Run => None,
            Phase::Drain { until } | Phase::Cut { until } => Some(until),
        };
        let deadline = self.deadlines.first().map(|(time, _)| *time);
        let next = [phase, deadline, turn, self.accept_after, Some(self.expire_at)];
        next.into_iter().flatten().min().map(|time| now.until(time))
    }

    /// Notes what an event says; the work comes in the connection's turn.
    fn dispatch(&mut self, event: &mio::event::Event) {
        let token = event.token();
        if token == WAKER {
            return;
        }
        if token.0 > WAKER.0.saturating_sub(LISTENERS_MAX.saturating_add(1)) {
            self.accept_more = true;
            return;
        }
        let key = ConnectionKey(token.0);
        if let Some(entry) = self.entry(key) {
            let readable = event.is_readable() || event.is_read_closed() || event.is_error();
            let writable = event.is_writable() || event.is_write_closed() || event.is_error();
            entry.connection.ready(readable, writable);
            self.queue(key);
        }
    }

    fn take_outcomes(&mut self, now: Time) {
        for (key, outcome) in self.outcomes.take() {
            // An outcome for a connection that is gone has given its buffer back by now.
            if let Some(entry) = self.entry(key) {
                entry.connection.outcome(outcome, now);
                let moved_bytes = entry.connection.take_moved_bytes();
                self.moved(moved_bytes, now);
                self.queue(key);
            }
        }
    }

    fn moved(&mut self, bytes: u64, now: Time) {
        if let Some(rate) = &mut self.rate
            && bytes > 0
        {
            rate.moved(bytes, now);
        }
    }

    /// Gives those that have waited longest for a buffer their turn, as many as there are buffers.
    fn serve_buffers(&mut self) {
        let mut available = self.buffers_available();
        while available > 0
            && let Some(key) = self.buffer_queue.pop_front()
        {
            if let Some(entry) = self.entry(key) {
                entry.waits = Waits::Served;
                self.queue(key);
                available -= 1;
            }
        }
    }

    fn buffers_available(&self) -> usize {
        self.pool.available().saturating_add(usize::from(self.spare.is_some()))
    }

    fn look_at_the_time(&mut self, now: Time) {
        while let Some(&(time, key)) = self.deadlines.first()
            && time <= now
        {
            self.deadlines.pop_first();
            if let Some(entry) = self.entry(key) {
                entry.deadline = None;
                entry.connection.on_time(now);
                self.queue(key);
            }
        }
        if self.expire_at <= now {
            self.expire_at = now.after(self.expire_every);
            self.directory.expire(self.started.elapsed());
        }
        match self.phase {
            Phase::Run if self.asked_to_stop.load(Ordering::Acquire) => self.drain(now),
            Phase::Drain { until } if until <= now => {
                self.phase = Phase::Cut { until: now.after(ftx_protocol::limits::LINGER) };
                self.each_connection(|connection| connection.fail(Code::ShuttingDown, now));
            }
            _ => {}
        }
    }

    fn drain(&mut self, now: Time) {
        info!(connections = self.connections.len(), "stopping: no new requests are taken");
        for listening in &mut self.listeners {
            // Closed right after; an error here has no consequence.
            let _ = self.poll.registry().deregister(&mut listening.listener);
        }
        self.listeners.clear();
        self.phase = Phase::Drain { until: now.after(self.drain_timeout) };
        self.each_connection(|connection| connection.shut_down(now));
    }

    fn each_connection(&mut self, mut act: impl FnMut(&mut Connection)) {
        let keys: Vec<ConnectionKey> =
            self.connections.iter().map(|(_, entry)| entry.key).collect();
        for key in keys {
            if let Some(entry) = self.entry(key) {
                act(&mut entry.connection);
                self.queue(key);
            }
        }
    }

    fn can_accept(&self) -> bool {
        self.accept_more
            && self.accept_after.is_none()
            && self.connections.len() < self.connections_max
            && !self.listeners.is_empty()
    }

    fn accept(&mut self, now: Time) {
        if self.accept_after.is_some_and(|time| time <= now) {
            self.accept_after = None;
        }
        if !self.can_accept() {
            return;
        }
        let mut more = false;
        for place in 0..self.listeners.len() {
            for taken in 0..=ACCEPT_BATCH {
                if taken == ACCEPT_BATCH || self.connections.len() >= self.connections_max {
                    more = true;
                    break;
                }
                let Some(listening) = self.listeners.get(place) else { break };
                match listening.listener.accept() {
                    Ok((socket, peer)) => self.admit(socket, peer, now),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) if is_of_one_peer(&error) => {}
                    Err(error) => {
                        // Out of descriptors or memory. What waits gives no new event.
                        warn!(%error, "cannot accept connections; trying again shortly");
                        self.accept_after = Some(now.after(ACCEPT_PAUSE));
                        more = true;
                        break;
                    }
                }
            }
        }
        self.accept_more = more;
    }

    fn admit(&mut self, mut socket: TcpStream, peer: std::net::SocketAddr, now: Time) {
        // Replies are small and waited for.
        if let Err(error) = socket.set_nodelay(true) {
            debug!(%peer, %error, "cannot set TCP_NODELAY");
        }
        let entry = self.connections.vacant_entry();
        self.generation = self.generation.wrapping_add(1) & (usize::MAX >> (PLACE_BITS + 1));
        let key = ConnectionKey(self.generation << PLACE_BITS | entry.key());
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut socket, Token(key.0), interest) {
            warn!(%peer, %error, "cannot watch a connection");
            return;
        }
        let lane = self.directory.lane(key, peer);
        let socket = Arc::new(socket);
        let connection = Connection::new(socket, peer, lane, Arc::clone(&self.settings), now);
        entry.insert(Entry {
            connection,
            key,
            deadline: None,
            held_bytes: 0,
            queued: Queued::No,
            waits: Waits::No,
        });
        debug!(%peer, "connected");
        self.queue(key);
    }

    /// Gives each connection that stands in the run queue now one turn, as far as the rate goes.
    fn give_turns(&mut self, now: Time) {
        let turn_bytes = self.rate.as_ref().map_or(TURN_BYTES, Rate::turn_bytes).min(TURN_BYTES);
        for _ in 0..self.run_queue.len() {
            if self.rate.as_ref().is_some_and(|rate| rate.free_at() > now) {
                return;
            }
            let Some(key) = self.run_queue.pop_front() else { break };
            let place = place(key);
            let Some(entry) = self.connections.get_mut(place).filter(|entry| entry.key == key)
            else {
                continue;
            };
            entry.queued = Queued::No;
            let turn = match entry.waits {
                Waits::Served => BufferTurn::Ours,
                Waits::No if self.buffer_queue.is_empty() => BufferTurn::Ours,
                Waits::No | Waits::ForBuffer => BufferTurn::Others,
            };
            if entry.waits == Waits::Served {
                entry.waits = Waits::No;
            }
            let end = entry.connection.turn(&self.pool, &mut self.spare, turn, turn_bytes, now);
            let moved_bytes = entry.connection.take_moved_bytes();
            self.moved(moved_bytes, now);
            self.settle(key, end, now);
        }
    }

    /// Brings the books in line with what a turn left.
    fn settle(&mut self, key: ConnectionKey, end: TurnEnd, now: Time) {
        let Some(entry) = self.connections.get_mut(place(key)) else { return };
        let held_bytes = entry.connection.held_bytes();
        self.held_bytes =
            self.held_bytes.saturating_sub(entry.held_bytes).saturating_add(held_bytes);
        let grew = held_bytes > entry.held_bytes;
        entry.held_bytes = held_bytes;
        let deadline = entry.connection.deadline();
        if deadline != entry.deadline {
            if let Some(time) = entry.deadline {
                self.deadlines.remove(&(time, key));
            }
            if let Some(time) = deadline {
                self.deadlines.insert((time, key));
            }
            entry.deadline = deadline;
        }
        match end {
            TurnEnd::Wait => {}
            TurnEnd::Again => self.queue(key),
            TurnEnd::WantBuffer if entry.waits == Waits::No => {
                entry.waits = Waits::ForBuffer;
                self.buffer_queue.push_back(key);
            }
            TurnEnd::WantBuffer => {}
            TurnEnd::Close(reason) => return self.close(key, reason),
        }
        if grew && self.held_bytes > HELD_BYTES {
            if let Some(entry) = self.entry(key) {
                entry.connection.fail(Code::Busy, now);
                // What it has not read until now it will not read to get at the error.
                if entry.connection.held_bytes() > LAST_WORDS_BYTES {
                    entry.connection.give_up();
                }
            }
            self.queue(key);
        }
    }

    fn close(&mut self, key: ConnectionKey, reason: Reason) {
        let Some(entry) = self.connections.try_remove(place(key)) else { return };
        if let Some(time) = entry.deadline {
            self.deadlines.remove(&(time, key));
        }
        self.held_bytes = self.held_bytes.saturating_sub(entry.held_bytes);
        entry.connection.close();
        let peer = entry.connection.peer;
        match reason {
            Reason::Finished => debug!(%peer, "disconnected"),
            Reason::PeerGone => debug!(%peer, "the client went away"),
            Reason::Foreign => info!(%peer, "the client does not speak ftx"),
            Reason::Failed(Code::ShuttingDown) => debug!(%peer, "told that the server stops"),
            Reason::Failed(code) => info!(%peer, %code, "connection ended"),
        }
    }

    /// Puts a connection in the run queue, unless it is there.
    fn queue(&mut self, key: ConnectionKey) {
        if let Some(entry) = self.connections.get_mut(place(key))
            && entry.key == key
            && entry.queued == Queued::No
        {
            entry.queued = Queued::Run;
            self.run_queue.push_back(key);
        }
    }

    fn entry(&mut self, key: ConnectionKey) -> Option<&mut Entry> {
        self.connections.get_mut(place(key)).filter(|entry| entry.key == key)
    }
}

fn place(key: ConnectionKey) -> usize {
    key.0 & (usize::MAX >> PLACE_BITS)
}

fn listener_token(place: usize) -> Token {
    Token(WAKER.0.saturating_sub(1).saturating_sub(place))
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

fn settings(options: &Options) -> Settings {
    let limits = Limits { file: options.size_max_bytes, ..Limits::default() };
    let welcome = Welcome {
        ftx: ftx_protocol::message::FTX_VERSION,
        agent: concat!("ftx/", env!("CARGO_PKG_VERSION")).to_owned(),
        features: Algorithm::ALL.iter().map(|kind| kind.as_str().to_owned()).collect(),
        limits,
    };
    Settings {
        agent: welcome.agent,
        features: welcome.features,
        limits: welcome.limits,
        header_timeout: options.header_timeout,
        idle_timeout: options.idle_timeout,
    }
}
