//! Makes puts durable, many at a time: a few threads sync files, one thread commits in rounds
//! whatever they have returned. A put that is slow to sync joins a later round.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use ftx_protocol::message::{Done, Kept};
use ftx_protocol::server::Event;
use ftx_protocol::{Code, Name, Refusal};
use tracing::info;

use super::transfers::{Slot, Transfers};
use super::workers::lock;
use super::{Checkpoint, Finished, Outcomes, Store, log_refused};

/// Threads that sync puts which are whole. A sync waits for the disk, which does several at once faster than one
/// after another (measured on ext4: 16 threads sync three times as many small files as one).
const SYNCERS: usize = 8;

/// Threads that sync puts on their way. They are others, so that many large puts to a slow disk do
/// not keep the small ones from being finished.
const KEEPERS: usize = 4;

/// Puts in one round: bounds how long the first of them waits for the last.
const ROUND_PUTS: usize = 512;

/// The bytes of a put so far, to be made durable.
pub(super) struct Keep {
    pub(super) slot: Arc<Slot>,
    pub(super) checkpoint: Checkpoint,
}

/// A put that is whole, to be synced and then to join a round.
pub(super) struct Whole {
    pub(super) slot: Arc<Slot>,
    pub(super) finished: Box<Finished>,
    pub(super) began: Instant,
}

/// A queue that threads wait at.
struct Waiting<T> {
    state: Mutex<WaitingState<T>>,
    wake: Condvar,
}

struct WaitingState<T> {
    items: VecDeque<T>,
    closed: bool,
}

/// The threads, and the way to them.
pub(super) struct Committer {
    keep: Arc<Waiting<Keep>>,
    sync: Arc<Waiting<Whole>>,
    round: Arc<Waiting<Whole>>,
    syncing: Mutex<Vec<JoinHandle<()>>>,
    committing: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads work with.
#[derive(Clone)]
struct Bench {
    store: Arc<Store>,
    outcomes: Arc<Outcomes>,
    transfers: Arc<Transfers>,
}

impl Committer {
    pub(super) fn start(
        store: Arc<Store>,
        outcomes: Arc<Outcomes>,
        transfers: Arc<Transfers>,
    ) -> std::io::Result<Self> {
        let bench = Bench { store, outcomes, transfers };
        let (keep, sync) = (Arc::new(Waiting::default()), Arc::new(Waiting::default()));
        let round = Arc::new(Waiting::default());
        let mut syncing = Vec::with_capacity(KEEPERS + SYNCERS);
        for number in 0..KEEPERS {
            let (bench, keep) = (bench.clone(), Arc::clone(&keep));
            syncing.push(spawn(format!("keep-{number}"), move || bench.keep(&keep))?);
        }
        for number in 0..SYNCERS {
            let (bench, sync, round) = (bench.clone(), Arc::clone(&sync), Arc::clone(&round));
            syncing.push(spawn(format!("sync-{number}"), move || bench.sync(&sync, &round))?);
        }
        let committing = {
            let round = Arc::clone(&round);
            vec![spawn("commit".into(), move || bench.commit(&round))?]
        };
        let (syncing, committing) = (Mutex::new(syncing), Mutex::new(committing));
        Ok(Self { keep, sync, round, syncing, committing })
    }

    pub(super) fn keep(&self, keep: Keep) {
        self.keep.push(keep);
    }

    pub(super) fn commit(&self, whole: Whole) {
        self.sync.push(whole);
    }

    /// Does what waits, and ends.
    pub(super) fn finish(&self) {
        self.keep.close();
        self.sync.close();
        join(&self.syncing);
        self.round.close();
        join(&self.committing);
    }
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).spawn(work)
}

fn join(threads: &Mutex<Vec<JoinHandle<()>>>) {
    for thread in std::mem::take(&mut *lock(threads)) {
        if thread.join().is_err() {
            tracing::error!("a committing thread ended by a fault in the program");
        }
    }
}

