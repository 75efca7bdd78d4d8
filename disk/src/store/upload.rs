//! A put on its way: its bytes go to a staged file and through the running digest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ftx_protocol::limits::GRID_BYTES;
use ftx_protocol::{Code, Digest, Durability, Mode, Name, Refusal, TransferId};

use super::checkpoint::{Checkpoint, Keeping};
use super::record::{Begun, Committed, Complete, Survival};
use super::room::ASKING;
use super::transfers::{Kept, Partial, Use};
use super::{Put, Shared, Store, lock, room};
use crate::failure::{Cause, refusal};
use crate::hash::Running;
use crate::identity::Inode;
use crate::log::{Sync, write_all};
use crate::syncs::Syncs;
use crate::sys::Disk;

/// A put whose body is open. Dropping it leaves its staged file to the next start: give it to
/// [`Store::suspend`] or [`Store::discard`] instead.
pub struct Upload<D: Disk> {
    pub(super) disk: D,
    /// As it is taken: see [`Store::take_on`].
    pub(super) put: Put,
    pub(super) body: Body<D>,
    pub(super) spent: Spent,
}

/// Where the time of a body went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// In writing it.
    pub disk: Duration,
    /// In its digest.
    pub hash: Duration,
}

impl Spent {
    fn add(&mut self, disk: Duration, hash: Duration) {
        self.disk = self.disk.saturating_add(disk);
        self.hash = self.hash.saturating_add(hash);
    }
}

/// Where the bytes of a put are.
pub(super) enum Body<D: Disk> {
    /// In staging.
    Staged(Box<Staged<D>>),
    /// Under their name already: this put only asks for the acknowledgement again.
    Complete(Arc<Complete>),
}

pub(super) struct Staged<D: Disk> {
    pub(super) file: Arc<StagedFile<D>>,
    pub(super) part: String,
    pub(super) inode: Inode,
    pub(super) running: Running,
    /// The end that the body must not pass.
    pub(super) limit: Limit,
    /// What has to stay free on the disk while it grows; nothing is asked of one that has its room.
    pub(super) free_min_bytes: Option<u64>,
    pub(super) resume: Resume,
}

/// A file in staging, open.
pub(super) struct StagedFile<D: Disk> {
    pub(super) handle: D::Handle,
    /// Its permissions, until the commit gives it others.
    pub(super) mode: Mode,
    pub(super) entry: Entry,
    /// Whoever goes on with its transfer has the same.
    syncs: Arc<Syncs>,
}

/// How a file is found that waits for its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    InStaging,
    /// Only its handle leads to it: after a crash it is gone.
    Nowhere,
}

impl<D: Disk> StagedFile<D> {
    pub(super) fn new(handle: D::Handle, mode: Mode, entry: Entry, syncs: Arc<Syncs>) -> Self {
        Self { handle, mode, entry, syncs }
    }

    /// Syncs it, unless an earlier sync failed.
    pub(super) fn sync(&self, disk: &D) -> std::io::Result<()> {
        self.syncs.sync(disk, &self.handle)
    }
}

/// How far a body may go.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    /// As announced.
    Size(u64),
    /// As far as the store takes files.
    Most(u64),
}

/// Whether a put can be resumed.
pub(super) enum Resume {
    No,
    Yes { partial: Shared<Partial>, epoch: u64, keeping: Shared<Keeping> },
}

/// A put whose bytes are whole and have the right digest.
pub struct Finished<D: Disk> {
    pub(super) put: Put,
    pub(super) body: FinishedBody<D>,
}

#[expect(clippy::large_enum_variant, reason = "nearly all are staged, and a box is an allocation")]
pub(super) enum FinishedBody<D: Disk> {
    Staged { file: Arc<StagedFile<D>>, committed: Committed },
    Complete(Arc<Complete>),
}

impl<D: Disk> Upload<D> {
    /// The offset of the next byte.
    pub fn offset(&self) -> u64 {
        match &self.body {
            Body::Staged(staged) => staged.running.offset(),
            Body::Complete(complete) => complete.committed.size,
        }
    }

    /// Bytes that are past what is promised; none of a put that cannot be resumed.
    pub fn unkept_bytes(&self) -> u64 {
        let Body::Staged(staged) = &self.body else { return 0 };
        let Resume::Yes { partial, .. } = &staged.resume else { return 0 };
        let kept = match &lock(partial).kept {
            Kept::UpTo(saved) => saved.offset(),
            Kept::Nothing | Kept::Lost => 0,
        };
        staged.running.offset().saturating_sub(kept)
    }

    /// Where the time went so far.
    pub fn spent(&self) -> Spent {
        self.spent
    }

