//! What an earlier store left unfinished, by its journal and its staging: finished, or forgotten.

use std::cell::Cell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;

use ftx_protocol::{Durability, Name};
use rustix::io::Errno;

use super::begin::is_gone;
use super::committing::Committing;
use super::journal::Image;
use super::naming::{Ground, Origin};
use super::private::Private;
use super::record::{Begun, Committed, Complete, Outcome};
use super::transfers::{Kept, Partial, Use};
use super::{Memory, OpenError, Recovery, Store, lock};
use crate::identity::{Identity, Inode};
use crate::sys::{Disk, Want};

/// How the trash is swept for the room of a journal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stretches {
    /// Entries that are looked at before the journal is tried again.
    pub(super) entries: u32,
    /// How often.
    pub(super) times: u32,
}

impl Stretches {
    /// Everybody who puts or changes something waits for a round, so that it sweeps for some tenths of a second and
    /// leaves the rest to who may wait. A stretch is longer than a tree is deep: at its bottom something goes.
    pub(super) const IN_A_ROUND: Self = Self { entries: 256, times: 16 };
    /// Without the journal there is no store, and nobody waits for an answer yet.
    const AT_A_START: Self = Self { entries: u32::MAX, times: 1 };
}

/// What a start finds of a put that was about to take its name.
enum Fate {
    /// It has taken it and was this then: the journal says so.
    Done(Identity),
    /// Its name has it. The crash came after the rename, and perhaps before the sync of the directory.
    Renamed(Identity),
    /// It has no name yet.
    Staged(Inode),
    /// It is not there. Whether it has taken its name and lost it again, nothing says.
    Nowhere,
}

/// A file in staging as it is known by now, if it is still the one that the journal speaks of. The number of its
/// device may be another one since the machine was started: what is reserved is what it has now.
fn staged_as(staged: &HashMap<String, Inode>, part: &str, then: Inode) -> Option<Inode> {
    staged.get(part).copied().filter(|now| now.number == then.number)
}

impl<D: Disk> Store<D> {
    /// Finishes or forgets what the journal says, sweeps staging, and writes the journal anew.
    pub(super) fn recover(
        &self,
        staged: &HashMap<String, Inode>,
        torn_bytes: u64,
    ) -> Result<Recovery, OpenError> {
        let mut recovery = Recovery { torn_bytes, ..Recovery::default() };
        let Some(private) = &self.private else { return Ok(recovery) };
        let image = lock(&private.journal).image().clone();
        let mut kept = Image::of_run(self.run);
        let boot_id = self.boot_id.as_ref();
        self.settle_all(private, image.complete(), staged, &mut kept, &mut recovery);
        let said: HashSet<String> = image.staged().cloned().collect();
        // What the journal does not speak of may hold the room to write it anew.
        let unsaid = staged.iter().filter(|(part, _)| !said.contains(*part));
        self.sweep_staging(private, unsaid, &mut recovery);
        let mut live = HashSet::new();
        for (transfer, (begun, saved)) in image.partial {
            let Some(saved) = saved else { continue };
            let Some(inode) = staged_as(staged, &begun.staged, begun.inode) else { continue };
            if !begun.survival.reaches(boot_id) {
                continue;
            }
            // Gives back the room of what is past the promise, and of what was reserved.
            match self.reopen_staged(private, &begun.staged, inode, saved.offset()) {
                Err(error) if is_gone(&error) => continue,
                // If it failed otherwise, whoever goes on does it; the promise stands.
                _ => {}
            }
            let begun = Begun { inode, ..begun };
            live.insert(begun.staged.clone());
            kept.partial.insert(transfer, (begun.clone(), Some(saved.clone())));
            let kept = Kept::UpTo(saved);
            let syncs = Arc::default();
            let partial = Partial { begun, kept, epoch: 0, use_: Use::Idle, syncs };
            self.transfers.insert(transfer, partial);
            recovery.resumable = recovery.resumable.saturating_add(1);
        }
        lock(&private.journal).say_only(kept);
        self.mend_journal(private, Stretches::AT_A_START)
            .map_err(|error| OpenError::Private { step: "write the journal", error })?;
        // After the journal: until it was written anew, it may need these.
        let over = staged.iter().filter(|(part, _)| said.contains(*part) && !live.contains(*part));
        self.sweep_staging(private, over, &mut recovery);
        Ok(recovery)
    }

