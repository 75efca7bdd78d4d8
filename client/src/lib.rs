//! put, get, trees and the rest, for programs.
//!
//! Blocking, with a thread where it pays. Everything that an interruption can break resumes by
//! itself: on a new connection within the retry time, and in a new process from the state that is
//! kept on disk. The crate writes only what the caller named, whatever a server says.
//!
//! ```no_run
//! use ftx_client::{Client, Durability, PutOptions, Retry, Source};
//! # fn main() -> Result<(), ftx_client::Failure> {
//! let client = Client::new("127.0.0.1:7389".parse()?, Retry::default());
//! let source = Source::open("photo.jpg".as_ref())?;
//! let name = ftx_client::Name::parse(b"photos/photo.jpg").unwrap();
//! let done = client.put(source, &name, &PutOptions::default(), &mut |_| {})?;
//! println!("{}", done.digest);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod address;
mod ask;
mod attempts;
mod connect;
mod failure;
mod get;
mod hashing;
mod ids;
mod interrupt;
mod json_name;
mod link;
mod locked;
mod pace;
mod partials;
mod put;
mod reading;
mod retry;
mod servers;
mod short_hash;
mod sink;
mod source;
mod spent;
mod state;
mod stream;
pub mod tree;
mod xdg;

pub use address::{DEFAULT_PORT, Remote, ServerAddress};
pub use ask::{Answer, Ask, Session};
pub use connect::{Introduce, Plaintext, RightKey};
pub use failure::{Class, Failure, GOES_ON};
pub use ftx_channel::Pin;
pub use ftx_disk::landing::Replace;
pub use ftx_protocol::message::{Cache, Change, Entry, Info, Mkdir, Move, Remove, Stat, Unread};
pub use ftx_protocol::{
    Algorithm, Code, Condition, Depth, Digest, Durability, Kind, Name, Parents, Replay, Token,
};
pub use get::{GetDone, GetOptions};
pub use interrupt::Interrupt;
pub use json_name::JsonName;
pub use link::Keeper;
pub use partials::{About, Leftover, Working, leftovers};
pub use put::{PutDone, PutOptions};
pub use retry::Retry;
pub use servers::{Changed, KnownServer, Servers, Trusted};
pub use sink::Sink;
pub use source::Source;
pub use spent::{Part, Spent};
#[doc(hidden)]
pub use state::saved_in;
pub use xdg::{prepared_state_directory, state_directory};

use std::sync::{Arc, Mutex};

use connect::{Login, NobodyThere};
use failure::Reached;
use ftx_disk::lock::lock;
use pace::Pace;

/// One server, as a client sees it. Each call makes its own connections, unless there is a
/// [`Keeper`].
///
/// A server on another machine is spoken to inside TLS, once it is known to be the right one: by the
/// key in its address, by the user's list of known servers, or by its certificate.
#[derive(Debug, Clone)]
pub struct Client {
    server: ServerAddress,
    retry: Retry,
    interrupt: Interrupt,
    keeper: Option<Keeper>,
    pace: Option<Pace>,
    /// Of all its clones.
    reached: Arc<Mutex<Reached>>,
    plaintext: Plaintext,
    login: Login,
    introduction: Arc<dyn Introduce>,
}

impl Client {
    /// A client of a server. Nothing is connected yet.
    pub fn new(server: ServerAddress, retry: Retry) -> Self {
        Self {
            server,
            retry,
            interrupt: Interrupt::default(),
            keeper: None,
            pace: None,
            reached: Arc::default(),
            plaintext: Plaintext::default(),
            login: Login::AsKnown,
            introduction: Arc::new(NobodyThere),
        }
    }

    /// Says where a server that is not known may be spoken to without encryption.
    #[must_use]
    pub fn with_plaintext(self, plaintext: Plaintext) -> Self {
        Self { plaintext, ..self }
    }

    /// Names somebody to ask about servers that are not known.
    #[must_use]
    pub fn with_introduction(self, introduction: Arc<dyn Introduce>) -> Self {
        Self { introduction, ..self }
    }

    /// Lets an interruption end what it does.
    #[must_use]
    pub fn with_interrupt(self, interrupt: Interrupt) -> Self {
        Self { interrupt, ..self }
    }

    /// Uses the connection that is kept, and leaves it there, where a call takes one at a time.
    #[must_use]
    pub fn with_keeper(self, keeper: Keeper) -> Self {
        Self { keeper: Some(keeper), ..self }
    }

    /// Moves no more bytes a second than this, over all its connections and those of its clones
    /// together.
    #[must_use]
    pub fn with_limit_rate(self, bytes_per_second: std::num::NonZeroU64) -> Self {
        Self { pace: Some(Pace::new(bytes_per_second)), ..self }
    }

    /// Shares the rate of another client: together they move no more than that.
    #[must_use]
    pub fn with_rate_of(self, other: &Self) -> Self {
        Self { pace: other.pace.clone(), ..self }
    }

    /// How long the rate made it wait so far.
    fn paced(&self) -> std::time::Duration {
        self.pace.as_ref().map(Pace::waited).unwrap_or_default()
    }

    fn reached(&self) -> Reached {
        *lock(&self.reached)
    }

    fn set_reached(&self, reached: Reached) {
        *lock(&self.reached) = reached;
    }

    /// The server.
    pub fn server(&self) -> &ServerAddress {
        &self.server
    }
}

/// What a transfer has to say while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// It begins, or goes on, at an offset.
    Began {
        /// The offset.
        at: u64,
        /// Bytes of the whole, if known.
        size: Option<u64>,
    },
    /// Everything before this offset was sent or has arrived.
    Moved {
        /// The offset.
        at: u64,
    },
    /// The connection broke, or the server asked to come again; the next try is after a pause.
    Retrying {
        /// What happened.
        cause: String,
        /// How long it waits.
        pause: std::time::Duration,
    },
    /// Something that does not stop the transfer, and that a person should know.
    Warning(String),
}

/// Where notices go.
pub type Observer<'a> = dyn FnMut(Notice) + 'a;

/// Bytes that were moved, and those that were moved a second time because of an interruption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Bytes of the body that crossed the network.
    pub moved_bytes: u64,
    /// Of these, bytes that had crossed it before.
    pub moved_again_bytes: u64,
    /// Bytes that were read from the local disk.
    pub read_bytes: u64,
    /// Of these, bytes that had been read before.
    pub read_again_bytes: u64,
    /// Connections that were made.
    pub connections: u64,
}
