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

/// Threads that sync files. A sync waits for the disk, which does several at once faster than one
/// after another (measured on ext4: 16 threads sync three times as many small files as one).
const SYNCERS: usize = 8;

/// Puts in one round: bounds how long the first of them waits for the last.
const ROUND_PUTS: usize = 512;

/// What there is to be made durable.
pub(super) enum Task {
    /// The bytes of a put so far.
    Keep { slot: Arc<Slot>, checkpoint: Checkpoint },
    /// A put that is whole.
    Sync { slot: Arc<Slot>, finished: Box<Finished>, began: Instant },
}

/// A put that is whole and synced, and waits for its round.
struct Ready {
    slot: Arc<Slot>,
    finished: Box<Finished>,
    began: Instant,
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
    tasks: Arc<Waiting<Task>>,
    ready: Arc<Waiting<Ready>>,
    syncers: Mutex<Vec<JoinHandle<()>>>,
    rounds: Mutex<Option<JoinHandle<()>>>,
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
        let tasks = Arc::new(Waiting::default());
        let ready = Arc::new(Waiting::default());
        let syncers = (0..SYNCERS)
            .map(|number| {
                let (bench, tasks, ready) = (bench.clone(), Arc::clone(&tasks), Arc::clone(&ready));
                std::thread::Builder::new()
                    .name(format!("sync-{number}"))
                    .spawn(move || bench.sync(&tasks, &ready))
            })
            .collect::<std::io::Result<_>>()?;
        let rounds = {
            let ready = Arc::clone(&ready);
            std::thread::Builder::new().name("commit".into()).spawn(move || bench.commit(&ready))?
        };
        Ok(Self { tasks, ready, syncers: Mutex::new(syncers), rounds: Mutex::new(Some(rounds)) })
    }

    pub(super) fn submit(&self, task: Task) {
        self.tasks.push(task);
    }

    /// Does what waits, and ends.
    pub(super) fn finish(&self) {
        self.tasks.close();
        for thread in std::mem::take(&mut *lock(&self.syncers)) {
            join(thread);
        }
        self.ready.close();
        if let Some(thread) = lock(&self.rounds).take() {
            join(thread);
        }
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::error!("a committing thread ended by a fault in the program");
    }
}

impl Bench {
    fn sync(&self, tasks: &Waiting<Task>, ready: &Waiting<Ready>) {
        while let Some(task) = tasks.take_one() {
            match task {
                Task::Keep { slot, checkpoint } => self.keep(&slot, checkpoint),
                Task::Sync { slot, mut finished, began } => match self.store.sync(&mut finished) {
                    Ok(()) => ready.push(Ready { slot, finished, began }),
                    Err(refusal) => {
                        let name = finished.name().clone();
                        self.end(&slot, &name, began, Err(refusal));
                    }
                },
            }
        }
    }

    fn keep(&self, slot: &Arc<Slot>, checkpoint: Checkpoint) {
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

    fn commit(&self, ready: &Waiting<Ready>) {
        while let Some(round) = ready.take_up_to(ROUND_PUTS) {
            let mut slots = Vec::with_capacity(round.len());
            let mut puts = Vec::with_capacity(round.len());
            for Ready { slot, finished, began } in round {
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
