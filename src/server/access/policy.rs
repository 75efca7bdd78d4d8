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

    pub(in crate::server) fn tokens(&self) -> Option<&Arc<Tokens>> {
        self.tokens.as_ref()
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
                Some(tokens) => {
                    let member = tokens.login(token, now)?;
                    Ok(Principal::Token(member.where_allowed(policy.without_token)))
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: [&str; 4] = ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"];
    const EXPOSED: [&str; 5] =
        ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[2001:db8::1]:1", "[::ffff:10.0.0.1]:1"];

    fn all(options: PolicyOptions, addresses: &[&str], expected: (Transport, WithoutToken)) {
        for address in addresses {
            let Policy { transport, without_token } =
                Policy::of(&options, address.parse().unwrap());
            assert_eq!((transport, without_token), expected, "{options:?} {address}");
        }
    }

    #[test]
    fn what_others_reach_is_locked_unless_it_was_said_otherwise() {
        use Transport::{PlainOrTls, Tls};
        use WithoutToken::{Local, Nothing, Public};
        let (default, reading) = (PolicyOptions::default(), Some(Rights::READING));
        all(default, &LOOPBACK, (PlainOrTls, Local));
        all(default, &EXPOSED, (Tls, Nothing));

        let locked = PolicyOptions { loopback: Loopback::Locked, ..default };
        all(locked, &LOOPBACK, (Tls, Nothing));
        all(locked, &EXPOSED, (Tls, Nothing));

        let plain = PolicyOptions { exposed: Exposed::PlainToo, ..default };
        all(plain, &LOOPBACK, (PlainOrTls, Local));
        all(plain, &EXPOSED, (PlainOrTls, Nothing));

        let public = PolicyOptions { public: reading, ..default };
        all(public, &LOOPBACK, (PlainOrTls, Public(Rights::READING)));
        all(public, &EXPOSED, (Tls, Public(Rights::READING)));

        let anyone = PolicyOptions { anyone: Some(Rights::ALL), ..default };
        all(anyone, &LOOPBACK, (PlainOrTls, Local));
        all(anyone, &EXPOSED, (Tls, Public(Rights::ALL)));

        let both = PolicyOptions { public: Some(Rights::DROP), ..anyone };
        all(both, &EXPOSED, (Tls, Public(Rights::DROP)));
        all(both, &LOOPBACK, (PlainOrTls, Public(Rights::DROP)));
    }

    #[test]
    fn without_a_token_one_is_who_the_address_says_and_a_token_comes_inside_tls() {
        let gate = Gate::default();
        let (token, now) = (Token::new([1; 32]), SystemTime::now());
        let code = |token, transport, without_token, over| {
            let policy = Policy { transport, without_token };
            gate.admit(token, policy, over, now).map_err(|refusal| refusal.code)
        };
        let (plain, tls) = (Transport::PlainOrTls, Transport::Tls);
        let reading = WithoutToken::Public(Rights::READING);
        for over in [Channel::Plain, Channel::Tls] {
            let local = code(None, plain, WithoutToken::Local, over);
            assert!(matches!(local, Ok(Principal::Local)));
            let public = code(None, plain, reading, over);
            assert!(matches!(public, Ok(Principal::Public(Rights::READING))));
            let nobody = code(None, plain, WithoutToken::Nothing, over);
            assert!(matches!(nobody, Err(Code::LoginRequired)));
        }
        for without in [WithoutToken::Local, reading, WithoutToken::Nothing] {
            for token in [None, Some(&token)] {
                let refused = code(token, tls, without, Channel::Plain);
                assert!(matches!(refused, Err(Code::TlsRequired)), "even if all may come in");
            }
            let seen = code(Some(&token), plain, without, Channel::Plain);
            assert!(matches!(seen, Err(Code::TlsRequired)));
            let unknown = code(Some(&token), plain, without, Channel::Tls);
            assert!(matches!(unknown, Err(Code::LoginFailed)), "no way round by a wrong token");
        }
    }
}
