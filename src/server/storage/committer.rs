//! Makes puts durable, and changes names, many at a time: a few threads sync files, one thread
//! commits in rounds whatever they have returned, with the changes that wait. A put that is slow to
//! sync joins a later round.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ftx_disk::store::{self, Settled};
use ftx_protocol::message::{self, Done, Kept, Spent};
use ftx_protocol::server::Event;
use ftx_protocol::{Code, Durability, Name, Refusal, Verb};

use super::audit::Came;
use super::queue::{FairQueue, Round, Waits};
use super::sweeper::Sweeper;
use super::transfers::{Ending, Slot, Transfers};
use super::workers::Ahead;
use super::{
    Checkpoint, ConnectionKey, Finished, Granted, Origin, Outcome, Outcomes, Step, Store, Turn,
    WORTH_TELLING, audit,
};
use crate::server::lock::lock;

/// Threads that sync puts which are whole. A sync waits for the disk, which does several at once faster than one
/// after another (measured on ext4: 16 threads sync three times as many small files as one).
const SYNCERS: usize = 8;

/// Threads that sync puts on their way. They are others, so that many large puts to a slow disk do
/// not keep the small ones from being finished.
const KEEPERS: usize = 4;

/// A put that is whole, to be synced and then to join a round.
pub(super) struct Whole {
    pub(super) slot: Arc<Slot>,
    pub(super) finished: Box<Finished>,
    pub(super) course: Course,
}

/// How a body came in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Course {
    pub(super) began: Instant,
    pub(super) bytes: u64,
    pub(super) spent: store::Spent,
    /// The moment of its `end`.
    pub(super) ended: Instant,
}

impl Course {
    /// Where the time went, until now.
    fn spent(&self) -> Spent {
        let Self { spent: store::Spent { disk, hash }, ended, .. } = self;
        Spent {
            disk: microseconds(*disk),
            hash: microseconds(*hash),
            sync: microseconds(ended.elapsed()),
        }
    }

    fn is_worth_telling(&self) -> bool {
        self.began.elapsed() >= WORTH_TELLING
    }
}

/// For messages.
pub(super) fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A change of names, to be made in a round.
pub(super) struct Changing {
    pub(super) origin: Origin,
    pub(super) change: message::Change,
    pub(super) granted: Granted,
    pub(super) began: Instant,
}

/// What a round is made of.
enum Item {
    Put(Whole),
    Change(Changing),
}

impl Item {
    fn is_change(&self) -> bool {
        matches!(self, Self::Change(_))
    }

    /// What the store makes of it, and who is told what became of that.
    fn split(self) -> (Asker, Step) {
        match self {
            Self::Put(Whole { slot, finished, course }) => {
                let name = finished.name().clone();
                (Asker::Put { slot, name, course }, Step::Put(*finished))
            }
            Self::Change(changing) => {
                let change = to_store(&changing);
                let within = changing.granted.within.clone();
                (Asker::Change(changing), Step::Change { change, within })
            }
        }
    }
}

/// The threads, and the way to them.
pub(super) struct Committer {
    /// Puts of which the bytes so far are to be made durable. What waits here keeps no file open: the slot does,
    /// until it is released.
    keep: Arc<FairQueue<Arc<Slot>>>,
    sync: Arc<FairQueue<Whole>>,
    round: Arc<FairQueue<Item>>,
    bench: Bench,
    syncing: Mutex<Vec<JoinHandle<()>>>,
    committing: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads work with.
#[derive(Clone)]
struct Bench {
    store: Arc<Store>,
    outcomes: Arc<Outcomes>,
    transfers: Arc<Transfers>,
    sweeper: Arc<Sweeper>,
}

impl Committer {
    pub(super) fn start(
        store: Arc<Store>,
        outcomes: Arc<Outcomes>,
        transfers: Arc<Transfers>,
    ) -> std::io::Result<Self> {
        let sweeper = Arc::new(Sweeper::start(Arc::clone(&store))?);
        let bench = Bench { store, outcomes, transfers, sweeper };
        let (keep, sync) = (Arc::new(FairQueue::default()), Arc::new(FairQueue::default()));
        let round = Arc::new(FairQueue::default());
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
            let (bench, round) = (bench.clone(), Arc::clone(&round));
            vec![spawn("commit".into(), move || bench.commit(&round))?]
        };
        let (syncing, committing) = (Mutex::new(syncing), Mutex::new(committing));
        Ok(Self { keep, sync, round, bench, syncing, committing })
    }

