//! The journal: what is durable in staging, and what was about to take its name.
//!
//! It keeps an image of what it says, so that it can be written anew when it has grown, or when a
//! failed sync has made the old one worthless.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use ftx_protocol::TransferId;

use super::record::{Begun, Committed, Record};
use super::transfers::COMPLETE_MAX;
use crate::hash::Saved;
use crate::log::Log;
use crate::reserved::Reserved;
use crate::sys::Disk;

/// The log of what is durable.
const JOURNAL: &[u8] = b"journal";

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
    pub(super) partial: HashMap<TransferId, (Begun, Saved)>,
    begun: HashMap<TransferId, Begun>,
    /// Oldest first.
    pub(super) complete: VecDeque<Arc<Committed>>,
}

pub(super) struct Journal<D: Disk> {
    disk: D,
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

    /// Writes it anew, to say just this.
    pub(super) fn renew(&mut self, private: &D::Handle, image: Image) -> io::Result<()> {
        self.log = None;
        self.image = image;
        let log = Log::replace(
            &self.disk,
            private,
            JOURNAL,
            &self.reserved,
            self.image.records().iter(),
        )?;
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
        let worn = self.log.as_ref().is_none_or(|log| log.size() > self.compact_above_bytes);
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
            Record::Begin(begun) => {
                self.begun.insert(begun.transfer, begun.clone());
            }
            Record::Progress { transfer, digest } => {
                if let Some(begun) = self.begun.get(transfer) {
                    self.partial.insert(*transfer, (begun.clone(), digest.clone()));
                }
            }
            Record::Commit(committed) => {
                self.forget(&committed.transfer);
                self.complete.push_back(Arc::new(committed.clone()));
                while self.complete.len() > COMPLETE_MAX {
                    self.complete.pop_front();
                }
            }
            Record::Drop { transfer } => {
                self.forget(transfer);
                self.complete.retain(|committed| committed.transfer != *transfer);
            }
        }
    }

    fn forget(&mut self, transfer: &TransferId) {
        self.begun.remove(transfer);
        self.partial.remove(transfer);
    }

    fn records(&self) -> Vec<Record> {
        let complete = self.complete.iter().map(|committed| Record::Commit((**committed).clone()));
        let partial = self.partial.iter().flat_map(|(transfer, (begun, digest))| {
            let progress = Record::Progress { transfer: *transfer, digest: digest.clone() };
            [Record::Begin(begun.clone()), progress]
        });
        complete.chain(partial).collect()
    }
}
