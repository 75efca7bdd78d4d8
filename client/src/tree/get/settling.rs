//! What has arrived is handed over, to be made durable in groups, and counted when it is.

use std::time::{Duration, Instant};

use ftx_disk::store::{Change, Settled};
use ftx_protocol::{Code, Refusal};

use super::Job;
use super::listing::mark_of;
use crate::spent::timed;
use crate::tree::TreeNotice;
use crate::tree::settle::{Answer, Item, Settler};

/// What is settled together: descriptors that are held open, and bytes that are not durable.
pub(super) const GROUP_ITEMS: usize = 256;

/// A group has the cost of a round, whatever is in it: fewer than these wait for others, as long as
/// the group before was handed over less than this ago.
const GROUP_ITEMS_MIN: usize = 64;

const GROUP_AGE: Duration = Duration::from_millis(10);

const GROUP_BYTES: u64 = 64 * 1024 * 1024;

/// Files that have come and are not settled, at most.
pub(super) const UNSETTLED_MAX: usize = 2 * GROUP_ITEMS;

impl Job<'_, '_> {
    /// Gives what has arrived to the settler when there is enough of it, or it has waited enough.
    pub(super) fn hand_over_when_due(&mut self) {
        let is_due = self.group.len() >= GROUP_ITEMS_MIN || self.handed_over.elapsed() >= GROUP_AGE;
        if is_due {
            self.hand_over_group();
        }
    }

    /// Gives what has arrived to the settler, if it has nothing to do, or if it is much.
    fn hand_over_group(&mut self) {
        let Some(settler) = &mut self.settler else { return self.group.clear() };
        if self.group.is_empty() {
            return;
        }
        if !settler.is_idle() {
            if self.group.len() < GROUP_ITEMS && self.group_bytes < GROUP_BYTES {
                return;
            }
            let answers = timed(&mut self.done.spent.sync, || settler.wait());
            self.settled(answers.unwrap_or_default());
        }
        if let Some(settler) = &mut self.settler {
            settler.settle(std::mem::take(&mut self.group));
            self.handed_over = Instant::now();
            self.group_bytes = 0;
        }
    }

    pub(super) fn take_answers(&mut self) {
        while let Some(answers) = self.settler.as_mut().and_then(Settler::answers) {
            self.settled(answers);
        }
    }

    /// Waits until there is room for further files that are not settled.
    pub(super) fn make_room(&mut self) {
        self.hand_over_group();
        if self.unsettled.len() >= UNSETTLED_MAX
            && let Some(settler) = &mut self.settler
        {
            let answers = timed(&mut self.done.spent.sync, || settler.wait());
            self.settled(answers.unwrap_or_default());
        }
    }

    /// Settles what has arrived, and waits for it.
    pub(super) fn settle_all(&mut self) {
        loop {
            self.leave_directories();
            self.hand_over_group();
            let Some(settler) = &mut self.settler else { return };
            let answers = timed(&mut self.done.spent.sync, || settler.wait());
            let Some(answers) = answers else { return };
            self.settled(answers);
            if self.group.is_empty() && self.settler.as_ref().is_none_or(Settler::is_idle) {
                self.leave_directories();
                if self.group.is_empty() {
                    return;
                }
            }
        }
    }

    fn settled(&mut self, answers: Vec<Answer>) {
        for answer in answers {
            match answer {
                Answer::File { number, result } => self.file_settled(number, result),
                Answer::Change { change, result } => self.changed(&change, result),
                Answer::Keep(checkpoint) => self.group.push(Item::Keep(checkpoint)),
            }
        }
        (self.observer)(TreeNotice::Waiting);
    }

    fn file_settled(&mut self, number: u64, result: Result<Settled, Refusal>) {
        let Some(file) = self.unsettled.remove(&number) else { return };
        match result {
            Ok(Settled::Stored(stored)) => {
                let (mark, durability) = (mark_of(&file.entry), self.tree.options.durability);
                let is_new = self.log.as_ref().is_none_or(|log| !log.has_done(&mark, durability));
                if let Some(log) = &mut self.log
                    && let Err(error) = log.add_done(&mark, durability)
                {
                    self.log = None;
                    let message = format!("cannot keep the log for going on later: {error}");
                    (self.observer)(TreeNotice::Warning(message));
                }
                self.count(&file, Some(stored.digest));
                // Those that are fetched once more, for want of a log or of what it says, are no progress.
                if is_new && self.done.files > self.done_most {
                    self.done_most = self.done.files;
                    self.patience.progress();
                }
            }
            Ok(Settled::Changed(_)) => {}
            Err(refusal) => self.fail_here(&file.path, &refusal),
        }
    }

    fn changed(&mut self, change: &Change, result: Result<Settled, Refusal>) {
        match (change, result) {
            // What could not be made gets no time either, and that is told already.
            (Change::MakeDirectory { name, modified: Some(_), .. }, Err(_))
                if self.visit.unmade.remove(name) => {}
            (Change::MakeDirectory { name, modified: None, .. }, Err(refusal)) => {
                self.visit.unmade.insert(name.clone());
                self.fail_here(name, &refusal);
            }
            (Change::Remove { name, .. }, Ok(_)) => {
                self.done.removed = self.done.removed.saturating_add(1);
                (self.observer)(TreeNotice::Removed { name: name.as_bytes() });
            }
            (
                Change::MakeDirectory { name, .. }
                | Change::Move { name, .. }
                | Change::Remove { name, .. },
                Err(refusal),
            ) => {
                let benign = matches!(change, Change::Remove { .. })
                    && matches!(refusal.code, Code::NotEmpty | Code::NotFound);
                if !benign {
                    self.fail_here(name, &refusal);
                }
            }
            _ => {}
        }
    }
}
