//! The server: sockets on one side, storage on the other, and between them one pure machine for
//! each connection.
//!
//! ```text
//!   listen      addresses, or sockets that were handed over, to listeners
//!   doors       how many may come from one address, and how often
//!   network     which addresses count as one
//!   front       what the first selector does for all: takes connections, hands each to a selector
//!   selector    the loop: waits for readiness, gives each connection its turn; knows no file
//!   selectors   all of them: made together, over together
//!   mailbox     what other threads have to say to one selector
//!   key         what an event is for
//!   fair_line   whose turn it is: of connections, of those that want buffers, of strands
//!   connection  one socket and its machine; moves bytes between the two and storage
//!   held        who goes when too much is held
//!   guest       who is at the other end of a connection
//!   stream      what lies between the bytes of ftx and a socket: nothing, or TLS
//!   rate        how fast all connections together may move bytes
//!   buffers     the one pool of memory for bodies
//!   storage     jobs in, outcomes out; the only part that knows files, and that may wait
//!   access      who may do what: policies of addresses, tokens, the one decision
//! ```

pub mod access;
mod buffers;
mod connection;
mod doors;
mod fair_line;
mod front;
mod guest;
mod held;
mod key;
mod listen;
mod mailbox;
mod network;
mod rate;
mod selector;
mod selectors;
mod storage;
mod stream;

/// Limits that no option sets, for whoever says what they are.
pub mod fixed {
    pub use super::doors::{
        FORGET_AFTER, PENALTY_MAX, PENALTY_MIN, SITE_ADDRESSES, UNGREETED_MIN, UNGREETED_PART,
        UNGREETED_PER_ADDRESS,
    };
    pub use super::storage::{PARTIALS_OF_ADDRESS, PARTIALS_OF_ANYONE};
}

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ftx_channel::{Identity, TlsError};
use ftx_disk::failure::plain;
use ftx_disk::lock;
use ftx_disk::store::OpenError;
use ftx_disk::sys::{Disk, Native, sync_above};
use ftx_protocol::Durability;
use thiserror::Error;

use access::{Gate, Policy, PolicyOptions, Tokens, TokensError, Transport, Watch};
pub use doors::{DoorOptions, OwnMachine};
pub use ftx_disk::store::Access;
use guest::House;
pub use key::SELECTORS_MAX;
use listen::Listening;
pub use listen::{Listen, ListenError};
pub use selector::Stopper;
use selectors::Selectors;

/// What a server is asked to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory that is served. Made if its parent exists.
    pub directory: PathBuf,
    /// What an address allows, and whom.
    pub policy: PolicyOptions,
    /// What the server shows inside TLS. Without it, nothing is taken inside TLS.
    pub identity: Option<Arc<Identity>>,
    /// The state directory, where the tokens are. Without it, no token is known.
    pub tokens: Option<PathBuf>,
    /// What one address may have.
    pub doors: DoorOptions,
    /// Whether puts are taken.
    pub access: Access,
    /// The most that an acknowledgement promises: `Full` or `None`.
    pub durability: Durability,
    /// The largest file that a put may bring.
    pub size_max_bytes: u64,
    /// What a put must leave free on the disk.
    pub free_min_bytes: u64,
    /// Connections at once; more wait in the listen queue.
    pub connections_max: usize,
    /// What may be open at once, of all connections together.
    pub open_max: OpenMax,
    /// Requests that one connection may make in all; then it is to come anew (rule 4.12).
    pub requests_max: u64,
    /// Selectors, at most [`SELECTORS_MAX`]. Only one where a rate is set: whose turn it is to move
    /// bytes is decided in one place.
    pub threads: usize,
    /// Bytes a second that all connections together may move.
    pub limit_rate: Option<NonZeroU64>,
    /// How long `hello`, and a line that was begun, may take.
    pub header_timeout: Duration,
    /// How long a peer that is waited for may be silent.
    pub idle_timeout: Duration,
    /// How long an interrupted upload is kept, counted while the server runs.
    pub partial_ttl: Duration,
    /// How long a token has to be over before what it left unfinished goes, counted while the server runs.
    pub abandoned_after: Duration,
    /// How long running transfers may go on after the server was asked to stop.
    pub drain_timeout: Duration,
}

/// What may be open at once, of all connections together. One address has three quarters of each at most, so that it keeps
/// no other one out.
#[derive(Debug, Clone, Copy)]
pub struct OpenMax {
    /// Puts under way, two at least: each has a file open until it has its name. More wait; the last half is for
    /// connections that have no other one.
    pub puts: usize,
    /// Files that are sent, or read for their digest. Who asks for more is told that the server is busy.
    pub files: usize,
    /// Directories that are listed, in the same way. Each is two descriptors.
    pub directories: usize,
}

/// What one address may have of what all may have.
fn most_of_one(all: usize) -> usize {
    all.saturating_sub((all / 4).max(1)).max(1)
}

fn next_step(error: &OpenError) -> &'static str {
    match error {
        OpenError::Private { .. } => "; to serve without writing, say --read-only",
        OpenError::Root { .. } | OpenError::Locked | OpenError::NotOurs => "",
    }
}

