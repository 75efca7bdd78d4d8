//! Giving finished files their names, many in one round, so that no power cut takes one back.
//!
//! The order is the promise: the file's mode, time and bytes are synced; the journal's record is
//! synced; then the rename; then the directory, and every directory above it that was not synced
//! into its parent since it was made; and only then the acknowledgement.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ftx_protocol::message::Replay;
use ftx_protocol::{Code, Durability, Mode, Name, Refusal};
use rustix::io::Errno;

use super::private::Private;
use super::record::{Committed, Record};
use super::upload::{Finished, FinishedBody, sync_for};
use super::{Store, Stored, lock};
use crate::failure::{Cause, refusal};
use crate::identity::{Identity, Inode};
use crate::sys::{Disk, FileKind, Stat, Want};

/// Permissions of directories that a put makes; the process's umask applies.
const DIRECTORY_MODE: Mode = Mode::new(0o777);

/// Directories remembered as synced into their parents. Past it all are forgotten, which costs a
/// few syncs.
const SYNCED_MAX: usize = 65_536;

/// What is known of directories, and the lock under which names are given: one round at a time.
pub(super) struct Committing<D: Disk> {
    /// Directories whose entry in their parent was synced by this store.
    synced: HashSet<Inode>,
    /// Directories of which a sync failed: nothing in them is acknowledged as durable any more.
    doubtful: HashSet<Inode>,
    disk: D,
}

/// A file that has its name, in this round.
struct Named<D: Disk> {
    file: Arc<D::Handle>,
    committed: Arc<Committed>,
    directory: Inode,
}

impl<D: Disk> Committing<D> {
    pub(super) fn new(disk: D) -> Self {
        Self { synced: HashSet::new(), doubtful: HashSet::new(), disk }
    }

