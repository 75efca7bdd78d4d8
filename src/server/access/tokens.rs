//! The tokens that a running server knows: what the file says, at most 50 ms ago.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use ftx_protocol::ids::Owner;
use ftx_protocol::token::Token;
use ftx_protocol::{Code, Name, Refusal};

use super::clock::Clock;
use super::file::{TokenName, TokensError};
use super::principal::Member;
use super::rights::Rights;
use super::usage::{Account, Share};

/// A line of the tokens file.
#[derive(Debug)]
pub(in crate::server) struct Known {
    pub(super) id: Owner,
    pub(super) name: TokenName,
    pub(super) rights: Rights,
    pub(super) under: Option<Name>,
    pub(super) expires: Option<SystemTime>,
    pub(super) max_bytes: Option<u64>,
    pub(super) max_partials: u32,
    pub(super) account: Arc<Account>,
}

impl Known {
    pub(super) fn share(&self) -> Share {
        Share {
            account: Arc::clone(&self.account),
            max_bytes: self.max_bytes,
            max_partials: self.max_partials,
        }
    }

    pub(super) fn check_time(&self, now: SystemTime) -> Result<(), Refusal> {
        match self.expires {
            Some(end) if now >= end => Err(Code::Expired.into()),
            Some(_) | None => Ok(()),
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(in crate::server) struct Tokens {
    clock: Clock,
}

impl Tokens {
    /// Reads the tokens in a state directory; makes an empty file if there is none.
    pub(in crate::server) fn open(_state: &Path) -> Result<Arc<Self>, TokensError> {
        Ok(Arc::new(Self { clock: Clock::new() }))
    }

    /// Keeps the tokens as the file has them until the answer is dropped.
    pub(in crate::server) fn watch(self: &Arc<Self>) -> std::io::Result<Watch> {
        Ok(Watch {})
    }

    pub(in crate::server) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// Rises whenever the tokens change.
    pub(in crate::server) fn generation(&self) -> u64 {
        0
    }

    pub(super) fn find(&self, _id: Owner) -> Option<Arc<Known>> {
        None
    }

    pub(super) fn login(
        self: &Arc<Self>,
        _token: &Token,
        _now: SystemTime,
    ) -> Result<Member, Refusal> {
        Err(Code::LoginFailed.into())
    }
}

/// The thread that looks at the file. Ends when it is dropped, and writes down what was used.
#[derive(Debug)]
pub(in crate::server) struct Watch {}
