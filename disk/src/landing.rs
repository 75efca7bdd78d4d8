//! Where a fetched file lands: a hidden part file beside its target, which takes the target's name
//! only when it is whole. Until then, and after any failure, the old file stays as it is.
//!
//! A part file is locked for as long as somebody fills it: the name says which transfer it is of, and another
//! user, or a container, may have the same one on its way to the same place. Where a file system knows no
//! locks, each takes what it finds for its own; what has lost its name to another takes no name.

use std::io;
use std::path::Path;
use std::sync::Arc;

use ftx_protocol::{Durability, FileTime, Kind, Mode, Name};
use rustix::io::Errno;

use crate::identity::Inode;
use crate::log::write_all;
use crate::store::RESERVE_BYTES;
use crate::sys::{Disk, Want};

/// How often a part file is made under a name that others make and remove at the same time.
const CREATES_MAX: usize = 16;

/// A part file, open and locked.
pub struct Landing<D: Disk> {
    disk: D,
    directory: D::Handle,
    file: Arc<D::Handle>,
    part: String,
    inode: Inode,
    written: u64,
}

/// A gap in a part file, for bytes that somebody else writes, perhaps in another thread.
pub struct Gap<D: Disk> {
    disk: D,
    file: Arc<D::Handle>,
    at: u64,
}

/// Whether a landing may replace what has its target's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// It may.
    Yes,
    /// It must not: `AlreadyExists`.
    No,
}

impl<D: Disk> Landing<D> {
    /// Makes a new part file in a directory, by a name that is short whatever the target's is.
    /// `number` tells it from others; one with the same number, of a run that was killed, is replaced.
    ///
    /// # Errors
    /// When the directory cannot be opened or written to; `WouldBlock` when another process fills one
    /// with this number, or one is there that is not ours to open: then another number has to do.
    pub fn create(disk: D, directory: &Path, number: u64) -> io::Result<Self> {
        let directory = disk.open_root(directory)?;
        Self::create_in(disk, directory, number)
    }

