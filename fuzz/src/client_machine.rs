//! The client's machine, with a server that says anything.
//!
//! A script is the server's bytes, and between them:
//!
//! | step | what the client does |
//! |---|---|
//! | `\|` | nothing: what follows arrives later |
//! | `p`n `d`n `E` `A` | puts a file of n bytes (`0`: of unknown size); sends n bytes of it; ends its body; aborts it |
//! | `G`n `g` | gets a file from n on; stops a get |
//! | `R` `S`n `I` | resumes; asks for a name (and its digest); pings |
//! | `L`n `M` | lists a directory (and those below it); asks for more |
//! | `C`n | mkdir, move or remove |
//! | `t`n `T` | time passes; the machine's deadline comes |
//! | `e` | the server sends no more |

use std::collections::BTreeMap;
use std::time::Duration;

use ftx_protocol::client::{Client, Event, Violation};
use ftx_protocol::line::{self, LineBuffer, Taken};
use ftx_protocol::message::{
    Cache, Change, Get, List, Mkdir, Move, Put, Remove, Resume, Stat, Welcome,
};
use ftx_protocol::{
    Algorithm, Code, Condition, Depth, Digest, Durability, Kind, Mode, Name, Parents, RequestId,
    Time, Token, TransferId,
};

use crate::script::{Script, Step};

/// Runs a script. Whatever is in it: nothing panics, every event follows from what was asked, an
/// acknowledgement is one of what was sent, no request ends twice, and every line is one that a server
/// can read.
pub fn client_machine(script: &[u8]) {
    let mut talk = Talk::new();
    let mut script = Script::new(script);
    while let Some(step) = script.step() {
        let lived = match step {
            Step::Bytes(bytes) => talk.receive(bytes),
            Step::Act(letter) => talk.act(letter, &mut script),
        };
        if lived.is_err() {
            // Of no use any more, and no danger either.
            let _ = talk.client.receive(b"{\"pong\":{\"id\":1}}\n", talk.now);
            while talk.client.poll_event().is_some() {}
            return;
        }
        talk.check();
    }
}

/// The digest of every file here.
const DIGEST: Digest = Digest { algorithm: Algorithm::Sha256, bytes: [0; 32] };

struct Talk {
    client: Client,
    now: Time,
    asked: BTreeMap<RequestId, Asked>,
    /// The put whose body is open, also if it was refused.
    body: Option<RequestId>,
    out: Vec<u8>,
    stage: Stage,
}

#[derive(PartialEq, Eq)]
enum Stage {
    Greet,
    Talk,
    Over,
}

/// A request without its end.
enum Asked {
    Put { at: u64, kept: u64 },
    Ended { size: u64 },
    Get { at: u64 },
    File { at: u64, size: u64 },
    Resume,
    Stat(Option<Algorithm>),
    List(Depth),
    Change,
    Ping,
}

/// What ends a request.
enum Given {
    Stored(u64, Digest, Durability),
    Sent(u64, Algorithm),
    Held,
    Info(Kind, Option<Algorithm>),
    Ok(Option<Durability>),
    Pong,
    Refused,
}

impl Talk {
    fn new() -> Self {
        let mut out = Vec::new();
        let client = Client::new("fuzz", Some(Token::new([7; 32])), &mut out, Time(0));
        let (asked, stage) = (BTreeMap::new(), Stage::Greet);
        Self { client, now: Time(0), asked, body: None, out, stage }
    }

    fn act(&mut self, letter: u8, script: &mut Script<'_>) -> Result<(), Violation> {
        match letter {
            b'p' => self.put(script.number()),
            b'd' => self.data(script.number()),
            b'E' => self.end(),
            b'A' => {
                if let Some(id) = self.body.take() {
                    self.client.abort(id, Code::Changed, &mut self.out);
                }
            }
            b'g' => {
                let is_get =
                    |asked: &Asked| matches!(asked, Asked::Get { .. } | Asked::File { .. });
                if let Some(id) = self.newest(is_get) {
                    self.client.abort(id, Code::Aborted, &mut self.out);
                }
            }
            b'M' => {
                if let Some(id) = self.newest(|asked| matches!(asked, Asked::List(_))) {
                    self.client.more(id, &mut self.out);
                }
            }
            b'G' | b'R' | b'S' | b'L' | b'C' | b'I' => self.ask(letter, script),
            b't' => self.now = self.now.after(Duration::from_millis(1 << (script.number() % 20))),
            b'T' => {
                if let Some(deadline) = self.client.deadline() {
                    self.now = self.now.max(deadline);
                    let late = self.client.on_time(self.now);
                    assert_eq!(late, Err(Violation::Silence));
                    return late;
                }
            }
            b'e' => {
                let owed = !self.asked.is_empty() || self.stage == Stage::Greet;
                let said = self.stage == Stage::Over;
                let result = self.client.receive_end();
                assert_eq!(result.is_err(), owed && !said);
                self.stage = Stage::Over;
                return result;
            }
            _ => {}
        }
        Ok(())
    }