    /// Takes the next bytes. Returns a checkpoint when a point of the grid was passed and none is
    /// under way: for [`Store::make_durable`], on whatever thread. One that is brings the point along.
    ///
    /// # Errors
    /// When the disk refuses, or the body grows past its announced size. The upload has to be
    /// discarded then.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<Option<Checkpoint<D>>, Refusal> {
        let Body::Staged(staged) = &mut self.body else {
            let message = "this transfer is complete; no more bytes belong to it";
            return Err(Refusal::new(Code::BadPart, message));
        };
        staged.check_room(bytes.len() as u64)?;
        let mut checkpoint = None;
        while !bytes.is_empty() {
            let at = staged.running.offset();
            let to_grid = GRID_BYTES.saturating_sub(at % GRID_BYTES);
            let count = usize::try_from(to_grid).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(count);
            let began = Instant::now();
            write_all(&self.disk, &staged.file.handle, now, at)
                .map_err(|error| refusal(Cause::Bytes, "writing the file", &error))?;
            let written = Instant::now();
            staged.running.update(now);
            self.spent.add(written.duration_since(began), written.elapsed());
            bytes = later;
            if staged.running.offset().is_multiple_of(GRID_BYTES) {
                staged.check_free(&self.disk)?;
                checkpoint = staged.checkpoint(&self.put).or(checkpoint);
            }
        }
        Ok(checkpoint)
    }

    /// Closes the body: compares it with what the client says it sent.
    ///
    /// # Errors
    /// [`Code::SizeMismatch`] or [`Code::DigestMismatch`]; then nothing of it is left.
    pub fn finish(
        self,
        store: &Store<D>,
        size: u64,
        digest: Digest,
    ) -> Result<Finished<D>, Refusal> {
        let (have_size, have) = match &self.body {
            Body::Staged(staged) => (staged.running.offset(), staged.running.digest()),
            Body::Complete(complete) => (complete.committed.size, complete.committed.digest),
        };
        let wrong = if have_size != size {
            let message = format!("{have_size} bytes are stored; end says {size}");
            Some(Refusal::new(Code::SizeMismatch, message))
        } else if have != digest {
            let message = format!("the stored bytes have {have}; end says {digest}");
            Some(Refusal::new(Code::DigestMismatch, message))
        } else {
            None
        };
        if let Some(refusal) = wrong {
            store.discard(self);
            return Err(refusal);
        }
        let body = match self.body {
            Body::Complete(complete) => FinishedBody::Complete(complete),
            Body::Staged(staged) => {
                staged.close()?;
                let committed = store.committed(&self.put, &staged, size, digest);
                FinishedBody::Staged { file: staged.file, committed }
            }
        };
        Ok(Finished { put: self.put, body })
    }
}

impl<D: Disk> Staged<D> {
    fn check_room(&self, more: u64) -> Result<(), Refusal> {
        let end = self.running.offset().saturating_add(more);
        match self.limit {
            Limit::Size(size) if end > size => {
                Err(Refusal::new(Code::BadPart, format!("more bytes than the announced {size}")))
            }
            Limit::Most(most) if end > most => Err(Refusal::new(
                Code::TooLarge,
                format!("this server takes files up to {most} bytes"),
            )),
            Limit::Size(_) | Limit::Most(_) => Ok(()),
        }
    }

    /// What has no room of its own, because it did not say its size or the file system reserves none, ends before the
    /// disk is full: others have their journal there.
    fn check_free(&self, disk: &D) -> Result<(), Refusal> {
        let Some(free_min_bytes) = self.free_min_bytes else { return Ok(()) };
        let medium = disk.medium(&self.file.handle);
        let free = medium.map_err(|error| refusal(Cause::Store, ASKING, &error))?.free;
        room::check_left(free, free_min_bytes)
    }

    /// From here on a checkpoint has nothing to promise any more: the commit will say all.
    fn close(&self) -> Result<(), Refusal> {
        let Resume::Yes { partial, epoch, .. } = &self.resume else { return Ok(()) };
        let mut partial = lock(partial);
        partial.check_epoch(*epoch)?;
        if matches!(partial.kept, Kept::Lost) {
            return Err(Code::StorageFailed.into());
        }
        partial.epoch = partial.epoch.saturating_add(1);
        Ok(())
    }

    fn checkpoint(&self, put: &Put) -> Option<Checkpoint<D>> {
        let Resume::Yes { partial, epoch, keeping } = &self.resume else { return None };
        let digest = lock(keeping).pass(self.running.save()?)?;
        Some(Checkpoint {
            file: Arc::clone(&self.file),
            digest,
            partial: Arc::clone(partial),
            epoch: *epoch,
            keeping: Arc::clone(keeping),
            durability: put.durability,
        })
    }
}

