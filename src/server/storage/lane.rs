//! One connection's way into storage.

use std::collections::HashSet;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::Arc;
use std::time::Instant;

use ftx_protocol::{Code, RequestId, Verb};

use super::client::Client;
use super::directory::Shared;
use super::download::Fetch;
use super::places::{Place, Standing};
use super::upload::Bring;
use super::workers::{Hand, Line, Strand};
use super::{ConnectionKey, Job, Origin, audit};
use crate::server::access::Who;
use crate::server::network::Network;

/// What all lanes lead to.
pub(super) struct Entrance {
    pub(super) shared: Arc<Shared>,
    pub(super) line: Arc<Line>,
}

/// Two strands: what a connection brings, and what it fetches, do not wait for each other. Each is
/// made for its first job, and goes when the connection is idle.
pub(in crate::server) struct Lane {
    entrance: Arc<Entrance>,
    key: ConnectionKey,
    peer: Peer,
    bring: Option<Arc<Strand>>,
    fetch: Option<Arc<Strand>>,
}

/// Whether a lane let go of what it could.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Rest {
    Done,
    /// A worker has a strand in hand, which has said all that it has to say: it says no more.
    Later,
}

/// An address in half the room, for most of them: each idle connection has one.
enum Peer {
    V4(SocketAddrV4),
    V6(Box<SocketAddrV6>),
}

impl Peer {
    fn of(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => Self::V4(address),
            SocketAddr::V6(address) => Self::V6(Box::new(address)),
        }
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::V4(address) => SocketAddr::V4(*address),
            Self::V6(address) => SocketAddr::V6(**address),
        }
    }
}

impl Lane {
    pub(super) fn new(entrance: Arc<Entrance>, key: ConnectionKey, peer: SocketAddr) -> Self {
        Self { entrance, key, peer: Peer::of(peer), bring: None, fetch: None }
    }

    /// Whose it is.
    pub(in crate::server) fn peer(&self) -> SocketAddr {
        self.peer.address()
    }

    /// Who is counted together with it.
    fn network(&self) -> Network {
        Network::of(self.peer().ip())
    }

    /// A place for a put, if there is one also for a connection that has some.
    pub(in crate::server) fn take_place(&self) -> Option<Place> {
        self.entrance.shared.places.take(self.network())
    }

    /// A place for a put; or it will come as an outcome.
    pub(in crate::server) fn ask_for_place(&self, standing: Standing) -> Option<Place> {
        self.entrance.shared.places.ask(self.key, self.network(), standing)
    }

    /// No place is waited for any more.
    pub(in crate::server) fn need_no_place(&self) {
        self.entrance.shared.places.leave(self.key);
    }

    /// Whether others wait for places.
    pub(in crate::server) fn places_are_wanted(&self) -> bool {
        self.entrance.shared.places.are_wanted()
    }

    /// Lets go of strands that have nothing to do and nothing open; one that a worker has in hand stays.
    pub(in crate::server) fn rest(&mut self) -> Rest {
        let mut rest = Rest::Done;
        for strand in [&mut self.bring, &mut self.fetch] {
            let alone = strand.as_mut().map(Arc::get_mut);
            match alone.map(|alone| alone.map(|strand| strand.is_empty())) {
                Some(Some(true)) => *strand = None,
                Some(Some(false)) | None => {}
                Some(None) => rest = Rest::Later,
            }
        }
        rest
    }

