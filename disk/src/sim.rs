//! A simulated disk: it fails the call that it is told to fail, and at a crash it forgets what was
//! not synced: bytes, entries of directories and metadata, each for itself.
//!
//! It is as unkind as a disk may be. Numbers of inodes are given out again at once. A failed sync
//! is told once; what it should have written never gets to the disk, and later syncs say nothing of
//! it. The device has another number after a crash. Only a rename is one step, as it is on every
//! file system with a journal: it survives when either of its directories is synced.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ftx_protocol::{FileTime, Mode, Name};
use rustix::io::Errno;

use crate::sys::{Disk, FileKind, Medium, MediumKind, Stat, Want};

/// The disk. Clones are the same disk.
#[derive(Clone)]
pub(crate) struct Sim(Arc<Mutex<World>>);

/// Something held open.
pub(crate) struct SimHandle {
    sim: Sim,
    node: u64,
}

/// When calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The n-th call.
    Once(u64, Errno),
    /// The n-th call and all after it.
    FromThenOn(u64, Errno),
    /// Every call that needs room, as on a full disk.
    Full,
}

/// What another process does, once.
type Intruder = Box<dyn FnOnce(&Sim) + Send>;

struct World {
    /// By a number of their own, which is never used twice.
    nodes: BTreeMap<u64, Node>,
    next_node: u64,
    root: u64,
    device: u64,
    clock: i64,
    calls: u64,
    fault: Fault,
    /// Syncs of what has such a label are left out: for runs that must be found out.
    ignored: Option<fn(&str) -> bool>,
    log: Vec<String>,
    /// What another process does right before the call that the log will show so.
    intruder: Option<(&'static str, Intruder)>,
    /// What happened to directories and is not durable.
    pending: Vec<Change>,
    /// The entries that are.
    durable: BTreeMap<u64, BTreeMap<Vec<u8>, u64>>,
}

#[derive(Clone)]
struct Node {
    kind: FileKind,
    inode: u64,
    data: Vec<u8>,
    entries: BTreeMap<Vec<u8>, u64>,
    parent: u64,
    mode: Mode,
    modified: FileTime,
    changed: FileTime,
    links: u32,
    handles: u32,
    locked: bool,
    label: String,
    synced: Option<Synced>,
    poisoned: bool,
}

/// What of a file is durable.
#[derive(Clone)]
struct Synced {
    data: Vec<u8>,
    mode: Mode,
    modified: FileTime,
}

#[derive(Clone)]
enum Change {
    Add { dir: u64, part: Vec<u8>, node: u64 },
    Remove { dir: u64, part: Vec<u8> },
    Move { from: u64, from_part: Vec<u8>, to: u64, to_part: Vec<u8>, node: u64 },
}

impl Change {
    fn touches(&self, directory: u64) -> bool {
        match self {
            Self::Add { dir, .. } | Self::Remove { dir, .. } => *dir == directory,
            Self::Move { from, to, .. } => *from == directory || *to == directory,
        }
    }

    fn names(&self) -> Vec<(u64, Vec<u8>)> {
        match self {
            Self::Add { dir, part, .. } | Self::Remove { dir, part } => vec![(*dir, part.clone())],
            Self::Move { from, from_part, to, to_part, .. } => {
                vec![(*from, from_part.clone()), (*to, to_part.clone())]
            }
        }
    }

