//! Giving finished files their names, many in one round, so that no power cut takes one back.
//!
//! The order is the promise: the file's mode, time and bytes are synced; its entry in staging is;
//! the journal's record is; then the rename; then the directory, and every directory above it that
//! was not synced into its parent since it was made; and only then the acknowledgement.

use std::collections::HashSet;
use std::sync::{Arc, MutexGuard, TryLockError};

use ftx_protocol::{Code, Digest, Durability, Kind, Name, Refusal, Replay};

use super::change::{Change, Changed};
use super::committing::{Committing, Puts};
use super::journal::not_journalled;
use super::naming::{Ground, Origin};
use super::private::Private;
use super::record::{Committed, Complete, Outcome, Record};
use super::recover::Stretches;
use super::upload::{Entry, Finished, FinishedBody, StagedFile, sync_for};
use super::{Memory, Store, Stored, lock};
use crate::failure::{Cause, refusal};
use crate::identity::{Identity, Inode};
use crate::log::{NotWritten, Sync};
use crate::sys::{Disk, Stat};

/// The right to make a round: one at a time.
pub struct Turn<'a, D: Disk>(MutexGuard<'a, Committing<D>>);

/// A file that has its name, in this round.
struct Named<D: Disk> {
    file: Arc<StagedFile<D>>,
    committed: Committed,
    directory: Inode,
}

/// One part of a round.
#[expect(clippy::large_enum_variant, reason = "nearly all are puts, and a box is an allocation")]
pub enum Step<D: Disk> {
    /// Gives a file that is whole and synced its name.
    Put(Finished<D>),
    /// Changes names.
    Change {
        /// How.
        change: Change,
        /// The directory that whoever asks for it is held to.
        within: Option<Name>,
    },
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// A put took effect.
    Stored(Stored),
    /// Names were changed, and survive this.
    Changed(Durability),
}

/// What the journal says of the puts of a round.
enum Journalled {
    /// That they are about to take their names, where it has to say that.
    Said,
    /// Nothing.
    Not(Refusal),
    /// Nobody knows.
    Perhaps(Refusal),
}

impl Journalled {
    fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Said => Ok(()),
            Self::Not(refusal) | Self::Perhaps(refusal) => Err(refusal.clone()),
        }
    }
}

/// What a step has come to before the syncs at the end of the round.
enum Made<D: Disk> {
    /// The answer depends on the sync of its directory.
    File(Named<D>),
    /// The same, of each directory that it has to do with.
    Change(Changed<D>),
    /// A put that cannot have its name: those of a round end together.
    Refused(Committed, Refusal),
    /// It depends on nothing more.
    Answered(Result<Settled, Refusal>),
}

impl<D: Disk> Store<D> {
    /// The first half of a commit: gives a file its permissions and time, and syncs it. Waits for
    /// the disk; many threads may do this at once.
    ///
    /// # Errors
    /// When the disk fails. The put is over then, nothing is left of it, and the sync must not be
    /// tried again.
    pub fn sync(&self, finished: &mut Finished<D>) -> Result<(), Refusal> {
        let FinishedBody::Staged { file, committed } = &finished.body else { return Ok(()) };
        let private = self.writable()?;
        let mode = finished.put.mode.unwrap_or(private.default_mode);
        // A small file was made with the mode that it is to have.
        let result =
            if file.mode == mode { Ok(()) } else { self.disk.set_mode(&file.handle, mode) };
        let result = result
            .and_then(|()| match finished.put.modified {
                Some(time) => self.disk.set_modified(&file.handle, time),
                None => Ok(()),
            })
            .and_then(|()| match finished.put.durability {
                Durability::None => Ok(()),
                Durability::Memory | Durability::Full => file.sync(&self.disk),
            })
            .map_err(|error| refusal(Cause::Sync, "syncing the file", &error));
        if result.is_err() {
            self.abandon(committed);
        }
        result
    }

    /// The second half, for files and for changes of names: journals the files of a round, makes
    /// each step in the order of the round, and syncs what they depend on. One answer for each
    /// step, in their order. Waits for the disk.
    pub fn commit(&self, round: Vec<Step<D>>) -> Vec<Result<Settled, Refusal>> {
        self.commit_in(self.turn(), round, std::iter::repeat(Ok(())))
    }

