//! The loop: a thread that waits for sockets and gives each of its connections its turn. There may be
//! several; each has connections, buffers and books of its own, and looks at nobody else's.
//!
//! Knows neither files nor messages. Never waits for anything but [`mio::Poll`]. Registrations are
//! edge-triggered and made once: a connection works until it blocks, or until its turn is over and
//! it stands in the run queue.

mod turns;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ftx_protocol::server::{Reason, Settings};
use ftx_protocol::{Code, Time};
use mio::{Events, Interest, Poll, Waker};
use slab::Slab;
use tracing::{debug, info, warn};
use turns::{Queued, Waits};

use super::Options;
use super::buffers::{Buffer, Pool};
use super::connection::{Admitted, Connection};
use super::fair_line::FairLine;
use super::front::{Arrival, Front, Order, Seats};
use super::guest::{Guest, House};
use super::held::Held;
use super::key::{self, ConnectionKey, Source};
use super::mailbox::Mailbox;
use super::network::Network;
use super::rate::Rate;
use super::storage::{Directory, Outcomes};
use super::stream::Stream;

/// Readiness events taken in one go.
const EVENTS: usize = 1_024;

/// Connections whose tokens are looked at in one go when the tokens have changed: some hundred microseconds.
const TOKENS_CHECKED: usize = 512;

/// Stops a server from another thread.
#[derive(Debug, Clone)]
pub struct Stopper {
    front: Arc<Mailbox<Order>>,
}

impl Stopper {
    /// Takes no more requests, lets what runs finish within the drain time, and stops.
    pub fn stop(&self) {
        self.front.push([Order::Stop]);
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

pub(super) struct Selector {
    number: usize,
    poll: Poll,
    /// At the first of them.
    front: Option<Front>,
    orders: Arc<Mailbox<Order>>,
    seats: Arc<Seats>,
    directory: Arc<Directory>,
    outcomes: Arc<Outcomes>,
    settings: Arc<Settings>,
    house: Arc<House>,
    drain_timeout: Duration,
    started: Instant,
    connections: Slab<Entry>,
    generation: usize,
    run_queue: FairLine<Network, ConnectionKey>,
    /// Connections that could read, had they a buffer; served one address after the other.
    buffer_queue: FairLine<Network, ConnectionKey>,
    /// How many of these stand in the run queue for the buffer whose turn is theirs: nobody before them takes it.
    served: usize,
    deadlines: BTreeSet<(Time, ConnectionKey)>,
    pool: Pool,
    rate: Option<Rate>,
    /// The next place of which the token has to be looked at, while there is one.
    unchecked: Option<usize>,
    /// The buffer that was read into last and that no job kept.
    spare: Option<Buffer>,
    held: Held,
    phase: Phase,
}

/// What all selectors work with.
pub(super) struct Common {
    pub(super) selectors: usize,
    pub(super) seats: Arc<Seats>,
    pub(super) directory: Arc<Directory>,
    pub(super) outcomes: Arc<Outcomes>,
    /// Of each connection.
    pub(super) settings: Arc<Settings>,
    pub(super) house: Arc<House>,
}

/// A waker for this poll; there can be only one.
pub(super) fn waker(poll: &Poll) -> io::Result<Arc<Waker>> {
    Waker::new(poll.registry(), key::WAKER).map(Arc::new)
}

impl Selector {
    pub(super) fn new(
        number: usize,
        poll: Poll,
        front: Option<Front>,
        orders: Arc<Mailbox<Order>>,
        common: &Common,
        options: &Options,
    ) -> Self {
        Self {
            number,
            poll,
            front,
            orders,
            seats: Arc::clone(&common.seats),
            directory: Arc::clone(&common.directory),
            outcomes: Arc::clone(&common.outcomes),
            settings: Arc::clone(&common.settings),
            house: Arc::clone(&common.house),
            drain_timeout: options.drain_timeout,
            started: Instant::now(),
            connections: Slab::new(),
            generation: 0,
            run_queue: FairLine::default(),
            buffer_queue: FairLine::default(),
            served: 0,
            deadlines: BTreeSet::new(),
            pool: Pool::of_one(common.selectors),
            rate: options.limit_rate.map(Rate::new),
            unchecked: None,
            spare: None,
            held: Held::new(common.selectors),
            phase: Phase::Run,
        }
    }

    /// For its thread.
    pub(super) fn name(&self) -> String {
        format!("selector-{}", self.number)
    }

    pub(super) fn orders(&self) -> Arc<Mailbox<Order>> {
        Arc::clone(&self.orders)
    }

    /// Of the first selector: it stops the others.
    pub(super) fn stopper(&self) -> Stopper {
        Stopper { front: self.orders() }
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
                self.dispatch(event, now);
            }
            self.take_outcomes(now);
            self.serve_buffers();
            self.look_at_the_time(now);
            self.check_tokens(now);
            self.accept(now);
            self.give_turns(now);
        }
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
        let can_serve = !self.buffer_queue.is_empty() && self.buffers_to_give() > 0;
        let free_at = self.rate.as_ref().map(Rate::free_at).unwrap_or_default();
        let now = self.now();
        let can_turn = !self.run_queue.is_empty() && free_at <= now;
        if can_turn || can_serve || self.unchecked.is_some() {
            return Some(Duration::ZERO);
        }
        let turn = (!self.run_queue.is_empty()).then_some(free_at);
        let phase = match self.phase {
            Phase::Run => None,
            Phase::Drain { until } | Phase::Cut { until } => Some(until),
        };
        let deadline = self.deadlines.first().map(|(time, _)| *time);
        let front = self.front.as_ref().map(|front| front.deadline(now));
        let next = [phase, deadline, turn, front];
        next.into_iter().flatten().min().map(|time| now.until(time))
    }