    fn apply(&self, durable: &mut BTreeMap<u64, BTreeMap<Vec<u8>, u64>>) {
        match self {
            Self::Add { dir, part, node } => {
                durable.entry(*dir).or_default().insert(part.clone(), *node);
            }
            Self::Remove { dir, part } => {
                durable.entry(*dir).or_default().remove(part);
            }
            Self::Move { from, from_part, to, to_part, node } => {
                durable.entry(*from).or_default().remove(from_part);
                durable.entry(*to).or_default().insert(to_part.clone(), *node);
            }
        }
    }
}

/// Parts what is chosen from the rest, both in their order. With a change goes what came before it
/// under the same name: no disk has a directory where it was and where it was moved to.
fn with_what_came_before(
    changes: Vec<Change>,
    mut is_chosen: impl FnMut(&Change) -> bool,
) -> (Vec<Change>, Vec<Change>) {
    let mut names = BTreeSet::new();
    let (mut chosen, mut rest) = (Vec::new(), Vec::new());
    for change in changes.into_iter().rev() {
        let of_change = change.names();
        if is_chosen(&change) || of_change.iter().any(|name| names.contains(name)) {
            names.extend(of_change);
            chosen.push(change);
        } else {
            rest.push(change);
        }
    }
    chosen.reverse();
    rest.reverse();
    (chosen, rest)
}

fn error(errno: Errno) -> io::Error {
    errno.into()
}

impl Sim {
    pub(crate) fn new() -> Self {
        let mut world = World {
            nodes: BTreeMap::new(),
            next_node: 1,
            root: 0,
            device: 40,
            clock: 1_000_000,
            calls: 0,
            fault: Fault::None,
            ignored: None,
            log: Vec::new(),
            intruder: None,
            pending: Vec::new(),
            durable: BTreeMap::new(),
        };
        world.root = world.make(FileKind::Directory, Mode::new(0o755), 0, "root");
        let root = world.root;
        world.node(root).unwrap().parent = root;
        world.node(root).unwrap().links = 1;
        Self(Arc::new(Mutex::new(world)))
    }

    /// Fails calls from now on, which count from 0 again.
    pub(crate) fn set_fault(&self, fault: Fault) {
        let mut world = self.world();
        world.fault = fault;
        world.calls = 0;
        world.log.clear();
    }

    /// Leaves out the syncs of whatever has such a label.
    pub(crate) fn ignore_syncs(&self, of: fn(&str) -> bool) {
        self.world().ignored = Some(of);
    }

    /// Has another process do something, once, right before such a call: "rename_new b", say.
    pub(crate) fn before(&self, call: &'static str, act: impl FnOnce(&Self) + Send + 'static) {
        self.world().intruder = Some((call, Box::new(act)));
    }

    /// Calls since the fault was set.
    pub(crate) fn calls(&self) -> u64 {
        self.world().calls
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.world().log.clone()
    }

    /// The machine loses its power. What is left is another disk; `seed` decides what of the rest
    /// survived.
    pub(crate) fn crash(&self, seed: u64) -> Self {
        let mut random = seed;
        let mut chance = move || {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            random >> 33
        };
        let old = self.world();
        let mut durable = old.durable.clone();
        let (survived, _) =
            with_what_came_before(old.pending.clone(), |_| chance().is_multiple_of(2));
        for change in survived {
            change.apply(&mut durable);
        }
        let new = Self::new();
        let mut world = new.world();
        world.device = old.device + 1;
        world.clock = old.clock + 100;
        world.next_node = old.next_node;
        world.nodes.clear();
        world.root = old.root;
        let mut ahead = vec![(old.root, old.root)];
        while let Some((number, parent)) = ahead.pop() {
            // A name on the disk may be that of a file which has lost it since.
            let mut node = old.nodes[&number].clone();
            node.parent = parent;
            node.handles = 0;
            node.locked = false;
            if let Some(there) = world.nodes.get_mut(&number) {
                there.links += 1;
                continue;
            }
            node.links = 1;
            node.survive(&mut chance);
            node.entries = durable.get(&number).cloned().unwrap_or_default();
            ahead.extend(node.entries.values().map(|child| (*child, number)));
            world.nodes.insert(number, node);
        }
        world.durable =
            durable.into_iter().filter(|(dir, _)| world.nodes.contains_key(dir)).collect();
        drop(world);
        new
    }

    /// The bytes under a name, for comparing.
    pub(crate) fn content(&self, path: &str) -> Option<Vec<u8>> {
        let world = self.world();
        let mut here = world.root;
        for part in path.split('/') {
            here = *world.nodes[&here].entries.get(part.as_bytes())?;
        }
        Some(world.nodes[&here].data.clone())
    }

