//! The table of error codes: each with whose fault it is, whether to try again, and what to do.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::word::{self, Word};

/// Who has to change something for the request to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The client program broke the protocol.
    Client,
    /// The request cannot be granted as it was asked: the user has to ask for something else.
    Request,
    /// The server, its disk or its operator.
    Server,
    /// Nobody: the world changed in between.
    Nobody,
}

impl Fault {
    /// The word in protocol.md.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Request => "request",
            Self::Server => "server",
            Self::Nobody => "nobody",
        }
    }
}

/// Whether the same request can succeed later without anybody doing anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Not before something was changed.
    No,
    /// Yes, by itself, after a pause, resuming where it can.
    Later,
    /// Once, from zero, under a new transfer id.
    Fresh,
}

impl Retry {
    /// The word in protocol.md.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Later => "later",
            Self::Fresh => "fresh",
        }
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $word:literal, $fault:ident, $retry:ident;)*) => {
        /// A stable error code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $($(#[doc = $doc])+ $variant,)*
            /// A code that this program does not know, from a newer peer. Never sent.
            Unknown,
        }

        impl Word for Code {
            const WORDS: &'static [&'static str] = &[$($word),*];

            fn from_word(word: &str) -> Option<Self> {
                Some(match word { $($word => Self::$variant,)* _ => Self::Unknown })
            }
        }

        impl Code {
            /// Every code that may be sent, in the order of protocol.md.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* Self::Unknown => "unknown" }
            }

            /// Whose fault it is.
            pub const fn fault(self) -> Fault {
                match self { $(Self::$variant => Fault::$fault,)* Self::Unknown => Fault::Server }
            }

            /// Whether to try again.
            pub const fn retry(self) -> Retry {
                match self { $(Self::$variant => Retry::$retry,)* Self::Unknown => Retry::No }
            }

            /// What happened and what to do, as protocol.md says it.
            pub const fn advice(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii(),)*
                    Self::Unknown => "The server is newer than this program.",
                }
            }
        }
    };
}

