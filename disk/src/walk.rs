//! Walking through a directory and what is below it, without following a symlink and without
//! holding more than the way down to where it is: a directory of a million entries costs no more
//! than one of ten.
//!
//! Every step is made on descriptors, so that what is seen is below where the walk began, whatever
//! is renamed or replaced meanwhile.

use std::io;
use std::sync::Arc;

use ftx_protocol::limits::NAME_PARTS;
use ftx_protocol::{FileTime, Kind};
use rustix::io::Errno;

use crate::failure::ChangedMeanwhile;
use crate::identity::Inode;
use crate::open_limit::{OpenLimit, Opened};
use crate::sys::{Disk, KnownNames, Stat, Want};

/// Directories that may be open, one in the other: as deep as a legal name goes.
const DEPTH_MAX: usize = NAME_PARTS;

/// What the names of a directory are read in, if it is enough: most directories are no larger. It is not counted,
/// for it is no more than other things cost that are open.
const PIECE_BYTES: usize = 32 * 1024;

/// And at most. A quarter of a million short names; their directory is not to be held up for longer than such a
/// reading takes.
const PIECE_MAX_BYTES: usize = 8 * 1024 * 1024;

/// By how much the next piece is larger: what was read in vain is a third more.
const PIECE_GROWTH: usize = 4;

/// What walks that share a room may take for names: a few of the largest pieces.
pub const NAMES_ROOM_BYTES: usize = 32 * 1024 * 1024;

/// Room for the names of directories that are walked through whole.
pub fn names_room() -> Arc<OpenLimit> {
    OpenLimit::at_most(NAMES_ROOM_BYTES)
}

/// A walk. After a [`Step::Seen`] of a directory, [`Walk::enter`] goes into it.
pub struct Walk<D: Disk> {
    disk: D,
    reading: Reading,
    levels: Vec<Level<D>>,
    /// What was seen last.
    seen: Option<(Vec<u8>, Stat)>,
}

struct Level<D: Disk> {
    handle: Arc<D::Handle>,
    names: Names<D>,
    /// What the directory is called in the one above it; nothing where the walk began.
    part: Vec<u8>,
    stat: Stat,
}

/// How the names of a directory are read.
enum Reading {
    /// As they are come to.
    Piecewise,
    /// As they were at one moment, where they have room.
    Whole(Arc<OpenLimit>),
}

/// Names to come.
enum Names<D: Disk> {
    /// All that there were when the directory was opened.
    Known { names: KnownNames, _room: Opened },
    /// What has not been come to, whatever happens to it.
    Piecewise(D::Names),
    /// The same, where none may be missed. On some file systems an entry that is replaced is in another place by
    /// that, so nobody knows if the directory is not what it was then.
    Unchanged { names: D::Names, since: FileTime },
    /// No more of them can be read.
    Over,
}

impl Reading {
    fn begin<D: Disk>(&self, disk: &D, directory: &D::Handle) -> io::Result<Names<D>> {
        let Self::Whole(room) = self else { return Ok(Names::Piecewise(disk.names(directory)?)) };
        let mut room = Opened::under(Arc::clone(room));
        let mut piece_bytes = PIECE_BYTES;
        while piece_bytes <= PIECE_MAX_BYTES
            && (piece_bytes == PIECE_BYTES || room.take_up_to(piece_bytes))
            // Why it failed is told by the other way, if that fails too.
            && let Ok(names) = disk.names_at_once(directory, piece_bytes)
        {
            if let Some(names) = names {
                room.keep(names.bytes());
                return Ok(Names::Known { names, _room: room });
            }
            piece_bytes = piece_bytes.saturating_mul(PIECE_GROWTH);
        }
        let since = disk.stat(directory)?.changed;
        Ok(Names::Unchanged { names: disk.names(directory)?, since })
    }
}