    /// Removes what is still in staging of these.
    fn sweep_staging<'a>(
        &self,
        private: &Private<D>,
        parts: impl Iterator<Item = (&'a String, &'a Inode)>,
        recovery: &mut Recovery,
    ) {
        for (part, inode) in parts {
            if self.disk.stat_part(&private.staging, part.as_bytes()).is_ok() {
                self.remove_staged(part, *inode);
                recovery.swept = recovery.swept.saturating_add(1);
            }
        }
    }

    /// See [`Journal::mend`]. On a full disk it has no room to be written anew, but what was removed may hold some.
    /// Where a stretch removes nothing, the next one would not either.
    pub(super) fn mend_journal(
        &self,
        private: &Private<D>,
        stretches: Stretches,
    ) -> io::Result<()> {
        let mend = || lock(&private.journal).mend(&private.directory);
        let mut mended = mend();
        for _ in 0..stretches.times {
            if !mended.as_ref().is_err_and(is_full) || !self.has_trash() {
                break;
            }
            let removed = private.trash.removed();
            let left = Cell::new(stretches.entries);
            self.sweep_trash(&|| left.replace(left.get().saturating_sub(1)) > 0);
            if private.trash.removed() == removed {
                break;
            }
            mended = mend();
        }
        mended
    }

    /// Finishes the puts that were about to take their names, in the order of the journal, or forgets them.
    fn settle_all(
        &self,
        private: &Private<D>,
        complete: &VecDeque<Complete>,
        staged: &HashMap<String, Inode>,
        kept: &mut Image,
        recovery: &mut Recovery,
    ) {
        let boot_id = self.boot_id.as_ref();
        let fates: Vec<(&Complete, Fate)> = complete
            .iter()
            .filter(|complete| complete.committed.survival.reaches(boot_id))
            .map(|complete| (complete, self.fate_of(complete, staged)))
            .collect();
        let mut last_taken: HashMap<&Name, usize> = HashMap::new();
        for (place, (complete, fate)) in fates.iter().enumerate() {
            match fate {
                Fate::Done(_) | Fate::Renamed(_) => {
                    last_taken.insert(&complete.committed.name, place);
                }
                Fate::Staged(_) | Fate::Nowhere => {}
            }
        }
        for (place, (complete, fate)) in fates.into_iter().enumerate() {
            let last = last_taken.get(&complete.committed.name);
            let settled = match fate {
                // It could not have its name, and the crash came before the journal was told so.
                // Whoever came after it keeps it.
                Fate::Staged(_) if last.is_some_and(|last| *last > place) => None,
                fate => self.settle(private, &complete.committed, fate, recovery),
            };
            if let Some(complete) = settled {
                // Whoever comes back to a store that remembers puts is told that this one was said to be there.
                if self.options.memory == Memory::Puts {
                    self.transfers.completed(Arc::new(complete.clone()));
                }
                // It may be a server's, which remembers.
                kept.remember(complete);
            }
        }
    }

    /// Finds out what became of a file that was about to take its name.
    fn fate_of(&self, complete: &Complete, staged: &HashMap<String, Inode>) -> Fate {
        let Complete { committed, outcome } = complete;
        if let Outcome::Named(file) = outcome {
            return Fate::Done(*file);
        }
        if let Some(inode) = staged_as(staged, &committed.staged, committed.inode) {
            return Fate::Staged(inode);
        }
        match self.look_at(committed.within.as_ref(), &committed.name) {
            Ok(found) if found.inode == committed.inode.number && found.size == committed.size => {
                Fate::Renamed(Identity::of(&found))
            }
            _ => Fate::Nowhere,
        }
    }

    /// Finishes a put, in its turn: those of one name take it one after another, each if it may. `None`: there
    /// is nothing of it, and nobody was told otherwise.
    fn settle(
        &self,
        private: &Private<D>,
        committed: &Committed,
        fate: Fate,
        recovery: &mut Recovery,
    ) -> Option<Complete> {
        let settled = |outcome| Some(Complete { committed: committed.clone(), outcome });
        let mut committing = lock(&self.committing);
        match fate {
            Fate::Done(file) => settled(Outcome::Named(file)),
            Fate::Renamed(file) => {
                let within = committed.within.as_ref();
                let directory = match committed.name.parent() {
                    Some(parent) => Arc::new(self.look(within, &parent, Want::Directory).ok()?),
                    None => Arc::clone(&self.root),
                };
                self.sync_name(&mut committing, committed, &directory)?;
                settled(Outcome::Named(file))
            }
            Fate::Staged(inode) => {
                let committed = &Committed { inode, ..committed.clone() };
                // Where the condition does not hold any more, or something is in the way, it is over.
                let ground = &mut Ground::default();
                let (directory, _) = self
                    .take_name(private, Origin::Staging, committed, &mut committing, ground)
                    .ok()?;
                recovery.finished = recovery.finished.saturating_add(1);
                self.sync_name(&mut committing, committed, &directory)?;
                // As when it is acknowledged: a stat that fails takes nothing of that back.
                let named = self.disk.stat_part(&directory, committed.name.last_part());
                settled(match named {
                    Ok(named) if Inode::of(&named) == inode => Outcome::Named(Identity::of(&named)),
                    _ => Outcome::Pending,
                })
            }
            Fate::Nowhere => None,
        }
    }

    /// `None` when the directory cannot be synced: it is doubtful from now on.
    fn sync_name(
        &self,
        committing: &mut Committing<D>,
        committed: &Committed,
        directory: &D::Handle,
    ) -> Option<()> {
        match committed.durability {
            Durability::None => Some(()),
            Durability::Memory | Durability::Full => {
                committing.sync_up(directory, &HashMap::new(), &mut HashSet::new()).ok()
            }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOSPC | Errno::DQUOT))
}
