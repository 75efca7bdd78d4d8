//! Changes of names that bring no bytes: making a directory, moving, removing.
//!
//! They are made in the committer's rounds, under the same lock as the names of puts, and are
//! answered when the directories that they changed are synced. None needs the journal: each is one
//! step on the disk (a mkdir, a rename), which a crash leaves made or not made, and until the
//! answer either is right. Nor can a put that a start repeats from the journal undo one that was
//! answered: before that, the put has its name for good or the journal says nothing of it, or the
//! answer is that nobody knows (`Puts` in [`super::commit`]). What is refused was not made.

use std::sync::Arc;

use ftx_protocol::{
    Code, Condition, Depth, Durability, FileTime, Kind, Mode, Name, Parents, Refusal,
};
use rustix::io::Errno;

use super::Store;
use super::committing::Committing;
use super::naming::{DIRECTORY_MODE, Ground, check_absent};
use super::private::Private;
use super::scope::check_reach;
use crate::failure::{Cause, refusal};
use crate::identity::{Identity, Inode};
use crate::sys::{Disk, Stat, Want};

/// The bit of a directory's permissions by which its owner gets from it to any other.
const OWNER_SEARCHES: u32 = 0o100;

/// What becomes of the permissions of a directory that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldMode {
    /// It gets those that a new one would get.
    Replaced,
    /// It keeps its own: whoever may not replace anything could lock everybody else out of it.
    Kept,
}

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
        /// Whether they are for one that is there already too.
        old_mode: OldMode,
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
    pub(super) directories: Vec<Directory<D>>,
    pub(super) durability: Durability,
}

/// Where a name is: its directory, open, and what is there.
struct Located<D: Disk> {
    directory: Directory<D>,
    found: Option<Stat>,
}

/// A directory, open.
type Directory<D> = (Inode, Arc<<D as Disk>::Handle>);

/// What a directory is given that is made.
struct Given {
    modified: Option<FileTime>,
    mode: Option<Mode>,
    old_mode: OldMode,
}

