//! Walking through a directory and what is below it, without following a symlink and without
//! holding more than the way down to where it is: a directory of a million entries costs no more
//! than one of ten.
//!
//! Every step is made on descriptors, so that what is seen is below where the walk began, whatever
//! is renamed or replaced meanwhile.

use std::io;
use std::sync::Arc;

use ftx_protocol::limits::NAME_PARTS;
use rustix::io::Errno;

use crate::identity::Inode;
use crate::sys::{Disk, FileKind, Stat, Want};

/// Directories that may be open, one in the other: as deep as a legal name goes.
const DEPTH_MAX: usize = NAME_PARTS;

/// A walk. After a [`Step::Seen`] of a directory, [`Walk::enter`] goes into it.
pub struct Walk<D: Disk> {
    disk: D,
    levels: Vec<Level<D>>,
    /// What was seen last.
    seen: Option<(Vec<u8>, Stat)>,
}

struct Level<D: Disk> {
    handle: Arc<D::Handle>,
    /// `None` when no more of them can be read.
    names: Option<D::Names>,
    /// What the directory is called in the one above it; nothing where the walk began.
    part: Vec<u8>,
    stat: Stat,
}

/// What a walk comes upon.
#[derive(Debug)]
pub enum Step {
    /// An entry of [`Walk::directory`].
    Seen {
        /// Its name there.
        part: Vec<u8>,
        /// What it is; a symlink is not followed.
        stat: Stat,
    },
    /// A directory that was entered is over; [`Walk::directory`] is the one that it is in.
    Left {
        /// Its name there.
        part: Vec<u8>,
        /// What it was when it was seen.
        stat: Stat,
    },
    /// An entry of [`Walk::directory`] that cannot be looked at; or, without a part, the rest of
    /// that directory.
    Unread {
        /// Its name there.
        part: Option<Vec<u8>>,
        /// Why.
        error: io::Error,
    },
}

impl<D: Disk> Walk<D> {
    /// A walk through a directory that is open.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn new(disk: D, directory: Arc<D::Handle>) -> io::Result<Self> {
        let stat = disk.stat(&directory)?;
        let names = Some(disk.names(&directory)?);
        let level = Level { handle: directory, names, part: Vec::new(), stat };
        Ok(Self { disk, levels: vec![level], seen: None })
    }

    /// The directory that the walk is in.
    pub fn directory(&self) -> Option<&Arc<D::Handle>> {
        self.levels.last().map(|level| &level.handle)
    }

    /// The names from where the walk began down to [`Walk::directory`].
    pub fn way(&self) -> impl Iterator<Item = &[u8]> {
        self.levels.iter().skip(1).map(|level| level.part.as_slice())
    }

    /// How many directories were entered and not left.
    pub fn depth(&self) -> usize {
        self.levels.len().saturating_sub(1)
    }

    /// The path below where the walk began of an entry of [`Walk::directory`].
    pub fn path_of(&self, part: &[u8]) -> Vec<u8> {
        let mut path = Vec::new();
        for above in self.way() {
            path.extend_from_slice(above);
            path.push(b'/');
        }
        path.extend_from_slice(part);
        path
    }

    /// Goes into the directory that was just seen.
    ///
    /// # Errors
    /// When it cannot be opened or read, is another directory by now (`ESTALE`), or is too deep
    /// (`ENAMETOOLONG`). The walk goes on behind it.
    pub fn enter(&mut self) -> io::Result<()> {
        let Some((part, stat)) = self.seen.take() else { return Err(Errno::NOTDIR.into()) };
        let Some(above) = self.levels.last() else { return Err(Errno::NOTDIR.into()) };
        if self.levels.len() > DEPTH_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        let handle = self.disk.open_part(&above.handle, &part, Want::Directory)?;
        if Inode::of(&self.disk.stat(&handle)?) != Inode::of(&stat) {
            return Err(Errno::STALE.into());
        }
        let names = Some(self.disk.names(&handle)?);
        self.levels.push(Level { handle: Arc::new(handle), names, part, stat });
        Ok(())
    }
}

