//! Whose turn it is: who stands in the run queue, who waits for a buffer, and how much one may move
//! or hold before the others have their turn.

use std::time::Duration;

use ftx_protocol::{Code, Time};

use super::Selector;
use crate::server::connection::{BufferTurn, Buffers, TurnEnd};
use crate::server::held::{self, Holder};
use crate::server::key::ConnectionKey;
use crate::server::network::Network;

/// Bytes that one connection may move in one turn before the others have theirs.
const TURN_BYTES: usize = 1024 * 1024;

/// How long turns are given before the sockets are looked at again: whoever has something to do since then may be
/// next, and would wait for all that stand in the queue.
const ROUND: Duration = Duration::from_millis(2);

/// What a connection that is ended for that may leave to be written.
const LAST_WORDS_BYTES: usize = 4 * 1024;

/// Whether a connection stands in the run queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queued {
    No,
    Run,
}

/// Whether a connection waits for a buffer. It has its turns all the same: only reading waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    No,
    ForBuffer,
    /// Its turn for one has come.
    Served,
}

impl Selector {
    /// Gives connections that stand in the run queue now a turn: as many as have theirs within [`ROUND`], and as far as the
    /// rate goes.
    pub(super) fn give_turns(&mut self, now: Time) {
        let connections = self.run_queue.len();
        let turn_bytes = self.rate.as_ref().map_or(TURN_BYTES, |rate| rate.turn_bytes(connections));
        let turn_bytes = turn_bytes.min(TURN_BYTES);
        let until = self.now().after(ROUND);
        for _ in 0..connections {
            let time = self.now();
            let is_held_up = self.rate.as_ref().is_some_and(|rate| rate.free_at() > now);
            if is_held_up || time > until {
                return;
            }
            let Some(key) = self.run_queue.pop() else { break };
            let are_left =
                self.buffer_queue.is_empty() && (self.served == 0 || self.buffers_to_give() > 0);
            let Some(entry) =
                self.connections.get_mut(key.place()).filter(|entry| entry.key == key)
            else {
                continue;
            };
            entry.queued = Queued::No;
            let turn = match entry.waits {
                Waits::Served => BufferTurn::Ours,
                Waits::No if are_left => BufferTurn::Ours,
                Waits::No | Waits::ForBuffer => BufferTurn::Others,
            };
            if entry.waits == Waits::Served {
                entry.waits = Waits::No;
                self.served = self.served.saturating_sub(1);
            }
            let mut buffers = Buffers { pool: &self.pool, spare: &mut self.spare, turn };
            let end = entry.connection.turn(&mut buffers, turn_bytes, now);
            let moved_bytes = entry.connection.take_moved_bytes();
            self.moved(moved_bytes, now);
            self.settle(key, end, now);
        }
    }

