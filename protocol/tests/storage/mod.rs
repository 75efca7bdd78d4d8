//! A storage in memory, for machines. It checks that it is asked nothing out of order.

#![allow(dead_code)]

use std::collections::BTreeMap;

use ftx_protocol::message::{
    Change, Done, End, Entries, Entry, File, Held, HeldState, Info, Okay, Put,
};
use ftx_protocol::server::{Command, Event, Server, Work};
use ftx_protocol::{
    Algorithm, Code, Digest, Durability, FileTime, Kind, Mode, Name, RequestId, Time, TransferId,
    Version,
};
use sha2::{Digest as _, Sha256};

/// SHA-256 of some bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    Digest { algorithm: Algorithm::Sha256, bytes: Sha256::digest(bytes).0 }
}

/// The store. Every put that is not whole is kept under its transfer id.
#[derive(Debug, Default, Clone)]
pub struct Storage {
    pub files: BTreeMap<String, String>,
    puts: BTreeMap<RequestId, (Put, Vec<u8>)>,
    gets: BTreeMap<RequestId, String>,
    complete: BTreeMap<TransferId, String>,
    /// Commits are kept until they are released.
    pub holds_commits: bool,
    /// Gets of files that are no longer than this are answered whole.
    pub whole_bytes: Option<usize>,
    /// Gets are never opened.
    pub holds_opens: bool,
    held: Vec<End>,
    pub opened: Vec<u64>,
    /// Lists that have begun, with the files that are still to be told, one in each message.
    lists: BTreeMap<RequestId, Vec<String>>,
    /// Requests that changed names, in their order.
    pub changed: Vec<u64>,
}

impl Storage {
    /// Does what the machine asks for, until it asks for nothing.
    pub fn carry_out(&mut self, machine: &mut Server, input: &[u8], now: Time) {
        while let Some(command) = machine.poll_command() {
            if let Command::Work(work) = command
                && let Some(event) = self.one(work, input)
            {
                machine.handle(event, now);
            }
        }
    }

    fn one(&mut self, work: Work, input: &[u8]) -> Option<Event> {
        match work {
            Work::Begin(put, _) => {
                assert!(self.puts.insert(put.id, (put, Vec::new())).is_none());
                None
            }
            Work::Write { id, bytes } => {
                let (_, body) = self.puts.get_mut(&id).expect("a write belongs to a put");
                body.extend_from_slice(&input[bytes]);
                None
            }
            Work::Finish(end) if self.holds_commits => {
                self.held.push(end);
                None
            }
            Work::Finish(end) => Some(self.finish(&end)),
            Work::Discard(id, _) | Work::Suspend(id) => {
                assert!(self.puts.remove(&id).is_some());
                None
            }
            Work::Resume(resume) => {
                let content = self.complete.get(&resume.transfer);
                Some(Event::Held(Held {
                    id: resume.id,
                    state: content.map_or(HeldState::Nothing, |_| HeldState::Complete),
                    ranges: content.iter().map(|content| (0, content.len() as u64)).collect(),
                    digest: content.map(|content| digest(content.as_bytes())),
                }))
            }
            Work::Stat(stat) => Some(self.stat(stat.id, &stat.name.to_string(), None)),
            Work::Sum(stat) => Some(self.stat(stat.id, &stat.name.to_string(), stat.digest)),
            Work::List(list) => {
                let inside = list.name.map_or(String::new(), |name| format!("{name}/"));
                let files = self.files.keys().filter(|file| file.starts_with(&inside));
                self.lists.insert(list.id, files.rev().cloned().collect());
                Some(self.entries(list.id))
            }
            Work::More(id) => Some(self.entries(id)),
            Work::Change(change) => Some(self.change(&change)),
            Work::Open(get) if self.holds_opens => {
                let _ = get;
                None
            }
            Work::Open(get) => {
                self.opened.push(get.id.0);
                let Some(content) = self.files.get(&get.name.to_string()) else {
                    return Some(Event::Refused { id: get.id, refusal: Code::NotFound.into() });
                };
                let file = File {
                    id: get.id,
                    size: content.len() as u64,
                    at: get.at,
                    version: version(content),
                    mtime: FileTime::new(1, 0).unwrap(),
                    mode: Mode::new(0o644),
                };
                if self.whole_bytes.is_some_and(|most| content.len() <= most) {
                    let bytes = content.as_bytes()[usize::try_from(get.at).unwrap()..].to_vec();
                    let digest = digest(content.as_bytes());
                    return Some(Event::Whole { file, bytes, digest, spent: None });
                }
                self.gets.insert(get.id, content.clone());
                Some(Event::Opened(file))
            }
            Work::Digest(id) => {
                let digest = digest(self.gets.get(&id).expect("an open get").as_bytes());
                Some(Event::Digest { id, digest, spent: None })
            }
            Work::Close(id) => {
                self.gets.remove(&id);
                self.lists.remove(&id);
                None
            }
            Work::HangUp => {
                self.puts.clear();
                self.gets.clear();
                self.held.clear();
                self.lists.clear();
                None
            }
        }
    }

