//! Who works on which transfer: a transfer belongs to the store, not to a connection, so that a
//! new connection can take it over from one that is dead and does not know it yet.
//!
//! Nobody waits here. A takeover of a transfer that is being worked on stands in its slot, and is
//! answered by whoever lets go of the transfer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use ftx_disk::store;
use ftx_protocol::message::{Held, HeldState, Put, Resume};
use ftx_protocol::server::Event;
use ftx_protocol::{Code, Name, Owner, Refusal, RequestId, TransferId, Verb};

use super::audit::Came;
use super::download::Told;
use super::{Checkpoint, ConnectionKey, Granted, Origin, Outcomes, Place, Store, Upload, audit};
use crate::server::access::Reservation;
use crate::server::lock::lock;

/// One put on its way, shared by the strand that feeds it and whoever wants to take it over.
pub(super) struct Slot {
    pub(super) origin: Origin,
    pub(super) id: RequestId,
    /// What the put was granted.
    pub(super) granted: Granted,
    pub(super) name: Name,
    pub(super) began: Instant,
    transfer: TransferId,
    inside: Mutex<Inside>,
}

struct Inside {
    state: State,
    /// The request that takes the transfer over as soon as it is free.
    successor: Option<Successor>,
    /// What it counts for of a token's share.
    reservation: Option<Box<Reservation>>,
    /// What is to be made durable as soon as a thread is free for it. It keeps the file open.
    checkpoint: Option<Box<Checkpoint>>,
    /// As long as the file may be open.
    place: Option<Place>,
    /// Whether the line in the log is written that says how it ended. Who brings its bytes and who makes them durable
    /// may both come to an end of it.
    told: Told,
}

enum State {
    /// Nobody works on it now.
    Idle(Box<Upload>),
    /// Its strand, or the committer, does.
    Working,
    /// Its strand does, and has to let go of it after that.
    Evicting(Ending),
    /// It is over, for this slot.
    Gone,
}

/// A `resume` that waits for its transfer.
#[derive(Debug)]
struct Successor {
    origin: Origin,
    id: RequestId,
    owner: Option<Owner>,
    began: Instant,
}

/// What becomes of the bytes of a transfer that a slot lets go of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// What is durable is kept.
    Suspend,
    /// All of it goes.
    Discard,
}

/// The transfers that are being worked on, or about to be.
pub(super) struct Transfers {
    store: Arc<Store>,
    outcomes: Arc<Outcomes>,
    table: Mutex<HashMap<TransferId, Entry>>,
}

/// Whose a transfer is now.
enum Entry {
    /// That of a put.
    Taken(Arc<Slot>),
    /// That of whoever has resumed it last, and puts it next. A put of an earlier connection, which may be dead
    /// and have waited for its place until now, comes too late.
    Resumed { by: ConnectionKey, owner: Option<Owner> },
}

impl Transfers {
    pub(super) fn new(store: Arc<Store>, outcomes: Arc<Outcomes>) -> Self {
        Self { store, outcomes, table: Mutex::default() }
    }

    /// Makes a slot for a put that is about to begin.
    ///
    /// # Errors
    /// When another put has the transfer: it has to be resumed first; or another connection has resumed it. Whoever
    /// has another token than it was begun with is not told that there is such a one.
    pub(super) fn claim(
        &self,
        put: &Put,
        origin: &Origin,
        granted: Granted,
        place: Place,
        began: Instant,
    ) -> Result<Arc<Slot>, Refusal> {
        let Put { id, transfer, ref name, .. } = *put;
        let mut table = lock(&self.table);
        match table.get(&transfer) {
            Some(entry) if entry.owner() != granted.owner.as_ref() => {
                return Err(Code::TransferMismatch.into());
            }
            Some(Entry::Taken(_)) => {
                let message = "this transfer is being worked on; ask with resume first";
                return Err(Refusal::new(Code::BadOffset, message));
            }
            Some(Entry::Resumed { by, .. }) if *by != origin.key => {
                return Err(Code::TakenOver.into());
            }
            Some(Entry::Resumed { .. }) | None => {}
        }
        let inside = Mutex::new(Inside {
            state: State::Working,
            successor: None,
            reservation: None,
            checkpoint: None,
            place: Some(place),
            told: Told::No,
        });
        let (origin, name) = (origin.clone(), name.clone());
        let slot = Arc::new(Slot { origin, id, granted, name, began, transfer, inside });
        table.insert(transfer, Entry::Taken(Arc::clone(&slot)));
        Ok(slot)
    }

