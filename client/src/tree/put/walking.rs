//! The sources, walked through: directories entered and left, files found.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ftx_disk::identity::{Identity, Inode};
use ftx_disk::store::PRIVATE;
use ftx_disk::sys::{Disk, Native, Stat};
use ftx_disk::walk::{Step, Walk, names_room};
use ftx_protocol::message::Mkdir;
use ftx_protocol::{Condition, Kind, Mode, Name, Parents, RequestId};

use super::extra::Whole;
use super::{Earlier, File, Job, Left, Root, Sent, Work, mark_of};
use crate::failure::{Class, Failure, Trouble};
use crate::tree::rules::{PathKind, TakesPart};
use crate::tree::{Extra, Mood, TreeNotice, Update};

impl Job<'_, '_> {
    /// Makes one step through the sources. `false` when they are over.
    pub(super) fn walk_on(&mut self) -> Result<bool, Trouble> {
        let Some((root, walk)) = &mut self.walk else {
            let Some((path, name)) = self.sources.next() else {
                (self.observer)(TreeNotice::FoundAll);
                return Ok(false);
            };
            self.begin_source(path, name);
            return Ok(true);
        };
        let root = Rc::clone(root);
        let Some(step) = walk.next() else {
            self.walk = None;
            self.walked.push((root.path.clone(), root.name.clone()));
            if self.options.extra == Extra::Remove {
                self.whole.push(Whole::new(Rc::clone(&root)));
            }
            if let Ok(stat) = Native.stat(&root.handle) {
                self.leave(root.name.clone(), &stat);
            }
            return Ok(true);
        };
        match step {
            Step::Seen { part, stat } => self.seen(&root, &part, stat),
            Step::Left { part, stat } => {
                let path = walk.path_of(&part);
                if let Ok(name) = Name::inside(Some(&root.name), &path) {
                    self.leave(name, &stat);
                }
            }
            Step::Unread { part, error } => {
                let path = root.path.join(path_of(&walk.path_of(part.as_deref().unwrap_or(b""))));
                self.fail_path(&path, &Failure::local("cannot read", &path, &error));
            }
        }
        Ok(true)
    }

    fn begin_source(&mut self, path: PathBuf, name: Name) {
        if self.walked.iter().any(|(walked, its_name)| *its_name == name && *walked == path) {
            // Given twice.
            return;
        }
        match open_source(&path) {
            // Each would be taken for what the other one is to hold, and be removed from it.
            Ok(Opened::Directory(..))
                if self.walked.iter().any(|(_, its_name)| *its_name == name) =>
            {
                let shown = crate::failure::shown(&path);
                let message =
                    format!("cannot put {shown}: another source has the name {name} already");
                self.fail_path(&path, &Failure::new(Class::Usage, message));
            }
            Ok(Opened::Directory(handle, stat)) => {
                let shared = Native.open_root(&path);
                match shared.and_then(|shared| Walk::whole(Native, shared.into(), names_room())) {
                    Ok(walk) => {
                        let root = self.root(path, name.clone(), handle);
                        self.walk = Some((root, walk));
                        self.enter(name, &stat, Parents::Make);
                    }
                    Err(error) => {
                        self.fail_path(&path, &Failure::local("cannot read", &path, &error));
                    }
                }
            }
            Ok(Opened::File { real }) => {
                if let Err(failure) = self.begin_file(&path, &real, name) {
                    self.fail_path(&path, &failure);
                }
            }
            Ok(Opened::Neither(why)) => {
                self.skip(name.as_bytes(), why);
            }
            Err(failure) => self.fail_path(&path, &failure),
        }
    }

    fn root(&self, path: PathBuf, name: Name, handle: OwnedFd) -> Rc<Root> {
        Rc::new(Root { path, name, handle, _open: Rc::clone(&self.open) })
    }

    /// A file that the user named, which is in truth this one.
    fn begin_file(&mut self, path: &Path, real: &Path, name: Name) -> Result<(), Failure> {
        use std::os::unix::ffi::OsStrExt;
        let failed = |error: std::io::Error| Failure::local("cannot read", path, &error);
        let part = real.file_name().unwrap_or_default().as_bytes();
        let part = Name::parse(part).map_err(|error| {
            let shown = crate::failure::shown(path);
            Failure::new(Class::Local, format!("cannot put {shown}: {error}"))
        })?;
        let root = self.directory_of(path, real, &name).map_err(failed)?;
        let stat = Native.stat_part(&root.handle, part.as_bytes()).map_err(failed)?;
        self.found(&root, part, name, stat);
        Ok(())
    }

    /// The directory that a file is in: that of the one before, while it is the same.
    fn directory_of(&mut self, path: &Path, real: &Path, name: &Name) -> std::io::Result<Rc<Root>> {
        let shown = path.parent().unwrap_or(Path::new(""));
        let above = real.parent().unwrap_or(Path::new("/"));
        if let Some(last) = self.above.as_ref().filter(|last| last.path == shown)
            && let now = Identity::of_metadata(&std::fs::metadata(above)?).inode
            && Inode::of(&Native.stat(&last.handle)?) == now
        {
            return Ok(Rc::clone(last));
        }
        let root = self.root(shown.to_owned(), name.clone(), Native.open_root(above)?);
        self.above = Some(Rc::clone(&root));
        Ok(root)
    }

