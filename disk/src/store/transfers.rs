//! The transfers that the store knows: which can be resumed, and which are complete.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ftx_protocol::{Code, Owner, Refusal, TransferId};

use super::record::{Begun, Complete};
use super::{Completeness, Held, Shared, lock};
use crate::hash::{Running, Saved};

/// Complete transfers that are remembered, so that a lost acknowledgement can be replayed: many
/// times what one connection may have in flight, in a few megabytes.
pub(super) const COMPLETE_MAX: usize = 8_192;

/// A transfer that can be resumed.
pub(super) struct Partial {
    pub(super) begun: Begun,
    /// What is durable, and promised.
    pub(super) kept: Kept,
    /// Raised when the transfer changes hands: what was begun under an older number is void.
    pub(super) epoch: u64,
    pub(super) use_: Use,
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
pub(super) struct Transfers {
    table: Mutex<Table>,
}

struct Table {
    partial: HashMap<TransferId, Shared<Partial>>,
    complete: HashMap<TransferId, Arc<Complete>>,
    /// Complete ones, oldest first.
    order: VecDeque<TransferId>,
}

impl Transfers {
    pub(super) fn new() -> Self {
        let table =
            Table { partial: HashMap::new(), complete: HashMap::new(), order: VecDeque::new() };
        Self { table: Mutex::new(table) }
    }

    pub(super) fn partial(&self, transfer: &TransferId) -> Option<Shared<Partial>> {
        lock(&self.table).partial.get(transfer).cloned()
    }

    pub(super) fn complete(&self, transfer: &TransferId) -> Option<Arc<Complete>> {
        lock(&self.table).complete.get(transfer).cloned()
    }

    pub(super) fn partials(&self) -> usize {
        lock(&self.table).partial.len()
    }

    /// Adds a transfer that is begun.
    pub(super) fn insert(&self, transfer: TransferId, partial: Partial) -> Shared<Partial> {
        let partial = Arc::new(Mutex::new(partial));
        lock(&self.table).partial.insert(transfer, Arc::clone(&partial));
        partial
    }

    pub(super) fn remove(&self, transfer: &TransferId) {
        lock(&self.table).partial.remove(transfer);
    }

    /// Moves a transfer to the complete ones; the oldest of these is forgotten.
    pub(super) fn completed(&self, complete: Arc<Complete>) {
        let mut table = lock(&self.table);
        let transfer = complete.committed.transfer;
        table.partial.remove(&transfer);
        if table.complete.insert(transfer, complete).is_none() {
            table.order.push_back(transfer);
        }
        while table.order.len() > COMPLETE_MAX {
            if let Some(oldest) = table.order.pop_front() {
                table.complete.remove(&oldest);
            }
        }
    }

    /// A commit did not come about after all, or nobody knows whether it did.
    pub(super) fn uncompleted(&self, transfer: &TransferId) {
        let mut table = lock(&self.table);
        if table.complete.remove(transfer).is_some() {
            table.order.retain(|other| other != transfer);
        }
    }

    pub(super) fn partials_of(&self, _owner: Option<&Owner>) -> usize {
        self.partials()
    }

    pub(super) fn held(&self, transfer: &TransferId, _owner: Option<&Owner>) -> Held {
        if let Some(complete) = self.complete(transfer) {
            return Held {
                at: complete.committed.size,
                digest: Some(complete.committed.digest),
                complete: Completeness::Complete,
            };
        }
        let nothing = Held { at: 0, digest: None, complete: Completeness::Partial };
        let Some(partial) = self.partial(transfer) else { return nothing };
        let mut partial = lock(&partial);
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
                },
                Err(_) => nothing,
            },
            Kept::Nothing | Kept::Lost => nothing,
        }
    }

    /// Takes out the transfers that were idle for `ttl`.
    pub(super) fn take_expired(&self, ttl: Duration, running: Duration) -> Vec<Shared<Partial>> {
        let mut expired = Vec::new();
        lock(&self.table).partial.retain(|_, shared| {
            // One that is locked is being worked on.
            let Ok(mut partial) = shared.try_lock() else { return true };
            match partial.use_ {
                Use::Busy => true,
                Use::Idle => {
                    partial.use_ = Use::IdleSince(running);
                    true
                }
                Use::IdleSince(since) => {
                    let stays = running.saturating_sub(since) < ttl;
                    if !stays {
                        expired.push(Arc::clone(shared));
                    }
                    stays
                }
            }
        });
        expired
    }
}

impl Partial {
    /// Refuses whoever began under an older epoch.
    pub(super) fn check_epoch(&self, epoch: u64) -> Result<(), Refusal> {
        if self.epoch == epoch { Ok(()) } else { Err(Code::TakenOver.into()) }
    }
}
