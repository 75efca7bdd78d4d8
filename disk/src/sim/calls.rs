//! The calls of the simulated disk.

use std::io;
use std::path::Path;

use ftx_protocol::{FileTime, Kind, Mode, Name};
use rustix::io::Errno;

use super::crash::{Change, with_what_came_before};
use super::{Lock, Node, Sim, SimHandle, error, shown};
use crate::sys::{Disk, KnownNames, Medium, MediumKind, Stat, Want};

impl Disk for Sim {
    type Handle = SimHandle;
    type Names = std::vec::IntoIter<io::Result<Vec<u8>>>;

    fn open_root(&self, _: &Path) -> io::Result<SimHandle> {
        let mut world = self.call("open_root", "")?;
        // A directory whose sync failed is not believed until a restart (ARCHITECTURE.md); what a
        // restart means is the operator's to know.
        for node in world.nodes.values_mut().filter(|node| node.kind == Kind::Directory) {
            node.poisoned = false;
        }
        let root = world.root;
        Ok(self.handle(world, root, Want::Directory))
    }

    fn open_beneath(&self, root: &SimHandle, name: &Name, want: Want) -> io::Result<SimHandle> {
        let mut world = self.call("open_beneath", &name.to_string())?;
        let mut here = root.node;
        for part in name.parts() {
            here = world.find(here, part)?;
        }
        world.check_wanted(here, want)?;
        world.check_readable(here, want)?;
        Ok(self.handle(world, here, want))
    }

    fn open_part(&self, dir: &SimHandle, part: &[u8], want: Want) -> io::Result<SimHandle> {
        let mut world = self.call("open_part", &shown(part))?;
        let node = world.find(dir.node, part)?;
        world.check_wanted(node, want)?;
        match want {
            Want::File => world.check_changeable(node)?,
            Want::Directory | Want::Way => world.check_readable(node, want)?,
        }
        Ok(self.handle(world, node, want))
    }

    fn open_parent(&self, dir: &SimHandle, want: Want) -> io::Result<SimHandle> {
        let mut world = self.call("open_parent", "")?;
        world.check_searchable(dir.node)?;
        let parent = world.node(dir.node)?.parent;
        world.check_readable(parent, want)?;
        Ok(self.handle(world, parent, want))
    }

    fn create(&self, dir: &SimHandle, part: &[u8], mode: Mode) -> io::Result<SimHandle> {
        let mut world = self.call("create", &shown(part))?;
        world.check_free(dir.node, part)?;
        let node = world.make(Kind::File, mode, dir.node, &shown(part));
        world.add(dir.node, part, node)?;
        Ok(self.handle(world, node, Want::File))
    }

    fn create_nameless(&self, dir: &SimHandle, mode: Mode) -> io::Result<SimHandle> {
        let mut world = self.call("create_nameless", "")?;
        world.check_there(dir.node)?;
        let node = world.make(Kind::File, mode, dir.node, "nameless");
        Ok(self.handle(world, node, Want::File))
    }

    fn link_nameless(&self, file: &SimHandle, dir: &SimHandle, part: &[u8]) -> io::Result<()> {
        let mut world = self.call("link_nameless", &shown(part))?;
        world.check_free(dir.node, part)?;
        let now = world.tick();
        let named = world.node(file.node)?;
        named.changed = now;
        named.label = shown(part);
        world.add(dir.node, part, file.node)
    }

    fn make_directory(&self, dir: &SimHandle, part: &[u8], mode: Mode) -> io::Result<()> {
        let mut world = self.call("make_directory", &shown(part))?;
        world.check_free(dir.node, part)?;
        let node = world.make(Kind::Directory, mode, dir.node, &shown(part));
        world.add(dir.node, part, node)
    }