    /// Syncs a directory and whatever leads to it from the root and was not synced since this
    /// store began.
    pub(super) fn sync_up(&mut self, directory: &D::Handle, root: Inode) -> std::io::Result<()> {
        let inode = |disk: &D, handle: &D::Handle| disk.stat(handle).map(|stat| Inode::of(&stat));
        self.disk.sync(directory)?;
        let mut here = inode(&self.disk, directory)?;
        let mut above;
        let mut handle = directory;
        while here != root && !self.synced.contains(&here) {
            above = self.disk.open_parent(handle)?;
            self.disk.sync(&above)?;
            if self.synced.len() >= SYNCED_MAX {
                self.synced.clear();
            }
            self.synced.insert(here);
            let parent = inode(&self.disk, &above)?;
            if parent == here {
                // The top of the file system: the directory was moved out of the root meanwhile.
                break;
            }
            here = parent;
            handle = &above;
        }
        Ok(())
    }
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
        let mode = finished.plan.mode.unwrap_or(private.default_mode);
        let result = self
            .disk
            .set_mode(file, mode)
            .and_then(|()| match finished.plan.modified {
                Some(time) => self.disk.set_modified(file, time),
                None => Ok(()),
            })
            .and_then(|()| match finished.plan.durability {
                Durability::None => Ok(()),
                Durability::Memory | Durability::Full => self.disk.sync(file),
            })
            .map_err(|error| refusal(Cause::Store, "syncing the file", &error));
        if result.is_err() {
            self.abandon(private, committed);
        }
        result
    }

    /// The second half: journals the files of a round, gives them their names, and syncs what the
    /// names depend on. One answer for each file, in their order. Waits for the disk.
    ///
    /// Files that were given the same name take it in the order of the round.
    pub fn commit(&self, round: Vec<Finished<D>>) -> Vec<Result<Stored, Refusal>> {
        let private = match self.writable() {
            Ok(private) => private,
            Err(refusal) => return round.iter().map(|_| Err(refusal.clone())).collect(),
        };
        let mut committing = lock(&self.committing);
        let journalled = self.journal_round(private, &round);
        let mut directories = HashMap::new();
        let named: Vec<Result<Named<D>, Result<Stored, Refusal>>> = round
            .into_iter()
            .map(|finished| match finished.body {
                FinishedBody::Complete(committed) => Err(Ok(self.replay(&committed))),
                FinishedBody::Staged { file, committed } => match &journalled {
                    Ok(()) => {
                        self.give_name(private, file, committed, &mut directories).map_err(Err)
                    }
                    Err(refusal) => {
                        self.abandon(private, &committed);
                        Err(Err(refusal.clone()))
                    }
                },
            })
            .collect();
        self.sync_directories(&mut committing, &named, &directories);
        named
            .into_iter()
            .map(|result| match result {
                Ok(named) => self.acknowledge(&committing, &named),
                Err(answer) => answer,
            })
            .collect()
    }

    fn journal_round(&self, private: &Private<D>, round: &[Finished<D>]) -> Result<(), Refusal> {
        let mut best = Durability::None;
        let records: Vec<Record> = round
            .iter()
            .filter_map(|finished| match &finished.body {
                FinishedBody::Staged { committed, .. } => {
                    best = best.max(committed.durability);
                    Some(Record::Commit(committed.clone()))
                }
                FinishedBody::Complete(_) => None,
            })
            .collect();
        if records.is_empty() {
            return Ok(());
        }
        lock(&private.journal)
            .write(&private.directory, &records, sync_for(best))
            .map_err(|error| refusal(Cause::Store, "writing the journal", &error))
    }

    /// Gives one file its name. What cannot have it is gone after that, from the journal first, so
    /// that no restart takes its absence from staging for success.
    fn give_name(
        &self,
        private: &Private<D>,
        file: Arc<D::Handle>,
        committed: Committed,
        directories: &mut HashMap<Inode, D::Handle>,
    ) -> Result<Named<D>, Refusal> {
        match self.take_name(private, &committed) {
            Ok((handle, directory)) => {
                directories.entry(directory).or_insert(handle);
                self.reserved.release(committed.inode);
                let committed = Arc::new(committed);
                self.transfers.completed(Arc::clone(&committed));
                Ok(Named { file, committed, directory })
            }
            Err(refusal) => {
                self.abandon(private, &committed);
                Err(refusal)
            }
        }
    }

    /// Renames a staged file to its name, making the directories above it. Returns its directory.
    pub(super) fn take_name(
        &self,
        private: &Private<D>,
        committed: &Committed,
    ) -> Result<(D::Handle, Inode), Refusal> {
        let directory = match committed.name.parent() {
            Some(parent) => self.make_directories(&parent)?,
            None => self
                .disk
                .open_parent(&private.directory)
                .map_err(|error| refusal(Cause::Store, "opening the directory", &error))?,
        };
        let inode = Inode::of(&self.check_directory(&directory)?);
        let part = committed.name.last_part();
        self.check_taking(&directory, part, &committed.condition)?;
        self.disk
            .rename(&private.staging, committed.staged.as_bytes(), &directory, part)
            .map_err(|error| refusal(Cause::Naming, "giving the file its name", &error))?;
        Ok((directory, inode))
    }

    /// Opens the directory, making what is missing of it, one after another from the root.
    fn make_directories(&self, name: &Name) -> Result<D::Handle, Refusal> {
        let failed = |error: &std::io::Error| refusal(Cause::Naming, "making the directory", error);
        match self.disk.open_beneath(&self.root, name, Want::Directory) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {}
            result => return result.map_err(|error| failed(&error)),
        }
        let part = name.last_part();
        let made = match name.parent() {
            Some(parent) => {
                let parent = self.make_directories(&parent)?;
                self.check_directory(&parent)?;
                self.disk.make_directory(&parent, part, DIRECTORY_MODE)
            }
            None => self.disk.make_directory(&self.root, part, DIRECTORY_MODE),
        };
        match made {
            Err(error) if Errno::from_io_error(&error) != Some(Errno::EXIST) => {
                return Err(failed(&error));
            }
            _ => {}
        }
        self.disk.open_beneath(&self.root, name, Want::Directory).map_err(|error| failed(&error))
    }

    fn sync_directories(
        &self,
        committing: &mut Committing<D>,
        named: &[Result<Named<D>, Result<Stored, Refusal>>],
        directories: &HashMap<Inode, D::Handle>,
    ) {
        let wanted: HashSet<Inode> = named
            .iter()
            .flatten()
            .filter(|named| named.committed.durability > Durability::None)
            .map(|named| named.directory)
            .collect();
        for inode in wanted {
            let synced = directories
                .get(&inode)
                .map_or(Ok(()), |handle| committing.sync_up(handle, self.root_inode));
            if synced.is_err() {
                committing.doubtful.insert(inode);
            }
        }
    }

    fn acknowledge(&self, committing: &Committing<D>, named: &Named<D>) -> Result<Stored, Refusal> {
        let committed = &named.committed;
        if committed.durability > Durability::None && committing.doubtful.contains(&named.directory)
        {
            return Err(Code::DurabilityUnknown.into());
        }
        let stat = self
            .disk
            .stat(&named.file)
            .map_err(|error| refusal(Cause::Store, "looking at the stored file", &error))?;
        self.digests.remember_committed(
            Identity::of(&stat),
            committed.digest,
            committed.durability,
        );
        Ok(stored(committed, Some(&stat), None))
    }

    fn replay(&self, committed: &Committed) -> Stored {
        let found = self
            .disk
            .open_beneath(&self.root, &committed.name, Want::File)
            .and_then(|file| self.disk.stat(&file))
            .ok()
            .filter(|stat| stat.kind == FileKind::File && Inode::of(stat) == committed.inode);
        let replay = if found.is_some() { Replay::Same } else { Replay::Changed };
        stored(committed, found.as_ref(), Some(replay))
    }

    /// Ends a put that is whole and cannot have its name: its record is taken back, durably,
    /// before its staged file goes. If that cannot be done the file stays, for the next start to
    /// decide.
    pub(super) fn abandon(&self, private: &Private<D>, committed: &Committed) {
        self.transfers.remove(&committed.transfer);
        self.transfers.uncompleted(&committed.transfer);
        let record = Record::Drop { transfer: committed.transfer };
        let dropped = lock(&private.journal).write(
            &private.directory,
            &[record],
            sync_for(committed.durability),
        );
        if dropped.is_ok() {
            self.remove_staged(&committed.staged, committed.inode);
        }
    }
}

fn stored(committed: &Committed, stat: Option<&Stat>, replayed: Option<Replay>) -> Stored {
    Stored {
        size: committed.size,
        digest: committed.digest,
        durability: committed.durability,
        version: stat.map(|stat| Identity::of(stat).version()),
        modified: stat.map(|stat| stat.modified),
        mode: stat.map(|stat| stat.mode),
        replayed,
    }
}
