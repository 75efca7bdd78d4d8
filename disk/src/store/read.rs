//! Looking at files and reading them.

use std::time::SystemTime;

use ftx_protocol::{Code, FileTime, Kind, Mode, Name, Refusal, Version};
use rustix::io::Errno;

use super::private::PRIVATE;
use super::scope::check_reach;
use super::{Info, Store};
use crate::digests::Seen;
use crate::failure::{Cause, refusal};
use crate::identity::{Identity, Inode};
use crate::sys::{Disk, Stat, Want};

/// A regular file, open for reading, and what it was when it was opened.
pub struct Reading<D: Disk> {
    disk: D,
    handle: D::Handle,
    stat: Stat,
    /// When it was looked what it is.
    seen_at: SystemTime,
}

/// Whether a file is still what it was when it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unchanged {
    /// It is.
    Same,
    /// This is what it is now, and only its time of change tells: it has another name or mode, or somebody wrote to
    /// it and set its time of modification back. Whoever has to know reads it again.
    Touched(Identity),
    /// Somebody wrote to it.
    Changed,
}

impl<D: Disk> Store<D> {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// When the name leads to nothing, to something that is no regular file, out of the root or of
    /// the scope `within`, or to the store's own files; or the system refuses.
    pub fn open_file(&self, name: &Name, within: Option<&Name>) -> Result<Reading<D>, Refusal> {
        // Before the look: what is written after it must not pass for older.
        let seen_at = SystemTime::now();
        let (handle, stat) = self.look_up(name, within)?;
        match stat.kind {
            Kind::File => Ok(Reading { disk: self.disk.clone(), handle, stat, seen_at }),
            Kind::Directory => Err(Code::IsDirectory.into()),
            Kind::Symlink | Kind::Special => Err(Code::NotAFile.into()),
        }
    }

    /// Says what a name stands for.
    ///
    /// # Errors
    /// As for [`Store::open_file`], but for directories.
    pub fn stat(&self, name: &Name, within: Option<&Name>) -> Result<Info, Refusal> {
        let (_, stat) = self.look_up(name, within)?;
        let (size, version) = match stat.kind {
            Kind::File => (stat.size, Some(Identity::of(&stat).version())),
            Kind::Directory => (0, None),
            Kind::Symlink | Kind::Special => return Err(Code::NotAFile.into()),
        };
        Ok(Info { kind: stat.kind, size, modified: stat.modified, mode: stat.mode, version })
    }

    fn look_up(&self, name: &Name, within: Option<&Name>) -> Result<(D::Handle, Stat), Refusal> {
        check_reach(within, name)?;
        let failed = |error: &std::io::Error| match Errno::from_io_error(error) {
            // No file system has such a name, so nothing has it.
            Some(Errno::NAMETOOLONG | Errno::ILSEQ) => Code::NotFound.into(),
            _ => refusal(Cause::Name, "looking up the name", error),
        };
        let opened = self.look(within, name, Want::File);
        let handle = opened.map_err(|error| self.not_opened(name, within, failed(&error)))?;
        let stat = self.disk.stat(&handle).map_err(|error| failed(&error))?;
        self.reserved.check(&stat)?;
        if self.must_look_at_the_way() {
            self.check_foreign(name, within, &stat)?;
        }
        Ok((handle, stat))
    }

    /// A store that only reads does not know what another one, which writes, has of its own at this
    /// moment: it looks at the way to what it found.
    fn check_foreign(
        &self,
        name: &Name,
        within: Option<&Name>,
        stat: &Stat,
    ) -> Result<(), Refusal> {
        let directory = match (stat.kind, name.parent()) {
            (Kind::Directory, _) => name.clone(),
            (_, Some(parent)) => parent,
            (_, None) => return Ok(()),
        };
        let directory = self
            .look(within, &directory, Want::Way)
            .map_err(|error| refusal(Cause::Name, "looking up the directory", &error))?;
        self.check_not_private(&directory)
    }

    /// Refuses a directory that peers do not see.
    pub(super) fn check_visible(&self, directory: &D::Handle, stat: &Stat) -> Result<(), Refusal> {
        self.reserved.check(stat)?;
        if self.must_look_at_the_way() { self.check_not_private(directory) } else { Ok(()) }
    }

