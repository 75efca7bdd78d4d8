//! What a connection fetches: files that are open, sent piece by piece, and their digests.
//!
//! Where the digest is known, the kernel moves the bytes. Where it is not, they are read, sent and
//! hashed in one go while they are in the cache, so that the file is read once. A small file is read
//! whole when it is opened, and answered with all that there is to say of it.

mod open;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use ftx_disk::store::Opened;
use ftx_protocol::message::{File, Get, List, Stat};
use ftx_protocol::server::Event;
use ftx_protocol::{Code, Name, Refusal, RequestId, Verb};
use open::{Open, Purpose};

use super::audit::Came;
use super::body::SendStep;
use super::client::Client;
use super::directory::Shared;
use super::listing::OpenList;
use super::workers::{Ahead, Hand, Worked};
use super::{Granted, Job, Origin, Outcome, Reading, SendEnd, audit};
use crate::server::stream::Stream;

pub(super) use open::Told;

/// The hand of the strand.
pub(super) struct Fetch {
    shared: Arc<Shared>,
    origin: Origin,
    gets: HashMap<RequestId, Open>,
    /// As many as there are of these, of its share.
    files: Opened,
    lists: HashMap<RequestId, OpenList>,
    /// Answers about files that were opened, to be said in one go: small files come in runs.
    opened: Vec<Outcome>,
}

impl Fetch {
    pub(super) fn new(shared: Arc<Shared>, origin: Origin) -> Self {
        let files = Opened::under(shared.shares.files(origin.network()));
        Self {
            shared,
            origin,
            gets: HashMap::new(),
            files,
            lists: HashMap::new(),
            opened: Vec::new(),
        }
    }

    fn open_file(&mut self, name: &Name, granted: &Granted) -> Result<Reading, Refusal> {
        match self.files.take() {
            true => self.shared.store.open_file(name, granted.within.as_ref()),
            false => Err(Refusal::new(Code::Busy, "too many files are being read")),
        }
    }