    /// The same in a directory that is open.
    ///
    /// # Errors
    /// When it cannot be written to; `WouldBlock` as there.
    pub fn create_in(disk: D, directory: D::Handle, number: u64) -> io::Result<Self> {
        let part = part_name(number);
        for _ in 0..CREATES_MAX {
            let file = match disk.create(&directory, part.as_bytes(), Mode::new(0o600)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    remove_left_in(&disk, &directory, &part)?;
                    continue;
                }
                result => result?,
            };
            lock(&disk, &file)?;
            // Another process may have taken it for one that was left, before it was locked.
            if let Named::Yes = look(&disk, &directory, &part, &file)? {
                let inode = Inode::of(&disk.stat(&file)?);
                return Ok(Self { disk, directory, file: Arc::new(file), part, inode, written: 0 });
            }
        }
        Err(Errno::WOULDBLOCK.into())
    }

    /// Goes on with a part file of an earlier run. What is in it past `written` does not count,
    /// and goes.
    ///
    /// # Errors
    /// When it is not there any more, is another file, or is shorter than it should be; `WouldBlock` when
    /// another process fills it.
    pub fn reopen(
        disk: D,
        directory: &Path,
        part: &str,
        inode: Inode,
        written: u64,
    ) -> io::Result<Self> {
        let directory = disk.open_root(directory)?;
        let file = disk.open_part(&directory, part.as_bytes(), Want::File)?;
        lock(&disk, &file)?;
        let named = look(&disk, &directory, part, &file)?;
        let stat = disk.stat(&file)?;
        // The device's number may be another one after a reboot.
        let same = stat.kind == Kind::File && stat.inode == inode.number;
        if named == Named::No || !same || stat.size < written {
            return Err(Errno::STALE.into());
        }
        disk.truncate(&file, written)?;
        let file = Arc::new(file);
        Ok(Self { disk, directory, file, part: part.to_owned(), inode, written })
    }

    /// The part file's name in its directory.
    pub fn part(&self) -> &str {
        &self.part
    }

    /// The part file, for what a landing does not do, such as to give it to somebody.
    pub fn file(&self) -> &D::Handle {
        &self.file
    }

    /// Which file the part file is.
    pub fn inode(&self) -> Inode {
        self.inode
    }

    /// Bytes that are in it so far, or that have a gap in it.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Makes room for a file of this size, where the file system can and it is worth it.
    ///
    /// # Errors
    /// When there is not enough.
    pub fn reserve(&self, size: u64) -> io::Result<()> {
        if size < RESERVE_BYTES {
            return Ok(());
        }
        match self.disk.reserve(&self.file, size) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => Ok(()),
            result => result,
        }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When the disk refuses them.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        write_all(&self.disk, &self.file, bytes, self.written)?;
        self.written = self.written.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// A gap for the next `size` bytes. They count as written: who takes the gap says it when they could
    /// not be, before anybody relies on them.
    pub fn leave(&mut self, size: u64) -> Gap<D> {
        let gap = Gap { disk: self.disk.clone(), file: Arc::clone(&self.file), at: self.written };
        self.written = self.written.saturating_add(size);
        gap
    }

    /// Makes what is in it survive a power cut.
    ///
    /// # Errors
    /// When the disk fails; what is in it is worth nothing then.
    pub fn sync(&self) -> io::Result<()> {
        self.disk.sync(&self.file)
    }

    /// Gives the part file its permissions, its time and the name `target`; durably, unless that
    /// is given up by [`Durability::None`].
    ///
    /// # Errors
    /// When the disk fails, when the name is taken and must not be replaced, or when the part file has lost its
    /// own name to another; then the part file is gone, and the name holds what it held. Only if the last sync
    /// fails, of the directory, the file has its name already.
    pub fn publish(
        self,
        target: &[u8],
        mode: Mode,
        modified: FileTime,
        replace: Replace,
        durability: Durability,
    ) -> io::Result<()> {
        let sync = |handle: &D::Handle| match durability {
            Durability::None => Ok(()),
            Durability::Memory | Durability::Full => self.disk.sync(handle),
        };
        let named = self
            .disk
            .set_mode(&self.file, mode)
            .and_then(|()| self.disk.set_modified(&self.file, modified))
            .and_then(|()| sync(&self.file))
            .and_then(|()| self.check_part())
            .and_then(|()| match replace {
                Replace::Yes => {
                    self.disk.rename(&self.directory, self.part.as_bytes(), &self.directory, target)
                }
                Replace::No => self.take_free(target),
            });
        if named.is_err() || replace == Replace::No {
            self.remove();
        }
        named.and_then(|()| sync(&self.directory))
    }

    /// Takes a name that nothing has. A disk without hard links (FAT) can only rename, which some
    /// do in two steps.
    fn take_free(&self, target: &[u8]) -> io::Result<()> {
        let Self { disk, directory, part, .. } = self;
        match disk.link(directory, part.as_bytes(), target) {
            Err(error)
                if let Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) =
                    Errno::from_io_error(&error) =>
            {
                disk.rename_new(directory, part.as_bytes(), directory, target)
            }
            result => result,
        }
    }

    /// Makes sure that what is about to be named is what was filled. From here on the lock is a shared one:
    /// nobody can take the part file for one that was left, and who reads it under its new name can share it.
    fn check_part(&self) -> io::Result<()> {
        let Self { disk, directory, file, part, .. } = self;
        let named = match disk.lock_shared(file) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Named::No,
            _ => look(disk, directory, part, file)?,
        };
        match named {
            Named::Yes => Ok(()),
            Named::No => {
                let lost = "its part file was taken away by another process";
                Err(io::Error::new(io::ErrorKind::NotFound, lost))
            }
        }
    }

    /// Gives the landing up.
    pub fn discard(self) {
        self.remove();
    }

    fn remove(&self) {
        if let Ok(Named::Yes) = look(&self.disk, &self.directory, &self.part, &self.file) {
            // A part file that stays is hidden, and costs room only.
            let _ = self.disk.remove(&self.directory, self.part.as_bytes());
        }
    }
}