    /// The next turn. Waits for the round that is being made, which may wait for the disk.
    pub fn turn(&self) -> Turn<'_, D> {
        Turn(lock(&self.committing))
    }

    /// A turn, if no round is being made now.
    pub fn turn_if_free(&self) -> Option<Turn<'_, D>> {
        match self.committing.try_lock() {
            Ok(committing) => Some(Turn(committing)),
            // See lock.
            Err(TryLockError::Poisoned(poisoned)) => Some(Turn(poisoned.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// As [`Store::commit`], for whoever has the turn. `rights` says of each step whether it may still be made, and
    /// is asked for that when everything before it is done: the journal waits for the disk, and rights are lost
    /// meanwhile.
    pub fn commit_in(
        &self,
        turn: Turn<'_, D>,
        mut round: Vec<Step<D>>,
        rights: impl Iterator<Item = Result<(), Refusal>>,
    ) -> Vec<Result<Settled, Refusal>> {
        let private = match self.writable() {
            Ok(private) => private,
            Err(refusal) => return round.iter().map(|_| Err(refusal.clone())).collect(),
        };
        let Turn(mut committing) = turn;
        self.number(&mut round);
        let journalled = self.journal_round(private, &round);
        let mut ground = Ground::default();
        let made: Vec<Made<D>> = round
            .into_iter()
            .zip(rights)
            .map(|(step, right)| {
                self.make(private, step, right, &journalled, &mut committing, &mut ground)
            })
            .collect();
        let refused = made.iter().filter_map(|made| match made {
            Made::Refused(committed, _) => Some(committed),
            Made::File(_) | Made::Change(_) | Made::Answered(_) => None,
        });
        match journalled {
            Journalled::Not(_) => refused.for_each(|committed| self.abandon(committed)),
            // Before what was changed is answered: no start may make one of these after that.
            Journalled::Said | Journalled::Perhaps(_) => self.take_back(private, refused),
        }
        let mut now = HashSet::new();
        let failed = sync_directories(&mut committing, &made, &ground, &mut now);
        // Where only what leads to a directory was not synced, it has its names.
        let lost = failed.difference(&now).copied().collect();
        let puts = self.judge_puts(private, &mut committing, &made, &lost);
        let mut learned = Learned::default();
        let answers =
            made.into_iter().map(|made| self.answer(made, &failed, puts, &mut learned)).collect();
        self.digests.remember_committed(&learned.digests);
        if !learned.done.is_empty() {
            // What is lost of these follows from the disk at the next start.
            let _ = lock(&private.journal).write(&private.directory, &learned.done, Sync::Never);
        }
        answers
    }

    /// Whether puts keep their names, for the changes of a round. `lost`: the directories that were to be synced, and
    /// themselves were not.
    fn judge_puts(
        &self,
        private: &Private<D>,
        committing: &mut Committing<D>,
        made: &[Made<D>],
        lost: &HashSet<Inode>,
    ) -> Puts {
        let loses_its_name =
            |made: &Made<D>| matches!(made, Made::File(named) if lost.contains(&named.directory));
        if made.iter().any(loses_its_name) {
            committing.puts = Puts::MayBeRepeated;
        }
        let changes = made.iter().any(|made| matches!(made, Made::Change(_)));
        if changes && self.mend_journal(private, Stretches::IN_A_ROUND).is_err() {
            return Puts::MayBeRepeated;
        }
        committing.puts
    }

    /// What there is to say of a step, when the directories of its round are synced, but for those that `failed`.
    fn answer(
        &self,
        made: Made<D>,
        failed: &HashSet<Inode>,
        puts: Puts,
        learned: &mut Learned,
    ) -> Result<Settled, Refusal> {
        match made {
            Made::File(Named { committed, directory, .. })
                if committed.durability > Durability::None && failed.contains(&directory) =>
            {
                // It is over: nothing of it is left to go on with.
                self.transfers.remove(&committed.transfer);
                Err(Code::DurabilityUnknown.into())
            }
            Made::File(named) => Ok(Settled::Stored(self.acknowledge(named, learned))),
            Made::Change(changed) => acknowledge_change(&changed, failed, puts),
            Made::Refused(_, refusal) => Err(refusal),
            Made::Answered(answer) => answer,
        }
    }

    /// Makes one step of a round, if whoever asked for it still has the right to it.
    fn make(
        &self,
        private: &Private<D>,
        step: Step<D>,
        right: Result<(), Refusal>,
        journalled: &Journalled,
        committing: &mut Committing<D>,
        ground: &mut Ground<D>,
    ) -> Made<D> {
        match step {
            Step::Put(Finished { body: FinishedBody::Complete(complete), .. }) => {
                Made::Answered(right.map(|()| Settled::Stored(self.replay(&complete))))
            }
            Step::Put(Finished { body: FinishedBody::Staged { file, committed }, .. }) => {
                match right.and_then(|()| journalled.check()) {
                    Ok(()) => self.give_name(private, file, committed, committing, ground),
                    Err(refusal) => Made::Refused(committed, refusal),
                }
            }
            Step::Change { change, within } => {
                ground.last = None;
                let change =
                    |()| self.change(private, &change, within.as_ref(), committing, ground);
                match right.and_then(change) {
                    Ok(changed) => {
                        ground.changed.extend(changed.directories.iter().cloned());
                        Made::Change(changed)
                    }
                    Err(refusal) => Made::Answered(Err(refusal)),
                }
            }
        }
    }

    fn journal_round(&self, private: &Private<D>, round: &[Step<D>]) -> Journalled {
        let mut best = Durability::None;
        let records: Vec<Record> = round
            .iter()
            .filter_map(|step| match step {
                Step::Put(Finished { body: FinishedBody::Staged { committed, .. }, .. })
                    if self.is_journalled(committed) =>
                {
                    best = best.max(committed.durability);
                    Some(Record::Commit(committed.clone()))
                }
                Step::Put(_) | Step::Change { .. } => None,
            })
            .collect();
        if records.is_empty() {
            return Journalled::Said;
        }
        if let Err(error) = self.sync_staging(private, best) {
            return Journalled::Not(refusal(Cause::Sync, "syncing staging", &error));
        }
        match lock(&private.journal).write(&private.directory, &records, sync_for(best)) {
            Ok(()) => Journalled::Said,
            Err(error @ NotWritten::Stands(_)) => Journalled::Not(not_journalled(error)),
            Err(error @ NotWritten::Doubtful(_)) => Journalled::Perhaps(not_journalled(error)),
        }
    }

    /// Whether the next start has to do with a put that was about to take its name.
    fn is_journalled(&self, committed: &Committed) -> bool {
        self.options.memory == Memory::Puts || committed.durability > Durability::None
    }

    /// Gives one file its name. What cannot have it is gone when the round is over.
    fn give_name(
        &self,
        private: &Private<D>,
        file: Arc<StagedFile<D>>,
        committed: Committed,
        committing: &mut Committing<D>,
        ground: &mut Ground<D>,
    ) -> Made<D> {
        let origin = match file.entry {
            Entry::InStaging => Origin::Staging,
            Entry::Nowhere => Origin::Handle(&file.handle),
        };
        match self.take_name(private, origin, &committed, committing, ground) {
            Ok((_, directory)) => Made::File(Named { file, committed, directory }),
            Err(refusal) => Made::Refused(committed, refusal),
        }
    }

    /// Says what a file in its place is, and notes it for the journal.
    fn acknowledge(&self, named: Named<D>, learned: &mut Learned) -> Stored {
        let Named { file, committed, .. } = named;
        if self.options.memory == Memory::Nothing {
            self.transfers.remove(&committed.transfer);
            return stored(&committed, None, None);
        }
        // It is durable under its name; a stat that fails takes nothing of that back.
        let stat = self.disk.stat(&file.handle).ok();
        let outcome = match &stat {
            Some(stat) => {
                let file = Identity::of(stat);
                learned.digests.push((file, committed.digest, committed.durability));
                learned.done.push(Record::Done { transfer: committed.transfer, file });
                Outcome::Named(file)
            }
            None => Outcome::Pending,
        };
        let answer = stored(&committed, stat.as_ref(), None);
        self.transfers.completed(Arc::new(Complete { committed, outcome }));
        answer
    }

    fn replay(&self, complete: &Complete) -> Stored {
        let Complete { committed, outcome } = complete;
        // Not opened: its owner may have put it with a mode that lets nobody read it.
        let found = self.look_at(committed.within.as_ref(), &committed.name).ok().filter(|stat| {
            match outcome {
                Outcome::Named(then) => Identity::of(stat).is_same_after_reboot(then),
                Outcome::Pending => false,
            }
        });
        let replay = if found.is_some() { Replay::Same } else { Replay::Changed };
        stored(committed, found.as_ref(), Some(replay))
    }

    /// Ends puts that are whole and are not to have their names.
    pub fn give_up(&self, finished: Vec<Finished<D>>) {
        for finished in finished {
            match finished.body {
                FinishedBody::Staged { committed, .. } => self.abandon(&committed),
                FinishedBody::Complete(_) => {}
            }
        }
    }

    /// Ends a put that is whole, and of which the journal does not say that it is about to take its name.
    fn abandon(&self, committed: &Committed) {
        self.transfers.remove(&committed.transfer);
        self.remove_begun(committed.transfer, &committed.staged, committed.inode);
    }

    /// Ends puts that are whole and cannot have their names, though the journal may say that they are about to take
    /// them: their records are taken back, durably, before their staged files go, so that no restart takes the
    /// absence from staging for success. If that cannot be done the files stay, for the next start to decide.
    fn take_back<'a>(
        &self,
        private: &Private<D>,
        refused: impl Iterator<Item = &'a Committed> + Clone,
    ) {
        let Some(durability) = refused.clone().map(|committed| committed.durability).max() else {
            return;
        };
        refused.clone().for_each(|committed| self.transfers.remove(&committed.transfer));
        let taken_back = refused.clone().map(|Committed { transfer, staged, .. }| Record::Drop {
            transfer: *transfer,
            staged: staged.clone(),
        });
        let taken_back: Vec<Record> = taken_back.collect();
        let sync = sync_for(durability);
        if lock(&private.journal).retract(&private.directory, &taken_back, sync).is_ok() {
            refused.for_each(|committed| {
                self.remove_staged(&committed.staged, committed.inode);
            });
        }
    }
}

/// Syncs the directories of a round, and what leads to them. Returns those of which that failed. `now`: see
/// [`Committing::sync_up`].
fn sync_directories<D: Disk>(
    committing: &mut Committing<D>,
    made: &[Made<D>],
    ground: &Ground<D>,
    now: &mut HashSet<Inode>,
) -> HashSet<Inode> {
    let mut wanted = HashSet::new();
    for made in made {
        match made {
            Made::File(named) if named.committed.durability > Durability::None => {
                wanted.insert(named.directory);
            }
            Made::Change(changed) if changed.durability > Durability::None => {
                wanted.extend(changed.directories.iter().map(|(inode, _)| *inode));
            }
            Made::File(_) | Made::Change(_) | Made::Refused(..) | Made::Answered(_) => {}
        }
    }
    wanted
        .into_iter()
        .filter(|inode| {
            let synced = ground
                .changed
                .get(inode)
                .map(|handle| committing.sync_up(handle, &ground.above, now));
            !matches!(synced, Some(Ok(())))
        })
        .collect()
}

/// What is written down of a round when it is over, in one go.
#[derive(Default)]
struct Learned {
    digests: Vec<(Identity, Digest, Durability)>,
    done: Vec<Record>,
}

fn acknowledge_change<D: Disk>(
    changed: &Changed<D>,
    failed: &HashSet<Inode>,
    puts: Puts,
) -> Result<Settled, Refusal> {
    let lasts = puts == Puts::Settled
        && !changed.directories.iter().any(|(inode, _)| failed.contains(inode));
    match changed.durability {
        Durability::Memory | Durability::Full if !lasts => Err(Code::DurabilityUnknown.into()),
        durability => Ok(Settled::Changed(durability)),
    }
}

fn stored(committed: &Committed, stat: Option<&Stat>, replayed: Option<Replay>) -> Stored {
    let stat = stat.filter(|stat| stat.kind == Kind::File);
    Stored {
        size: committed.size,
        digest: committed.digest,
        durability: committed.durability,
        version: stat.map(|stat| Identity::of(stat).version()),
        modified: stat.map(|stat| stat.modified),
        mode: stat.map(|stat| stat.mode),
        replayed,
        name: committed.asked.is_some().then(|| committed.name.clone()),
    }
}
