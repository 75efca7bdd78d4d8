//! What the server does with each message of a client.

use std::iter;
use std::time::Duration;

use super::busy::Busy;
use super::requests::{
    Behind, Committing, Listing, Opening, Outcome, Progress, Receiving, Refused, Request,
};
use super::{Command, DrainCause, Inbound, NoMore, Server, Stage, Work};
use crate::asked::{Asked, Verb};
use crate::clock::Time;
use crate::edges::{Phase, Step, Turn};
use crate::error::{Code, Refusal};
use crate::ids::RequestId;
use crate::limits::{ENTRIES_AHEAD, GETS_OPEN, REPLY_QUEUE_BYTES};
use crate::line::{self, LineError};
use crate::message::{
    Abort, Change, ClientMessage, Data, End, Error, FTX_VERSION, Get, Hello, List, Mkdir, More,
    Move, Ping, Pong, Put, Remove, Resume, ServerMessage, Stat, Welcome,
};

/// Why a request is not taken in.
enum Inadmissible {
    /// The connection is at its end.
    Ends(Code),
    /// It is refused, and whatever comes behind it may be taken.
    Refused(Refusal),
}

impl Server {
    pub(super) fn read_line(&mut self, line: &[u8], now: Time) {
        let message = line::read_client(line);
        match (&self.stage, message) {
            (_, Err(LineError::Fatal(refusal))) => self.refuse_line(refusal, now),
            (Stage::Greet, Ok(ClientMessage::Hello(hello))) => self.greet(hello, now),
            (Stage::Greet, _) | (_, Ok(ClientMessage::Hello(_))) => {
                self.refuse_line(Code::BadHello.into(), now);
            }
            (_, Err(LineError::Refused(id, asked, refusal))) => {
                let why = self.admit(id).err().unwrap_or(Inadmissible::Refused(refusal));
                self.turn_away(id, asked, why, now);
            }
            (_, Ok(message)) => self.carry_out(message, now),
        }
    }

    /// Ends the connection for a line that asks for nothing. Only the first one is known to ask for something: to
    /// be let in.
    pub(super) fn refuse_line(&mut self, refusal: Refusal, now: Time) {
        match self.stage {
            Stage::Greet => self.fail_for(Asked::LOGIN, refusal, now),
            _ => self.fail(refusal, now),
        }
    }

    /// Ends the connection for what was asked.
    fn fail_for(&mut self, asked: Asked, refusal: Refusal, now: Time) {
        self.tell_refused(asked, refusal.clone(), now);
        self.fail(refusal, now);
    }

    /// Tells the driver of what it would not hear of otherwise.
    fn tell_refused(&mut self, asked: Asked, refusal: Refusal, since: Time) {
        let refused = Refused { asked, refusal, since };
        self.busy.commands.push_back(Command::Refused(Box::new(refused)));
    }

    fn greet(&mut self, hello: Hello, now: Time) {
        if hello.ftx != FTX_VERSION {
            let message = format!("this server speaks ftx/{FTX_VERSION}, not ftx/{}", hello.ftx);
            return self.refuse_line(Refusal::new(Code::UnsupportedVersion, message), now);
        }
        let welcome = Welcome {
            ftx: FTX_VERSION,
            agent: self.settings.agent.clone(),
            features: self.settings.features.clone(),
            limits: self.settings.limits.clone(),
        };
        self.turn(Turn::Hello, Stage::Talk);
        self.busy.commands.push_back(Command::Login(hello.token));
        self.say(&ServerMessage::Welcome(welcome), now);
    }

    fn carry_out(&mut self, message: ClientMessage, now: Time) {
        match message {
            ClientMessage::Hello(_) => {}
            ClientMessage::Data(data) => self.open_part(data, now),
            ClientMessage::End(end) => self.close_body(end, now),
            ClientMessage::Abort(abort) => self.abort(abort, now),
            ClientMessage::More(more) => self.allow_more(&more),
            ClientMessage::Put(Put { id, .. })
            | ClientMessage::Get(Get { id, .. })
            | ClientMessage::Resume(Resume { id, .. })
            | ClientMessage::Stat(Stat { id, .. })
            | ClientMessage::List(List { id, .. })
            | ClientMessage::Mkdir(Mkdir { id, .. })
            | ClientMessage::Move(Move { id, .. })
            | ClientMessage::Remove(Remove { id, .. })
            | ClientMessage::Ping(Ping { id, .. }) => match self.admit(id) {
                Ok(()) => self.begin(id, message, now),
                Err(why) => self.turn_away(id, Asked::of(&message), why, now),
            },
        }
    }

