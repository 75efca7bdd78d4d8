//! What a connection fetches: files that are open, sent piece by piece, and their digests.
//!
//! Where the digest is known, the kernel moves the bytes. Where it is not, they are read, sent and
//! hashed in one go while they are in the cache, so that the file is read once. A small file is read
//! whole when it is opened, and answered with all that there is to say of it.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use ftx_disk::hash::Running;
use ftx_disk::store::{self, Remembered, Unchanged};
use ftx_protocol::limits::WHOLE_BYTES;
use ftx_protocol::message::{Cache, File, Get, Info, List, Spent, Stat};
use ftx_protocol::server::Event;
use ftx_protocol::{Algorithm, Code, Digest, Kind, Name, Refusal, RequestId};
use tracing::error;

use super::audit::Came;
use super::body::{Step, ended_early, read_to_grid, remember, send, timed, write};
use super::committer::microseconds;
use super::directory::Shared;
use super::listing::{self, OpenList};
use super::workers::{Ahead, Hand, Worked};
use super::{Granted, Job, Origin, Outcome, Reading, SendEnd, WORTH_TELLING, audit};
use crate::server::stream::Stream;

/// Bytes hashed without sending, before the other strands have their turn.
const HASH_TURN_BYTES: u64 = 64 * 1024 * 1024;

/// The hand of the strand.
pub(super) struct Fetch {
    shared: Arc<Shared>,
    origin: Origin,
    gets: HashMap<RequestId, Open>,
    lists: HashMap<RequestId, OpenList>,
    /// Answers about files that were opened, to be said in one go: small files come in runs.
    opened: Vec<Outcome>,
}

/// A get whose file is open.
struct Open {
    name: Name,
    granted: Granted,
    reading: Reading,
    algorithm: Algorithm,
    cache: Cache,
    hash: Hash,
    purpose: Purpose,
    began: Instant,
    spent: store::Spent,
    /// Bytes of it that the socket took.
    sent: u64,
    told: Told,
}

/// What a file is open for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To be sent, and its digest.
    Get,
    /// Its digest.
    Sum,
}

/// Whether the line in the log is written that says what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    No,
    Yes,
}

/// What is known of the digest of an open file.
enum Hash {
    Known(Digest),
    /// Up to some offset. Bytes before it are sent without a look, bytes at it are hashed.
    Running(Box<Running>),
}

impl Fetch {
    pub(super) fn new(shared: Arc<Shared>, origin: Origin) -> Self {
        Self { shared, origin, gets: HashMap::new(), lists: HashMap::new(), opened: Vec::new() }
    }

    fn open(&mut self, get: &Get, granted: Granted, scratch: &mut [u8]) {
        let began = Instant::now();
        let outcome = self.try_open(get, granted).and_then(|(file, mut open)| {
            let left = file.size.saturating_sub(file.at);
            if !open.is_read_whole(file.at, left) {
                return Ok(self.keep(file, open));
            }
            match self.shared.room.claim(usize::try_from(left).unwrap_or(usize::MAX)) {
                Some(claim) => {
                    let event = open.read_whole(&self.shared, &self.origin, file, scratch)?;
                    Ok(Outcome::Whole { event, claim })
                }
                None => Ok(self.keep(file, open)),
            }
        });
        let outcome = outcome.unwrap_or_else(|refusal| {
            audit::refused(&self.origin, "get", &get.name, Came::Nowhere, &refusal, began);
            Outcome::Event(Event::Refused { id: get.id, refusal })
        });
        self.opened.push(outcome);
    }

    /// Keeps a file open, to be sent piece by piece.
    fn keep(&mut self, file: File, open: Open) -> Outcome {
        self.gets.insert(file.id, open);
        Outcome::Event(Event::Opened(file))
    }

    fn say_opened(&mut self) {
        if !self.opened.is_empty() {
            self.shared.outcomes.push_run(self.origin.key, std::mem::take(&mut self.opened));
        }
    }

