//! What was removed, until its room is given back.
//!
//! A file or a tree is removed by one rename into the trash, so it is gone at once and whole,
//! however large it is. Its room is given back afterwards, by a thread that may wait. After a crash
//! that goes on; there is nothing else to recover: before the rename all of it is there, after it
//! nothing. So nothing of it is touched until the rename is on the disk.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use ftx_protocol::{Kind, Mode};
use rustix::io::Errno;

use super::{Store, lock};
use crate::identity::Inode;
use crate::syncs::Syncs;
use crate::sys::{Disk, Stat, Want};
use crate::walk::{Step, Walk};

/// What the owner of a directory needs to find and to remove what is in it.
const SWEPT_MODE: Mode = Mode::new(0o700);

/// The directory of what was removed. It alone says what is in it: that may be more than should be
/// held in memory.
pub(super) struct Trash<D: Disk> {
    directory: D::Handle,
    /// How often something was about to be moved into it.
    expected: AtomicU64,
    /// How often that was over.
    arrived: AtomicU64,
    /// `arrived` of when it was last seen to be empty.
    empty: AtomicU64,
    /// Where one failed, what was moved into it may be back after a power cut, and has to be whole then.
    syncs: Syncs,
    /// How many entries were taken from where they were in it.
    removed: AtomicU64,
    /// One sweep at a time, from one entry to the next: of a sync that fails only one would be told, and it is not
    /// found empty while something in it is moved.
    sweeping: Mutex<()>,
    /// Held by the sweep that waits for the other one: a lock that is let go for a moment alone would be taken again
    /// by whoever had it.
    next: Mutex<()>,
}

/// What a sweep left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// Nothing that could be removed.
    Clean,
    /// It was asked to stop.
    Stopped,
}

/// What one pass through the trash found.
enum Pass {
    Empty,
    Used,
    Stopped,
}

impl<D: Disk> Trash<D> {
    /// Takes up what an earlier store left in it.
    pub(super) fn open(disk: &D, directory: D::Handle) -> io::Result<Self> {
        let left = u64::from(disk.names(&directory)?.next().is_some());
        let (expected, arrived) = (AtomicU64::new(left), AtomicU64::new(left));
        let (empty, removed) = (AtomicU64::new(0), AtomicU64::new(0));
        let (syncs, sweeping, next) = (Syncs::default(), Mutex::default(), Mutex::default());
        Ok(Self { directory, expected, arrived, empty, syncs, removed, sweeping, next })
    }

    /// Whether there is anything in it.
    pub(super) fn is_used(&self) -> bool {
        self.expected.load(Ordering::Acquire) != self.empty.load(Ordering::Acquire)
    }

    /// How many entries sweeps have removed so far.
    pub(super) fn removed(&self) -> u64 {
        self.removed.load(Ordering::Acquire)
    }

    /// The turn of a sweep. Waits for an entry that another one is about.
    fn turn(&self) -> MutexGuard<'_, ()> {
        let _next = lock(&self.next);
        lock(&self.sweeping)
    }

    /// Lets something be moved into it; one caller at a time.
    pub(super) fn take(&self, rename: impl FnOnce(&D::Handle) -> io::Result<()>) -> io::Result<()> {
        // Before: from now on nobody may find a way in.
        self.expected.fetch_add(1, Ordering::AcqRel);
        let renamed = rename(&self.directory);
        match renamed {
            Ok(()) => self.arrived.fetch_add(1, Ordering::AcqRel),
            Err(_) => self.expected.fetch_sub(1, Ordering::AcqRel),
        };
        renamed
    }
}

impl<D: Disk> Store<D> {
    /// Whether there is room to be given back.
    pub fn has_trash(&self) -> bool {
        self.private.as_ref().is_some_and(|private| private.trash.is_used())
    }

    /// Gives back the room of what was removed; what cannot be removed stays, and is tried again
    /// by the next sweep. Waits for the disk. Asks between any two entries whether to go on; there
    /// another sweep may have its turn.
    pub fn sweep_trash(&self, go_on: &dyn Fn() -> bool) -> Swept {
        let Some(private) = &self.private else { return Swept::Clean };
        let trash = &private.trash;
        let turn = Cell::new(Some(trash.turn()));
        let sweep = Sweep { store: self, trash, go_on, turn, synced: Cell::new(None) };
        while trash.is_used() {
            let arrived = trash.arrived.load(Ordering::Acquire);
            let removed = trash.removed();
            match sweep.pass() {
                Ok(Pass::Empty) => {
                    trash.empty.store(arrived, Ordering::Release);
                    // What is on its way into it now is for the next sweep.
                    if trash.arrived.load(Ordering::Acquire) == arrived {
                        return Swept::Clean;
                    }
                }
                Ok(Pass::Stopped) => return Swept::Stopped,
                // Some file systems pass over entries while others are removed.
                Ok(Pass::Used) if trash.removed() > removed => {}
                Ok(Pass::Used) | Err(_) => return Swept::Clean,
            }
        }
        Swept::Clean
    }
}

