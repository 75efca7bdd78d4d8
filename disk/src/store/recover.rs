//! Opening a store: its lock, its journal, and what an earlier store left unfinished.

use std::cell::Cell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use ftx_protocol::{Durability, Mode, Name};
use rustix::io::Errno;

use super::begin::is_gone;
use super::committing::Committing;
use super::journal::{Image, Journal};
use super::naming::{Ground, Origin};
use super::private::{LOCK, Nameless, PRIVATE, Private, STAGING, TRASH};
use super::record::{Begun, Committed, Complete, Outcome};
use super::room::Room;
use super::transfers::{Kept, Partial, Transfers, Use};
use super::trash::Trash;
use super::{Access, KeptOut, Memory, OpenError, Options, Recovery, Store, best, lock};
use crate::digests::DigestCache;
use crate::identity::{Identity, Inode};
use crate::reserved::Reserved;
use crate::syncs::Syncs;
use crate::sys::{Disk, FileKind, Stat, Want};
use crate::walk::names_room;

/// Permissions of what is the store's own: nobody else's business.
const PRIVATE_MODE: Mode = Mode::new(0o700);

/// What is made in staging to see how it goes.
const PROBE: &[u8] = b"probe";

/// How often a lock is tried that others take away at the same time.
const LOCKS_MAX: usize = 16;

/// Names in staging that are looked at at start. More were never there at once.
const STAGED_MAX: usize = 10_000_000;

pub(super) fn open<D: Disk>(
    disk: D,
    path: &Path,
    options: Options,
) -> Result<(Store<D>, Recovery), OpenError> {
    let failed = |error| OpenError::Root { path: path.display().to_string(), error };
    let root = disk.open_root(path).map_err(failed)?;
    let root_inode = Inode::of(&disk.stat(&root).map_err(failed)?);
    let medium = disk.medium(&root).map_err(failed)?;
    let boot_id = disk.boot_id();
    let found = match options.access {
        Access::ReadOnly => Found::read_only(&disk, &root),
        Access::ReadWrite => Found::read_write(&disk, &root)?,
    };
    let digests = match &found.private {
        // A cache that cannot be opened is no reason not to serve.
        Some(_) => disk
            .open_part(&root, PRIVATE, Want::Directory)
            .and_then(|directory| {
                let syncs = Arc::clone(&found.syncs);
                DigestCache::open(&disk, directory, syncs, boot_id.clone(), &found.reserved)
            })
            .unwrap_or_else(|_| DigestCache::in_memory(&disk)),
        None => DigestCache::in_memory(&disk),
    };
    let store = Store {
        best: best(options.durability, medium.kind),
        room: Room::default(),
        names_room: names_room(),
        committing: Mutex::new(Committing::new(disk.clone(), root_inode)),
        transfers: Transfers::new(),
        run: found.run,
        next_staged: AtomicU64::new(0),
        reserved: found.reserved,
        private: found.private,
        disk,
        root: Arc::new(root),
        root_inode,
        options,
        boot_id,
        digests,
    };
    let recovery = store.recover(&found.staged, found.torn_bytes)?;
    Ok((store, recovery))
}

/// How the trash is swept for the room of a journal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stretches {
    /// Entries that are looked at before the journal is tried again.
    pub(super) entries: u32,
    /// How often.
    pub(super) times: u32,
}

impl Stretches {
    /// Everybody who puts or changes something waits for a round, so that it sweeps for some tenths of a second and
    /// leaves the rest to who may wait. A stretch is longer than a tree is deep: at its bottom something goes.
    pub(super) const IN_A_ROUND: Self = Self { entries: 256, times: 16 };
    /// Without the journal there is no store, and nobody waits for an answer yet.
    const AT_A_START: Self = Self { entries: u32::MAX, times: 1 };
}

/// What there is before anything is recovered.
struct Found<D: Disk> {
    private: Option<Private<D>>,
    /// Those of the store's own directory.
    syncs: Arc<Syncs>,
    reserved: Arc<Reserved>,
    /// The files in staging.
    staged: HashMap<String, Inode>,
    torn_bytes: u64,
    run: u64,
}

impl<D: Disk> Found<D> {
    /// Guards what another store may have left, as far as it can be seen.
    fn read_only(disk: &D, root: &D::Handle) -> Self {
        let reserved = Arc::new(Reserved::default());
        reserve_all(disk, disk.open_part(root, PRIVATE, Want::Directory), &reserved);
        let (syncs, staged) = (Arc::default(), HashMap::new());
        Self { private: None, syncs, reserved, staged, torn_bytes: 0, run: 0 }
    }

