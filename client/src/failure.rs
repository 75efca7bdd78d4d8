//! Why a transfer failed, in words for a person and a class for a program.

use std::fmt;
use std::io;

pub(crate) use ftx_disk::failure::plain;
use ftx_protocol::client::Violation;
use ftx_protocol::{Code, Escaped, Refusal, Retry};

/// What has to change for it to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The words that were given: an address, a name.
    Usage,
    /// The network, or no server there.
    Network,
    /// The server is not known to be the right one, or is known not to be. Nothing was sent to it.
    Untrusted,
    /// The server said no.
    Refused(Code),
    /// Bytes are not what they should be.
    Integrity,
    /// The local file or directory.
    Local,
    /// Nothing: somebody interrupted it.
    Interrupted,
}

impl Class {
    /// Whether it is about the way to the server, and not about what was asked of it: the same can
    /// be asked again, and what was begun goes on, once the way is free.
    pub fn is_about_the_way(self) -> bool {
        match self {
            Self::Network | Self::Untrusted | Self::Interrupted => true,
            Self::Refused(code) => code.retry() == Retry::Later || is_about_the_login(code),
            Self::Usage | Self::Integrity | Self::Local => false,
        }
    }
}

/// Whether a refusal is about who is asking, whatever it is that was asked.
pub(crate) fn is_about_the_login(code: Code) -> bool {
    matches!(code, Code::TlsRequired | Code::LoginRequired | Code::LoginFailed | Code::Expired)
}

/// A failure: what was being done, on which side, why, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What has to change.
    pub class: Class,
    message: String,
    source: SourceWas,
}

/// What a put that fails here has found out about its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SourceWas {
    /// Nothing.
    Unsaid,
    /// It changed while it was read.
    Changed,
}

impl Failure {
    /// A failure of a class, with what a person reads.
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), source: SourceWas::Unsaid }
    }

    /// The source of a put changed while it was read.
    pub(crate) fn source_changed(message: impl Into<String>) -> Self {
        Self { source: SourceWas::Changed, ..Self::new(Class::Local, message) }
    }

    /// What a server is told whose put ends with this (rule 5.5).
    pub(crate) fn code_of_abort(&self) -> Code {
        match self.source {
            SourceWas::Changed => Code::Changed,
            SourceWas::Unsaid => Code::Aborted,
        }
    }

    /// A local file or directory that could not be used: what was being done, which, and why.
    pub fn local(step: &str, path: &std::path::Path, error: &io::Error) -> Self {
        Self::new(Class::Local, format!("{step} {}: {}", shown(path), plain(error)))
    }

    /// A directory that was to be put as a file is.
    pub fn is_directory(path: &std::path::Path) -> Self {
        let message = format!("cannot put {}: it is a directory", shown(path));
        Self::new(Class::Local, message).with_hint("to put it with all that is in it, say -r")
    }
}

impl Failure {
    /// Adds what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: &str) -> Self {
        self.message = format!("{}; {hint}", self.message);
        self
    }
}

/// What to do next, where an earlier try left something to go on with.
pub const GOES_ON: &str = "the same command goes on where this one ended";

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// What ended one try.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// No connection came about.
    Unreachable(String),
    /// The connection broke.
    Broken(String),
    /// The server refused the request, or ended the connection and said why.
    Refused(Refusal),
    /// The server contradicts itself or us.
    Violation(Violation),
    /// The bytes that came are not those that the server says they are.
    Corrupt(String),
    /// Nothing that another try would mend.
    Final(Failure),
    /// Somebody wants it to end.
    Interrupted,
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Final(failure)
    }
}

impl From<Violation> for Trouble {
    fn from(violation: Violation) -> Self {
        match violation {
            Violation::Silence | Violation::Closed => Self::Broken(violation.to_string()),
            violation => Self::Violation(violation),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::Interrupted => Self::Interrupted,
            _ => Self::Broken(plain(&error)),
        }
    }
}

/// Whether a client has reached its server: a first connect that fails is no break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Reached {
    #[default]
    NotYet,
    /// Or somebody took the connection where the server was once.
    Yes,
    /// Not any more: it was waited for as long as there is patience.
    GivenUp,
}