    fn finish(&mut self, end: &End) -> Event {
        let (put, body) = self.puts.remove(&end.id).expect("an end belongs to a put");
        assert_eq!(put.at + body.len() as u64, end.size, "writes follow on each other");
        if digest(&body) != end.digest && put.at == 0 {
            return Event::Refused { id: end.id, refusal: Code::DigestMismatch.into() };
        }
        let content = String::from_utf8(body).unwrap();
        self.complete.insert(put.transfer, content.clone());
        let version = version(&content);
        self.files.insert(put.name.to_string(), content);
        Event::Stored(Done {
            id: end.id,
            size: end.size,
            digest: end.digest,
            durability: Durability::Full,
            version: Some(version),
            mtime: None,
            mode: None,
            replayed: None,
            name: None,
            spent: None,
        })
    }

    /// The next file of a list, in the directory that it is in.
    fn entries(&mut self, id: RequestId) -> Event {
        let files = self.lists.get_mut(&id).expect("a list that has begun");
        let Some(file) = files.pop() else { return Event::Ok(Okay { id, durability: None }) };
        let name = Name::parse(file.as_bytes()).unwrap();
        let entry = Entry {
            name,
            kind: Kind::File,
            size: self.files.get(&file).map_or(0, |content| content.len() as u64),
            mtime: FileTime::new(1, 0).unwrap(),
            mode: Mode::new(0o644),
        };
        Event::Entries(Entries { id, entries: vec![entry], unread: Vec::new() })
    }

    fn change(&mut self, change: &Change) -> Event {
        let id = change.id();
        self.changed.push(id.0);
        let found = match change {
            Change::Mkdir(_) => true,
            Change::Move(moving) => match self.files.remove(&moving.name.to_string()) {
                Some(content) => self.files.insert(moving.to.to_string(), content).is_none(),
                None => false,
            },
            Change::Remove(remove) => self.files.remove(&remove.name.to_string()).is_some(),
        };
        match found {
            true => Event::Ok(Okay { id, durability: Some(Durability::Full) }),
            false => Event::Refused { id, refusal: Code::NotFound.into() },
        }
    }

    fn stat(&self, id: RequestId, name: &str, algorithm: Option<Algorithm>) -> Event {
        let inside = format!("{name}/");
        let (kind, size) = match self.files.get(name) {
            Some(content) => (Kind::File, content.len() as u64),
            None if self.files.keys().any(|file| file.starts_with(&inside)) => (Kind::Directory, 0),
            None => return Event::Refused { id, refusal: Code::NotFound.into() },
        };
        let (mtime, mode) = (FileTime::new(1, 0).unwrap(), Mode::new(0o644));
        let digest =
            algorithm.and_then(|_| self.files.get(name)).map(|content| digest(content.as_bytes()));
        Event::Info(Info { id, kind, size, mtime, mode, version: None, digest })
    }

    /// The commits that wait.
    pub fn held_commits(&self) -> Vec<u64> {
        self.held.iter().map(|end| end.id.0).collect()
    }

    /// Lets them happen.
    pub fn release_commits(&mut self, machine: &mut Server, now: Time) {
        for end in std::mem::take(&mut self.held) {
            let event = self.finish(&end);
            machine.handle(event, now);
            self.carry_out(machine, b"", now);
        }
    }

    /// Bytes of an open get.
    pub fn read(&self, id: RequestId, at: u64, size: u64) -> Vec<u8> {
        self.gets[&id].as_bytes()[at as usize..(at + size) as usize].to_vec()
    }

    /// Puts whose body is open, or that wait for their commit.
    pub fn open_puts(&self) -> usize {
        self.puts.len()
    }
}

fn version(content: &str) -> Version {
    Version::of_hash(&digest(content.as_bytes()).bytes)
}
