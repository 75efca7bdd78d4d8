//! The bytes of a put so far, made durable while more of them come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ftx_protocol::{Code, Durability, Refusal};

use super::record::Record;
use super::transfers::{Kept, Partial};
use super::upload::{StagedFile, sync_for};
use super::{Shared, Store, lock};
use crate::failure::{Cause, refusal};
use crate::hash::Saved;
use crate::sys::Disk;

/// The bytes of a put so far, to be made durable while it goes on.
pub struct Checkpoint<D: Disk> {
    pub(super) file: Arc<StagedFile<D>>,
    pub(super) digest: Saved,
    pub(super) partial: Shared<Partial>,
    pub(super) epoch: u64,
    pub(super) pending: Arc<AtomicBool>,
    pub(super) durability: Durability,
}

impl<D: Disk> Store<D> {
    /// Makes the bytes of a checkpoint durable, and promises them. Waits for the disk.
    ///
    /// # Errors
    /// When the disk fails: then the transfer is over, and every later step of it fails. When the
    /// transfer has changed hands, [`Code::TakenOver`].
    pub fn make_durable(&self, checkpoint: Checkpoint<D>) -> Result<u64, Refusal> {
        let result = self.keep(&checkpoint);
        checkpoint.pending.store(false, Ordering::Release);
        result
    }

    fn keep(&self, checkpoint: &Checkpoint<D>) -> Result<u64, Refusal> {
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
                    .map_err(|error| refusal(Cause::Sync, "writing the journal", &error))
            });
        match kept {
            Ok(()) => {
                partial.kept = Kept::UpTo(checkpoint.digest.clone());
                Ok(checkpoint.digest.offset())
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
