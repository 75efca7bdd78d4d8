//! One connection's way into storage.

use std::net::SocketAddr;
use std::sync::Arc;

use super::directory::Shared;
use super::download::Fetch;
use super::upload::Bring;
use super::workers::{Hand, Line, Strand};
use super::{Job, Origin};

/// What all lanes lead to.
pub(super) struct Entrance {
    pub(super) shared: Arc<Shared>,
    pub(super) line: Arc<Line>,
}

/// Two strands: what a connection brings, and what it fetches, do not wait for each other. Each is
/// made for its first job: most connections that are idle never had one.
pub(in crate::server) struct Lane {
    entrance: Arc<Entrance>,
    origin: Origin,
    bring: Option<Arc<Strand>>,
    fetch: Option<Arc<Strand>>,
}

impl Lane {
    pub(super) fn new(entrance: Arc<Entrance>, origin: Origin) -> Self {
        Self { entrance, origin, bring: None, fetch: None }
    }

    /// Whose it is.
    pub(in crate::server) fn peer(&self) -> SocketAddr {
        self.origin.peer
    }

    /// Hands a job over. Never waits.
    pub(in crate::server) fn submit(&mut self, job: Job) {
        let Self { entrance, origin, bring, fetch } = self;
        let shared = || Arc::clone(&entrance.shared);
        match job {
            Job::Begin(_)
            | Job::Write { .. }
            | Job::Finish(_)
            | Job::Discard(_)
            | Job::Suspend(_)
            | Job::Resume(_)
            | Job::Stat(_)
            | Job::Change(_) => {
                let bring = bring.get_or_insert_with(|| strand(Bring::new(shared(), *origin)));
                entrance.line.submit(bring, job);
            }
            Job::Open(_)
            | Job::Send { .. }
            | Job::Digest(_)
            | Job::Sum(_)
            | Job::List(_)
            | Job::More(_)
            | Job::Close(_) => {
                let fetch = fetch.get_or_insert_with(|| strand(Fetch::new(shared(), *origin)));
                entrance.line.submit(fetch, job);
            }
            Job::HangUp => {
                for strand in [bring, fetch].into_iter().flatten() {
                    entrance.line.submit(strand, Job::HangUp);
                }
            }
        }
    }
}

fn strand(hand: impl Hand + 'static) -> Arc<Strand> {
    Arc::new(Strand::new(Box::new(hand)))
}
