//! The directory as storage: the store, the workers and the committer put together.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ftx_disk::store;
use ftx_disk::sys::Native;
use ftx_protocol::message::Info;
use ftx_protocol::server::Event;
use ftx_protocol::{Code, Escaped, Kind, Name, Refusal, RequestId, Verb};
use tracing::{info, warn};

use super::abandoned::Abandoned;
use super::audit::Came;
use super::committer::Committer;
use super::lane::{Entrance, Lane};
use super::partials::Partials;
use super::places::Places;
use super::room::Room;
use super::shares::Shares;
use super::transfers::Transfers;
use super::workers::Workers;
use super::{ConnectionKey, Granted, Origin, Outcomes, Store, audit};
use crate::server::access::Tokens;
use crate::server::lock::lock;
use crate::server::{Options, StartError};

/// A served directory, open.
pub(in crate::server) struct Directory {
    entrance: Arc<Entrance>,
    workers: Workers,
    expiry: Arc<Expiry>,
}

/// What uploads go by that nobody goes on with.
struct Expiry {
    partial_ttl: Duration,
    tokens: Option<Arc<Tokens>>,
    abandoned: Mutex<Abandoned>,
    looking: Mutex<Looking>,
}

/// Whether a thread looks what is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looking {
    No,
    Yes,
    /// It was asked for meanwhile: what is over by then may have been passed by.
    Again,
}

/// What all strands work with.
pub(super) struct Shared {
    pub(super) store: Arc<Store>,
    pub(super) outcomes: Arc<Outcomes>,
    pub(super) transfers: Arc<Transfers>,
    pub(super) committer: Committer,
    pub(super) partials: Partials,
    pub(super) room: Arc<Room>,
    pub(super) shares: Shares,
    pub(super) places: Arc<Places>,
}

impl Shared {
    /// Says what a name stands for.
    pub(super) fn stat(
        &self,
        origin: &Origin,
        verb: Verb,
        id: RequestId,
        name: &Name,
        granted: &Granted,
    ) {
        let began = Instant::now();
        let found = granted.check().and_then(|()| self.store.stat(name, granted.within.as_ref()));
        self.tell(origin, verb, id, name, began, found);
    }

    /// What a name stands for that could not be opened as a file, if that is because it is a directory. A file
    /// that it has become since would be told of without its digest.
    pub(super) fn directory(
        &self,
        name: &Name,
        granted: &Granted,
        refusal: Refusal,
    ) -> Result<store::Info, Refusal> {
        if refusal.code != Code::IsDirectory {
            return Err(refusal);
        }
        match self.store.stat(name, granted.within.as_ref())? {
            found if found.kind == Kind::Directory => Ok(found),
            _ => Err(refusal),
        }
    }

    /// Says what was found of a name when it was looked for.
    pub(super) fn tell(
        &self,
        origin: &Origin,
        verb: Verb,
        id: RequestId,
        name: &Name,
        began: Instant,
        found: Result<store::Info, Refusal>,
    ) {
        let event = match found {
            Ok(found) => {
                audit::told(origin, verb, name, began);
                Event::Info(Info {
                    id,
                    kind: found.kind,
                    size: found.size,
                    mtime: found.modified,
                    mode: found.mode,
                    version: found.version,
                    digest: None,
                })
            }
            Err(refusal) => {
                audit::refused(origin, verb, name, Came::Nowhere, &refusal, began);
                Event::Refused { id, refusal }
            }
        };
        self.outcomes.push_event(origin.key, event);
    }
}