    pub(super) fn keep(&self, slot: Arc<Slot>) {
        self.keep.push_all(vec![slot]);
    }

    /// What has to wait for a disk waits in a thread that may. The rest is made here, unless there is more to
    /// do here meanwhile: then it is worth a thread of its own.
    pub(super) fn commit(&self, whole: Vec<Whole>, ahead: Ahead) {
        let (waits, at_once): (Vec<Whole>, Vec<Whole>) =
            whole.into_iter().partition(|whole| whole.finished.durability() == Durability::Full);
        self.sync.push_all(waits);
        let synced = at_once.into_iter().filter_map(|whole| self.bench.sync_one(whole));
        let items = synced.map(Item::Put).collect();
        match ahead {
            Ahead::Jobs => self.round.push_all(items),
            Ahead::Nothing => self.make_soon(items),
        }
    }

    /// Makes a round of what need not be synced here and now, if nobody makes one or waits for one: then it
    /// waits for no other one's disk. Else, and if it is more than a round, it stands in line.
    fn make_soon(&self, items: Vec<Item>) {
        let mut round = Round::default();
        let turn = match items.iter().all(|item| round.admit(item)) && self.round.is_empty() {
            true => self.bench.store.turn_if_free(),
            false => None,
        };
        match turn {
            _ if items.is_empty() => {}
            Some(turn) => self.bench.make(turn, items),
            None => self.round.push_all(items),
        }
    }

    /// A connection is gone: changes that it asked for and that wait for a round are not made. Nobody hears of
    /// them, and nothing else bounds how many there are of those that are gone.
    pub(super) fn forget_changes(&self, of: ConnectionKey) {
        self.round.forget(of, Item::is_change);
    }

    /// The same, for whoever may not wait: `None` if somebody has the line of the round, and they stay.
    pub(super) fn forget_changes_if_free(&self, of: ConnectionKey) -> Option<()> {
        self.round.forget_if_free(of, Item::is_change)
    }

    /// Nobody else has the line of the round meanwhile.
    #[cfg(test)]
    pub(super) fn hold_round(&self) -> impl Sized {
        self.round.hold()
    }

    pub(super) fn change(&self, changing: Changing) {
        let durability = changing.change.durability();
        let items = vec![Item::Change(changing)];
        match durability {
            Durability::Full => self.round.push_all(items),
            Durability::Memory | Durability::None => self.make_soon(items),
        }
    }