    fn read_write(disk: &D, root: &D::Handle) -> Result<Self, OpenError> {
        let step = |step| move |error| OpenError::Private { step, error };
        let (directory, own_lock) = lock_directory(disk, || open_directory(disk, root, PRIVATE))?;
        let staging = open_directory(disk, &directory, STAGING)?;
        let trash = open_directory(disk, &directory, TRASH)?;
        // Both have to survive, or what is promised in them does not.
        disk.sync(root).and_then(|()| disk.sync(&directory)).map_err(step("sync"))?;
        let staged = staged_in(disk, &staging).map_err(step("look at staging"))?;
        let probe = probe(disk, &staging).map_err(step("write to staging"))?;
        let ours = disk.stat(&directory).map_err(step("look"))?;
        let root_device = disk.stat(root).map_err(step("look"))?.device;
        if ours.owner != probe.owner || probe.device != root_device {
            return Err(OpenError::NotOurs);
        }
        let reserved = Arc::new(Reserved::default());
        reserved.reserve_directory(Inode::of(&ours));
        for handle in [&staging, &trash] {
            reserved.reserve_directory(Inode::of(&disk.stat(handle).map_err(step("look"))?));
        }
        for inode in staged.values() {
            reserved.reserve(*inode);
        }
        // The lock, and what an earlier store was writing when it was killed, or a job has left.
        for part in disk.names(&directory).map_err(step("list"))?.take(STAGED_MAX) {
            let part = part.map_err(step("list"))?;
            if part == STAGING || part == TRASH {
                continue;
            }
            let stat = disk.stat_part(&directory, &part).map_err(step("look"))?;
            match stat.kind {
                FileKind::Directory => {
                    let further = disk.open_part(&directory, &part, Want::Directory);
                    reserve_all(disk, further, &reserved);
                }
                FileKind::File | FileKind::Symlink | FileKind::Special => {
                    reserved.reserve(Inode::of(&stat));
                }
            }
        }
        let syncs = Arc::<Syncs>::default();
        let (journal, torn_bytes) = Journal::open(disk, &directory, Arc::clone(&syncs), &reserved)
            .map_err(step("read the journal"))?;
        let run = journal.image().run.saturating_add(1);
        let journal = Mutex::new(journal);
        let trash = Trash::open(disk, trash).map_err(step("list the trash"))?;
        let (default_mode, nameless) = (probe.mode, probe_nameless(disk, &staging));
        let (_lock, staging_syncs) = (own_lock, Syncs::default());
        let private = Private {
            directory,
            staging,
            staging_syncs,
            trash,
            journal,
            _lock,
            default_mode,
            nameless,
        };
        Ok(Self { private: Some(private), syncs, reserved, staged, torn_bytes, run })
    }
}

/// The files in staging, by what they are called there.
fn staged_in<D: Disk>(disk: &D, staging: &D::Handle) -> io::Result<HashMap<String, Inode>> {
    let mut staged = HashMap::new();
    for part in disk.names(staging)?.take(STAGED_MAX) {
        let Ok(part) = String::from_utf8(part?) else { continue };
        let stat = disk.stat_part(staging, part.as_bytes())?;
        staged.insert(part, Inode::of(&stat));
    }
    Ok(staged)
}

/// Reserves a directory and all that is below it, as far as it can be seen.
fn reserve_all<D: Disk>(disk: &D, directory: io::Result<D::Handle>, reserved: &Reserved) {
    let mut ahead = Vec::from([directory]);
    while let Some(next) = ahead.pop() {
        let Ok(directory) = next else { continue };
        if let Ok(stat) = disk.stat(&directory) {
            reserved.reserve_directory(Inode::of(&stat));
        }
        for part in disk.names(&directory).into_iter().flatten().flatten().take(STAGED_MAX) {
            match disk.stat_part(&directory, &part) {
                Ok(stat) if stat.kind == FileKind::Directory => {
                    ahead.push(disk.open_part(&directory, &part, Want::Directory));
                }
                Ok(stat) => reserved.reserve(Inode::of(&stat)),
                Err(_) => {}
            }
        }
    }
}

