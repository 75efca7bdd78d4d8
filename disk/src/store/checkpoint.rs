//! The bytes of a put so far, made durable while more of them come.

use std::sync::Arc;

use ftx_protocol::{Code, Durability, Refusal};

use super::journal::not_journalled;
use super::record::Record;
use super::transfers::{Kept, Partial};
use super::upload::{StagedFile, sync_for};
use super::{Shared, Store, lock};
use crate::failure::{Cause, refusal};
use crate::hash::Saved;
use crate::sys::Disk;

/// The bytes of a put up to a point of the grid, to be made durable. There is one at a time for each put.
pub struct Checkpoint<D: Disk> {
    pub(super) file: Arc<StagedFile<D>>,
    pub(super) digest: Saved,
    pub(super) partial: Shared<Partial>,
    pub(super) epoch: u64,
    pub(super) keeping: Shared<Keeping>,
    pub(super) durability: Durability,
}

/// A checkpoint that is durable. Until [`Durable::next`] is called no other one of its put is under way, so that
/// promises are told in their order.
#[must_use]
pub struct Durable<D: Disk>(Checkpoint<D>);

impl<D: Disk> Durable<D> {
    /// Every byte before this offset is promised.
    pub fn at(&self) -> u64 {
        self.0.digest.offset()
    }

    /// Whoever is to be told of it has been. Returns the last point of the grid that was passed meanwhile, for
    /// [`Store::make_durable`] again.
    pub fn next(self) -> Option<Checkpoint<D>> {
        let Self(checkpoint) = self;
        let newer = lock(&checkpoint.keeping).done();
        newer.map(|digest| Checkpoint { digest, ..checkpoint })
    }
}

/// Whether a checkpoint of a put is under way.
#[derive(Default)]
pub(super) enum Keeping {
    #[default]
    Nothing,
    UnderWay,
    /// One is, and a later point of the grid was passed.
    Behind(Saved),
}

impl Keeping {
    /// A point of the grid was passed. Gives it back if it can be made durable now.
    pub(super) fn pass(&mut self, digest: Saved) -> Option<Saved> {
        match self {
            Self::Nothing => {
                *self = Self::UnderWay;
                Some(digest)
            }
            Self::UnderWay | Self::Behind(_) => {
                *self = Self::Behind(digest);
                None
            }
        }
    }

    /// What was under way is durable. Gives what is to be made durable next.
    fn done(&mut self) -> Option<Saved> {
        match std::mem::replace(self, Self::Nothing) {
            Self::Nothing | Self::UnderWay => None,
            Self::Behind(digest) => {
                *self = Self::UnderWay;
                Some(digest)
            }
        }
    }
}

impl<D: Disk> Store<D> {
    /// Makes the bytes of a checkpoint durable, and promises them. Waits for the disk.
    ///
    /// # Errors
    /// When the disk fails: then the transfer is over, and every later step of it fails. When the
    /// transfer has changed hands, [`Code::TakenOver`].
    pub fn make_durable(&self, checkpoint: Checkpoint<D>) -> Result<Durable<D>, Refusal> {
        self.keep(&checkpoint)?;
        Ok(Durable(checkpoint))
    }

