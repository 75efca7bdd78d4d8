//! Who is at the other end, before anything is said to it: which way a server is spoken to, by what
//! it is known, and what happens when it is not, or is another one.
//!
//! An unknown server fails its handshake on purpose, and is connected to anew once it is known:
//! there is no way on which one is talked to by mistake. Nothing falls back to plain.

mod words;

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Instant;

use ftx_channel::{ByRoots, Found, Pin, Sight, Tls, Trust, client_config, is_about_what_is_spoken};
use ftx_protocol::Token;

use crate::Client;
use crate::address::ServerAddress;
use crate::attempts::Attempts;
use crate::failure::{Failure, Reached, Trouble, plain};
use crate::servers::{KnownServer, Servers, Trusted};
use crate::stream::{Stream, Unsent};
use words::{hung_up_after, nowhere};

/// Where a server that is not known is spoken to without encryption. One that is known never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Plaintext {
    /// Nowhere.
    Never,
    /// At an address that only this machine reaches, unless there is a token.
    #[default]
    OnThisMachine,
    /// Everywhere. The token stays here.
    Everywhere,
}

/// What a client asks of whoever runs it, where the list of known servers does not say it.
pub trait Introduce: fmt::Debug + Send + Sync {
    /// Whether this is the key of the server. A yes is remembered.
    fn trusts(&self, server: &ServerAddress, pin: Pin) -> RightKey;

    /// The token to log in to a server with; it goes before one that is remembered. None, if it is not said otherwise.
    ///
    /// # Errors
    /// When there should be one, and it cannot be had. Then the server is not connected to.
    fn token(&self, _server: &ServerAddress) -> Result<Option<Token>, Failure> {
        Ok(None)
    }
}

/// Whether a server has the right key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RightKey {
    /// It has.
    Yes,
    /// It has not.
    No,
    /// There is nobody who could know.
    NobodyKnows,
}

/// Of a client that was not told whom to ask.
#[derive(Debug)]
pub(crate) struct NobodyThere;

impl Introduce for NobodyThere {
    fn trusts(&self, _: &ServerAddress, _: Pin) -> RightKey {
        RightKey::NobodyKnows
    }
}

/// As whom a client logs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Login {
    /// With the token that whoever runs it has, else the one that is remembered, else as nobody.
    AsKnown,
    Token(Token),
    Nobody,
}

/// A way to a server that may be written to.
pub(crate) struct Connected {
    pub(crate) stream: Stream,
    /// Only inside TLS.
    pub(crate) token: Option<Token>,
}

/// What is known about a server before it is connected to.
#[derive(Debug, Clone)]
struct Known {
    trusted: Option<Trusted>,
    /// Where that is from, for messages.
    by: By,
    token: Option<Token>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Address,
    List,
}

/// How it is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Tls(Trust),
}

impl Known {
    fn way(&self, address: &SocketAddr, plaintext: Plaintext) -> Way {
        let is_here = address.ip().to_canonical().is_loopback();
        match (self.trusted, plaintext) {
            (Some(trusted), _) => Way::Tls(trusted.into()),
            (None, Plaintext::Everywhere) => Way::Plain,
            (None, Plaintext::OnThisMachine) if is_here && self.token.is_none() => Way::Plain,
            (None, Plaintext::OnThisMachine | Plaintext::Never) => Way::Tls(Trust::Ask),
        }
    }
}

impl From<Trusted> for Trust {
    fn from(trusted: Trusted) -> Self {
        match trusted {
            Trusted::Pin(pin) => Self::Pin(pin),
            Trusted::Roots => Self::Roots,
        }
    }
}

/// Why there is no TLS with a server.
enum Unproven {
    /// Nobody knows it yet.
    New(Found),
    Trouble(Trouble),
}

