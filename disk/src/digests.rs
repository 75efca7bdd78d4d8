//! The digest cache: what files hold, as long as nothing says that they were written to.
//!
//! The key is the [`Identity`]. An entry that came from reading is good for this boot of the
//! machine: after a power cut the same identity may stand for bytes that were never written. One
//! that came from a durable commit is good for ever.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ftx_protocol::{Algorithm, Digest, Durability};
use serde::{Deserialize, Serialize};

use crate::hash::{Running, Saved};
use crate::identity::Identity;
use crate::lock::lock;
use crate::log::{Log, Sync};
use crate::reserved::Reserved;
use crate::syncs::Syncs;
use crate::sys::Disk;

/// The file of the cache.
pub(crate) const DIGESTS: &[u8] = b"digests";

/// Entries: a few MiB at most. More files than are fetched again and
/// again; a tree that is larger is read once more each time it is fetched.
const ENTRIES_MAX: usize = 14_000;

/// A table that is more than half full grows when entries come and go, though they do not become
/// more.
const ROOM: usize = 2 * ENTRIES_MAX;

/// The file is written anew when it has this many records that say nothing any more.
const STALE_RECORDS: usize = 2 * ENTRIES_MAX;

/// A file that was changed less than this before it was looked at may be changed again without its
/// times showing it: clocks of file systems tick every 4 to 10 ms.
const CLOCK_TICK: Duration = Duration::from_millis(20);

/// The cache.
pub struct DigestCache<D: Disk> {
    disk: D,
    boot_id: Option<String>,
    /// `None` when the store only reads.
    directory: Option<D::Handle>,
    /// Those of the directory.
    syncs: Arc<Syncs>,
    reserved: Arc<Reserved>,
    entries: Mutex<Entries<D>>,
}

struct Entries<D: Disk> {
    log: Option<Log<D, Record>>,
    records: usize,
    by_key: HashMap<Key, Entry>,
    by_age: BTreeMap<u64, Key>,
    next_age: u64,
}

type Key = (Identity, Algorithm);

#[derive(Debug, Clone)]
struct Entry {
    known: Known,
    lasts: Lasts,
    age: u64,
}

/// As [`Good`]; what was good for another boot is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lasts {
    Ever,
    ThisBoot,
}

impl Lasts {
    fn good(self, boot_id: &Option<String>) -> Good {
        match self {
            Self::Ever => Good::Ever,
            Self::ThisBoot => Good::Boot(boot_id.clone()),
        }
    }
}

/// What is known of a file's digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Known {
    Whole(Digest),
    /// That of its first bytes, to go on from.
    Part(Box<Saved>),
}

/// How long an entry is good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Good {
    Ever,
    Boot(Option<String>),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    file: Identity,
    known: Known,
    good: Good,
}

/// What a file was when somebody looked at it, and when that was.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    file: Identity,
    at: SystemTime,
}

impl Seen {
    /// As it is said by a look that was begun at this time.
    pub(crate) fn new(file: Identity, at: SystemTime) -> Self {
        Self { file, at }
    }

    /// Whether a write after the look would show in the file's times. When it is asked does not matter: who has read
    /// a file for long may have read bytes that came in the same tick as the look.
    fn is_settled(&self) -> bool {
        let at = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = u64::try_from(self.file.changed.seconds()).unwrap_or(0);
        let changed = Duration::new(seconds, self.file.changed.nanoseconds());
        at.checked_sub(changed).is_some_and(|age| age >= CLOCK_TICK)
    }
}

/// What became of a digest that was to be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remembered {
    /// It is, or was not worth it.
    Fine,
    /// The same identity had another digest: the disk or the memory of the machine changed bytes
    /// by itself, or somebody wrote through a memory map. The old entry stays.
    Corrupt,
}

