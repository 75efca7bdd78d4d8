//! Opening a store: its lock, its journal, and what an earlier store left unfinished.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use ftx_protocol::{Durability, Mode};
use rustix::io::Errno;

use super::commit::Committing;
use super::journal::{Image, Journal};
use super::private::{LOCK, PRIVATE, Private, STAGING};
use super::transfers::{Kept, Partial, Transfers, Use};
use super::{Access, OpenError, Options, Recovery, Store, best, lock};
use crate::digests::DigestCache;
use crate::identity::Inode;
use crate::reserved::Reserved;
use crate::sys::{Disk, FileKind, Want};

/// Permissions of what is the store's own: nobody else's business.
const PRIVATE_MODE: Mode = Mode::new(0o700);

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
        Some(_) => {
            let failed = |error| OpenError::Private { step: "open the digest cache", error };
            let directory = disk.open_part(&root, PRIVATE, Want::Directory).map_err(failed)?;
            DigestCache::open(&disk, directory, boot_id.clone(), &found.reserved).map_err(failed)?
        }
        None => DigestCache::in_memory(&disk),
    };
    let store = Store {
        best: best(options.durability, medium.kind),
        committing: Mutex::new(Committing::new(disk.clone())),
        transfers: Transfers::new(),
        next_staged: AtomicU64::new(found.next_staged()),
        reserved: found.reserved,
        private: found.private,
        disk,
        root,
        root_inode,
        options,
        boot_id,
        digests,
    };
    let recovery = store.recover(&found.staged, found.torn_bytes)?;
    Ok((store, recovery))
}

/// What there is before anything is recovered.
struct Found<D: Disk> {
    private: Option<Private<D>>,
    reserved: Arc<Reserved>,
    /// The files in staging.
    staged: HashMap<String, Inode>,
    torn_bytes: u64,
}

impl<D: Disk> Found<D> {
    /// Guards what another store may have left, as far as it can be seen.
    fn read_only(disk: &D, root: &D::Handle) -> Self {
        let reserved = Arc::new(Reserved::default());
        let mut ahead = Vec::from([disk.open_part(root, PRIVATE, Want::Directory)]);
        while let Some(next) = ahead.pop() {
            let Ok(directory) = next else { continue };
            if let Ok(stat) = disk.stat(&directory) {
                reserved.reserve_directory(Inode::of(&stat));
            }
            for part in disk.list(&directory, STAGED_MAX).unwrap_or_default() {
                match disk.stat_part(&directory, &part) {
                    Ok(stat) if stat.kind == FileKind::Directory => {
                        ahead.push(disk.open_part(&directory, &part, Want::Directory));
                    }
                    Ok(stat) => reserved.reserve(Inode::of(&stat)),
                    Err(_) => {}
                }
            }
        }
        Self { private: None, reserved, staged: HashMap::new(), torn_bytes: 0 }
    }

    fn read_write(disk: &D, root: &D::Handle) -> Result<Self, OpenError> {
        let step = |step| move |error| OpenError::Private { step, error };
        let directory = open_directory(disk, root, PRIVATE)?;
        let own_lock = open_lock(disk, &directory)?;
        let staging = open_directory(disk, &directory, STAGING)?;
        // Both have to survive, or what is promised in them does not.
        disk.sync(root).and_then(|()| disk.sync(&directory)).map_err(step("sync"))?;
        let mut staged = HashMap::new();
        for part in disk.list(&staging, STAGED_MAX).map_err(step("list staging"))? {
            let Ok(part) = String::from_utf8(part) else { continue };
            let stat =
                disk.stat_part(&staging, part.as_bytes()).map_err(step("look at staging"))?;
            staged.insert(part, Inode::of(&stat));
        }
        let default_mode = probe_mode(disk, &staging).map_err(step("write to staging"))?;
        let reserved = Arc::new(Reserved::default());
        for handle in [&directory, &staging] {
            reserved.reserve_directory(Inode::of(&disk.stat(handle).map_err(step("look"))?));
        }
        reserved.reserve(Inode::of(&disk.stat(&own_lock).map_err(step("look"))?));
        for inode in staged.values() {
            reserved.reserve(*inode);
        }
        let (journal, torn_bytes) =
            Journal::open(disk, &directory, &reserved).map_err(step("read the journal"))?;
        let journal = Mutex::new(journal);
        let private = Private { directory, staging, journal, _lock: own_lock, default_mode };
        Ok(Self { private: Some(private), reserved, staged, torn_bytes })
    }