impl Bench {
    fn sync(&self, sync: &Waiting<Whole>, round: &Waiting<Whole>) {
        while let Some(mut whole) = sync.take_one() {
            match self.store.sync(&mut whole.finished) {
                Ok(()) => round.push(whole),
                Err(refusal) => {
                    let name = whole.finished.name().clone();
                    self.end(&whole.slot, &name, whole.began, Err(refusal));
                }
            }
        }
    }

    fn keep(&self, keep: &Waiting<Keep>) {
        while let Some(Keep { slot, checkpoint }) = keep.take_one() {
            self.make_durable(&slot, checkpoint);
        }
    }

    fn make_durable(&self, slot: &Slot, checkpoint: Checkpoint) {
        let name = checkpoint.name().clone();
        match self.store.make_durable(checkpoint) {
            Ok(at) => {
                let event = Event::Kept(Kept { id: slot.id, at });
                self.outcomes.push_event(slot.origin.key, event);
            }
            // The put is past this, or somebody else's.
            Err(refusal) if refusal.code == Code::TakenOver => {}
            Err(refusal) => {
                log_refused(slot.origin, "put", &name, &refusal);
                // First: whoever works on it finds it gone after this, and the reason is this one.
                let event = Event::Refused { id: slot.id, refusal };
                self.outcomes.push_event(slot.origin.key, event);
                if let Some(upload) = slot.condemn() {
                    self.store.discard(*upload);
                    self.transfers.release(slot);
                }
            }
        }
    }

    fn commit(&self, round: &Waiting<Whole>) {
        while let Some(round) = round.take_up_to(ROUND_PUTS) {
            let mut slots = Vec::with_capacity(round.len());
            let mut puts = Vec::with_capacity(round.len());
            for Whole { slot, finished, began } in round {
                slots.push((slot, finished.name().clone(), began));
                puts.push(*finished);
            }
            for ((slot, name, began), result) in slots.iter().zip(self.store.commit(puts)) {
                self.end(slot, name, *began, result);
            }
        }
    }

    fn end(
        &self,
        slot: &Slot,
        name: &Name,
        began: Instant,
        result: Result<ftx_disk::store::Stored, Refusal>,
    ) {
        // Before the answer: whoever has read it may resume the transfer at once.
        self.transfers.release(slot);
        let event = match result {
            Ok(stored) => {
                info!(
                    peer = %slot.origin.peer,
                    %name,
                    bytes = stored.size,
                    digest = %stored.digest,
                    durability = %stored.durability,
                    milliseconds = began.elapsed().as_millis(),
                    "stored"
                );
                Event::Stored(Done {
                    id: slot.id,
                    size: stored.size,
                    digest: stored.digest,
                    durability: stored.durability,
                    version: stored.version,
                    mtime: stored.modified,
                    mode: stored.mode,
                    replayed: stored.replayed,
                })
            }
            Err(refusal) => {
                log_refused(slot.origin, "put", name, &refusal);
                Event::Refused { id: slot.id, refusal }
            }
        };
        self.outcomes.push_event(slot.origin.key, event);
    }
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        let state = WaitingState { items: VecDeque::new(), closed: false };
        Self { state: Mutex::new(state), wake: Condvar::new() }
    }
}

impl<T> Waiting<T> {
    fn push(&self, item: T) {
        lock(&self.state).items.push_back(item);
        self.wake.notify_one();
    }

    fn close(&self) {
        lock(&self.state).closed = true;
        self.wake.notify_all();
    }

    fn take_one(&self) -> Option<T> {
        self.take_up_to(1)?.pop()
    }

    /// At least one, unless the queue is closed and empty.
    fn take_up_to(&self, limit: usize) -> Option<Vec<T>> {
        let mut state = lock(&self.state);
        while state.items.is_empty() {
            if state.closed {
                return None;
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let count = limit.min(state.items.len());
        Some(state.items.drain(..count).collect())
    }
}
