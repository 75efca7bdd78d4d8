//! The options of `ftx serve` that say who may use it and how it is known: from words to a policy, a
//! state directory and an identity.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use ftx::server::access::{Exposed, Loopback, PolicyOptions, Rights, WithoutToken};
use ftx::server::{DoorOptions, Listen, OwnMachine, Prepared};

use super::confine::Outside;
use super::directory::Errand;
use super::identity::{Kept, Source};
use super::state::{State, is_inside};
use super::token::rights;

#[derive(Debug, Args)]
#[command(next_help_heading = "Who may use it")]
pub struct Admission {
    /// Where the server keeps its tokens and its key; never in the served directory. Made if it is
    /// not there [default: $STATE_DIRECTORY, or one below $XDG_STATE_HOME/ftx/serve]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,

    /// Where the server's key and certificate are, if not in the state directory. Made if they are
    /// not there
    #[arg(long, value_name = "DIR", conflicts_with_all = ["cert", "key"])]
    identity: Option<PathBuf>,

    /// A certificate that others vouch for, with those that lead to its root behind it (PEM). Read
    /// anew on SIGHUP
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,

    /// The key of --cert (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// Want TLS and a token on addresses that only this machine reaches, too
    #[arg(long, conflicts_with_all = ["allow_anyone", "public", "drop"])]
    require_token: bool,

    /// Want no token on addresses that other machines reach: whoever reaches the port can read and
    /// replace every file
    #[arg(long)]
    allow_anyone: bool,

    /// Take what comes without encryption on addresses that other machines reach: whoever is on the
    /// way reads and changes everything. Tokens are taken inside TLS only
    #[arg(long)]
    allow_plaintext: bool,

    /// What everybody may do without a token, on every address: read, or several of read, list,
    /// write, replace and delete with commas between them. What is read without a token is read with any
    #[arg(long, value_name = "RIGHTS", value_parser = rights, conflicts_with = "drop")]
    public: Option<Rights>,

    /// Be a drop box for everybody without a token: they can bring files, and see, replace or remove
    /// none
    #[arg(long)]
    drop: bool,

    /// Connections of one address at once, and never more than three quarters of all; those of this
    /// machine are not counted
    #[arg(long, value_name = "N", default_value_t = DoorOptions::default().connections_per_address,
          value_parser = super::size::count::<u32>)]
    max_connections_per_address: u32,

    /// Logins of one address that may fail at no cost; after each further one it has to wait, longer
    /// each time
    #[arg(long, value_name = "N", default_value_t = DoorOptions::default().failed_logins,
          value_parser = super::size::count::<u32>)]
    max_failed_logins: u32,

    /// For tests: addresses of this machine are counted as all others are
    #[arg(long, hide = true)]
    count_loopback: bool,
}

/// Who reaches what is listened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    OwnMachine,
    Others,
}

/// What is there for it.
#[derive(Debug)]
pub struct Settled {
    pub state: Option<State>,
    pub identity: Option<Kept>,
}

impl Admission {
    pub fn policy(&self) -> PolicyOptions {
        PolicyOptions {
            loopback: if self.require_token { Loopback::Locked } else { Loopback::Trusted },
            exposed: if self.allow_plaintext { Exposed::PlainToo } else { Exposed::Encrypted },
            public: self.public.or(self.drop.then_some(Rights::DROP)),
            anyone: self.allow_anyone.then_some(Rights::ALL),
        }
    }

    pub fn doors(&self) -> DoorOptions {
        DoorOptions {
            connections_per_address: self.max_connections_per_address,
            failed_logins: self.max_failed_logins,
            own_machine: match self.count_loopback {
                true => OwnMachine::Counted,
                false => OwnMachine::Free,
            },
        }
    }

    /// Finds the state directory and the identity; makes them where they are needed.
    pub fn settle(&self, served: &Path, reach: Reach, errand: Errand) -> Result<Settled> {
        let tokens_count =
            reach == Reach::Others || self.require_token || self.public.is_some() || self.drop;
        // Where they do not, whoever is there may do everything, and gets no state unless there is one.
        let state = match tokens_count || self.state.is_some() {
            true => Some(State::of(served, self.state.as_deref(), errand)?),
            false => State::if_there(served, errand)?,
        };
        // A state that is there may have tokens in it, and those are taken inside TLS only.
        let identity = match self.source(state.as_ref()) {
            Some(source) => {
                keep_out(served, &source)?;
                Some(source.make_and_load(errand)?)
            }
            None => None,
        };
        Ok(Settled { state, identity })
    }

    fn source(&self, state: Option<&State>) -> Option<Source> {
        match (&self.cert, &self.key, &self.identity, state) {
            (Some(certificate), Some(key), ..) => {
                Some(Source::Given { certificate: certificate.clone(), key: key.clone() })
            }
            (.., Some(directory), _) => Some(Source::Own(directory.clone())),
            (.., Some(state)) => Some(Source::Own(state.identity())),
            (.., None) => None,
        }
    }
}