    /// Does what waits, and ends.
    pub(super) fn finish(&self) {
        self.keep.close();
        self.sync.close();
        join(&self.syncing);
        self.round.close();
        join(&self.committing);
        self.bench.sweeper.finish();
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
    fn sync(&self, sync: &FairQueue<Whole>, round: &FairQueue<Item>) {
        while let Some(whole) = sync.take_one() {
            round.push_all(self.sync_one(whole).map(Item::Put).into_iter().collect());
        }
    }

    /// Returns it when it may go on.
    fn sync_one(&self, mut whole: Whole) -> Option<Whole> {
        match self.store.sync(&mut whole.finished) {
            Ok(()) => Some(whole),
            Err(refusal) => {
                let name = whole.finished.name().clone();
                let outcome = self.end(&whole.slot, &name, whole.course, Err(refusal));
                self.outcomes.push_all(vec![outcome]);
                None
            }
        }
    }

    fn keep(&self, keep: &FairQueue<Arc<Slot>>) {
        while let Some(slot) = keep.take_one() {
            if let Some(checkpoint) = slot.take_checkpoint()
                && let Some(newer) = self.make_durable(&slot, *checkpoint)
            {
                // In line again: others have waited meanwhile.
                slot.lay(newer);
                keep.push_all(vec![slot]);
            }
        }
    }

    /// Returns what of the put came meanwhile.
    fn make_durable(&self, slot: &Slot, checkpoint: Checkpoint) -> Option<Checkpoint> {
        let durable = self.store.make_durable(checkpoint);
        match durable.and_then(|durable| slot.reached(durable.at()).map(|()| durable)) {
            Ok(durable) => {
                let event = Event::Kept(Kept { id: slot.id, at: durable.at() });
                self.outcomes.push_event(slot.origin.key, event);
                durable.next()
            }
            // The put is past this, or somebody else's.
            Err(refusal) if refusal.code == Code::TakenOver => None,
            Err(refusal) => {
                // First: whoever works on it finds it gone after this, and the reason is this one.
                slot.refuse(Came::Nowhere, refusal, &self.outcomes);
                if let Some(upload) = slot.condemn() {
                    self.transfers.let_go(slot, *upload, Ending::Discard);
                }
                None
            }
        }
    }

    fn commit(&self, round: &FairQueue<Item>) {
        while round.wait_for_more().is_some() {
            let turn = self.store.turn();
            // Not before: whoever has come meanwhile may have a better place.
            self.make(turn, round.take_round());
        }
    }

    /// Makes a round, and tells everybody what became of it. Who has lost the right to it meanwhile is
    /// not in it: what the journal has, a start would give its name. Whose right is lost while the journal is
    /// written is refused in it.
    fn make(&self, turn: Turn<'_>, round: Vec<Item>) {
        let mut steps = Vec::with_capacity(round.len());
        let mut told = Vec::with_capacity(round.len());
        let (mut given_up, mut lost) = (Vec::new(), Vec::new());
        for item in round {
            let (who, step) = item.split();
            match who.granted().check() {
                Ok(()) => {
                    told.push(who);
                    steps.push(step);
                }
                Err(refusal) => {
                    lost.push((who, refusal));
                    match step {
                        Step::Put(finished) => given_up.push(finished),
                        Step::Change { .. } => {}
                    }
                }
            }
        }
        self.store.give_up(given_up);
        let lost = lost.iter().map(|(who, refusal)| (who, Err(refusal.clone())));
        let rights = told.iter().map(|who| who.granted().check());
        let made = told.iter().zip(self.store.commit_in(turn, steps, rights));
        let outcomes = lost.chain(made).filter_map(|(who, result)| self.tell(who, result));
        self.outcomes.push_all(outcomes.collect());
    }

    fn tell(
        &self,
        told: &Asker,
        result: Result<Settled, Refusal>,
    ) -> Option<(ConnectionKey, Outcome)> {
        let result = result.map_err(|refusal| told.granted().in_words(refusal));
        Some(match (told, result) {
            (Asker::Put { slot, name, course }, Ok(Settled::Stored(stored))) => {
                self.end(slot, name, *course, Ok(stored))
            }
            (Asker::Put { slot, name, course }, Err(refusal)) => {
                self.end(slot, name, *course, Err(refusal))
            }
            (Asker::Change(changing), Ok(Settled::Changed(durability))) => {
                self.changed(changing, Ok(durability))
            }
            (Asker::Change(changing), Err(refusal)) => self.changed(changing, Err(refusal)),
            // The store answers what it was asked.
            (Asker::Put { .. }, Ok(Settled::Changed(_)))
            | (Asker::Change(_), Ok(Settled::Stored(_))) => return None,
        })
    }

    fn changed(
        &self,
        changing: &Changing,
        result: Result<Durability, Refusal>,
    ) -> (ConnectionKey, Outcome) {
        let Changing { origin, change, began, .. } = changing;
        let (name, to) = change.names();
        let id = change.id();
        if let message::Change::Remove(_) = change {
            // Whatever is known of whether it lasts, what was removed is in the trash.
            self.sweeper.sweep();
        }
        let event = match result {
            Ok(durability) => {
                audit::changed(origin, change, durability, *began);
                Event::Ok(message::Okay { id, durability: Some(durability) })
            }
            Err(refusal) => {
                audit::refused(origin, change.verb(), name, Came::To(to), &refusal, *began);
                Event::Refused { id, refusal }
            }
        };
        (origin.key, Outcome::Event(event))
    }

    fn end(
        &self,
        slot: &Slot,
        name: &Name,
        course: Course,
        result: Result<ftx_disk::store::Stored, Refusal>,
    ) -> (ConnectionKey, Outcome) {
        match &result {
            // What is only said again was counted when it was stored.
            Ok(stored) if stored.replayed.is_some() => {}
            Ok(_) => slot.settle(),
            // It is there, though a power cut may take it.
            Err(refusal) if refusal.code == Code::DurabilityUnknown => slot.settle(),
            Err(_) => slot.give_back(),
        }
        // Before the answer: whoever has read it may resume the transfer at once.
        self.transfers.release(slot);
        let event = match result {
            Ok(stored) => {
                let spent = course.spent();
                audit::stored(&slot.origin, name, &stored, course.began, spent);
                Event::Stored(Done {
                    id: slot.id,
                    size: stored.size,
                    digest: stored.digest,
                    durability: stored.durability,
                    version: stored.version,
                    mtime: stored.modified,
                    mode: stored.mode,
                    replayed: stored.replayed,
                    name: stored.name,
                    spent: course.is_worth_telling().then_some(spent),
                })
            }
            Err(refusal) => {
                let came = Came::Bytes(course.bytes);
                audit::refused(&slot.origin, Verb::Put, name, came, &refusal, course.began);
                Event::Refused { id: slot.id, refusal }
            }
        };
        (slot.origin.key, Outcome::Event(event))
    }
}

impl Waits for Arc<Slot> {
    fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl Waits for Whole {
    fn origin(&self) -> &Origin {
        &self.slot.origin
    }
}

impl Waits for Item {
    fn origin(&self) -> &Origin {
        match self {
            Self::Put(whole) => &whole.slot.origin,
            Self::Change(changing) => &changing.origin,
        }
    }