    fn rename(
        &self,
        from: &SimHandle,
        from_part: &[u8],
        to: &SimHandle,
        to_part: &[u8],
    ) -> io::Result<()> {
        let mut world = self.call("rename", &shown(to_part))?;
        let node = world.find(from.node, from_part)?;
        world.check_there(to.node)?;
        if let Ok(old) = world.find(to.node, to_part) {
            match (world.node(node)?.kind, world.node(old)?.kind) {
                (Kind::Directory, Kind::Directory) => world.check_empty(old)?,
                (Kind::Directory, _) => return Err(error(Errno::NOTDIR)),
                (_, Kind::Directory) => return Err(error(Errno::ISDIR)),
                _ => {}
            }
            world.unlink(old)?;
        }
        if world.node(node)?.kind == Kind::Directory {
            world.node(node)?.parent = to.node;
        }
        world.node(from.node)?.entries.remove(from_part);
        world.node(to.node)?.entries.insert(to_part.to_vec(), node);
        let now = world.tick();
        let moved = world.node(node)?;
        moved.changed = now;
        moved.label = shown(to_part);
        world.pending.push(Change::Move {
            from: from.node,
            from_part: from_part.to_vec(),
            to: to.node,
            to_part: to_part.to_vec(),
            node,
        });
        Ok(())
    }

    fn link(&self, dir: &SimHandle, part: &[u8], new_part: &[u8]) -> io::Result<()> {
        let mut world = self.call("link", &shown(new_part))?;
        let node = world.find(dir.node, part)?;
        world.add(dir.node, new_part, node)
    }

    fn rename_new(
        &self,
        from: &SimHandle,
        from_part: &[u8],
        to: &SimHandle,
        to_part: &[u8],
    ) -> io::Result<()> {
        if self.call("rename_new", &shown(to_part))?.find(to.node, to_part).is_ok() {
            return Err(error(Errno::EXIST));
        }
        self.rename(from, from_part, to, to_part)
    }

    fn remove_directory(&self, dir: &SimHandle, part: &[u8]) -> io::Result<()> {
        let mut world = self.call("remove_directory", &shown(part))?;
        world.check_writable(dir.node)?;
        let node = world.find(dir.node, part)?;
        world.check_wanted(node, Want::Directory)?;
        world.check_empty(node)?;
        world.take_away(dir.node, part, node)
    }

    fn remove(&self, dir: &SimHandle, part: &[u8]) -> io::Result<()> {
        let mut world = self.call("remove", &shown(part))?;
        world.check_writable(dir.node)?;
        let node = world.find(dir.node, part)?;
        if world.node(node)?.kind == Kind::Directory {
            return Err(error(Errno::ISDIR));
        }
        world.take_away(dir.node, part, node)
    }

    fn stat_part(&self, dir: &SimHandle, part: &[u8]) -> io::Result<Stat> {
        let mut world = self.call("stat_part", &shown(part))?;
        let node = world.find(dir.node, part)?;
        world.stat(node)
    }

    fn stat(&self, handle: &SimHandle) -> io::Result<Stat> {
        self.call("stat", "")?.stat(handle.node)
    }

    fn born(&self, handle: &SimHandle) -> io::Result<Option<FileTime>> {
        Ok(Some(self.call("born", "")?.node(handle.node)?.born))
    }

    fn names(&self, dir: &SimHandle) -> io::Result<Self::Names> {
        dir.check_open()?;
        let mut world = self.call("names", "")?;
        let names: Vec<_> = world.node(dir.node)?.entries.keys().cloned().map(Ok).collect();
        Ok(names.into_iter())
    }

    fn names_at_once(&self, dir: &SimHandle, _: usize) -> io::Result<Option<KnownNames>> {
        dir.check_open()?;
        let mut world = self.call("names_at_once", "")?;
        Ok(Some(world.node(dir.node)?.entries.keys().collect()))
    }

