//! What a connection brings: puts, and the small questions that have to stay in order with them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use ftx_disk::store;
use ftx_protocol::limits::RESUMABLE_BYTES;
use ftx_protocol::message::{End, Put, Resume};
use ftx_protocol::server::{Behind, Event};
use ftx_protocol::{Code, Name, Refusal, RequestId, Verb};

use super::audit::Came;
use super::committer::{Changing, Course, Whole};
use super::directory::Shared;
use super::partials::PARTIALS_OF_ANYONE;
use super::transfers::{Ending, Slot, taken_over};
use super::workers::{Ahead, Hand, Worked};
use super::{Granted, Job, Origin, Outcome, Place, Upload, audit};
use crate::server::access::Who;

/// After so many stored bytes the connection hears that buffers may be free, while there are more to store, so that it reads
/// on meanwhile. To tell of each small piece costs more than it gains; to tell when all are stored leaves both
/// sides waiting in turns.
const TAKEN_BYTES: usize = 512 * 1024;

/// The hand of the strand.
pub(super) struct Bring {
    shared: Arc<Shared>,
    origin: Origin,
    /// Puts whose body is open, as far as this connection knows; and some that are over, until there would be no room
    /// for more.
    puts: HashMap<RequestId, Arc<Slot>>,
    taken_bytes: usize,
    /// Puts that are whole, and go to the committer together.
    whole: Vec<Whole>,
}

impl Bring {
    pub(super) fn new(shared: Arc<Shared>, origin: Origin) -> Self {
        Self { shared, origin, puts: HashMap::new(), taken_bytes: 0, whole: Vec::new() }
    }

    fn begin(&mut self, put: Put, behind: Behind, granted: Granted, place: Place) {
        let (id, name, began) = (put.id, put.name.clone(), Instant::now());
        let transfers = &self.shared.transfers;
        let claimed = granted
            .check()
            .and_then(|()| transfers.claim(&put, &self.origin, granted, place, began));
        let slot = match claimed {
            Ok(slot) => slot,
            Err(refusal) => return self.refuse(id, &name, Came::Nowhere, refusal, began),
        };
        match self.try_begin(put, behind, &slot) {
            Ok(upload) => {
                self.make_room();
                self.puts.insert(id, Arc::clone(&slot));
                self.keep(id, &slot, Box::new(upload));
            }
            Err(refusal) => {
                self.shared.transfers.release(&slot);
                self.refuse(id, &name, Came::Nowhere, slot.granted.in_words(refusal), began);
            }
        }
    }

    /// Forgets puts that ended elsewhere, because somebody took them over, say: nothing is heard of them any more. Then
    /// twice as many may be open before it is looked again.
    fn make_room(&mut self) {
        if self.puts.len() == self.puts.capacity() {
            self.puts.retain(|_, slot| !slot.is_gone());
            self.puts.reserve(self.puts.len());
        }
    }

    fn try_begin(&self, put: Put, behind: Behind, slot: &Slot) -> Result<Upload, Refusal> {
        slot.reserve(put.at, put.size)?;
        let unfinished_max = self.unfinished_max(&put, &slot.granted)?;
        let (store, put) = (&self.shared.store, beginning(put, &slot.granted, unfinished_max));
        match behind {
            Behind::Nothing => store.begin(put),
            Behind::Others => store.begin_behind_others(put),
        }
    }

    /// How many unfinished uploads there may be with this one, of whoever brings it.
    fn unfinished_max(&self, put: &Put, granted: &Granted) -> Result<Option<usize>, Refusal> {
        let Shared { store, partials, transfers, .. } = &*self.shared;
        match (&granted.share, &self.origin.who) {
            (Some(share), _) => Ok(Some(share.partials_max())),
            (None, Who::Public) => {
                if put.at == 0 && put.size.is_none_or(|size| size >= RESUMABLE_BYTES) {
                    let address = self.origin.network();
                    let is_unfinished = |other: &_| {
                        // One that is about to begin is not in the store yet.
                        transfers.is_taken(other) || store.is_unfinished(other)
                    };
                    partials.begin(put.transfer, address, is_unfinished)?;
                }
                Ok(Some(PARTIALS_OF_ANYONE))
            }
            (None, _) => Ok(None),
        }
    }

    fn resume(&self, resume: &Resume, granted: &Granted) {
        let (id, began) = (resume.id, Instant::now());
        match granted.check() {
            Ok(()) => self.shared.transfers.resume(resume, &self.origin, granted.owner.as_ref()),
            Err(refusal) => {
                audit::resume_refused(&self.origin, &refusal, began);
                self.shared.outcomes.push_event(self.origin.key, Event::Refused { id, refusal });
            }
        }
    }

    fn write(&mut self, id: RequestId, bytes: &[u8]) {
        let Some(slot) = self.puts.get(&id).cloned() else { return };
        let Some(mut upload) = slot.take() else { return self.lost(id) };
        if let Err(refusal) = slot.granted.check() {
            let ending = Ending::of_lost(&refusal);
            return self.fail(id, *upload, refusal, ending);
        }
        let written = slot
            .brought(upload.offset().saturating_add(bytes.len() as u64))
            .and_then(|()| upload.write(bytes));
        match written {
            Ok(checkpoint) => {
                if let Some(checkpoint) = checkpoint {
                    slot.lay(checkpoint);
                    self.shared.committer.keep(Arc::clone(&slot));
                }
                self.keep(id, &slot, upload);
            }
            Err(refusal) => self.fail(id, *upload, refusal, Ending::Discard),
        }
    }

