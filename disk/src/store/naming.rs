//! How a file that is whole gets its name: the directory that it goes to, resolved or made from the
//! root, and the rename; and what stands against it. Nothing here syncs or acknowledges anything.

use std::collections::HashMap;
use std::sync::Arc;

use ftx_protocol::{Code, Condition, Kind, Mode, Name, Refusal};
use rustix::io::Errno;

use super::Store;
use super::committing::Committing;
use super::private::Private;
use super::record::Committed;
use crate::failure::{Cause, refusal};
use crate::identity::{Identity, Inode};
use crate::sys::{Disk, Stat, Want};

/// Permissions of directories that a put makes; the process's umask applies.
pub(super) const DIRECTORY_MODE: Mode = Mode::new(0o777);

/// For the log and the peer.
const NAMING: &str = "giving the file its name";

/// The directories that a round has to do with.
pub(super) struct Ground<D: Disk> {
    /// Those that it has changed.
    pub(super) changed: HashMap<Inode, Arc<D::Handle>>,
    /// What those directories are in from which no `..` may lead up.
    pub(super) above: Above<D>,
    /// That of the last put, resolved from the root and checked in this round: files come in the
    /// order of their directories. Given up when a name is changed.
    pub(super) last: Option<Known<D>>,
}

/// Directories by what is in them.
pub(super) type Above<D> = HashMap<Inode, Arc<<D as Disk>::Handle>>;

pub(super) struct Known<D: Disk> {
    name: Name,
    within: Option<Name>,
    handle: Arc<D::Handle>,
    inode: Inode,
}

/// What leads to a file that is to take its name.
#[derive(Debug)]
pub(super) enum Origin<'a, D: Disk> {
    /// Its entry in staging.
    Staging,
    /// Nothing but this.
    Handle(&'a D::Handle),
}

/// Where a directory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resolved {
    Now,
    /// Earlier in the round: it may have been removed or replaced since.
    Before,
}

impl<D: Disk> Default for Ground<D> {
    fn default() -> Self {
        Self { changed: HashMap::new(), above: HashMap::new(), last: None }
    }
}

impl<D: Disk> Store<D> {
    /// Renames a staged file to its name, making the directories above it. Returns its directory.
    pub(super) fn take_name(
        &self,
        private: &Private<D>,
        mut origin: Origin<'_, D>,
        committed: &Committed,
        committing: &mut Committing<D>,
        ground: &mut Ground<D>,
    ) -> Result<(Arc<D::Handle>, Inode), Refusal> {
        let (directory, inode, resolved) = self.directory_of(committed, committing, ground)?;
        // Before the rename: the name is seen by others before the call returns.
        self.reserved.release(committed.inode);
        let Err(refusal) = self.place_file(private, &mut origin, committed, &directory) else {
            ground.changed.entry(inode).or_insert_with(|| Arc::clone(&directory));
            return Ok((directory, inode));
        };
        self.reserved.reserve(committed.inode);
        match resolved {
            // It is judged by the directory that has the name now.
            Resolved::Before if is_of_names(refusal.code) => {
                ground.last = None;
                self.take_name(private, origin, committed, committing, ground)
            }
            Resolved::Before | Resolved::Now => Err(refusal),
        }
    }