    /// A number above that of every staged file.
    fn next_staged(&self) -> u64 {
        let numbers = self.staged.keys().filter_map(|part| u64::from_str_radix(part, 16).ok());
        numbers.max().map_or(0, |last| last.saturating_add(1))
    }
}

/// Opens a directory of the store's own, making it if it is not there.
fn open_directory<D: Disk>(
    disk: &D,
    parent: &D::Handle,
    part: &[u8],
) -> Result<D::Handle, OpenError> {
    let failed = |error| OpenError::Private { step: "make the staging directory", error };
    match disk.make_directory(parent, part, PRIVATE_MODE) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::EXIST) => {
            return Err(failed(error));
        }
        _ => {}
    }
    match disk.open_part(parent, part, Want::Directory) {
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

fn open_lock<D: Disk>(disk: &D, directory: &D::Handle) -> Result<D::Handle, OpenError> {
    let failed = |error| OpenError::Private { step: "take the lock", error };
    let opened = match disk.open_part(directory, LOCK, Want::File) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {
            disk.create(directory, LOCK, Mode::new(0o600))
        }
        result => result,
    };
    let file = opened.map_err(failed)?;
    match disk.lock(&file) {
        Ok(()) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(OpenError::Locked),
        Err(error) => Err(failed(error)),
    }
}

/// What the process's umask leaves of 0o666. Asking for the umask would change it for a moment,
/// for all threads; a new file tells without.
fn probe_mode<D: Disk>(disk: &D, staging: &D::Handle) -> io::Result<Mode> {
    const PROBE: &[u8] = b"probe";
    match disk.remove(staging, PROBE) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::NOENT) => return Err(error),
        _ => {}
    }
    let file = disk.create(staging, PROBE, Mode::new(0o666))?;
    let mode = disk.stat(&file)?.mode;
    disk.remove(staging, PROBE)?;
    Ok(mode)
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
        let step = |step| move |error| OpenError::Private { step, error };
        let image = lock(&private.journal).image().clone();
        let mut kept = Image::default();
        let boot_id = self.boot_id.as_ref();
        for committed in &image.complete {
            if !committed.survival.reaches(boot_id) {
                continue;
            }
            let is_staged = staged.get(&committed.staged) == Some(&committed.inode);
            if is_staged && self.take_name(private, committed).is_err() {
                // The condition does not hold any more, or something is in the way.
                continue;
            }
            recovery.finished = recovery.finished.saturating_add(usize::from(is_staged));
            self.reserved.release(committed.inode);
            self.transfers.completed(Arc::clone(committed));
            kept.complete.push_back(Arc::clone(committed));
        }
        // A crash between rename and sync leaves names that look right and are not durable.
        self.sync_names(private, &kept).map_err(step("sync the directories"))?;
        let mut live = HashSet::new();
        for (transfer, (begun, saved)) in image.partial {
            if staged.get(&begun.staged) != Some(&begun.inode) || !begun.survival.reaches(boot_id) {
                continue;
            }
            live.insert(begun.staged.clone());
            kept.partial.insert(transfer, (begun.clone(), saved.clone()));
            let kept = Kept::UpTo(saved);
            self.transfers.insert(transfer, Partial { begun, kept, epoch: 0, use_: Use::Idle });
            recovery.resumable = recovery.resumable.saturating_add(1);
        }
        lock(&private.journal)
            .renew(&private.directory, kept)
            .map_err(step("write the journal"))?;
        // After the journal: until it was written anew, it may need what is staged.
        for (part, inode) in staged.iter().filter(|(part, _)| !live.contains(*part)) {
            if self.disk.stat_part(&private.staging, part.as_bytes()).is_ok() {
                self.remove_staged(part, *inode);
                recovery.swept = recovery.swept.saturating_add(1);
            }
        }
        Ok(recovery)
    }

    /// Syncs the directories of complete files that still have their names.
    fn sync_names(&self, private: &Private<D>, image: &Image) -> io::Result<()> {
        let mut committing = lock(&self.committing);
        let mut seen = HashSet::new();
        for committed in &image.complete {
            if committed.durability == Durability::None {
                continue;
            }
            let parent = committed.name.parent();
            if !seen.insert(parent.clone()) {
                continue;
            }
            let directory = match &parent {
                Some(parent) => match self.disk.open_beneath(&self.root, parent, Want::Directory) {
                    Ok(directory) => directory,
                    // Gone since, and the file with it.
                    Err(_) => continue,
                },
                None => self.disk.open_parent(&private.directory)?,
            };
            committing.sync_up(&directory, self.root_inode)?;
        }
        Ok(())
    }
}
