//! What the server does with each answer of storage, and how it sends a file.
//!
//! Answers to requests that are over (refused, aborted, of a connection that failed) come late and
//! are passed over.

use std::iter;

use super::busy::Busy;
use super::requests::{Body, Outcome, Progress, Request, Sending};
use super::{Event, Server, Work};
use crate::clock::Time;
use crate::edges::{Phase, Step};
use crate::error::{Code, Refusal};
use crate::ids::RequestId;
use crate::limits::REPLY_QUEUE_BYTES;
use crate::message::{Data, Done, End, Entries, Error, File, Kept, ServerMessage};

impl Server {
    /// Takes an answer of storage.
    pub fn handle(&mut self, event: Event, now: Time) {
        match event {
            Event::Kept(kept) => self.kept(kept, now),
            Event::Stored(done) => self.stored(done, now),
            Event::Opened(file) => self.opened(file, Body::Open, Outcome::Unknown, now),
            Event::Whole { file, bytes, digest, spent } => {
                if bytes.len() as u64 == file.size.saturating_sub(file.at) {
                    self.opened(file, Body::Here(bytes), Outcome::Digest(digest, spent), now);
                } else {
                    let refusal = Refusal::new(Code::StorageFailed, "the file was not read whole");
                    self.refused(file.id, refusal, now);
                }
            }
            Event::Digest { id, digest, spent } => {
                if let Some(Request::Send(sending)) = self.busy.requests.get_mut(&id)
                    && matches!(sending.outcome, Outcome::Unknown)
                {
                    sending.outcome = Outcome::Digest(digest, spent);
                    self.end_sending(id, now);
                }
            }
            Event::Held(held) => {
                if let Some(Request::Resume) = self.busy.requests.get(&held.id) {
                    self.reply(held.id, Step::Answered, &ServerMessage::Held(held), now);
                }
            }
            Event::Info(info) => {
                if let Some(Request::Stat(_)) = self.busy.requests.get(&info.id) {
                    self.reply(info.id, Step::Answered, &ServerMessage::Info(info), now);
                }
            }
            Event::Entries(entries) => self.entries(entries, now),
            Event::Ok(okay) => {
                if let Some(Request::List(_) | Request::Change(_)) =
                    self.busy.requests.get(&okay.id)
                {
                    self.reply(okay.id, Step::Answered, &ServerMessage::Ok(okay), now);
                }
            }
            Event::Refused { id, refusal } => self.refused(id, refusal, now),
        }
        self.send_whole(now);
        self.finish_drain(now);
    }

    fn kept(&mut self, kept: Kept, now: Time) {
        if let Some(Request::Receive(receiving)) = self.busy.requests.get_mut(&kept.id) {
            receiving.kept = kept.at;
            self.discarded_bytes = 0;
            self.taken.request(Phase::Receive, Step::Kept);
            self.answered(now);
            self.say(&ServerMessage::Kept(kept), now);
        }
    }

    fn stored(&mut self, done: Done, now: Time) {
        if let Some(Request::Commit(_)) = self.busy.requests.get(&done.id) {
            self.discarded_bytes = 0;
            self.reply(done.id, Step::Stored, &ServerMessage::Done(done), now);
        }
    }

    fn opened(&mut self, file: File, body: Body, outcome: Outcome, now: Time) {
        let id = file.id;
        let Some(Request::Open(opening)) = self.busy.requests.get(&id) else { return };
        let name = opening.get.name.clone();
        let nothing_to_send = matches!(body, Body::Open) && file.at >= file.size;
        let sending = Sending { at: file.at, size: file.size, body, outcome };
        self.enter(id, Step::Opened, Request::Send(sending));
        self.busy.order.leave(iter::once(&name), id);
        self.busy.opening.remove(&id);
        self.busy.send_queue.push_back(id);
        self.say(&ServerMessage::File(file), now);
        if nothing_to_send {
            self.busy.ask(Work::Digest(id));
        }
        self.release();
    }