    fn newest(&self, fits: impl Fn(&Asked) -> bool) -> Option<RequestId> {
        self.asked.iter().rev().find(|(_, asked)| fits(asked)).map(|(id, _)| *id)
    }

    fn put(&mut self, size: u64) {
        if self.body.is_some() {
            return;
        }
        let put = Put {
            id: RequestId(0),
            name: name("f"),
            digest: Algorithm::Sha256,
            size: (size > 0).then_some(size),
            at: 0,
            transfer: TransferId([7; 16]),
            mtime: None,
            mode: None,
            condition: Condition::Absent,
            durability: Durability::Full,
            need: Vec::new(),
        };
        let id = self.client.put(put, &mut self.out, self.now);
        self.body = Some(id);
        self.asked.insert(id, Asked::Put { at: 0, kept: 0 });
    }

    fn data(&mut self, size: u64) {
        let Some(id) = self.body else { return };
        let size = size.min(self.client.window_bytes(id));
        let announced = self.client.data(id, size, &mut self.out);
        match self.asked.get_mut(&id) {
            Some(Asked::Put { at, .. }) => {
                assert_eq!(announced, Some(*at));
                *at += size;
            }
            _ => assert_eq!(announced, None),
        }
    }

    fn end(&mut self) {
        let Some(id) = self.body.take() else { return };
        let size = match self.asked.get(&id) {
            Some(Asked::Put { at, .. }) => *at,
            _ => 0,
        };
        self.client.end(id, size, DIGEST, &mut self.out);
        if let Some(asked) = self.asked.get_mut(&id) {
            *asked = Asked::Ended { size };
        }
    }

    fn ask(&mut self, letter: u8, script: &mut Script<'_>) {
        let (id, need) = (RequestId(0), Vec::new());
        let (out, now) = (&mut self.out, self.now);
        let (id, asked) = match letter {
            b'G' => {
                let (name, at, cache) = (name("f"), script.number(), Cache::Use);
                let get =
                    Get { id, name, digest: Algorithm::Sha256, at, version: None, cache, need };
                (self.client.get(get, out, now), Asked::Get { at })
            }
            b'R' => {
                let resume = Resume { id, transfer: TransferId([7; 16]), need };
                (self.client.resume(resume, out, now), Asked::Resume)
            }
            b'S' => {
                let digest = (script.number() % 2 == 1).then_some(Algorithm::Sha256);
                let stat = Stat { digest, ..Stat::of(name("f")) };
                (self.client.stat(stat, out, now), Asked::Stat(digest))
            }
            b'L' => {
                let depth = if script.number() % 2 == 1 { Depth::All } else { Depth::One };
                let list = List { id, name: Some(name("d")), depth, need };
                (self.client.list(list, out, now), Asked::List(depth))
            }
            b'C' => (self.client.change(change(script.number()), out, now), Asked::Change),
            _ => (self.client.ping(out, now), Asked::Ping),
        };
        assert!(self.asked.insert(id, asked).is_none());
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let result = self.client.receive(bytes, self.now);
        // What was said before the violation counts.
        while let Some(event) = self.client.poll_event() {
            self.heard(event, bytes.len());
        }
        result
    }

