//! A storage that remembers what it was asked, and answers as it is told to.

use std::collections::{BTreeMap, VecDeque};

use ftx_protocol::limits::WHOLE_BYTES;
use ftx_protocol::message::{
    Change, Done, End, Entries, Entry, File, Get, Held, HeldState, Info, Kept, List, Okay, Stat,
};
use ftx_protocol::server::{Command, Event, Work};
use ftx_protocol::{
    Algorithm, Code, Digest, Durability, FileTime, Kind, Mode, Name, RequestId, Version,
};

use super::order::{Names, Order};
use super::peer::Asked;

#[derive(Default)]
pub(super) struct Storage {
    questions: VecDeque<Question>,
    puts: BTreeMap<RequestId, Put>,
    connection: Connection,
    honesty: Honesty,
    token: Token,
    order: Order,
    /// Bytes of files that were handed over whole.
    pub(super) whole_bytes: usize,
}

#[derive(Default, PartialEq, Eq)]
enum Connection {
    #[default]
    Open,
    /// Nobody may ask anything.
    TurnedAway,
    HungUp,
}

#[derive(Default, PartialEq, Eq)]
enum Honesty {
    #[default]
    Honest,
    /// It has answered what it was not asked.
    Lied,
}

/// The token of the connection.
#[derive(Default, PartialEq, Eq)]
enum Token {
    #[default]
    Good,
    /// It is over, and this was the last request before that.
    Over(Option<RequestId>),
}

enum Question {
    Finish(End),
    Resume(RequestId),
    Stat(Stat),
    List(List),
    More(RequestId),
    Change(Change),
    Open(Get),
    Digest(RequestId),
}

impl Question {
    fn id(&self) -> RequestId {
        match self {
            Self::Finish(end) => end.id,
            Self::Resume(id) | Self::More(id) | Self::Digest(id) => *id,
            Self::Stat(stat) => stat.id,
            Self::List(list) => list.id,
            Self::Change(change) => change.id(),
            Self::Open(get) => get.id,
        }
    }

    /// The names whose turn has come when it is asked. Those of a put are known since it began.
    fn names(&self) -> Option<Names> {
        Some(match self {
            Self::Stat(stat) => Names::Of(vec![stat.name.clone()]),
            Self::List(List { name: Some(name), .. }) => Names::Of(vec![name.clone()]),
            Self::List(List { name: None, .. }) => Names::Root,
            Self::Change(change) => {
                let (name, other) = change.names();
                Names::Of([Some(name), other].into_iter().flatten().cloned().collect())
            }
            Self::Open(get) => Names::Of(vec![get.name.clone()]),
            Self::Finish(_) | Self::Resume(_) | Self::More(_) | Self::Digest(_) => return None,
        })
    }
}

enum Put {
    Open {
        at: u64,
        kept: u64,
    },
    /// Its body is closed, or it is over.
    Closed,
    Suspended,
}

impl Storage {
    /// Remembers a command, and whether it is one that can be carried out.
    pub(super) fn carry_out(&mut self, command: Command, asked: &Asked, input: usize) {
        assert!(!self.is_hung_up(), "a command behind the last one: {command:?}");
        let is_last = command == Command::Work(Work::HangUp);
        assert!(is_last || self.connection == Connection::Open, "for nobody: {command:?}");
        let Command::Work(work) = command else { return };
        let question = match work {
            Work::Begin(put, _) => {
                assert!(asked.knows(put.id));
                self.check_token(put.id);
                self.order.open(put.id, put.name);
                let open = Put::Open { at: put.at, kept: put.at };
                assert!(self.puts.insert(put.id, open).is_none(), "a put begins twice");
                return;
            }
            Work::Write { id, bytes } => {
                assert!(!bytes.is_empty() && bytes.end <= input, "{bytes:?} of {input}");
                let Some(Put::Open { at, .. }) = self.puts.get_mut(&id) else {
                    panic!("bytes of a put that is not open");
                };
                *at += bytes.len() as u64;
                return;
            }
            Work::Finish(end) => {
                assert_eq!(self.close(end.id, Put::Closed), end.size);
                Question::Finish(end)
            }
            Work::Discard(id, _) => {
                self.close(id, Put::Closed);
                return self.order.settle(id);
            }
            Work::Suspend(id) => {
                self.close(id, Put::Suspended);
                return self.order.settle(id);
            }
            Work::Close(id) => {
                assert!(asked.knows(id));
                self.order.settle(id);
                return self.questions.retain(|question| question.id() != id);
            }
            Work::HangUp => {
                self.connection = Connection::HungUp;
                return self.questions.clear();
            }
            Work::Resume(resume) => Question::Resume(resume.id),
            Work::Stat(stat) | Work::Sum(stat) => Question::Stat(stat),
            Work::List(list) => Question::List(list),
            Work::More(id) => Question::More(id),
            Work::Change(change) => Question::Change(change),
            Work::Open(get) => Question::Open(get),
            Work::Digest(id) => Question::Digest(id),
        };
        let id = question.id();
        assert!(asked.knows(id));
        let is_new = self.questions.iter().all(|question| question.id() != id);
        assert!(is_new || self.has_lied(), "{id} is asked twice");
        self.check_token(id);
        self.check_order(&question);
        self.questions.push_back(question);
    }

