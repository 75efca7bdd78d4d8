//! The journal: what is durable in staging, and what was about to take its name.
//!
//! It keeps an image of what it says, so that it can be written anew when it has grown, or when a
//! failed sync has made the old one worthless.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use ftx_protocol::{Refusal, TransferId};

use super::record::{Begun, Complete, Outcome, Record};
use super::transfers::JournalBytes;
use crate::failure::{Cause, refusal};
use crate::hash::Saved;
use crate::log::{self, Log, NotWritten, Sync};
use crate::reserved::Reserved;
use crate::syncs::Syncs;
use crate::sys::Disk;

/// The log of what is durable.
pub(super) const JOURNAL: &[u8] = b"journal";

/// A journal below this is not worth writing anew.
const COMPACT_BYTES: u64 = 8 * 1024 * 1024;

/// What a journal says.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    pub(super) run: u64,
    pub(super) partial: HashMap<TransferId, (Begun, Option<Saved>)>,
    /// Oldest first.
    complete: VecDeque<Complete>,
    complete_bytes: JournalBytes,
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
        let (mut image, mut records) = (Image::default(), 0_usize);
        let whole_bytes = log::decode(bytes, |record: Record| {
            records = records.saturating_add(1);
            image.apply(&record);
        })?;
        let mut anew = Vec::new();
        for record in image.records() {
            log::encode(&record, &mut anew)?;
        }
        Ok(Self { records, whole_bytes: whole_bytes as u64, anew })
    }
}

pub(super) struct Journal<D: Disk> {
    disk: D,
    /// Those of the private directory.
    syncs: Arc<Syncs>,
    reserved: Arc<Reserved>,
    /// `None` where nobody knows what of it is on the disk, or it says more than it should.
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
        let mut image = Image::default();
        let replay = |record: Record| image.apply(&record);
        let (log, torn_bytes) = Log::open(disk, private, JOURNAL, reserved, replay)?;
        let compact_above_bytes = COMPACT_BYTES.max(log.size().saturating_mul(4));
        let journal = Self {
            disk: disk.clone(),
            syncs,
            reserved: Arc::clone(reserved),
            log: Some(log),
            image,
            compact_above_bytes,
        };
        Ok((journal, torn_bytes))
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
            Err(_) => {
                self.log = None;
                self.mend(private)
            }
        }
    }

    /// The same for a transfer that is on its way, if it says anything of that. Not synced, and an error has no
    /// consequence: one whose staged file is gone is forgotten at the next start all the same.
    pub(super) fn forget(&mut self, private: &D::Handle, transfer: TransferId, staged: &str) {
        if self.image.says(&transfer, staged) {
            let dropped = Record::Drop { transfer, staged: staged.to_owned() };
            self.image.apply(&dropped);
            let _ = self.write(private, &[dropped], Sync::Never);
        }
    }

    /// Writes it anew if what is on the disk may say more: a transfer that was taken back, and
    /// that the next start would finish. Never again once its directory could not be synced.
    ///
    /// # Errors
    /// When it may still say more.
    pub(super) fn mend(&mut self, private: &D::Handle) -> io::Result<()> {
        match self.log {
            Some(_) => Ok(()),
            None => Ok(self.replace(private)?),
        }
    }

    /// It is to say just this, and is written anew for that by [`Journal::mend`].
    pub(super) fn say_only(&mut self, image: Image) {
        self.log = None;
        self.image = image;
    }

    /// Writes it anew because it has grown.
    fn compact(&mut self, private: &D::Handle) -> io::Result<()> {
        match self.replace(private) {
            Ok(()) => Ok(()),
            // One that is only long is good enough.
            Err(NotWritten::Stands(_)) => {
                self.compact_above_bytes = self.compact_above_bytes.saturating_add(COMPACT_BYTES);
                Ok(())
            }
            Err(NotWritten::Doubtful(error)) => {
                self.log = None;
                Err(error)
            }
        }
    }

    fn replace(&mut self, private: &D::Handle) -> Result<(), NotWritten> {
        let directory = (private, &*self.syncs);
        let records = self.image.records();
        let log = Log::replace(&self.disk, directory, JOURNAL, &self.reserved, records)?;
        self.compact_above_bytes = COMPACT_BYTES.max(log.size().saturating_mul(4));
        self.log = Some(log);
        Ok(())
    }

    /// Appends records. When this fails, nothing that depends on them may be acknowledged; and where it is doubtful
    /// whether it says them, it is written anew before anything else is recorded.
    pub(super) fn write(
        &mut self,
        private: &D::Handle,
        records: &[Record],
        sync: Sync,
    ) -> Result<(), NotWritten> {
        // Whichever is on the disk when this fails: it says nothing of these.
        match &self.log {
            None => self.replace(private).map_err(|error| NotWritten::Stands(error.into()))?,
            Some(log) if log.size() > self.compact_above_bytes => {
                self.compact(private).map_err(NotWritten::Stands)?;
            }
            Some(_) => {}
        }
        let Some(log) = &mut self.log else { return Ok(()) };
        let written = log.append(records.iter(), sync);
        match &written {
            Ok(()) => records.iter().for_each(|record| self.image.apply(record)),
            Err(NotWritten::Stands(_)) => {}
            Err(NotWritten::Doubtful(_)) => self.log = None,
        }
        written
    }
}

/// Why a put ends whose records could not be written.
pub(super) fn not_journalled(error: NotWritten) -> Refusal {
    let cause = match error {
        NotWritten::Stands(_) => Cause::Store,
        NotWritten::Doubtful(_) => Cause::Sync,
    };
    refusal(cause, "writing the journal", &error.into())
}