    /// Everything under the root but the store's own directory: of a file its bytes, of a
    /// directory the bits of its mode.
    pub(crate) fn tree(&self) -> BTreeMap<String, Result<Vec<u8>, u32>> {
        let world = self.world();
        let mut tree = BTreeMap::new();
        let mut ahead = vec![(String::new(), world.root)];
        while let Some((path, number)) = ahead.pop() {
            for (part, child) in &world.nodes[&number].entries {
                let path = format!("{path}{}", shown(part));
                if path == ".ftx" {
                    continue;
                }
                let node = &world.nodes[child];
                if node.kind == FileKind::Directory {
                    ahead.push((format!("{path}/"), *child));
                    tree.insert(path, Err(node.mode.bits()));
                } else {
                    tree.insert(path, Ok(node.data.clone()));
                }
            }
        }
        tree
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call: counts it, and fails it if it is the one.
    fn call(&self, what: &str, label: &str) -> io::Result<MutexGuard<'_, World>> {
        let is_now = |intruder: &mut (&str, _)| intruder.0.split_once(' ') == Some((what, label));
        let intruder = self.world().intruder.take_if(is_now);
        if let Some((_, act)) = intruder {
            act(self);
        }
        let mut world = self.world();
        let number = world.calls;
        world.calls += 1;
        world.log.push(format!("{number} {what} {label}"));
        match world.fault {
            Fault::Once(nth, errno) if nth == number => Err(error(errno)),
            Fault::FromThenOn(nth, errno) if nth <= number => Err(error(errno)),
            Fault::Full
                if matches!(what, "create" | "create_nameless" | "make_directory" | "write_at") =>
            {
                Err(error(Errno::NOSPC))
            }
            _ => Ok(world),
        }
    }

    fn handle(&self, mut world: MutexGuard<'_, World>, node: u64) -> SimHandle {
        world.node(node).unwrap().handles += 1;
        drop(world);
        SimHandle { sim: self.clone(), node }
    }
}

impl Drop for SimHandle {
    fn drop(&mut self) {
        let mut world = self.sim.world();
        if let Some(node) = world.nodes.get_mut(&self.node) {
            node.handles -= 1;
            if node.handles == 0 {
                node.locked = false;
            }
        }
    }
}

impl Node {
    /// What a crash leaves of it. That is on the disk, and stays.
    fn survive(&mut self, chance: &mut impl FnMut() -> u64) {
        let nothing = Synced { data: Vec::new(), mode: self.mode, modified: self.modified };
        let synced = self.synced.take().unwrap_or(nothing);
        match chance() % 3 {
            // All of it got there by itself.
            0 if !self.poisoned => {}
            // The first part of it did.
            1 if !self.poisoned => {
                let end = chance() as usize % (self.data.len() + 1);
                let rest = synced.data.get(end..).unwrap_or_default();
                self.data.truncate(end);
                self.data.extend_from_slice(rest);
            }
            _ => {
                (self.data, self.mode, self.modified) = (synced.data, synced.mode, synced.modified)
            }
        }
        let (data, mode, modified) = (self.data.clone(), self.mode, self.modified);
        self.synced = Some(Synced { data, mode, modified });
        self.poisoned = false;
    }
}

impl World {
    fn node(&mut self, number: u64) -> io::Result<&mut Node> {
        self.nodes.get_mut(&number).ok_or_else(|| error(Errno::STALE))
    }

    fn make(&mut self, kind: FileKind, mode: Mode, parent: u64, label: &str) -> u64 {
        let used: BTreeSet<u64> = self
            .nodes
            .values()
            .filter(|node| node.links > 0 || node.handles > 0)
            .map(|node| node.inode)
            .collect();
        let inode = (2..).find(|inode| !used.contains(inode)).unwrap_or(u64::MAX);
        let now = self.tick();
        let node = Node {
            kind,
            inode,
            data: Vec::new(),
            entries: BTreeMap::new(),
            parent,
            mode,
            modified: now,
            changed: now,
            links: 0,
            handles: 0,
            locked: false,
            label: label.to_owned(),
            // A directory is on the disk, as it was made, when its entry is.
            synced: (kind == FileKind::Directory).then(|| Synced {
                data: Vec::new(),
                mode,
                modified: now,
            }),
            poisoned: false,
        };
        let number = self.next_node;
        self.next_node += 1;
        self.nodes.insert(number, node);
        number
    }

    fn tick(&mut self) -> FileTime {
        self.clock += 1;
        FileTime::nearest(self.clock, 0)
    }

    fn find(&mut self, dir: u64, part: &[u8]) -> io::Result<u64> {
        let node = self.node(dir)?;
        if node.kind != FileKind::Directory {
            return Err(error(Errno::NOTDIR));
        }
        node.entries.get(part).copied().ok_or_else(|| error(Errno::NOENT))
    }

