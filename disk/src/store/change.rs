//! Changes of names that bring no bytes: making a directory, moving, removing.
//!
//! They are made in the committer's rounds, under the same lock as the names of puts, and are
//! answered when the directories that they changed are synced. None needs the journal: each is one
//! step on the disk (a mkdir, a rename), which a crash leaves made or not made, and until the
//! answer either is right.

use std::sync::Arc;

use ftx_protocol::{Code, Condition, Depth, Durability, FileTime, Mode, Name, Parents, Refusal};
use rustix::io::Errno;

use super::Store;
use super::begin::check_absent;
use super::commit::{Committing, DIRECTORY_MODE};
use super::private::{Private, check_spelling};
use crate::failure::{Cause, refusal};
use crate::identity::{Identity, Inode};
use crate::sys::{Disk, FileKind, Stat, Want};

/// A change of names.
#[derive(Debug, Clone)]
pub enum Change {
    /// Makes a directory. One that is there already stays as it is, but for its time and mode.
    MakeDirectory {
        /// Its name.
        name: Name,
        /// What becomes of missing directories above it.
        parents: Parents,
        /// Whether it may be there already.
        condition: Condition,
        /// Last modification to give it.
        modified: Option<FileTime>,
        /// Permissions to give it.
        mode: Option<Mode>,
        /// What the answer has to mean.
        durability: Durability,
    },
    /// Gives a file, directory or symlink another name.
    Move {
        /// The old one.
        name: Name,
        /// The new one.
        to: Name,
        /// When the new one may be taken.
        condition: Condition,
        /// What the answer has to mean.
        durability: Durability,
    },
    /// Removes a name, and with [`Depth::All`] everything below it.
    Remove {
        /// The name.
        name: Name,
        /// Whether a directory may have something in it.
        depth: Depth,
        /// What the answer has to mean.
        durability: Durability,
    },
}

/// A change that was made: the directories to be synced before it is answered.
pub(super) struct Changed<D: Disk> {
    pub(super) directories: Vec<(Inode, Arc<D::Handle>)>,
    pub(super) durability: Durability,
}

/// Where a name is: its directory, open, and what is there.
struct Place<D: Disk> {
    directory: Arc<D::Handle>,
    inode: Inode,
    found: Option<Stat>,
}

impl Change {
    fn durability(&self) -> Durability {
        match self {
            Self::MakeDirectory { durability, .. }
            | Self::Move { durability, .. }
            | Self::Remove { durability, .. } => *durability,
        }
    }
}

impl<D: Disk> Store<D> {
    /// Makes a change; what it needs to last is left to the end of the round.
    pub(super) fn change(
        &self,
        private: &Private<D>,
        change: &Change,
        committing: &mut Committing<D>,
    ) -> Result<Changed<D>, Refusal> {
        let durability = self.given(change.durability())?;
        let directories = match change {
            Change::MakeDirectory { name, parents, condition, modified, mode, .. } => {
                check_spelling(name)?;
                let directory = match parents {
                    Parents::Make => self.parent_made(name, committing)?,
                    Parents::Require => self.parent(name)?,
                };
                let made = self.make_one(&directory, name, condition, committing)?;
                self.give_times(&made, *modified, *mode)?;
                vec![made]
            }
            Change::Move { name, to, condition, .. } => {
                self.move_one(name, to, condition, durability, committing)?
            }
            Change::Remove { name, depth, .. } => {
                self.remove_one(private, name, *depth, committing)?
            }
        };
        let with_inode = |handle: Arc<D::Handle>| {
            let stat = self.disk.stat(&handle).map_err(|error| looking(&error))?;
            Ok((Inode::of(&stat), handle))
        };
        let directories =
            directories.into_iter().map(with_inode).collect::<Result<Vec<_>, Refusal>>()?;
        Ok(Changed { directories, durability })
    }

    /// The directory above a name, which has to be there.
    fn parent(&self, name: &Name) -> Result<Arc<D::Handle>, Refusal> {
        match name.parent() {
            Some(parent) => {
                let opened = self.disk.open_beneath(&self.root, &parent, Want::Directory);
                Ok(Arc::new(opened.map_err(|error| looking(&error))?))
            }
            None => Ok(Arc::clone(&self.root)),
        }
    }

    fn parent_made(
        &self,
        name: &Name,
        committing: &mut Committing<D>,
    ) -> Result<Arc<D::Handle>, Refusal> {
        match name.parent() {
            Some(parent) => Ok(Arc::new(self.make_directories(&parent, committing)?)),
            None => Ok(Arc::clone(&self.root)),
        }
    }

    fn make_one(
        &self,
        parent: &D::Handle,
        name: &Name,
        condition: &Condition,
        committing: &mut Committing<D>,
    ) -> Result<Arc<D::Handle>, Refusal> {
        let failed = |error: &std::io::Error| refusal(Cause::Naming, "making the directory", error);
        if let Condition::Version(_) = condition {
            return Err(Refusal::new(Code::VersionMismatch, "a directory has no version"));
        }
        self.check_directory(parent)?;
        let part = name.last_part();
        let made = self.disk.make_directory(parent, part, DIRECTORY_MODE);
        match &made {
            Err(error) if Errno::from_io_error(error) == Some(Errno::EXIST) => {
                let found = self.disk.stat_part(parent, part).map_err(|error| failed(&error))?;
                match (condition, found.kind) {
                    (Condition::Absent, _) => return Err(Code::Exists.into()),
                    (_, FileKind::Directory) => {}
                    (_, _) => return Err(Code::NotADirectory.into()),
                }
            }
            Err(error) => return Err(failed(error)),
            Ok(()) => {}
        }
        let directory =
            self.disk.open_part(parent, part, Want::Directory).map_err(|error| failed(&error))?;
        self.check_directory(&directory)?;
        if made.is_ok() {
            committing.made(&directory);
        }
        Ok(Arc::new(directory))
    }