struct Sweep<'a, D: Disk> {
    store: &'a Store<D>,
    trash: &'a Trash<D>,
    go_on: &'a dyn Fn() -> bool,
    /// There but while it lets others go first.
    turn: Cell<Option<MutexGuard<'a, ()>>>,
    /// How much had arrived in the trash when it was last synced.
    synced: Cell<Option<u64>>,
}

impl<D: Disk> Sweep<'_, D> {
    fn pass(&self) -> io::Result<Pass> {
        let mut found = Pass::Empty;
        for part in self.store.disk.names(&self.trash.directory)? {
            found = Pass::Used;
            // What cannot be removed keeps nothing else from being removed.
            if matches!(self.remove(&part?), Ok(Swept::Stopped)) {
                return Ok(Pass::Stopped);
            }
        }
        Ok(found)
    }

    /// Is asked between any two entries. Whoever waits for a turn has it first.
    fn goes_on(&self) -> bool {
        drop(self.turn.take());
        let goes_on = (self.go_on)();
        self.turn.set(Some(self.trash.turn()));
        goes_on
    }

    fn remove(&self, part: &[u8]) -> io::Result<Swept> {
        if !self.goes_on() {
            return Ok(Swept::Stopped);
        }
        if !self.is_here_to_stay()? {
            return Ok(Swept::Clean);
        }
        let trash = &self.trash.directory;
        let stat = self.store.disk.stat_part(trash, part)?;
        if stat.kind != Kind::Directory {
            return self.remove_file(trash, part).map(|()| Swept::Clean);
        }
        match self.empty(part, &stat)? {
            Swept::Stopped => Ok(Swept::Stopped),
            Swept::Clean => self.remove_directory(trash, part).map(|()| Swept::Clean),
        }
    }

    /// Whether all that is in the trash stays in it at a power cut: a tree that comes back has to
    /// be whole. What is on its way into it is for the next sweep.
    fn is_here_to_stay(&self) -> io::Result<bool> {
        let is_all = |arrived| self.trash.expected.load(Ordering::Acquire) == arrived;
        if self.synced.get().is_some_and(is_all) {
            return Ok(true);
        }
        let arrived = self.trash.arrived.load(Ordering::Acquire);
        self.trash.syncs.sync(&self.store.disk, &self.trash.directory)?;
        self.synced.set(Some(arrived));
        Ok(is_all(arrived))
    }

    /// Removes what is in a directory. Never leaves its file system, and follows nothing.
    fn empty(&self, part: &[u8], stat: &Stat) -> io::Result<Swept> {
        let disk = &self.store.disk;
        open_up(disk, &self.trash.directory, part, stat);
        let directory = disk.open_part(&self.trash.directory, part, Want::Directory)?;
        let mut walk = Walk::new(disk.clone(), directory.into())?;
        while let Some(step) = walk.next() {
            if !self.goes_on() {
                return Ok(Swept::Stopped);
            }
            let Some(directory) = walk.directory().map(Arc::clone) else { break };
            // What cannot be removed shows when its directory cannot.
            let _ = match step {
                Step::Seen { stat, .. } if stat.device != self.store.root_inode.device => Ok(()),
                Step::Seen { part, stat } if stat.kind == Kind::Directory => {
                    open_up(disk, &directory, &part, &stat);
                    self.enter(&mut walk, &directory, &part)
                }
                Step::Seen { part, .. } => self.remove_file(&directory, &part),
                Step::Left { part, .. } => self.remove_directory(&directory, &part),
                Step::Unread { .. } => Ok(()),
            };
        }
        Ok(Swept::Clean)
    }

    fn enter(&self, walk: &mut Walk<D>, above: &D::Handle, part: &[u8]) -> io::Result<()> {
        match walk.enter() {
            // Deeper than a walk goes: a tree was moved to the bottom of another. The rest of it
            // gets a place of its own in the trash.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NAMETOOLONG) => {
                let trashed = self.store.new_staged_part().into_bytes();
                self.count(self.store.disk.rename(above, part, &self.trash.directory, &trashed))
            }
            entered => entered,
        }
    }

    fn remove_file(&self, directory: &D::Handle, part: &[u8]) -> io::Result<()> {
        self.count(self.store.disk.remove(directory, part))
    }

    fn remove_directory(&self, directory: &D::Handle, part: &[u8]) -> io::Result<()> {
        self.count(self.store.disk.remove_directory(directory, part))
    }

    fn count(&self, removed: io::Result<()>) -> io::Result<()> {
        if removed.is_ok() {
            self.trash.removed.fetch_add(1, Ordering::AcqRel);
        }
        removed
    }
}

/// Nobody but the store has a directory any more, whatever its owner wanted to keep from happening in it.
fn open_up<D: Disk>(disk: &D, above: &D::Handle, part: &[u8], seen: &Stat) {
    let bits = seen.mode.bits();
    if bits & SWEPT_MODE.bits() == SWEPT_MODE.bits() {
        return;
    }
    let want = if bits & 0o400 == 0 { Want::Way } else { Want::Directory };
    // If this fails, so will the removing.
    let Ok(directory) = disk.open_part(above, part, want) else { return };
    if disk.stat(&directory).is_ok_and(|stat| Inode::of(&stat) == Inode::of(seen)) {
        let _ = disk.set_mode(&directory, SWEPT_MODE);
    }
}
