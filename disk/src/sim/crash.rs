//! What is durable, and what a crash leaves of the rest.

use std::collections::{BTreeMap, BTreeSet};

use ftx_protocol::{FileTime, Mode};

use super::{Node, Sim};

impl Sim {
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
            node.locks.clear();
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
}

/// What of a file is durable.
#[derive(Clone)]
pub(super) struct Synced {
    pub(super) data: Vec<u8>,
    pub(super) mode: Mode,
    pub(super) modified: FileTime,
}

#[derive(Clone)]
pub(super) enum Change {
    Add { dir: u64, part: Vec<u8>, node: u64 },
    Remove { dir: u64, part: Vec<u8> },
    Move { from: u64, from_part: Vec<u8>, to: u64, to_part: Vec<u8>, node: u64 },
}

impl Change {
    pub(super) fn touches(&self, directory: u64) -> bool {
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

    pub(super) fn apply(&self, durable: &mut BTreeMap<u64, BTreeMap<Vec<u8>, u64>>) {
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
pub(super) fn with_what_came_before(
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

impl Node {
    /// All of it is on the disk.
    pub(super) fn sync(&mut self) {
        let (data, mode, modified) = (self.data.clone(), self.mode, self.modified);
        self.synced = Some(Synced { data, mode, modified });
    }

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
        self.sync();
        self.poisoned = false;
    }
}