    /// The put is over, or gone from its connection: the transfer is free for another slot.
    pub(super) fn release(&self, slot: &Slot) {
        let mut table = lock(&self.table);
        // Under the lock of the table, so that whoever sees it gone finds the place free.
        let (successor, checkpoint, place) = {
            let mut inside = lock(&slot.inside);
            inside.state = State::Gone;
            // What it reserved and did not use is free for the token's next put.
            inside.reservation = None;
            (inside.successor.take(), inside.checkpoint.take(), inside.place.take())
        };
        if table.get(&slot.transfer).is_some_and(|entry| entry.is_of(slot)) {
            // As in `found`: what there is not is not remembered.
            let is_left = |successor: &&Successor| {
                self.store.is_unfinished_of(&slot.transfer, successor.owner.as_ref())
            };
            match successor.as_ref().filter(is_left) {
                Some(successor) => table.insert(slot.transfer, successor.entry()),
                None => table.remove(&slot.transfer),
            };
        }
        drop(table);
        // In this order: whoever gets the place finds a descriptor.
        drop(checkpoint);
        drop(place);
        if let Some(successor) = successor {
            self.say_held(successor, &slot.transfer);
        }
    }

    /// Takes a transfer away from whoever works on it, tells them, and then answers what is held
    /// of it: at once, or when the job that is being done has ended. Of two that wait, the later one
    /// gets it: the earlier one is the one that may be dead.
    ///
    /// To whoever has another token than it was begun with it is unknown, and goes on undisturbed.
    pub(super) fn resume(&self, resume: &Resume, origin: &Origin, owner: Option<&Owner>) {
        let successor = Successor {
            origin: origin.clone(),
            id: resume.id,
            owner: owner.copied(),
            began: Instant::now(),
        };
        let Some(slot) = self.found(&resume.transfer, &successor) else {
            return self.say_held(successor, &resume.transfer);
        };
        let mut inside = lock(&slot.inside);
        match std::mem::replace(&mut inside.state, State::Working) {
            State::Gone => {
                inside.state = State::Gone;
                drop(inside);
                // Between the two. It left the table with that, so this finds another one, or none.
                self.resume(resume, origin, owner);
            }
            State::Idle(upload) => {
                inside.successor = Some(successor);
                drop(inside);
                slot.note_takeover(Came::Bytes(upload.offset()));
                slot.suspend(&self.store, *upload);
                self.outcomes.push_event(slot.origin.key, taken_over(slot.id));
                self.release(&slot);
            }
            State::Working => {
                inside.state = State::Evicting(Ending::Suspend);
                self.succeed(&mut inside, successor);
            }
            evicting @ State::Evicting(_) => {
                inside.state = evicting;
                self.succeed(&mut inside, successor);
            }
        }
    }

    /// The put that has a transfer. If there is none, it is his from now on who resumes it.
    fn found(&self, transfer: &TransferId, successor: &Successor) -> Option<Arc<Slot>> {
        let mut table = lock(&self.table);
        match table.get(transfer) {
            Some(entry) if entry.owner() != successor.owner.as_ref() => return None,
            Some(Entry::Taken(slot)) => return Some(Arc::clone(slot)),
            Some(Entry::Resumed { .. }) => {}
            // Nobody can fill the table with what there is not.
            None if self.store.is_unfinished_of(transfer, successor.owner.as_ref()) => {}
            None => return None,
        }
        table.insert(*transfer, successor.entry());
        None
    }

    /// Whether a put has it, or is about to begin it.
    pub(super) fn is_taken(&self, transfer: &TransferId) -> bool {
        matches!(lock(&self.table).get(transfer), Some(Entry::Taken(_)))
    }

    /// Forgets who has resumed what is over by now.
    pub(super) fn forget_over(&self) {
        lock(&self.table).retain(|transfer, entry| match entry {
            Entry::Taken(_) => true,
            Entry::Resumed { owner, .. } => self.store.is_unfinished_of(transfer, owner.as_ref()),
        });
    }

    /// Ends the puts whose right is lost and for which nothing comes: a body that comes ends at its next
    /// part by itself.
    pub(super) fn end_lost(&self) {
        let slots = lock(&self.table).values().filter_map(Entry::slot).collect::<Vec<_>>();
        for slot in slots {
            if let Err(refusal) = slot.granted.check()
                && let Some(upload) = slot.take()
            {
                let ending = Ending::of_lost(&refusal);
                slot.refuse(Came::Bytes(upload.offset()), refusal, &self.outcomes);
                self.let_go(&slot, *upload, ending);
            }
        }
    }

