//! The removal of what the server does not have.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use ftx_disk::store::{Change, PRIVATE};
use ftx_disk::sys::{Disk, Native};
use ftx_disk::walk::{Step, Walk};
use ftx_protocol::{Depth, Kind, Name};

use super::listing::seen_mark;
use super::settling::GROUP_ITEMS;
use super::{Job, Whole, called};
use crate::failure::{Class, Failure, Trouble};
use crate::tree::log::Log;
use crate::tree::rules::{PathKind, TakesPart};
use crate::tree::settle::Item;
use crate::tree::{Extra, Mood, TreeNotice};

/// What is gone through for. What is to go takes no memory, however much it is.
#[derive(Clone, Copy)]
enum Pass {
    /// To see whether all can be looked at.
    Look,
    Remove,
}

/// What becomes of what is here.
#[derive(Clone, Copy)]
enum Fate {
    Stays,
    /// A directory that the server has: something in it may go.
    IsEntered,
    /// One that it does not have, with something in it that rules may keep: what is in it goes, and then itself.
    GoesInParts,
    Goes,
}

/// For each pass one.
fn walks(path: &Path) -> io::Result<[Walk<Native>; 2]> {
    let root = Arc::new(Native.open_root(path)?);
    Ok([Walk::new(Native, Arc::clone(&root))?, Walk::new(Native, root)?])
}

impl Job<'_, '_> {
    /// Removes what the server does not have.
    pub(super) fn remove_extra(&mut self) -> Result<(), Failure> {
        if self.tree.options.extra == Extra::Keep {
            return Ok(());
        }
        let Some(seen) = self.seen.take() else {
            // Why is told already.
            let message = format!(
                "get {}: nothing was removed, because what the server has could not be noted",
                called(self.tree.name)
            );
            self.fail_target(&Failure::new(Class::Local, message));
            return Ok(());
        };
        if self.whole == Whole::No || self.done.failed > 0 {
            let message = "nothing was removed, because not everything could be listed and got";
            (self.observer)(TreeNotice::Warning(message.to_owned()));
            self.seen = Some(seen);
            return Ok(());
        }
        let failed = |error: &io::Error| Failure::local("cannot read", &self.ground.path, error);
        let walks = match walks(&self.ground.path) {
            Ok(walks) => walks,
            Err(error) => {
                seen.remove();
                let is_gone = error.kind() == io::ErrorKind::NotFound;
                return if is_gone { Ok(()) } else { Err(failed(&error)) };
            }
        };
        let removed = self.remove_unseen(walks, &seen);
        seen.remove();
        let what = format!("get {}", called(self.tree.name));
        removed.map_err(|trouble| trouble.into_failure(&what, &self.client.server))
    }

    /// Removes what was not seen at the server, if all can be looked at.
    fn remove_unseen(
        &mut self,
        [look, remove]: [Walk<Native>; 2],
        seen: &Log,
    ) -> Result<(), Trouble> {
        self.go_through(look, seen, Pass::Look)?;
        if self.done.failed > 0 {
            let message = "nothing was removed, because not everything here could be looked at";
            (self.observer)(TreeNotice::Warning(message.to_owned()));
            return Ok(());
        }
        self.go_through(remove, seen, Pass::Remove)
    }

    /// Comes to what was not seen at the server; of a directory to what was not, and then to itself, if rules may have
    /// kept something in it.
    fn go_through(
        &mut self,
        mut walk: Walk<Native>,
        seen: &Log,
        pass: Pass,
    ) -> Result<(), Trouble> {
        let mut emptied: BTreeSet<Vec<u8>> = BTreeSet::new();
        // Directories that were entered and in which something goes: they have their time already, and get it again.
        let mut changed: BTreeSet<Name> = BTreeSet::new();
        while let Some(step) = walk.next() {
            self.client.interrupt.check()?;
            let (path, depth) = match step {
                Step::Seen { part, .. } if part == PRIVATE && walk.depth() == 0 => continue,
                Step::Seen { part, stat } => {
                    let path = walk.path_of(&part);
                    match self.fate_of(&path, stat.kind, seen) {
                        Fate::Stays => continue,
                        Fate::Goes => (path, Depth::All),
                        fate @ (Fate::IsEntered | Fate::GoesInParts) => {
                            match (walk.enter(), fate) {
                                (Ok(()), Fate::GoesInParts) => drop(emptied.insert(path)),
                                (Ok(()), _) => {}
                                (Err(error), _) => self.fail_unread(&path, &error),
                            }
                            continue;
                        }
                    }
                }
                Step::Left { part, stat } => {
                    let path = walk.path_of(&part);
                    let name = Name::parse(&path).ok().filter(|name| changed.remove(name));
                    if !emptied.remove(&path) {
                        if let Some(name) = name {
                            self.change(self.make_directory(name, Some(stat.modified), stat.mode));
                        }
                        continue;
                    }
                    (path, Depth::One)
                }
                Step::Unread { part, error } => {
                    self.fail_unread(&walk.path_of(part.as_deref().unwrap_or(b"")), &error);
                    continue;
                }
            };
            let Ok(name) = Name::parse(&path) else { continue };
            match pass {
                Pass::Look => {}
                Pass::Remove => {
                    changed.extend(name.parent());
                    self.remove(name, depth);
                }
            }
        }
        Ok(())
    }