    fn heard(&mut self, event: Event, input: usize) {
        assert!(self.stage != Stage::Over);
        if let Event::Welcome(welcome) = &event {
            return self.welcomed(welcome);
        }
        if let Event::Failed(_) = event {
            self.stage = Stage::Over;
            return;
        }
        assert!(self.stage == Stage::Talk);
        match event {
            Event::Welcome(_) | Event::Failed(_) => {}
            Event::Kept(now) => {
                let Some(Asked::Put { at, kept }) = self.asked.get_mut(&now.id) else { panic!() };
                assert!((*kept..=*at).contains(&now.at));
                *kept = now.at;
            }
            Event::File(file) => {
                let Some(Asked::Get { at }) = self.asked.get(&file.id) else { panic!() };
                assert!(file.at == *at && file.at <= file.size);
                self.asked.insert(file.id, Asked::File { at: file.at, size: file.size });
            }
            Event::Body { id, at: from, bytes } => {
                let Some(Asked::File { at, size }) = self.asked.get_mut(&id) else { panic!() };
                assert!(from == *at && !bytes.is_empty() && bytes.end <= input);
                *at += bytes.len() as u64;
                assert!(*at <= *size);
            }
            Event::Entries(entries) => {
                let Some(Asked::List(depth)) = self.asked.get(&entries.id) else { panic!() };
                for entry in entries.entries {
                    let parent = entry.name.parent().expect("it is in a directory");
                    let fits = match depth {
                        Depth::One => parent == name("d"),
                        Depth::All => parent.is_or_is_below(&name("d")),
                    };
                    assert!(fits);
                }
            }
            last => self.ended(last),
        }
    }

    /// What ends a request fits it.
    fn ended(&mut self, event: Event) {
        use Algorithm::Sha256;
        let (id, given) = match &event {
            Event::Done(done) => (done.id, Given::Stored(done.size, done.digest, done.durability)),
            Event::End(end) => (end.id, Given::Sent(end.size, end.digest.algorithm)),
            Event::Held(held) => (held.id, Given::Held),
            Event::Info(info) => {
                let digest = info.digest.map(|digest| digest.algorithm);
                (info.id, Given::Info(info.kind, digest))
            }
            Event::Ok(okay) => (okay.id, Given::Ok(okay.durability)),
            Event::Pong(id) => (*id, Given::Pong),
            Event::Refused { id, .. } => (*id, Given::Refused),
            other => panic!("{other:?} ends nothing"),
        };
        let fits = match (self.asked.remove(&id), given) {
            (Some(Asked::Ended { size }), Given::Stored(stored, digest, durability)) => {
                size == stored && digest == DIGEST && durability > Durability::None
            }
            (Some(Asked::File { at, size }), Given::Sent(sent, Sha256)) => {
                at == size && size == sent
            }
            (Some(Asked::Stat(asked)), Given::Info(Kind::File, digest)) => asked == digest,
            (Some(Asked::Stat(_)), Given::Info(_, digest)) => digest.is_none(),
            (Some(Asked::Change), Given::Ok(given)) => given > Some(Durability::None),
            (asked, Given::Refused) => asked.is_some(),
            (asked, given) => matches!(
                (asked, given),
                (Some(Asked::Resume), Given::Held)
                    | (Some(Asked::List(_)), Given::Ok(_))
                    | (Some(Asked::Ping), Given::Pong)
            ),
        };
        assert!(fits, "{event:?}");
    }

    fn welcomed(&mut self, welcome: &Welcome) {
        assert!(self.stage == Stage::Greet);
        self.stage = Stage::Talk;
        assert_eq!(welcome.ftx, 1);
        assert_eq!(self.client.limits(), &welcome.limits);
        assert!(welcome.limits.grid > 0);
    }

    fn check(&mut self) {
        assert_eq!(self.client.requests(), self.asked.len());
        let waits = self.stage == Stage::Greet || !self.asked.is_empty();
        assert_eq!(self.client.deadline().is_some(), waits && self.stage != Stage::Over);
        let mut lines = LineBuffer::default();
        let mut rest = &self.out[..];
        while !rest.is_empty() {
            let Taken::Line(line, used) = lines.take(rest) else {
                panic!("a line that is not whole")
            };
            assert!(line::read_client(&line).is_ok());
            rest = &rest[used..];
        }
        self.out.clear();
    }
}

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

fn change(which: u64) -> Change {
    let (id, name, need) = (RequestId(0), name("d/a"), Vec::new());
    let (condition, durability) = (Condition::Always, Durability::Full);
    match which % 3 {
        0 => {
            let (parents, mode) = (Parents::Make, Some(Mode::new(0o700)));
            Change::Mkdir(Mkdir {
                id,
                name,
                parents,
                mtime: None,
                mode,
                condition,
                durability,
                need,
            })
        }
        1 => Change::Move(Move { id, to: self::name("d/b"), name, condition, durability, need }),
        _ => Change::Remove(Remove { id, name, depth: Depth::All, durability, need }),
    }
}
