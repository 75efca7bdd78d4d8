//! The journal: what is durable in staging, and what was about to take its name.
//!
//! It keeps an image of what it says, so that it can be written anew when it has grown, or when a
//! failed sync has made the old one worthless.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use ftx_protocol::TransferId;

use super::record::{Begun, Complete, Outcome, Record};
use super::transfers::COMPLETE_MAX;
use crate::hash::Saved;
use crate::log::{self, Log};
use crate::reserved::Reserved;
use crate::syncs::Syncs;
use crate::sys::Disk;

/// The log of what is durable.
pub(super) const JOURNAL: &[u8] = b"journal";

/// A journal below this is not worth writing anew.
const COMPACT_BYTES: u64 = 8 * 1024 * 1024;

/// Whether records have to be on the disk before the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sync {
    Now,
    /// They only have to survive a crash of this program.
    Never,
}

/// What a journal says.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    pub(super) run: u64,
    pub(super) partial: HashMap<TransferId, (Begun, Option<Saved>)>,
    /// Oldest first.
    pub(super) complete: VecDeque<Complete>,
}

/// What the bytes of a journal say. For tests that make them up.
#[doc(hidden)]
#[derive(Debug)]
pub struct JournalText {
    /// Records that are whole.
    pub records: usize,
    /// The bytes that they take; what follows is torn.
    pub whole_bytes: u64,
    /// A journal that says the same.
    pub anew: Vec<u8>,
}

impl JournalText {
    /// Reads a journal as the start of a store does.
    ///
    /// # Errors
    /// When a record is whole and is not understood.
    pub fn read(bytes: &[u8]) -> io::Result<Self> {
        let (records, whole_bytes) = log::decode::<Record>(bytes)?;
        let mut image = Image::default();
        for record in &records {
            image.apply(record);
        }
        let mut anew = Vec::new();
        for record in image.records() {
            log::encode(&record, &mut anew)?;
        }
        Ok(Self { records: records.len(), whole_bytes, anew })
    }
}

pub(super) struct Journal<D: Disk> {
    disk: D,
    /// Those of the private directory.
    syncs: Arc<Syncs>,
    reserved: Arc<Reserved>,
    /// `None` after a failed append or sync: nobody knows what of it is on the disk.
    log: Option<Log<D, Record>>,
    image: Image,
    compact_above_bytes: u64,
}

impl<D: Disk> Journal<D> {
    /// Opens the journal of a private directory. Returns it, and the bytes at its end that were no
    /// whole record.
    pub(super) fn open(
        disk: &D,
        private: &D::Handle,
        syncs: Arc<Syncs>,
        reserved: &Arc<Reserved>,
    ) -> io::Result<(Self, u64)> {
        let (log, replayed) = Log::<D, Record>::open(disk, private, JOURNAL, reserved)?;
        let mut image = Image::default();
        for record in &replayed.records {
            image.apply(record);
        }
        let compact_above_bytes = COMPACT_BYTES.max(log.size().saturating_mul(4));
        let journal = Self {
            disk: disk.clone(),
            syncs,
            reserved: Arc::clone(reserved),
            log: Some(log),
            image,
            compact_above_bytes,
        };
        Ok((journal, replayed.torn_bytes))
    }

    /// What it says.
    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    /// Takes transfers back. What the journal said of them counts no more even if that cannot be
    /// written now: no later journal will say it.
    ///
    /// # Errors
    /// When the journal that is on the disk may still say it.
    pub(super) fn retract(
        &mut self,
        private: &D::Handle,
        taken_back: &[Record],
        sync: Sync,
    ) -> io::Result<()> {
        taken_back.iter().for_each(|record| self.image.apply(record));
        match self.write(private, taken_back, sync) {
            Ok(()) => Ok(()),
            Err(_) => self.renew(private, self.image.clone()),
        }
    }