    fn try_open(&self, get: &Get, granted: Granted) -> Result<(File, Open), Refusal> {
        let reading = self.shared.store.open_file(&get.name, granted.within())?;
        let version = reading.version();
        if get.version.as_ref().is_some_and(|asked| *asked != version) {
            return Err(Code::VersionMismatch.into());
        }
        if get.at > reading.size() {
            let message = format!("the file has {} bytes", reading.size());
            return Err(Refusal::new(Code::BadOffset, message));
        }
        let hash = self.hash(&reading, get.digest, get.cache);
        let file = File {
            id: get.id,
            size: reading.size(),
            at: get.at,
            version,
            mtime: reading.modified(),
            mode: reading.mode(),
        };
        let open = Open {
            name: get.name.clone(),
            granted,
            reading,
            algorithm: get.digest,
            cache: get.cache,
            hash,
            purpose: Purpose::Get,
            began: Instant::now(),
            spent: store::Spent::default(),
            sent: 0,
            told: Told::No,
        };
        Ok((file, open))
    }

    fn hash(&self, reading: &Reading, algorithm: Algorithm, cache: Cache) -> Hash {
        let (digests, identity) = (self.shared.store.digests(), reading.identity());
        let running = match cache {
            Cache::Use => match digests.digest(identity, algorithm) {
                Some(digest) => return Hash::Known(digest),
                None => digests.partial(identity, algorithm),
            },
            Cache::Bypass => None,
        };
        Hash::Running(Box::new(running.unwrap_or_else(|| Running::new(algorithm))))
    }

    /// Says what a name stands for, with the digest of a file.
    fn sum(&mut self, stat: Stat, granted: Granted) -> Worked {
        let Stat { id, name, digest, cache, .. } = stat;
        let Some(algorithm) = digest else {
            self.shared.stat(&self.origin, "sum", id, &name, &granted);
            return Worked::Done;
        };
        let began = Instant::now();
        let reading = match self.shared.store.open_file(&name, granted.within()) {
            Ok(reading) => reading,
            Err(refusal) => {
                let found = self.shared.directory(&name, &granted, refusal);
                self.shared.tell(&self.origin, "sum", id, &name, began, found);
                return Worked::Done;
            }
        };
        let hash = self.hash(&reading, algorithm, cache);
        let open = Open {
            name,
            granted,
            reading,
            algorithm,
            cache,
            hash,
            purpose: Purpose::Sum,
            began,
            spent: store::Spent::default(),
            sent: 0,
            told: Told::No,
        };
        self.gets.insert(id, open);
        Worked::Unfinished(Job::Digest(id))
    }

    fn list(&mut self, list: List, granted: Granted) {
        let began = Instant::now();
        let (name, share) = (list.name.as_ref(), self.shared.lists.of(&self.origin));
        match self.shared.store.list(name, list.depth, granted.within(), &share) {
            Ok(listing) => {
                self.lists.insert(list.id, OpenList::new(list.name, granted, listing));
                self.more(list.id);
            }
            Err(refusal) => {
                let shown = listing::shown(list.name.as_ref());
                audit::refused(&self.origin, "list", &shown, Came::Nowhere, &refusal, began);
                let event = Event::Refused { id: list.id, refusal };
                self.shared.outcomes.push_event(self.origin.key, event);
            }
        }
    }

    fn more(&mut self, id: RequestId) {
        if let Some(list) = self.lists.get_mut(&id) {
            self.shared.outcomes.push_event(self.origin.key, list.next(id, &self.origin));
        }
    }

