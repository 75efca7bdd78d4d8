//! Syncs of one file or directory, and what became of them.

use std::io;
use std::sync::Mutex;

use rustix::io::Errno;

use crate::lock::lock;
use crate::sys::Disk;

/// All syncs of one file or directory go through here, one at a time: the system tells of a failed write-back once,
/// to whoever syncs next, and after that nobody may believe it any more.
#[derive(Default)]
pub(crate) struct Syncs(Mutex<State>);

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Good,
    Failed,
}

impl Syncs {
    /// Syncs it, unless an earlier sync failed.
    pub(crate) fn sync<D: Disk>(&self, disk: &D, handle: &D::Handle) -> io::Result<()> {
        let mut state = lock(&self.0);
        if *state == State::Failed {
            return Err(Errno::IO.into());
        }
        let result = disk.sync(handle);
        if result.is_err() {
            *state = State::Failed;
        }
        result
    }

    /// Refuses, as a sync would, if one failed. For what is worth nothing without a sync that follows.
    pub(crate) fn check(&self) -> io::Result<()> {
        match *lock(&self.0) {
            State::Good => Ok(()),
            State::Failed => Err(Errno::IO.into()),
        }
    }
}