    /// Says some of what is in a directory. The first of it means that the list has taken effect.
    fn entries(&mut self, entries: Entries, now: Time) {
        let id = entries.id;
        let Some(Request::List(listing)) = self.busy.requests.get_mut(&id) else { return };
        listing.ahead = listing.ahead.saturating_sub(1);
        let was = std::mem::replace(&mut listing.progress, Progress::Connection);
        self.taken.request(Phase::Ask, Step::Entries);
        let name = listing.list.name.clone();
        self.say(&ServerMessage::Entries(entries), now);
        self.answered(now);
        if let (Progress::Opening, Some(name)) = (was, name) {
            self.busy.order.leave(iter::once(&name), id);
            self.release();
        }
        self.continue_list();
    }

    fn refused(&mut self, id: RequestId, refusal: Refusal, now: Time) {
        match self.busy.requests.get_mut(&id) {
            Some(Request::Send(sending)) => {
                sending.outcome = Outcome::Refused(refusal);
                if self.busy.outbound.has_part_of(id) {
                    self.busy.outbound.fill_with_zeros();
                } else {
                    self.end_sending(id, now);
                }
            }
            Some(_) => self.refuse(id, Step::Refused, refusal, now),
            // The last part of a connection that has failed cannot be filled: it ends inside it.
            None => {
                if self.busy.outbound.has_part_of(id) {
                    self.broken();
                }
            }
        }
    }

    /// Says the files that are here whole, as far as it is their turn and there is room.
    pub(super) fn send_whole(&mut self, now: Time) {
        while !self.busy.outbound.has_part()
            && self.busy.outbound.queued_bytes() <= REPLY_QUEUE_BYTES
            && let Some(&id) = self.busy.send_queue.front()
            && let Busy { requests, outbound, .. } = &mut *self.busy
            && let Some(Request::Send(sending)) = requests.get_mut(&id)
            && let Body::Here(bytes) = &sending.body
        {
            if !bytes.is_empty() {
                let size = bytes.len() as u64;
                let header = ServerMessage::Data(Data { id, at: sending.at, size });
                outbound.say_part(&header, bytes);
                sending.at = sending.at.saturating_add(size);
                self.taken.request(Phase::Send, Step::Data);
            }
            self.end_sending(id, now);
        }
    }

    /// Opens the next part of the get whose turn it is.
    pub(super) fn continue_sending(&mut self, now: Time) {
        let Some(&id) = self.busy.send_queue.front() else { return };
        let Some(Request::Send(sending)) = self.busy.requests.get(&id) else { return };
        if let Body::Here(_) = sending.body {
            return;
        }
        let (at, left) = (sending.at, sending.size.saturating_sub(sending.at));
        // A part is opened when the lines before it are nearly written, so that it does not hold
        // up the lines that come in the meantime.
        if left == 0 || self.busy.outbound.queued_bytes() > REPLY_QUEUE_BYTES {
            return;
        }
        let size = left.min(self.settings.limits.part);
        let header = ServerMessage::Data(Data { id, at, size });
        self.busy.outbound.open_part(&header, id, at, size);
        if let Some(Request::Send(sending)) = self.busy.requests.get_mut(&id) {
            sending.at = at.saturating_add(size);
        }
        self.taken.request(Phase::Send, Step::Data);
        self.spoke = now;
    }

    /// A part was written whole.
    pub(super) fn part_sent(&mut self, id: RequestId, now: Time) {
        let Some(Request::Send(sending)) = self.busy.requests.get(&id) else { return };
        if sending.at >= sending.size && matches!(sending.outcome, Outcome::Unknown) {
            self.busy.ask(Work::Digest(id));
        }
        self.end_sending(id, now);
    }

    /// Gives a get its final reply, if it is due: never inside a part.
    pub(super) fn end_sending(&mut self, id: RequestId, now: Time) {
        if self.busy.outbound.has_part_of(id) {
            return;
        }
        let Some(Request::Send(sending)) = self.busy.requests.get(&id) else { return };
        match &sending.outcome {
            Outcome::Refused(refusal) => {
                let error = ServerMessage::Error(Error::new(Some(id), refusal.clone()));
                self.reply(id, Step::Refused, &error, now);
            }
            Outcome::Digest(digest, spent) if sending.at >= sending.size => {
                let end = End { id, size: sending.size, digest: *digest, spent: *spent };
                self.reply(id, Step::Finished, &ServerMessage::End(end), now);
            }
            Outcome::Digest(..) | Outcome::Unknown => {}
        }
    }
}