    fn finish(&mut self, end: &End) {
        let Some(slot) = self.puts.get(&end.id).cloned() else { return };
        let Some(upload) = slot.take() else { return self.lost(end.id) };
        if let Err(refusal) = slot.granted.check() {
            let ending = Ending::of_lost(&refusal);
            return self.fail(end.id, *upload, refusal, ending);
        }
        if let Err(refusal) = slot.reached(end.size) {
            return self.fail(end.id, *upload, refusal, Ending::Discard);
        }
        let bytes = upload.offset();
        let course =
            Course { began: slot.began, bytes, spent: upload.spent(), ended: Instant::now() };
        match upload.finish(&self.shared.store, end.size, end.digest) {
            Ok(finished) => {
                self.puts.remove(&end.id);
                self.whole.push(Whole { slot, finished: Box::new(finished), course });
            }
            Err(refusal) => {
                self.puts.remove(&end.id);
                slot.give_back();
                self.shared.transfers.release(&slot);
                slot.refuse(Came::Bytes(bytes), refusal, &self.shared.outcomes);
            }
        }
    }

    /// Hands the puts that are whole over.
    fn commit(&mut self, ahead: Ahead) {
        let whole = std::mem::take(&mut self.whole);
        self.shared.committer.commit(whole, ahead);
    }

    fn say_taken(&mut self) {
        let bytes = std::mem::take(&mut self.taken_bytes);
        if bytes > 0 {
            self.shared.outcomes.push(self.origin.key, Outcome::Taken);
        }
    }

    /// Gives the upload back to its slot, or lets go of it where the slot has to.
    fn keep(&mut self, id: RequestId, slot: &Arc<Slot>, upload: Box<Upload>) {
        if let Some((upload, ending)) = slot.put_back(upload) {
            // Else it was condemned, and that was said.
            if ending == Ending::Suspend {
                slot.note_takeover(Came::Bytes(upload.offset()));
            }
            self.shared.transfers.let_go(slot, *upload, ending);
            return self.lost(id);
        }
        // Whoever looked what is over while it was in hand has passed it by.
        if let Err(refusal) = slot.granted.check()
            && let Some(upload) = slot.take()
        {
            let ending = Ending::of_lost(&refusal);
            self.fail(id, *upload, refusal, ending);
        }
    }

    /// The transfer is not this connection's any more: it was taken over, or ended with the right to it.
    fn lost(&mut self, id: RequestId) {
        if let Some(slot) = self.puts.remove(&id) {
            let event = match slot.granted.check() {
                Ok(()) => taken_over(id),
                Err(refusal) => Event::Refused { id, refusal },
            };
            self.shared.outcomes.push_event(self.origin.key, event);
        }
    }

    fn fail(&mut self, id: RequestId, upload: Upload, refusal: Refusal, ending: Ending) {
        if let Some(slot) = self.puts.remove(&id) {
            let bytes = upload.offset();
            self.shared.transfers.let_go(&slot, upload, ending);
            slot.refuse(Came::Bytes(bytes), refusal, &self.shared.outcomes);
        }
    }

    /// A put ends without having become whole.
    fn end(&mut self, id: RequestId, refusal: &Refusal, ending: Ending) {
        if let Some(slot) = self.puts.remove(&id)
            && let Some(upload) = slot.take()
        {
            let (name, bytes, began) = (&slot.name, upload.offset(), slot.began);
            match refusal.code {
                Code::Aborted => slot.log_end(|| {
                    audit::broken_off(&self.origin, Verb::Put, name, bytes, began);
                }),
                _ => slot.log_refused(Came::Bytes(bytes), refusal),
            }
            self.shared.transfers.let_go(&slot, *upload, ending);
        }
    }

    fn refuse(&self, id: RequestId, name: &Name, came: Came<'_>, refusal: Refusal, began: Instant) {
        audit::refused(&self.origin, Verb::Put, name, came, &refusal, began);
        self.shared.outcomes.push_event(self.origin.key, Event::Refused { id, refusal });
    }
}