    fn give_times(
        &self,
        directory: &D::Handle,
        modified: Option<FileTime>,
        mode: Option<Mode>,
    ) -> Result<(), Refusal> {
        let failed =
            |error| refusal(Cause::Naming, "giving the directory its time and mode", &error);
        if let Some(mode) = mode {
            self.disk.set_mode(directory, mode).map_err(failed)?;
        }
        if let Some(modified) = modified {
            self.disk.set_modified(directory, modified).map_err(failed)?;
        }
        Ok(())
    }

    fn place(&self, name: &Name) -> Result<Place<D>, Refusal> {
        check_spelling(name)?;
        let directory = self.parent(name)?;
        let inode = Inode::of(&self.check_directory(&directory)?);
        let found = match self.disk.stat_part(&directory, name.last_part()) {
            Ok(found) => Some(found),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => None,
            Err(error) => return Err(looking(&error)),
        };
        if let Some(found) = &found {
            self.reserved.check(found)?;
            if found.device != self.root_inode.device {
                return Err(Code::OtherFilesystem.into());
            }
        }
        Ok(Place { directory, inode, found })
    }

    fn move_one(
        &self,
        name: &Name,
        to: &Name,
        condition: &Condition,
        durability: Durability,
        committing: &mut Committing<D>,
    ) -> Result<Vec<Arc<D::Handle>>, Refusal> {
        if to != name && to.is_or_is_below(name) {
            return Err(into_itself());
        }
        let from = self.place(name)?;
        let Some(moved) = from.found else { return Err(Code::NotFound.into()) };
        let target = self.place(to)?;
        check_replacing(&moved, target.found.as_ref(), condition)?;
        let (part, to_part) = (name.last_part(), to.last_part());
        let renamed = match condition {
            Condition::Absent => {
                self.disk.rename_new(&from.directory, part, &target.directory, to_part)
            }
            Condition::Always | Condition::Version(_) => {
                self.disk.rename(&from.directory, part, &target.directory, to_part)
            }
        };
        renamed.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::EXIST) if *condition == Condition::Absent => Code::Exists.into(),
            Some(Errno::EXIST) => Code::NotEmpty.into(),
            Some(Errno::INVAL) => into_itself(),
            Some(Errno::XDEV) => Code::OtherFilesystem.into(),
            _ => refusal(Cause::Naming, "moving", &error),
        })?;
        if let Some(replaced) = target.found {
            committing.forget(Inode::of(&replaced));
        }
        if durability == Durability::None {
            // Its entry in its new directory is not.
            committing.forget(Inode::of(&moved));
        }
        let mut directories = vec![target.directory];
        if from.inode != target.inode {
            directories.push(from.directory);
        }
        Ok(directories)
    }

    fn remove_one(
        &self,
        private: &Private<D>,
        name: &Name,
        depth: Depth,
        committing: &mut Committing<D>,
    ) -> Result<Vec<Arc<D::Handle>>, Refusal> {
        let Place { directory, found, .. } = self.place(name)?;
        let Some(found) = found else { return Err(Code::NotFound.into()) };
        let part = name.last_part();
        if found.kind == FileKind::Directory && depth == Depth::One {
            self.disk.remove_directory(&directory, part).map_err(
                |error| match Errno::from_io_error(&error) {
                    Some(Errno::EXIST) => Code::NotEmpty.into(),
                    _ => refusal(Cause::Naming, "removing", &error),
                },
            )?;
        } else {
            let trashed = self.new_staged_part().into_bytes();
            private.trash.expect_one();
            if let Err(error) =
                self.disk.rename(&directory, part, &private.trash.directory, &trashed)
            {
                private.trash.expect_one_less();
                return Err(refusal(Cause::Naming, "removing", &error));
            }
            private.trash.add(trashed);
        }
        committing.forget(Inode::of(&found));
        Ok(vec![directory])
    }
}

/// Refuses to move something to a name that has something else, or that the condition does not
/// allow.
fn check_replacing(
    moved: &Stat,
    found: Option<&Stat>,
    condition: &Condition,
) -> Result<(), Refusal> {
    let Some(found) = found else { return check_absent(condition) };
    match (moved.kind, found.kind, condition) {
        (_, _, Condition::Absent) => Err(Code::Exists.into()),
        (_, _, Condition::Version(version)) if Identity::of(found).version() != *version => {
            Err(Code::VersionMismatch.into())
        }
        (FileKind::Directory, FileKind::Directory, _) => Ok(()),
        (FileKind::Directory, _, _) => Err(Code::NotADirectory.into()),
        (_, FileKind::Directory, _) => Err(Code::IsDirectory.into()),
        (_, FileKind::Special, _) => Err(Code::NotAFile.into()),
        _ => Ok(()),
    }
}

fn into_itself() -> Refusal {
    Refusal::new(Code::BadName, "a directory cannot be moved into itself")
}

fn looking(error: &std::io::Error) -> Refusal {
    refusal(Cause::Name, "looking up the name", error)
}
