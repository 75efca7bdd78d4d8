//! Who may do what.
//!
//! ```text
//!   policy      what an address allows; the gate: a token, or none, to a principal
//!   principal   who somebody is
//!   rights      the words of what may be done
//!   operation   the one decision: a principal and an operation to a grant or a refusal
//!   grant       what was granted, and whether it still holds
//!   tokens      the tokens that the server knows now
//!   watch       the thread that looks at their file
//!   file        that file, also for ftx token
//!   line        its text
//!   usage       how much of its share a token has used
//!   usage_file  and where that is written down
//!   clock       the time by which tokens expire
//! ```
//!
//! Touches no socket, and no file but its own, in the state directory. Decisions are made from
//! names and rights alone, never from what there is on the disk.

mod clock;
mod file;
mod grant;
mod line;
mod operation;
mod policy;
mod principal;
mod rights;
#[cfg(test)]
pub(super) mod testing;
mod tokens;
mod usage;
mod usage_file;
mod watch;

pub use file::{Taken, TokensError, TokensFile};
pub(super) use grant::Granted;
#[cfg(test)]
pub(super) use grant::{Grant, Lease};
pub use line::{
    BadText, Line, TOKENS_MAX, TokenName, TokenNameError, file_time, parse_tokens, system_time,
    token_digest, write_tokens,
};
pub(super) use operation::{Operation, authorize};
pub(super) use policy::{Channel, Gate};
pub use policy::{Exposed, Loopback, Policy, PolicyOptions, Transport, WithoutToken};
pub(super) use principal::{Principal, Who};
pub use rights::{Right, Rights, RightsError};
pub use tokens::TOKEN_PARTIALS;
pub(super) use tokens::Tokens;
pub(super) use usage::Reservation;
#[cfg(test)]
pub(super) use usage::Share;
pub use usage_file::{UsageFile, Used};
pub(super) use watch::Watch;