/// What a start finds of a put that was about to take its name.
enum Fate {
    /// It has taken it and was this then: the journal says so.
    Done(Identity),
    /// Its name has it. The crash came after the rename, and perhaps before the sync of the directory.
    Renamed(Identity),
    /// It has no name yet.
    Staged(Inode),
    /// It is not there. Whether it has taken its name and lost it again, nothing says.
    Nowhere,
}

/// A file in staging as it is known by now, if it is still the one that the journal speaks of. The number of its
/// device may be another one since the machine was started: what is reserved is what it has now.
fn staged_as(staged: &HashMap<String, Inode>, part: &str, then: Inode) -> Option<Inode> {
    staged.get(part).copied().filter(|now| now.number == then.number)
}

/// Opens a directory of the store's own, making it if it is not there.
fn open_directory<D: Disk>(
    disk: &D,
    parent: &D::Handle,
    part: &[u8],
) -> Result<D::Handle, OpenError> {
    let failed = |error| OpenError::Private { step: "make the staging directory", error };
    let make_and_open = || match disk.make_directory(parent, part, PRIVATE_MODE) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::EXIST) => Err(error),
        _ => disk.open_part(parent, part, Want::Directory),
    };
    let opened = match make_and_open() {
        // A store that goes has taken it away in between.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => make_and_open(),
        opened => opened,
    };
    match opened {
        Ok(directory) => {
            disk.set_mode(&directory, PRIVATE_MODE).map_err(failed)?;
            Ok(directory)
        }
        Err(error) => match Errno::from_io_error(&error) {
            // A symlink, or a file.
            Some(Errno::NOTDIR | Errno::LOOP) => Err(OpenError::NotOurs),
            _ => Err(failed(error)),
        },
    }
}

/// See [`super::keep_out`].
pub(super) fn keep_out<D: Disk>(disk: &D, path: &Path) -> Result<KeptOut<D>, OpenError> {
    let failed = |error| OpenError::Root { path: path.display().to_string(), error };
    let root = disk.open_root(path).map_err(failed)?;
    let open = || {
        disk.open_part(&root, PRIVATE, Want::Directory)
            .map_err(|error| OpenError::Private { step: "look", error })
    };
    let (_, _lock) = lock_directory(disk, open)?;
    Ok(KeptOut { _lock })
}

/// Takes the lock of the store's own directory. Returns both.
fn lock_directory<D: Disk>(
    disk: &D,
    open: impl Fn() -> Result<D::Handle, OpenError>,
) -> Result<(D::Handle, D::Handle), OpenError> {
    for _ in 0..LOCKS_MAX {
        let directory = open()?;
        if let Some(file) = open_lock(disk, &directory)? {
            return Ok((directory, file));
        }
    }
    Err(OpenError::Locked)
}

/// `None` when a store has taken its directory away before its lock could be taken: that is nobody's any more.
fn open_lock<D: Disk>(disk: &D, directory: &D::Handle) -> Result<Option<D::Handle>, OpenError> {
    let failed = |error| OpenError::Private { step: "take the lock", error };
    let is = |error: &io::Error, errno| Errno::from_io_error(error) == Some(errno);
    let opened = match disk.open_part(directory, LOCK, Want::File) {
        Err(error) if is(&error, Errno::NOENT) => disk.create(directory, LOCK, Mode::new(0o600)),
        result => result,
    };
    let file = match opened {
        Err(error) if is(&error, Errno::NOENT) || is(&error, Errno::EXIST) => return Ok(None),
        result => result.map_err(failed)?,
    };
    match disk.lock(&file) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(OpenError::Locked),
        Err(error) => return Err(failed(error)),
    }
    let named = match disk.stat_part(directory, LOCK) {
        Err(error) if is(&error, Errno::NOENT) => return Ok(None),
        result => Inode::of(&result.map_err(failed)?),
    };
    let locked = Inode::of(&disk.stat(&file).map_err(failed)?);
    Ok((named == locked).then_some(file))
}

/// A new file in staging, as it looks: whose it is, on which file system, and what the process's
/// umask leaves of 0o666. Asking for the umask would change it for a moment, for all threads.
fn probe<D: Disk>(disk: &D, staging: &D::Handle) -> io::Result<Stat> {
    match disk.remove(staging, PROBE) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::NOENT) => return Err(error),
        _ => {}
    }
    let file = disk.create(staging, PROBE, Mode::new(0o666))?;
    let stat = disk.stat(&file)?;
    disk.remove(staging, PROBE)?;
    Ok(stat)
}

