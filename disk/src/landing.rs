//! Where a fetched file lands: a hidden part file beside its target, which takes the target's name
//! only when it is whole. Until then, and after any failure, the old file stays as it is.

use std::io;
use std::path::Path;
use std::sync::Arc;

use ftx_protocol::{Durability, FileTime, Mode};
use rustix::io::Errno;

use crate::identity::Inode;
use crate::log::write_all;
use crate::store::RESERVE_BYTES;
use crate::sys::{Disk, FileKind, Want};

/// A part file, open.
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
    /// `token` tells it from others; one with the same token, of a run that was killed, is replaced.
    ///
    /// # Errors
    /// When the directory cannot be opened or written to.
    pub fn create(disk: D, directory: &Path, token: u64) -> io::Result<Self> {
        let directory = disk.open_root(directory)?;
        Self::create_in(disk, directory, token)
    }

    /// The same in a directory that is open.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub fn create_in(disk: D, directory: D::Handle, token: u64) -> io::Result<Self> {
        let part = part_name(token);
        let create = || disk.create(&directory, part.as_bytes(), Mode::new(0o600));
        let file = match create() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                disk.remove(&directory, part.as_bytes())?;
                create()?
            }
            result => result?,
        };
        let inode = Inode::of(&disk.stat(&file)?);
        Ok(Self { disk, directory, file: Arc::new(file), part, inode, written: 0 })
    }

    /// Goes on with a part file of an earlier run. What is in it past `written` does not count,
    /// and goes.
    ///
    /// # Errors
    /// When it is not there any more, is another file, or is shorter than it should be.
    pub fn reopen(
        disk: D,
        directory: &Path,
        part: &str,
        inode: Inode,
        written: u64,
    ) -> io::Result<Self> {
        let directory = disk.open_root(directory)?;
        let file = disk.open_part(&directory, part.as_bytes(), Want::File)?;
        let stat = disk.stat(&file)?;
        // The device's number may be another one after a reboot.
        let same = stat.kind == FileKind::File && stat.inode == inode.number;
        if !same || stat.size < written {
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
    /// When the disk fails, or when the name is taken and must not be replaced; then the part file
    /// is gone, and the name holds what it held. Only if the last sync fails, of the directory,
    /// the file has its name already.
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

    /// Gives the landing up.
    pub fn discard(self) {
        self.remove();
    }

    fn remove(&self) {
        // A part file that stays is hidden, and costs room only.
        let _ = self.disk.remove(&self.directory, self.part.as_bytes());
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

fn part_name(token: u64) -> String {
    format!(".ftx-{token:016x}.part")
}

/// Whether a name can be that of a part file.
pub fn is_part_name(part: &str) -> bool {
    let token = part.strip_prefix(".ftx-").and_then(|rest| rest.strip_suffix(".part"));
    token.is_some_and(|token| {
        token.len() == 16 && token.bytes().all(|byte| byte.is_ascii_hexdigit())
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
