//! What was removed, until its room is given back.
//!
//! A file or a tree is removed by one rename into the trash, so it is gone at once and whole,
//! however large it is. Its room is given back afterwards, by a thread that may wait. After a crash
//! that goes on; there is nothing else to recover: before the rename all of it is there, after it
//! nothing.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Store, lock};
use crate::sys::{Disk, FileKind, Want};
use crate::walk::{Step, Walk};

/// How often a tree is walked through before what is left of it is left to the next start: some
/// file systems pass over entries when others are removed meanwhile.
const PASSES: usize = 3;

/// The directory of what was removed.
pub(super) struct Trash<D: Disk> {
    pub(super) directory: D::Handle,
    waiting: Mutex<VecDeque<Vec<u8>>>,
    /// Everything in it, also what cannot be removed.
    used: AtomicUsize,
}

/// What a sweep left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// Nothing that could be removed.
    Clean,
    /// It was asked to stop.
    Stopped,
}

impl<D: Disk> Trash<D> {
    /// Takes up what an earlier store left in it.
    pub(super) fn open(disk: &D, directory: D::Handle) -> io::Result<Self> {
        let waiting = disk.names(&directory)?.collect::<io::Result<VecDeque<_>>>()?;
        let used = AtomicUsize::new(waiting.len());
        Ok(Self { directory, waiting: Mutex::new(waiting), used })
    }

    /// Whether there is anything in it.
    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Acquire) > 0
    }

    /// Something is about to be moved into it: from now on nobody may find a way in.
    pub(super) fn expect_one(&self) {
        self.used.fetch_add(1, Ordering::AcqRel);
    }

    /// It was not.
    pub(super) fn expect_one_less(&self) {
        self.used.fetch_sub(1, Ordering::AcqRel);
    }

    /// It was.
    pub(super) fn add(&self, part: Vec<u8>) {
        lock(&self.waiting).push_back(part);
    }
}

impl<D: Disk> Store<D> {
    /// Whether there is room to be given back.
    pub fn has_trash(&self) -> bool {
        self.private.as_ref().is_some_and(|private| !lock(&private.trash.waiting).is_empty())
    }

    /// Gives back the room of what was removed. Waits for the disk; one thread at a time. Asks
    /// between any two entries whether to go on.
    pub fn sweep_trash(&self, go_on: &dyn Fn() -> bool) -> Swept {
        let Some(private) = &self.private else { return Swept::Clean };
        let trash = &private.trash;
        loop {
            let Some(part) = lock(&trash.waiting).pop_front() else { return Swept::Clean };
            let sweep = Sweep { disk: &self.disk, device: self.root_inode.device, go_on };
            match sweep.remove(&trash.directory, &part) {
                Ok(Swept::Clean) => trash.expect_one_less(),
                Ok(Swept::Stopped) => {
                    trash.add(part);
                    return Swept::Stopped;
                }
                // It costs room until the next start, and no more.
                Err(_) => {}
            }
        }
    }
}

struct Sweep<'a, D: Disk> {
    disk: &'a D,
    device: u64,
    go_on: &'a dyn Fn() -> bool,
}

impl<D: Disk> Sweep<'_, D> {
    fn remove(&self, trash: &D::Handle, part: &[u8]) -> io::Result<Swept> {
        if self.disk.stat_part(trash, part)?.kind != FileKind::Directory {
            return self.disk.remove(trash, part).map(|()| Swept::Clean);
        }
        for pass in 1.. {
            if self.empty(trash, part)? == Swept::Stopped {
                return Ok(Swept::Stopped);
            }
            match self.disk.remove_directory(trash, part) {
                Err(_) if pass < PASSES => {}
                result => return result.map(|()| Swept::Clean),
            }
        }
        Ok(Swept::Clean)
    }

    /// Removes what is in a directory. Never leaves its file system, and follows nothing.
    fn empty(&self, trash: &D::Handle, part: &[u8]) -> io::Result<Swept> {
        let directory = self.disk.open_part(trash, part, Want::Directory)?;
        let mut walk = Walk::new(self.disk.clone(), directory.into())?;
        while let Some(step) = walk.next() {
            if !(self.go_on)() {
                return Ok(Swept::Stopped);
            }
            // What cannot be removed shows when its directory cannot.
            let _ = match step {
                Step::Seen { stat, .. } if stat.device != self.device => Ok(()),
                Step::Seen { stat, .. } if stat.kind == FileKind::Directory => walk.enter(),
                Step::Seen { part, .. } => match walk.directory() {
                    Some(directory) => self.disk.remove(directory, &part),
                    None => Ok(()),
                },
                Step::Left { part, .. } => match walk.directory() {
                    Some(directory) => self.disk.remove_directory(directory, &part),
                    None => Ok(()),
                },
                Step::Unread { .. } => Ok(()),
            };
        }
        Ok(Swept::Clean)
    }
}