impl From<Trouble> for Unproven {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl Client {
    /// Makes sure that the server is the right one, and says nothing to it. Remembers, and returns, by what it is known; a
    /// token that is remembered for it stays.
    ///
    /// # Errors
    /// When it cannot be reached, or is not the right one, or it cannot be remembered.
    pub fn meet(&self) -> Result<Trusted, Failure> {
        // Whoever asks is of no matter yet.
        let wary = Self { plaintext: Plaintext::Never, login: Login::Nobody, ..self.clone() };
        let met = wary.known().and_then(|mut known| {
            let _ = wary.reach(&mut known)?.stream.close(Unsent::Leaves);
            Ok(known.trusted)
        });
        let trusted = match met {
            Ok(Some(trusted)) => trusted,
            Ok(None) => return Err(self.unknown()),
            Err(trouble) => return Err(trouble.into_failure("log in", &self.server)),
        };
        Servers::of_user().ok_or_else(nowhere)?.meet(&self.server, trusted)?;
        Ok(trusted)
    }

    /// Tries a login, and remembers the token. With none nothing is tried, and none is remembered. `trusted` is what
    /// [`Client::meet`] has returned.
    ///
    /// # Errors
    /// When the server refuses the token; then what is remembered stays as it was.
    pub fn log_in(&self, trusted: Trusted, token: Option<Token>) -> Result<(), Failure> {
        let servers = Servers::of_user().ok_or_else(nowhere)?;
        if let Some(token) = &token {
            let login = Login::Token(token.clone());
            let client = Self { plaintext: Plaintext::Never, login, keeper: None, ..self.clone() };
            client
                .sign_of_life()
                .map_err(|trouble| trouble.into_failure("log in", &self.server))?;
        }
        servers.remember(&self.server, KnownServer { trusted, token })
    }

    /// Connects, to a server that is the right one.
    pub(crate) fn connect(&self) -> Result<Connected, Trouble> {
        self.reach(&mut self.known()?)
    }

    fn known(&self) -> Result<Known, Trouble> {
        let entry = match Servers::of_user() {
            Some(servers) => servers.find(&self.server)?,
            None => None,
        };
        let (listed, remembered) =
            entry.map_or((None, None), |entry| (Some(entry.trusted), entry.token));
        let (trusted, by) = match (self.server.pin(), listed) {
            (Some(said), Some(Trusted::Pin(pin))) if said != pin => {
                return Err(self.two_keys(&format!("the key {pin}"), said).into());
            }
            // An address that somebody has sent must not take the place of what is known, nor get what
            // is kept for that.
            (Some(said), Some(Trusted::Roots)) => {
                return Err(self.two_keys("its certificate", said).into());
            }
            (Some(_), Some(Trusted::Pin(pin))) => (Some(Trusted::Pin(pin)), By::List),
            (Some(said), None) => (Some(Trusted::Pin(said)), By::Address),
            (None, listed) => (listed, By::List),
        };
        let token = match &self.login {
            Login::Token(token) => Some(token.clone()),
            Login::Nobody => None,
            Login::AsKnown => self.introduction.token(&self.server)?.or(remembered),
        };
        Ok(Known { trusted, by, token })
    }

    fn reach(&self, known: &mut Known) -> Result<Connected, Trouble> {
        let addresses = (self.server.host(), self.server.port())
            .to_socket_addrs()
            .map_err(|error| unreachable(&error))?;
        self.reach_one_of(addresses, known)
    }

    /// Speaks to the addresses of the server that take a connection, one after the other, until one answers: whoever is
    /// there then is the server, or is not.
    fn reach_one_of(
        &self,
        addresses: impl IntoIterator<Item = SocketAddr>,
        known: &mut Known,
    ) -> Result<Connected, Trouble> {
        let was_met = known.by == By::List && known.trusted.is_some();
        // Whoever took the connection tells more of it than those where nobody is.
        let (mut nobody, mut mute) = (None, None);
        let mut attempts = Attempts::at(addresses, &self.interrupt);
        while let Some(attempt) = attempts.next() {
            match attempt {
                Ok((address, socket)) => match self.speak(&address, socket, known) {
                    Err(trouble @ Trouble::Unreachable(_)) => mute = Some(trouble),
                    answered => return answered,
                },
                Err(error) => nobody = Some(unreachable(&error)),
            }
            self.interrupt.check()?;
        }
        // It was the right server once, so this is the line, or that it is full: not a wrong address.
        if mute.is_some() && was_met && self.reached() == Reached::NotYet {
            self.set_reached(Reached::Yes);
        }
        let no_address = || Trouble::Unreachable("the host has no address".to_owned());
        Err(mute.or(nobody).unwrap_or_else(no_address))
    }

