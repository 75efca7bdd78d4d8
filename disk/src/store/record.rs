//! What the journal says.

use ftx_protocol::{Algorithm, Condition, Digest, Durability, Name, TransferId};
use serde::{Deserialize, Serialize};

use crate::hash::Saved;
use crate::identity::Inode;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Record {
    /// A transfer that can be resumed. Written with its first progress.
    Begin(Begun),
    /// The first bytes of a transfer are durable, and this is their running digest.
    Progress { transfer: TransferId, digest: Saved },
    /// A file is whole and durable in staging and is about to take its name.
    Commit(Committed),
    /// Nothing of the transfer counts any more.
    Drop { transfer: TransferId },
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
