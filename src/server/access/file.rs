//! The tokens file: what is read from it and written to it.

use std::fmt;
use std::path::{Path, PathBuf};

use ftx_protocol::ids::Owner;
use ftx_protocol::{Digest, FileTime, Name};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::rights::Rights;

/// What a token is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TokenName(String);

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Tells it from every other token there was or will be.
    pub id: Owner,
    /// What people call it.
    pub name: TokenName,
    /// The SHA-256 of its 32 bytes.
    pub digest: Digest,
    /// What it allows.
    pub can: Rights,
    /// The directory that it is held to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under: Option<Name>,
    /// When it was made.
    pub made: FileTime,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<FileTime>,
    /// Bytes that it may bring in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Unfinished uploads that it may have at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_partials: Option<u32>,
}

/// The tokens cannot be read or changed.
#[derive(Debug, Error)]
pub enum TokensError {
    /// The system refuses.
    #[error("cannot {step} {}: {error}", path.display())]
    System {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
}

/// The file in which the tokens of a served directory stand.
#[derive(Debug, Clone)]
pub struct TokensFile {
    path: PathBuf,
}

impl TokensFile {
    /// The one in this state directory.
    pub fn of_state(state: &Path) -> Self {
        Self { path: state.join("tokens") }
    }
}
