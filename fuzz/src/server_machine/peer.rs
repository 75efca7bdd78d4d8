//! What a peer knows by itself: what it has asked, and what an honest reader makes of what it hears.

use std::collections::{BTreeMap, BTreeSet};

use ftx_protocol::limits::{HELLO_BYTES, LINE_BYTES};
use ftx_protocol::line::{self, LineBuffer, LineError, Taken};
use ftx_protocol::message::{ClientMessage, ServerMessage};
use ftx_protocol::{Code, RequestId};

/// The requests in the bytes that were sent.
#[derive(Default)]
pub(super) struct Asked {
    line: LineBuffer,
    lines: Lines,
    part_left: u64,
    end: End,
    ids: BTreeSet<RequestId>,
}

/// Whether any line was whole.
#[derive(Default, PartialEq, Eq)]
enum Lines {
    #[default]
    None,
    Some,
}

/// Whether what follows can be told.
#[derive(Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    /// The server reads no further than to here.
    Reached,
    /// A line is longer than it may be; nor does it then.
    LineTooLong,
}

impl Asked {
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.end == End::Open {
            if self.part_left > 0 {
                let count = self.part_left.min(bytes.len() as u64);
                self.part_left -= count;
                bytes = &bytes[count as usize..];
                continue;
            }
            let line_bytes = if self.lines == Lines::None { HELLO_BYTES } else { LINE_BYTES };
            match self.line.take_within(line_bytes, bytes) {
                Taken::Line(line, used) => {
                    bytes = &bytes[used..];
                    let line = line.into_owned();
                    self.lines = Lines::Some;
                    self.take(&line);
                }
                Taken::Partial => return,
                Taken::TooLong => self.end = End::LineTooLong,
            }
        }
    }

    fn take(&mut self, line: &[u8]) {
        use ClientMessage as Message;
        let id = match line::read_client(line) {
            Ok(Message::Data(data)) => {
                self.part_left = data.size;
                return;
            }
            Ok(Message::Put(put)) => put.id,
            Ok(Message::Get(get)) => get.id,
            Ok(Message::Resume(resume)) => resume.id,
            Ok(Message::Stat(stat)) => stat.id,
            Ok(Message::List(list)) => list.id,
            Ok(Message::Mkdir(mkdir)) => mkdir.id,
            Ok(Message::Move(moving)) => moving.id,
            Ok(Message::Remove(remove)) => remove.id,
            Ok(Message::Ping(ping)) => ping.id,
            Ok(Message::Hello(_) | Message::End(_) | Message::Abort(_) | Message::More(_)) => {
                return;
            }
            Err(LineError::Refused(id, ..)) => id,
            Err(LineError::Fatal(_)) => {
                self.end = End::Reached;
                return;
            }
        };
        self.ids.insert(id);
    }

    pub(super) fn is_between_lines(&self) -> bool {
        self.end == End::Open && self.part_left == 0 && self.line.held_bytes() == 0
    }

    /// Whether its first line was whole.
    pub(super) fn has_said_a_line(&self) -> bool {
        self.lines == Lines::Some
    }

    /// The last request.
    pub(super) fn last(&self) -> Option<RequestId> {
        self.ids.last().copied()
    }

    pub(super) fn knows(&self, id: RequestId) -> bool {
        self.ids.contains(&id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &RequestId> {
        self.ids.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }
}

/// What the server said.
#[derive(Default)]
pub(super) struct Said {
    line: LineBuffer,
    stage: Stage,
    part: Option<Part>,
    answered: BTreeSet<RequestId>,
    /// Where the next part of a file begins.
    files: BTreeMap<RequestId, u64>,
    last_id: Option<RequestId>,
    no_more: Option<NoMore>,
    /// Requests that were not answered when storage had nothing more to do.
    left: Vec<RequestId>,
}

/// The server takes no more requests (rule 4.12).
struct NoMore {
    /// The last one that it took.
    last: Option<RequestId>,
    /// What it says to those behind that.
    code: Code,
}

#[derive(Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Greet,
    Talk,
    /// The server is about to say its first, which is its last.
    TurnedAway,
    /// The server has said its last.
    Over,
    /// It speaks the peer's language to refuse it.
    Foreign,
}

struct Part {
    id: RequestId,
    at: u64,
    left: u64,
}

impl Said {
    pub(super) fn last_id(&self) -> Option<RequestId> {
        self.last_id
    }

    /// From here on nothing but one error may be said, and nothing was.
    pub(super) fn turn_away(&mut self) {
        assert!(self.stage == Stage::Greet && self.line.held_bytes() == 0);
        self.stage = Stage::TurnedAway;
    }

