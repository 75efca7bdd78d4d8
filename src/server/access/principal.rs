//! Who somebody is.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ftx_protocol::server::NoMore;
use ftx_protocol::{Code, Owner, Refusal};

use super::policy::WithoutToken;
use super::rights::Rights;
use super::tokens::{Known, Tokens};

/// Who is at the other end of a connection.
#[derive(Debug)]
pub(in crate::server) enum Principal {
    /// Nobody yet, or after a login that failed: nothing.
    Nobody,
    /// No token, on an address that only this machine reaches: everything.
    Local,
    /// No token, where the server was told to serve such.
    Public(Rights),
    /// Who has a token.
    Token(Member),
}

/// Somebody with a token, and what the tokens file says of it.
#[derive(Debug)]
pub(in crate::server) struct Member {
    pub(super) tokens: Arc<Tokens>,
    pub(super) known: Arc<Known>,
    /// When that was what the file says.
    pub(super) generation: u64,
    /// What whoever has no token may see here: who has one may, too.
    pub(super) seen_by_all: Rights,
}

impl Member {
    /// One that came where this is allowed without a token.
    pub(super) fn where_allowed(self, without_token: WithoutToken) -> Self {
        let seen_by_all = match without_token {
            WithoutToken::Public(rights) => rights.reading(),
            // What this machine may do without a token, a token may be used to do without.
            WithoutToken::Local | WithoutToken::Nothing => Rights::NONE,
        };
        Self { seen_by_all, ..self }
    }

    /// What the token allows now.
    pub(super) fn renew(&mut self, now: SystemTime) -> Result<&Known, Refusal> {
        let generation = self.tokens.generation();
        if generation != self.generation {
            self.known = self.tokens.find(self.known.id)?;
            self.generation = generation;
        }
        self.known.check_time(now)?;
        Ok(&self.known)
    }
}

/// The refusal of what a token may not do because it is not known any more.
pub(super) fn gone() -> Refusal {
    NoMore::TokenGone.refusal()
}

/// Somebody's name, for the log.
#[derive(Debug, Clone)]
pub(in crate::server) enum Who {
    Nobody,
    Local,
    Public,
    Token(Arc<Known>),
}

impl Principal {
    pub(in crate::server) fn who(&self) -> Who {
        match self {
            Self::Nobody => Who::Nobody,
            Self::Local => Who::Local,
            Self::Public(_) => Who::Public,
            Self::Token(member) => Who::Token(Arc::clone(&member.known)),
        }
    }

    /// Whether its token is over. Who came without one is who he was; and where nobody knows which tokens there
    /// are, nobody is let do anything, but may stay until that is known, or until the end that was known is there.
    pub(in crate::server) fn check_token(&mut self, now: SystemTime) -> Result<(), NoMore> {
        let Self::Token(member) = self else { return Ok(()) };
        match member.renew(now).map(|_| ()) {
            Ok(()) => Ok(()),
            Err(refusal) if refusal.code == Code::Expired => Err(NoMore::TokenExpired),
            Err(refusal) if refusal.code == Code::Busy => {
                member.known.check_time(now).map_err(|_| NoMore::TokenExpired)
            }
            Err(_) => Err(NoMore::TokenGone),
        }
    }

    /// How much time its token has left, if that ends.
    pub(in crate::server) fn time_left(&self, now: SystemTime) -> Option<Duration> {
        match self {
            Self::Token(member) => member.known.time_left(now),
            Self::Nobody | Self::Local | Self::Public(_) => None,
        }
    }
}

impl Who {
    /// The token's id.
    pub(in crate::server) fn owner(&self) -> Option<Owner> {
        match self {
            Self::Nobody | Self::Local | Self::Public => None,
            Self::Token(known) => Some(known.id),
        }
    }

    /// The first digits of the token's id: names can be used again, ids are not.
    pub(in crate::server) fn token(&self) -> Option<String> {
        self.owner().map(|owner| owner.to_string().chars().take(8).collect())
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("nobody"),
            Self::Local => f.write_str("local"),
            Self::Public => f.write_str("public"),
            Self::Token(known) => known.name.fmt(f),
        }
    }
}