fn probe_nameless<D: Disk>(disk: &D, staging: &D::Handle) -> Nameless {
    let probed = disk
        .create_nameless(staging, PRIVATE_MODE)
        .and_then(|file| disk.link_nameless(&file, staging, PROBE))
        // What stays is swept at the next start.
        .and_then(|()| disk.remove(staging, PROBE));
    match probed {
        Ok(()) => Nameless::Possible,
        Err(_) => Nameless::Impossible,
    }
}

impl<D: Disk> Store<D> {
    /// Finishes or forgets what the journal says, sweeps staging, and writes the journal anew.
    fn recover(
        &self,
        staged: &HashMap<String, Inode>,
        torn_bytes: u64,
    ) -> Result<Recovery, OpenError> {
        let mut recovery = Recovery { torn_bytes, ..Recovery::default() };
        let Some(private) = &self.private else { return Ok(recovery) };
        let image = lock(&private.journal).image().clone();
        let mut kept = Image::of_run(self.run);
        let boot_id = self.boot_id.as_ref();
        self.settle_all(private, image.complete(), staged, &mut kept, &mut recovery);
        let said: HashSet<String> = image.staged().cloned().collect();
        // What the journal does not speak of may hold the room to write it anew.
        let unsaid = staged.iter().filter(|(part, _)| !said.contains(*part));
        self.sweep_staging(private, unsaid, &mut recovery);
        let mut live = HashSet::new();
        for (transfer, (begun, saved)) in image.partial {
            let Some(saved) = saved else { continue };
            let Some(inode) = staged_as(staged, &begun.staged, begun.inode) else { continue };
            if !begun.survival.reaches(boot_id) {
                continue;
            }
            // Gives back the room of what is past the promise, and of what was reserved.
            match self.reopen_staged(private, &begun.staged, inode, saved.offset()) {
                Err(error) if is_gone(&error) => continue,
                // If it failed otherwise, whoever goes on does it; the promise stands.
                _ => {}
            }
            let begun = Begun { inode, ..begun };
            live.insert(begun.staged.clone());
            kept.partial.insert(transfer, (begun.clone(), Some(saved.clone())));
            let kept = Kept::UpTo(saved);
            let syncs = Arc::default();
            let partial = Partial { begun, kept, epoch: 0, use_: Use::Idle, syncs };
            self.transfers.insert(transfer, partial);
            recovery.resumable = recovery.resumable.saturating_add(1);
        }
        lock(&private.journal).say_only(kept);
        self.mend_journal(private, Stretches::AT_A_START)
            .map_err(|error| OpenError::Private { step: "write the journal", error })?;
        // After the journal: until it was written anew, it may need these.
        let over = staged.iter().filter(|(part, _)| said.contains(*part) && !live.contains(*part));
        self.sweep_staging(private, over, &mut recovery);
        Ok(recovery)
    }