    /// What becomes of what is come to here.
    fn fate_of(&self, path: &[u8], kind: Kind, seen: &Log) -> Fate {
        let rules = &self.tree.options.rules;
        let path_kind = PathKind::of(kind);
        if rules.takes_with_parents(path, path_kind) == TakesPart::No {
            return Fate::Stays;
        }
        let has = |kind| seen.has(&seen_mark(path, kind));
        // What could not be looked up stays, with all that is in it.
        let (Ok(is_directory_there), Ok(is_other_there)) =
            (has(PathKind::Directory), has(PathKind::Other))
        else {
            return Fate::Stays;
        };
        match (path_kind, is_directory_there, is_other_there) {
            // What the server has as something else was passed over, and so is what is below it here.
            (_, false, true) => Fate::Stays,
            (PathKind::Directory, true, _) => Fate::IsEntered,
            (PathKind::Other, true, _) => Fate::Stays,
            (PathKind::Directory, false, false) if !rules.is_empty() => Fate::GoesInParts,
            (_, false, false) => Fate::Goes,
        }
    }

    /// What cannot be looked into stays, though there may be something in it that is to go.
    fn fail_unread(&mut self, path: &[u8], error: &io::Error) {
        let shown = self.ground.path.join(OsStr::from_bytes(path));
        let failure = Failure::local("cannot read", &shown, error);
        self.done.count_failure(&failure);
        (self.observer)(TreeNotice::Failed { name: path, failure: &failure });
    }

    pub(super) fn remove(&mut self, name: Name, depth: Depth) {
        if self.tree.options.mood == Mood::Tell {
            self.done.removed = self.done.removed.saturating_add(1);
            return (self.observer)(TreeNotice::Removed { name: name.as_bytes() });
        }
        let durability = self.tree.options.durability;
        self.group.push(Item::Change(Change::Remove { name, depth, durability }));
        if self.group.len() >= GROUP_ITEMS {
            self.settle_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Client;
    use crate::interrupt::Interrupt;
    use crate::retry::{Patience, Retry};
    use crate::tree::TreeOptions;
    use crate::tree::get::GetTree;
    use crate::tree::get::ground::Ground;

    #[test]
    fn a_removal_that_is_interrupted_ends() {
        let here = tempfile::tempdir().unwrap();
        let target = here.path().join("tree");
        std::fs::create_dir(&target).unwrap();
        for part in ["a", "b", "c"] {
            std::fs::write(target.join(part), "x").unwrap();
        }
        let interrupt = Interrupt::default();
        let client = Client::new("127.0.0.1:1".parse().unwrap(), Retry::default())
            .with_interrupt(interrupt.clone());
        let options = TreeOptions { mood: Mood::Tell, ..TreeOptions::default() };
        let name = Name::parse(b"tree").unwrap();
        let tree = GetTree { name: Some(&name), target: &target, options: &options };
        let ground = Ground::look(&target).unwrap();
        let mut removed = 0;
        let mut observer = |_: TreeNotice<'_>| {
            removed += 1;
            interrupt.flag().store(true, std::sync::atomic::Ordering::Release);
        };
        let patience = Patience::new(Retry::default());
        let mut job = Job::new(&client, &tree, &ground, None, patience, &mut observer);
        let seen = Log::open(&here.path().join("seen")).unwrap().unwrap();
        let end = job.remove_unseen(walks(&target).unwrap(), &seen);
        assert!(matches!(end, Err(Trouble::Interrupted)));
        drop(job);
        assert_eq!(removed, 1);
    }
}
