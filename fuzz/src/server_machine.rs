//! The server's machine, with a peer, a storage and a clock that do anything.
//!
//! A script is the peer's bytes, and between them:
//!
//! | step | what happens |
//! |---|---|
//! | `\|` | nothing: what follows arrives later |
//! | `e` `B` | the peer sends no more; the connection breaks |
//! | `w` `o`n | everything is written, or n bytes |
//! | `t`n `T` | time passes; the machine's deadline comes |
//! | `s` `b` | there is nothing to read; nothing can be written |
//! | `l` | whoever says `hello` from here on is turned away |
//! | `D` `F` | the server stops; the driver ends the connection |
//! | `n`m | the peer's token is over, in the m-th way |
//! | `a`mn `r`m | storage answers question m in the n-th way; refuses it |
//! | `k`n `p` | bytes of the open put are durable; it is refused |
//! | `x`kmn | storage answers request m with kind k, which nobody asked it |

mod order;
mod peer;
mod storage;

use std::sync::Arc;
use std::time::Duration;

use ftx_protocol::limits::{HELLO_BYTES, LINE_BYTES, REPLY_QUEUE_BYTES, REQUEST_BYTES};
use ftx_protocol::message::Limits;
use ftx_protocol::server::{Command, Event, NoMore, Output, Reads, Reason, Server, Settings, Work};
use ftx_protocol::{Code, Time};

use crate::script::{Script, Step};
use peer::{Asked, Said};
use storage::Storage;

/// What one line of the server's may take, of those that the storage here makes it say.
const ANSWER_BYTES: usize = 4 * 1024;

/// What a byte of the peer's may make the server say.
const ANSWERED_PER_BYTE: usize = 64;

/// Runs a script. Whatever is in it: nothing panics, commands are such as a storage can rely on, what is
/// said is the protocol, no request has two final replies, what is held is bounded; requests that name the
/// same take effect as they were sent; who is turned away
/// has done nothing and hears nothing but that; and if storage answers
/// what it is asked, the connection comes to its end, and every request to its reply. Where the token is
/// over, the peer need not say anything for that, and nothing begins any more.
pub fn server_machine(script: &[u8]) {
    let mut talk = Talk::new();
    let mut script = Script::new(script);
    while let Some(step) = script.step() {
        match step {
            Step::Bytes(bytes) => talk.arrive(bytes),
            Step::Act(letter) => talk.act(letter, &mut script),
        }
        talk.check();
    }
    talk.come_to_an_end();
}

struct Talk {
    server: Server,
    now: Time,
    asked: Asked,
    said: Said,
    storage: Storage,
    /// What the peer has sent and the server does not read yet.
    unread: Vec<u8>,
    /// The peer's sending direction.
    peer: Peer,
    door: Door,
    arrived_bytes: usize,
    answers: usize,
}

#[derive(PartialEq, Eq)]
enum Peer {
    Sends,
    Finished,
}

/// What is said to a peer that says who it is.
#[derive(PartialEq, Eq)]
enum Door {
    Open,
    Shut,
}

/// Few, so that a script has room for more.
const REQUESTS_TOTAL: u64 = 40;

impl Talk {
    fn new() -> Self {
        let settings = Settings {
            agent: "fuzz".to_owned(),
            features: vec!["sha256".to_owned()],
            limits: Limits { file: 1 << 40, ..Limits::default() },
            requests_total_max: REQUESTS_TOTAL,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
        };
        Self {
            server: Server::new(Arc::new(settings), Time(0)),
            now: Time(0),
            asked: Asked::default(),
            said: Said::default(),
            storage: Storage::default(),
            unread: Vec::new(),
            peer: Peer::Sends,
            door: Door::Open,
            arrived_bytes: 0,
            answers: 0,
        }
    }