    /// On a connection to an address: what is decided about it holds for that very address.
    fn speak(
        &self,
        address: &SocketAddr,
        socket: TcpStream,
        known: &mut Known,
    ) -> Result<Connected, Trouble> {
        let token = known.token.clone();
        let trust = match known.way(address, self.plaintext) {
            Way::Plain => return Ok(Connected { stream: Stream::plain(socket)?, token: None }),
            Way::Tls(trust) => trust,
        };
        let found = match self.secure(socket, trust, known.by) {
            Ok(stream) => return Ok(Connected { stream, token }),
            Err(Unproven::Trouble(trouble)) => return Err(trouble),
            Err(Unproven::New(found)) => found,
        };
        let trusted = self.get_to_know(found)?;
        known.trusted = Some(trusted);
        match self.secure(self.connect_again(*address)?, trusted.into(), By::List) {
            Ok(stream) => Ok(Connected { stream, token }),
            Err(Unproven::Trouble(trouble)) => Err(trouble),
            Err(Unproven::New(_)) => Err(self.unknown().into()),
        }
    }

    fn connect_again(&self, address: SocketAddr) -> Result<TcpStream, Trouble> {
        let attempt = Attempts::at([address], &self.interrupt).next();
        let attempt = attempt.unwrap_or_else(|| Err(ErrorKind::TimedOut.into()));
        attempt.map(|(_, socket)| socket).map_err(|error| unreachable(&error))
    }

