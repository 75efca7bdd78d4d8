//! Makes fetched files durable in groups, on a thread of its own: while one group is synced and
//! named, the next one arrives.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use ftx_disk::store::{Change, Checkpoint, Durable, Finished, Settled, Step, Store};
use ftx_disk::sys::Native;
use ftx_protocol::{Code, Durability, Refusal};

/// Threads that sync the files of one group.
const SYNCERS: usize = 4;

/// One thing to settle.
pub(super) enum Item {
    /// A file that is whole, by its number.
    File { number: u64, finished: Box<Finished<Native>> },
    /// A change of names.
    Change(Change),
    /// The first bytes of a large file.
    Keep(Checkpoint<Native>),
}

/// What became of it.
pub(super) enum Answer {
    File {
        number: u64,
        result: Result<Settled, Refusal>,
    },
    Change {
        change: Change,
        result: Result<Settled, Refusal>,
    },
    /// More of a large file has come meanwhile.
    Keep(Checkpoint<Native>),
}

/// The thread.
pub(super) struct Settler {
    groups: Option<Sender<Vec<Item>>>,
    answers: Receiver<Vec<Answer>>,
    thread: Option<JoinHandle<()>>,
    /// Groups that are not answered.
    under_way: usize,
}

impl Settler {
    pub(super) fn start(store: Arc<Store<Native>>) -> Self {
        let (groups, waiting) = channel::<Vec<Item>>();
        let (sender, answers) = channel();
        let thread = std::thread::spawn(move || {
            while let Ok(group) = waiting.recv() {
                if sender.send(settle(&store, group)).is_err() {
                    return;
                }
            }
        });
        Self { groups: Some(groups), answers, thread: Some(thread), under_way: 0 }
    }

    /// Whether it has nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way == 0
    }

    pub(super) fn settle(&mut self, group: Vec<Item>) {
        // A thread that is gone answers nothing, which `wait` finds out.
        if let Some(groups) = &self.groups
            && groups.send(group).is_ok()
        {
            self.under_way = self.under_way.saturating_add(1);
        }
    }

    /// The answers that are there.
    pub(super) fn answers(&mut self) -> Option<Vec<Answer>> {
        let answers = self.answers.try_recv().ok()?;
        self.under_way = self.under_way.saturating_sub(1);
        Some(answers)
    }

    /// Waits for the next answers; `None` when none are to come.
    pub(super) fn wait(&mut self) -> Option<Vec<Answer>> {
        if self.is_idle() {
            return None;
        }
        let answers = self.answers.recv().ok();
        self.under_way = self.under_way.saturating_sub(1);
        answers
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        self.groups = None;
        if let Some(thread) = self.thread.take() {
            // One that panicked has been told of by its panic.
            let _ = thread.join();
        }
    }
}

fn settle(store: &Store<Native>, mut group: Vec<Item>) -> Vec<Answer> {
    let synced = sync(store, &mut group);
    let mut answers = Vec::new();
    let mut askers = Vec::new();
    let mut round = Vec::new();
    for (item, synced) in group.into_iter().zip(synced) {
        match (item, synced) {
            (Item::File { number, .. }, Err(refusal)) => {
                answers.push(Answer::File { number, result: Err(refusal) });
            }
            (Item::File { number, finished }, Ok(())) => {
                askers.push(Asker::File(number));
                round.push(Step::Put(*finished));
            }
            (Item::Change(change), _) => {
                round.push(Step::Change { change: change.clone(), within: None });
                askers.push(Asker::Change(change));
            }
            (Item::Keep(checkpoint), _) => {
                // What is not kept is fetched again after a crash, and no worse.
                let newer = store.make_durable(checkpoint).ok().and_then(Durable::next);
                answers.extend(newer.map(Answer::Keep));
            }
        }
    }
    for (asker, result) in askers.into_iter().zip(store.commit(round)) {
        answers.push(match asker {
            Asker::File(number) => Answer::File { number, result },
            Asker::Change(change) => Answer::Change { change, result },
        });
    }
    answers
}

/// Who is told what became of a step.
enum Asker {
    File(u64),
    Change(Change),
}

/// Syncs the files of a group; several at a time, if a disk has to be waited for. One result for
/// each item.
fn sync(store: &Store<Native>, group: &mut [Item]) -> Vec<Result<(), Refusal>> {
    let sync_one = |item: &mut Item| match item {
        Item::File { finished, .. } => store.sync(finished),
        Item::Change(_) | Item::Keep(_) => Ok(()),
    };
    let waits = group.iter().filter(|item| item.waits_for_a_disk()).count();
    if waits <= 1 {
        return group.iter_mut().map(sync_one).collect();
    }
    let share = group.len().div_ceil(SYNCERS.min(waits)).max(1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = group
            .chunks_mut(share)
            .map(|items| {
                let count = items.len();
                (count, scope.spawn(move || items.iter_mut().map(sync_one).collect::<Vec<_>>()))
            })
            .collect();
        // A thread that panicked has synced nothing that anybody can rely on.
        let failed = |count| (0..count).map(|_| Err(Code::Internal.into())).collect();
        threads
            .into_iter()
            .flat_map(|(count, thread)| thread.join().unwrap_or_else(|_| failed(count)))
            .collect()
    })
}

impl Item {
    /// Whether its sync waits for a disk: then it pays to do several at a time.
    fn waits_for_a_disk(&self) -> bool {
        match self {
            Self::File { finished, .. } => finished.durability() == Durability::Full,
            Self::Change(_) | Self::Keep(_) => false,
        }
    }
}
