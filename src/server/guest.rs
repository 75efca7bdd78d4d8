//! Who is at the other end of a connection: from its first byte, when that is nobody, to its last.
//!
//! Owns what a connection has for that. One in plain from this machine, which may do everything and
//! is not counted, has nothing of it once it has said hello. Knows no socket and no message.

use std::sync::Arc;
use std::time::Duration;

use ftx_channel::ServerConfig;
use ftx_protocol::server::NoMore;
use ftx_protocol::token::Token;
use ftx_protocol::{Code, Refusal, Time};

use super::access::{self, Channel, Gate, Granted, Operation, Policy, Principal, Transport, Who};
use super::doors::Pass;

/// The resolution of [`Time`].
const TICK: Duration = Duration::from_millis(1);

/// What all connections come into.
pub(super) struct House {
    pub(super) gate: Gate,
    /// How TLS is spoken, if it is.
    pub(super) tls: Option<Arc<ServerConfig>>,
}

/// See the module.
pub(super) struct Guest {
    house: Arc<House>,
    policy: Policy,
    pass: Pass,
    principal: Principal,
    /// When the time of its token is over, as far as is known.
    token_ends: Option<Time>,
}

impl Guest {
    pub(super) fn new(house: Arc<House>, policy: Policy, pass: Pass) -> Self {
        let principal = Principal::Nobody;
        Self { house, policy, pass, principal, token_ends: None }
    }

    pub(super) fn tls(&self) -> Option<&Arc<ServerConfig>> {
        self.house.tls.as_ref()
    }

    /// Whether it may speak in plain.
    pub(super) fn transport(&self) -> Transport {
        self.policy.transport
    }

    /// Finds out who it is.
    ///
    /// # Errors
    /// When it is not admitted: it is nobody after that, too.
    pub(super) fn log_in(
        &mut self,
        token: Option<&Token>,
        over: Channel,
        now: Time,
    ) -> Result<(), Refusal> {
        let gate = &self.house.gate;
        match gate.admit(token, self.policy, over, gate.now()) {
            Ok(principal) => {
                self.principal = principal;
                self.pass.greeted();
                self.note_end(now);
                Ok(())
            }
            Err(refusal) => {
                // Who has no token, or one whose time is over, does not guess.
                if refusal.code == Code::LoginFailed {
                    self.pass.failed(now);
                }
                Err(refusal)
            }
        }
    }

    /// Whether its token is still good.
    ///
    /// # Errors
    /// When it was removed, or its time is over.
    pub(super) fn check_token(&mut self, now: Time) -> Result<(), NoMore> {
        self.token_ends = None;
        self.principal.check_token(self.house.gate.now())?;
        self.note_end(now);
        Ok(())
    }

    fn note_end(&mut self, now: Time) {
        let left = self.principal.time_left(self.house.gate.now());
        // Not before: then it would not be over.
        self.token_ends = left.map(|left| now.after(left.saturating_add(TICK)));
    }

    /// Whether it is held to nothing and counted nowhere.
    pub(super) fn is_at_home(&self) -> bool {
        matches!(self.principal, Principal::Local) && self.pass.is_free()
    }

    pub(super) fn who(&self) -> Who {
        self.principal.who()
    }

    pub(super) fn authorize(&mut self, operation: &Operation<'_>) -> Result<Granted, Refusal> {
        let now = self.house.gate.now();
        access::authorize(&mut self.principal, operation, now)
    }

    /// When its token is to be looked at.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.token_ends
    }
}
