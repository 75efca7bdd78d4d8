//! The numbers and tokens that tell one thing from another.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use crate::limits::VERSION_BYTES;

/// Names one request on one connection. Chosen by the client, rising, at most 2^53 - 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one attempt to put one file: 128 random bits, 32 small hexadecimal digits.
///
/// Whoever knows it can go on with the transfer, so it is a secret: its `Debug` and `Display`
/// show the first eight digits only. [`TransferId::hex`] has all.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransferId(pub [u8; 16]);

/// The text is not a transfer id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a transfer id is 32 small hexadecimal digits")]
pub struct TransferIdError;

impl TransferId {
    /// All 32 digits. For the wire and for state files, never for a log.
    pub fn hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }
}

impl FromStr for TransferId {
    type Err = TransferIdError;

    fn from_str(text: &str) -> Result<Self, TransferIdError> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| TransferIdError)?;
        Ok(Self(bytes.try_into().map_err(|_| TransferIdError)?))
    }
}

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "{}…", HEXLOWER.encode(&[a, b, c, d]))
    }
}

impl fmt::Debug for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for TransferId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.hex())
    }
}

impl<'de> Deserialize<'de> for TransferId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Who began a transfer: the id of a token, 16 small hexadecimal digits. It is no secret, and
/// nobody is let in by it; it is random, so that a new token of an old name is another owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(pub [u8; 8]);

/// The text is not an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an owner is 16 small hexadecimal digits")]
pub struct OwnerError;

impl FromStr for Owner {
    type Err = OwnerError;

    fn from_str(text: &str) -> Result<Self, OwnerError> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| OwnerError)?;
        Ok(Self(bytes.try_into().map_err(|_| OwnerError)?))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl Serialize for Owner {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Owner {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The server's word for what a name held at one moment. Equal versions mean equal bytes;
/// different versions say nothing. One to [`VERSION_BYTES`] visible ASCII characters; what they
/// are made of is the server's business.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Version(String);

/// The text cannot be a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a version is 1 to 64 visible ASCII characters")]
pub struct VersionError;

impl Version {
    /// Checks the text.
    ///
    /// # Errors
    /// When it is empty, too long, or not all visible ASCII.
    pub fn parse(text: &str) -> Result<Self, VersionError> {
        let fits = (1..=VERSION_BYTES).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(VersionError)
        }
    }

    /// A version made of the first half of a hash.
    pub fn of_hash(hash: &[u8; 32]) -> Self {
        Self(HEXLOWER.encode(hash.first_chunk::<16>().unwrap_or(&[0; 16])))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_id_keeps_its_secret_when_printed() {
        let id: TransferId = "00112233445566778899aabbccddeeff".parse().unwrap();
        assert_eq!(format!("{id} {id:?}"), "00112233… 00112233…");
        assert_eq!(id.hex().parse(), Ok(id));
        assert!("00112233445566778899AABBCCDDEEFF".parse::<TransferId>().is_err());
        assert!("0011".parse::<TransferId>().is_err());
    }

    #[test]
    fn an_owner_is_its_digits() {
        let owner: Owner = serde_json::from_str("\"00112233445566ff\"").unwrap();
        assert_eq!(owner.to_string(), "00112233445566ff");
        assert_eq!(serde_json::to_string(&owner).unwrap(), "\"00112233445566ff\"");
        for bad in ["", "00112233445566FF", "00112233445566f", "00112233445566ff00"] {
            assert_eq!(bad.parse::<Owner>(), Err(OwnerError), "{bad}");
        }
    }

    #[test]
    fn a_version_is_short_and_visible() {
        assert!(Version::parse("a-1").is_ok());
        for bad in ["", " ", "a b", "é", &"x".repeat(VERSION_BYTES + 1)] {
            assert!(Version::parse(bad).is_err(), "{bad:?}");
        }
    }
}
