//! What was granted to a request, as storage heeds it.

use ftx_disk::store::{Naming, OldMode};
use ftx_protocol::{Condition, Name, Owner, Refusal};

use crate::server::access::{Grant, Lease, Share};

/// Travels with a job. Who may do everything, which most requests on a machine of one's own are, has
/// nothing to carry.
#[derive(Debug, Clone, Default)]
pub(in crate::server) struct Granted(Option<Box<Grant>>);

impl Granted {
    pub(in crate::server) fn new(grant: Grant) -> Self {
        let Grant { condition, within, owner, naming, old_mode, share, lease } = &grant;
        match (condition, within, owner, naming, old_mode, share, lease) {
            (None, None, None, Naming::AsAsked, OldMode::Replaced, None, Lease::Always) => {
                Self(None)
            }
            _ => Self(Some(Box::new(grant))),
        }
    }

    /// When a name may be taken, in place of what the request says.
    pub(in crate::server) fn condition(&self) -> Option<Condition> {
        self.0.as_ref()?.condition.clone()
    }

    /// See [`Grant::in_words`].
    pub(super) fn in_words(&self, refusal: Refusal) -> Refusal {
        match &self.0 {
            Some(grant) => grant.in_words(refusal),
            None => refusal,
        }
    }

    pub(super) fn within(&self) -> Option<&Name> {
        self.0.as_ref()?.within.as_ref()
    }

    pub(super) fn owner(&self) -> Option<&Owner> {
        self.0.as_ref()?.owner.as_ref()
    }

    pub(super) fn naming(&self) -> Naming {
        self.0.as_ref().map_or(Naming::AsAsked, |grant| grant.naming)
    }

    pub(super) fn old_mode(&self) -> OldMode {
        self.0.as_ref().map_or(OldMode::Replaced, |grant| grant.old_mode)
    }

    pub(super) fn share(&self) -> Option<&Share> {
        self.0.as_ref()?.share.as_ref()
    }

    /// Whether it still holds: to be asked before each part, and before a name is taken.
    ///
    /// # Errors
    /// When the token was taken back, or does not allow this any more, or its time is over; `busy` when nobody knows
    /// which tokens there are.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        self.0.as_ref().map_or(Ok(()), |grant| grant.lease.check())
    }
}