    /// Shakes hands, to the end.
    fn secure(&self, socket: TcpStream, trust: Trust, by: By) -> Result<Stream, Unproven> {
        let sight = Sight::default();
        let tls = client_config(trust, &sight)
            .and_then(|config| Tls::connect(&config, self.server.host()))
            .map_err(|error| Trouble::Final(self.no_tls(&error)))?;
        let began = Instant::now();
        let error = match Stream::secured(socket, tls, &self.interrupt) {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        Err(match (error.kind(), sight.found()) {
            (ErrorKind::Interrupted, _) => Trouble::Interrupted.into(),
            (_, Some(found)) if trust == Trust::Ask => Unproven::New(found),
            (ErrorKind::InvalidData, _) if is_about_what_is_spoken(&error) => {
                Trouble::Final(self.speaks_no_ftx()).into()
            }
            (ErrorKind::InvalidData, Some(found)) => {
                Trouble::Final(self.not_the_one(trust, by, found, &error)).into()
            }
            (ErrorKind::InvalidData, None) => {
                Trouble::Final(self.speaks_no_tls(trust, by, &error)).into()
            }
            (ErrorKind::TimedOut, _) => {
                let why = "it took the connection and says nothing: it may be full, or no ftx server, or \
                    the line loses packets, perhaps only large ones (MTU)";
                Trouble::Unreachable(why.to_owned()).into()
            }
            (ErrorKind::UnexpectedEof, _) => {
                Trouble::Unreachable(hung_up_after(began.elapsed()).to_owned()).into()
            }
            _ => unreachable(&error).into(),
        })
    }

    /// Of a server that nobody knew here yet. Returns by what it has to be known now: somebody else may have got to know
    /// it meanwhile.
    fn get_to_know(&self, found: Found) -> Result<Trusted, Trouble> {
        let servers = Servers::of_user();
        let meet = |trusted| match &servers {
            Some(servers) => servers.meet(&self.server, trusted),
            None => Err(nowhere()),
        };
        if found.by_roots == ByRoots::Good {
            // Where it cannot be remembered the roots are asked each time.
            return Ok(meet(Trusted::Roots).unwrap_or(Trusted::Roots));
        }
        let verdict = self.introduction.trusts(&self.server, found.pin);
        // A question that was interrupted has no answer.
        self.interrupt.check()?;
        match verdict {
            RightKey::Yes => Ok(meet(Trusted::Pin(found.pin))?),
            RightKey::No => {
                let why = "is not the right one, as was said just now; nothing was sent to it";
                Err(self.untrusted(why.to_owned()).into())
            }
            RightKey::NobodyKnows => Err(self.unknown().into()),
        }
    }
}

fn unreachable(error: &io::Error) -> Trouble {
    match error.kind() {
        ErrorKind::Interrupted => Trouble::Interrupted,
        _ => Trouble::Unreachable(plain(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Shutdown, TcpListener};

    use super::*;
    use crate::{Class, Retry};

    /// What is there says this to whoever comes, and hangs up when that one has.
    fn says(listener: TcpListener, words: &'static [u8]) {
        std::thread::spawn(move || {
            for mut socket in listener.incoming().flatten() {
                let _ = socket.write_all(words);
                let _ = socket.shutdown(Shutdown::Write);
                let _ = io::copy(&mut socket, &mut io::sink());
            }
        });
    }

    #[test]
    fn the_next_address_is_tried_until_one_answers_and_none_after_that() {
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let place = |listener: &TcpListener| listener.local_addr().unwrap();
        let (mute, other, last) = (listen(), listen(), listen());
        let nobody_there = place(&listen());
        let (mute_there, other_there, last_there) = (place(&mute), place(&other), place(&last));
        says(mute, b"");
        says(other, b"220 ready\r\n");
        let client = Client::new("box:1".parse().unwrap(), Retry::default());
        let trusted = Some(Trusted::Pin(format!("sha256:{}", "5a".repeat(32)).parse().unwrap()));
        let mut known = Known { trusted, by: By::List, token: None };
        let mut reach = |addresses: &[SocketAddr]| {
            client.reach_one_of(addresses.iter().copied(), &mut known).err().unwrap()
        };
        for addresses in [[nobody_there, mute_there], [mute_there, nobody_there]] {
            let trouble = reach(&addresses);
            let Trouble::Unreachable(why) = &trouble else { panic!("{trouble:?}") };
            assert!(why.contains("hung up"), "{why}");
            // It is known, so this is a break; but each further name of a command gets one try when the patience is over.
            assert_eq!(client.reached(), Reached::Yes);
        }
        client.set_reached(Reached::GivenUp);
        reach(&[mute_there]);
        assert_eq!(client.reached(), Reached::GivenUp);
        let trouble = reach(&[nobody_there, mute_there, other_there, last_there]);
        let Trouble::Final(failure) = &trouble else { panic!("{trouble:?}") };
        assert_eq!(failure.class, Class::Untrusted, "{failure}");
        last.set_nonblocking(true).unwrap();
        assert_eq!(last.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn only_what_is_not_known_is_spoken_to_in_plain_and_only_where_that_is_said() {
        let pin: Pin = format!("sha256:{}", "5a".repeat(32)).parse().unwrap();
        let token = Token::new([7; 32]);
        let here = ["127.0.0.1:1", "127.8.0.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"];
        let there = ["10.0.0.1:1", "0.0.0.0:1", "[::]:1", "[fe80::1]:1", "[::ffff:10.0.0.1]:1"];
        let ways = |address: &str, trusted: Option<Trusted>, token: Option<&Token>| {
            let known = Known { trusted, by: By::List, token: token.cloned() };
            [Plaintext::Never, Plaintext::OnThisMachine, Plaintext::Everywhere]
                .map(|plaintext| known.way(&address.parse().unwrap(), plaintext))
        };
        let ask = Way::Tls(Trust::Ask);
        for address in here.into_iter().chain(there) {
            for token in [None, Some(&token)] {
                let by_pin = ways(address, Some(Trusted::Pin(pin)), token);
                assert_eq!(by_pin, [Way::Tls(Trust::Pin(pin)); 3], "{address}");
                let by_roots = ways(address, Some(Trusted::Roots), token);
                assert_eq!(by_roots, [Way::Tls(Trust::Roots); 3], "{address}");
            }
            assert_eq!(ways(address, None, Some(&token)), [ask, ask, Way::Plain], "{address}");
        }
        for address in here {
            assert_eq!(ways(address, None, None), [ask, Way::Plain, Way::Plain], "{address}");
        }
        for address in there {
            assert_eq!(ways(address, None, None), [ask, ask, Way::Plain], "{address}");
        }
    }
}
