//! What a client asks for, and the bodies of its puts: each is a line to write.

use super::{Client, Committing, Receiving, Request};
use crate::clock::Time;
use crate::digest::Digest;
use crate::edges::Step;
use crate::error::Code;
use crate::ids::RequestId;
use crate::limits::UNKEPT_BYTES;
use crate::line;
use crate::message::{
    Abort, Change, ClientMessage, Data, End, Get, List, Mkdir, More, Move, Ping, Put, Remove,
    Resume, Stat,
};

impl Client {
    /// Asks to put a file. The `id` in `put` is set here. The body is open until
    /// [`Client::end`] or [`Client::abort`].
    pub fn put(&mut self, mut put: Put, out: &mut Vec<u8>, now: Time) -> RequestId {
        let id = self.begin(now);
        put.id = id;
        let name = put.name.clone();
        let receiving = Receiving { name, durability: put.durability, at: put.at, kept: put.at };
        self.requests.insert(id, Request::Receive(receiving));
        line::write(&ClientMessage::Put(put), out);
        id
    }

    /// Announces the next part of a put; exactly `size` raw bytes have to follow. Returns the
    /// offset of the part, or `None`, with nothing announced, when the put was refused in the
    /// meantime.
    pub fn data(&mut self, id: RequestId, size: u64, out: &mut Vec<u8>) -> Option<u64> {
        let Some(Request::Receive(receiving)) = self.requests.get_mut(&id) else { return None };
        let at = receiving.at;
        receiving.at = at.saturating_add(size);
        line::write(&ClientMessage::Data(Data { id, at, size }), out);
        Some(at)
    }

    /// How many bytes of the put may be sent before more of it must be durable (rule 7.3).
    pub fn window_bytes(&self, id: RequestId) -> u64 {
        match self.requests.get(&id) {
            Some(Request::Receive(receiving)) => {
                receiving.kept.saturating_add(UNKEPT_BYTES).saturating_sub(receiving.at)
            }
            _ => 0,
        }
    }

    /// Closes the body of a put: all of it was sent. A put that was refused in the meantime needs
    /// its `end` too.
    pub fn end(&mut self, id: RequestId, size: u64, digest: Digest, out: &mut Vec<u8>) {
        let end = End { id, size, digest, spent: None };
        line::write(&ClientMessage::End(end.clone()), out);
        if let Some(Request::Receive(receiving)) = self.requests.get(&id) {
            let (name, durability) = (receiving.name.clone(), receiving.durability);
            self.enter(id, Step::End, Request::Commit(Committing { name, end, durability }));
        }
    }

    /// Closes the body of a put that is not to take effect, or stops a get. The final reply still
    /// comes, unless it has come.
    pub fn abort(&mut self, id: RequestId, code: Code, out: &mut Vec<u8>) {
        line::write(&ClientMessage::Abort(Abort { id, code }), out);
    }

    /// Asks for a file. The `id` in `get` is set here.
    pub fn get(&mut self, mut get: Get, out: &mut Vec<u8>, now: Time) -> RequestId {
        let id = self.begin(now);
        get.id = id;
        self.requests.insert(id, Request::Open(get.clone()));
        line::write(&ClientMessage::Get(get), out);
        id
    }

    /// Asks what is durable of a transfer. The `id` in `resume` is set here.
    pub fn resume(&mut self, mut resume: Resume, out: &mut Vec<u8>, now: Time) -> RequestId {
        let id = self.begin(now);
        resume.id = id;
        self.requests.insert(id, Request::Resume);
        line::write(&ClientMessage::Resume(resume), out);
        id
    }

    /// Asks what a name stands for. The `id` in `stat` is set here.
    pub fn stat(&mut self, mut stat: Stat, out: &mut Vec<u8>, now: Time) -> RequestId {
        let id = self.begin(now);
        stat.id = id;
        self.requests.insert(id, Request::Stat(stat.clone()));
        line::write(&ClientMessage::Stat(stat), out);
        id
    }

    /// Asks what is in a directory. The `id` in `list` is set here.
    pub fn list(&mut self, mut list: List, out: &mut Vec<u8>, now: Time) -> RequestId {
        let id = self.begin(now);
        list.id = id;
        self.requests.insert(id, Request::List(list.clone()));
        line::write(&ClientMessage::List(list), out);
        id
    }

    /// Allows one further [`Event::Entries`](super::Event::Entries) of a list. Nothing when the list is over.
    pub fn more(&mut self, id: RequestId, out: &mut Vec<u8>) {
        if let Some(Request::List(_)) = self.requests.get(&id) {
            line::write(&ClientMessage::More(More { id }), out);
        }
    }

    /// Asks to change names. The `id` in `change` is set here.
    pub fn change(&mut self, change: Change, out: &mut Vec<u8>, now: Time) -> RequestId {
        let id = self.begin(now);
        self.requests.insert(id, Request::Change(change.durability()));
        let message = match change {
            Change::Mkdir(mkdir) => ClientMessage::Mkdir(Mkdir { id, ..mkdir }),
            Change::Move(moving) => ClientMessage::Move(Move { id, ..moving }),
            Change::Remove(remove) => ClientMessage::Remove(Remove { id, ..remove }),
        };
        line::write(&message, out);
        id
    }

    /// Asks for a sign of life.
    pub fn ping(&mut self, out: &mut Vec<u8>, now: Time) -> RequestId {
        let id = self.begin(now);
        self.requests.insert(id, Request::Ping);
        line::write(&ClientMessage::Ping(Ping { id, need: Vec::new() }), out);
        id
    }

    fn begin(&mut self, now: Time) -> RequestId {
        if self.requests.is_empty() {
            self.heard = now;
        }
        let id = RequestId(self.next_id);
        self.next_id = self.next_id.saturating_add(1);
        id
    }
}