    fn send(&mut self, id: RequestId, at: u64, size: u64, stream: &Stream, scratch: &mut [u8]) {
        let mut count: u64 = 0;
        let mut refusal = self.gets.get(&id).and_then(|open| open.granted.check().err());
        let end = loop {
            if refusal.is_some() {
                break SendEnd::Short;
            }
            let left = size.saturating_sub(count);
            if left == 0 {
                break SendEnd::Complete;
            }
            let Some(open) = self.gets.get_mut(&id) else { break SendEnd::Short };
            match open.step(&self.shared, at.saturating_add(count), left, stream, scratch) {
                Step::Sent(sent) => count = count.saturating_add(sent),
                Step::Short(why) => refusal = Some(why),
                Step::Socket(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Step::Socket(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    break SendEnd::Blocked;
                }
                Step::Socket(_) => break SendEnd::Broken,
            }
        };
        if let Some(open) = self.gets.get_mut(&id) {
            open.sent = open.sent.saturating_add(count);
        }
        if let Some(refusal) = refusal {
            self.refuse(id, refusal);
        }
        self.shared.outcomes.push(self.origin.key, Outcome::Sent { count, end });
    }

    fn digest(&mut self, id: RequestId, scratch: &mut [u8]) -> Worked {
        let Some(open) = self.gets.get_mut(&id) else { return Worked::Done };
        let hashed = open.granted.check().and_then(|()| open.finish_hash(&self.shared, scratch));
        match hashed {
            Ok(None) => return Worked::Unfinished(Job::Digest(id)),
            Ok(Some(digest)) => {
                open.log(&self.origin, digest);
                open.told = Told::Yes;
                let event = match open.purpose {
                    Purpose::Get => Event::Digest { id, digest, spent: open.spent_worth_telling() },
                    Purpose::Sum => Event::Info(open.info(id, digest)),
                };
                self.shared.outcomes.push_event(self.origin.key, event);
            }
            Err(refusal) => {
                self.refuse(id, refusal);
            }
        }
        // Nobody closes what was opened only for its digest.
        if self.gets.get(&id).is_some_and(|open| open.purpose == Purpose::Sum) {
            self.gets.remove(&id);
        }
        Worked::Done
    }

    /// An open file cannot be read, or not any more.
    fn refuse(&mut self, id: RequestId, refusal: Refusal) {
        if let Some(open) = self.gets.get_mut(&id) {
            open.told = Told::Yes;
            let (op, began) = (open.purpose.word(), open.began);
            let came = match open.purpose {
                Purpose::Get => Came::Bytes(open.sent),
                Purpose::Sum => Came::Nowhere,
            };
            audit::refused(&self.origin, op, &open.name, came, &refusal, began);
        }
        self.shared.outcomes.push_event(self.origin.key, Event::Refused { id, refusal });
    }
}

impl Hand for Fetch {
    fn work(&mut self, job: Job, scratch: &mut [u8]) -> Worked {
        if !matches!(job, Job::Open(..)) {
            // It may take long, and nothing has to wait for it.
            self.say_opened();
        }
        match job {
            Job::Open(get, granted) => self.open(&get, granted, scratch),
            Job::Send { id, at, size, stream } => self.send(id, at, size, &stream, scratch),
            Job::Digest(id) => return self.digest(id, scratch),
            Job::Sum(stat, granted) => return self.sum(stat, granted),
            Job::List(list, granted) => self.list(list, granted),
            Job::More(id) => self.more(id),
            Job::Close(id) => {
                if let Some(open) = self.gets.remove(&id) {
                    open.let_go(&self.origin);
                }
                if let Some(list) = self.lists.remove(&id) {
                    list.let_go(&self.origin);
                }
            }
            Job::HangUp => {
                self.gets.drain().for_each(|(_, open)| open.let_go(&self.origin));
                self.lists.drain().for_each(|(_, list)| list.let_go(&self.origin));
            }
            Job::Begin(..)
            | Job::Write { .. }
            | Job::Finish(_)
            | Job::Discard(..)
            | Job::Suspend(_)
            | Job::Resume(..)
            | Job::Stat(..)
            | Job::Change(..) => {}
        }
        Worked::Done
    }

    fn pause(&mut self, _ahead: Ahead) {
        self.say_opened();
    }

    fn is_empty(&self) -> bool {
        self.gets.is_empty() && self.lists.is_empty()
    }
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Sum => "sum",
        }
    }
}

impl Open {
    /// Where the time went.
    fn spent(&self) -> Spent {
        let store::Spent { disk, hash } = self.spent;
        Spent { disk: microseconds(disk), hash: microseconds(hash), sync: 0 }
    }

