//! The transfers that the store knows: which can be resumed, which are complete, and whose they are.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ftx_protocol::{Code, Owner, Refusal, TransferId};

use super::record::{Begun, Complete};
use super::{Completeness, Held, Shared, lock};
use crate::hash::{Running, Saved};
use crate::syncs::Syncs;

/// Complete transfers that are remembered, so that a lost acknowledgement can be replayed: twice what
/// one connection may have in flight. Each is 0.7 KiB, half of it what the journal is written anew from, and its names,
/// which both share: 7 MiB with names of 100 bytes, 38 MiB with the longest.
const COMPLETE_MAX: usize = 8_192;

/// Fewer, where they would be more than this in the journal: names in letters that JSON writes as six bytes, or several for
/// each put. It is more than those of one round have, and less than what `--min-free` leaves to write it anew.
const COMPLETE_BYTES_MAX: usize = 48 * 1024 * 1024;

/// What complete transfers are in the journal, in bytes: to tell when the oldest has to go.
#[derive(Debug, Clone, Default)]
pub(super) struct JournalBytes(usize);

impl JournalBytes {
    pub(super) fn add(&mut self, complete: &Complete) {
        self.0 = self.0.saturating_add(complete.committed.journal_bytes());
    }

    pub(super) fn take(&mut self, complete: &Complete) {
        self.0 = self.0.saturating_sub(complete.committed.journal_bytes());
    }

    /// Whether so many transfers, which are these bytes, are more than are remembered.
    pub(super) fn is_too_much(&self, transfers: usize) -> bool {
        transfers > COMPLETE_MAX || self.0 > COMPLETE_BYTES_MAX
    }
}

/// A transfer that can be resumed.
pub(super) struct Partial {
    pub(super) begun: Begun,
    /// What is durable, and promised.
    pub(super) kept: Kept,
    /// Raised when the transfer changes hands: what was begun under an older number is void.
    pub(super) epoch: u64,
    pub(super) use_: Use,
    /// Those of its staged file, whoever had it.
    pub(super) syncs: Arc<Syncs>,
}

/// What is durable of a transfer.
pub(super) enum Kept {
    /// Nothing, and the journal does not know it.
    Nothing,
    /// Up to the offset of this state.
    UpTo(Saved),
    /// It is over: the disk failed, or it was dropped.
    Lost,
}

/// Whether somebody works on a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Busy,
    Idle,
    /// Idle, and was so when the server had been running for this long.
    IdleSince(Duration),
}

/// The table.
#[derive(Default)]
pub(super) struct Transfers {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    partial: HashMap<TransferId, Known>,
    /// How many of these each owner has; none that has none.
    owners: HashMap<Option<Owner>, usize>,
    complete: HashMap<TransferId, Arc<Complete>>,
    /// Complete ones, oldest first.
    order: VecDeque<TransferId>,
    complete_bytes: JournalBytes,
}

/// A transfer that can be resumed, and whose it is, without locking it.
struct Known {
    partial: Shared<Partial>,
    owner: Option<Owner>,
}

impl Table {
    fn count_of(&self, owner: Option<Owner>) -> usize {
        self.owners.get(&owner).copied().unwrap_or(0)
    }

    fn enter(&mut self, transfer: TransferId, partial: Partial) -> Shared<Partial> {
        let owner = partial.begun.owner;
        let partial = Arc::new(Mutex::new(partial));
        let known = Known { partial: Arc::clone(&partial), owner };
        self.owners.insert(owner, self.count_of(owner).saturating_add(1));
        if let Some(earlier) = self.partial.insert(transfer, known) {
            uncount(&mut self.owners, earlier.owner);
        }
        partial
    }

    fn leave(&mut self, transfer: &TransferId) {
        if let Some(known) = self.partial.remove(transfer) {
            uncount(&mut self.owners, known.owner);
        }
    }
}

fn uncount(owners: &mut HashMap<Option<Owner>, usize>, owner: Option<Owner>) {
    if let Entry::Occupied(mut count) = owners.entry(owner) {
        match count.get().checked_sub(1) {
            None | Some(0) => drop(count.remove()),
            Some(less) => *count.get_mut() = less,
        }
    }
}

impl Transfers {
    pub(super) fn partial(&self, transfer: &TransferId) -> Option<Shared<Partial>> {
        lock(&self.table).partial.get(transfer).map(|known| Arc::clone(&known.partial))
    }

    pub(super) fn complete(&self, transfer: &TransferId) -> Option<Arc<Complete>> {
        lock(&self.table).complete.get(transfer).cloned()
    }

    pub(super) fn partials(&self) -> usize {
        lock(&self.table).partial.len()
    }