impl<D: Disk> Finished<D> {
    /// Where the file will go.
    pub fn name(&self) -> &Name {
        &self.put.name
    }

    /// What its acknowledgement will say. `Full` alone makes [`Store::sync`] wait for a disk.
    pub fn durability(&self) -> Durability {
        self.put.durability
    }
}

impl<D: Disk> Store<D> {
    /// Ends an upload whose body broke off: what is durable of it is kept, the rest goes. Returns how
    /// many bytes of a transfer are kept; no checkpoint of it makes them more after that.
    pub fn suspend(&self, upload: Upload<D>) -> u64 {
        let Body::Staged(staged) = upload.body else { return 0 };
        let Resume::Yes { partial, epoch, .. } = &staged.resume else {
            self.remove_staged(&staged.part, staged.inode);
            return 0;
        };
        let mut partial = lock(partial);
        if partial.check_epoch(*epoch).is_err() {
            return 0;
        }
        // A checkpoint that is under way must not promise what is cut off here.
        partial.epoch = partial.epoch.saturating_add(1);
        let durable = match &partial.kept {
            Kept::UpTo(saved) => Some(saved.offset()),
            Kept::Nothing | Kept::Lost => None,
        };
        match durable {
            Some(at) => {
                // Gives back the room of what is past the promise, and of what was reserved. If that
                // fails, whoever goes on does it; the promise stands.
                let _ = self.disk.truncate(&staged.file.handle, at);
                partial.use_ = Use::Idle;
                at
            }
            None => {
                let begun = partial.begun.clone();
                partial.kept = Kept::Lost;
                drop(partial);
                self.forget(&begun);
                0
            }
        }
    }

    /// Ends an upload and everything that is stored of it.
    pub fn discard(&self, upload: Upload<D>) {
        let Body::Staged(staged) = upload.body else { return };
        match &staged.resume {
            Resume::No => self.remove_staged(&staged.part, staged.inode),
            Resume::Yes { partial, epoch, .. } => {
                let mut partial = lock(partial);
                if partial.check_epoch(*epoch).is_ok() {
                    partial.kept = Kept::Lost;
                    // A checkpoint that is under way has nothing to say of that.
                    partial.epoch = partial.epoch.saturating_add(1);
                    let begun = partial.begun.clone();
                    drop(partial);
                    self.forget(&begun);
                }
            }
        }
    }

    /// Drops a transfer that was taken out of the table: there may be another one by its id now.
    pub(super) fn drop_partial(&self, partial: &Shared<Partial>) {
        let mut partial = lock(partial);
        partial.kept = Kept::Lost;
        partial.epoch = partial.epoch.saturating_add(1);
        let begun = partial.begun.clone();
        drop(partial);
        self.remove_begun(begun.transfer, &begun.staged, begun.inode);
    }

    /// Takes a transfer out of the table, the journal and staging.
    pub(super) fn forget(&self, begun: &Begun) {
        self.transfers.remove(&begun.transfer);
        self.remove_begun(begun.transfer, &begun.staged, begun.inode);
    }

    /// Takes a transfer that is on its way out of the journal and staging.
    pub(super) fn remove_begun(&self, transfer: TransferId, staged: &str, inode: Inode) {
        if let Some(private) = &self.private {
            lock(&private.journal).forget(&private.directory, transfer, staged);
        }
        self.remove_staged(staged, inode);
    }

    /// What the journal will say of a put that is whole.
    fn committed(&self, put: &Put, staged: &Staged<D>, size: u64, digest: Digest) -> Committed {
        Committed {
            transfer: put.transfer,
            staged: staged.part.clone(),
            inode: staged.inode,
            name: put.name.clone(),
            size,
            digest,
            condition: put.condition.clone(),
            durability: put.durability,
            survival: Survival::of(put.durability, self.boot_id.as_ref()),
            owner: put.owner,
            within: put.within.clone(),
            asked: None,
        }
    }

    /// Makes the entries of staging survive: a journal that names a file there relies on it.
    pub(super) fn sync_staging(
        &self,
        private: &super::private::Private<D>,
        durability: Durability,
    ) -> std::io::Result<()> {
        match durability {
            Durability::None => Ok(()),
            Durability::Memory | Durability::Full => {
                private.staging_syncs.sync(&self.disk, &private.staging)
            }
        }
    }
}

/// Whether records about bytes of this durability have to be synced.
pub(super) fn sync_for(durability: Durability) -> Sync {
    match durability {
        Durability::None => Sync::Never,
        Durability::Memory | Durability::Full => Sync::Now,
    }
}
