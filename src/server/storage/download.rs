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
        // It may have waited for a worker since it was granted.
        granted.check()?;
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
        let limits = self.shared.shares.lists(client, from);
        let name = list.name.as_ref();
        let (store, within) = (&self.shared.store, granted.within.as_ref());
        let listing = granted.check().and_then(|()| store.list(name, list.depth, within, &limits));
        match listing {
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};
    use std::path::Path;

    use ftx_protocol::message::{Cache, Resume};
    use ftx_protocol::server::Behind;
    use ftx_protocol::{Algorithm, Depth, Digest};
    use mio::{Poll, Token, Waker};

    use super::super::upload::Bring;
    use super::super::upload::tests::{put, shared_with};
    use super::super::{ConnectionKey, Outcomes};
    use super::*;
    use crate::server::access::testing::{State, granted, line};
    use crate::server::access::{Operation, Rights, Tokens, Who};
    use crate::server::network::Network;

    /// One job of each kind that tells or begins something, with the grant that it has by now.
    fn each_kind(shared: &Shared, tokens: &Arc<Tokens>) -> Vec<Job> {
        let (id, name) = (RequestId(1), Name::parse(b"file").unwrap());
        let (digest, cache) = (Algorithm::Sha256, Cache::Use);
        let granted = |operation: &_| granted(tokens, 1, operation);
        let get = Get { id, name: name.clone(), digest, at: 0, version: None, cache, need: vec![] };
        let stat = || Stat { id, ..Stat::of(name.clone()) };
        let sum = || Stat { digest: Some(digest), ..stat() };
        let nowhere = Name::parse(b"nowhere").unwrap();
        let list = List { id, name: Some(nowhere.clone()), depth: Depth::One, need: vec![] };
        let resume = Resume { id, transfer: put(1).transfer, need: vec![] };
        let begun = put(1);
        let begins = Operation::Put { name: &name, condition: &begun.condition };
        let place = shared.places.take(Network::OwnMachine).unwrap();
        vec![
            Job::Open(get, granted(&Operation::Get(&name))),
            Job::Sum(sum(), granted(&Operation::Sum(&name))),
            Job::Sum(stat(), granted(&Operation::Stat(&name))),
            Job::Stat(stat(), granted(&Operation::Stat(&name))),
            Job::List(list, granted(&Operation::List(Some(&nowhere)))),
            Job::Resume(resume, granted(&Operation::Resume)),
            Job::Begin(put(1), Behind::Nothing, granted(&begins), place),
        ]
    }

    /// What a worker answers to each.
    fn answers(shared: &Arc<Shared>, jobs: Vec<Job>) -> Vec<Option<Code>> {
        let key = ConnectionKey::new(0, 0, 1);
        let origin = || Origin { key, peer: ([127, 0, 0, 1], 1).into(), who: Who::Nobody };
        let mut scratch = [0; 16];
        jobs.into_iter()
            .map(|job| {
                let (mut fetch, mut bring);
                let hand: &mut dyn Hand = match &job {
                    Job::Stat(..) | Job::Resume(..) | Job::Begin(..) => {
                        bring = Bring::new(Arc::clone(shared), origin());
                        &mut bring
                    }
                    _ => {
                        fetch = Fetch::new(Arc::clone(shared), origin());
                        &mut fetch
                    }
                };
                hand.work(job, &mut scratch);
                hand.pause(Ahead::Nothing);
                shared.outcomes.take(0).into_iter().find_map(|(_, outcome)| match outcome {
                    Outcome::Event(Event::Refused { refusal, .. }) => Some(refusal.code),
                    _ => None,
                })
            })
            .collect()
    }

    fn world(directory: &Path) -> (Arc<Shared>, State, Arc<Tokens>) {
        std::fs::write(directory.join("file"), "x").unwrap();
        let waker = Waker::new(Poll::new().unwrap().registry(), Token(0)).unwrap();
        let shared = shared_with(directory, Arc::new(Outcomes::new(&[Arc::new(waker)])));
        let state = State::new();
        state.add(line(1, Rights::ALL, None));
        let tokens = state.tokens();
        (shared, state, tokens)
    }

    /// A worker comes to it late: behind a slow disk, say.
    #[test]
    fn what_waits_until_its_token_is_gone_is_neither_opened_nor_told() {
        let directory = tempfile::tempdir().unwrap();
        let (shared, state, tokens) = world(directory.path());
        let _watch = tokens.watch(|| {}).unwrap();
        let good = answers(&shared, each_kind(&shared, &tokens));
        assert_eq!(good, [None, None, None, None, Some(Code::NotFound), None, None]);
        let wait = each_kind(&shared, &tokens);
        state.change(Vec::clear);
        assert_eq!(answers(&shared, wait), [Some(Code::Denied); 7]);
        shared.committer.finish();
    }

    /// What is written to the log meanwhile.
    fn logged(act: impl FnOnce()) -> String {
        let mut log = tempfile::tempfile().unwrap();
        let writer = Arc::new(log.try_clone().unwrap());
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).finish();
        tracing::subscriber::with_default(subscriber, act);
        let mut text = String::new();
        log.rewind().unwrap();
        log.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn a_name_is_one_word_where_corruption_is_told_of_too() {
        let directory = tempfile::tempdir().unwrap();
        let (shared, _state, _tokens) = world(directory.path());
        std::fs::write(directory.path().join("x who=root"), "x").unwrap();
        let name = Name::parse(b"x who=root").unwrap();
        // What it had before, when it was known for long enough.
        let before = Digest { algorithm: Algorithm::Sha256, bytes: [1; 32] };
        let digests = shared.store.digests();
        while digests
            .digest(shared.store.open_file(&name, None).unwrap().identity(), before.algorithm)
            .is_none()
        {
            digests.remember(shared.store.open_file(&name, None).unwrap().seen(), before);
        }
        let (digest, cache) = (before.algorithm, Cache::Bypass);
        let get = Get { id: RequestId(1), name, digest, at: 0, version: None, cache, need: vec![] };
        let log = logged(|| drop(answers(&shared, vec![Job::Open(get, Granted::default())])));
        let line = log.lines().find(|line| line.contains("CORRUPTION")).unwrap();
        assert!(line.contains(r"name=x\x20who=root"), "{line}");
        shared.committer.finish();
    }
}
