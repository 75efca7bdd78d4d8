//! Words of options that several commands have.

use clap::ValueEnum;
use ftx_client::{Algorithm, Durability};

/// What --digest says.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DigestKind {
    Sha256,
    Blake3,
}

impl DigestKind {
    pub fn algorithm(self) -> Algorithm {
        match self {
            Self::Sha256 => Algorithm::Sha256,
            Self::Blake3 => Algorithm::Blake3,
        }
    }
}

/// What --durability says, of a transfer or of a server.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Level {
    Full,
    None,
}

impl Level {
    pub fn durability(self) -> Durability {
        match self {
            Self::Full => Durability::Full,
            Self::None => Durability::None,
        }
    }
}
