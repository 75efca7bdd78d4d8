//! What a server answers, held against what it was asked.

use super::{Client, Committing, Event, Inbound, Request, Sending, Violation};
use crate::edges::{Phase, Step};
use crate::file::{Depth, Durability, Kind};
use crate::message::{
    Data, Done, End, Entries, File, Held, HeldState, Info, Kept, List, Okay, ServerMessage,
};
use crate::name::Name;

impl Client {
    pub(super) fn answered(&mut self, message: ServerMessage) -> Result<(), Violation> {
        match message {
            ServerMessage::Alive(_) => Ok(()),
            ServerMessage::Kept(kept) => self.kept(kept),
            ServerMessage::Done(done) => self.done(done),
            ServerMessage::File(file) => self.file(file),
            ServerMessage::Data(data) => self.part(data),
            ServerMessage::End(end) => self.ended(end),
            ServerMessage::Held(held) => self.held(held),
            ServerMessage::Info(info) => self.info(info),
            ServerMessage::Entries(entries) => self.entries(entries),
            ServerMessage::Ok(okay) => self.okay(okay),
            ServerMessage::Pong(pong) => match self.requests.get(&pong.id) {
                Some(Request::Ping) => {
                    self.forget(pong.id, Step::Answered);
                    self.events.push_back(Event::Pong(pong.id));
                    Ok(())
                }
                _ => Err(Violation::OutOfTurn { got: "pong" }),
            },
            ServerMessage::Error(error) => match error.id {
                Some(id) if self.requests.contains_key(&id) => {
                    self.forget(id, Step::Refused);
                    self.events.push_back(Event::Refused { id, refusal: error.refusal() });
                    Ok(())
                }
                _ => Err(Violation::OutOfTurn { got: "error" }),
            },
            ServerMessage::Welcome(_) => Err(Violation::OutOfTurn { got: "welcome" }),
        }
    }

    fn kept(&mut self, kept: Kept) -> Result<(), Violation> {
        match self.requests.get_mut(&kept.id) {
            Some(Request::Receive(receiving)) => {
                if kept.at < receiving.kept || kept.at > receiving.at {
                    let why = "it shrinks, or names bytes that were not sent";
                    return Err(Violation::Contradiction { got: "kept", why });
                }
                receiving.kept = kept.at;
                self.events.push_back(Event::Kept(kept));
                Ok(())
            }
            // It crossed the `end`; the final reply will say all.
            Some(Request::Commit(_)) => {
                self.taken.request(Phase::Commit, Step::Kept);
                Ok(())
            }
            _ => Err(Violation::OutOfTurn { got: "kept" }),
        }
    }

    fn done(&mut self, done: Done) -> Result<(), Violation> {
        let Some(Request::Commit(Committing { name, end: sent, durability })) =
            self.requests.get(&done.id)
        else {
            return Err(Violation::OutOfTurn { got: "done" });
        };
        if done.digest != sent.digest || done.size != sent.size {
            let (stored, sent) = (done.digest, sent.digest);
            return Err(Violation::FalseAcknowledgement { stored, sent });
        }
        // Rule 6.3: what is in memory is as durable as that server's disk gets.
        let least = (*durability).min(Durability::Memory);
        if done.durability < least {
            return Err(Violation::WeakAcknowledgement {
                asked: *durability,
                given: done.durability,
            });
        }
        if done.name.as_ref().is_some_and(|given| !given.is_numbered(name)) {
            let why = "its name is not the one asked for with a number";
            return Err(Violation::Contradiction { got: "done", why });
        }
        self.forget(done.id, Step::Stored);
        self.events.push_back(Event::Done(done));
        Ok(())
    }

    fn file(&mut self, file: File) -> Result<(), Violation> {
        const GOT: &str = "file";
        let Some(Request::Open(get)) = self.requests.get(&file.id) else {
            return Err(Violation::OutOfTurn { got: GOT });
        };
        if file.at != get.at || file.at > file.size {
            return Err(Violation::Contradiction { got: GOT, why: "it begins elsewhere" });
        }
        if get.version.as_ref().is_some_and(|version| *version != file.version) {
            return Err(Violation::Contradiction { got: GOT, why: "it is another version" });
        }
        let sending = Sending { digest: get.digest, size: file.size, at: file.at };
        self.enter(file.id, Step::Opened, Request::Send(sending));
        self.events.push_back(Event::File(file));
        Ok(())
    }

