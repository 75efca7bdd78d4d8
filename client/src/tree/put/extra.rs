//! The removal of what the sources do not have.

use std::rc::Rc;

use ftx_disk::sys::{Disk, Native, Want};
use ftx_protocol::message::{self, Remove};
use ftx_protocol::{Code, Depth, Name, Refusal, RequestId};

use super::{Job, Root, Work};
use crate::failure::Trouble;
use crate::tree::pipe::PIPE_REQUESTS_MAX;
use crate::tree::remove::Removal;
use crate::tree::{Extra, Mood, TreeNotice};

/// Directories that are asked to have their times again before the next ones are.
const EMPTIED_MAX: usize = PIPE_REQUESTS_MAX / 2;

/// A tree of which everything was seen, to be listed for the removal of what it does not have.
pub(super) struct Whole {
    root: Rc<Root>,
    look: Look,
    /// What was come upon last that goes as a whole.
    gone: Option<Name>,
}

/// What became of the listings of a tree before this one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// There was none.
    First,
    /// The connection broke before everything was removed that it had.
    Anew,
    /// It is the one that is under way. What is removed has changed directories before all of their names were read, so
    /// that some may be missing.
    Changed,
    /// There was one like that. What changes now is changed by others, as far as one can tell.
    Second,
}

impl Whole {
    pub(super) fn new(root: Rc<Root>) -> Self {
        Self { root, look: Look::First, gone: None }
    }

    fn again(self, look: Look) -> Self {
        Self { look, ..Self::new(self.root) }
    }
}

impl Job<'_, '_> {
    /// Begins the next listing, or allows more of the one that runs. `false` when there is nothing
    /// to do, or to wait for.
    pub(super) fn remove_on(&mut self) -> Result<bool, Trouble> {
        if self.options.extra == Extra::Keep {
            return Ok(false);
        }
        if let Some(removal) = &mut self.removal {
            let Some(id) = removal.allow_more() else { return Ok(false) };
            self.pipe()?.make(|machine, out, _| machine.more(id, out));
            return Ok(true);
        }
        // Nothing is removed while something may still come.
        if !self.under_way.is_empty() || !self.left.is_empty() {
            return Ok(false);
        }
        if let Some(whole) = self.listed.take()
            && whole.look == Look::Changed
        {
            self.whole.push(whole.again(Look::Second));
        }
        // Those of a tree that is listed once more wait until all is removed: what every connection can do is no progress.
        let is_first = self.whole.last().is_none_or(|whole| whole.look == Look::First);
        if is_first && !self.emptied.is_empty() {
            self.leave_emptied();
            return Ok(true);
        }
        if self.whole.is_empty() {
            return Ok(false);
        }
        if self.done.failed > 0 || !self.denied.is_empty() {
            self.whole.clear();
            let what = if self.done.removed == 0 { "nothing" } else { "nothing more" };
            let message =
                format!("{what} was removed, because not everything could be read and put");
            (self.observer)(TreeNotice::Warning(message));
            return Ok(!self.emptied.is_empty());
        }
        let Some(root) = self.whole.last().map(|whole| Rc::clone(&whole.root)) else {
            return Ok(false);
        };
        let list = message::List {
            id: RequestId(0),
            name: Some(root.name.clone()),
            depth: Depth::All,
            need: Vec::new(),
        };
        self.request(Work::List, |machine, out, now| machine.list(list, out, now))?;
        if let Some((&id, _)) = self.under_way.last_key_value() {
            self.removal = Some(Removal::new(id, root));
        }
        Ok(true)
    }

