//! A file that is open to be fetched: its bytes, sent in pieces or read whole, and its digest.

use std::time::Instant;

use ftx_disk::hash::Running;
use ftx_disk::identity::Identity;
use ftx_disk::store::{self, Remembered, Unchanged};
use ftx_disk::timed::timed;
use ftx_protocol::limits::WHOLE_BYTES;
use ftx_protocol::message::{Cache, File, Info, Spent};
use ftx_protocol::server::Event;
use ftx_protocol::{Algorithm, Code, Digest, Kind, Name, Refusal, RequestId, Verb};
use tracing::error;

use crate::server::storage::body::{SendStep, ended_early, read_to_grid, remember, send, write};
use crate::server::storage::committer::microseconds;
use crate::server::storage::directory::Shared;
use crate::server::storage::{Granted, Origin, Reading, WORTH_TELLING, audit};
use crate::server::stream::Stream;

/// Bytes hashed without sending, before other jobs of the connection and the other strands have their turn: as many
/// as are sent in one, so that a get is not kept waiting by digests.
const HASH_TURN_BYTES: u64 = 1024 * 1024;

/// A get whose file is open.
pub(super) struct Open {
    pub(super) name: Name,
    pub(super) granted: Granted,
    reading: Reading,
    algorithm: Algorithm,
    cache: Cache,
    hash: Hash,
    pub(super) purpose: Purpose,
    pub(super) began: Instant,
    spent: store::Spent,
    pub(super) told: Told,
}

/// What a file is open for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be sent, and its digest.
    Get {
        /// Where what is sent of it begins.
        at: u64,
        /// Bytes that the socket took.
        sent: u64,
    },
    /// Its digest.
    Sum,
}

/// Whether the line in the log is written that says what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server::storage) enum Told {
    No,
    Yes,
}

/// What is known of the digest of an open file.
enum Hash {
    Known(Digest),
    /// Up to some offset. Bytes before it are sent without a look, bytes at it are hashed.
    Running(Box<Running>),
    /// All of it was hashed, and may have been written to meanwhile: it is read once more.
    Again(Box<Again>),
}

/// A file that is read once more: what was sent of it is sound if all of it is the same now.
struct Again {
    first: Digest,
    /// What it was after that.
    then: Identity,
    running: Running,
}

impl Purpose {
    pub(super) fn verb(self) -> Verb {
        match self {
            Self::Get { .. } => Verb::Get,
            Self::Sum => Verb::Sum,
        }
    }

    /// Counts bytes that the socket took.
    pub(super) fn count(&mut self, bytes: u64) {
        if let Self::Get { sent, .. } = self {
            *sent = sent.saturating_add(bytes);
        }
    }
}

impl Hash {
    fn known_of(shared: &Shared, reading: &Reading, algorithm: Algorithm, cache: Cache) -> Self {
        let (digests, identity) = (shared.store.digests(), reading.identity());
        let running = match cache {
            Cache::Use => match digests.digest(identity, algorithm) {
                Some(digest) => return Self::Known(digest),
                None => digests.partial(identity, algorithm),
            },
            Cache::Bypass => None,
        };
        Self::Running(Box::new(running.unwrap_or_else(|| Running::new(algorithm))))
    }
}

impl Open {
    /// A file that was just opened. Its digest is wanted of this algorithm, and may be a remembered one or not.
    pub(super) fn new(
        shared: &Shared,
        name: Name,
        granted: Granted,
        reading: Reading,
        (algorithm, cache): (Algorithm, Cache),
        purpose: Purpose,
        began: Instant,
    ) -> Self {
        let hash = Hash::known_of(shared, &reading, algorithm, cache);
        Self {
            name,
            granted,
            reading,
            algorithm,
            cache,
            hash,
            purpose,
            began,
            spent: store::Spent::default(),
            told: Told::No,
        }
    }

    /// Where the time went.
    fn spent(&self) -> Spent {
        let store::Spent { disk, hash } = self.spent;
        Spent { disk: microseconds(disk), hash: microseconds(hash), sync: 0 }
    }

    pub(super) fn spent_worth_telling(&self) -> Option<Spent> {
        (self.began.elapsed() >= WORTH_TELLING).then(|| self.spent())
    }

    pub(super) fn log(&self, origin: &Origin, digest: Digest) {
        let at = match self.purpose {
            Purpose::Get { at, .. } => at,
            Purpose::Sum => 0,
        };
        let bytes = self.reading.size().saturating_sub(at);
        let (verb, spent) = (self.purpose.verb(), self.spent());
        audit::read(origin, verb, &self.name, (at, bytes, digest), self.began, spent);
    }

    /// Nobody wants the rest of it. That some of it was sent must be in the log all the same.
    pub(super) fn let_go(self, origin: &Origin) {
        if self.told == Told::No {
            let sent = match self.purpose {
                Purpose::Get { sent, .. } => sent,
                Purpose::Sum => 0,
            };
            audit::broken_off(origin, self.purpose.verb(), &self.name, sent, self.began);
        }
    }

    /// Whether so many bytes from `at` on, which are the rest, are read here and now, and then
    /// nothing is left to be hashed.
    pub(super) fn is_read_whole(&self, at: u64, left: u64) -> bool {
        left <= WHOLE_BYTES
            && match &self.hash {
                Hash::Known(_) => true,
                Hash::Running(running) => running.offset() == at,
                Hash::Again(_) => false,
            }
    }