    /// Removes what is still in staging of these.
    fn sweep_staging<'a>(
        &self,
        private: &Private<D>,
        parts: impl Iterator<Item = (&'a String, &'a Inode)>,
        recovery: &mut Recovery,
    ) {
        for (part, inode) in parts {
            if self.disk.stat_part(&private.staging, part.as_bytes()).is_ok() {
                self.remove_staged(part, *inode);
                recovery.swept = recovery.swept.saturating_add(1);
            }
        }
    }

    /// See [`Journal::mend`]. On a full disk it has no room to be written anew, but what was removed may hold some.
    /// Where a stretch removes nothing, the next one would not either.
    pub(super) fn mend_journal(
        &self,
        private: &Private<D>,
        stretches: Stretches,
    ) -> io::Result<()> {
        let mend = || lock(&private.journal).mend(&private.directory);
        let mut mended = mend();
        for _ in 0..stretches.times {
            if !mended.as_ref().is_err_and(is_full) || !self.has_trash() {
                break;
            }
            let removed = private.trash.removed();
            let left = Cell::new(stretches.entries);
            self.sweep_trash(&|| left.replace(left.get().saturating_sub(1)) > 0);
            if private.trash.removed() == removed {
                break;
            }
            mended = mend();
        }
        mended
    }

    /// Finishes the puts that were about to take their names, in the order of the journal, or forgets them.
    fn settle_all(
        &self,
        private: &Private<D>,
        complete: &VecDeque<Complete>,
        staged: &HashMap<String, Inode>,
        kept: &mut Image,
        recovery: &mut Recovery,
    ) {
        let boot_id = self.boot_id.as_ref();
        let fates: Vec<(&Complete, Fate)> = complete
            .iter()
            .filter(|complete| complete.committed.survival.reaches(boot_id))
            .map(|complete| (complete, self.fate_of(complete, staged)))
            .collect();
        let mut last_taken: HashMap<&Name, usize> = HashMap::new();
        for (place, (complete, fate)) in fates.iter().enumerate() {
            match fate {
                Fate::Done(_) | Fate::Renamed(_) => {
                    last_taken.insert(&complete.committed.name, place);
                }
                Fate::Staged(_) | Fate::Nowhere => {}
            }
        }
        for (place, (complete, fate)) in fates.into_iter().enumerate() {
            let last = last_taken.get(&complete.committed.name);
            let settled = match fate {
                // It could not have its name, and the crash came before the journal was told so.
                // Whoever came after it keeps it.
                Fate::Staged(_) if last.is_some_and(|last| *last > place) => None,
                fate => self.settle(private, &complete.committed, fate, recovery),
            };
            if let Some(complete) = settled {
                // Whoever comes back to a store that remembers puts is told that this one was said to be there.
                if self.options.memory == Memory::Puts {
                    self.transfers.completed(Arc::new(complete.clone()));
                }
                // It may be a server's, which remembers.
                kept.remember(complete);
            }
        }
    }

    /// Finds out what became of a file that was about to take its name.
    fn fate_of(&self, complete: &Complete, staged: &HashMap<String, Inode>) -> Fate {
        let Complete { committed, outcome } = complete;
        if let Outcome::Named(file) = outcome {
            return Fate::Done(*file);
        }
        if let Some(inode) = staged_as(staged, &committed.staged, committed.inode) {
            return Fate::Staged(inode);
        }
        match self.look_at(committed.within.as_ref(), &committed.name) {
            Ok(found) if found.inode == committed.inode.number && found.size == committed.size => {
                Fate::Renamed(Identity::of(&found))
            }
            _ => Fate::Nowhere,
        }
    }

    /// Finishes a put, in its turn: those of one name take it one after another, each if it may. `None`: there
    /// is nothing of it, and nobody was told otherwise.
    fn settle(
        &self,
        private: &Private<D>,
        committed: &Committed,
        fate: Fate,
        recovery: &mut Recovery,
    ) -> Option<Complete> {
        let settled = |outcome| Some(Complete { committed: committed.clone(), outcome });
        let mut committing = lock(&self.committing);
        match fate {
            Fate::Done(file) => settled(Outcome::Named(file)),
            Fate::Renamed(file) => {
                let within = committed.within.as_ref();
                let directory = match committed.name.parent() {
                    Some(parent) => Arc::new(self.look(within, &parent, Want::Directory).ok()?),
                    None => Arc::clone(&self.root),
                };
                self.sync_name(&mut committing, committed, &directory)?;
                settled(Outcome::Named(file))
            }
            Fate::Staged(inode) => {
                let committed = &Committed { inode, ..committed.clone() };
                // Where the condition does not hold any more, or something is in the way, it is over.
                let ground = &mut Ground::default();
                let (directory, _) = self
                    .take_name(private, Origin::Staging, committed, &mut committing, ground)
                    .ok()?;
                recovery.finished = recovery.finished.saturating_add(1);
                self.sync_name(&mut committing, committed, &directory)?;
                // As when it is acknowledged: a stat that fails takes nothing of that back.
                let named = self.disk.stat_part(&directory, committed.name.last_part());
                settled(match named {
                    Ok(named) if Inode::of(&named) == inode => Outcome::Named(Identity::of(&named)),
                    _ => Outcome::Pending,
                })
            }
            Fate::Nowhere => None,
        }
    }

    /// `None` when the directory cannot be synced: it is doubtful from now on.
    fn sync_name(
        &self,
        committing: &mut Committing<D>,
        committed: &Committed,
        directory: &D::Handle,
    ) -> Option<()> {
        match committed.durability {
            Durability::None => Some(()),
            Durability::Memory | Durability::Full => {
                committing.sync_up(directory, &HashMap::new(), &mut HashSet::new()).ok()
            }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOSPC | Errno::DQUOT))
}