impl<D: Disk> DigestCache<D> {
    pub(crate) fn open(
        disk: &D,
        directory: D::Handle,
        syncs: Arc<Syncs>,
        boot_id: Option<String>,
        reserved: &Arc<Reserved>,
    ) -> io::Result<Self> {
        let mut entries = Entries::new();
        let (log, _) = Log::open(disk, &directory, DIGESTS, reserved, |record: Record| {
            entries.records = entries.records.saturating_add(1);
            let reaches = match &record.good {
                Good::Ever => true,
                Good::Boot(boot) => boot.is_some() && *boot == boot_id,
            };
            if reaches {
                entries.insert(record);
            }
        })?;
        entries.log = Some(log);
        Ok(Self {
            disk: disk.clone(),
            boot_id,
            directory: Some(directory),
            syncs,
            reserved: Arc::clone(reserved),
            entries: Mutex::new(entries),
        })
    }

    pub(crate) fn in_memory(disk: &D) -> Self {
        Self {
            disk: disk.clone(),
            boot_id: None,
            directory: None,
            syncs: Arc::default(),
            reserved: Arc::default(),
            entries: Mutex::new(Entries::new()),
        }
    }

    /// Whether nothing is known of any file.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries().by_key.is_empty()
    }

    /// The digest of a file, if it is known.
    pub fn digest(&self, file: Identity, algorithm: Algorithm) -> Option<Digest> {
        match &self.entries().by_key.get(&(file, algorithm))?.known {
            Known::Whole(digest) => Some(*digest),
            Known::Part(_) => None,
        }
    }

    /// The running digest of the first bytes of a file, if it is known.
    pub fn partial(&self, file: Identity, algorithm: Algorithm) -> Option<Running> {
        match &self.entries().by_key.get(&(file, algorithm))?.known {
            Known::Part(saved) => Running::restore(saved).ok(),
            Known::Whole(_) => None,
        }
    }

    /// Remembers the digest of a file that was seen before it was read to its end, and was the same
    /// after that.
    pub fn remember(&self, seen: Seen, digest: Digest) -> Remembered {
        let file = seen.file;
        let known = self.digest(file, digest.algorithm);
        match known {
            Some(known) if known != digest => return Remembered::Corrupt,
            Some(_) => return Remembered::Fine,
            None => {}
        }
        if seen.is_settled() {
            let good = Good::Boot(self.boot_id.clone());
            self.add(Record { file, known: Known::Whole(digest), good });
        }
        Remembered::Fine
    }

    /// Remembers how far the digest of a file has come that was seen before it was read.
    pub fn remember_partial(&self, seen: Seen, running: &Running) {
        let file = seen.file;
        // A known digest is what a new reading is compared with.
        if self.digest(file, running.algorithm()).is_none()
            && let Some(saved) = running.save()
            && seen.is_settled()
        {
            let good = Good::Boot(self.boot_id.clone());
            self.add(Record { file, known: Known::Part(Box::new(saved)), good });
        }
    }

    /// Remembers the digests of files that have just been given their names, all in one go.
    pub(crate) fn remember_committed(&self, files: &[(Identity, Digest, Durability)]) {
        let worth = files.iter().filter(|(file, ..)| shows_writes(file));
        let records = worth.map(|(file, digest, durability)| {
            let good = match durability {
                Durability::None => Good::Boot(self.boot_id.clone()),
                Durability::Memory | Durability::Full => Good::Ever,
            };
            Record { file: *file, known: Known::Whole(*digest), good }
        });
        self.add_all(records.collect());
    }

    /// What is known of a file stays known when nothing but its name was changed.
    pub(crate) fn remember_renamed(&self, then: Identity, file: Identity) {
        let same_bytes = Identity { changed: then.changed, ..file } == then;
        if !same_bytes || !shows_writes(&file) {
            return;
        }
        for algorithm in Algorithm::ALL {
            let entry = self.entries().by_key.get(&(then, algorithm)).cloned();
            if let Some(Entry { known, lasts, .. }) = entry {
                let good = lasts.good(&self.boot_id);
                self.add(Record { file, known, good });
            }
        }
    }

    fn add(&self, record: Record) {
        self.add_all(vec![record]);
    }

    fn add_all(&self, records: Vec<Record>) {
        let mut entries = self.entries();
        entries.records = entries.records.saturating_add(records.len());
        let worn = entries.records > STALE_RECORDS.saturating_add(entries.by_key.len());
        // Never synced: what is lost is computed again. An error ends the file, not the cache.
        let written = match &mut entries.log {
            Some(log) if !records.is_empty() => log.append(records.iter(), Sync::Never),
            _ => Ok(()),
        };
        for record in records {
            entries.insert(record);
        }
        if written.is_err() {
            entries.log = None;
        } else if worn && let Some(directory) = &self.directory {
            let records = entries.all(&self.boot_id);
            let directory = (directory, &*self.syncs);
            let log = Log::replace(&self.disk, directory, DIGESTS, &self.reserved, records).ok();
            entries.log = log;
            entries.records = entries.by_key.len();
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries<D>> {
        lock(&self.entries)
    }
}

impl<D: Disk> Entries<D> {
    fn new() -> Self {
        Self {
            log: None,
            records: 0,
            by_key: HashMap::with_capacity(ROOM),
            by_age: BTreeMap::new(),
            next_age: 0,
        }
    }

    fn insert(&mut self, record: Record) {
        let algorithm = match &record.known {
            Known::Whole(digest) => digest.algorithm,
            Known::Part(saved) => saved.algorithm(),
        };
        let key = (record.file, algorithm);
        let age = self.next_age;
        self.next_age = age.saturating_add(1);
        let lasts = match record.good {
            Good::Ever => Lasts::Ever,
            Good::Boot(_) => Lasts::ThisBoot,
        };
        let entry = Entry { known: record.known, lasts, age };
        if let Some(old) = self.by_key.insert(key, entry) {
            self.by_age.remove(&old.age);
        }
        self.by_age.insert(age, key);
        while self.by_key.len() > ENTRIES_MAX
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.by_key.remove(&oldest);
        }
    }

    /// Everything that is known, oldest first.
    fn all(&self, boot_id: &Option<String>) -> impl Iterator<Item = Record> {
        self.by_age.values().filter_map(|key| {
            let entry = self.by_key.get(key)?;
            let good = entry.lasts.good(boot_id);
            Some(Record { file: key.0, known: entry.known.clone(), good })
        })
    }
}