impl Trouble {
    /// Whether another try may mend it.
    pub(crate) fn retry(&self, reached: Reached) -> Retry {
        match self {
            Self::Unreachable(_) if reached != Reached::Yes => Retry::No,
            Self::Unreachable(_) | Self::Broken(_) => Retry::Later,
            Self::Refused(refusal) => refusal.code.retry(),
            Self::Corrupt(_) => Retry::Fresh,
            Self::Violation(_) | Self::Final(_) | Self::Interrupted => Retry::No,
        }
    }

    /// The end of a transfer, if this was its last try.
    pub(crate) fn into_failure(self, what: &str, server: &dyn fmt::Display) -> Failure {
        match self {
            Self::Final(failure) => failure,
            Self::Unreachable(cause) => Failure::new(
                Class::Network,
                format!(
                    "{what}: cannot reach a server at {server} (is ftx serve running there?): {cause}"
                ),
            ),
            Self::Broken(cause) => Failure::new(
                Class::Network,
                format!("{what}: the connection to {server} broke: {cause}"),
            ),
            Self::Refused(refusal) => {
                // A server's words may be whole sentences; what follows here goes on with one.
                let message = refusal.message.trim_end().trim_end_matches('.');
                let message = Escaped(message.as_bytes());
                let text = format!("{what}: the server refused ({}): {message}", refusal.code);
                let failure = Failure::new(Class::Refused(refusal.code), text);
                match next_step(refusal.code, server) {
                    Some(step) => failure.with_hint(&step),
                    None => failure,
                }
            }
            Self::Violation(violation) => {
                let class = match &violation {
                    Violation::FalseAcknowledgement { .. }
                    | Violation::WeakAcknowledgement { .. } => Class::Integrity,
                    _ => Class::Network,
                };
                Failure::new(class, format!("{what}: {violation}"))
            }
            Self::Corrupt(cause) => Failure::new(Class::Integrity, format!("{what}: {cause}")),
            Self::Interrupted => Failure::new(Class::Interrupted, format!("{what}: interrupted")),
        }
    }
}

/// What to do about a refusal that is about who is asking.
fn next_step(code: Code, server: &dyn fmt::Display) -> Option<String> {
    Some(match code {
        Code::TlsRequired => format!(
            "log in with the line that ftx serve printed: ftx login ftx://{server}#sha256:…"
        ),
        Code::LoginRequired => format!("log in with a token: ftx login {server}"),
        Code::LoginFailed | Code::Expired => {
            format!("ask for a new token, and log in with it: ftx login {server}")
        }
        Code::Denied => format!(
            "who runs the server can make a token that may (ftx token add); then: ftx login {server}"
        ),
        Code::Quota => "who runs the server can make a token with a larger share".to_owned(),
        _ => return None,
    })
}

/// A path as it may be shown.
pub(crate) fn shown(path: &std::path::Path) -> String {
    Escaped::of(path).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_the_login_says_what_to_do() {
        for (code, step) in [
            (Code::TlsRequired, Some("ftx login ftx://box:1#sha256:…")),
            (Code::LoginRequired, Some("ftx login box:1")),
            (Code::LoginFailed, Some("ftx login box:1")),
            (Code::Expired, Some("ftx login box:1")),
            (Code::Denied, Some("ftx login box:1")),
            (Code::Quota, Some("larger share")),
            (Code::NotFound, None),
        ] {
            let refused = Trouble::Refused(Refusal::new(code, "no"));
            let said = refused.into_failure("get a", &"box:1").to_string();
            let begin = format!("get a: the server refused ({code}): no");
            let rest = said.strip_prefix(&begin).unwrap();
            assert!(
                !rest.contains("--plaintext"),
                "who has not said it cannot leave it out: {rest}"
            );
            assert!(
                step.map_or(rest.is_empty(), |step| rest.ends_with(step) || rest.contains(step))
            );
        }
    }

    #[test]
    fn what_is_added_to_the_words_of_a_server_reads_on() {
        let refusal = Refusal::new(Code::Busy, "Too much to do. Come again.");
        let failure = Trouble::Refused(refusal).into_failure("put a", &"box:1").with_hint(GOES_ON);
        assert_eq!(
            failure.to_string(),
            format!("put a: the server refused (busy): Too much to do. Come again; {GOES_ON}")
        );
    }
}