    /// Nobody goes on with an upload in this slot.
    pub(super) fn let_go(&self, slot: &Slot, upload: Upload, ending: Ending) {
        match ending {
            Ending::Suspend => slot.suspend(&self.store, upload),
            Ending::Discard => {
                self.store.discard(upload);
                slot.give_back();
            }
        }
        self.release(slot);
    }

    /// Has a request wait in a slot, in the place of one that waits there.
    fn succeed(&self, inside: &mut Inside, successor: Successor) {
        if let Some(earlier) = inside.successor.replace(successor) {
            audit::resume_refused(&earlier.origin, &Code::TakenOver.into(), earlier.began);
            self.outcomes.push_event(earlier.origin.key, taken_over(earlier.id));
        }
    }

    fn say_held(&self, successor: Successor, transfer: &TransferId) {
        let held = self.store.held(transfer, successor.owner.as_ref());
        audit::resumed(&successor.origin, &held, successor.began);
        let (state, ranges) = match (held.complete, held.at) {
            (store::Completeness::Complete, at) => (HeldState::Complete, vec![(0, at)]),
            (store::Completeness::Partial, 0) => (HeldState::Nothing, Vec::new()),
            (store::Completeness::Partial, at) => (HeldState::Partial, vec![(0, at)]),
        };
        let held = Held { id: successor.id, state, ranges, digest: held.digest };
        self.outcomes.push_event(successor.origin.key, Event::Held(held));
    }
}

impl Entry {
    fn owner(&self) -> Option<&Owner> {
        match self {
            Self::Taken(slot) => slot.granted.owner.as_ref(),
            Self::Resumed { owner, .. } => owner.as_ref(),
        }
    }

    fn slot(&self) -> Option<Arc<Slot>> {
        match self {
            Self::Taken(slot) => Some(Arc::clone(slot)),
            Self::Resumed { .. } => None,
        }
    }

    fn is_of(&self, slot: &Slot) -> bool {
        matches!(self, Self::Taken(current) if std::ptr::eq(&raw const **current, slot))
    }
}

impl Ending {
    /// What becomes of the bytes of a put that has lost its right to go on, by what was said of that. Where it cannot
    /// be known which tokens there are, nothing is lost by it.
    pub(super) fn of_lost(refusal: &Refusal) -> Self {
        match refusal.code {
            Code::Busy => Self::Suspend,
            _ => Self::Discard,
        }
    }
}

impl Successor {
    fn entry(&self) -> Entry {
        Entry::Resumed { by: self.origin.key, owner: self.owner }
    }
}

impl Slot {
    /// Takes what the put will bring out of the share of its token, if there is one.
    ///
    /// # Errors
    /// When that is used up.
    pub(super) fn reserve(&self, at: u64, size: Option<u64>) -> Result<(), Refusal> {
        if let Some(share) = &self.granted.share {
            lock(&self.inside).reservation = Some(Box::new(share.reserve(at, size)?));
        }
        Ok(())
    }

    /// So much of the put is here, durable or not.
    ///
    /// # Errors
    /// As of [`Slot::reached`].
    pub(super) fn brought(&self, bytes: u64) -> Result<(), Refusal> {
        if self.granted.share.is_some()
            && let Some(reservation) = &mut lock(&self.inside).reservation
        {
            return reservation.brought(bytes);
        }
        Ok(())
    }

    /// So much of the put is durable, or whole.
    ///
    /// # Errors
    /// When its size was not announced and the share is used up.
    pub(super) fn reached(&self, at: u64) -> Result<(), Refusal> {
        match &self.granted.share {
            None => Ok(()),
            Some(_) => match &mut lock(&self.inside).reservation {
                Some(reservation) => reservation.reached(at),
                None => Ok(()),
            },
        }
    }

    /// Ends the upload, and keeps and counts what is durable of it. A checkpoint that is durable may not have been
    /// counted yet, and comes too late for that when the slot is released.
    pub(super) fn suspend(&self, store: &Store, upload: Upload) {
        let durable = store.suspend(upload);
        // All of it was brought, so there is room for it in the share.
        let _ = self.reached(durable);
    }

    /// Leaves a checkpoint to whoever makes it durable. It is worth nothing once the slot is released.
    pub(super) fn lay(&self, checkpoint: Checkpoint) {
        let mut inside = lock(&self.inside);
        if !matches!(inside.state, State::Gone) {
            inside.checkpoint = Some(Box::new(checkpoint));
        }
    }

    /// The checkpoint that was left, if it is worth something still.
    pub(super) fn take_checkpoint(&self) -> Option<Box<Checkpoint>> {
        lock(&self.inside).checkpoint.take()
    }