    /// Takes a request in, if it may have this id, and be at all.
    fn admit(&mut self, id: RequestId) -> Result<(), Inadmissible> {
        if self.last_id.is_some_and(|last| id <= last) {
            return Err(Inadmissible::Ends(Code::BadId));
        }
        if self.busy.requests.len() as u64 >= self.settings.limits.requests {
            return Err(Inadmissible::Ends(Code::TooManyRequests));
        }
        self.last_id = Some(id);
        self.requests_total = self.requests_total.saturating_add(1);
        if self.requests_total > self.settings.requests_total_max {
            self.take_no_more(NoMore::Enough);
        }
        match self.stage {
            Stage::Drain(DrainCause::NoMore(why)) => Err(Inadmissible::Refused(why.refusal())),
            _ => Ok(()),
        }
    }

    /// Says of a request why it was not taken in.
    fn turn_away(&mut self, id: RequestId, asked: Asked, why: Inadmissible, now: Time) {
        match why {
            Inadmissible::Ends(code) => self.fail_for(asked, code.into(), now),
            Inadmissible::Refused(refusal) => self.refuse_at_once(id, asked, refusal, now),
        }
    }

    fn begin(&mut self, id: RequestId, message: ClientMessage, now: Time) {
        match message {
            ClientMessage::Put(put) => self.begin_put(put, now),
            ClientMessage::Get(get) => {
                self.begin_in_order(id, Request::Open(Opening { get, since: now }));
            }
            ClientMessage::Stat(stat) => self.begin_in_order(id, Request::Stat(stat)),
            ClientMessage::List(list) => {
                self.begin_in_order(id, Request::List(Listing::new(list, now)));
            }
            ClientMessage::Mkdir(mkdir) => {
                self.begin_in_order(id, Request::Change(Change::Mkdir(mkdir)));
            }
            ClientMessage::Move(moving) => {
                self.begin_in_order(id, Request::Change(Change::Move(moving)));
            }
            ClientMessage::Remove(remove) => {
                self.begin_in_order(id, Request::Change(Change::Remove(remove)));
            }
            ClientMessage::Resume(resume) => {
                self.start(id, Request::Resume);
                self.busy.ask(Work::Resume(resume));
            }
            ClientMessage::Ping(Ping { id, .. }) => {
                self.say(&ServerMessage::Pong(Pong { id }), now)
            }
            ClientMessage::Hello(_)
            | ClientMessage::Data(_)
            | ClientMessage::End(_)
            | ClientMessage::Abort(_)
            | ClientMessage::More(_) => {}
        }
    }

    fn begin_in_order(&mut self, id: RequestId, request: Request) {
        match &request {
            Request::List(Listing { list: List { name: None, .. }, .. }) => {
                self.busy.order.enter_last(id);
            }
            request => {
                self.busy.order.enter(request.ordered_names(), id);
            }
        }
        self.start(id, request);
        self.issue_in_order(id);
    }

    fn begin_put(&mut self, put: Put, now: Time) {
        let asked = || Asked::about(Verb::Put, Some(&put.name), None);
        if self.receiving.is_some() {
            let refusal = Refusal::new(Code::BadMessage, "a put inside the body of another put");
            return self.fail_for(asked(), refusal, now);
        }
        if put.size.is_some_and(|size| put.at > size) {
            return self.refuse_at_once(put.id, asked(), Code::BadOffset.into(), now);
        }
        if put.size.unwrap_or(put.at) > self.settings.limits.file {
            return self.refuse_at_once(put.id, asked(), Code::TooLarge.into(), now);
        }
        self.busy.order.enter(iter::once(&put.name), put.id);
        self.receiving = Some(put.id);
        let receiving = Receiving {
            name: put.name.clone(),
            digest: put.digest,
            size: put.size,
            at: put.at,
            kept: put.at,
        };
        self.start(put.id, Request::Receive(receiving));
        let behind = match self.busy.order.holds_back(put.id) {
            true => Behind::Others,
            false => Behind::Nothing,
        };
        self.busy.ask(Work::Begin(put, behind));
    }