/// Removes a part file that an earlier run left.
///
/// # Errors
/// When it cannot be removed; `WouldBlock` when another process fills it, or it is not ours to open.
pub fn remove_left<D: Disk>(disk: &D, directory: &Path, part: &str) -> io::Result<()> {
    remove_left_in(disk, &disk.open_root(directory)?, part)
}

fn remove_left_in<D: Disk>(disk: &D, directory: &D::Handle, part: &str) -> io::Result<()> {
    let opened = disk.open_part(directory, part.as_bytes(), Want::File).or_else(|error| {
        match (Errno::from_io_error(&error), Name::parse(part.as_bytes())) {
            // One that was about to have its name has its mode: to read it is enough.
            (Some(Errno::ACCESS), Ok(name)) => disk.open_beneath(directory, &name, Want::File),
            _ => Err(error),
        }
    });
    let file = match opened {
        Ok(file) => Some(file),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => return Ok(()),
            Some(Errno::ACCESS | Errno::PERM) => return Err(Errno::WOULDBLOCK.into()),
            // A symlink or a socket: nobody fills it.
            Some(Errno::LOOP | Errno::NXIO) => None,
            _ => return Err(error),
        },
    };
    if let Some(file) = &file {
        lock(disk, file)?;
        if let Named::No = look(disk, directory, part, file)? {
            return Ok(());
        }
    }
    // It is locked until it is gone.
    match disk.remove(directory, part.as_bytes()) {
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => Ok(()),
            // Another user's, in a directory for all.
            Some(Errno::ACCESS | Errno::PERM) => Err(Errno::WOULDBLOCK.into()),
            _ => Err(error),
        },
        Ok(()) => Ok(()),
    }
}

/// Whether a part file's name leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Yes,
    No,
}

fn look<D: Disk>(
    disk: &D,
    directory: &D::Handle,
    part: &str,
    file: &D::Handle,
) -> io::Result<Named> {
    let there = match disk.stat_part(directory, part.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Named::No),
        there => Inode::of(&there?),
    };
    match there == Inode::of(&disk.stat(file)?) {
        true => Ok(Named::Yes),
        false => Ok(Named::No),
    }
}

/// Keeps other processes from a part file. `WouldBlock` when one has it.
fn lock<D: Disk>(disk: &D, file: &D::Handle) -> io::Result<()> {
    match disk.lock(file) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
        // Where a file system has no locks, files are got all the same.
        Ok(()) | Err(_) => Ok(()),
    }
}

impl<D: Disk> Gap<D> {
    /// Writes the bytes that the gap is for.
    ///
    /// # Errors
    /// When the disk refuses them.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        write_all(&self.disk, &self.file, bytes, self.at)
    }
}

fn part_name(number: u64) -> String {
    format!(".ftx-{number:016x}.part")
}

