//! What an address allows: how it is spoken to, and what somebody without a token may do there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use ftx_protocol::{Code, Refusal, Token};

use super::principal::Principal;
use super::rights::Rights;
use super::tokens::Tokens;

/// How an address is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Plain or inside TLS; the first byte tells. A token comes inside TLS all the same.
    PlainOrTls,
    /// Inside TLS only.
    Tls,
}

/// What somebody without a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithoutToken {
    /// Everything: only this machine reaches the address.
    Local,
    /// What the server was told to allow anyone.
    Public(Rights),
    /// Nothing: a token is wanted.
    Nothing,
}

/// What an address allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How it is spoken to.
    pub transport: Transport,
    /// What somebody without a token may do.
    pub without_token: WithoutToken,
}

/// Whether a token is wanted where only this machine reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Loopback {
    /// No: whoever is on this machine may do everything.
    #[default]
    Trusted,
    /// It is like any other address.
    Locked,
}

/// Whether addresses that others reach are spoken to in plain as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exposed {
    /// No: inside TLS only.
    #[default]
    Encrypted,
    /// Yes: whoever is on the way reads and changes everything that comes in plain.
    PlainToo,
}

/// What decides the policy of each address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PolicyOptions {
    /// `--require-token`.
    pub loopback: Loopback,
    /// `--allow-plaintext`.
    pub exposed: Exposed,
    /// `--public read`, `--drop`: what anyone may do without a token, on every address.
    pub public: Option<Rights>,
    /// `--allow-anyone`: what anyone may do without a token on addresses that others reach, if
    /// `public` does not say.
    pub anyone: Option<Rights>,
}

impl Policy {
    /// The policy of one address.
    pub fn of(options: &PolicyOptions, address: SocketAddr) -> Self {
        let public = options.public.map(WithoutToken::Public);
        match (address.ip().to_canonical().is_loopback(), options.loopback) {
            (true, Loopback::Trusted) => Self {
                transport: Transport::PlainOrTls,
                without_token: public.unwrap_or(WithoutToken::Local),
            },
            (true, Loopback::Locked) => Self {
                transport: Transport::Tls,
                without_token: public.unwrap_or(WithoutToken::Nothing),
            },
            (false, _) => Self {
                transport: match options.exposed {
                    Exposed::Encrypted => Transport::Tls,
                    Exposed::PlainToo => Transport::PlainOrTls,
                },
                without_token: public
                    .or(options.anyone.map(WithoutToken::Public))
                    .unwrap_or(WithoutToken::Nothing),
            },
        }
    }
}

/// What a connection's bytes came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Channel {
    Plain,
    Tls,
}

/// Where everybody comes in.
#[derive(Debug, Clone, Default)]
pub(in crate::server) struct Gate {
    tokens: Option<Arc<Tokens>>,
}

impl Gate {
    /// `None`: the server has no tokens, and knows nobody.
    pub(in crate::server) fn new(tokens: Option<Arc<Tokens>>) -> Self {
        Self { tokens }
    }

    /// The time by which tokens expire; it never goes back.
    pub(in crate::server) fn now(&self) -> SystemTime {
        self.tokens.as_ref().map_or_else(SystemTime::now, |tokens| tokens.now())
    }

    /// Who somebody is, by the token in `hello`. The refusals are errors without id: the connection
    /// is over (rule 14.6).
    pub(in crate::server) fn admit(
        &self,
        token: Option<&Token>,
        policy: Policy,
        over: Channel,
        now: SystemTime,
    ) -> Result<Principal, Refusal> {
        match (token, over, policy.transport) {
            (_, Channel::Plain, Transport::Tls) => Err(Code::TlsRequired.into()),
            (Some(_), Channel::Plain, Transport::PlainOrTls) => Err(Refusal::new(
                Code::TlsRequired,
                "a token is taken inside TLS only; this one was seen on the way: take it back \
                 with ftx token rm",
            )),
            (Some(token), Channel::Tls, _) => match &self.tokens {
                Some(tokens) => tokens.login(token, now).map(Principal::Token),
                None => Err(Code::LoginFailed.into()),
            },
            (None, ..) => match policy.without_token {
                WithoutToken::Local => Ok(Principal::Local),
                WithoutToken::Public(rights) => Ok(Principal::Public(rights)),
                WithoutToken::Nothing => Err(Code::LoginRequired.into()),
            },
        }
    }
}