    /// Writes the line that says how the put ended, if there is none yet.
    pub(super) fn log_end(&self, write: impl FnOnce()) {
        let was = std::mem::replace(&mut lock(&self.inside).told, Told::Yes);
        if was == Told::No {
            write();
        }
    }

    /// Writes that the put was refused, as [`Slot::log_end`] does.
    pub(super) fn log_refused(&self, came: Came<'_>, refusal: &Refusal) {
        self.log_end(|| {
            audit::refused(&self.origin, Verb::Put, &self.name, came, refusal, self.began);
        });
    }

    /// Writes that the put was refused, and tells whoever brought it.
    pub(super) fn refuse(&self, came: Came<'_>, refusal: Refusal, outcomes: &Outcomes) {
        self.log_refused(came, &refusal);
        outcomes.push_event(self.origin.key, Event::Refused { id: self.id, refusal });
    }

    /// That it is taken away from whoever brought it: to be said when it is, for a put that is about to take its
    /// name takes it all the same.
    pub(super) fn note_takeover(&self, came: Came<'_>) {
        self.log_refused(came, &Code::TakenOver.into());
    }

    /// The put took effect: what it brought counts from now on.
    pub(super) fn settle(&self) {
        if self.granted.share.is_some()
            && let Some(reservation) = lock(&self.inside).reservation.take()
        {
            reservation.keep();
        }
    }

    /// Nothing of what the put brought is left.
    pub(super) fn give_back(&self) {
        if self.granted.share.is_some()
            && let Some(reservation) = lock(&self.inside).reservation.take()
        {
            reservation.discard();
        }
    }