codes! {
    /// The line is no message: not JSON, wrong types, a duplicate key, a number out of range. The connection is closed.
    BadMessage = "bad_message", Client, No;
    /// The line is longer than the limit. The connection is closed.
    LineTooLong = "line_too_long", Client, No;
    /// The first message is not `hello`, or a second `hello` came. The connection is closed.
    BadHello = "bad_hello", Client, No;
    /// The server does not speak the version that `hello` named. The connection is closed.
    UnsupportedVersion = "unsupported_version", Client, No;
    /// The request's id is not above every earlier one. The connection is closed.
    BadId = "bad_id", Client, No;
    /// More requests are in flight than the limit. The connection is closed.
    TooManyRequests = "too_many_requests", Client, No;
    /// More raw bytes came for refused requests than the limit. The connection is closed; reconnect.
    TooMuchDiscarded = "too_much_discarded", Client, Later;
    /// The server does not know this kind of request.
    UnknownRequest = "unknown_request", Client, No;
    /// The server does not know a word in `need`. Nothing was done.
    UnknownNeed = "unknown_need", Client, No;
    /// A part does not follow on the one before it, is larger than the limit, or goes past the announced size.
    BadPart = "bad_part", Client, No;
    /// The put begins at an offset that is not the durable one, or another put has the transfer.
    BadOffset = "bad_offset", Client, Fresh;
    /// The transfer id was used for another file, digest kind or size before. Take a new id.
    TransferMismatch = "transfer_mismatch", Client, Fresh;
    /// The name breaks the rules for names: empty part, `.`, `..`, NUL, too long, too many parts.
    BadName = "bad_name", Request, No;
    /// The name, or what it leads to, is the server's own staging directory.
    ReservedName = "reserved_name", Request, No;
    /// Nothing has this name.
    NotFound = "not_found", Request, No;
    /// The name is a directory.
    IsDirectory = "is_directory", Request, No;
    /// Something that has to be a directory is none.
    NotADirectory = "not_a_directory", Request, No;
    /// The name is a device, FIFO or socket.
    NotAFile = "not_a_file", Request, No;
    /// The name leads out of the served directory, or its symlinks lead in a circle.
    OutsideRoot = "outside_root", Request, No;
    /// The name is on another file system than the served directory, so that it cannot be replaced atomically.
    OtherFilesystem = "other_filesystem", Request, No;
    /// The operating system refuses the server access to the name.
    PermissionDenied = "permission_denied", Request, No;
    /// The file system cannot store this name.
    UnstorableName = "unstorable_name", Request, No;
    /// Something has the name already, and was not to be replaced.
    Exists = "exists", Request, No;
    /// The name is a directory that is not empty.
    NotEmpty = "not_empty", Request, No;
    /// The name holds another version than the request says. Begin again with the new one.
    VersionMismatch = "version_mismatch", Nobody, Fresh;
    /// The file is larger than the server accepts.
    TooLarge = "too_large", Request, No;
    /// The server only reads.
    ReadOnly = "read_only", Request, No;
    /// This server is spoken to inside TLS only. Nothing was read. The connection is closed.
    TlsRequired = "tls_required", Request, No;
    /// This server wants a token, and none came. Log in with `ftx login`. The connection is closed.
    LoginRequired = "login_required", Request, No;
    /// The server does not know this token: it is wrong, or was removed. The connection is closed.
    LoginFailed = "login_failed", Request, No;
    /// The token's time is over. Ask for a new one.
    Expired = "expired", Request, No;
    /// The token, or whoever comes without one, may not do this.
    Denied = "denied", Request, No;
    /// The token's share of bytes, or of unfinished uploads, is used up.
    Quota = "quota", Request, No;
    /// The server cannot give the durability that was asked for. Ask for less with `--durability`.
    DurabilityUnavailable = "durability_unavailable", Request, No;
    /// The server does not have this digest algorithm.
    UnsupportedDigest = "unsupported_digest", Request, No;
    /// There is no room on the server's disk.
    NoSpace = "no_space", Server, No;
    /// The body ended with another size than was announced or than `end` says.
    SizeMismatch = "size_mismatch", Client, Fresh;
    /// The bytes that arrived do not have the digest that `end` says. What was stored is gone.
    DigestMismatch = "digest_mismatch", Nobody, Fresh;
    /// The file changed while it was read.
    Changed = "changed", Nobody, Fresh;
    /// The sender of the body gave up.
    Aborted = "aborted", Nobody, No;
    /// Another connection resumed this transfer. It goes on there.
    TakenOver = "taken_over", Nobody, No;
    /// The server's disk failed. What was stored of this transfer is gone, or gets its name at the server's next start.
    StorageFailed = "storage_failed", Server, Fresh;
    /// What was asked for was done whole, but the disk failed while a directory was synced: a power cut may undo it.
    DurabilityUnknown = "durability_unknown", Server, No;
    /// The peer was too slow or said nothing. The connection is closed.
    Timeout = "timeout", Client, Later;
    /// The server cannot do this now: it has no room, has had enough of this connection, or cannot tell who the client is.
    Busy = "busy", Server, Later;
    /// The server is about to stop. Resume when it is back.
    ShuttingDown = "shutting_down", Server, Later;
    /// A fault in the server program.
    Internal = "internal", Server, No;
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        word::read(deserializer)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal: the code, and the particulars in words for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What programs decide by.
    pub code: Code,
    /// What a person reads: one line, no secrets, at most [`crate::limits::TEXT_BYTES`].
    pub message: String,
}

impl Refusal {
    /// A refusal with its particulars.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(crate::limits::TEXT_BYTES));
        Self { code, message }
    }
}

/// A code that needs no particulars says what its row in the table says.
impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self::new(code, code.advice())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Refusal {}