    /// Answers a request that never came to life.
    fn refuse_at_once(&mut self, id: RequestId, asked: Asked, refusal: Refusal, now: Time) {
        self.tell_refused(asked, refusal.clone(), now);
        self.say(&ServerMessage::Error(Error::new(Some(id), refusal)), now);
    }

    fn open_part(&mut self, data: Data, now: Time) {
        let Data { id, at, size } = data;
        if size > 0 {
            self.inbound = Inbound::Part { id, left: size, size, waited: Duration::ZERO };
        }
        if self.receiving != Some(id) {
            return;
        }
        let part_max = self.settings.limits.part;
        let file_max = self.settings.limits.file;
        let Some(Request::Receive(receiving)) = self.busy.requests.get_mut(&id) else { return };
        let end = at.saturating_add(size);
        let wrong = if size > part_max {
            Some(Refusal::new(Code::BadPart, format!("a part has at most {part_max} bytes")))
        } else if at != receiving.at {
            let message = format!("a part at {at}, where {} is next", receiving.at);
            Some(Refusal::new(Code::BadPart, message))
        } else if receiving.size.is_some_and(|size| end > size) {
            Some(Refusal::new(Code::BadPart, format!("a part to {end}, past the announced size")))
        } else if end > file_max {
            Some(Code::TooLarge.into())
        } else {
            receiving.at = end;
            self.taken.request(Phase::Receive, Step::Data);
            None
        };
        if let Some(refusal) = wrong {
            self.discard(id, Step::Refused, refusal, now);
        }
    }

    fn close_body(&mut self, end: End, now: Time) {
        let id = end.id;
        if self.receiving != Some(id) {
            return;
        }
        let Some(Request::Receive(receiving)) = self.busy.requests.get(&id) else { return };
        let arrived = receiving.at;
        if end.size != arrived || receiving.size.is_some_and(|size| size != arrived) {
            let message = match receiving.size {
                Some(size) if size != arrived => {
                    format!("{arrived} bytes arrived, and {size} were announced")
                }
                _ => format!("{arrived} bytes arrived; end says {}", end.size),
            };
            return self.discard(id, Step::Refused, Refusal::new(Code::SizeMismatch, message), now);
        }
        if end.digest.algorithm != receiving.digest {
            let message = format!("end has a digest of another kind than {}", receiving.digest);
            let refusal = Refusal::new(Code::DigestMismatch, message);
            return self.discard(id, Step::Refused, refusal, now);
        }
        let name = receiving.name.clone();
        self.receiving = None;
        self.enter(id, Step::End, Request::Commit(Committing { name, end }));
        self.issue_in_order(id);
    }

    fn abort(&mut self, abort: Abort, now: Time) {
        let id = abort.id;
        let is_put = matches!(self.busy.requests.get(&id), Some(Request::Receive(_)));
        let refusal = match abort.code {
            Code::Changed if is_put => {
                Refusal::new(Code::Changed, "the client's file changed while it was read")
            }
            _ => Refusal::new(Code::Aborted, "the client gave up"),
        };
        match self.busy.requests.get_mut(&id) {
            Some(Request::Receive(_)) => self.discard(id, Step::Abort, refusal, now),
            Some(Request::Open(Opening { get, since })) => {
                let (asked, since) = (Asked::about(Verb::Get, Some(&get.name), None), *since);
                if self.busy.opening.contains(&id) {
                    self.busy.ask(Work::Close(id));
                } else {
                    self.tell_refused(asked, refusal.clone(), since);
                }
                self.refuse(id, Step::Abort, refusal, now);
                self.count_cancelled(now);
            }
            Some(Request::Send(sending)) => {
                sending.outcome = Outcome::Refused(refusal);
                self.taken.request(Phase::Send, Step::Abort);
                if !self.busy.outbound.has_part_of(id) {
                    self.end_sending(id, now);
                    self.send_whole(now);
                }
            }
            Some(Request::List(Listing { list, progress, since, .. })) => {
                if *progress == Progress::Waiting {
                    let asked = Asked::about(Verb::List, list.name.as_ref(), None);
                    let since = *since;
                    self.tell_refused(asked, refusal.clone(), since);
                }
                self.refuse(id, Step::Abort, refusal, now);
                self.count_cancelled(now);
            }
            Some(Request::Commit(_) | Request::Stat(_) | Request::Change(_) | Request::Resume)
            | None => {}
        }
    }