    /// Reads the rest of the file; see [`Open::is_read_whole`].
    pub(super) fn read_whole(
        &mut self,
        shared: &Shared,
        origin: &Origin,
        file: File,
        scratch: &mut [u8],
    ) -> Result<Event, Refusal> {
        let left = usize::try_from(file.size.saturating_sub(file.at)).unwrap_or(usize::MAX);
        let mut bytes = Vec::with_capacity(left.min(scratch.len()));
        while bytes.len() < left {
            let at = file.at.saturating_add(bytes.len() as u64);
            let room = scratch.len().min(left.saturating_sub(bytes.len()));
            let room = scratch.get_mut(..room).unwrap_or_default();
            let count = timed(&mut self.spent.disk, || self.reading.read_at(room, at))?;
            if count == 0 {
                return Err(ended_early());
            }
            bytes.extend_from_slice(room.get(..count).unwrap_or_default());
        }
        if let Hash::Running(running) = &mut self.hash {
            timed(&mut self.spent.hash, || running.update(&bytes));
        }
        let Some(digest) = self.finish_hash(shared, scratch)? else { return Err(ended_early()) };
        self.log(origin, digest);
        Ok(Event::Whole { file, bytes, digest, spent: self.spent_worth_telling() })
    }

    pub(super) fn info(&self, id: RequestId, digest: Digest) -> Info {
        Info {
            id,
            kind: Kind::File,
            size: self.reading.size(),
            mtime: self.reading.modified(),
            mode: self.reading.mode(),
            version: Some(self.reading.version()),
            digest: Some(digest),
        }
    }

    /// Sends some bytes from `at` on, by the way that fits what is known of the digest.
    pub(super) fn step(
        &mut self,
        shared: &Shared,
        at: u64,
        left: u64,
        stream: &Stream,
        scratch: &mut [u8],
    ) -> SendStep {
        let (reading, disk) = (&self.reading, &mut self.spent.disk);
        let running = match &mut self.hash {
            Hash::Running(running) if running.offset() == at => running,
            Hash::Running(running) if running.offset() > at => {
                let hashed = running.offset().saturating_sub(at);
                return send(reading, at, left.min(hashed), stream, scratch, disk);
            }
            Hash::Running(_) | Hash::Known(_) | Hash::Again(_) => {
                return send(reading, at, left, stream, scratch, disk);
            }
        };
        let bytes = match read_to_grid(reading, at, left, scratch, disk) {
            Ok(bytes) => bytes,
            Err(refusal) => return SendStep::Short(refusal),
        };
        match timed(disk, || write(stream, bytes)) {
            Ok(count) => {
                // Only what was sent: the rest is read again when the socket takes more.
                let sent = bytes.get(..count).unwrap_or_default();
                timed(&mut self.spent.hash, || running.update(sent));
                remember(shared, reading, running);
                SendStep::Sent(count as u64)
            }
            Err(error) => SendStep::Socket(error),
        }
    }

    /// Hashes what is left to be hashed, for one turn. `None`: there is more.
    pub(super) fn finish_hash(
        &mut self,
        shared: &Shared,
        scratch: &mut [u8],
    ) -> Result<Option<Digest>, Refusal> {
        let mut turn_bytes = HASH_TURN_BYTES;
        loop {
            let digest = match &mut self.hash {
                Hash::Known(digest) => Some(*digest),
                Hash::Running(running) => {
                    let hashed = |running: &_| remember(shared, &self.reading, running);
                    let rest = (&mut turn_bytes, &mut self.spent);
                    hash_rest(&self.reading, running, rest, scratch, hashed)?
                }
                Hash::Again(again) => {
                    let rest = (&mut turn_bytes, &mut self.spent);
                    hash_rest(&self.reading, &mut again.running, rest, scratch, |_| ())?
                }
            };
            let Some(digest) = digest else { return Ok(None) };
            match (&self.hash, self.reading.unchanged()?) {
                (_, Unchanged::Changed) => return Err(Code::Changed.into()),
                // Whoever gets it compares it with what was known before.
                (Hash::Known(_), Unchanged::Same | Unchanged::Touched(_)) => {}
                (Hash::Running(_), Unchanged::Same) => self.remember(shared, digest),
                (Hash::Running(_), Unchanged::Touched(then)) => {
                    let running = Running::new(self.algorithm);
                    self.hash = Hash::Again(Box::new(Again { first: digest, then, running }));
                    continue;
                }
                (Hash::Again(again), Unchanged::Touched(now))
                    if now == again.then && digest == again.first => {}
                (Hash::Again(_), Unchanged::Same | Unchanged::Touched(_)) => {
                    return Err(Code::Changed.into());
                }
            }
            return Ok(Some(digest));
        }
    }

    fn remember(&self, shared: &Shared, digest: Digest) {
        let digests = shared.store.digests();
        if digests.remember(self.reading.seen(), digest) == Remembered::Corrupt {
            error!(
                name = %audit::Word(&self.name),
                %digest,
                algorithm = %self.algorithm,
                cache = ?self.cache,
                "CORRUPTION: this file has other bytes than before, and nothing says that it was \
                 written to; check the disk and the memory of this machine"
            );
        }
    }
}

/// Brings a digest to the end of a file, as far as the turn goes. `None`: there is more.
fn hash_rest(
    reading: &Reading,
    running: &mut Running,
    (turn_bytes, spent): (&mut u64, &mut store::Spent),
    scratch: &mut [u8],
    hashed: impl Fn(&Running),
) -> Result<Option<Digest>, Refusal> {
    while running.offset() < reading.size() {
        if *turn_bytes == 0 {
            return Ok(None);
        }
        let at = running.offset();
        let left = reading.size().saturating_sub(at).min(*turn_bytes);
        let bytes = read_to_grid(reading, at, left, scratch, &mut spent.disk)?;
        timed(&mut spent.hash, || running.update(bytes));
        *turn_bytes = turn_bytes.saturating_sub(bytes.len() as u64);
        hashed(running);
    }
    Ok(Some(running.digest()))
}