/// Whether a name can be that of a part file.
pub fn is_part_name(part: &str) -> bool {
    let number = part.strip_prefix(".ftx-").and_then(|rest| rest.strip_suffix(".part"));
    number.is_some_and(|number| {
        number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Fault, Sim};
    use crate::sys::Native;

    fn time() -> FileTime {
        FileTime::new(1_764_000_000, 5).unwrap()
    }

    #[test]
    fn a_landing_takes_its_name_whole_and_leaves_the_old_file_until_then() {
        let dir = tempfile::tempdir().unwrap();
        let target = "t".repeat(255);
        std::fs::write(dir.path().join(&target), "old").unwrap();
        let mut landing = Landing::create(Native, dir.path(), 7).unwrap();
        landing.write(b"new").unwrap();
        assert_eq!(std::fs::read(dir.path().join(&target)).unwrap(), b"old");
        landing
            .publish(target.as_bytes(), Mode::new(0o4640), time(), Replace::Yes, Durability::Full)
            .unwrap();
        assert_eq!(std::fs::read(dir.path().join(&target)).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let metadata = std::fs::metadata(dir.path().join(&target)).unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&metadata) & 0o7777, 0o640);
        assert_eq!(std::os::unix::fs::MetadataExt::mtime_nsec(&metadata), 5);
    }

    #[test]
    fn a_landing_that_must_not_replace_leaves_both_the_old_file_and_no_part() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "old").unwrap();
        let landing = Landing::create(Native, dir.path(), 7).unwrap();
        let error = landing
            .publish(b"a", Mode::new(0o644), time(), Replace::No, Durability::Full)
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_landing_that_must_not_replace_needs_no_hard_links() {
        let publish = |target: &[u8], fault| {
            let sim = Sim::new();
            let mut landing = Landing::create(sim.clone(), Path::new("/"), 6).unwrap();
            landing.write(b"old").unwrap();
            let publish = |landing: Landing<Sim>, target| {
                landing.publish(target, Mode::new(0o644), time(), Replace::No, Durability::Full)
            };
            publish(landing, b"a").unwrap();
            let mut landing = Landing::create(sim.clone(), Path::new("/"), 7).unwrap();
            landing.write(b"new").unwrap();
            sim.set_fault(fault);
            (publish(landing, target), sim)
        };
        let (_, sim) = publish(b"b", Fault::None);
        let link = sim.log().iter().position(|call| call.contains(" link ")).unwrap();
        let fault = Fault::Once(link as u64, Errno::PERM);
        for (target, is_free) in [(b"b", true), (b"a", false)] {
            let (published, sim) = publish(target, fault);
            assert_eq!(published.is_ok(), is_free, "{published:?}");
            assert_eq!(sim.content("a").as_deref(), Some(&b"old"[..]));
            assert_eq!(sim.content("b").is_some(), is_free);
            assert_eq!(sim.tree().len(), 1 + usize::from(is_free), "no part stays");
        }
    }

    #[test]
    fn a_landing_goes_on_from_where_it_is_told_to_and_forgets_what_came_after() {
        let dir = tempfile::tempdir().unwrap();
        let mut landing = Landing::create(Native, dir.path(), 7).unwrap();
        landing.write(b"hello").unwrap();
        let written = landing.written();
        landing.write(b" torn").unwrap();
        let (part, inode) = (landing.part().to_owned(), landing.inode());
        assert!(is_part_name(&part));
        drop(landing);
        let other = Inode { number: inode.number ^ 1, ..inode };
        assert!(Landing::reopen(Native, dir.path(), &part, other, written).is_err());
        let mut landing = Landing::reopen(Native, dir.path(), &part, inode, written).unwrap();
        landing.write(b" world").unwrap();
        landing.publish(b"a", Mode::new(0o600), time(), Replace::No, Durability::Full).unwrap();
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"hello world");
    }

    /// Two that have the same number, and the same directory, in processes that know nothing of each other.
    #[test]
    fn a_part_file_that_another_fills_is_neither_replaced_nor_gone_on_with_nor_removed() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Landing::create(Native, dir.path(), 7).unwrap();
        first.write(b"first").unwrap();
        let (part, inode) = (first.part().to_owned(), first.inode());
        let is_taken = |result: io::Result<()>| {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        };
        is_taken(Landing::create(Native, dir.path(), 7).map(drop));
        is_taken(Landing::reopen(Native, dir.path(), &part, inode, 2).map(drop));
        is_taken(remove_left(&Native, dir.path(), &part));
        Landing::create(Native, dir.path(), 8).unwrap().discard();
        first.publish(b"a", Mode::new(0o600), time(), Replace::Yes, Durability::Full).unwrap();
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"first");
        drop(Landing::create(Native, dir.path(), 7).unwrap());
        let mut next = Landing::create(Native, dir.path(), 7).unwrap();
        next.write(b"one that was left is replaced").unwrap();
        drop(next);
        remove_left(&Native, dir.path(), &part).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// Where there are no locks, the last look finds out what another has done.
    #[test]
    fn a_landing_that_has_lost_its_part_file_names_nothing_and_leaves_that_of_the_other() {
        for replace in [Replace::Yes, Replace::No] {
            let sim = Sim::new();
            let landing = |bytes: &[u8]| {
                let mut landing = Landing::create(sim.clone(), Path::new("/"), 7).unwrap();
                landing.write(bytes).unwrap();
                landing
            };
            let lost = landing(b"whole");
            sim.remove(&sim.open_root(Path::new("/")).unwrap(), lost.part().as_bytes()).unwrap();
            let other = landing(b"ha");
            let part = other.part().to_owned();
            let publish = |landing: Landing<Sim>| {
                landing.publish(b"a", Mode::new(0o644), time(), replace, Durability::Full)
            };
            publish(lost).unwrap_err();
            assert_eq!(sim.tree().keys().collect::<Vec<_>>(), [&part]);
            publish(other).unwrap();
            assert_eq!(sim.content("a").as_deref(), Some(&b"ha"[..]));
        }
    }

    #[test]
    fn a_landing_needs_no_locks() {
        let run = |fault| {
            let sim = Sim::new();
            let create = || Landing::create(sim.clone(), Path::new("/"), 7).unwrap();
            drop(create());
            sim.set_fault(fault);
            let landing = create();
            let (part, inode) = (landing.part().to_owned(), landing.inode());
            drop(landing);
            let landing = Landing::reopen(sim.clone(), Path::new("/"), &part, inode, 0).unwrap();
            landing
                .publish(b"a", Mode::new(0o644), time(), Replace::Yes, Durability::Full)
                .unwrap();
            assert_eq!(sim.tree().keys().collect::<Vec<_>>(), ["a"]);
            sim.log()
        };
        let calls = run(Fault::None);
        let locks = calls.iter().enumerate().filter(|(_, call)| call.contains(" lock"));
        let places: Vec<_> = locks.map(|(place, _)| place as u64).collect();
        assert_eq!(places.len(), 4, "what was left, the new one, that one again, before its name");
        places.into_iter().for_each(|place| drop(run(Fault::Once(place, Errno::NOLCK))));
    }

    /// Its mode is that of what it was to be, given before the last sync.
    #[test]
    fn a_part_file_that_was_left_and_may_not_be_written_to_is_replaced() {
        let sim = Sim::new();
        let left = Landing::create(sim.clone(), Path::new("/"), 7).unwrap();
        sim.set_mode(left.file(), Mode::new(0o444)).unwrap();
        drop(left);
        let landing = Landing::create(sim.clone(), Path::new("/"), 7).unwrap();
        landing.publish(b"a", Mode::new(0o444), time(), Replace::No, Durability::Full).unwrap();
        assert_eq!(sim.tree().keys().collect::<Vec<_>>(), ["a"]);
    }

    /// Between its making and its locking.
    #[test]
    fn a_part_file_that_was_taken_for_one_that_was_left_is_made_again() {
        let sim = Sim::new();
        sim.before("lock ", |sim| {
            let root = sim.open_root(Path::new("/")).unwrap();
            sim.remove(&root, part_name(7).as_bytes()).unwrap();
        });
        let mut landing = Landing::create(sim.clone(), Path::new("/"), 7).unwrap();
        landing.write(b"whole").unwrap();
        landing.publish(b"a", Mode::new(0o644), time(), Replace::No, Durability::Full).unwrap();
        assert_eq!(sim.content("a").as_deref(), Some(&b"whole"[..]));
    }

    #[test]
    fn a_landing_is_synced_before_and_after_it_takes_its_name_unless_that_is_given_up() {
        let publish = |durability| {
            let sim = Sim::new();
            let mut landing = Landing::create(sim.clone(), Path::new("/"), 7).unwrap();
            landing.write(b"new").unwrap();
            landing.publish(b"a", Mode::new(0o644), time(), Replace::Yes, durability).unwrap();
            assert_eq!(sim.content("a").as_deref(), Some(&b"new"[..]));
            let steps = ["sync", "rename"];
            let is_step =
                |call: &String| call.split(' ').nth(1).is_some_and(|what| steps.contains(&what));
            sim.log().into_iter().filter(is_step).count()
        };
        assert_eq!(publish(Durability::Full), 3, "file, name, directory");
        assert_eq!(publish(Durability::None), 1, "the name");
    }
}
