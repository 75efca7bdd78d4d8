//! The store: a directory that holds only whole files under their names.
//!
//! ```text
//!   begin -> Upload -> write* -> finish -> Finished -> sync -> commit -> Stored
//!                        |                                       (one round, many files)
//!                        +-> Checkpoint -> make_durable          (beside the writing)
//! ```
//!
//! Nothing of a put is seen under its name before `commit`. Each step may be called from another
//! thread; no step starts one. Staging, journal and lock are in `.ftx` of the served directory.

mod begin;
mod change;
mod checkpoint;
mod commit;
mod committing;
mod journal;
mod list;
mod naming;
mod numbering;
mod open;
mod private;
mod read;
mod record;
mod recover;
mod room;
mod scope;
#[cfg(test)]
mod tests;
mod transfers;
mod trash;
mod upload;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ftx_protocol::{
    Algorithm, Code, Condition, Digest, Durability, FileTime, Kind, Mode, Name, Owner, Refusal,
    Replay, TransferId, Version,
};
use rustix::io::Errno;
use thiserror::Error;

use crate::digests::DigestCache;
use crate::failure::plain;
use crate::identity::Inode;
use crate::lock::lock;
use crate::reserved::Reserved;
use crate::sys::{Disk, MediumKind};

pub(crate) use begin::RESERVE_BYTES;
use committing::Committing;
use private::Private;
use room::Room;
use transfers::Transfers;

pub use crate::digests::{Remembered, Seen};
pub use crate::open_limit::{OpenLimit, Opened};
pub use change::{Change, OldMode};
pub use checkpoint::{Checkpoint, Durable};
pub use commit::{Settled, Step, Turn};
#[doc(hidden)]
pub use journal::JournalText;
pub use list::{ListLimits, Listed, Listing};
pub use private::{LOCK, PRIVATE};
pub use read::{Reading, Unchanged};
pub use trash::Swept;
pub use upload::{Finished, Spent, Upload};

/// Whether a store may be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Puts are refused, nothing is made, and the directory may be on a read-only disk.
    ReadOnly,
    /// Puts are taken.
    ReadWrite,
}

/// What a store remembers of puts that are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Their acknowledgements, to say them again, and their digests.
    Puts,
    /// Nothing: it serves one job, which hears each acknowledgement at once and does not ask again. What
    /// is not synced is not journalled either: after a crash the job brings again what has no name yet.
    Nothing,
}

/// What a store is asked to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether it may be written to.
    pub access: Access,
    /// The most that an acknowledgement promises: `Full` or `None`.
    pub durability: Durability,
    /// What it remembers of puts that are over.
    pub memory: Memory,
    /// The largest file that a put may bring, in bytes.
    pub size_max_bytes: u64,
    /// What a put must leave free on the disk, in bytes.
    pub free_min_bytes: u64,
}

/// What a store found when it was opened, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Files that were journalled and not yet under their name, and now are.
    pub finished: usize,
    /// Transfers that can be resumed.
    pub resumable: usize,
    /// Staged files that nobody can go on with, removed.
    pub swept: usize,
    /// Bytes at the end of the journal that were no whole record.
    pub torn_bytes: u64,
}

/// A directory cannot be served.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The directory itself cannot be opened.
    #[error("cannot open the directory {path}: {}", plain(error))]
    Root {
        /// As the operator typed it.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// Another server has it.
    #[error("another ftx server is serving this directory")]
    Locked,
    /// There is a `.ftx` that is no directory, or not one to move files from in one step.
    #[error(
        "ftx keeps its own files in .ftx of the directory, and the one that is there is not for it: it has to be a \
         directory, of whoever runs this, on the very file system of the directory (an overlay may be several)"
    )]
    NotOurs,
    /// The staging directory, the journal or the cache cannot be used.
    #[error("cannot {step} in .ftx of the directory: {}", plain(error))]
    Private {
        /// What was being done.
        step: &'static str,
        /// What the system says.
        error: io::Error,
    },
}

/// A directory that no store can have, until this is dropped.
pub struct KeptOut<D: Disk> {
    /// That of the store's own directory.
    _lock: D::Handle,
}

/// Keeps stores from a directory that has a `.ftx`.
///
/// # Errors
/// When one has it, or there is no `.ftx`.
pub fn keep_out<D: Disk>(disk: &D, path: &Path) -> Result<KeptOut<D>, OpenError> {
    open::keep_out(disk, path)
}