impl Settled {
    /// What the server goes on to need of it, once it has given up all else.
    pub fn outside(&self) -> Outside {
        Outside {
            state: self.state.as_ref().map(|state| state.path().to_owned()),
            certificates: self.identity.as_ref().map(Kept::directories).unwrap_or_default(),
        }
    }

    /// How the server is reached, for each address that needs more than the address.
    pub fn introductions(&self, prepared: &Prepared) -> Vec<String> {
        let mut introductions = Vec::new();
        let Some(identity) = &self.identity else { return introductions };
        for (address, policy) in prepared.addresses() {
            let login = match policy.without_token {
                WithoutToken::Local => continue,
                // Who has one says the same without the option.
                WithoutToken::Public(_) => "ftx login --no-token",
                WithoutToken::Nothing => "ftx login",
            };
            let addresses = identity.addresses(*address).into_iter();
            introductions.extend(addresses.map(|address| format!("{login} {address}")));
        }
        // Two addresses with one port have one name.
        introductions.dedup();
        introductions
    }

    pub fn log(&self) {
        let Some(kept) = &self.identity else { return };
        tracing::info!(key = %kept.identity.pin(), "known to clients by this key");
        if let Err(error) = kept.reload() {
            tracing::warn!("SIGHUP cannot bring another certificate: {error:#}");
        }
    }
}

/// Who reaches what is listened on. What was handed over and is no socket of the internet is refused
/// later, with the reason.
pub fn reach(listen: &Listen) -> Reach {
    let address = |socket| SocketAddr::try_from(rustix::net::getsockname(socket).ok()?).ok();
    let reached = match listen {
        Listen::At(addresses) => addresses.iter().any(|&address| is_for_others(address)),
        Listen::On(sockets) => sockets.iter().filter_map(address).any(is_for_others),
    };
    if reached { Reach::Others } else { Reach::OwnMachine }
}

fn is_for_others(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}

/// Whoever may read what is served would read the key.
fn keep_out(served: &Path, source: &Source) -> Result<()> {
    let key = source.key();
    let served = served.canonicalize();
    let served = served.context("cannot find the directory")?;
    let absolute = std::path::absolute(&key).context("cannot find the key")?;
    // What of it is there already; the rest will be made in it.
    let there = absolute.ancestors().find_map(|path| path.canonicalize().ok());
    let is_there = there.map_or(Ok(false), |there| is_inside(&there, &served))?;
    if is_there || absolute.starts_with(&served) {
        bail!("the key, {}, must not be in the directory that is served", key.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Words {
        #[command(flatten)]
        admission: Admission,
    }

    fn said(words: &str) -> Result<Admission, clap::Error> {
        let words = ["serve"].into_iter().chain(words.split_whitespace());
        Words::try_parse_from(words).map(|words| words.admission)
    }

    #[test]
    fn words_become_a_policy() {
        let none = PolicyOptions::default();
        let drop = Some(Rights::DROP);
        let reading = Rights::from_words(["read"]).unwrap();
        let writing = Rights::from_words(["write", "list"]).unwrap();
        let cases = [
            ("", none),
            ("--require-token", PolicyOptions { loopback: Loopback::Locked, ..none }),
            ("--allow-plaintext", PolicyOptions { exposed: Exposed::PlainToo, ..none }),
            ("--allow-anyone", PolicyOptions { anyone: Some(Rights::ALL), ..none }),
            ("--public read", PolicyOptions { public: Some(reading), ..none }),
            ("--public read,list", PolicyOptions { public: Some(Rights::READING), ..none }),
            ("--public list,write", PolicyOptions { public: Some(writing), ..none }),
            ("--public drop", PolicyOptions { public: drop, ..none }),
            ("--drop", PolicyOptions { public: drop, ..none }),
        ];
        for (words, policy) in cases {
            assert_eq!(said(words).unwrap().policy(), policy, "{words}");
        }
    }

    #[test]
    fn words_that_say_two_things_or_nothing_are_refused() {
        for words in [
            "--require-token --allow-anyone",
            "--require-token --public read",
            "--require-token --drop",
            "--public read --drop",
            "--public drop,read",
            "--public ,",
            "--public all",
            "--public read,replace",
            "--cert a",
            "--key a",
            "--identity a --cert b --key c",
            "--max-connections-per-address 0",
            "--max-failed-logins 0",
        ] {
            assert!(said(words).is_err(), "{words}");
        }
    }

    #[test]
    fn others_reach_what_is_no_loopback() {
        let at = |addresses: &[&str]| {
            reach(&Listen::At(addresses.iter().map(|text| text.parse().unwrap()).collect()))
        };
        for own in [&["127.0.0.1:1"][..], &["[::1]:1", "127.8.8.8:2"], &["[::ffff:127.0.0.1]:1"]] {
            assert_eq!(at(own), Reach::OwnMachine, "{own:?}");
        }
        for others in [&["0.0.0.0:1"][..], &["[::]:1"], &["127.0.0.1:1", "10.0.0.1:1"]] {
            assert_eq!(at(others), Reach::Others, "{others:?}");
        }
    }
}
