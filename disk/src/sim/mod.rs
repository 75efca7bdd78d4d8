//! A simulated disk: it fails the call that it is told to fail, and at a crash it forgets what was
//! not synced: bytes, entries of directories and metadata, each for itself.
//!
//! It is as unkind as a disk may be. Numbers of inodes are given out again at once. A failed sync
//! is told once; what it should have written never gets to the disk, and later syncs say nothing of
//! it. The device has another number after a crash. Only a rename is one step, as it is on every
//! file system with a journal: it survives when either of its directories is synced.

mod calls;
mod crash;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crash::{Change, Synced};
use ftx_protocol::{FileTime, Kind, Mode};
use rustix::io::Errno;

use crate::lock::lock;
use crate::sys::{Stat, Want};

/// The disk. Clones are the same disk.
#[derive(Clone)]
pub(crate) struct Sim(Arc<Mutex<World>>);

/// Something held open.
pub(crate) struct SimHandle {
    sim: Sim,
    node: u64,
    /// Of its own: a lock is that of a handle.
    number: u64,
    want: Want,
}

/// How a handle has locked what it holds open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lock {
    Exclusive,
    Shared,
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
    next_handle: u64,
    root: u64,
    device: u64,
    clock: i64,
    calls: u64,
    fault: Fault,
    /// What the medium says; reserving takes of it, and nothing gives back.
    free_bytes: u64,
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
    kind: Kind,
    inode: u64,
    data: Vec<u8>,
    entries: BTreeMap<Vec<u8>, u64>,
    parent: u64,
    mode: Mode,
    modified: FileTime,
    changed: FileTime,
    born: FileTime,
    links: u32,
    handles: u32,
    /// By handles.
    locks: BTreeMap<u64, Lock>,
    label: String,
    synced: Option<Synced>,
    poisoned: bool,
}

impl Sim {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(World::new())))
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

    /// What there is room for from now on.
    pub(crate) fn set_free(&self, bytes: u64) {
        self.world().free_bytes = bytes;
    }

    /// Calls since the fault was set.
    pub(crate) fn calls(&self) -> u64 {
        self.world().calls
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.world().log.clone()
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
                if node.kind == Kind::Directory {
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
        lock(&self.0)
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

    fn handle(&self, mut world: MutexGuard<'_, World>, node: u64, want: Want) -> SimHandle {
        world.node(node).unwrap().handles += 1;
        let number = world.next_handle;
        world.next_handle += 1;
        drop(world);
        SimHandle { sim: self.clone(), node, number, want }
    }
}

impl SimHandle {
    /// What is on the way to something cannot be read or synced.
    fn check_open(&self) -> io::Result<()> {
        if self.want == Want::Way { Err(error(Errno::BADF)) } else { Ok(()) }
    }
}

impl Drop for SimHandle {
    fn drop(&mut self) {
        let mut world = self.sim.world();
        if let Some(node) = world.nodes.get_mut(&self.node) {
            node.handles -= 1;
            node.locks.remove(&self.number);
        }
    }
}

impl World {
    /// An empty disk.
    fn new() -> Self {
        let mut world = World {
            nodes: BTreeMap::new(),
            next_node: 1,
            next_handle: 0,
            root: 0,
            device: 40,
            clock: 1_000_000,
            calls: 0,
            fault: Fault::None,
            free_bytes: 1 << 40,
            ignored: None,
            log: Vec::new(),
            intruder: None,
            pending: Vec::new(),
            durable: BTreeMap::new(),
        };
        world.root = world.make(Kind::Directory, Mode::new(0o755), 0, "root");
        let root = world.root;
        world.node(root).unwrap().parent = root;
        world.node(root).unwrap().links = 1;
        world
    }

    fn node(&mut self, number: u64) -> io::Result<&mut Node> {
        self.nodes.get_mut(&number).ok_or_else(|| error(Errno::STALE))
    }

    fn make(&mut self, kind: Kind, mode: Mode, parent: u64, label: &str) -> u64 {
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
            born: now,
            links: 0,
            handles: 0,
            locks: BTreeMap::new(),
            label: label.to_owned(),
            // A directory is on the disk, as it was made, when its entry is.
            synced: (kind == Kind::Directory).then(|| Synced {
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
        if node.kind != Kind::Directory {
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

    fn check_wanted(&mut self, number: u64, want: Want) -> io::Result<()> {
        match (want, self.node(number)?.kind) {
            (Want::File, _) | (Want::Directory | Want::Way, Kind::Directory) => Ok(()),
            (Want::Directory | Want::Way, _) => Err(error(Errno::NOTDIR)),
        }
    }

    /// Whether something may be made under this name.
    fn check_free(&mut self, directory: u64, part: &[u8]) -> io::Result<()> {
        match self.find(directory, part) {
            Ok(_) => Err(error(Errno::EXIST)),
            Err(_) => self.check_there(directory),
        }
    }

    /// Whoever opens it is its owner, and not root.
    fn check_readable(&mut self, number: u64, want: Want) -> io::Result<()> {
        let bits = self.node(number)?.mode.bits();
        if want == Want::Way || bits & 0o400 == 0o400 { Ok(()) } else { Err(error(Errno::ACCESS)) }
    }

    /// The same, for going on from it.
    fn check_searchable(&mut self, directory: u64) -> io::Result<()> {
        let bits = self.node(directory)?.mode.bits();
        if bits & 0o100 == 0o100 { Ok(()) } else { Err(error(Errno::ACCESS)) }
    }

    /// The same, for reading and writing.
    fn check_changeable(&mut self, number: u64) -> io::Result<()> {
        let bits = self.node(number)?.mode.bits();
        if bits & 0o600 == 0o600 { Ok(()) } else { Err(error(Errno::ACCESS)) }
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

    /// Gives something a name, of which the disk does not know yet.
    fn add(&mut self, directory: u64, part: &[u8], node: u64) -> io::Result<()> {
        self.node(node)?.links += 1;
        self.node(directory)?.entries.insert(part.to_vec(), node);
        self.pending.push(Change::Add { dir: directory, part: part.to_vec(), node });
        Ok(())
    }

    /// The other way round.
    fn take_away(&mut self, directory: u64, part: &[u8], node: u64) -> io::Result<()> {
        self.unlink(node)?;
        self.node(directory)?.entries.remove(part);
        self.pending.push(Change::Remove { dir: directory, part: part.to_vec() });
        Ok(())
    }

    fn unlink(&mut self, number: u64) -> io::Result<()> {
        let now = self.tick();
        let node = self.node(number)?;
        node.links = node.links.saturating_sub(1);
        node.changed = now;
        Ok(())
    }
}

fn error(errno: Errno) -> io::Error {
    errno.into()
}

fn shown(part: &[u8]) -> String {
    String::from_utf8_lossy(part).into_owned()
}