    pub(super) fn seen(&mut self, root: &Rc<Root>, part: &[u8], stat: Stat) {
        let Some((_, walk)) = &mut self.walk else { return };
        let path = walk.path_of(part);
        let kind = PathKind::of(stat.kind);
        if self.options.rules.takes(&path, kind) == TakesPart::No {
            return;
        }
        // Somebody's served directory.
        if part == PRIVATE && walk.depth() == 0 {
            return self.skip(&path, "the directory of an ftx server");
        }
        let names = Name::parse(&path)
            .and_then(|path| Ok((Name::inside(Some(&root.name), path.as_bytes())?, path)));
        let (name, path) = match names {
            Ok(both) => both,
            Err(error) => {
                let shown = root.path.join(path_of(&path));
                let message = format!("cannot put {}: {error}", crate::failure::shown(&shown));
                return self.fail_path(&shown, &Failure::new(Class::Local, message));
            }
        };
        match stat.kind {
            Kind::Directory => match walk.enter() {
                Ok(()) => self.enter(name, &stat, Parents::Require),
                Err(error) => {
                    let shown = root.path.join(path_of(path.as_bytes()));
                    self.fail_path(&shown, &Failure::local("cannot read", &shown, &error));
                }
            },
            Kind::File => self.found(root, path, name, stat),
            Kind::Symlink => self.skip(name.as_bytes(), "a symlink"),
            Kind::Special => self.skip(name.as_bytes(), "a device, FIFO or socket"),
        }
    }

    /// A directory is made before what is in it, with no more rights than it will have, except
    /// that its owner may write.
    fn enter(&mut self, name: Name, stat: &Stat, parents: Parents) {
        let mode = Some(Mode::new(stat.mode.bits() | 0o700));
        self.mkdir(Mkdir { parents, mode, ..self.mkdir_of(name) });
    }

    /// And when all that is in it is there, it gets its time.
    pub(super) fn leave(&mut self, name: Name, stat: &Stat) {
        let mkdir = self.mkdir_with_time(name, stat);
        self.left.push_back(Left { barrier: self.next_number, mkdir });
    }

    pub(super) fn mkdir_with_time(&self, name: Name, stat: &Stat) -> Mkdir {
        Mkdir { mode: Some(stat.mode), mtime: Some(stat.modified), ..self.mkdir_of(name) }
    }

    fn mkdir_of(&self, name: Name) -> Mkdir {
        Mkdir {
            id: RequestId(0),
            name,
            parents: Parents::Require,
            mtime: None,
            mode: None,
            condition: Condition::Always,
            durability: self.options.durability,
            need: Vec::new(),
        }
    }

    pub(super) fn mkdir(&mut self, mkdir: Mkdir) {
        if self.options.mood == Mood::Do {
            self.again.push_back(Work::Mkdir(mkdir));
        }
    }

    /// Asks for the times of directories behind everything that was put into them.
    pub(super) fn leave_directories(&mut self) {
        let first_asked = self.asked.first().copied().unwrap_or(self.next_number);
        // What is to be made again comes before them.
        while self.again.is_empty()
            && self.left.front().is_some_and(|left| left.barrier <= first_asked)
            && let Some(left) = self.left.pop_front()
        {
            self.mkdir(left.mkdir);
        }
    }

    fn found(&mut self, root: &Rc<Root>, path: Name, name: Name, stat: Stat) {
        (self.observer)(TreeNotice::Found { bytes: stat.size });
        let earlier = self.earlier(&name, &stat);
        let transfer = match self.ids.next() {
            Ok(transfer) => transfer,
            Err(failure) => return self.fail(name.as_bytes(), &failure),
        };
        let (root, number) = (Rc::clone(root), self.next_number);
        self.next_number = number.saturating_add(1);
        let sent = Sent::Nothing;
        let file = File { number, root, path, name, stat, transfer, sent, tries_left: 1, earlier };
        self.again.push_back(match (self.options.update, earlier) {
            (Update::All, Earlier::Nothing) => Work::Put(file),
            (Update::SizeAndTime | Update::Digest, _) | (_, Earlier::Done) => {
                self.asked.insert(number);
                Work::Ask(file)
            }
        });
    }

    fn earlier(&self, name: &Name, stat: &Stat) -> Earlier {
        let log = self.log.as_ref().filter(|log| log.goes_on());
        match log.is_some_and(|log| log.has_done(&mark_of(name, stat), self.options.durability)) {
            true => Earlier::Done,
            false => Earlier::Nothing,
        }
    }
}

/// What a source turns out to be.
enum Opened {
    Directory(OwnedFd, Stat),
    /// Of a symlink, where it leads to.
    File {
        real: PathBuf,
    },
    Neither(&'static str),
}

/// Opens what the user named. A symlink that is named is followed.
fn open_source(path: &Path) -> Result<Opened, Failure> {
    let failed = |error: &std::io::Error| Failure::local("cannot read", path, error);
    let metadata = std::fs::metadata(path).map_err(|error| failed(&error))?;
    if metadata.is_dir() {
        let handle = Native.open_root(path).map_err(|error| failed(&error))?;
        let stat = Native.stat(&handle).map_err(|error| failed(&error))?;
        return Ok(Opened::Directory(handle, stat));
    }
    if !metadata.is_file() {
        return Ok(Opened::Neither("a device, FIFO or socket"));
    }
    let real = std::fs::canonicalize(path).map_err(|error| failed(&error))?;
    Ok(Opened::File { real })
}

pub(super) fn path_of(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}
