//! What the journal says.

use ftx_protocol::{Algorithm, Condition, Digest, Durability, Name, Owner, TransferId};
use serde::{Deserialize, Serialize};

use crate::hash::Saved;
use crate::identity::{Identity, Inode};

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Record {
    /// A store was opened, for this many-th time. Part of the name of each file that it stages, so
    /// that no name in staging is ever used twice.
    Run { number: u64 },
    /// A transfer that can be resumed. Written with its first progress.
    Begin(Begun),
    /// The first bytes of a transfer are durable, and this is their running digest.
    Progress { transfer: TransferId, digest: Saved },
    /// A file is whole and durable in staging and is about to take its name.
    Commit(Committed),
    /// It has its name, durably, and is this. Not synced: it follows from the disk otherwise.
    Done { transfer: TransferId, file: Identity },
    /// Nothing of the transfer that has this file in staging counts any more.
    Drop { transfer: TransferId, staged: String },
}

/// What a resumed put must fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Begun {
    pub(super) transfer: TransferId,
    /// Its file in staging.
    pub(super) staged: String,
    pub(super) inode: Inode,
    pub(super) name: Name,
    pub(super) algorithm: Algorithm,
    pub(super) size: Option<u64>,
    pub(super) survival: Survival,
    /// To anybody else the transfer is unknown. `None`: it was begun without a token, or before
    /// there were any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<Owner>,
}

/// What a replayed acknowledgement says, and what a restart needs to finish the rename.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Committed {
    pub(super) transfer: TransferId,
    pub(super) staged: String,
    pub(super) inode: Inode,
    pub(super) name: Name,
    pub(super) size: u64,
    pub(super) digest: Digest,
    #[serde(default, rename = "if", skip_serializing_if = "Condition::is_always")]
    pub(super) condition: Condition,
    pub(super) durability: Durability,
    pub(super) survival: Survival,
    /// As in [`Begun`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<Owner>,
    /// The directory that whoever put it is held to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) within: Option<Name>,
    /// The name that was asked for, where the file gets another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) asked: Option<Name>,
}

/// A transfer that is complete, or is about to be.
#[derive(Debug, Clone)]
pub(super) struct Complete {
    pub(super) committed: Committed,
    pub(super) outcome: Outcome,
}

/// What is known of a rename.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Only that it was to happen.
    Pending,
    /// It happened, and the name held this file then.
    Named(Identity),
}

/// How long the bytes behind a record can be relied on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Survival {
    /// They were synced before the record was.
    Synced,
    /// They are in the memory of this boot of the machine. `None`: the system does not tell one
    /// boot from the next, so only until the program ends.
    Boot(Option<String>),
}

impl Committed {
    /// Its bytes in the journal, at most: a name that is not UTF-8 takes a third more there, and of others some letters
    /// six bytes. Which it is takes longer to find out.
    pub(super) fn journal_bytes(&self) -> usize {
        const REST_BYTES: usize = 768;
        let names = [Some(&self.name), self.within.as_ref(), self.asked.as_ref()];
        let bytes = names.into_iter().flatten().map(|name| {
            let bytes = name.as_bytes();
            let escaped = |byte: &&u8| **byte < b' ' || matches!(**byte, b'"' | b'\\');
            let escapes = bytes.iter().filter(escaped).count();
            bytes.len().saturating_mul(4).div_ceil(3).saturating_add(escapes.saturating_mul(5))
        });
        bytes.fold(REST_BYTES, usize::saturating_add)
    }

    /// The name that the put has, whatever name its file gets.
    pub(super) fn asked(&self) -> &Name {
        self.asked.as_ref().unwrap_or(&self.name)
    }
}

impl Survival {
    pub(super) fn of(durability: Durability, boot_id: Option<&String>) -> Self {
        match durability {
            Durability::None => Self::Boot(boot_id.cloned()),
            // What is in memory and was synced survives as long as its file system does.
            Durability::Memory | Durability::Full => Self::Synced,
        }
    }

    /// Whether the bytes are there after a restart, given the boot that it is now.
    pub(super) fn reaches(&self, boot_id: Option<&String>) -> bool {
        match self {
            Self::Synced => true,
            Self::Boot(then) => then.is_some() && then.as_ref() == boot_id,
        }
    }
}