    fn stat(&mut self, number: u64) -> io::Result<Stat> {
        let device = self.device;
        let node = self.node(number)?;
        Ok(Stat {
            kind: node.kind,
            device,
            inode: node.inode,
            size: node.data.len() as u64,
            mode: node.mode,
            owner: 0,
            modified: node.modified,
            changed: node.changed,
        })
    }

    fn check_writable(&mut self, directory: u64) -> io::Result<()> {
        let bits = self.node(directory)?.mode.bits();
        if bits & 0o300 == 0o300 { Ok(()) } else { Err(error(Errno::ACCESS)) }
    }

    /// Nothing gets into a directory that was removed and is still open.
    fn check_there(&mut self, directory: u64) -> io::Result<()> {
        if self.node(directory)?.links > 0 { Ok(()) } else { Err(error(Errno::NOENT)) }
    }

    fn check_empty(&mut self, directory: u64) -> io::Result<()> {
        if self.node(directory)?.entries.is_empty() { Ok(()) } else { Err(error(Errno::NOTEMPTY)) }
    }

    fn unlink(&mut self, number: u64) -> io::Result<()> {
        let now = self.tick();
        let node = self.node(number)?;
        node.links = node.links.saturating_sub(1);
        node.changed = now;
        Ok(())
    }
}

fn shown(part: &[u8]) -> String {
    String::from_utf8_lossy(part).into_owned()
}

impl Disk for Sim {
    type Handle = SimHandle;
    type Names = std::vec::IntoIter<io::Result<Vec<u8>>>;

    fn open_root(&self, _: &Path) -> io::Result<SimHandle> {
        let mut world = self.call("open_root", "")?;
        // A directory whose sync failed is not believed until a restart (ARCHITECTURE.md); what a
        // restart means is the operator's to know.
        for node in world.nodes.values_mut().filter(|node| node.kind == FileKind::Directory) {
            node.poisoned = false;
        }
        let root = world.root;
        Ok(self.handle(world, root))
    }

    fn open_beneath(&self, root: &SimHandle, name: &Name, want: Want) -> io::Result<SimHandle> {
        let mut world = self.call("open_beneath", &name.to_string())?;
        let mut here = root.node;
        for part in name.parts() {
            here = world.find(here, part)?;
        }
        if want == Want::Directory && world.node(here)?.kind != FileKind::Directory {
            return Err(error(Errno::NOTDIR));
        }
        Ok(self.handle(world, here))
    }

    fn open_part(&self, dir: &SimHandle, part: &[u8], want: Want) -> io::Result<SimHandle> {
        let mut world = self.call("open_part", &shown(part))?;
        let node = world.find(dir.node, part)?;
        if want == Want::Directory && world.node(node)?.kind != FileKind::Directory {
            return Err(error(Errno::NOTDIR));
        }
        Ok(self.handle(world, node))
    }

    fn open_parent(&self, dir: &SimHandle) -> io::Result<SimHandle> {
        let mut world = self.call("open_parent", "")?;
        let parent = world.node(dir.node)?.parent;
        Ok(self.handle(world, parent))
    }

    fn create(&self, dir: &SimHandle, part: &[u8], mode: Mode) -> io::Result<SimHandle> {
        let mut world = self.call("create", &shown(part))?;
        if world.find(dir.node, part).is_ok() {
            return Err(error(Errno::EXIST));
        }
        world.check_there(dir.node)?;
        let node = world.make(FileKind::File, mode, dir.node, &shown(part));
        world.node(node)?.links = 1;
        world.node(dir.node)?.entries.insert(part.to_vec(), node);
        world.pending.push(Change::Add { dir: dir.node, part: part.to_vec(), node });
        Ok(self.handle(world, node))
    }

    fn create_nameless(&self, dir: &SimHandle, mode: Mode) -> io::Result<SimHandle> {
        let mut world = self.call("create_nameless", "")?;
        world.check_there(dir.node)?;
        let node = world.make(FileKind::File, mode, dir.node, "nameless");
        Ok(self.handle(world, node))
    }