    fn read_at(&self, file: &SimHandle, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut world = self.call("read_at", "")?;
        let data = &world.node(file.node)?.data;
        let rest = data.get(at as usize..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, file: &SimHandle, bytes: &[u8], at: u64) -> io::Result<usize> {
        let mut world = self.call("write_at", "")?;
        // Now and then less than all.
        let count =
            if world.calls.is_multiple_of(7) { bytes.len().div_ceil(2) } else { bytes.len() };
        let now = world.tick();
        let node = world.node(file.node)?;
        let at = at as usize;
        if node.data.len() < at {
            node.data.resize(at, 0);
        }
        // Only what is really missing: a loop over each byte is slow where nothing is optimised.
        let over = (node.data.len() - at).min(count);
        node.data[at..at + over].copy_from_slice(&bytes[..over]);
        node.data.extend_from_slice(&bytes[over..count]);
        (node.modified, node.changed) = (now, now);
        Ok(count)
    }

    fn truncate(&self, file: &SimHandle, size: u64) -> io::Result<()> {
        let mut world = self.call("truncate", "")?;
        world.node(file.node)?.data.resize(size as usize, 0);
        Ok(())
    }

    fn reserve(&self, _: &SimHandle, size: u64) -> io::Result<()> {
        let mut world = self.call("reserve", "")?;
        world.free_bytes = world.free_bytes.saturating_sub(size);
        Ok(())
    }

    fn set_mode(&self, file: &SimHandle, mode: Mode) -> io::Result<()> {
        let mut world = self.call("set_mode", "")?;
        world.node(file.node)?.mode = mode;
        Ok(())
    }

    fn set_modified(&self, file: &SimHandle, time: FileTime) -> io::Result<()> {
        let mut world = self.call("set_modified", "")?;
        world.node(file.node)?.modified = time;
        Ok(())
    }

    fn sync(&self, handle: &SimHandle) -> io::Result<()> {
        handle.check_open()?;
        let label = self.world().node(handle.node)?.label.clone();
        let mut world = match self.call("sync", &label) {
            Ok(world) => world,
            Err(error) => {
                self.world().node(handle.node)?.poisoned = true;
                return Err(error);
            }
        };
        if world.ignored.is_some_and(|ignored| ignored(&label)) {
            return Ok(());
        }
        let node = world.node(handle.node)?;
        if node.poisoned {
            return Ok(());
        }
        node.sync();
        if node.kind == Kind::File {
            return Ok(());
        }
        let pending = std::mem::take(&mut world.pending);
        let (now, later) = with_what_came_before(pending, |change| change.touches(handle.node));
        world.pending = later;
        for change in now {
            change.apply(&mut world.durable);
        }
        Ok(())
    }

    fn sync_file_system(&self, handle: &SimHandle) -> io::Result<()> {
        handle.check_open()?;
        let mut world = self.call("sync_file_system", "")?;
        if world.ignored.is_some_and(|ignored| ignored("file system")) {
            return Ok(());
        }
        world.nodes.values_mut().filter(|node| !node.poisoned).for_each(Node::sync);
        for change in std::mem::take(&mut world.pending) {
            change.apply(&mut world.durable);
        }
        Ok(())
    }

    fn lock(&self, handle: &SimHandle) -> io::Result<()> {
        let mut world = self.call("lock", "")?;
        let locks = &mut world.node(handle.node)?.locks;
        if locks.keys().any(|other| *other != handle.number) {
            return Err(error(Errno::WOULDBLOCK));
        }
        locks.insert(handle.number, Lock::Exclusive);
        Ok(())
    }

    fn lock_shared(&self, handle: &SimHandle) -> io::Result<()> {
        let mut world = self.call("lock_shared", "")?;
        let locks = &mut world.node(handle.node)?.locks;
        locks.remove(&handle.number);
        if locks.values().any(|lock| *lock == Lock::Exclusive) {
            return Err(error(Errno::WOULDBLOCK));
        }
        locks.insert(handle.number, Lock::Shared);
        Ok(())
    }

    fn medium(&self, _: &SimHandle) -> io::Result<Medium> {
        let free = self.call("medium", "")?.free_bytes;
        Ok(Medium { free, kind: MediumKind::Disk })
    }

    fn boot_id(&self) -> Option<String> {
        Some(self.world().device.to_string())
    }
}