    fn keep(&self, checkpoint: &Checkpoint<D>) -> Result<(), Refusal> {
        let private = self.writable()?;
        lock(&checkpoint.partial).check_epoch(checkpoint.epoch)?;
        let synced = match checkpoint.durability {
            Durability::None => Ok(()),
            Durability::Memory | Durability::Full => checkpoint.file.sync(&self.disk),
        };
        let mut partial = lock(&checkpoint.partial);
        // It may have changed hands while the disk was waited for.
        partial.check_epoch(checkpoint.epoch)?;
        let transfer = partial.begun.transfer;
        let mut records = Vec::with_capacity(2);
        let synced = match &partial.kept {
            Kept::Nothing => {
                records.push(Record::Begin(partial.begun.clone()));
                synced.and_then(|()| self.sync_staging(private, checkpoint.durability))
            }
            Kept::UpTo(_) => synced,
            Kept::Lost => return Err(Code::StorageFailed.into()),
        };
        records.push(Record::Progress { transfer, digest: checkpoint.digest.clone() });
        let sync = sync_for(checkpoint.durability);
        let kept = synced
            .map_err(|error| refusal(Cause::Sync, "syncing the file", &error))
            .and_then(|()| {
                lock(&private.journal)
                    .write(&private.directory, &records, sync)
                    .map_err(not_journalled)
            });
        match kept {
            Ok(()) => {
                partial.kept = Kept::UpTo(checkpoint.digest.clone());
                Ok(())
            }
            Err(refusal) => {
                // What a failed sync left on the disk is unknown for good: the transfer is over.
                partial.kept = Kept::Lost;
                let begun = partial.begun.clone();
                drop(partial);
                self.forget(&begun);
                Err(refusal)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ftx_protocol::Code;
    use ftx_protocol::limits::GRID_BYTES;
    use rustix::io::Errno;

    use super::super::Put;
    use super::super::tests::{self, digest, id, open, put};
    use crate::sim::{Fault, Sim};

    /// Of four points of the grid the last is promised, though the first was still under way when it was passed.
    #[test]
    fn what_is_passed_while_a_checkpoint_is_under_way_comes_next() {
        const POINT: &[u8] = &[7; GRID_BYTES as usize];
        let store = open(&Sim::new());
        let mut upload = store.begin(put("big", id(1), None)).unwrap();
        let first = upload.write(POINT).unwrap().unwrap();
        assert!(upload.write(POINT).unwrap().is_none());
        assert!(upload.write(POINT).unwrap().is_none());
        let first = store.make_durable(first).unwrap();
        assert_eq!(first.at(), GRID_BYTES);
        // One at a time, also while the first is told of: it is not whoever passes the next point who gets it.
        assert!(upload.write(POINT).unwrap().is_none());
        let fourth = store.make_durable(first.next().unwrap()).unwrap();
        assert_eq!(fourth.at(), 4 * GRID_BYTES);
        assert!(fourth.next().is_none());
        assert!(upload.write(POINT).unwrap().is_some());
        assert_eq!(store.suspend(upload), 4 * GRID_BYTES);
    }

    /// The disk has not failed: whoever has ended the put says why.
    #[test]
    fn a_checkpoint_of_what_was_discarded_meanwhile_has_nothing_to_say() {
        let sim = Sim::new();
        let store = open(&sim);
        let mut upload = store.begin(put("big", id(1), None)).unwrap();
        let checkpoint = upload.write(&[7; GRID_BYTES as usize]).unwrap().unwrap();
        store.discard(upload);
        let refused = store.make_durable(checkpoint).err().unwrap();
        assert_eq!(refused.code, Code::TakenOver);
    }

    /// The disk tells of a failed sync once, and it was told to whoever had the transfer before.
    #[test]
    fn a_sync_that_failed_while_its_transfer_changed_hands_ends_the_transfer() {
        const POINT: &[u8] = &[7; GRID_BYTES as usize];
        let bytes = POINT.repeat(2);
        let sim = Sim::new();
        let store = Arc::new(open(&sim));
        let put = |at| Put { at, ..tests::put("big", id(1), Some(bytes.len())) };
        let mut upload = store.begin(put(0)).unwrap();
        let first = upload.write(POINT).unwrap().unwrap();
        assert!(store.make_durable(first).unwrap().next().is_none());
        let second = upload.write(POINT).unwrap().unwrap();
        let other = Arc::clone(&store);
        sim.before("sync 00000001-00000000", move |sim| {
            assert_eq!(other.suspend(upload), GRID_BYTES);
            sim.set_fault(Fault::Once(0, Errno::IO));
        });
        assert_eq!(store.make_durable(second).err().unwrap().code, Code::TakenOver);
        let mut upload = store.begin(put(GRID_BYTES)).unwrap();
        upload.write(POINT).unwrap();
        let mut finished = upload.finish(&store, bytes.len() as u64, digest(&bytes)).unwrap();
        assert_eq!(store.sync(&mut finished).unwrap_err().code, Code::StorageFailed);
        assert_eq!(store.held(&id(1), None).at, 0);
    }
}