    /// Takes the upload out to work on it. `None` when it was taken away.
    pub(super) fn take(&self) -> Option<Box<Upload>> {
        let state = &mut lock(&self.inside).state;
        match std::mem::replace(state, State::Working) {
            State::Idle(upload) => Some(upload),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Puts the upload back. Returns it when the slot has to let go of it.
    pub(super) fn put_back(&self, upload: Box<Upload>) -> Option<(Box<Upload>, Ending)> {
        let state = &mut lock(&self.inside).state;
        match *state {
            State::Working => {
                *state = State::Idle(upload);
                None
            }
            State::Evicting(ending) => Some((upload, ending)),
            State::Idle(_) | State::Gone => Some((upload, Ending::Suspend)),
        }
    }

    /// Whether it is over. Whoever brought it was told so before.
    pub(super) fn is_gone(&self) -> bool {
        matches!(lock(&self.inside).state, State::Gone)
    }

    /// The store has given the transfer up: whoever works on it has to drop it. Returns the upload
    /// when nobody does.
    pub(super) fn condemn(&self) -> Option<Box<Upload>> {
        let state = &mut lock(&self.inside).state;
        match std::mem::replace(state, State::Evicting(Ending::Discard)) {
            State::Idle(upload) => Some(upload),
            State::Gone => {
                *state = State::Gone;
                None
            }
            State::Working | State::Evicting(_) => None,
        }
    }
}

/// What the connection is told from which a transfer was taken.
pub(super) fn taken_over(id: RequestId) -> Event {
    Event::Refused { id, refusal: Code::TakenOver.into() }
}

#[cfg(test)]
mod tests {
    use ftx_disk::store::{Access, Memory, Naming, OldMode, Options};
    use ftx_disk::sys::Native;
    use ftx_protocol::limits::GRID_BYTES;
    use ftx_protocol::{Algorithm, Condition, Durability, Name};

    use super::super::places::Places;
    use super::*;
    use crate::server::access::{Grant, Lease, Share, Who};
    use crate::server::key::ConnectionKey;
    use crate::server::network::Network;

    const SIZE: u64 = 2 * GRID_BYTES;
    const OWNER: Owner = Owner([1; 8]);
    const TRANSFER: TransferId = TransferId([7; 16]);

    struct Ground {
        _directory: tempfile::TempDir,
        transfers: Transfers,
        share: Share,
    }

    #[test]
    fn only_a_right_that_is_known_to_be_lost_costs_the_bytes() {
        assert!(Ending::of_lost(&Code::Busy.into()) == Ending::Suspend);
        for code in [Code::Denied, Code::Expired] {
            assert!(Ending::of_lost(&code.into()) == Ending::Discard, "{code:?}");
        }
    }

    fn origin(number: usize) -> Origin {
        let key = ConnectionKey::new(0, 0, number);
        Origin { key, peer: ([127, 0, 0, 1], 1).into(), who: Who::Nobody }
    }

    fn asked(at: u64) -> Put {
        Put {
            id: RequestId(1),
            name: Name::parse(b"file").unwrap(),
            digest: Algorithm::Sha256,
            size: Some(SIZE),
            at,
            transfer: TRANSFER,
            mtime: None,
            mode: None,
            condition: Condition::Always,
            durability: Durability::None,
            need: Vec::new(),
        }
    }

    impl Ground {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let options = Options {
                access: Access::ReadWrite,
                durability: Durability::None,
                memory: Memory::Puts,
                size_max_bytes: SIZE,
                free_min_bytes: 0,
            };
            let (store, _) = Store::open(Native, directory.path(), options).unwrap();
            let transfers = Transfers::new(Arc::new(store), Arc::new(Outcomes::new(&[])));
            Self { _directory: directory, transfers, share: Share::new(Some(SIZE)) }
        }

        /// A put, from the connection of this number.
        fn claim(&self, number: usize, at: u64) -> Result<Arc<Slot>, Refusal> {
            let granted = Granted::from(Grant {
                condition: None,
                within: None,
                owner: Some(OWNER),
                naming: Naming::AsAsked,
                old_mode: OldMode::Replaced,
                share: Some(self.share.clone()),
                lease: Lease::Always,
            });
            let places = Arc::new(Places::new(1, Arc::new(Outcomes::new(&[]))));
            let place = places.take(Network::OwnMachine).unwrap();
            self.transfers.claim(&asked(at), &origin(number), granted, place, Instant::now())
        }

        fn resume(&self, number: usize) {
            let resume = Resume { id: RequestId(2), transfer: TRANSFER, need: Vec::new() };
            self.transfers.resume(&resume, &origin(number), Some(&OWNER));
        }

        /// The first put, of which so much is durable and promised.
        fn begin(&self) -> (Arc<Slot>, u64) {
            let slot = self.claim(1, 0).unwrap();
            slot.reserve(0, Some(SIZE)).unwrap();
            let asked = asked(0);
            let put = store::Put {
                name: asked.name,
                algorithm: asked.digest,
                size: asked.size,
                at: asked.at,
                transfer: TRANSFER,
                condition: asked.condition,
                durability: asked.durability,
                modified: asked.mtime,
                mode: asked.mode,
                owner: Some(OWNER),
                unfinished_max: None,
                within: None,
                naming: Naming::AsAsked,
            };
            let mut upload = Box::new(self.transfers.store.begin(put).unwrap());
            let checkpoint = upload.write(&vec![0; GRID_BYTES as usize]).unwrap().unwrap();
            assert!(slot.put_back(upload).is_none());
            (slot, self.transfers.store.make_durable(checkpoint).unwrap().at())
        }
    }

    #[test]
    fn what_became_durable_while_it_was_taken_over_is_counted() {
        let ground = Ground::new();
        let (slot, durable) = ground.begin();
        // Before that is counted somebody else comes for it.
        ground.resume(2);
        slot.reached(durable).unwrap();
        assert_eq!(ground.transfers.store.held(&TRANSFER, Some(&OWNER)).at, GRID_BYTES);
        assert_eq!(ground.share.counts(), (GRID_BYTES, 0), "it was counted once");
    }

    /// Its connection is dead, and it has waited for its place until now.
    #[test]
    fn a_put_comes_too_late_when_another_connection_has_resumed_its_transfer_since() {
        let ground = Ground::new();
        let claim = |number| ground.claim(number, GRID_BYTES).map_err(|refusal| refusal.code);
        ground.begin();
        // From the connection that has it, and from one that has resumed it.
        ground.resume(2);
        ground.resume(3);
        assert_eq!(claim(2).err(), Some(Code::TakenOver));
        let slot = claim(3).unwrap();
        assert_eq!(claim(2).err(), Some(Code::BadOffset), "it is being worked on");
        ground.transfers.release(&slot);
        // What is over is nobody's.
        ground.resume(4);
        assert_eq!(claim(2).err(), Some(Code::TakenOver));
        ground.transfers.forget_over();
        assert_eq!(lock(&ground.transfers.table).len(), 1);
        assert_eq!(ground.transfers.store.forget_owner(OWNER), 1);
        ground.transfers.forget_over();
        assert_eq!(lock(&ground.transfers.table).len(), 0);
        ground.resume(5);
        assert_eq!(lock(&ground.transfers.table).len(), 0, "what there is not is not remembered");
        // Nor what nothing is left of when it is taken over.
        let slot = ground.claim(5, 0).unwrap();
        ground.resume(6);
        ground.transfers.release(&slot);
        assert_eq!(lock(&ground.transfers.table).len(), 0);
    }
}