    /// Puts the file under its name in a directory.
    fn place_file(
        &self,
        private: &Private<D>,
        origin: &mut Origin<'_, D>,
        committed: &Committed,
        directory: &D::Handle,
    ) -> Result<(), Refusal> {
        let part = committed.name.last_part();
        // Most names are new: then there is nothing to look at.
        if check_absent(&committed.condition).is_ok() {
            match self.place_new_file(private, origin, committed, directory) {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::EXIST) => {}
                result => return result.map_err(not_named),
            }
        }
        self.check_taking(directory, part, &committed.condition)?;
        match committed.condition {
            // What has come since stays, whoever made it.
            Condition::Absent => {
                let placed = self.place_new_file(private, origin, committed, directory);
                placed.map_err(|error| match Errno::from_io_error(&error) {
                    Some(Errno::EXIST) => Code::Exists.into(),
                    _ => not_named(error),
                })
            }
            Condition::Always | Condition::Version(_) => {
                let staged = committed.staged.as_bytes();
                if let Origin::Handle(file) = origin {
                    // Only a rename replaces, and it needs a name to begin with.
                    let linked = self.disk.link_nameless(file, &private.staging, staged);
                    linked.map_err(not_named)?;
                    *origin = Origin::Staging;
                }
                self.disk.rename(&private.staging, staged, directory, part).map_err(not_named)
            }
        }
    }

    /// As [`Store::place_file`], where nothing has the name (`EEXIST`).
    fn place_new_file(
        &self,
        private: &Private<D>,
        origin: &Origin<'_, D>,
        committed: &Committed,
        directory: &D::Handle,
    ) -> std::io::Result<()> {
        let (staged, part) = (committed.staged.as_bytes(), committed.name.last_part());
        match origin {
            Origin::Staging => self.disk.rename_new(&private.staging, staged, directory, part),
            Origin::Handle(file) => self.disk.link_nameless(file, directory, part),
        }
    }

    /// The directory that a file goes to, resolved and checked once in a round for all that follow
    /// one another into it.
    fn directory_of(
        &self,
        committed: &Committed,
        committing: &mut Committing<D>,
        ground: &mut Ground<D>,
    ) -> Result<(Arc<D::Handle>, Inode, Resolved), Refusal> {
        let Some(parent) = committed.name.parent_bytes() else {
            let inode = Inode::of(&self.check_directory(&self.root)?);
            return Ok((Arc::clone(&self.root), inode, Resolved::Now));
        };
        if let Some(last) = &ground.last
            && last.name.as_bytes() == parent
            && last.within == committed.within
        {
            return Ok((Arc::clone(&last.handle), last.inode, Resolved::Before));
        }
        ground.last = None;
        let Some(name) = committed.name.parent() else { return Err(Code::BadName.into()) };
        let within = committed.within.clone();
        let condition = &committed.condition;
        let made = self.make_directories(within.as_ref(), &name, condition, committing);
        let handle = Arc::new(made?);
        let inode = Inode::of(&self.check_directory(&handle)?);
        ground.last = Some(Known { name, within, handle: Arc::clone(&handle), inode });
        Ok((handle, inode, Resolved::Now))
    }

    /// Opens the directory, making what is missing of it, one after another from the root: the
    /// scope, too, if it is not there yet. Nothing is made for what is to be in it, if the condition wants
    /// that to be there.
    pub(super) fn make_directories(
        &self,
        within: Option<&Name>,
        name: &Name,
        condition: &Condition,
        committing: &mut Committing<D>,
    ) -> Result<D::Handle, Refusal> {
        let failed = |error: &std::io::Error| refusal(Cause::Naming, "making the directory", error);
        let open = || self.look(within, name, Want::Directory);
        match open() {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {
                check_absent(condition)?;
            }
            result => {
                return result.map_err(|error| self.not_opened(name, within, failed(&error)));
            }
        }
        let part = name.last_part();
        let made = match name.parent() {
            Some(parent) => {
                let parent = self.make_directories(within, &parent, condition, committing)?;
                self.check_directory(&parent)?;
                self.disk.make_directory(&parent, part, DIRECTORY_MODE)
            }
            None => self.disk.make_directory(&self.root, part, DIRECTORY_MODE),
        };
        match made {
            Err(error) if Errno::from_io_error(&error) != Some(Errno::EXIST) => {
                return Err(failed(&error));
            }
            _ => {}
        }
        let directory = open().map_err(|error| {
            // It is there, and may have the inode of one that was synced.
            committing.forget_all();
            failed(&error)
        })?;
        committing.made(&directory);
        Ok(directory)
    }

    /// Refuses a directory that nothing may be put in.
    pub(super) fn check_directory(&self, directory: &D::Handle) -> Result<Stat, Refusal> {
        let stat = self
            .disk
            .stat(directory)
            .map_err(|error| refusal(Cause::Name, "looking up the directory", &error))?;
        self.check_visible(directory, &stat)?;
        if stat.device != self.root_inode.device {
            return Err(Code::OtherFilesystem.into());
        }
        Ok(stat)
    }

    /// Refuses to take a name from what has it, or that the condition does not allow.
    pub(super) fn check_taking(
        &self,
        directory: &D::Handle,
        part: &[u8],
        condition: &Condition,
    ) -> Result<(), Refusal> {
        let found = match self.disk.stat_part(directory, part) {
            Ok(found) => found,
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {
                return check_absent(condition);
            }
            Err(error) => return Err(refusal(Cause::Naming, "looking up the name", &error)),
        };
        self.reserved.check(&found)?;
        match (found.kind, condition) {
            (Kind::Directory, _) => Err(Code::IsDirectory.into()),
            (Kind::Special, _) => Err(Code::NotAFile.into()),
            (_, Condition::Absent) => Err(Code::Exists.into()),
            (_, Condition::Version(version)) if Identity::of(&found).version() != *version => {
                Err(Code::VersionMismatch.into())
            }
            (_, Condition::Always | Condition::Version(_)) => Ok(()),
        }
    }
}

/// Refuses a name that nothing has, if the condition is about what has it.
pub(super) fn check_absent(condition: &Condition) -> Result<(), Refusal> {
    match condition {
        Condition::Always | Condition::Absent => Ok(()),
        Condition::Version(_) => Err(Refusal::new(Code::VersionMismatch, "nothing has this name")),
    }
}

fn not_named(error: std::io::Error) -> Refusal {
    refusal(Cause::Naming, NAMING, &error)
}

/// Whether a refusal follows from what names stand for now, and not from the disk.
fn is_of_names(code: Code) -> bool {
    matches!(
        code,
        Code::NotFound
            | Code::NotADirectory
            | Code::IsDirectory
            | Code::NotAFile
            | Code::Exists
            | Code::VersionMismatch
            | Code::OutsideRoot
            | Code::OtherFilesystem
    )
}
