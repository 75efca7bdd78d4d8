//! What was granted: it travels with a job, and is asked once more where the job takes effect.

use std::ops::Deref;
use std::sync::Arc;

use ftx_disk::store::{Naming, OldMode};
use ftx_protocol::{Code, Condition, Name, Owner, Refusal};

use super::principal::Member;
use super::rights::Rights;
use super::tokens::{Known, Tokens};
use super::usage::Share;

/// What was granted, as it travels with a job. Who may do everything, which most requests on a machine of one's own
/// are, has nothing to carry.
#[derive(Debug, Clone, Default)]
pub(in crate::server) struct Granted(Option<Box<Grant>>);

/// What goes without saying.
pub(super) static OF_ANYBODY: Grant = Grant::of_anybody();

impl Deref for Granted {
    type Target = Grant;

    fn deref(&self) -> &Grant {
        self.0.as_deref().unwrap_or(&OF_ANYBODY)
    }
}

impl From<Grant> for Granted {
    fn from(grant: Grant) -> Self {
        Self(Some(Box::new(grant)))
    }
}

/// What was granted. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::server) struct Grant {
    /// When the name may be taken, in place of what the request says.
    pub(in crate::server) condition: Option<Condition>,
    /// The directory that it is held to.
    pub(in crate::server) within: Option<Name>,
    /// Whose the transfer is; nobody's without a token.
    pub(in crate::server) owner: Option<Owner>,
    /// Which name a put takes.
    pub(in crate::server) naming: Naming,
    /// What becomes of the permissions of an old directory that is to be made.
    pub(in crate::server) old_mode: OldMode,
    /// The share that a put counts for; without a token there is none.
    pub(in crate::server) share: Option<Share>,
    /// Whether it still holds.
    pub(in crate::server) lease: Lease,
}

impl Grant {
    /// Of somebody without a token: as asked, for ever.
    pub(super) const fn of_anybody() -> Self {
        Self {
            condition: None,
            within: None,
            owner: None,
            naming: Naming::AsAsked,
            old_mode: OldMode::Replaced,
            share: None,
            lease: Lease::Always,
        }
    }

    /// Whether it still holds: to be asked before each part, and before a name is taken.
    ///
    /// # Errors
    /// When the token was taken back, or does not allow this any more, or its time is over; `busy` when nobody knows
    /// which tokens there are.
    pub(in crate::server) fn check(&self) -> Result<(), Refusal> {
        self.lease.check()
    }

    /// What somebody is told of a refusal: where a name had to be free because of what they may do, and not because
    /// they said so, that is the reason. In a drop box it is not: names have numbers there.
    pub(in crate::server) fn in_words(&self, refusal: Refusal) -> Refusal {
        let by_right = self.condition.is_some() && self.naming == Naming::AsAsked;
        if refusal.code != Code::Exists || !by_right {
            return refusal;
        }
        let why = match &self.lease {
            Lease::Always => {
                "without a token nobody may replace files here: log in with ftx login".to_owned()
            }
            Lease::Token { known, .. } => {
                format!("the token may not replace files: it may {}", known.rights)
            }
        };
        Refusal::new(Code::Exists, format!("something has the name already, and {why}"))
    }
}

/// Whether what was granted still holds: a token may be taken back while a body is under way.
#[derive(Debug, Clone)]
pub(in crate::server) enum Lease {
    /// It was granted without a token.
    Always,
    /// As long as the token allows it.
    Token {
        tokens: Arc<Tokens>,
        /// The token, as it was when it was granted.
        known: Arc<Known>,
        generation: u64,
        /// The rights by which it was granted.
        needs: Rights,
    },
}

impl Lease {
    pub(super) fn of(member: &Member, needs: Rights) -> Self {
        Self::Token {
            tokens: Arc::clone(&member.tokens),
            known: Arc::clone(&member.known),
            generation: member.generation,
            needs,
        }
    }

    /// Asks again. Cheap where nothing has changed: no lock, no system call. `busy` where nobody knows: what it was
    /// granted for is not to be destroyed for that.
    pub(in crate::server) fn check(&self) -> Result<(), Refusal> {
        let Self::Token { tokens, known, generation, needs } = self else { return Ok(()) };
        let now = tokens.now();
        if tokens.generation() == *generation {
            return known.check_time(now);
        }
        let current = tokens.find(known.id)?;
        current.check_time(now)?;
        if *needs == Rights::NONE {
            // What everybody may, wherever: only the token has to be there.
            return Ok(());
        }
        match current.rights.has_all(*needs) && current.under == known.under {
            true => Ok(()),
            false => Err(Refusal::new(Code::Denied, "the token does not allow this any more")),
        }
    }
}