    /// Brings the books in line with what a turn left.
    fn settle(&mut self, key: ConnectionKey, end: TurnEnd, now: Time) {
        let Some(entry) = self.connections.get_mut(key.place()) else { return };
        let was = entry.held_bytes;
        self.held.count(&mut entry.held_bytes, entry.connection.held_bytes());
        let grew = entry.held_bytes > was;
        let deadline = entry.connection.deadline(now);
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
                self.buffer_queue.push(Network::of(entry.connection.peer().ip()), key);
            }
            TurnEnd::WantBuffer => {}
            TurnEnd::Close(reason) => return self.close(key, reason),
        }
        if grew && self.held.is_too_much() {
            self.end_who_holds_most(now);
        }
    }

    /// Looks at all: it is rare, and who makes it happen pays with a connection each time.
    fn end_who_holds_most(&mut self, now: Time) {
        let holders = self.connections.iter().map(|(_, entry)| Holder {
            key: entry.key,
            network: Network::of(entry.connection.peer().ip()),
            bytes: entry.held_bytes,
        });
        let Some(key) = held::who_holds_most(holders) else { return };
        let Some(entry) = self.connections.get_mut(key.place()) else { return };
        entry.connection.fail(Code::Busy, now);
        // What it has not read until now it will not read to get at the error.
        if entry.connection.held_bytes() > LAST_WORDS_BYTES {
            entry.connection.give_up(now);
        }
        self.held.count(&mut entry.held_bytes, entry.connection.held_bytes());
        self.queue(key);
    }

    pub(super) fn moved(&mut self, bytes: u64, now: Time) {
        if let Some(rate) = &mut self.rate
            && bytes > 0
        {
            rate.moved(bytes, now);
        }
    }

    /// Gives those that wait for a buffer their turn, as many as there are buffers: of each address the one that has waited
    /// longest.
    pub(super) fn serve_buffers(&mut self) {
        while self.buffers_to_give() > 0
            && let Some(key) = self.buffer_queue.pop()
        {
            if let Some(entry) = self.entry(key) {
                entry.waits = Waits::Served;
                self.served = self.served.saturating_add(1);
                self.queue(key);
            }
        }
    }

    /// Buffers that are free, and that nobody who stands in the run queue is to have.
    pub(super) fn buffers_to_give(&self) -> usize {
        let free = self.pool.available().saturating_add(usize::from(self.spare.is_some()));
        free.saturating_sub(self.served)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

    use ftx_protocol::server::Reason;
    use std::path::Path;
    use std::sync::Arc;

    use ftx_protocol::Durability;

    use super::*;
    use crate::server::access::{Policy, PolicyOptions};
    use crate::server::doors::Pass;
    use crate::server::front::Arrival;
    use crate::server::{Access, DoorOptions, Listen, OpenMax, Options, Server};

    fn selector(directory: &Path) -> Selector {
        let minute = Duration::from_secs(60);
        let options = Options {
            directory: directory.to_owned(),
            policy: PolicyOptions::default(),
            identity: None,
            tokens: None,
            doors: DoorOptions::default(),
            access: Access::ReadWrite,
            durability: Durability::None,
            size_max_bytes: 1,
            free_min_bytes: 0,
            connections_max: 100,
            open_max: OpenMax { puts: 2, files: 2, directories: 2 },
            requests_max: 100,
            threads: 1,
            limit_rate: None,
            header_timeout: minute,
            idle_timeout: minute,
            partial_ttl: minute,
            abandoned_after: minute,
            drain_timeout: minute,
        };
        let at = Listen::At(vec!["127.0.0.1:0".parse().unwrap()]);
        Server::bind(options, at).unwrap().selectors.into_front()
    }

    /// A connection that has something to be read, as from this address, after its turn.
    fn arrive(selector: &mut Selector, from: [u8; 4]) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(b"{").unwrap();
        let socket = listener.accept().unwrap().0;
        socket.peek(&mut [0]).unwrap();
        socket.set_nonblocking(true).unwrap();
        let peer = SocketAddr::from((from, 1));
        let policy = Policy::of(&PolicyOptions::default(), ([127, 0, 0, 1], 1).into());
        let socket = mio::net::TcpStream::from_std(socket);
        let now = selector.now();
        selector.admit(Arrival { socket, peer, policy, pass: Pass::default() }, now);
        while !selector.run_queue.is_empty() {
            selector.give_turns(now);
        }
        client
    }

    #[test]
    fn an_address_with_many_connections_that_want_buffers_lets_another_one_have_the_next() {
        let home = tempfile::tempdir().unwrap();
        let mut selector = selector(&home.path().join("served"));
        let mut out: Vec<_> = std::iter::from_fn(|| selector.pool.take()).collect();
        let (many, one) = ([192, 0, 2, 1], [192, 0, 2, 2]);
        let clients = [many, many, many, many, one].map(|from| arrive(&mut selector, from));
        assert_eq!(selector.buffer_queue.len(), clients.len());
        out.truncate(out.len() - 2);
        selector.serve_buffers();
        let served = selector.connections.iter().filter(|(_, entry)| entry.waits == Waits::Served);
        let served: Vec<_> = served.map(|(_, entry)| entry.connection.peer().ip()).collect();
        assert_eq!(served, [many, one].map(IpAddr::from));
        // Of who has gone nothing waits.
        assert_eq!(selector.buffer_queue.len(), 3);
        let keys: Vec<_> = selector.connections.iter().map(|(_, entry)| entry.key).collect();
        keys.into_iter().for_each(|key| selector.close(key, Reason::PeerGone));
        assert_eq!((selector.buffer_queue.len(), selector.served), (0, 0));
        let directory = Arc::clone(&selector.directory);
        drop(selector);
        Arc::into_inner(directory).unwrap().finish();
    }
}