    fn spent_worth_telling(&self) -> Option<Spent> {
        (self.began.elapsed() >= WORTH_TELLING).then(|| self.spent())
    }

    fn log(&self, origin: &Origin, digest: Digest) {
        let op = self.purpose.word();
        let what = (self.reading.size(), digest);
        audit::read(origin, op, &self.name, what, self.began, self.spent());
    }

    /// Nobody wants the rest of it. That some of it was sent must be in the log all the same.
    fn let_go(self, origin: &Origin) {
        if self.told == Told::No {
            audit::broken_off(origin, self.purpose.word(), &self.name, self.sent, self.began);
        }
    }

    /// Whether so many bytes from `at` on, which are the rest, are read here and now, and then
    /// nothing is left to be hashed.
    fn is_read_whole(&self, at: u64, left: u64) -> bool {
        left <= WHOLE_BYTES
            && match &self.hash {
                Hash::Known(_) => true,
                Hash::Running(running) => running.offset() == at,
            }
    }

    /// Reads the rest of the file; see [`Open::is_read_whole`].
    fn read_whole(
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

    fn info(&self, id: RequestId, digest: Digest) -> Info {
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
    fn step(
        &mut self,
        shared: &Shared,
        at: u64,
        left: u64,
        stream: &Stream,
        scratch: &mut [u8],
    ) -> Step {
        let (reading, disk) = (&self.reading, &mut self.spent.disk);
        let running = match &mut self.hash {
            Hash::Running(running) if running.offset() == at => running,
            Hash::Running(running) if running.offset() > at => {
                let hashed = running.offset().saturating_sub(at);
                return send(reading, at, left.min(hashed), stream, scratch, disk);
            }
            Hash::Running(_) | Hash::Known(_) => {
                return send(reading, at, left, stream, scratch, disk);
            }
        };
        let bytes = match read_to_grid(reading, at, left, scratch, disk) {
            Ok(bytes) => bytes,
            Err(refusal) => return Step::Short(refusal),
        };
        match timed(disk, || write(stream, bytes)) {
            Ok(count) => {
                // Only what was sent: the rest is read again when the socket takes more.
                let sent = bytes.get(..count).unwrap_or_default();
                timed(&mut self.spent.hash, || running.update(sent));
                remember(shared, reading, running);
                Step::Sent(count as u64)
            }
            Err(error) => Step::Socket(error),
        }
    }

    /// Hashes what is left to be hashed, for one turn. `None`: there is more.
    fn finish_hash(
        &mut self,
        shared: &Shared,
        scratch: &mut [u8],
    ) -> Result<Option<Digest>, Refusal> {
        let size = self.reading.size();
        let digest = match &mut self.hash {
            Hash::Known(digest) => *digest,
            Hash::Running(running) => {
                let turn_end = running.offset().saturating_add(HASH_TURN_BYTES).min(size);
                while running.offset() < turn_end {
                    let left = turn_end.saturating_sub(running.offset());
                    let (at, disk) = (running.offset(), &mut self.spent.disk);
                    let bytes = read_to_grid(&self.reading, at, left, scratch, disk)?;
                    timed(&mut self.spent.hash, || running.update(bytes));
                    remember(shared, &self.reading, running);
                }
                if running.offset() < size {
                    return Ok(None);
                }
                running.digest()
            }
        };
        if self.reading.unchanged()? == Unchanged::Changed {
            return Err(Code::Changed.into());
        }
        if let Hash::Running(_) = self.hash {
            let digests = shared.store.digests();
            if digests.remember(self.reading.identity(), digest) == Remembered::Corrupt {
                error!(
                    name = %self.name,
                    %digest,
                    algorithm = %self.algorithm,
                    cache = ?self.cache,
                    "CORRUPTION: this file has other bytes than before, and nothing says that it was \
                     written to; check the disk and the memory of this machine"
                );
            }
        }
        Ok(Some(digest))
    }
}