    /// Whoever has lied does not know what has taken effect.
    fn check_order(&mut self, question: &Question) {
        match (question.names(), question) {
            _ if self.has_lied() => {}
            (Some(names), _) => self.order.tell(question.id(), names),
            (None, Question::Finish(end)) => self.order.finish(end.id),
            (None, _) => {}
        }
    }

    fn check_token(&self, id: RequestId) {
        if let Token::Over(last) = self.token {
            assert!(Some(id) <= last, "{id} begins when the token is over");
        }
    }

    /// The token is over, and this was the last request before that: lists that go on are refused.
    pub(super) fn end_admission(&mut self, last: Option<RequestId>) {
        if self.token == Token::Good {
            self.token = Token::Over(last);
        }
    }

    /// Refuses an open put whose token is over.
    pub(super) fn end_lost(&mut self) -> Option<Event> {
        if self.is_token_over() { self.refuse_put() } else { None }
    }

    pub(super) fn is_token_over(&self) -> bool {
        self.token != Token::Good
    }

    /// The end of a put's body; returns where that is.
    fn close(&mut self, id: RequestId, now: Put) -> u64 {
        match self.puts.insert(id, now) {
            Some(Put::Open { at, .. }) => at,
            _ => panic!("the end of a put that is not open"),
        }
    }

    pub(super) fn turn_away(&mut self) {
        assert!(self.connection == Connection::Open && self.puts.is_empty());
        self.connection = Connection::TurnedAway;
    }

    pub(super) fn is_hung_up(&self) -> bool {
        self.connection == Connection::HungUp
    }

    pub(super) fn has_lied(&self) -> bool {
        self.honesty == Honesty::Lied
    }

    pub(super) fn is_suspended(&self, id: RequestId) -> bool {
        matches!(self.puts.get(&id), Some(Put::Suspended))
    }

    fn take(&mut self, which: u64) -> Option<Question> {
        let place = which.checked_rem(self.questions.len() as u64)?;
        self.questions.remove(place as usize)
    }

    /// Answers a question in one of several ways.
    pub(super) fn answer(&mut self, which: u64, how: u64) -> Option<Event> {
        let question = self.take(which)?;
        self.order.settle(question.id());
        Some(match question {
            Question::Finish(end) => Event::Stored(done(&end)),
            Question::Resume(id) => Event::Held(held(id, how)),
            Question::Stat(stat) => {
                let digest = stat.digest.map(digest);
                Event::Info(Info { digest, ..info(stat.id, how) })
            }
            Question::List(List { id, .. }) | Question::More(id) => self.look(id, how),
            Question::Change(change) => {
                Event::Ok(Okay { id: change.id(), durability: Some(change.durability()) })
            }
            Question::Open(get) => self.open(&get, how),
            Question::Digest(id) => {
                Event::Digest { id, digest: digest(Algorithm::Sha256), spent: None }
            }
        })
    }

    fn look(&self, id: RequestId, how: u64) -> Event {
        if self.is_token_over() {
            return Event::Refused { id, refusal: Code::Denied.into() };
        }
        match how % 2 {
            0 => Event::Ok(Okay { id, durability: None }),
            _ => Event::Entries(entries(id, how)),
        }
    }

    fn open(&mut self, get: &Get, how: u64) -> Event {
        let rest = match how % 4 {
            0 => how * 7 % WHOLE_BYTES,
            1 => how,
            2 => how << 20,
            _ => 0,
        };
        let file = file(get.id, get.at, get.at.saturating_add(rest));
        if how.is_multiple_of(4) {
            self.whole_bytes += rest as usize;
            let bytes = vec![b'w'; rest as usize];
            return Event::Whole { file, bytes, digest: digest(get.digest), spent: None };
        }
        Event::Opened(file)
    }