    fn directories(&self) -> [Option<&[u8]>; 2] {
        match self {
            Self::Put(whole) => [whole.finished.name().parent_bytes(), None],
            Self::Change(Changing { change: message::Change::Mkdir(mkdir), .. }) => {
                [Some(mkdir.name.as_bytes()), None]
            }
            Self::Change(Changing { change, .. }) => {
                let (name, to) = change.names();
                [name.parent_bytes(), to.and_then(Name::parent_bytes)]
            }
        }
    }

    fn taken_away(&self) -> Option<&[u8]> {
        match self {
            Self::Put(_) | Self::Change(Changing { change: message::Change::Mkdir(_), .. }) => None,
            Self::Change(Changing { change, .. }) => Some(change.names().0.as_bytes()),
        }
    }
}

/// Who asked for a step, and is told what became of it.
enum Asker {
    Put { slot: Arc<Slot>, name: Name, course: Course },
    Change(Changing),
}

impl Asker {
    fn granted(&self) -> &Granted {
        match self {
            Self::Put { slot, .. } => &slot.granted,
            Self::Change(changing) => &changing.granted,
        }
    }
}

fn to_store(changing: &Changing) -> store::Change {
    match changing.change.clone() {
        message::Change::Mkdir(mkdir) => store::Change::MakeDirectory {
            name: mkdir.name,
            parents: mkdir.parents,
            condition: mkdir.condition,
            modified: mkdir.mtime,
            mode: mkdir.mode,
            old_mode: changing.granted.old_mode,
            durability: mkdir.durability,
        },
        message::Change::Move(moving) => store::Change::Move {
            name: moving.name,
            to: moving.to,
            condition: moving.condition,
            durability: moving.durability,
        },
        message::Change::Remove(remove) => store::Change::Remove {
            name: remove.name,
            depth: remove.depth,
            durability: remove.durability,
        },
    }
}
