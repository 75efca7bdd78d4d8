//! What the server lists, in the order in which it is walked here: directories entered and left,
//! files found, and those that need not be fetched.

use ftx_disk::store::{Change, OldMode, PRIVATE};
use ftx_protocol::message::{Entry, Unread};
use ftx_protocol::{Code, Condition, FileTime, Kind, Mode, Name, Parents, Refusal};

use super::logs::nothing_goes;
use super::{Earlier, File, Job, Left, Next, Open, Whole, Work, called};
use crate::failure::{Trouble, plain};
use crate::tree::folds::Apart;
use crate::tree::log::Log;
use crate::tree::rules::{PathKind, TakesPart};
use crate::tree::settle::Item;
use crate::tree::{Mood, TreeNotice, Update, mark};

/// What was skipped and is remembered, so that it is told once; 16 bytes each. Of more than these
/// some are told again after a break, and no worse.
const TOLD_MAX: usize = 16_384;

impl Job<'_, '_> {
    /// An entry of the listed tree.
    pub(super) fn seen(&mut self, entry: Entry) {
        let Some(path) = self.path_of(&entry.name) else { return };
        self.leave_to(Some(&path));
        if path.parts().next() == Some(PRIVATE) {
            if path.as_bytes() == PRIVATE {
                self.skip(&path, "the directory of an ftx server");
            }
            return;
        }
        let kind = PathKind::of(entry.kind);
        // Also what does not take part: something else here of that name, which the rules take, is not removed for it.
        if let Some(seen) = &mut self.seen
            && let Err(error) = seen.add(&seen_mark(path.as_bytes(), kind))
        {
            self.seen.take().into_iter().for_each(Log::remove);
            (self.observer)(TreeNotice::Warning(nothing_goes(&plain(&error))));
        }
        if self.tree.options.rules.takes_with_parents(path.as_bytes(), kind) == TakesPart::No {
            return;
        }
        if self.collides(&path) {
            return;
        }
        match entry.kind {
            Kind::Directory => self.enter(path, &entry),
            Kind::File => self.found(path, entry),
            Kind::Symlink => self.skip(&path, "a symlink"),
            Kind::Special => self.skip(&path, "a device, FIFO or socket"),
        }
    }

    /// Whether the disk takes something for another file or directory of the tree, which is told.
    fn collides(&mut self, path: &Name) -> bool {
        let Some(folds) = &mut self.folds else { return false };
        match folds.note(path) {
            Ok(Apart::Yes) => false,
            Ok(Apart::No) => {
                let words = "this disk takes it for another name of the tree, which differs only in \
                             upper and lower case; get it alone, with -o";
                self.fail_here(path, &Refusal::new(Code::UnstorableName, words));
                true
            }
            Err(error) => {
                self.folds = None;
                let message = format!("cannot note which names differ only in case: {error}");
                (self.observer)(TreeNotice::Warning(message));
                false
            }
        }
    }

    pub(super) fn path_of(&self, name: &Name) -> Option<Name> {
        let Some(top) = self.tree.name else { return Some(name.clone()) };
        let path = name.as_bytes().strip_prefix(top.as_bytes())?.strip_prefix(b"/")?;
        Name::parse(path).ok()
    }

    /// A directory is made before what is in it, with no more rights than it will have, except
    /// that its owner may write.
    fn enter(&mut self, path: Name, entry: &Entry) {
        let mode = Mode::new(entry.mode.bits() | 0o700);
        self.change(self.make_directory(path.clone(), None, mode));
        self.visit.way.push(Open { path, mtime: entry.mtime, mode: entry.mode });
    }

    pub(super) fn make_directory(
        &self,
        name: Name,
        modified: Option<FileTime>,
        mode: Mode,
    ) -> Change {
        Change::MakeDirectory {
            name,
            parents: Parents::Make,
            condition: Condition::Always,
            modified,
            mode: Some(mode),
            old_mode: OldMode::Replaced,
            durability: self.tree.options.durability,
        }
    }

    /// Directories that this path is not below are complete; one that is listed once more too, or the way would
    /// become longer than any name.
    pub(super) fn leave_to(&mut self, path: Option<&Name>) {
        while let Some(last) = self.visit.way.last()
            && path.is_none_or(|path| *path == last.path || !path.is_or_is_below(&last.path))
            && let Some(Open { path, mtime, mode }) = self.visit.way.pop()
        {
            let change = self.make_directory(path, Some(mtime), mode);
            self.visit.left.push_back(Left { barrier: self.next_number, change });
        }
    }

    pub(super) fn leave_directories(&mut self) {
        let Some(left) = self.visit.left.front() else { return };
        // Most of the time a file that has come tells, and not all need be looked at.
        if self.unsettled.first_key_value().is_some_and(|(&number, _)| number < left.barrier) {
            return;
        }
        let first = self.first_unsettled();
        while self.visit.left.front().is_some_and(|left| left.barrier <= first)
            && let Some(left) = self.visit.left.pop_front()
        {
            self.change(left.change);
        }
    }

    /// The first file that is not at its place, and may still come to be.
    fn first_unsettled(&self) -> u64 {
        let numbers = self.visit.under_way.values().filter_map(|work| match work {
            Work::Ask(file) | Work::Get { file, .. } => Some(file.number),
            Work::List | Work::Stopped => None,
        });
        let listed = self.visit.listed.iter().map(|file| file.number);
        let unsettled = self.unsettled.keys().copied();
        numbers.chain(listed).chain(unsettled).min().unwrap_or(self.next_number)
    }