    /// Writes it anew if what is on the disk may say more: a transfer that was taken back, and
    /// that the next start would finish.
    ///
    /// # Errors
    /// When it may still say more.
    pub(super) fn mend(&mut self, private: &D::Handle) -> io::Result<()> {
        match self.log {
            Some(_) => Ok(()),
            None => self.renew(private, self.image.clone()),
        }
    }

    /// Writes it anew, to say just this. Never again once its directory could not be synced.
    pub(super) fn renew(&mut self, private: &D::Handle, image: Image) -> io::Result<()> {
        self.log = None;
        self.image = image;
        let directory = (private, &*self.syncs);
        let records = self.image.records();
        let log = Log::replace(&self.disk, directory, JOURNAL, &self.reserved, records)?;
        self.compact_above_bytes = COMPACT_BYTES.max(log.size().saturating_mul(4));
        self.log = Some(log);
        Ok(())
    }

    /// Appends records. When this fails, nothing that depends on them may be acknowledged, and
    /// the journal is written anew before anything else is recorded.
    pub(super) fn write(
        &mut self,
        private: &D::Handle,
        records: &[Record],
        sync: Sync,
    ) -> io::Result<()> {
        // One that is only long is good enough where none can take its place any more.
        let worn = self
            .log
            .as_ref()
            .is_none_or(|log| log.size() > self.compact_above_bytes && self.syncs.check().is_ok());
        if worn {
            let image = std::mem::take(&mut self.image);
            self.renew(private, image)?;
        }
        let Some(log) = &mut self.log else { return Ok(()) };
        let written = log.append(records.iter()).and_then(|()| match sync {
            Sync::Now => log.sync(),
            Sync::Never => Ok(()),
        });
        match written {
            Ok(()) => {
                for record in records {
                    self.image.apply(record);
                }
                Ok(())
            }
            Err(error) => {
                self.log = None;
                Err(error)
            }
        }
    }
}

impl Image {
    fn apply(&mut self, record: &Record) {
        match record {
            Record::Run { number } => self.run = *number,
            Record::Begin(begun) => {
                self.partial.insert(begun.transfer, (begun.clone(), None));
            }
            Record::Progress { transfer, digest } => {
                if let Some((_, saved)) = self.partial.get_mut(transfer) {
                    *saved = Some(digest.clone());
                }
            }
            Record::Commit(committed) => {
                self.partial.remove(&committed.transfer);
                let committed = committed.clone();
                self.complete.push_back(Complete { committed, outcome: Outcome::Pending });
                while self.complete.len() > COMPLETE_MAX {
                    self.complete.pop_front();
                }
            }
            Record::Done { transfer, file } => {
                let mut newest_first = self.complete.iter_mut().rev();
                if let Some(complete) =
                    newest_first.find(|complete| complete.committed.transfer == *transfer)
                {
                    complete.outcome = Outcome::Named(*file);
                }
            }
            Record::Drop { transfer, staged } => {
                if self.partial.get(transfer).is_some_and(|(begun, _)| begun.staged == *staged) {
                    self.partial.remove(transfer);
                }
                self.complete.retain(|complete| {
                    complete.committed.transfer != *transfer || complete.committed.staged != *staged
                });
            }
        }
    }

    /// One after the other: all at once they would be more than what they are of.
    fn records(&self) -> impl Iterator<Item = Record> {
        let run = std::iter::once(Record::Run { number: self.run });
        let complete = self.complete.iter().flat_map(|Complete { committed, outcome }| {
            let done = match outcome {
                Outcome::Named(file) => {
                    Some(Record::Done { transfer: committed.transfer, file: *file })
                }
                Outcome::Pending => None,
            };
            std::iter::once(Record::Commit(committed.clone())).chain(done)
        });
        let partial = self.partial.iter().flat_map(|(transfer, (begun, saved))| {
            let progress =
                saved.clone().map(|digest| Record::Progress { transfer: *transfer, digest });
            std::iter::once(Record::Begin(begun.clone())).chain(progress)
        });
        run.chain(complete).chain(partial)
    }
}