    pub(super) fn allow_more(&mut self, more: &More) {
        if let Some(Request::List(listing)) = self.busy.requests.get_mut(&more.id) {
            listing.ahead = listing.ahead.saturating_add(1).min(ENTRIES_AHEAD);
        }
        self.continue_list();
    }

    /// Refuses the open put and has storage drop it.
    fn discard(&mut self, id: RequestId, step: Step, refusal: Refusal, now: Time) {
        self.busy.ask(Work::Discard(id, refusal.clone()));
        self.refuse(id, step, refusal, now);
        self.count_cancelled(now);
    }

    /// Issues the command of a request now, or when those before it have taken effect.
    fn issue_in_order(&mut self, id: RequestId) {
        if !self.busy.order.holds_back(id) {
            self.issue(id);
        }
    }

    fn issue(&mut self, id: RequestId) {
        let Busy { requests, commands, .. } = &mut *self.busy;
        match requests.get(&id) {
            Some(Request::Commit(committing)) => {
                commands.push_back(Command::Work(Work::Finish(committing.end.clone())));
            }
            Some(Request::Stat(stat)) if stat.digest.is_none() => {
                commands.push_back(Command::Work(Work::Stat(stat.clone())));
            }
            Some(Request::Change(change)) => {
                commands.push_back(Command::Work(Work::Change(change.clone())));
            }
            Some(Request::List(_)) => {
                self.busy.lists.push_back(id);
                self.continue_list();
            }
            Some(Request::Open(_) | Request::Stat(_)) => {
                self.busy.to_open.push_back(id);
                self.open_more();
            }
            Some(Request::Receive(_) | Request::Send(_) | Request::Resume) | None => {}
        }
    }

    /// Opens files of gets, as many at a time as one connection may have open.
    pub(super) fn open_more(&mut self) {
        while self.busy.opening.len().saturating_add(self.busy.send_queue.len()) < GETS_OPEN
            && let Some(id) = self.busy.to_open.pop_front()
        {
            let work = match self.busy.requests.get(&id) {
                Some(Request::Open(opening)) => Work::Open(opening.get.clone()),
                Some(Request::Stat(stat)) => Work::Sum(stat.clone()),
                _ => continue,
            };
            self.busy.opening.insert(id);
            self.busy.ask(work);
        }
    }

    /// Has storage look for the next entries of the list whose turn it is, if there is room for
    /// them: the client has asked for more, and reads what it is sent.
    pub(super) fn continue_list(&mut self) {
        let finished = matches!(self.stage, Stage::Drain(DrainCause::PeerFinished));
        if self.busy.outbound.queued_bytes() > REPLY_QUEUE_BYTES {
            return;
        }
        let Busy { lists, requests, commands, .. } = &mut *self.busy;
        let Some(id) = lists.front() else { return };
        let Some(Request::List(listing)) = requests.get_mut(id) else { return };
        if listing.ahead == 0 && !finished {
            return;
        }
        match listing.progress {
            Progress::Opening | Progress::Storage => {}
            Progress::Waiting => {
                listing.progress = Progress::Opening;
                commands.push_back(Command::Work(Work::List(listing.list.clone())));
            }
            Progress::Connection => {
                listing.progress = Progress::Storage;
                commands.push_back(Command::Work(Work::More(*id)));
            }
        }
    }

    /// Issues the commands whose turn has come, because a request has just taken effect or never will.
    pub(super) fn release(&mut self) {
        while let Some(id) = self.busy.order.next_free() {
            self.issue(id);
        }
        self.open_more();
    }
}
