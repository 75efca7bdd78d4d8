//! Who works on which transfer: a transfer belongs to the store, not to a connection, so that a
//! new connection can take it over from one that is dead and does not know it yet.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ftx_protocol::server::Event;
use ftx_protocol::{Code, RequestId, TransferId};

use super::workers::lock;
use super::{Origin, Outcomes, Store, Upload};

/// How long a takeover waits for the one job of the old connection that a worker is doing, or for
/// a commit. It holds a worker meanwhile; a disk that takes longer is in trouble.
const EVICT_WAIT: Duration = Duration::from_secs(5);

/// One put on its way, shared by the strand that feeds it and whoever wants to take it over.
pub(super) struct Slot {
    pub(super) origin: Origin,
    pub(super) id: RequestId,
    transfer: TransferId,
    state: Mutex<State>,
    /// Somebody waits already to take it over: a second one would only hold another worker.
    awaited: AtomicBool,
    changed: Condvar,
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

/// What becomes of the bytes of a transfer that a slot lets go of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// What is durable is kept.
    Suspend,
    /// All of it goes.
    Discard,
}

/// The transfers that are being worked on.
#[derive(Default)]
pub(super) struct Transfers {
    slots: Mutex<HashMap<TransferId, Arc<Slot>>>,
}

impl Transfers {
    /// Makes a slot for a put that is about to begin. `None` when another put has the transfer: it
    /// has to be resumed first.
    pub(super) fn claim(
        &self,
        transfer: TransferId,
        origin: Origin,
        id: RequestId,
    ) -> Option<Arc<Slot>> {
        let mut slots = lock(&self.slots);
        if slots.contains_key(&transfer) {
            return None;
        }
        let state = Mutex::new(State::Working);
        let slot = Arc::new(Slot {
            origin,
            id,
            transfer,
            state,
            awaited: AtomicBool::new(false),
            changed: Condvar::new(),
        });
        slots.insert(transfer, Arc::clone(&slot));
        Some(slot)
    }

    /// The put is over; the transfer is free for another slot.
    pub(super) fn release(&self, slot: &Slot) {
        let mut slots = lock(&self.slots);
        // Under the lock of the table, so that whoever sees it gone finds the place free.
        *lock(&slot.state) = State::Gone;
        if slots.get(&slot.transfer).is_some_and(|current| std::ptr::eq(&raw const **current, slot))
        {
            slots.remove(&slot.transfer);
        }
        drop(slots);
        slot.changed.notify_all();
    }

    /// Takes the transfer away from whoever works on it, and tells them. Waits for the job that is
    /// being done.
    ///
    /// # Errors
    /// [`Code::Busy`] when that takes too long, or somebody else waits for it already.
    pub(super) fn evict(
        &self,
        transfer: &TransferId,
        store: &Store,
        outcomes: &Outcomes,
    ) -> Result<(), Code> {
        let Some(slot) = lock(&self.slots).get(transfer).cloned() else { return Ok(()) };
        if slot.awaited.swap(true, Ordering::AcqRel) {
            return Err(Code::Busy);
        }
        let evicted = self.evict_slot(&slot, store, outcomes);
        slot.awaited.store(false, Ordering::Release);
        evicted
    }

    fn evict_slot(&self, slot: &Slot, store: &Store, outcomes: &Outcomes) -> Result<(), Code> {
        let until = Instant::now() + EVICT_WAIT;
        let mut state = lock(&slot.state);
        loop {
            match std::mem::replace(&mut *state, State::Working) {
                State::Gone => {
                    *state = State::Gone;
                    return Ok(());
                }
                State::Idle(upload) => {
                    drop(state);
                    store.suspend(*upload);
                    self.release(slot);
                    outcomes.push_event(slot.origin.key, taken_over(slot.id));
                    return Ok(());
                }
                State::Working => *state = State::Evicting(Ending::Suspend),
                evicting @ State::Evicting(_) => *state = evicting,
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Code::Busy);
            }
            let waited = slot.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Slot {
    /// Takes the upload out to work on it. `None` when it was taken away.
    pub(super) fn take(&self) -> Option<Box<Upload>> {
        let mut state = lock(&self.state);
        match std::mem::replace(&mut *state, State::Working) {
            State::Idle(upload) => Some(upload),
            other => {
                *state = other;
                None
            }
        }
    }

    /// Puts the upload back. Returns it when the slot has to let go of it.
    pub(super) fn put_back(&self, upload: Box<Upload>) -> Option<(Box<Upload>, Ending)> {
        let mut state = lock(&self.state);
        match *state {
            State::Working => {
                *state = State::Idle(upload);
                None
            }
            State::Evicting(ending) => Some((upload, ending)),
            State::Idle(_) | State::Gone => Some((upload, Ending::Suspend)),
        }
    }

    /// The store has given the transfer up: whoever works on it has to drop it. Returns the upload
    /// when nobody does.
    pub(super) fn condemn(&self) -> Option<Box<Upload>> {
        let mut state = lock(&self.state);
        match std::mem::replace(&mut *state, State::Evicting(Ending::Discard)) {
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