    /// Hands the jobs of somebody over, those for one strand together. Never waits.
    pub(in crate::server) fn submit(&mut self, jobs: Vec<Job>, who: &Who) {
        let (mut brought, mut fetched) = (Vec::new(), Vec::new());
        for job in jobs {
            match side(&job) {
                Side::Bring => brought.push(job),
                Side::Fetch => fetched.push(job),
                Side::Both => {
                    self.forget_unbegun([&mut brought, &mut fetched], who);
                    self.hang_up([&mut brought, &mut fetched]);
                }
            }
        }
        let Self { entrance, key, peer, bring, fetch } = self;
        let shared = || Arc::clone(&entrance.shared);
        let origin = || Origin { key: *key, peer: peer.address(), who: who.clone() };
        if !brought.is_empty() {
            let bring = bring
                .get_or_insert_with(|| strand(origin(), |origin| Bring::new(shared(), origin)));
            entrance.line.submit(bring, brought);
        }
        if !fetched.is_empty() {
            let fetch = fetch
                .get_or_insert_with(|| strand(origin(), |origin| Fetch::new(shared(), origin)));
            entrance.line.submit(fetch, fetched);
        }
    }

    /// The connection is gone. A strand that has nothing to end need not hear of it, and does not wait for a worker
    /// any more: they would be as many as come and go behind a disk that hangs.
    fn hang_up(&mut self, [brought, fetched]: [&mut Vec<Job>; 2]) {
        let Entrance { shared, line } = &*self.entrance;
        let end = |strand: &mut Option<Arc<Strand>>, to_come: &mut Vec<Job>| {
            let lets_go = |strand: &Arc<Strand>| line.lets_go(strand);
            match to_come.is_empty() && strand.as_ref().is_none_or(lets_go) {
                true => *strand = None,
                false => to_come.push(Job::HangUp),
            }
        };
        let forgotten = match &self.bring {
            Some(_) => shared.committer.forget_changes_if_free(self.key),
            None => Some(()),
        };
        match forgotten {
            Some(()) => end(&mut self.bring, brought),
            // Its hand forgets them, and may wait for that.
            None => brought.push(Job::HangUp),
        }
        end(&mut self.fetch, fetched);
    }

    /// The connection is gone: what it only wanted to hear is not looked for, neither what waits nor what was to be
    /// handed over. Kept, it would wait for a disk that hangs, beside that of all who come and go meanwhile.
    fn forget_unbegun(&self, to_come: [&mut Vec<Job>; 2], who: &Who) {
        let strands = [&self.bring, &self.fetch].into_iter().flatten();
        let waiting = strands.flat_map(|strand| strand.take_out(Job::is_for_nobody));
        let to_come = to_come.into_iter();
        let to_come = to_come.flat_map(|jobs| jobs.extract_if(.., |job| job.is_for_nobody()));
        let forgotten: Vec<Job> = waiting.chain(to_come).collect();
        let closed = |job: &Job| match job {
            Job::Close(id) => Some(*id),
            _ => None,
        };
        let broken_off: HashSet<RequestId> = forgotten.iter().filter_map(closed).collect();
        let origin = Origin { key: self.key, peer: self.peer(), who: who.clone() };
        forgotten.iter().for_each(|job| log_unbegun(job, &broken_off, &origin));
    }
}

/// Whose job it is.
enum Side {
    Bring,
    Fetch,
    Both,
}

fn side(job: &Job) -> Side {
    match job {
        Job::Begin(..)
        | Job::Write { .. }
        | Job::Finish(_)
        | Job::Discard(..)
        | Job::Suspend(_)
        | Job::Resume(..)
        | Job::Stat(..)
        | Job::Change(..) => Side::Bring,
        Job::Open(..)
        | Job::Send { .. }
        | Job::Digest(_)
        | Job::Sum(..)
        | Job::List(..)
        | Job::More(_)
        | Job::Close(_) => Side::Fetch,
        Job::HangUp => Side::Both,
    }
}

/// What was broken off is in the log, begun or not: its client was told so. Of what still waited when the connection
/// ended nothing was done, and nothing told.
fn log_unbegun(job: &Job, broken_off: &HashSet<RequestId>, origin: &Origin) {
    let began = Instant::now();
    match job {
        Job::Open(get, _) if broken_off.contains(&get.id) => {
            audit::broken_off(origin, Verb::Get, &get.name, 0, began)
        }
        Job::List(list, _) if broken_off.contains(&list.id) => {
            audit::listed(origin, list.name.as_ref(), 0, Code::Aborted.as_str(), began);
        }
        _ => {}
    }
}