    pub(super) fn compare_listed(&mut self, listed: &message::Entries) -> Result<(), Trouble> {
        let Some(removal) = self.removal.as_mut().filter(|removal| removal.id() == listed.id)
        else {
            return Ok(());
        };
        let (rules, durability) = (&self.options.rules, self.options.durability);
        let Some(go) = removal.compare(&listed.entries, rules, durability) else {
            return Err(crate::tree::listed_too_much());
        };
        let root = Rc::clone(removal.root());
        let mut gone: Vec<Name> = Vec::new();
        gone.extend(self.whole.last_mut().and_then(|whole| whole.gone.take()));
        let at_once = go.iter().filter(|remove| remove.depth == Depth::All);
        gone.extend(at_once.map(|remove| remove.name.clone()));
        self.remove_from(&root, go);
        for unread in &listed.unread {
            let Some(name) = &unread.name else { continue };
            // It may have gone before it was listed; and what is in it does not matter.
            if gone.iter().any(|gone| name.is_or_is_below(gone)) {
                continue;
            }
            if unread.code == Code::Changed && self.is_to_be_listed_again(name) {
                continue;
            }
            let refusal = Refusal::new(unread.code, unread.message.clone());
            let what = format!("list {name}, to remove what is not in the source");
            let failure = Trouble::Refused(refusal).into_failure(&what, &self.client.server);
            self.fail(name.as_bytes(), &failure);
        }
        if let Some(whole) = self.whole.last_mut() {
            whole.gone = gone.pop();
        }
        Ok(())
    }

    /// Whether it may be the removal that has changed this directory, so that another listing tells more of it.
    fn is_to_be_listed_again(&mut self, name: &Name) -> bool {
        // Who only tells changes nothing.
        if self.options.mood == Mood::Tell || !self.emptied.contains_key(name) {
            return false;
        }
        match self.whole.last_mut() {
            Some(whole) if whole.look != Look::Second => {
                whole.look = Look::Changed;
                true
            }
            _ => false,
        }
    }

    pub(super) fn end_removal(&mut self) {
        self.listed = self.whole.pop();
        if let Some(removal) = self.removal.take() {
            let root = Rc::clone(removal.root());
            self.remove_from(&root, removal.end(self.options.durability));
        }
    }

    /// Asks for nothing to be removed that was to be when the connection broke: the tree is listed once more, and looked at
    /// once more here. What it did not have may be there and be put by now.
    pub(super) fn remove_anew(&mut self) {
        if self.removal.take().is_some() {
            self.listed = self.whole.pop();
        }
        self.whole.extend(self.listed.take().map(|whole| whole.again(Look::Anew)));
        self.again.retain(|work| !matches!(work, Work::Remove(_)));
    }

    fn remove_from(&mut self, root: &Rc<Root>, go: Vec<Remove>) {
        for remove in go {
            if let Some(parent) = remove.name.parent() {
                self.emptied.insert(parent, Rc::clone(root));
            }
            self.again.push_back(Work::Remove(remove));
        }
    }

    /// A directory from which something was removed has the time of that, and gets its own again. Some of them at a time:
    /// after a break they are among those that were left, of which there are never so many that there is no room for more.
    fn leave_emptied(&mut self) {
        for _ in 0..EMPTIED_MAX {
            let Some((name, root)) = self.emptied.pop_first() else { return };
            let path = name.as_bytes().strip_prefix(root.name.as_bytes());
            let path = path.and_then(|path| path.strip_prefix(b"/"));
            let stat = match path.map(Name::parse) {
                None => Native.stat(&root.handle),
                Some(Ok(path)) => Native
                    .open_beneath(&root.handle, &path, Want::Way)
                    .and_then(|directory| Native.stat(&directory)),
                Some(Err(_)) => continue,
            };
            // What is not here has gone there too.
            if let Ok(stat) = stat {
                self.mkdir(self.mkdir_with_time(name, &stat));
            }
        }
    }

    pub(super) fn removed(&mut self, name: &Name) {
        self.done.removed = self.done.removed.saturating_add(1);
        (self.observer)(TreeNotice::Removed { name: name.as_bytes() });
    }

    pub(super) fn not_removed(&mut self, remove: &message::Remove, refusal: Refusal) {
        match refusal.code {
            // Something that is excluded is in it; or somebody else was faster.
            Code::NotEmpty | Code::NotFound => {}
            _ => {
                let what = format!("remove {}", remove.name);
                let failure = Trouble::Refused(refusal).into_failure(&what, &self.client.server);
                self.fail(remove.name.as_bytes(), &failure);
            }
        }
    }
}