    pub(super) fn change(&mut self, change: Change) {
        if self.tree.options.mood == Mood::Do {
            self.group.push(Item::Change(change));
        }
    }

    fn found(&mut self, path: Name, entry: Entry) {
        match self.found_again.checked_sub(1) {
            Some(left) => self.found_again = left,
            None => {
                self.found = self.found.saturating_add(1);
                (self.observer)(TreeNotice::Found { bytes: entry.size });
            }
        }
        if self.was_done(&path, &entry) {
            if let Some(left) = self.done_again.checked_sub(1) {
                self.done_again = left;
                return;
            }
            self.done.done_before = self.done.done_before.saturating_add(1);
            return (self.observer)(TreeNotice::Unchanged { name: path.as_bytes() });
        }
        if self.tree.options.update == Update::SizeAndTime && self.is_here(&path, &entry) {
            return self.unchanged(&path);
        }
        let (number, name) = (self.next_number, entry.name.clone());
        self.next_number = number.saturating_add(1);
        let next = match self.tree.options.update {
            Update::Digest => Next::Compare,
            Update::All | Update::SizeAndTime => Next::Fetch,
        };
        self.visit.listed.push_back(File { number, name, path, entry, next });
    }

    /// Whether it was done earlier, and is still here: the log does not know what became of it.
    fn was_done(&self, path: &Name, entry: &Entry) -> bool {
        let durability = self.tree.options.durability;
        self.done_earlier == Earlier::Something
            && self.log.as_ref().is_some_and(|log| log.has_done(&mark_of(entry), durability))
            && self.is_still_here(path, entry)
    }

    /// Whether what was moved earlier is here as it was moved: as far as a disk keeps times, and as this user may look.
    fn is_still_here(&self, path: &Name, entry: &Entry) -> bool {
        let Some(store) = &self.ground.store else { return false };
        match store.stat(path, None) {
            Ok(here) => {
                here.kind == Kind::File
                    && here.size == entry.size
                    && crate::tree::about_same_time(here.modified, entry.mtime)
            }
            Err(refusal) => refusal.code == Code::PermissionDenied,
        }
    }

    fn is_here(&self, path: &Name, entry: &Entry) -> bool {
        let Some(store) = &self.ground.store else { return false };
        store.stat(path, None).is_ok_and(|here| {
            here.kind == Kind::File
                && here.size == entry.size
                && crate::tree::same_time(here.modified, entry.mtime)
        })
    }

    pub(super) fn unchanged(&mut self, path: &Name) {
        self.done.unchanged = self.done.unchanged.saturating_add(1);
        (self.observer)(TreeNotice::Unchanged { name: path.as_bytes() });
    }

    pub(super) fn unread(&mut self, unread: &Unread) {
        self.whole = Whole::No;
        let name = unread.name.as_ref().or(self.tree.name);
        let refusal = Refusal::new(unread.code, unread.message.clone());
        let what = format!("list {}", called(name));
        let failure = Trouble::Refused(refusal).into_failure(&what, &self.client.server);
        match name.and_then(|name| self.path_of(name)) {
            Some(path) => self.fail(&path, &failure),
            None => self.fail_target(&failure),
        }
    }

    fn skip(&mut self, name: &Name, why: &'static str) {
        self.done.skipped = self.done.skipped.saturating_add(1);
        let mark = seen_mark(name.as_bytes(), PathKind::Other);
        if self.told.contains(&mark) {
            return;
        }
        if self.told.len() < TOLD_MAX {
            self.told.insert(mark);
        }
        (self.observer)(TreeNotice::Skipped { name: name.as_bytes(), why });
    }
}

/// What stands for a path among those that were seen, as what it was.
pub(super) fn seen_mark(path: &[u8], kind: PathKind) -> crate::tree::log::Mark {
    let kind: &[u8] = match kind {
        PathKind::Directory => b"directory",
        PathKind::Other => b"",
    };
    mark(path, 0, FileTime::nearest(0, 0), kind)
}

pub(super) fn mark_of(entry: &Entry) -> crate::tree::log::Mark {
    mark(entry.name.as_bytes(), entry.size, entry.mtime, b"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Client;
    use crate::retry::{Patience, Retry};
    use crate::tree::TreeOptions;
    use crate::tree::get::GetTree;
    use crate::tree::get::ground::Ground;

    #[test]
    fn a_directory_that_is_listed_again_and_again_does_not_make_the_way_longer() {
        let here = tempfile::tempdir().unwrap();
        let client = Client::new("127.0.0.1:1".parse().unwrap(), Retry::default());
        let options = TreeOptions { mood: Mood::Tell, ..TreeOptions::default() };
        let (name, target) = (Name::parse(b"tree").unwrap(), here.path().join("tree"));
        let tree = GetTree { name: Some(&name), target: &target, options: &options };
        let ground = Ground::look(&target).unwrap();
        let mut observer = |_: TreeNotice<'_>| {};
        let patience = Patience::new(Retry::default());
        let mut job = Job::new(&client, &tree, &ground, None, patience, &mut observer);
        let mut lengths = Vec::new();
        for name in ["tree/a", "tree/a", "tree/a/b", "tree/a/b", "tree/a"] {
            job.seen(Entry {
                name: Name::parse(name.as_bytes()).unwrap(),
                kind: Kind::Directory,
                size: 0,
                mtime: FileTime::nearest(0, 0),
                mode: Mode::new(0o755),
            });
            lengths.push(job.visit.way.len());
        }
        assert_eq!(lengths, [1, 1, 2, 2, 1]);
    }
}
