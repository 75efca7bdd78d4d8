//! Scopes: the one directory that somebody is held to.
//!
//! Without a scope a name is resolved beneath the root, and symlinks are followed that stay there.
//! With one it is resolved beneath the directory of the scope, by the same call: so it is the
//! kernel (or the walk in its place) that keeps it there, whatever the symlinks say and whoever
//! moves them meanwhile. The scope itself, and what is above it, have to be directories and no
//! symlinks. A symlink there would be the one way out that is left: whoever may move names above
//! a scope could put any symlink in its place that they find, and so widen it.

use std::io;

use ftx_protocol::{Code, Name, Refusal};
use rustix::io::Errno;

use super::Store;
use super::private::check_spelling;
use crate::sys::{Disk, Stat, Want};

impl<D: Disk> Store<D> {
    /// Opens what a name leads to, for reading.
    pub(super) fn look(
        &self,
        within: Option<&Name>,
        name: &Name,
        want: Want,
    ) -> io::Result<D::Handle> {
        let Some(scope) = within else { return self.disk.open_beneath(&self.root, name, want) };
        if scope.is_or_is_below(name) {
            return self.open_way(name, want);
        }
        let inside = inside(scope, name).ok_or(Errno::XDEV)?;
        self.disk.open_beneath(&self.open_way(scope, Want::Way)?, &inside, want)
    }

    /// Looks at what has a name itself: of a symlink, at the symlink. Only its directory is opened,
    /// for the way, so that it is no matter who may read the one or the other.
    pub(super) fn look_at(&self, within: Option<&Name>, name: &Name) -> io::Result<Stat> {
        match name.parent() {
            Some(parent) => {
                let directory = self.look(within, &parent, Want::Way)?;
                self.disk.stat_part(&directory, name.last_part())
            }
            None => self.disk.stat_part(&self.root, name.last_part()),
        }
    }

    /// Opens a scope, or a directory above one.
    fn open_way(&self, name: &Name, want: Want) -> io::Result<D::Handle> {
        let want = match want {
            // Whatever is wanted, it is a directory.
            Want::File | Want::Directory => Want::Directory,
            Want::Way => Want::Way,
        };
        let mut here: Option<D::Handle> = None;
        let mut parts = name.parts().peekable();
        while let Some(part) = parts.next() {
            let above = here.as_ref().unwrap_or(&self.root);
            let want = if parts.peek().is_some() { Want::Way } else { want };
            here = Some(self.disk.open_part(above, part, want)?);
        }
        here.ok_or(Errno::NOENT.into())
    }
}

/// Refuses a name that is the store's own, or is not in the scope, before anything is looked up.
pub(super) fn check_reach(within: Option<&Name>, name: &Name) -> Result<(), Refusal> {
    check_spelling(name)?;
    match within {
        Some(scope) if !name.is_or_is_below(scope) => Err(Code::OutsideRoot.into()),
        _ => Ok(()),
    }
}

/// The name of something below a scope, as it is called in its directory.
fn inside(scope: &Name, name: &Name) -> Option<Name> {
    let rest = name.as_bytes().strip_prefix(scope.as_bytes())?.strip_prefix(b"/")?;
    Name::parse(rest).ok()
}