/// What a put brings, besides its bytes.
#[derive(Debug, Clone)]
pub struct Put {
    /// Where the file goes.
    pub name: Name,
    /// How its digest is computed.
    pub algorithm: Algorithm,
    /// Bytes of the whole file, if known.
    pub size: Option<u64>,
    /// The offset to go on from.
    pub at: u64,
    /// The attempt that this is.
    pub transfer: TransferId,
    /// When the file may take its name.
    pub condition: Condition,
    /// What the acknowledgement has to mean.
    pub durability: Durability,
    /// Last modification to give it.
    pub modified: Option<FileTime>,
    /// Permissions to give it.
    pub mode: Option<Mode>,
    /// Whose transfer it is: to anybody else it is unknown. `None`: of whoever has no token.
    pub owner: Option<Owner>,
    /// Unfinished puts that its owner may have, with this one; `None` is as many as come. Counts where it is one
    /// that can be resumed.
    pub unfinished_max: Option<usize>,
    /// The directory that whoever puts it is held to, whatever the symlinks in it say.
    pub within: Option<Name>,
    /// What becomes of a name that something has.
    pub naming: Naming,
}

/// What becomes of a put whose name something has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// What its condition says.
    AsAsked,
    /// It gets a number, as in a drop box: nothing is ever replaced, whatever its condition says.
    Numbered,
}

/// How much of a transfer there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completeness {
    /// The first bytes, perhaps none.
    Partial,
    /// All, under its name.
    Complete,
}

/// What is held of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Every byte before this is durable.
    pub at: u64,
    /// The digest of these bytes; `None` when there are none.
    pub digest: Option<Digest>,
    /// How much that is.
    pub complete: Completeness,
    /// What it was put as; `None` when there is nothing.
    pub name: Option<Name>,
}

/// A put that took effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Bytes.
    pub size: u64,
    /// The digest of the stored bytes.
    pub digest: Digest,
    /// What the file survives.
    pub durability: Durability,
    /// What the name holds; `None` in a replay after the name was given something else. So for
    /// the next two.
    pub version: Option<Version>,
    /// Last modification.
    pub modified: Option<FileTime>,
    /// Permissions.
    pub mode: Option<Mode>,
    /// There when the put had taken effect before.
    pub replayed: Option<Replay>,
    /// The name that the file got, where that is another than was asked for.
    pub name: Option<Name>,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// File or directory.
    pub kind: Kind,
    /// Bytes of a file; 0 for a directory.
    pub size: u64,
    /// Last modification.
    pub modified: FileTime,
    /// Permissions.
    pub mode: Mode,
    /// What a file holds.
    pub version: Option<Version>,
}

/// See the module's documentation.
pub struct Store<D: Disk> {
    disk: D,
    root: Arc<D::Handle>,
    root_inode: Inode,
    options: Options,
    /// What an acknowledgement says when everything was synced.
    best: Durability,
    room: Room,
    boot_id: Option<String>,
    /// `None` when the store only reads.
    private: Option<Private<D>>,
    reserved: Arc<Reserved>,
    transfers: Transfers,
    committing: Mutex<Committing<D>>,
    digests: DigestCache<D>,
    /// How many stores were opened on this directory, this one included.
    run: u64,
    /// Numbers staged files, and what was removed.
    next_staged: AtomicU64,
}

impl<D: Disk> Store<D> {
    /// Opens a directory: takes its lock, and finishes or forgets what an earlier store left.
    ///
    /// # Errors
    /// When the directory cannot be served; then nothing was changed in it but `.ftx`.
    pub fn open(disk: D, root: &Path, options: Options) -> Result<(Self, Recovery), OpenError> {
        open::open(disk, root, options)
    }

    /// What an acknowledgement of this store says at best.
    pub fn durability(&self) -> Durability {
        self.best
    }

    /// What is held of a transfer. Takes it away from whoever was working on it: an older
    /// [`Upload`] or [`Checkpoint`] of it has no effect from now on. Waits for a checkpoint that
    /// is being journalled. The caller makes sure that no write is in flight.
    ///
    /// Of a transfer with another owner nothing is held, and nothing is taken away.
    pub fn held(&self, transfer: &TransferId, owner: Option<&Owner>) -> Held {
        self.transfers.held(transfer, owner)
    }

    /// How many transfers of an owner are begun, not complete, and large enough to be resumed.
    #[cfg(test)]
    pub(crate) fn partials_of(&self, owner: Option<&Owner>) -> usize {
        self.transfers.partials_of(owner)
    }

    /// Whether a transfer is one of these.
    pub fn is_unfinished(&self, transfer: &TransferId) -> bool {
        self.transfers.partial(transfer).is_some()
    }

    /// Whether a transfer is one of these, and of this owner.
    pub fn is_unfinished_of(&self, transfer: &TransferId, owner: Option<&Owner>) -> bool {
        self.transfers.is_of(transfer, owner)
    }