impl Given {
    /// What of it is for one that was there already.
    fn for_old(&self) -> Self {
        let mode = match self.old_mode {
            OldMode::Replaced => self.mode,
            OldMode::Kept => None,
        };
        Self { mode, ..*self }
    }
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
        within: Option<&Name>,
        committing: &mut Committing<D>,
        ground: &mut Ground<D>,
    ) -> Result<Changed<D>, Refusal> {
        let durability = self.given(change.durability())?;
        let directories = match change {
            Change::MakeDirectory {
                name, parents, condition, modified, mode, old_mode, ..
            } => {
                check_reach(within, name)?;
                let directory = match parents {
                    Parents::Make => self.parent_made(name, within, condition, committing)?,
                    Parents::Require => self.parent(name, within)?,
                };
                let given = Given { modified: *modified, mode: *mode, old_mode: *old_mode };
                vec![self.make_one(&directory, name, condition, &given, committing, ground)?]
            }
            Change::Move { name, to, condition, .. } => {
                self.move_one([name, to], within, condition, committing, ground)?
            }
            Change::Remove { name, depth, .. } => {
                self.remove_one(private, name, within, *depth, committing)?
            }
        };
        Ok(Changed { directories, durability })
    }

    /// The directory above a name, which has to be there.
    fn parent(&self, name: &Name, within: Option<&Name>) -> Result<Arc<D::Handle>, Refusal> {
        match name.parent() {
            Some(parent) => {
                let opened = self.look(within, &parent, Want::Directory);
                Ok(Arc::new(
                    opened.map_err(|error| self.not_opened(&parent, within, looking(&error)))?,
                ))
            }
            None => Ok(Arc::clone(&self.root)),
        }
    }

    fn parent_made(
        &self,
        name: &Name,
        within: Option<&Name>,
        condition: &Condition,
        committing: &mut Committing<D>,
    ) -> Result<Arc<D::Handle>, Refusal> {
        match name.parent() {
            Some(parent) => {
                let made = self.make_directories(within, &parent, condition, committing);
                Ok(Arc::new(made?))
            }
            None => Ok(Arc::clone(&self.root)),
        }
    }

    fn make_one(
        &self,
        parent: &Arc<D::Handle>,
        name: &Name,
        condition: &Condition,
        given: &Given,
        committing: &mut Committing<D>,
        ground: &mut Ground<D>,
    ) -> Result<Directory<D>, Refusal> {
        let failed = |error: &std::io::Error| refusal(Cause::Naming, "making the directory", error);
        self.check_directory(parent)?;
        if let Condition::Version(_) = condition {
            return Err(Refusal::new(Code::VersionMismatch, "a directory has no version"));
        }
        let part = name.last_part();
        match self.disk.make_directory(parent, part, DIRECTORY_MODE) {
            Ok(()) => {
                let made = self.give(parent, part, given, ground);
                match &made {
                    Ok((inode, _)) => committing.forget(*inode),
                    Err(_) => {
                        // If it stays, it may have the inode of one that was synced.
                        committing.forget_all();
                        let _ = self.disk.remove_directory(parent, part);
                    }
                }
                made
            }
            Err(error) if Errno::from_io_error(&error) == Some(Errno::EXIST) => {
                let found = self.disk.stat_part(parent, part).map_err(|error| failed(&error))?;
                match (condition, found.kind) {
                    (Condition::Absent, _) => Err(Code::Exists.into()),
                    (_, Kind::Directory) => self.give(parent, part, &given.for_old(), ground),
                    (_, _) => Err(Code::NotADirectory.into()),
                }
            }
            Err(error) => Err(failed(&error)),
        }
    }

    /// Opens a directory, and gives it its mode and time. One that has setuid, setgid or sticky
    /// loses it with a new mode. Nobody but root gets up from one that its owner may not search, and its entry is
    /// yet to be synced: what it is in is kept for that.
    fn give(
        &self,
        parent: &Arc<D::Handle>,
        part: &[u8],
        given: &Given,
        ground: &mut Ground<D>,
    ) -> Result<Directory<D>, Refusal> {
        let opened = self.disk.open_part(parent, part, Want::Directory);
        let directory =
            opened.map_err(|error| refusal(Cause::Naming, "opening the directory", &error))?;
        let found = self.check_directory(&directory)?;
        let inode = Inode::of(&found);
        if given.mode.unwrap_or(found.mode).bits() & OWNER_SEARCHES == 0 {
            ground.above.insert(inode, Arc::clone(parent));
        }
        let failed =
            |error| refusal(Cause::Naming, "giving the directory its time and mode", &error);
        if let Some(mode) = given.mode {
            self.disk.set_mode(&directory, mode).map_err(failed)?;
        }
        if let Some(modified) = given.modified {
            self.disk.set_modified(&directory, modified).map_err(failed)?;
        }
        Ok((inode, Arc::new(directory)))
    }

    fn locate(&self, name: &Name, within: Option<&Name>) -> Result<Located<D>, Refusal> {
        check_reach(within, name)?;
        if within == Some(name) {
            // Whoever is held to it has what is in it, and not its own entry.
            return Err(Code::OutsideRoot.into());
        }
        let directory = self.parent(name, within)?;
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
        Ok(Located { directory: (inode, directory), found })
    }

    fn move_one(
        &self,
        [name, to]: [&Name; 2],
        within: Option<&Name>,
        condition: &Condition,
        committing: &mut Committing<D>,
        ground: &mut Ground<D>,
    ) -> Result<Vec<Directory<D>>, Refusal> {
        if to != name && to.is_or_is_below(name) {
            return Err(into_itself());
        }
        let from = self.locate(name, within)?;
        let Some(moved) = from.found else { return Err(Code::NotFound.into()) };
        let target = self.locate(to, within)?;
        check_replacing(&moved, target.found.as_ref(), condition)?;
        let ((from_inode, from_directory), part) = (from.directory, name.last_part());
        let ((to_inode, to_directory), to_part) = (target.directory, to.last_part());
        if target.found.is_some_and(|found| Inode::of(&found) == Inode::of(&moved))
            && (from_inode, part) != (to_inode, to_part)
        {
            // Links: rename(2) leaves both, and says that it has renamed.
            return Err(Refusal::new(Code::Exists, "both names are of the same file"));
        }
        let renamed = match condition {
            Condition::Absent => {
                self.disk.rename_new(&from_directory, part, &to_directory, to_part)
            }
            Condition::Always | Condition::Version(_) => {
                self.disk.rename(&from_directory, part, &to_directory, to_part)
            }
        };
        renamed.map_err(|error| not_moved(condition, &error))?;
        if let Some(replaced) = target.found {
            committing.forget(Inode::of(&replaced));
        }
        // Its entry in its new directory is not synced, and perhaps never will be; what is below it depends on that.
        match moved.kind {
            Kind::Directory => {
                committing.forget_all();
                ground.above.insert(Inode::of(&moved), Arc::clone(&to_directory));
            }
            Kind::File | Kind::Symlink | Kind::Special => {
                committing.forget(Inode::of(&moved));
            }
        }
        if moved.kind == Kind::File
            && let Ok(now) = self.disk.stat_part(&to_directory, to_part)
        {
            self.digests.remember_renamed(Identity::of(&moved), Identity::of(&now));
        }
        let mut directories = vec![(to_inode, to_directory)];
        if from_inode != to_inode {
            directories.push((from_inode, from_directory));
        }
        Ok(directories)
    }

    fn remove_one(
        &self,
        private: &Private<D>,
        name: &Name,
        within: Option<&Name>,
        depth: Depth,
        committing: &mut Committing<D>,
    ) -> Result<Vec<Directory<D>>, Refusal> {
        let Located { directory: (inode, directory), found } = self.locate(name, within)?;
        let Some(found) = found else { return Err(Code::NotFound.into()) };
        let part = name.last_part();
        if found.kind == Kind::Directory && depth == Depth::One {
            self.disk.remove_directory(&directory, part).map_err(
                |error| match Errno::from_io_error(&error) {
                    Some(Errno::EXIST) => Code::NotEmpty.into(),
                    _ => refusal(Cause::Naming, "removing", &error),
                },
            )?;
            committing.forget(Inode::of(&found));
        } else {
            let trashed = self.new_staged_part().into_bytes();
            private
                .trash
                .take(|trash| self.disk.rename(&directory, part, trash, &trashed))
                .map_err(|error| refusal(Cause::Naming, "removing", &error))?;
            if found.kind == Kind::Directory {
                // The inodes of everything below it may be given to new directories.
                committing.forget_all();
            }
        }
        Ok(vec![(inode, directory)])
    }
}

fn not_moved(condition: &Condition, error: &std::io::Error) -> Refusal {
    match Errno::from_io_error(error) {
        Some(Errno::EXIST) if *condition == Condition::Absent => Code::Exists.into(),
        Some(Errno::EXIST) => Code::NotEmpty.into(),
        Some(Errno::INVAL) => into_itself(),
        Some(Errno::XDEV) => Code::OtherFilesystem.into(),
        _ => refusal(Cause::Naming, "moving", error),
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
        (Kind::Directory, Kind::Directory, _) => Ok(()),
        (Kind::Directory, _, _) => Err(Code::NotADirectory.into()),
        (_, Kind::Directory, _) => Err(Code::IsDirectory.into()),
        (_, Kind::Special, _) => Err(Code::NotAFile.into()),
        _ => Ok(()),
    }
}

fn into_itself() -> Refusal {
    Refusal::new(Code::BadName, "a directory cannot be moved into itself")
}

fn looking(error: &std::io::Error) -> Refusal {
    refusal(Cause::Name, "looking up the name", error)
}
