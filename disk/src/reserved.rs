//! The guard that no peer ever reaches the store's own files.
//!
//! They are guarded by what they are, not by how they are spelled: by their inodes. So neither a
//! symlink, nor a hard link, nor a file system that ignores case leads to them.

use std::collections::HashSet;
use std::sync::Mutex;

use ftx_protocol::{Code, Kind, Refusal};

use crate::identity::Inode;
use crate::lock::lock;
use crate::sys::Stat;

/// The inodes that no peer may reach.
#[derive(Debug, Default)]
pub(crate) struct Reserved {
    directories: Mutex<HashSet<Inode>>,
    files: Mutex<HashSet<Inode>>,
}

impl Reserved {
    /// From now on the directory is the store's own.
    pub(crate) fn reserve_directory(&self, inode: Inode) {
        lock(&self.directories).insert(inode);
    }

    /// From now on the file is the store's own.
    pub(crate) fn reserve(&self, inode: Inode) {
        lock(&self.files).insert(inode);
    }

    /// The file has a name of its own, or is gone.
    pub(crate) fn release(&self, inode: Inode) {
        lock(&self.files).remove(&inode);
    }

    /// Refuses what a name led to, if it is the store's own.
    pub(crate) fn check(&self, found: &Stat) -> Result<(), Refusal> {
        let inode = Inode::of(found);
        let own = match found.kind {
            Kind::Directory => lock(&self.directories).contains(&inode),
            Kind::File => lock(&self.files).contains(&inode),
            Kind::Symlink | Kind::Special => false,
        };
        if own { Err(Code::ReservedName.into()) } else { Ok(()) }
    }
}