    /// Counts a transfer of this owner that is about to begin. What is looked at first and counted later would be too
    /// many, where many begin at once.
    ///
    /// # Errors
    /// [`Code::Quota`] when the owner has as many as it may.
    pub(super) fn announce(
        &self,
        owner: Option<Owner>,
        max: Option<usize>,
    ) -> Result<Announced<'_>, Refusal> {
        let mut table = lock(&self.table);
        let count = table.count_of(owner);
        match max {
            Some(max) if count >= max => {
                let message = format!(
                    "you have {max} unfinished uploads, the most that are kept: finish some, or \
                     wait until they are given up"
                );
                Err(Refusal::new(Code::Quota, message))
            }
            _ => {
                table.owners.insert(owner, count.saturating_add(1));
                Ok(Announced { transfers: self, owner })
            }
        }
    }

    /// Adds a transfer.
    pub(super) fn insert(&self, transfer: TransferId, partial: Partial) -> Shared<Partial> {
        lock(&self.table).enter(transfer, partial)
    }

    pub(super) fn remove(&self, transfer: &TransferId) {
        lock(&self.table).leave(transfer);
    }

    /// Moves a transfer to the complete ones; the oldest of these is forgotten.
    pub(super) fn completed(&self, complete: Arc<Complete>) {
        let mut table = lock(&self.table);
        let transfer = complete.committed.transfer;
        table.leave(&transfer);
        table.complete_bytes.add(&complete);
        match table.complete.insert(transfer, complete) {
            Some(before) => table.complete_bytes.take(&before),
            None => table.order.push_back(transfer),
        }
        while table.complete_bytes.is_too_much(table.complete.len())
            && let Some(oldest) = table.order.pop_front()
        {
            if let Some(complete) = table.complete.remove(&oldest) {
                table.complete_bytes.take(&complete);
            }
        }
    }

    pub(super) fn is_of(&self, transfer: &TransferId, owner: Option<&Owner>) -> bool {
        let table = lock(&self.table);
        table.partial.get(transfer).is_some_and(|known| known.owner.as_ref() == owner)
    }

    #[cfg(test)]
    pub(super) fn partials_of(&self, owner: Option<&Owner>) -> usize {
        lock(&self.table).count_of(owner.copied())
    }

    pub(super) fn held(&self, transfer: &TransferId, owner: Option<&Owner>) -> Held {
        let nothing = Held { at: 0, digest: None, complete: Completeness::Partial, name: None };
        if let Some(complete) = self.complete(transfer) {
            if complete.committed.owner.as_ref() != owner {
                return nothing;
            }
            return Held {
                at: complete.committed.size,
                digest: Some(complete.committed.digest),
                complete: Completeness::Complete,
                name: Some(complete.committed.name.clone()),
            };
        }
        let Some(partial) = self.partial(transfer) else { return nothing };
        let mut partial = lock(&partial);
        if partial.begun.owner.as_ref() != owner {
            return nothing;
        }
        partial.epoch = partial.epoch.saturating_add(1);
        if let Use::IdleSince(_) = partial.use_ {
            partial.use_ = Use::Idle;
        }
        match &partial.kept {
            Kept::UpTo(saved) => match Running::restore(saved) {
                Ok(running) => Held {
                    at: running.offset(),
                    digest: Some(running.digest()),
                    complete: Completeness::Partial,
                    name: Some(partial.begun.name.clone()),
                },
                Err(_) => nothing,
            },
            Kept::Nothing | Kept::Lost => nothing,
        }
    }

    /// Those who have begun transfers that are not complete.
    pub(super) fn owners(&self) -> Vec<Owner> {
        lock(&self.table).owners.keys().copied().flatten().collect()
    }

    /// Takes out the transfers of an owner that nobody works on; who has found one meanwhile finds it gone.
    pub(super) fn take_owned(&self, owner: Owner) -> Vec<Shared<Partial>> {
        let Table { partial, owners, .. } = &mut *lock(&self.table);
        let lose = |known: &Known| match known.partial.try_lock() {
            Ok(mut partial) if partial.use_ != Use::Busy => {
                partial.kept = Kept::Lost;
                true
            }
            // One that is locked is being worked on.
            _ => false,
        };
        let taken = partial.extract_if(|_, known| known.owner == Some(owner) && lose(known));
        taken
            .map(|(_, known)| {
                uncount(owners, known.owner);
                known.partial
            })
            .collect()
    }

    /// Takes out all transfers that are not complete.
    pub(super) fn take_all(&self) -> Vec<Shared<Partial>> {
        let Table { partial, owners, .. } = &mut *lock(&self.table);
        owners.clear();
        partial.drain().map(|(_, known)| known.partial).collect()
    }

    /// Takes out the transfers that were idle for `ttl`; who has found one meanwhile finds it gone.
    pub(super) fn take_expired(&self, ttl: Duration, running: Duration) -> Vec<Shared<Partial>> {
        let mut expired = Vec::new();
        let Table { partial, owners, .. } = &mut *lock(&self.table);
        partial.retain(|_, known| {
            // One that is locked is being worked on.
            let Ok(mut partial) = known.partial.try_lock() else { return true };
            match partial.use_ {
                Use::Busy => true,
                Use::Idle => {
                    partial.use_ = Use::IdleSince(running);
                    true
                }
                Use::IdleSince(since) => {
                    let stays = running.saturating_sub(since) < ttl;
                    if !stays {
                        partial.kept = Kept::Lost;
                        expired.push(Arc::clone(&known.partial));
                        uncount(owners, known.owner);
                    }
                    stays
                }
            }
        });
        expired
    }
}

/// A transfer that is about to begin, and counts until this is dropped.
pub(super) struct Announced<'a> {
    transfers: &'a Transfers,
    owner: Option<Owner>,
}

impl Announced<'_> {
    /// It has begun.
    pub(super) fn insert(self, transfer: TransferId, partial: Partial) -> Shared<Partial> {
        let mut table = lock(&self.transfers.table);
        let partial = table.enter(transfer, partial);
        // Not for a moment is it counted twice.
        uncount(&mut table.owners, self.owner);
        drop(table);
        std::mem::forget(self);
        partial
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        uncount(&mut lock(&self.transfers.table).owners, self.owner);
    }
}

impl Partial {
    /// Refuses whoever began under an older epoch.
    pub(super) fn check_epoch(&self, epoch: u64) -> Result<(), Refusal> {
        if self.epoch == epoch { Ok(()) } else { Err(Code::TakenOver.into()) }
    }
}