    fn act(&mut self, letter: u8, script: &mut Script<'_>) {
        match letter {
            b'e' => self.finish_sending(),
            b'B' => self.server.broken(),
            b'w' => self.write_all(),
            b'o' => drop(self.write(script.number())),
            b't' => self.now = self.now.after(Duration::from_millis(1 << (script.number() % 24))),
            b'T' => self.pass_deadline(),
            b's' if self.reads() && self.unread.is_empty() => self.server.starving(self.now),
            b'b' => {
                if let Output::Bytes(_) | Output::File { .. } | Output::Zeros(_) =
                    self.server.output(self.now)
                {
                    self.server.blocked(self.now);
                }
            }
            b'l' => self.door = Door::Shut,
            b'D' => {
                self.take_no_more(Code::ShuttingDown);
                self.server.shut_down(self.now);
            }
            b'n' => {
                let ways = [NoMore::TokenGone, NoMore::TokenExpired];
                let why = ways[script.number() as usize % ways.len()];
                self.take_no_more(why.refusal().code);
                self.storage.end_admission(self.asked.last());
                self.server.end_admission(why, self.now);
            }
            b'F' => self.server.fail(Code::Busy.into(), self.now),
            b'a' => {
                let (which, how) = (script.number(), script.number());
                let event = self.storage.answer(which, how);
                self.handle(event);
            }
            b'r' => {
                let event = self.storage.refuse(script.number());
                self.handle(event);
            }
            b'k' => {
                let event = self.storage.keep(script.number());
                self.handle(event);
            }
            b'p' => {
                let event = self.storage.refuse_put();
                self.handle(event);
            }
            b'x' => {
                let numbers = [(); 3].map(|()| script.number());
                let event = self.storage.invent(numbers, self.said.last_id());
                self.handle(Some(event));
            }
            _ => {}
        }
        self.take_commands(0);
        self.read();
    }

    /// What comes from here on is refused, if not for having asked enough.
    fn take_no_more(&mut self, code: Code) {
        let has_asked_enough = self.asked.len() as u64 > REQUESTS_TOTAL;
        let code = if has_asked_enough { Code::Busy } else { code };
        self.said.take_no_more(self.asked.last(), code);
    }

    fn reads(&self) -> bool {
        self.peer == Peer::Sends && self.server.reads() != Reads::Nothing
    }

    fn arrive(&mut self, bytes: &[u8]) {
        if self.peer == Peer::Sends {
            self.unread.extend_from_slice(bytes);
            self.read();
        }
    }

    /// Reads what there is, if the server wants to.
    fn read(&mut self) {
        if self.reads() && !self.unread.is_empty() {
            let input = std::mem::take(&mut self.unread);
            self.asked.read(&input);
            self.arrived_bytes += input.len();
            self.server.receive(&input, self.now);
            self.take_commands(input.len());
        }
    }

    fn finish_sending(&mut self) {
        if self.peer == Peer::Finished {
            return;
        }
        self.write_all();
        self.read();
        if self.unread.is_empty() {
            self.peer = Peer::Finished;
            self.server.receive_end(self.now);
            self.take_commands(0);
            assert_eq!(self.server.reads(), Reads::Nothing);
        }
    }

    fn handle(&mut self, event: Option<Event>) {
        if let Some(event) = event {
            self.answers += 1;
            self.server.handle(event, self.now);
            self.take_commands(0);
        }
    }

    fn take_commands(&mut self, input: usize) {
        while let Some(command) = self.server.poll_command() {
            if matches!(command, Command::Login(_)) && self.door == Door::Shut {
                self.server.refuse_login(Code::LoginFailed.into(), self.now);
                self.said.turn_away();
                self.storage.turn_away();
                assert_eq!(self.server.requests(), 0);
                continue;
            }
            if command == Command::Work(Work::HangUp) {
                self.said.hang_up(self.asked.ids());
            }
            self.storage.carry_out(command, &self.asked, input);
        }
    }