    fn link_nameless(&self, file: &SimHandle, dir: &SimHandle, part: &[u8]) -> io::Result<()> {
        let mut world = self.call("link_nameless", &shown(part))?;
        if world.find(dir.node, part).is_ok() {
            return Err(error(Errno::EXIST));
        }
        world.check_there(dir.node)?;
        let now = world.tick();
        let named = world.node(file.node)?;
        named.links += 1;
        named.changed = now;
        named.label = shown(part);
        world.node(dir.node)?.entries.insert(part.to_vec(), file.node);
        world.pending.push(Change::Add { dir: dir.node, part: part.to_vec(), node: file.node });
        Ok(())
    }

    fn make_directory(&self, dir: &SimHandle, part: &[u8], mode: Mode) -> io::Result<()> {
        let mut world = self.call("make_directory", &shown(part))?;
        if world.find(dir.node, part).is_ok() {
            return Err(error(Errno::EXIST));
        }
        world.check_there(dir.node)?;
        let node = world.make(FileKind::Directory, mode, dir.node, &shown(part));
        world.node(node)?.links = 1;
        world.node(dir.node)?.entries.insert(part.to_vec(), node);
        world.pending.push(Change::Add { dir: dir.node, part: part.to_vec(), node });
        Ok(())
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
                (FileKind::Directory, FileKind::Directory) => world.check_empty(old)?,
                (FileKind::Directory, _) => return Err(error(Errno::NOTDIR)),
                (_, FileKind::Directory) => return Err(error(Errno::ISDIR)),
                _ => {}
            }
            world.unlink(old)?;
        }
        if world.node(node)?.kind == FileKind::Directory {
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
        world.node(node)?.links += 1;
        world.node(dir.node)?.entries.insert(new_part.to_vec(), node);
        world.pending.push(Change::Add { dir: dir.node, part: new_part.to_vec(), node });
        Ok(())
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
        if world.node(node)?.kind != FileKind::Directory {
            return Err(error(Errno::NOTDIR));
        }
        world.check_empty(node)?;
        world.unlink(node)?;
        world.node(dir.node)?.entries.remove(part);
        world.pending.push(Change::Remove { dir: dir.node, part: part.to_vec() });
        Ok(())
    }

    fn remove(&self, dir: &SimHandle, part: &[u8]) -> io::Result<()> {
        let mut world = self.call("remove", &shown(part))?;
        world.check_writable(dir.node)?;
        let node = world.find(dir.node, part)?;
        if world.node(node)?.kind == FileKind::Directory {
            return Err(error(Errno::ISDIR));
        }
        world.unlink(node)?;
        world.node(dir.node)?.entries.remove(part);
        world.pending.push(Change::Remove { dir: dir.node, part: part.to_vec() });
        Ok(())
    }

    fn stat_part(&self, dir: &SimHandle, part: &[u8]) -> io::Result<Stat> {
        let mut world = self.call("stat_part", &shown(part))?;
        let node = world.find(dir.node, part)?;
        world.stat(node)
    }

    fn stat(&self, handle: &SimHandle) -> io::Result<Stat> {
        self.call("stat", "")?.stat(handle.node)
    }

    fn names(&self, dir: &SimHandle) -> io::Result<Self::Names> {
        let mut world = self.call("names", "")?;
        let names: Vec<_> = world.node(dir.node)?.entries.keys().cloned().map(Ok).collect();
        Ok(names.into_iter())
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

    fn reserve(&self, _: &SimHandle, _: u64) -> io::Result<()> {
        self.call("reserve", "").map(drop)
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
        let (mode, modified) = (node.mode, node.modified);
        node.synced = Some(Synced { data: node.data.clone(), mode, modified });
        if node.kind == FileKind::File {
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

    fn lock(&self, handle: &SimHandle) -> io::Result<()> {
        let mut world = self.call("lock", "")?;
        let node = world.node(handle.node)?;
        if std::mem::replace(&mut node.locked, true) {
            Err(error(Errno::WOULDBLOCK))
        } else {
            Ok(())
        }
    }

    fn medium(&self, _: &SimHandle) -> io::Result<Medium> {
        drop(self.call("medium", "")?);
        Ok(Medium { free: 1 << 40, kind: MediumKind::Disk })
    }

    fn boot_id(&self) -> Option<String> {
        Some(self.world().device.to_string())
    }
}