/// Whether a write to a file that was given its name a moment ago would show in its times. Its time
/// of change is now: a write within this tick of the clock shows only in its time of modification,
/// and not if that is now too.
fn shows_writes(file: &Identity) -> bool {
    let apart = |seconds: i64, nanoseconds: u32| Duration::new(seconds.unsigned_abs(), nanoseconds);
    let (changed, modified) = (file.changed, file.modified);
    let age = apart(changed.seconds(), changed.nanoseconds())
        .checked_sub(apart(modified.seconds(), modified.nanoseconds()));
    age.is_some_and(|age| age >= CLOCK_TICK)
}

#[cfg(test)]
mod tests {
    use ftx_protocol::FileTime;

    use super::*;
    use crate::identity::Inode;
    use crate::sim::Sim;

    /// A file that was changed long ago, and seen so long after that.
    fn seen(after: Duration) -> Seen {
        let time = FileTime::new(1_764_000_000, 0).unwrap();
        let inode = Inode { device: 1, number: 2 };
        let file = Identity { inode, size: 3, modified: time, changed: time };
        Seen::new(file, UNIX_EPOCH + Duration::from_secs(1_764_000_000) + after)
    }

    #[test]
    fn what_was_seen_in_the_tick_of_its_change_is_not_remembered_however_long_it_was_read() {
        let cache = DigestCache::in_memory(&Sim::new());
        let mut running = Running::new(Algorithm::Sha256);
        running.update(b"abc");
        let early = seen(CLOCK_TICK - Duration::from_millis(1));
        cache.remember(early, running.digest());
        cache.remember_partial(early, &running);
        assert_eq!(cache.digest(early.file, Algorithm::Sha256), None);
        assert!(cache.partial(early.file, Algorithm::Sha256).is_none());
        let late = seen(CLOCK_TICK);
        cache.remember_partial(late, &running);
        assert!(cache.partial(late.file, Algorithm::Sha256).is_some());
        cache.remember(late, running.digest());
        assert_eq!(cache.digest(late.file, Algorithm::Sha256), Some(running.digest()));
    }
}
