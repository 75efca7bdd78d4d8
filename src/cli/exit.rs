//! The exit codes: few, and they stay.

use std::process::ExitCode;

use ftx_client::Class;

/// How a command ended. With several files, the first failure decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything was done.
    Done = 0,
    /// A server could not start or had to end.
    Serve = 1,
    /// The words of the command are wrong.
    Usage = 2,
    /// No server could be reached, it is not known to be the right one, or the connection broke for
    /// too long.
    Network = 3,
    /// The server refused.
    Refused = 4,
    /// Bytes are not what they should be.
    Integrity = 5,
    /// The local file, directory or output.
    Local = 6,
    /// Of several things some were done, and some failed.
    Partial = 7,
    /// By Ctrl-C, as of a process that the signal ended.
    Interrupted = 130,
}

/// For the help.
pub const HELP: &str = "\
Exit codes:
  0  done
  1  the server could not start or had to end
  2  the words of the command are wrong
  3  network: no server there, none that is known to be the right one, or the connection broke
     for too long
  4  the server refused
  5  integrity: bytes are not what they should be; nothing was kept
  6  the local file, directory or output
  7  of several files or names some were done, and some failed
  130  interrupted by Ctrl-C
put and get of several single files try each; the first failure decides.";

impl From<Class> for Exit {
    fn from(class: Class) -> Self {
        match class {
            Class::Usage => Self::Usage,
            Class::Network | Class::Untrusted => Self::Network,
            Class::Refused(_) => Self::Refused,
            Class::Integrity => Self::Integrity,
            Class::Local => Self::Local,
            Class::Interrupted => Self::Interrupted,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