/// The server could not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The directory cannot be made.
    #[error("cannot make the directory {}: {}", path.display(), plain(error))]
    Make {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The directory cannot be served.
    #[error("{}{}", .0, next_step(.0))]
    Storage(OpenError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The tokens cannot be read.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The server's identity is of no use.
    #[error(transparent)]
    Identity(#[from] TlsError),
    /// The system does not give what the loop needs.
    #[error("cannot set up the selector: {}", plain(.0))]
    Selector(std::io::Error),
}

/// The words of these have what is the matter with them: as a source too, it would be told twice.
impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        Self::Storage(error)
    }
}

impl From<std::io::Error> for StartError {
    fn from(error: std::io::Error) -> Self {
        Self::Selector(error)
    }
}

/// What a server needs from the world outside its directory: its sockets, and that directory. No
/// thread has been started for it.
pub struct Prepared {
    options: Options,
    sockets: Vec<Listening>,
    addresses: Vec<(SocketAddr, Policy)>,
    root: OwnedFd,
}

impl Prepared {
    /// The addresses with their real ports, and what each of them allows.
    pub fn addresses(&self) -> &[(SocketAddr, Policy)] {
        &self.addresses
    }

    /// The served directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Reads the tokens, recovers what an earlier server left in the directory, and starts the threads.
    ///
    /// # Errors
    /// When that is not possible.
    pub fn open(self) -> Result<Server, StartError> {
        let addresses = self.addresses.into_iter().map(|(address, _)| address).collect();
        // Not before: whoever prepares may be root, and the directory that they are in another user's.
        let tokens = self.options.tokens.as_deref().map(Tokens::open).transpose()?;
        let identity = self.options.identity.as_ref();
        let tls = identity.map(ftx_channel::server_config).transpose()?;
        let house = House { gate: Gate::new(tokens.clone()), tls };
        let selectors = Selectors::new(self.sockets, house, &self.options)?;
        let watch = tokens.map(|tokens| tokens.watch(selectors.token_check())).transpose()?;
        Ok(Server { selectors, addresses, _watch: watch })
    }
}

/// A server that is bound and has its directory, and does not serve yet.
pub struct Server {
    selectors: Selectors,
    addresses: Vec<SocketAddr>,
    /// The tokens change as long as this is here.
    _watch: Option<Watch>,
}

/// Whether the served directory had to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MadeDirectory {
    /// It was made.
    New,
    /// It was there.
    Old,
}

impl Server {
    /// Binds the addresses, and opens the directory, which is there. What comes after that needs
    /// nothing outside the directory.
    ///
    /// # Errors
    /// When any of that is not possible; nothing is left behind.
    pub fn prepare(options: Options, listen: Listen) -> Result<Prepared, StartError> {
        let sockets = listen::open(listen, &options.policy)?;
        let addresses =
            sockets.iter().map(|listening| (listening.address, listening.policy)).collect();
        if options.identity.is_none()
            && let Some(silent) =
                sockets.iter().find(|listening| listening.policy.transport == Transport::Tls)
        {
            return Err(ListenError::Exposed(silent.address).into());
        }
        let root = Native.open_root(&options.directory).map_err(|error| OpenError::Root {
            path: options.directory.display().to_string(),
            error,
        })?;
        Ok(Prepared { options, sockets, addresses, root })
    }

    /// All of it: [`make_directory`], [`Server::prepare`], then [`Prepared::open`].
    ///
    /// # Errors
    /// Those of the three.
    pub fn bind(options: Options, listen: Listen) -> Result<Self, StartError> {
        make_directory(&options.directory, options.access)?;
        Self::prepare(options, listen)?.open()
    }

    /// The addresses with their real ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A handle that stops the server from another thread.
    pub fn stopper(&self) -> Stopper {
        self.selectors.stopper()
    }

    /// Serves until it is stopped and what runs has finished, or the drain time is over.
    ///
    /// # Errors
    /// When a selector itself fails; a failure of one connection never gets here.
    pub fn run(self) -> std::io::Result<()> {
        self.selectors.run()
    }
}

/// Makes the directory that is to be served, durably, if it is not there and may be written to.
///
/// # Errors
/// When it cannot be made; its parent must be there.
pub fn make_directory(path: &Path, access: Access) -> Result<MadeDirectory, StartError> {
    if access == Access::ReadOnly {
        return Ok(MadeDirectory::Old);
    }
    match std::fs::create_dir(path).and_then(|()| sync_above(path)) {
        Ok(()) => Ok(MadeDirectory::New),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(MadeDirectory::Old),
        Err(error) => Err(StartError::Make { path: path.to_owned(), error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_may_have_something_and_never_all_of_what_there_are_several_of() {
        assert_eq!([1, 2, 3, 4, 5, 8, 10].map(most_of_one), [1, 1, 2, 3, 4, 6, 8]);
        assert!((2..1_000).all(|all| (1..all).contains(&most_of_one(all))));
    }
}