impl Image {
    /// One that says nothing but which run it is of.
    pub(super) fn of_run(run: u64) -> Self {
        Self { run, ..Self::default() }
    }

    /// Whether it says that the transfer which has this file in staging is on its way.
    fn says(&self, transfer: &TransferId, staged: &str) -> bool {
        self.partial.get(transfer).is_some_and(|(begun, _)| begun.staged == staged)
    }

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
                self.remember(Complete { committed, outcome: Outcome::Pending });
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
                if self.says(transfer, staged) {
                    self.partial.remove(transfer);
                }
                let is_dropped = |complete: &Complete| {
                    complete.committed.transfer == *transfer && complete.committed.staged == *staged
                };
                let Self { complete, complete_bytes, .. } = self;
                complete.retain(|complete| {
                    let stays = !is_dropped(complete);
                    if !stays {
                        complete_bytes.take(complete);
                    }
                    stays
                });
            }
        }
    }

    /// The files in staging that it speaks of.
    pub(super) fn staged(&self) -> impl Iterator<Item = &String> {
        let complete = self.complete.iter().map(|complete| &complete.committed.staged);
        complete.chain(self.partial.values().map(|(begun, _)| &begun.staged))
    }

    /// Those that are complete, or are about to be, oldest first.
    pub(super) fn complete(&self) -> &VecDeque<Complete> {
        &self.complete
    }

    /// The oldest is forgotten where there are too many.
    pub(super) fn remember(&mut self, complete: Complete) {
        self.complete_bytes.add(&complete);
        self.complete.push_back(complete);
        while self.complete_bytes.is_too_much(self.complete.len())
            && let Some(oldest) = self.complete.pop_front()
        {
            self.complete_bytes.take(&oldest);
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ftx_protocol::{Algorithm, Condition, Digest, Durability, Name};
    use rustix::io::Errno;

    use super::super::record::{Committed, Survival};
    use super::*;
    use crate::identity::Inode;
    use crate::sim::{Fault, Sim, SimHandle};

    const NEW: &[u8] = b"journal.new";

    fn commit(number: u64, name: Name) -> Record {
        let mut transfer = [0; 16];
        transfer[..8].copy_from_slice(&number.to_be_bytes());
        Record::Commit(Committed {
            transfer: TransferId(transfer),
            staged: format!("1-{number}"),
            inode: Inode { device: 1, number },
            within: Some(name.clone()),
            asked: Some(name.clone()),
            name,
            size: 1,
            digest: Digest { algorithm: Algorithm::Sha256, bytes: [0; 32] },
            condition: Condition::Always,
            durability: Durability::Full,
            survival: Survival::Synced,
            owner: None,
        })
    }

    fn open(sim: &Sim) -> (Journal<Sim>, SimHandle) {
        let root = sim.open_root(Path::new("/")).unwrap();
        let (journal, torn) =
            Journal::open(sim, &root, Arc::default(), &Arc::new(Reserved::default())).unwrap();
        assert_eq!(torn, 0);
        (journal, root)
    }

    /// On a disk that is full it is the long one that takes what is to be recorded.
    #[test]
    fn one_that_cannot_be_written_anew_is_gone_on_with() {
        let name = || Name::parse(b"name").unwrap();
        let long = || {
            let sim = Sim::new();
            let (mut journal, root) = open(&sim);
            journal.write(&root, &[commit(1, name())], Sync::Now).unwrap();
            journal.compact_above_bytes = 0;
            sim.set_fault(Fault::None);
            (sim, journal, root)
        };
        let (sim, mut journal, root) = long();
        journal.write(&root, &[commit(2, name())], Sync::Now).unwrap();
        let log = sim.log();
        let renamed = log.iter().position(|call| call.contains("rename journal")).unwrap();
        assert!(log[..renamed].iter().any(|call| call.contains("write_at")), "{log:?}");
        for (nth, call) in log.iter().enumerate().take(renamed) {
            let (sim, mut journal, root) = long();
            sim.set_fault(Fault::Once(nth as u64, Errno::NOSPC));
            journal.write(&root, &[commit(2, name())], Sync::Now).unwrap();
            assert!(sim.stat_part(&root, NEW).is_err(), "{call}: it takes room");
            journal.write(&root, &[commit(3, name())], Sync::Now).unwrap();
            drop(journal);
            assert_eq!(open(&sim).0.image().complete().len(), 3, "{call}");
        }
    }

    /// Names in which each byte is written as six would make it longer than a disk has room for.
    #[test]
    fn it_is_no_longer_than_the_room_that_is_left_for_it() {
        let part = [1; 255];
        let name = Name::parse(&[part.as_slice(); 15].join(&b'/')).unwrap();
        let mut image = Image::default();
        (0..2_000).for_each(|number| image.apply(&commit(number, name.clone())));
        let mut bytes = Vec::new();
        image.records().for_each(|record| log::encode(&record, &mut bytes).unwrap());
        assert!(bytes.len() < 48 * 1024 * 1024, "{}", bytes.len());
        // Those of a round at least, which are about to take their names.
        assert!(image.complete.len() >= 512, "{}", image.complete.len());
        let newest = image.complete.back().unwrap();
        assert_eq!(newest.committed.staged, "1-1999");
        let dropped = Record::Drop {
            transfer: newest.committed.transfer,
            staged: newest.committed.staged.clone(),
        };
        let before = image.complete.len();
        image.apply(&dropped);
        image.apply(&commit(2_000, name));
        assert_eq!(image.complete.len(), before, "what was dropped is not counted");
    }
}