    fn open(&mut self, get: &Get, granted: Granted, scratch: &mut [u8]) {
        let began = Instant::now();
        let outcome = self.try_open(get, granted, began).and_then(|(file, mut open)| {
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
            audit::refused(&self.origin, Verb::Get, &get.name, Came::Nowhere, &refusal, began);
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

    fn try_open(
        &mut self,
        get: &Get,
        granted: Granted,
        began: Instant,
    ) -> Result<(File, Open), Refusal> {
        let reading = self.open_file(&get.name, &granted)?;
        let version = reading.version();
        if get.version.as_ref().is_some_and(|asked| *asked != version) {
            return Err(Code::VersionMismatch.into());
        }
        if get.at > reading.size() {
            let message = format!("the file has {} bytes", reading.size());
            return Err(Refusal::new(Code::BadOffset, message));
        }
        let file = File {
            id: get.id,
            size: reading.size(),
            at: get.at,
            version,
            mtime: reading.modified(),
            mode: reading.mode(),
        };
        let purpose = Purpose::Get { at: get.at, sent: 0 };
        let (shared, name, wanted) = (&self.shared, get.name.clone(), (get.digest, get.cache));
        Ok((file, Open::new(shared, name, granted, reading, wanted, purpose, began)))
    }

    /// Says what a name stands for, with the digest of a file.
    fn sum(&mut self, stat: Stat, granted: Granted) -> Worked {
        let Stat { id, name, digest, cache, .. } = stat;
        let Some(algorithm) = digest else {
            self.shared.stat(&self.origin, Verb::Sum, id, &name, &granted);
            return Worked::Done;
        };
        let began = Instant::now();
        let reading = match self.open_file(&name, &granted) {
            Ok(reading) => reading,
            Err(refusal) => {
                let found = self.shared.directory(&name, &granted, refusal);
                self.shared.tell(&self.origin, Verb::Sum, id, &name, began, found);
                return Worked::Done;
            }
        };
        let (shared, wanted) = (&self.shared, (algorithm, cache));
        let open = Open::new(shared, name, granted, reading, wanted, Purpose::Sum, began);
        self.gets.insert(id, open);
        Worked::Unfinished(Job::Digest(id))
    }

    fn list(&mut self, list: List, granted: Granted) {
        let began = Instant::now();
        let (client, from) = (Client::of(&self.origin), self.origin.network());
        let limit = self.shared.shares.directories(client, from);
        let name = list.name.as_ref();
        match self.shared.store.list(name, list.depth, granted.within.as_ref(), &limit) {
            Ok(listing) => {
                self.lists.insert(list.id, OpenList::new(list.name, granted, listing));
                self.more(list.id);
            }
            Err(refusal) => {
                let name = audit::directory(list.name.as_ref());
                audit::refused(&self.origin, Verb::List, name, Came::Nowhere, &refusal, began);
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

    fn send(&mut self, part: Part, stream: &Stream, scratch: &mut [u8]) {
        let Part { id, at, size, rest } = part;
        // What was announced is sent: zeros in its place would be taken for bytes of the file by whoever comes back
        // with another right.
        let lost = self.gets.get(&id).and_then(|open| open.granted.check().err());
        let mut count: u64 = 0;
        let mut unreadable = None;
        let end = loop {
            let left = size.saturating_sub(count);
            if left == 0 {
                break SendEnd::Complete;
            }
            let Some(open) = self.gets.get_mut(&id) else { break SendEnd::Short };
            match open.step(&self.shared, at.saturating_add(count), left, stream, scratch) {
                SendStep::Sent(sent) => count = count.saturating_add(sent),
                SendStep::Short(why) => {
                    unreadable = Some(why);
                    break SendEnd::Short;
                }
                SendStep::Socket(error) if error.kind() == io::ErrorKind::Interrupted => {}
                SendStep::Socket(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    break SendEnd::Blocked;
                }
                SendStep::Socket(_) => break SendEnd::Broken,
            }
        };
        if let Some(open) = self.gets.get_mut(&id) {
            open.purpose.count(count);
        }
        let is_over = matches!(end, SendEnd::Complete) && rest == 0;
        let sent = Outcome::Sent { count, end };
        let outcomes = match (unreadable, lost) {
            (Some(refusal), _) => vec![self.refused(id, refusal), sent],
            // Together: no further part is announced in between.
            (None, Some(refusal)) if is_over => vec![sent, self.refused(id, refusal)],
            (None, _) => vec![sent],
        };
        self.shared.outcomes.push_run(self.origin.key, outcomes);
    }

    fn digest(&mut self, id: RequestId, scratch: &mut [u8]) -> Worked {
        let Some(open) = self.gets.get_mut(&id) else { return Worked::Done };
        if open.told == Told::Yes {
            // It was refused with its last bytes.
            return Worked::Done;
        }
        let hashed = open.granted.check().and_then(|()| open.finish_hash(&self.shared, scratch));
        match hashed {
            Ok(None) => return Worked::Unfinished(Job::Digest(id)),
            Ok(Some(digest)) => {
                open.log(&self.origin, digest);
                open.told = Told::Yes;
                let event = match open.purpose {
                    Purpose::Get { .. } => {
                        Event::Digest { id, digest, spent: open.spent_worth_telling() }
                    }
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
        let refused = self.refused(id, refusal);
        self.shared.outcomes.push(self.origin.key, refused);
    }

    /// Writes down that a get is refused, and says so.
    fn refused(&mut self, id: RequestId, refusal: Refusal) -> Outcome {
        if let Some(open) = self.gets.get_mut(&id) {
            open.told = Told::Yes;
            let (verb, began) = (open.purpose.verb(), open.began);
            let came = match open.purpose {
                Purpose::Get { sent, .. } => Came::Bytes(sent),
                Purpose::Sum => Came::Nowhere,
            };
            audit::refused(&self.origin, verb, &open.name, came, &refusal, began);
        }
        Outcome::Event(Event::Refused { id, refusal })
    }
}

/// Bytes of a part that are to be sent now.
struct Part {
    id: RequestId,
    at: u64,
    size: u64,
    /// Of the same part, after these.
    rest: u64,
}

impl Fetch {
    fn act(&mut self, job: Job, scratch: &mut [u8]) -> Worked {
        if !matches!(job, Job::Open(..)) {
            // It may take long, and nothing has to wait for it.
            self.say_opened();
        }
        match job {
            Job::Open(get, granted) => self.open(&get, granted, scratch),
            Job::Send { id, at, size, rest, stream } => {
                self.send(Part { id, at, size, rest }, &stream, scratch);
            }
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
}

impl Hand for Fetch {
    fn work(&mut self, job: Job, scratch: &mut [u8]) -> Worked {
        let worked = self.act(job, scratch);
        // What was not kept open was counted, too.
        self.files.keep(self.gets.len());
        worked
    }

    fn pause(&mut self, _ahead: Ahead) {
        self.say_opened();
    }

    fn is_empty(&self) -> bool {
        self.gets.is_empty() && self.lists.is_empty()
    }
}