    /// Notes what an event says; the work comes in the connection's turn.
    fn dispatch(&mut self, event: &mio::event::Event, now: Time) {
        match Source::of(event.token()) {
            Source::Waker => self.take_orders(now),
            Source::Listener => {
                if let Some(front) = &mut self.front {
                    front.ready();
                }
            }
            Source::Connection(key) => {
                if let Some(entry) = self.entry(key) {
                    let readable =
                        event.is_readable() || event.is_read_closed() || event.is_error();
                    let writable =
                        event.is_writable() || event.is_write_closed() || event.is_error();
                    entry.connection.ready(readable, writable, now);
                    self.queue(key);
                }
            }
        }
    }

    fn take_orders(&mut self, now: Time) {
        for order in self.orders.take() {
            match order {
                Order::Serve(arrival) => self.admit(arrival, now),
                Order::CheckTokens => self.unchecked = Some(0),
                Order::Stop if self.phase == Phase::Run => self.drain(now),
                Order::Stop => {}
            }
        }
    }

    fn take_outcomes(&mut self, now: Time) {
        for (key, outcome) in self.outcomes.take(self.number) {
            // An outcome for a connection that is gone has given its buffer back by now.
            if let Some(entry) = self.entry(key) {
                entry.connection.outcome(outcome, now);
                let moved_bytes = entry.connection.take_moved_bytes();
                self.moved(moved_bytes, now);
                self.queue(key);
            }
        }
    }

    fn look_at_the_time(&mut self, now: Time) {
        while let Some(&(time, key)) = self.deadlines.first()
            && time <= now
        {
            self.deadlines.pop_first();
            if let Some(entry) = self.entry(key) {
                entry.deadline = None;
                if entry.connection.on_time(now) == Admitted::NoMore {
                    self.drop_what_is_over();
                }
                self.queue(key);
            }
        }
        if self.front.as_mut().is_some_and(|front| front.must_expire(now)) {
            self.drop_what_is_over();
        }
        if let Phase::Drain { until } = self.phase
            && until <= now
        {
            self.phase = Phase::Cut { until: now.after(ftx_protocol::limits::LINGER) };
            self.each_connection(|connection| connection.fail(Code::ShuttingDown, now));
        }
    }

    fn drop_what_is_over(&self) {
        self.directory.expire(self.started.elapsed());
    }