impl Directory {
    /// Opens the directory, finishes or forgets what an earlier server left, and starts the
    /// threads.
    pub(in crate::server) fn open(
        options: &Options,
        tokens: Option<Arc<Tokens>>,
        outcomes: Arc<Outcomes>,
    ) -> Result<Self, StartError> {
        let store_options = store::Options {
            access: options.access,
            durability: options.durability,
            memory: store::Memory::Puts,
            size_max_bytes: options.size_max_bytes,
            free_min_bytes: options.free_min_bytes,
        };
        let (store, recovery) = store::Store::open(Native, &options.directory, store_options)?;
        info!(
            directory = %Escaped(options.directory.as_os_str().as_bytes()),
            durability = %store.durability(),
            finished = recovery.finished,
            resumable = recovery.resumable,
            swept = recovery.swept,
            "serving"
        );
        if recovery.torn_bytes > 0 {
            warn!(
                bytes = recovery.torn_bytes,
                "the journal ended in a torn record, as after a crash"
            );
        }
        let store = Arc::new(store);
        let transfers = Arc::new(Transfers::new(Arc::clone(&store), Arc::clone(&outcomes)));
        let committer =
            Committer::start(Arc::clone(&store), Arc::clone(&outcomes), Arc::clone(&transfers))?;
        let room = Arc::new(Room::new());
        let places = Arc::new(Places::new(options.open_max.puts, Arc::clone(&outcomes)));
        let partials = Partials::default();
        let shares = Shares::new(options.open_max);
        let shared =
            Shared { store, outcomes, transfers, committer, partials, room, places, shares };
        let shared = Arc::new(shared);
        let workers = Workers::start()?;
        let entrance = Arc::new(Entrance { shared, line: workers.line() });
        let expiry = Arc::new(Expiry {
            partial_ttl: options.partial_ttl,
            tokens,
            abandoned: Mutex::new(Abandoned::new(options.abandoned_after)),
            looking: Mutex::new(Looking::No),
        });
        Ok(Self { entrance, workers, expiry })
    }

    /// A new connection's way in.
    pub(in crate::server) fn lane(&self, key: ConnectionKey, peer: SocketAddr) -> Lane {
        Lane::new(Arc::clone(&self.entrance), key, peer)
    }

    /// Ends uploads that have lost the right to go on, and drops those that nobody has touched for their time to
    /// live, or whose token is over. On a thread of its own, because it waits for the disk; one at a time, however
    /// long that is.
    pub(in crate::server) fn expire(&self, running: Duration) {
        if self.expiry.is_looking() {
            return;
        }
        let (shared, expiry) = (Arc::clone(&self.entrance.shared), Arc::clone(&self.expiry));
        let spawned = std::thread::Builder::new().name("expire".into()).spawn(move || {
            let began = Instant::now();
            expiry.look(&shared, running);
            while expiry.must_look_again() {
                expiry.look(&shared, running.saturating_add(began.elapsed()));
            }
        });
        if let Err(error) = spawned {
            *lock(&self.expiry.looking) = Looking::No;
            warn!(%error, "cannot look for expired uploads now; trying again later");
        }
    }

    /// Does what waits, and ends the threads.
    pub(in crate::server) fn finish(self) {
        self.workers.finish();
        self.entrance.shared.committer.finish();
    }
}

impl Expiry {
    /// Whether a thread is at it, which then looks once more. If not, whoever asks has to see to it.
    fn is_looking(&self) -> bool {
        let mut looking = lock(&self.looking);
        let was = *looking;
        *looking = if was == Looking::No { Looking::Yes } else { Looking::Again };
        was != Looking::No
    }

    fn must_look_again(&self) -> bool {
        let mut looking = lock(&self.looking);
        let was = *looking;
        *looking = if was == Looking::Again { Looking::Yes } else { Looking::No };
        was == Looking::Again
    }

    fn look(&self, shared: &Shared, running: Duration) {
        shared.transfers.end_lost();
        let expired = shared.store.expire(self.partial_ttl, running);
        shared.transfers.forget_over();
        if expired > 0 {
            info!(expired, "dropped uploads that nobody went on with");
        }
        let Some(tokens) = &self.tokens else { return };
        let owners = shared.store.owners();
        let abandoned = lock(&self.abandoned).look(&owners, |owner| tokens.is_over(owner), running);
        let dropped: usize =
            abandoned.into_iter().map(|owner| shared.store.forget_owner(owner)).sum();
        if dropped > 0 {
            info!(dropped, "dropped unfinished uploads of tokens that are over");
        }
    }
}