    /// Refuses what a question asks for, or what it has promised.
    pub(super) fn refuse(&mut self, which: u64) -> Option<Event> {
        let id = self.take(which)?.id();
        self.order.settle(id);
        Some(Event::Refused { id, refusal: Code::NotFound.into() })
    }

    /// Says of the open put that more of it is durable.
    pub(super) fn keep(&mut self, eighths: u64) -> Option<Event> {
        self.puts.iter_mut().find_map(|(id, put)| match put {
            Put::Open { at, kept } => {
                *kept += (*at - *kept) / 8 * eighths.min(8);
                Some(Event::Kept(Kept { id: *id, at: *kept }))
            }
            Put::Closed | Put::Suspended => None,
        })
    }

    /// Refuses the open put.
    pub(super) fn refuse_put(&mut self) -> Option<Event> {
        let (id, put) = self.puts.iter_mut().find(|(_, put)| matches!(put, Put::Open { .. }))?;
        *put = Put::Closed;
        self.order.settle(*id);
        Some(Event::Refused { id: *id, refusal: Code::NoSpace.into() })
    }

    /// An answer to nothing.
    pub(super) fn invent(&mut self, numbers: [u64; 3], last: Option<RequestId>) -> Event {
        let [kind, request, number] = numbers;
        self.honesty = Honesty::Lied;
        let id = match last {
            Some(last) if request > 20 => last,
            _ => RequestId(request),
        };
        let digest = digest(Algorithm::Sha256);
        let end = End { id, size: number, digest, spent: None };
        match kind % 12 {
            0 => Event::Kept(Kept { id, at: number }),
            1 => Event::Stored(done(&end)),
            2 => Event::Opened(file(id, number, number / 2)),
            3 => Event::Opened(file(id, number / 2, number)),
            4 => {
                let bytes = vec![b'x'; number as usize];
                self.whole_bytes += bytes.len();
                Event::Whole { file: file(id, 1, number + 1), bytes, digest, spent: None }
            }
            5 => Event::Whole { file: file(id, 0, number), bytes: vec![1], digest, spent: None },
            6 => Event::Digest { id, digest, spent: None },
            7 => Event::Held(held(id, number)),
            8 => Event::Info(info(id, number)),
            9 => Event::Entries(entries(id, number)),
            10 => Event::Ok(Okay { id, durability: Some(Durability::None) }),
            _ => {
                if let Some(put @ Put::Open { .. }) = self.puts.get_mut(&id) {
                    *put = Put::Closed;
                }
                Event::Refused { id, refusal: Code::StorageFailed.into() }
            }
        }
    }
}

fn digest(algorithm: Algorithm) -> Digest {
    Digest { algorithm, bytes: [0; 32] }
}

fn time() -> FileTime {
    FileTime::nearest(1, 0)
}

fn done(end: &End) -> Done {
    Done {
        id: end.id,
        size: end.size,
        digest: end.digest,
        durability: Durability::Full,
        version: Some(Version::of_hash(&[0; 32])),
        mtime: Some(time()),
        mode: Some(Mode::new(0o644)),
        replayed: None,
        name: None,
        spent: None,
    }
}

fn file(id: RequestId, at: u64, size: u64) -> File {
    let version = Version::of_hash(&[0; 32]);
    File { id, size, at, version, mtime: time(), mode: Mode::new(0o644) }
}

fn held(id: RequestId, how: u64) -> Held {
    match how {
        0 => Held { id, state: HeldState::Nothing, ranges: Vec::new(), digest: None },
        _ => Held {
            id,
            state: HeldState::Partial,
            ranges: vec![(0, how)],
            digest: Some(digest(Algorithm::Sha256)),
        },
    }
}

fn info(id: RequestId, how: u64) -> Info {
    let kind = if how.is_multiple_of(2) { Kind::File } else { Kind::Directory };
    Info { id, kind, size: how, mtime: time(), mode: Mode::new(0o755), version: None, digest: None }
}

fn entries(id: RequestId, how: u64) -> Entries {
    let entry = |number: u64| Entry {
        name: Name::parse(format!("d/{number}").as_bytes()).unwrap(),
        kind: Kind::File,
        size: number,
        mtime: time(),
        mode: Mode::new(0o644),
    };
    Entries { id, entries: (0..how % 8).map(entry).collect(), unread: Vec::new() }
}
