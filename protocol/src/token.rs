//! The token with which a client says who it is (rule 14.5): a secret of 32 random bytes.
//!
//! It is read and written here and nowhere else, and it never prints itself: only [`Token::text`]
//! has it, for the wire and for the one who made it.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// What every token begins with, so that people and scanners for leaked secrets know one.
pub const TOKEN_PREFIX: &str = "ftx1_";

/// The random bytes of a token.
pub const TOKEN_BYTES: usize = 32;

/// A token. Its `Debug` and `Display` show nothing of it.
#[derive(Clone, Eq)]
pub struct Token([u8; TOKEN_BYTES]);

/// The text is not a token. Does not say which text: it may be a token with a typing error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a token is ftx1_ and 43 characters of base64url")]
pub struct TokenError;

impl Token {
    /// The token of these bytes, which have to be random.
    pub const fn new(bytes: [u8; TOKEN_BYTES]) -> Self {
        Self(bytes)
    }

    /// The whole token as text. For the wire, a file that only its owner reads, and the one moment
    /// at which it is handed out; never for a log.
    pub fn text(&self) -> String {
        let mut text = TOKEN_PREFIX.to_owned();
        BASE64URL_NOPAD.encode_append(&self.0, &mut text);
        text
    }

    /// The random bytes.
    pub const fn bytes(&self) -> &[u8; TOKEN_BYTES] {
        &self.0
    }
}

impl PartialEq for Token {
    /// Looks at every byte, whatever the first ones are: the time it takes tells nothing.
    fn eq(&self, other: &Self) -> bool {
        let bits = self.0.iter().zip(&other.0).fold(0, |bits, (one, other)| bits | (one ^ other));
        std::hint::black_box(bits) == 0
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let digits = text.strip_prefix(TOKEN_PREFIX).ok_or(TokenError)?;
        let bytes = BASE64URL_NOPAD.decode(digits.as_bytes()).map_err(|_| TokenError)?;
        Ok(Self(bytes.try_into().map_err(|_| TokenError)?))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TOKEN_PREFIX}…")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "ftx1_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    fn counting() -> Token {
        Token::new(std::array::from_fn(|place| place as u8))
    }

    #[test]
    fn its_text_is_the_token_and_nothing_else_is() {
        assert_eq!(counting().text(), TEXT);
        assert_eq!(TEXT.parse(), Ok(counting()));
        for bad in [
            "",
            "ftx1_",
            &TEXT[5..],
            &TEXT[..TEXT.len() - 1],
            &format!("{TEXT}A"),
            &format!("{TEXT}="),
            &format!("{TEXT}\n"),
            &TEXT.replace("ftx1_", "FTX1_"),
            &TEXT.replace("Gxwd", "Gx+d"),
            &TEXT.replace("Gxwd", "Gx/d"),
            // The last character has bits to spare: they are 0, so that a token has one text.
            &TEXT.replace("Hh8", "Hh9"),
        ] {
            assert_eq!(bad.parse::<Token>(), Err(TokenError), "{bad:?}");
        }
    }

    #[test]
    fn it_never_prints_itself() {
        let token = counting();
        assert_eq!(format!("{token} {token:?} {:?}", Some(&token)), "ftx1_… ftx1_… Some(ftx1_…)");
        let error = serde_json::from_str::<Token>("\"ftx1_secret\"").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn tokens_are_equal_if_all_their_bytes_are() {
        let token = counting();
        assert_eq!(token, token.clone());
        for place in 0..TOKEN_BYTES {
            let mut bytes = *token.bytes();
            bytes[place] ^= 0x80;
            assert_ne!(Token::new(bytes), token, "{place}");
        }
        assert_eq!(serde_json::to_string(&token).unwrap(), format!("\"{TEXT}\""));
        assert_eq!(serde_json::from_str::<Token>(&format!("\"{TEXT}\"")).unwrap(), token);
    }
}
