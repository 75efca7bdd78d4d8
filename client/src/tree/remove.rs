//! Which names of a listed tree its source does not have.
//!
//! Never what is excluded, and never what is below something that the source has as something else
//! (a symlink, say) and that was therefore passed over.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use ftx_disk::sys::{Disk, Native, Want};
use ftx_protocol::limits::ENTRIES_AHEAD;
use ftx_protocol::message::{Entry, Remove};
use ftx_protocol::{Depth, Durability, Kind, Name, RequestId};
use rustix::io::Errno;

use super::put::Root;
use super::rules::{PathKind, Rules, TakesPart};

/// The comparison of one tree.
pub(super) struct Removal {
    id: RequestId,
    root: Rc<Root>,
    /// Messages that were dealt with and not followed by `more`.
    owed: u32,
    /// A directory that goes as a whole.
    gone: Option<Name>,
    /// Directories that go when what is in them has; one in the other.
    emptied: VecDeque<Name>,
    /// The directory in which was looked last.
    looked: Option<(Name, Here)>,
}

/// What a directory of the other side is on this side.
enum Here {
    Directory(OwnedFd),
    /// Nothing.
    Missing,
    /// Something else, or something that cannot be looked at: what is below it stays.
    Protected,
}

impl Removal {
    pub(super) fn new(id: RequestId, root: Rc<Root>) -> Self {
        Self { id, root, owed: 0, gone: None, emptied: VecDeque::new(), looked: None }
    }

    pub(super) fn root(&self) -> &Rc<Root> {
        &self.root
    }

    pub(super) fn id(&self) -> RequestId {
        self.id
    }

    /// The list that one further message is to be asked for, if one was dealt with.
    pub(super) fn allow_more(&mut self) -> Option<RequestId> {
        self.owed = self.owed.checked_sub(1)?;
        Some(self.id)
    }

    /// What of these entries is to go. `None` when nobody has asked for them.
    pub(super) fn compare(
        &mut self,
        entries: &[Entry],
        rules: &Rules,
        durability: Durability,
    ) -> Option<Vec<Remove>> {
        self.owed = self.owed.saturating_add(1);
        if self.owed > ENTRIES_AHEAD {
            return None;
        }
        let mut go = Vec::new();
        for entry in entries {
            let name = &entry.name;
            while let Some(last) = self.emptied.back()
                && !name.is_or_is_below(last)
                && let Some(last) = self.emptied.pop_back()
            {
                go.push(remove(last, Depth::One, durability));
            }
            if self.gone.as_ref().is_some_and(|gone| name.is_or_is_below(gone)) {
                continue;
            }
            let Some(path) = self.path_of(name) else { continue };
            let kind = PathKind::of(entry.kind);
            if rules.takes_with_parents(path.as_bytes(), kind) == TakesPart::No
                || !self.is_missing(&path)
            {
                continue;
            }
            match entry.kind {
                Kind::Directory if rules.is_empty() => {
                    self.gone = Some(name.clone());
                    go.push(remove(name.clone(), Depth::All, durability));
                }
                Kind::Directory => self.emptied.push_back(name.clone()),
                _ => go.push(remove(name.clone(), Depth::One, durability)),
            }
        }
        Some(go)
    }

    /// What is to go when everything was listed.
    pub(super) fn end(self, durability: Durability) -> Vec<Remove> {
        let names = self.emptied.into_iter().rev();
        names.map(|name| remove(name, Depth::One, durability)).collect()
    }

    fn path_of(&self, name: &Name) -> Option<Name> {
        let path = name.as_bytes().strip_prefix(self.root.name.as_bytes())?.strip_prefix(b"/")?;
        Name::parse(path).ok()
    }

    fn is_missing(&mut self, path: &Name) -> bool {
        let gone = |error: std::io::Error| Errno::from_io_error(&error) == Some(Errno::NOENT);
        let Some(parent) = path.parent() else {
            return Native.stat_part(&self.root.handle, path.as_bytes()).is_err_and(gone);
        };
        if self.looked.as_ref().is_none_or(|(looked, _)| *looked != parent) {
            let here = self.look(&parent);
            self.looked = Some((parent, here));
        }
        match &self.looked {
            Some((_, Here::Directory(directory))) => {
                Native.stat_part(directory, path.last_part()).is_err_and(gone)
            }
            Some((_, Here::Missing)) => true,
            Some((_, Here::Protected)) | None => false,
        }
    }

    /// Opens a directory of the source, following no symlink.
    fn look(&self, path: &Name) -> Here {
        let mut here: Option<OwnedFd> = None;
        for part in path.parts() {
            let directory = here.as_ref().unwrap_or(&self.root.handle);
            match Native.open_part(directory, part, Want::Directory) {
                Ok(next) => here = Some(next),
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {
                    return Here::Missing;
                }
                Err(_) => return Here::Protected,
            }
        }
        here.map_or(Here::Protected, Here::Directory)
    }
}

fn remove(name: Name, depth: Depth, durability: Durability) -> Remove {
    Remove { id: RequestId(0), name, depth, durability, need: Vec::new() }
}
