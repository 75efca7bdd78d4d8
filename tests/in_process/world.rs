//! A server that is locked, with tokens.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use ftx::server::access::{Line, Loopback, PolicyOptions, Rights, TokensError, TokensFile};
use ftx::server::access::{file_time, token_digest};
use ftx::server::{Access, DoorOptions, Listen, OpenMax, Options, Server, Stopper};
use ftx_channel::{Identity, Pin};
use ftx_protocol::token::Token;
use ftx_protocol::{Durability, Owner};

use crate::both::talk::{Inside, Secured, Talk, introduced};

/// What a token of a test may do besides.
#[derive(Default)]
pub struct Terms {
    pub expires: Option<Duration>,
    pub max_bytes: Option<u64>,
}

pub struct World {
    home: tempfile::TempDir,
    pub address: SocketAddr,
    pub pin: Pin,
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
    tokens: AtomicU8,
}

impl World {
    /// Wants TLS and a token, also from this machine.
    pub fn locked() -> Self {
        Self::with(|options| options.policy.loopback = Loopback::Locked)
    }

    /// Takes both, and trusts this machine.
    pub fn open() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Options)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let state = home.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&state, private).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["ftx".into()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let identity =
            Identity::from_pem(certificate.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        let pin = identity.pin();
        let mut options = Options {
            directory: home.path().join("served"),
            policy: PolicyOptions::default(),
            identity: Some(Arc::new(identity)),
            tokens: Some(state),
            doors: DoorOptions::default(),
            access: Access::ReadWrite,
            durability: Durability::Full,
            size_max_bytes: 1 << 40,
            free_min_bytes: 0,
            connections_max: 1_000,
            open_max: OpenMax { puts: 256, files: 256, directories: 256 },
            requests_max: ftx_protocol::limits::REQUESTS_TOTAL,
            threads: 2,
            limit_rate: None,
            header_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(5),
            partial_ttl: Duration::from_secs(3_600),
            abandoned_after: Duration::from_secs(600),
            drain_timeout: Duration::from_secs(1),
        };
        change(&mut options);
        let at = Listen::At(vec!["127.0.0.1:0".parse().unwrap()]);
        let server = Server::bind(options, at).unwrap();
        let (address, stopper) = (server.addresses()[0], server.stopper());
        let thread = Some(std::thread::spawn(move || server.run().unwrap()));
        Self { home, address, pin, stopper, thread, tokens: AtomicU8::new(0) }
    }

    pub fn served(&self) -> PathBuf {
        self.home.path().join("served")
    }

    pub fn stored(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.served().join(name)).ok()
    }

    pub fn staged(&self) -> usize {
        std::fs::read_dir(self.served().join(".ftx/staging")).unwrap().count()
    }

    fn tokens(&self) -> TokensFile {
        TokensFile::of_state(&self.home.path().join("state"))
    }

    pub fn token(&self, can: &str) -> Token {
        self.token_with(can, Terms::default())
    }

    /// Adds a token; it is good when this returns. It is called `t` and a number from 1.
    pub fn token_with(&self, can: &str, terms: Terms) -> Token {
        let number = self.tokens.fetch_add(1, Ordering::Relaxed) + 1;
        let token = Token::new([number; 32]);
        let line = Line {
            id: Owner([number; 8]),
            name: format!("t{number}").parse().unwrap(),
            digest: token_digest(&token),
            can: Rights::from_words(can.split(',')).unwrap(),
            under: None,
            made: file_time(SystemTime::now()),
            expires: terms.expires.map(|time| file_time(SystemTime::now() + time)),
            max_bytes: terms.max_bytes,
            max_partials: None,
        };
        self.change(|lines| lines.push(line));
        token
    }

    /// Takes a token back; it is when this returns.
    pub fn take_back(&self, number: u8) {
        self.change(|lines| lines.retain(|line| line.id != Owner([number; 8])));
    }

    /// Lets a token end after this time.
    pub fn end_in(&self, number: u8, time: Duration) {
        let end = file_time(SystemTime::now() + time);
        self.change(|lines| {
            let line = lines.iter_mut().find(|line| line.id == Owner([number; 8]));
            line.unwrap().expires = Some(end);
        });
    }

    /// Writes something else in the place of the tokens, and returns what was there.
    pub fn replace_tokens(&self, text: &[u8]) -> Vec<u8> {
        let path = self.home.path().join("state/tokens");
        let old = std::fs::read(&path).unwrap();
        std::fs::write(path, text).unwrap();
        old
    }

    fn change(&self, act: impl FnOnce(&mut Vec<Line>)) {
        let change = |lines: &mut Vec<Line>| {
            act(lines);
            Ok::<(), TokensError>(())
        };
        self.tokens().change(change).unwrap();
    }

    /// Connected inside TLS, and nothing said yet.
    pub fn connected(&self) -> Inside {
        Talk::inside(Secured::connect(self.address, self.pin).unwrap())
    }

    /// Inside TLS, and welcome without a token.
    pub fn greeted(&self) -> Inside {
        let mut talk = self.connected();
        assert_eq!(introduced(&mut talk, None), "welcome");
        talk
    }

    /// Inside TLS, with a token.
    pub fn login(&self, token: &Token) -> Inside {
        let mut talk = self.connected();
        assert_eq!(introduced(&mut talk, Some(&token.text())), "welcome");
        talk
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stopper.stop();
        let end = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            end.unwrap().unwrap();
        }
    }
}
