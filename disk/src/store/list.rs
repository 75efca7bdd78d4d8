//! Listing: what is in a directory, and below it, one entry after another.

use std::sync::Arc;

use ftx_protocol::{Code, Depth, Kind, Name, Refusal};

use super::Store;
use super::private::PRIVATE;
use super::scope::check_reach;
use super::{OpenLimit, Opened};
use crate::failure::{Cause, refusal};
use crate::identity::Inode;
use crate::sys::{Disk, Stat, Want};
use crate::walk::{Step, Walk};

/// A listing, on its way.
pub struct Listing<D: Disk> {
    walk: Walk<D>,
    name: Option<Name>,
    depth: Depth,
    /// The store's own directory, if there is one.
    private: Option<Inode>,
    /// What is to be said next.
    unread: Option<Listed>,
    /// Directories that it has open. Each is two descriptors.
    open: Opened,
}

/// What a listing may take, of what it shares with others.
#[derive(Debug, Clone)]
pub struct ListLimits {
    /// Directories that are open.
    pub directories: Arc<OpenLimit>,
    /// Bytes of names that were read and not told yet: see [`Walk::whole`].
    pub names: Arc<OpenLimit>,
}

/// What a listing comes upon.
#[derive(Debug)]
pub enum Listed {
    /// An entry.
    Entry {
        /// Its whole name.
        name: Name,
        /// What it is; a symlink is not followed.
        stat: Stat,
    },
    /// Something that cannot be looked at; of a directory, entries are missing.
    Unread {
        /// Its whole name; `None` is the root.
        name: Option<Name>,
        /// Why.
        refusal: Refusal,
    },
}

impl<D: Disk> Store<D> {
    /// Begins to list a directory; `None` is the root. A symlink to a directory inside the root is
    /// followed, and none below it.
    ///
    /// # Errors
    /// When the name leads to nothing, to no directory, out of the root or of the scope `within`,
    /// or to the store's own files; or the system refuses; or `limits` have no room for a directory
    /// (`busy`).
    pub fn list(
        &self,
        name: Option<&Name>,
        depth: Depth,
        within: Option<&Name>,
        limits: &ListLimits,
    ) -> Result<Listing<D>, Refusal> {
        let failed = |error: &std::io::Error| refusal(Cause::Name, "opening the directory", error);
        let mut open = Opened::under(Arc::clone(&limits.directories));
        take_one(&mut open)?;
        let directory = match name {
            Some(name) => {
                check_reach(within, name)?;
                let opened = self.look(within, name, Want::Directory);
                Arc::new(opened.map_err(|error| self.not_opened(name, within, failed(&error)))?)
            }
            None if within.is_some() => return Err(Code::OutsideRoot.into()),
            None => Arc::clone(&self.root),
        };
        self.check_visible(
            &directory,
            &self.disk.stat(&directory).map_err(|error| failed(&error))?,
        )?;
        let walk = Walk::whole(self.disk.clone(), directory, Arc::clone(&limits.names));
        let walk = walk.map_err(|error| failed(&error))?;
        let private = self.disk.stat_part(&self.root, PRIVATE).ok();
        let private = private.map(|stat| Inode::of(&stat));
        let name = name.cloned();
        Ok(Listing { walk, name, depth, private, unread: None, open })
    }
}

impl<D: Disk> Iterator for Listing<D> {
    type Item = Listed;

    fn next(&mut self) -> Option<Listed> {
        if let Some(unread) = self.unread.take() {
            return Some(unread);
        }
        loop {
            match self.walk.next()? {
                Step::Seen { part, stat } if self.is_private(&part, &stat) => {}
                Step::Seen { part, stat } => return Some(self.seen(&part, stat)),
                Step::Left { .. } => self.account(),
                Step::Unread { part, error } => {
                    let refusal = refusal(Cause::Name, "reading the directory", &error);
                    return Some(self.unread(part.as_deref(), refusal));
                }
            }
        }
    }
}

impl<D: Disk> Listing<D> {
    /// By what it is, too: a symlink to the root or above it leads here by another name, and a
    /// file system may ignore case.
    fn is_private(&self, part: &[u8], stat: &Stat) -> bool {
        let in_root = self.name.is_none() && self.walk.depth() == 0;
        (in_root && part == PRIVATE) || self.private == Some(Inode::of(stat))
    }

    fn seen(&mut self, part: &[u8], stat: Stat) -> Listed {
        let name = match self.name_of(part) {
            Ok(name) => name,
            Err(refusal) => return self.unread(None, refusal),
        };
        if stat.kind == Kind::Directory
            && self.depth == Depth::All
            && let Err(refusal) = self.enter()
        {
            self.unread = Some(Listed::Unread { name: Some(name.clone()), refusal });
        }
        Listed::Entry { name, stat }
    }

    fn enter(&mut self) -> Result<(), Refusal> {
        take_one(&mut self.open)?;
        let entered = self.walk.enter();
        self.account();
        entered.map_err(|error| refusal(Cause::Name, "reading the directory", &error))
    }

    /// Gives back what the walk has left, or could not enter.
    fn account(&mut self) {
        self.open.keep(self.walk.depth().saturating_add(1));
    }

    fn unread(&self, part: Option<&[u8]>, refusal: Refusal) -> Listed {
        let name = part.and_then(|part| self.name_of(part).ok()).or_else(|| self.here());
        Listed::Unread { name, refusal }
    }

    fn name_of(&self, part: &[u8]) -> Result<Name, Refusal> {
        Name::inside(self.name.as_ref(), &self.walk.path_of(part))
            .map_err(|error| Refusal::new(Code::BadName, error.to_string()))
    }

    /// The name of the directory that the walk is in.
    fn here(&self) -> Option<Name> {
        let way = self.walk.way().collect::<Vec<_>>().join(&b'/');
        match way.as_slice() {
            b"" => self.name.clone(),
            way => Name::inside(self.name.as_ref(), way).ok(),
        }
    }
}

fn take_one(open: &mut Opened) -> Result<(), Refusal> {
    match open.take() {
        true => Ok(()),
        false => Err(Refusal::new(Code::Busy, "too many directories are being listed")),
    }
}
