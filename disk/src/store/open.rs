//! Opening a store: it takes possession of its directory, and then settles what an earlier one left.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use ftx_protocol::{Kind, Mode};
use rustix::io::Errno;

use super::committing::Committing;
use super::journal::Journal;
use super::private::{LOCK, Nameless, PRIVATE, Private, STAGING, TRASH};
use super::room::Room;
use super::transfers::Transfers;
use super::trash::Trash;
use super::{Access, KeptOut, OpenError, Options, Recovery, Store, best};
use crate::digests::DigestCache;
use crate::identity::Inode;
use crate::reserved::Reserved;
use crate::syncs::Syncs;
use crate::sys::{Disk, Stat, Want};

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
        committing: Mutex::new(Committing::new(disk.clone(), root_inode)),
        transfers: Transfers::default(),
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
                Kind::Directory => {
                    let further = disk.open_part(&directory, &part, Want::Directory);
                    reserve_all(disk, further, &reserved);
                }
                Kind::File | Kind::Symlink | Kind::Special => {
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
                Ok(stat) if stat.kind == Kind::Directory => {
                    ahead.push(disk.open_part(&directory, &part, Want::Directory));
                }
                Ok(stat) => reserved.reserve(Inode::of(&stat)),
                Err(_) => {}
            }
        }
    }
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
