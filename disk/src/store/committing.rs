//! Which directories are synced, up to the root, and which are not believed any more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ftx_protocol::FileTime;
use rustix::io::Errno;

use super::naming::Above;
use crate::identity::Inode;
use crate::sys::{Disk, Want};

/// Directories remembered as synced into their parents. Past it all are forgotten, which costs a
/// few syncs.
const SYNCED_MAX: usize = 16_384;

/// What is known of directories, and the lock under which names are given: one round at a time.
pub(super) struct Committing<D: Disk> {
    disk: D,
    root: Inode,
    /// Directories whose entry in their parent was synced by this store, and when they were made: what
    /// something else has made since may have an inode that was theirs.
    synced: HashMap<Inode, Option<FileTime>>,
    /// Directories of which a sync failed: nothing that depends on them is acknowledged as durable
    /// any more.
    doubtful: HashSet<Inode>,
    /// Whether all puts that took their names keep them.
    pub(super) puts: Puts,
}

/// What the next start has to do with puts of this run that are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Puts {
    /// Nothing.
    Settled,
    /// The sync of a directory that got a name failed, or the journal cannot be told that a put was refused: a
    /// start may find the name not taken, and give it. Whatever was moved or removed since may come
    /// back then, so that no change is acknowledged as durable.
    MayBeRepeated,
}

impl<D: Disk> Committing<D> {
    pub(super) fn new(disk: D, root: Inode) -> Self {
        Self { disk, root, synced: HashMap::new(), doubtful: HashSet::new(), puts: Puts::Settled }
    }

    /// A directory was made: an older one with its inode may have been synced, this one was not.
    pub(super) fn made(&mut self, directory: &D::Handle) {
        match self.inode(directory) {
            Ok(inode) => self.forget(inode),
            Err(_) => self.forget_all(),
        }
    }

    /// The entry of what has this inode is another one from now on, and is not synced.
    pub(super) fn forget(&mut self, inode: Inode) {
        self.synced.remove(&inode);
    }

    /// As [`Committing::forget`], for directories that nobody can enumerate.
    pub(super) fn forget_all(&mut self) {
        self.synced.clear();
    }

    /// Syncs a directory, and whatever leads to it from the root and was not synced since this
    /// store began. A sync that failed is not tried again. `known`: see [`Above`]. `now` are those that were
    /// synced since the last name was changed.
    pub(super) fn sync_up(
        &mut self,
        directory: &D::Handle,
        known: &Above<D>,
        now: &mut HashSet<Inode>,
    ) -> std::io::Result<()> {
        let mut here = self.sync_one(directory, now, |disk| disk.sync(directory))?;
        let mut entries = Vec::new();
        let mut above: Option<Arc<D::Handle>> = None;
        while here != self.root {
            let handle = above.as_deref().unwrap_or(directory);
            let born = self.disk.born(handle)?;
            if self.synced.get(&here) == Some(&born) {
                break;
            }
            let (parent, parent_inode) =
                self.sync_parent(handle, known.get(&here), directory, now)?;
            entries.push((here, born));
            if parent_inode == here {
                // The top of the file system: the directory was moved out of the root meanwhile.
                break;
            }
            here = parent_inode;
            above = Some(parent);
        }
        if self.synced.len() >= SYNCED_MAX {
            self.synced.clear();
        }
        self.synced.extend(entries);
        Ok(())
    }

    /// Syncs the directory that a directory is in. One that may not be read cannot be opened for that, and is synced
    /// with all of its file system, by the handle `below` it. From one that may not be searched nothing leads up: its
    /// parent has to be `known`.
    fn sync_parent(
        &mut self,
        directory: &D::Handle,
        known: Option<&Arc<D::Handle>>,
        below: &D::Handle,
        now: &mut HashSet<Inode>,
    ) -> std::io::Result<(Arc<D::Handle>, Inode)> {
        let parent = match self.disk.open_parent(directory, Want::Directory) {
            Err(error) if is_denied(&error) => {
                match (self.disk.open_parent(directory, Want::Way), known) {
                    (Err(error), Some(known)) if is_denied(&error) => Arc::clone(known),
                    (way, _) => {
                        let way = way?;
                        if self.inode(&way)?.device != self.root.device {
                            return Err(error);
                        }
                        let sync = |disk: &D| disk.sync_file_system(below);
                        let inode = self.sync_one(&way, now, sync)?;
                        return Ok((Arc::new(way), inode));
                    }
                }
            }
            opened => Arc::new(opened?),
        };
        let inode = self.sync_one(&parent, now, |disk| disk.sync(&parent))?;
        Ok((parent, inode))
    }

    fn sync_one(
        &mut self,
        directory: &D::Handle,
        now: &mut HashSet<Inode>,
        sync: impl FnOnce(&D) -> std::io::Result<()>,
    ) -> std::io::Result<Inode> {
        let inode = self.inode(directory)?;
        if self.doubtful.contains(&inode) {
            return Err(Errno::IO.into());
        }
        if now.contains(&inode) {
            return Ok(inode);
        }
        if let Err(error) = sync(&self.disk) {
            self.doubtful.insert(inode);
            return Err(error);
        }
        now.insert(inode);
        Ok(inode)
    }

    fn inode(&self, handle: &D::Handle) -> std::io::Result<Inode> {
        self.disk.stat(handle).map(|stat| Inode::of(&stat))
    }
}

fn is_denied(error: &std::io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::ACCESS)
}