    /// From here on requests are refused. Of several reasons the first one counts.
    pub(super) fn take_no_more(&mut self, last: Option<RequestId>, code: Code) {
        self.no_more.get_or_insert(NoMore { last, code });
    }

    /// These were asked when storage had nothing more to do.
    pub(super) fn hang_up<'a>(&mut self, asked: impl Iterator<Item = &'a RequestId>) {
        self.left = asked.filter(|id| !self.has_answered(**id)).copied().collect();
    }

    pub(super) fn has_answered(&self, id: RequestId) -> bool {
        self.answered.contains(&id)
    }

    /// The server is about to write this much of its part, from there or zeros.
    pub(super) fn part(&self, from: Option<(RequestId, u64)>, size: u64) {
        let part = self.part.as_ref().expect("raw bytes only behind their announcement");
        assert_eq!(part.left, size);
        if let Some(from) = from {
            assert_eq!(from, (part.id, part.at));
        }
    }

    /// So many bytes of the part were written.
    pub(super) fn pass(&mut self, count: u64) {
        let Some(part) = &mut self.part else { return };
        part.at += count;
        part.left -= count;
        if part.left == 0 {
            self.part = None;
        }
    }

    pub(super) fn bytes(&mut self, mut bytes: &[u8], asked: &Asked) {
        let begins = self.stage == Stage::Greet && self.line.held_bytes() == 0;
        if begins && !matches!(bytes.first(), None | Some(b'{')) {
            self.stage = Stage::Foreign;
        }
        while !bytes.is_empty() && self.stage != Stage::Foreign {
            if let Some(part) = &self.part {
                let count = part.left.min(bytes.len() as u64);
                self.pass(count);
                bytes = &bytes[count as usize..];
                continue;
            }
            match self.line.take(bytes) {
                Taken::Line(line, used) => {
                    bytes = &bytes[used..];
                    let line = line.into_owned();
                    self.message(&line, asked);
                }
                Taken::Partial => return,
                Taken::TooLong => panic!("a line of the server is too long"),
            }
        }
    }

    fn message(&mut self, line: &[u8], asked: &Asked) {
        use ServerMessage as Message;
        let message = line::read_server(line).unwrap().expect("a kind that the client knows");
        let (id, is_final) = match &message {
            Message::Welcome(_) => {
                assert!(self.stage == Stage::Greet && asked.has_said_a_line());
                self.stage = Stage::Talk;
                return;
            }
            Message::Error(error) => match error.id {
                Some(id) => (id, true),
                None => {
                    assert!(self.stage != Stage::Over);
                    self.stage = Stage::Over;
                    return self.check_last_word(error.code, asked);
                }
            },
            Message::Alive(_) => return assert!(self.stage == Stage::Talk),
            Message::Kept(kept) => (kept.id, false),
            Message::Entries(entries) => (entries.id, false),
            Message::File(file) => (file.id, false),
            Message::Data(data) => (data.id, false),
            Message::Done(done) => (done.id, true),
            Message::End(end) => (end.id, true),
            Message::Held(held) => (held.id, true),
            Message::Info(info) => (info.id, true),
            Message::Ok(okay) => (okay.id, true),
            Message::Pong(pong) => (pong.id, true),
        };
        assert!(self.stage == Stage::Talk);
        assert!(asked.knows(id), "an answer to what was not asked");
        assert!(!self.answered.contains(&id), "a reply behind the final one");
        self.check_taken(id, &message);
        self.last_id = Some(id);
        match &message {
            Message::File(file) => {
                assert!(self.files.insert(id, file.at).is_none());
            }
            Message::Data(data) => {
                assert!(data.size > 0);
                let next = self.files.get_mut(&id).expect("a file was announced");
                assert_eq!(*next, data.at);
                *next += data.size;
                self.part = Some(Part { id, at: data.at, left: data.size });
            }
            _ => {}
        }
        if is_final {
            self.answered.insert(id);
        }
    }

    /// Nothing but the refusal is said of a request that came when none was taken.
    fn check_taken(&self, id: RequestId, message: &ServerMessage) {
        let Some(no_more) = &self.no_more else { return };
        if Some(id) > no_more.last {
            let ServerMessage::Error(error) = message else {
                panic!("{id} was taken: {message:?}")
            };
            assert_eq!(error.code, no_more.code);
        }
    }

    fn check_last_word(&self, code: Code, asked: &Asked) {
        match code {
            Code::LineTooLong => assert!(asked.end == End::LineTooLong),
            // Nothing else ends with these here: what ran was answered first.
            Code::Denied | Code::Expired | Code::ShuttingDown => {
                assert!(self.no_more.as_ref().is_some_and(|no_more| no_more.code == code));
                assert_eq!(self.left, []);
            }
            _ => {}
        }
    }
}