fn strand<H: Hand + 'static>(origin: Origin, hand: impl FnOnce(Origin) -> H) -> Arc<Strand> {
    let client = Client::of(&origin);
    Arc::new(Strand::new(client, Box::new(hand(origin))))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use ftx_protocol::message::{Cache, Get, Stat};
    use ftx_protocol::{Algorithm, Name};

    use super::super::upload::tests::{put, shared};
    use super::super::{Behind, Granted};
    use super::*;

    /// With no worker, as behind a disk that has all of them.
    #[test]
    fn who_is_gone_stands_in_no_line_unless_there_is_something_to_end() {
        let directory = tempfile::tempdir().unwrap();
        let shared = shared(directory.path());
        // Its threads are no part of this, and look at the line of the round once.
        shared.committer.finish();
        let line = Arc::<Line>::default();
        let entrance = Arc::new(Entrance { shared: Arc::clone(&shared), line: Arc::clone(&line) });
        let lane = |number| {
            let key = ConnectionKey::new(0, number, 1);
            Lane::new(Arc::clone(&entrance), key, ([127, 0, 0, 1], 1).into())
        };
        let (id, name) = (RequestId(1), Name::parse(b"file").unwrap());
        let mut stays = lane(0);
        let stat = || Job::Stat(Stat::of(name.clone()), Granted::default());
        stays.submit(vec![stat()], &Who::Nobody);
        for number in 1..100 {
            let mut lane = lane(number);
            let (name, digest, cache) = (name.clone(), Algorithm::Sha256, Cache::Use);
            let get = Get { id, name, digest, at: 0, version: None, cache, need: Vec::new() };
            let get = Job::Open(get, Granted::default());
            lane.submit(vec![stat(), get], &Who::Nobody);
            assert_eq!(line.standing(), 3);
            lane.submit(vec![Job::HangUp], &Who::Nobody);
            assert_eq!(line.standing(), 1, "who is there stays");
        }
        let mut brings = lane(100);
        let place = brings.take_place().unwrap();
        brings.submit(
            vec![Job::Begin(put(1), Behind::Nothing, Granted::default(), place)],
            &Who::Nobody,
        );
        brings.submit(vec![Job::HangUp], &Who::Nobody);
        assert_eq!(line.standing(), 2, "what has come of a body is worth keeping");
    }

    #[test]
    fn who_is_gone_does_not_wait_for_whoever_has_the_line_of_the_round() {
        let directory = tempfile::tempdir().unwrap();
        let shared = shared(directory.path());
        // Its threads are no part of this, and look at the line of the round once.
        shared.committer.finish();
        let line = Arc::<Line>::default();
        let entrance = Arc::new(Entrance { shared: Arc::clone(&shared), line: Arc::clone(&line) });
        let mut lane = Lane::new(entrance, ConnectionKey::new(0, 0, 1), ([127, 0, 0, 1], 1).into());
        let stat = Job::Stat(Stat::of(Name::parse(b"file").unwrap()), Granted::default());
        lane.submit(vec![stat], &Who::Nobody);
        let held = shared.committer.hold_round();
        let (tell, told) = mpsc::channel();
        let gone = std::thread::spawn(move || {
            lane.submit(vec![Job::HangUp], &Who::Nobody);
            tell.send(lane).unwrap();
        });
        let lane = told.recv_timeout(Duration::from_secs(10));
        drop(held);
        gone.join().unwrap();
        let lane = lane.expect("it waited");
        let strand = lane.bring.as_ref().expect("its hand has to forget what waits for a round");
        assert!(matches!(Vec::from(strand.take_out(|_| true))[..], [Job::HangUp]));
    }
}