impl Hand for Bring {
    fn work(&mut self, job: Job, _scratch: &mut [u8]) -> Worked {
        match job {
            Job::Begin(put, behind, granted, place) => self.begin(put, behind, granted, place),
            Job::Write { id, piece } => {
                self.write(id, &piece);
                self.taken_bytes = self.taken_bytes.saturating_add(piece.len());
                // First: the buffer is free when the selector hears of it.
                drop(piece);
                if self.taken_bytes >= TAKEN_BYTES {
                    self.say_taken();
                }
            }
            Job::Finish(end) => self.finish(&end),
            Job::Discard(id, refusal) => self.end(id, &refusal, Ending::Discard),
            Job::Suspend(id) => self.end(id, &Code::Aborted.into(), Ending::Suspend),
            Job::Resume(resume, granted) => self.resume(&resume, &granted),
            Job::Stat(stat, granted) => {
                self.shared.stat(&self.origin, Verb::Stat, stat.id, &stat.name, &granted);
            }
            Job::Change(change, granted) => {
                let (origin, began) = (self.origin.clone(), Instant::now());
                self.shared.committer.change(Changing { origin, change, granted, began });
            }
            Job::HangUp => {
                let ids: Vec<RequestId> = self.puts.keys().copied().collect();
                for id in ids {
                    self.end(id, &Code::Aborted.into(), Ending::Suspend);
                }
                self.shared.committer.forget_changes(self.origin.key);
            }
            Job::Open(..)
            | Job::Send { .. }
            | Job::Digest(_)
            | Job::Sum(..)
            | Job::List(..)
            | Job::More(_)
            | Job::Close(_) => {}
        }
        Worked::Done
    }

    fn pause(&mut self, ahead: Ahead) {
        self.commit(ahead);
        self.say_taken();
    }

    fn is_empty(&self) -> bool {
        self.puts.values().all(|slot| slot.is_gone())
    }
}

fn beginning(put: Put, granted: &Granted, unfinished_max: Option<usize>) -> store::Put {
    store::Put {
        name: put.name,
        algorithm: put.digest,
        size: put.size,
        at: put.at,
        transfer: put.transfer,
        condition: put.condition,
        durability: put.durability,
        modified: put.mtime,
        mode: put.mode,
        owner: granted.owner,
        unfinished_max,
        within: granted.within.clone(),
        naming: granted.naming,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use ftx_disk::store::{Access, Memory, Options, Store};
    use ftx_disk::sys::Native;
    use ftx_protocol::{Algorithm, Condition, Durability, TransferId};

    use super::super::committer::Committer;
    use super::super::partials::Partials;
    use super::super::places::Places;
    use super::super::room::Room;
    use super::super::shares::Shares;
    use super::super::transfers::Transfers;
    use super::super::{ConnectionKey, Outcomes};
    use super::*;
    use crate::server::OpenMax;
    use crate::server::network::Network;

    pub(in super::super) fn shared(directory: &std::path::Path) -> Arc<Shared> {
        shared_with(directory, Arc::new(Outcomes::new(&[])))
    }

    pub(in super::super) fn shared_with(
        directory: &std::path::Path,
        outcomes: Arc<Outcomes>,
    ) -> Arc<Shared> {
        let options = Options {
            access: Access::ReadWrite,
            durability: Durability::None,
            memory: Memory::Puts,
            size_max_bytes: 1,
            free_min_bytes: 0,
        };
        let store = Arc::new(Store::open(Native, directory, options).unwrap().0);
        let transfers = Arc::new(Transfers::new(Arc::clone(&store), Arc::clone(&outcomes)));
        let of = (Arc::clone(&store), Arc::clone(&outcomes), Arc::clone(&transfers));
        Arc::new(Shared {
            committer: Committer::start(of.0, of.1, of.2).unwrap(),
            partials: Partials::default(),
            room: Arc::new(Room::new()),
            shares: Shares::new(OpenMax { puts: 2, files: 2, directories: 2 }),
            places: Arc::new(Places::new(8, Arc::clone(&outcomes))),
            store,
            outcomes,
            transfers,
        })
    }

    pub(in super::super) fn put(id: u64) -> Put {
        Put {
            id: RequestId(id),
            name: Name::parse(b"file").unwrap(),
            digest: Algorithm::Sha256,
            size: Some(1),
            at: 0,
            transfer: TransferId([7; 16]),
            mtime: None,
            mode: None,
            condition: Condition::Always,
            durability: Durability::None,
            need: Vec::new(),
        }
    }

    /// However many it brings, with one that goes on meanwhile.
    #[test]
    fn puts_that_were_taken_over_are_not_kept_by_their_connection() {
        let directory = tempfile::tempdir().unwrap();
        let shared = shared(directory.path());
        let key = ConnectionKey::new(0, 0, 1);
        let origin = Origin { key, peer: ([127, 0, 0, 1], 1).into(), who: Who::Nobody };
        let mut bring = Bring::new(Arc::clone(&shared), origin);
        let begin = |bring: &mut Bring, put: Put| {
            let place = shared.places.take(Network::OwnMachine).unwrap();
            bring.work(Job::Begin(put, Behind::Nothing, Granted::default(), place), &mut []);
        };
        begin(&mut bring, Put { transfer: TransferId([1; 16]), ..put(0) });
        let mut most = 0;
        for id in 1..1_000 {
            begin(&mut bring, put(id));
            most = most.max(bring.puts.len());
            let resume = Resume { id: RequestId(id), transfer: put(id).transfer, need: Vec::new() };
            bring.work(Job::Resume(resume, Granted::default()), &mut []);
        }
        assert!(most < 10, "{most} are kept");
        assert!(!bring.is_empty(), "the first one goes on");
        bring.work(Job::Suspend(RequestId(0)), &mut []);
        assert!(bring.is_empty());
        shared.committer.finish();
    }
}