    /// Goes on with looking whose token is over, after a change of the tokens.
    fn check_tokens(&mut self, now: Time) {
        let Some(first) = self.unchecked else { return };
        let end = first.saturating_add(TOKENS_CHECKED);
        for place in first..end.min(self.connections.capacity()) {
            let Some(entry) = self.connections.get_mut(place) else { continue };
            let admitted = entry.connection.check_token(now);
            // A token may have got another end.
            if admitted == Admitted::NoMore || entry.connection.deadline(now) != entry.deadline {
                let key = entry.key;
                self.queue(key);
            }
        }
        self.unchecked = (end < self.connections.capacity()).then_some(end);
        if self.unchecked.is_none() && self.front.is_some() {
            self.drop_what_is_over();
        }
    }

    fn drain(&mut self, now: Time) {
        if let Some(front) = &mut self.front {
            info!(connections = self.seats.count(), "stopping: no new requests are taken");
            front.close(self.poll.registry());
        }
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

    fn accept(&mut self, now: Time) {
        let arrivals = self.front.as_mut().map(|front| front.accept(now));
        for arrival in arrivals.into_iter().flatten() {
            self.admit(arrival, now);
        }
    }

    fn admit(&mut self, arrival: Arrival, now: Time) {
        let Arrival { mut socket, peer, policy, pass } = arrival;
        // Replies are small and waited for.
        if let Err(error) = socket.set_nodelay(true) {
            debug!(%peer, %error, "cannot set TCP_NODELAY");
        }
        let entry = self.connections.vacant_entry();
        self.generation = self.generation.wrapping_add(1);
        let key = ConnectionKey::new(self.number, self.generation, entry.key());
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut socket, key.of_poll(), interest) {
            warn!(%peer, %error, "cannot watch a connection");
            self.seats.free(self.number);
            return;
        }
        let lane = self.directory.lane(key, peer);
        let guest = Guest::new(Arc::clone(&self.house), policy, pass);
        let settings = Arc::clone(&self.settings);
        let connection = Connection::new(Stream::new(socket), guest, lane, settings, now);
        entry.insert(Entry {
            connection,
            key,
            deadline: None,
            held_bytes: 0,
            queued: Queued::No,
            waits: Waits::No,
        });
        debug!(%peer, selector = self.number, "connected");
        self.queue(key);
    }

    fn close(&mut self, key: ConnectionKey, reason: Reason) {
        let Some(mut entry) = self.connections.try_remove(key.place()) else { return };
        if let Some(time) = entry.deadline {
            self.deadlines.remove(&(time, key));
        }
        self.held.count(&mut entry.held_bytes, 0);
        match entry.waits {
            Waits::No => {}
            Waits::ForBuffer => {
                let network = Network::of(entry.connection.peer().ip());
                self.buffer_queue.remove(network, |waiting| *waiting == key);
            }
            Waits::Served => self.served = self.served.saturating_sub(1),
        }
        entry.connection.close();
        self.seats.free(self.number);
        let peer = entry.connection.peer();
        match reason {
            Reason::Finished => debug!(%peer, "disconnected"),
            Reason::PeerGone => debug!(%peer, "the client went away"),
            Reason::Foreign => info!(%peer, "the client does not speak ftx"),
            Reason::Failed(Code::ShuttingDown) => debug!(%peer, "told that the server stops"),
            Reason::Failed(code) => {
                info!(%peer, who = %entry.connection.who(), %code, "connection ended");
            }
        }
    }

    /// Puts a connection in the run queue, unless it is there.
    fn queue(&mut self, key: ConnectionKey) {
        if let Some(entry) = self.connections.get_mut(key.place())
            && entry.key == key
            && entry.queued == Queued::No
        {
            entry.queued = Queued::Run;
            self.run_queue.push(Network::of(entry.connection.peer().ip()), key);
        }
    }

    fn entry(&mut self, key: ConnectionKey) -> Option<&mut Entry> {
        self.connections.get_mut(key.place()).filter(|entry| entry.key == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        // What is kept of each of ten thousand, besides its socket.
        assert!(size_of::<Entry>() <= 432, "{}", size_of::<Entry>());
    }
}