    /// Whether there are files of the store's own that are not known one by one: those of another
    /// store that writes, or those of removed trees.
    fn must_look_at_the_way(&self) -> bool {
        self.private.as_ref().is_none_or(|private| private.trash.is_used())
    }

    /// Why a name could not be opened. If the way to it leads into the store's own directory, that is why: what
    /// is there, and what is not, is for nobody to know.
    pub(super) fn not_opened(
        &self,
        name: &Name,
        within: Option<&Name>,
        otherwise: Refusal,
    ) -> Refusal {
        let mut way = Some(name.clone());
        while let Some(name) = way {
            if let Ok(handle) = self.look(within, &name, Want::File) {
                return self.check_private(&handle).err().unwrap_or(otherwise);
            }
            way = name.parent();
        }
        otherwise
    }

    /// Refuses what is the store's own.
    fn check_private(&self, handle: &D::Handle) -> Result<(), Refusal> {
        let stat = self
            .disk
            .stat(handle)
            .map_err(|error| refusal(Cause::Name, "looking up the name", &error))?;
        self.reserved.check(&stat)?;
        match stat.kind {
            Kind::Directory => self.check_not_private(handle),
            Kind::File | Kind::Symlink | Kind::Special => Ok(()),
        }
    }

    /// Refuses a directory that is the store's own, or is in it.
    fn check_not_private(&self, directory: &D::Handle) -> Result<(), Refusal> {
        let failed =
            |error: std::io::Error| refusal(Cause::Name, "looking up the directory", &error);
        let Ok(private) = self.disk.stat_part(&self.root, PRIVATE) else { return Ok(()) };
        let mut above: Option<D::Handle> = None;
        let mut inode = Inode::of(&self.disk.stat(directory).map_err(failed)?);
        while inode != self.root_inode {
            if inode == Inode::of(&private) {
                return Err(Code::ReservedName.into());
            }
            let here = above.as_ref().unwrap_or(directory);
            let parent = self.disk.open_parent(here, Want::Way).map_err(failed)?;
            let parent_inode = Inode::of(&self.disk.stat(&parent).map_err(failed)?);
            if parent_inode == inode {
                // The top of the file system: it was moved out of the root meanwhile.
                return Err(Code::OutsideRoot.into());
            }
            inode = parent_inode;
            above = Some(parent);
        }
        Ok(())
    }
}

impl<D: Disk> Reading<D> {
    /// What it is: the key to its digest.
    pub fn identity(&self) -> Identity {
        Identity::of(&self.stat)
    }

    /// What it was when it was opened, for the cache of digests.
    pub fn seen(&self) -> Seen {
        Seen::new(self.identity(), self.seen_at)
    }

    /// The opaque word for what it holds.
    pub fn version(&self) -> Version {
        self.identity().version()
    }

    /// Bytes, when it was opened.
    pub fn size(&self) -> u64 {
        self.stat.size
    }

    /// Last modification.
    pub fn modified(&self) -> FileTime {
        self.stat.modified
    }

    /// Permissions.
    pub fn mode(&self) -> Mode {
        self.stat.mode
    }

    /// The open file, for the one call that moves its bytes to a socket inside the kernel.
    pub fn handle(&self) -> &D::Handle {
        &self.handle
    }

    /// Reads bytes at an offset; 0 is the end of the file.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize, Refusal> {
        self.disk
            .read_at(&self.handle, buffer, at)
            .map_err(|error| refusal(Cause::Store, "reading the file", &error))
    }

    /// Looks whether it was written to since it was opened.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn unchanged(&self) -> Result<Unchanged, Refusal> {
        let now = self
            .disk
            .stat(&self.handle)
            .map_err(|error| refusal(Cause::Store, "looking at the file", &error))?;
        let (then, now) = (Identity::of(&self.stat), Identity::of(&now));
        Ok(if now == then {
            Unchanged::Same
        } else if now == (Identity { changed: now.changed, ..then }) {
            Unchanged::Touched(now)
        } else {
            Unchanged::Changed
        })
    }
}