    /// The cache of digests.
    pub fn digests(&self) -> &DigestCache<D> {
        &self.digests
    }

    /// Drops what is held of transfers that nobody has worked on for `ttl`, as far as calls of
    /// this function have seen: `running` is how long the server has been running. Returns how
    /// many.
    pub fn expire(&self, ttl: Duration, running: Duration) -> usize {
        let expired = self.transfers.take_expired(ttl, running);
        for partial in &expired {
            self.drop_partial(partial);
        }
        expired.len()
    }

    /// Those who have begun transfers that are large enough to be resumed, and not complete.
    pub fn owners(&self) -> Vec<Owner> {
        self.transfers.owners()
    }

    /// Drops what is held of an owner's transfers that nobody works on. Returns how many.
    pub fn forget_owner(&self, owner: Owner) -> usize {
        let abandoned = self.transfers.take_owned(owner);
        for partial in &abandoned {
            self.drop_partial(partial);
        }
        abandoned.len()
    }

    /// Drops what is held of all transfers: whoever is in the middle of one cannot finish it.
    pub fn forget_all(&self) {
        for partial in &self.transfers.take_all() {
            self.drop_partial(partial);
        }
    }

    /// Whether its own directory has nothing that anybody would miss: as it is when a store has just been made, or was
    /// killed while it was being made or taken away.
    pub fn is_blank(&self) -> bool {
        let Some(private) = &self.private else { return true };
        self.transfers.partials() == 0
            && !self.has_trash()
            && lock(&private.journal).image().complete().is_empty()
            && self.digests.is_empty()
    }

    /// Ends the store and takes its own directory out of the root, with these further files in it,
    /// unless there is something in it to go on with.
    ///
    /// # Errors
    /// When something cannot be removed. What is left is as good as after a crash.
    pub fn retire(self, further: &[&[u8]]) -> io::Result<()> {
        if self.transfers.partials() > 0 || self.has_trash() {
            return Ok(());
        }
        let Self { disk, root, private: Some(private), digests, .. } = self else {
            return Ok(());
        };
        let Private { directory, staging, trash, journal, _lock: lock, .. } = private;
        drop((staging, trash));
        for part in [private::STAGING, private::TRASH] {
            disk.remove_directory(&directory, part)?;
        }
        let own = [journal::JOURNAL, crate::digests::DIGESTS];
        // The lock last: what is there after that is another store's.
        for part in own.into_iter().chain(further.iter().copied()).chain([private::LOCK]) {
            match disk.remove(&directory, part) {
                Err(error) if Errno::from_io_error(&error) != Some(Errno::NOENT) => {
                    return Err(error);
                }
                _ => {}
            }
        }
        // On some file systems, such as NFS, what is open stays there under another name until it is closed.
        drop((journal, digests, lock));
        disk.remove_directory(&root, private::PRIVATE)
    }

    /// What is given where this is asked for.
    fn given(&self, asked: Durability) -> Result<Durability, Refusal> {
        match asked {
            Durability::None => Ok(Durability::None),
            // What an open directory is on does not change.
            Durability::Memory | Durability::Full => match self.best {
                Durability::None => Err(Code::DurabilityUnavailable.into()),
                given => Ok(given),
            },
        }
    }

    /// The parts of the store that a put needs.
    fn writable(&self) -> Result<&Private<D>, Refusal> {
        self.private.as_ref().ok_or_else(|| Code::ReadOnly.into())
    }

    /// A name for a new staged file, or for something in the trash, never used before by this
    /// store.
    fn new_staged_part(&self) -> String {
        format!("{:08x}-{:08x}", self.run, self.next_staged.fetch_add(1, Ordering::Relaxed))
    }

    /// Removes a staged file. What cannot be removed is swept at the next start.
    fn remove_staged(&self, staged: &str, inode: Inode) {
        if let Some(private) = &self.private {
            // Before it is removed: its inode may be given to a new file at once.
            self.reserved.release(inode);
            match self.disk.remove(&private.staging, staged.as_bytes()) {
                Err(error) if Errno::from_io_error(&error) != Some(Errno::NOENT) => {
                    // It costs room until the next start, and no more.
                    self.reserved.reserve(inode);
                }
                _ => {}
            }
        }
    }
}

/// What `Full` turns into on this medium.
fn best(asked: Durability, medium: MediumKind) -> Durability {
    match (asked, medium) {
        (Durability::None, _) => Durability::None,
        (_, MediumKind::Memory) => Durability::Memory,
        (_, MediumKind::Disk | MediumKind::ReadOnly) => Durability::Full,
    }
}

/// A transfer that is shared between its upload, its checkpoints and the table.
type Shared<T> = Arc<Mutex<T>>;
