//! `.ftx`: the store's own directory in the root. [`crate::reserved`] keeps peers out of it.

use std::sync::Mutex;

use ftx_protocol::{Code, Name, Refusal};

use super::journal::Journal;
use super::trash::Trash;
use crate::syncs::Syncs;
use crate::sys::Disk;

/// The store's own directory in the root.
pub const PRIVATE: &[u8] = b".ftx";

/// Where files are until they take their names.
pub(super) const STAGING: &[u8] = b"staging";

/// Where what was removed is until its room is given back.
pub(super) const TRASH: &[u8] = b"trash";

/// The file whose lock says that a server runs.
pub const LOCK: &[u8] = b"lock";

/// What a store that writes has of its own.
pub(super) struct Private<D: Disk> {
    /// `.ftx`.
    pub(super) directory: D::Handle,
    pub(super) staging: D::Handle,
    pub(super) staging_syncs: Syncs,
    pub(super) trash: Trash<D>,
    pub(super) journal: Mutex<Journal<D>>,
    /// Held for its lock.
    pub(super) _lock: D::Handle,
    /// Permissions that the process's umask leaves of 0o666.
    pub(super) default_mode: ftx_protocol::Mode,
    pub(super) nameless: Nameless,
}

/// Whether files can be made without a name here, and be given one later: half of the price of an
/// entry in staging, and nobody has to wait for the lock of that directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nameless {
    Possible,
    Impossible,
}

/// Refuses a name that is spelled as the store's own, before anything is looked up.
pub(super) fn check_spelling(name: &Name) -> Result<(), Refusal> {
    match name.parts().next() {
        Some(first) if first == PRIVATE => Err(Code::ReservedName.into()),
        _ => Ok(()),
    }
}