    fn part(&mut self, data: Data) -> Result<(), Violation> {
        const GOT: &str = "data";
        let part_max = self.limits.part;
        let Some(Request::Send(sending)) = self.requests.get_mut(&data.id) else {
            return Err(Violation::OutOfTurn { got: GOT });
        };
        let end = data.at.saturating_add(data.size);
        if data.at != sending.at || end > sending.size || data.size > part_max {
            let why = "it does not follow on the part before it";
            return Err(Violation::Contradiction { got: GOT, why });
        }
        sending.at = end;
        if data.size > 0 {
            self.inbound = Inbound::Part { id: data.id, at: data.at, left: data.size };
        }
        Ok(())
    }

    fn ended(&mut self, end: End) -> Result<(), Violation> {
        const GOT: &str = "end";
        let Some(Request::Send(sending)) = self.requests.get(&end.id) else {
            return Err(Violation::OutOfTurn { got: GOT });
        };
        if end.size != sending.size || sending.at != sending.size {
            return Err(Violation::Contradiction { got: GOT, why: "bytes are missing" });
        }
        if end.digest.algorithm != sending.digest {
            return Err(Violation::Contradiction { got: GOT, why: "a digest of another kind" });
        }
        self.forget(end.id, Step::Finished);
        self.events.push_back(Event::End(end));
        Ok(())
    }

    fn held(&mut self, held: Held) -> Result<(), Violation> {
        const GOT: &str = "held";
        let Some(Request::Resume) = self.requests.get(&held.id) else {
            return Err(Violation::OutOfTurn { got: GOT });
        };
        let fits = match (held.state, held.ranges.as_slice()) {
            (HeldState::Nothing, []) => held.digest.is_none(),
            (HeldState::Partial | HeldState::Complete, [(0, _)]) => held.digest.is_some(),
            _ => false,
        };
        if !fits {
            let why = "its ranges do not fit its state";
            return Err(Violation::Contradiction { got: GOT, why });
        }
        self.forget(held.id, Step::Answered);
        self.events.push_back(Event::Held(held));
        Ok(())
    }

    fn info(&mut self, info: Info) -> Result<(), Violation> {
        const GOT: &str = "info";
        let Some(Request::Stat(stat)) = self.requests.get(&info.id) else {
            return Err(Violation::OutOfTurn { got: GOT });
        };
        let asked = if info.kind == Kind::File { stat.digest } else { None };
        if info.digest.map(|digest| digest.algorithm) != asked {
            return Err(Violation::Contradiction {
                got: GOT,
                why: "another digest than asked for",
            });
        }
        self.forget(info.id, Step::Answered);
        self.events.push_back(Event::Info(info));
        Ok(())
    }

    fn entries(&mut self, entries: Entries) -> Result<(), Violation> {
        const GOT: &str = "entries";
        let Some(Request::List(list)) = self.requests.get(&entries.id) else {
            return Err(Violation::OutOfTurn { got: GOT });
        };
        if entries.entries.iter().any(|entry| !is_listed(list, &entry.name)) {
            return Err(Violation::Contradiction { got: GOT, why: "a name of another place" });
        }
        self.events.push_back(Event::Entries(entries));
        Ok(())
    }

    fn okay(&mut self, okay: Okay) -> Result<(), Violation> {
        const GOT: &str = "ok";
        match (self.requests.get(&okay.id), okay.durability) {
            (Some(Request::List(_)), _) => {}
            (Some(&Request::Change(asked)), Some(given)) => {
                if given < asked.min(Durability::Memory) {
                    return Err(Violation::WeakAcknowledgement { asked, given });
                }
            }
            _ => return Err(Violation::OutOfTurn { got: GOT }),
        }
        self.forget(okay.id, Step::Answered);
        self.events.push_back(Event::Ok(okay));
        Ok(())
    }
}

/// Whether a name may be an entry of what was listed.
fn is_listed(list: &List, name: &Name) -> bool {
    match (&list.name, list.depth) {
        (None, Depth::All) => true,
        (Some(above), Depth::All) => name != above && name.is_or_is_below(above),
        (above, Depth::One) => name.parent() == *above,
    }
}