impl<D: Disk> Level<D> {
    fn next(&mut self, disk: &D) -> Option<io::Result<Vec<u8>>> {
        let next = match &mut self.names {
            Names::Known { names, .. } => return names.next().map(Ok),
            Names::Piecewise(names) => names.next(),
            Names::Unchanged { names, since } => {
                names.next().or_else(|| match disk.stat(&self.handle) {
                    Ok(now) if now.changed == *since => None,
                    Ok(_) => Some(Err(io::Error::other(ChangedMeanwhile))),
                    Err(error) => Some(Err(error)),
                })
            }
            Names::Over => None,
        };
        if let Some(Err(_)) = next {
            self.names = Names::Over;
        }
        next
    }
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
    /// A walk through a directory that is open. What others replace meanwhile may be missed: it is for whoever
    /// removes what is come upon.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn new(disk: D, directory: Arc<D::Handle>) -> io::Result<Self> {
        Self::reading(disk, directory, Reading::Piecewise)
    }

    /// A walk that comes upon every name that is there all the time, whatever others do meanwhile, or says of the
    /// directory that it does not know. Names that wait take of `room`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn whole(disk: D, directory: Arc<D::Handle>, room: Arc<OpenLimit>) -> io::Result<Self> {
        Self::reading(disk, directory, Reading::Whole(room))
    }

    fn reading(disk: D, directory: Arc<D::Handle>, reading: Reading) -> io::Result<Self> {
        let stat = disk.stat(&directory)?;
        let names = reading.begin(&disk, &directory)?;
        let level = Level { handle: directory, names, part: Vec::new(), stat };
        Ok(Self { disk, reading, levels: vec![level], seen: None })
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
        let names = self.reading.begin(&self.disk, &handle)?;
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
            match level.next(&self.disk) {
                Some(Ok(part)) => match self.disk.stat_part(&level.handle, &part) {
                    Ok(stat) => {
                        if stat.kind == Kind::Directory {
                            self.seen = Some((part.clone(), stat));
                        }
                        return Some(Step::Seen { part, stat });
                    }
                    // It was removed since its name was read.
                    Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {}
                    Err(error) => return Some(Step::Unread { part: Some(part), error }),
                },
                Some(Err(error)) => return Some(Step::Unread { part: None, error }),
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
    use std::collections::BTreeSet;
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
                    if stat.kind == Kind::Directory
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

    /// A directory of files, whose names take more than one piece, and what they are; in memory, if there is such a
    /// file system: there an entry that is replaced is in another place.
    fn many() -> (tempfile::TempDir, BTreeSet<Vec<u8>>) {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        fs::create_dir(dir.path().join("walked")).unwrap();
        let names = (0..2_000).map(|number| format!("name-{number}")).collect::<Vec<_>>();
        for name in &names {
            fs::write(dir.path().join("walked").join(name), "").unwrap();
        }
        (dir, names.into_iter().map(String::into_bytes).collect())
    }

    fn whole(path: &std::path::Path, room: Arc<OpenLimit>) -> Walk<Native> {
        Walk::whole(Native, Native.open_root(&path.join("walked")).unwrap().into(), room).unwrap()
    }

    /// Where the system can tell all names at once: elsewhere the directory is unread.
    #[cfg(all(target_os = "linux", not(ftx_portable)))]
    #[test]
    fn a_name_that_is_there_all_the_time_is_come_upon_though_others_replace_it() {
        let (dir, names) = many();
        let room = names_room();
        let mut walk = whole(dir.path(), Arc::clone(&room));
        let mut seen = BTreeSet::new();
        for step in std::iter::from_fn(|| walk.next()) {
            let Step::Seen { part, .. } = step else { panic!("{step:?}") };
            seen.insert(part);
            if seen.len() > 1 {
                continue;
            }
            for name in names.iter().filter(|name| !seen.contains(*name)) {
                fs::write(dir.path().join("new"), "new").unwrap();
                let name = std::str::from_utf8(name).unwrap();
                fs::rename(dir.path().join("new"), dir.path().join("walked").join(name)).unwrap();
            }
        }
        assert_eq!(names.difference(&seen).count(), 0, "were left out");
        drop(walk);
        assert!(Opened::under(room).take_up_to(NAMES_ROOM_BYTES), "all of it is given back");
    }

    #[test]
    fn a_directory_whose_names_have_no_room_is_unread_if_others_change_it_meanwhile() {
        let (dir, names) = many();
        let is_unread = |step: &Step| matches!(step, Step::Unread { part: None, .. });
        let undisturbed: Vec<_> = whole(dir.path(), OpenLimit::at_most(0)).collect();
        assert_eq!(undisturbed.len(), names.len());
        assert!(!undisturbed.iter().any(is_unread));
        let mut walk = whole(dir.path(), OpenLimit::at_most(0));
        assert!(matches!(walk.next(), Some(Step::Seen { .. })));
        let walked = walk.directory().map(Arc::clone).unwrap();
        let opened = Native.stat(&walked).unwrap().changed;
        while Native.stat(&walked).unwrap().changed == opened {
            fs::write(dir.path().join("walked/new"), "").unwrap();
            fs::remove_file(dir.path().join("walked/new")).unwrap();
        }
        let rest: Vec<_> = walk.collect();
        assert!(rest.last().is_some_and(is_unread));
        assert_eq!(rest.iter().filter(|step| is_unread(step)).count(), 1);
    }
}