impl<D: Disk> Iterator for Walk<D> {
    type Item = Step;

    /// The next step; `None` when the directory where the walk began is over.
    fn next(&mut self) -> Option<Step> {
        self.seen = None;
        loop {
            let level = self.levels.last_mut()?;
            match level.names.as_mut().and_then(Iterator::next) {
                Some(Ok(part)) => match self.disk.stat_part(&level.handle, &part) {
                    Ok(stat) => {
                        if stat.kind == FileKind::Directory {
                            self.seen = Some((part.clone(), stat));
                        }
                        return Some(Step::Seen { part, stat });
                    }
                    // It was removed since its name was read.
                    Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {}
                    Err(error) => return Some(Step::Unread { part: Some(part), error }),
                },
                Some(Err(error)) => {
                    level.names = None;
                    return Some(Step::Unread { part: None, error });
                }
                None => {
                    let Level { part, stat, .. } = self.levels.pop()?;
                    self.levels.last()?;
                    return Some(Step::Left { part, stat });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sys::Native;

    /// All that a walk through everything below a directory comes upon.
    fn all(path: &std::path::Path) -> Vec<String> {
        let mut walk = Walk::new(Native, Native.open_root(path).unwrap().into()).unwrap();
        let mut steps = Vec::new();
        while let Some(step) = walk.next() {
            match step {
                Step::Seen { part, stat } => {
                    let path = String::from_utf8(walk.path_of(&part)).unwrap();
                    steps.push(format!("{:?} {path}", stat.kind));
                    if stat.kind == FileKind::Directory
                        && let Err(error) = walk.enter()
                    {
                        steps.push(format!("not entered: {error}"));
                    }
                }
                Step::Left { part, .. } => {
                    let path = String::from_utf8(walk.path_of(&part)).unwrap();
                    steps.push(format!("left {path}"));
                }
                Step::Unread { part, error } => steps.push(format!("unread {part:?}: {error}")),
            }
        }
        steps
    }

    #[test]
    fn a_walk_sees_everything_once_and_follows_no_symlink() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        fs::write(dir.path().join("a/b/file"), "x").unwrap();
        symlink("..", dir.path().join("a/b/up")).unwrap();
        symlink("/", dir.path().join("out")).unwrap();
        let mut steps = all(dir.path());
        let place = |steps: &[String], step: &str| {
            steps.iter().position(|other| other == step).unwrap_or_else(|| panic!("{step}"))
        };
        assert!(place(&steps, "Directory a/b") < place(&steps, "File a/b/file"));
        assert!(place(&steps, "File a/b/file") < place(&steps, "left a/b"));
        assert!(place(&steps, "left a/b") < place(&steps, "left a"));
        steps.sort();
        let expected = [
            "Directory a",
            "Directory a/b",
            "Directory a/b/c",
            "File a/b/file",
            "Symlink a/b/up",
            "Symlink out",
            "left a",
            "left a/b",
            "left a/b/c",
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn a_directory_that_is_another_one_by_now_is_not_entered() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        let outside = tempfile::tempdir().unwrap();
        let mut walk = Walk::new(Native, Native.open_root(dir.path()).unwrap().into()).unwrap();
        assert!(matches!(walk.next(), Some(Step::Seen { .. })));
        fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
        symlink(outside.path(), dir.path().join("a")).unwrap();
        assert!(walk.enter().is_err());
        fs::remove_file(dir.path().join("a")).unwrap();
        let mut walk = Walk::new(Native, Native.open_root(dir.path()).unwrap().into()).unwrap();
        assert!(matches!(walk.next(), Some(Step::Seen { .. })));
        fs::rename(dir.path().join("b"), outside.path().join("b")).unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        assert!(walk.enter().is_err());
    }
}
