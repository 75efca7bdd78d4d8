//! Which key a server has, in a form that a person can compare and a script can keep.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use rustls::pki_types::CertificateDer;
use rustls::server::ParsedCertificate;
use sha2::{Digest, Sha256};

const PREFIX: &str = "sha256:";

/// SHA-256 of a server's public key (`SubjectPublicKeyInfo`, DER): it stays the same when the
/// certificate around the key is renewed. `sha256:` and 64 hex digits. No secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin([u8; 32]);

impl Pin {
    /// The pin of the key in this certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        Ok(Self(Sha256::digest(key.as_ref()).into()))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", HEXLOWER.encode_display(&self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no [`Pin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a server's key is written as sha256: and 64 hex digits")]
pub struct PinError;

impl FromStr for Pin {
    type Err = PinError;

    /// Takes capital digits too: people copy from many programs.
    fn from_str(text: &str) -> Result<Self, PinError> {
        let digits = text.strip_prefix(PREFIX).ok_or(PinError)?;
        let bytes = HEXLOWER.decode(digits.to_ascii_lowercase().as_bytes());
        let bytes: [u8; 32] = bytes.map_err(|_| PinError)?.try_into().map_err(|_| PinError)?;
        Ok(Self(bytes))
    }
}