    fn write_all(&mut self) {
        while self.write(u64::MAX) {
            self.check();
        }
        let idle = self.server.requests() == 0 && self.asked.is_between_lines();
        if idle && self.server.output(self.now) == Output::Nothing {
            assert_eq!(self.server.held_bytes(), 0);
        }
    }

    /// Writes up to so many bytes of what comes next; `false` when there is nothing.
    fn write(&mut self, most: u64) -> bool {
        let most = most.max(1);
        let count = match self.server.output(self.now) {
            Output::Bytes(bytes) => {
                let count = bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX));
                self.said.bytes(&bytes[..count], &self.asked);
                count as u64
            }
            Output::File { id, at, size } => {
                self.said.part(Some((id, at)), size);
                let count = size.min(most);
                self.said.pass(count);
                count
            }
            Output::Zeros(size) => {
                self.said.part(None, size);
                let count = size.min(most);
                self.said.pass(count);
                count
            }
            Output::Nothing | Output::Shutdown => return false,
        };
        self.server.wrote(count, self.now);
        self.take_commands(0);
        true
    }

    fn pass_deadline(&mut self) {
        if let Some(deadline) = self.server.deadline() {
            self.now = self.now.max(deadline);
            self.server.on_time(self.now);
            // Else a driver would call again at once, for ever.
            assert!(self.server.deadline().is_none_or(|next| next > self.now));
        }
    }

    fn check(&mut self) {
        let asked = self.arrived_bytes.saturating_mul(ANSWERED_PER_BYTE);
        let answers =
            self.answers.saturating_mul(ANSWER_BYTES).saturating_add(self.storage.whole_bytes);
        let requests = self.server.requests().saturating_mul(REQUEST_BYTES);
        let most = LINE_BYTES + REPLY_QUEUE_BYTES + requests + asked + answers;
        assert!(self.server.held_bytes() <= most, "{} bytes", self.server.held_bytes());
        assert!(self.server.requests() <= self.asked.len());
        if !self.asked.has_said_a_line() && self.server.output(self.now) == Output::Nothing {
            assert!(self.server.held_bytes() < HELLO_BYTES);
        }
        if let Reads::Part { left_bytes } = self.server.reads() {
            assert!(left_bytes > 0);
        }
        if self.server.closed().is_some() {
            assert_eq!(self.server.reads(), Reads::Nothing);
            assert_eq!(self.server.requests(), 0);
            assert_eq!(self.server.deadline(), None);
            assert!(self.storage.is_hung_up());
            assert_eq!(self.server.output(self.now), Output::Shutdown);
        }
    }

    /// Storage answers everything, and the peer reads everything and sends no more.
    fn come_to_an_end(&mut self) {
        while self.server.closed().is_none() {
            self.write_all();
            self.read();
            if let Some(event) = self.storage.answer(0, 0).or_else(|| self.storage.end_lost()) {
                self.handle(Some(event));
                self.check();
                continue;
            }
            if self.storage.is_token_over() && self.server.closed().is_none() {
                let is_over = self.server.output(self.now) == Output::Shutdown;
                assert!(is_over || self.storage.has_lied(), "it waits for a peer without a token");
            }
            if self.peer == Peer::Sends {
                self.finish_sending();
                let is_read = self.peer == Peer::Finished || self.server.closed().is_some();
                assert!(is_read, "what the peer has sent is never read");
            } else if self.server.output(self.now) == Output::Shutdown {
                // It has said its last, and waits for the peer to close.
                self.pass_deadline();
            } else {
                assert!(self.storage.has_lied(), "nothing is left to happen: {:?}", self.server);
                return;
            }
            self.check();
        }
        if self.server.closed() == Some(Reason::Finished) && !self.storage.has_lied() {
            for id in self.asked.ids() {
                let owed = !self.storage.is_suspended(*id);
                assert_eq!(self.said.has_answered(*id), owed, "{id}");
            }
        }
    }
}
