//! The text of the tokens file: a first line that says what it is, then a token a line, as JSON.
//!
//! What is not understood makes the whole file worthless: an older program that passed over a
//! restriction it does not know would let in too many.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use ftx_protocol::token::TOKEN_PREFIX;
use ftx_protocol::{Algorithm, Digest, Escaped, FileTime, Name, Owner, Token};
use serde::{Deserialize, Deserializer, Serialize, de};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use super::file::FILE_BYTES_MAX;
use super::rights::Rights;

/// Tokens of one file: a login is compared with each.
pub const TOKENS_MAX: usize = 10_000;

/// The first line.
const HEADER: &str = r#"{"ftx_tokens":1}"#;

/// Bytes of a name.
const TOKEN_NAME_BYTES: usize = 64;

/// What the log calls those who have no token.
const NOT_NAMES: [&str; 3] = ["local", "public", "nobody"];

/// What a token is called: so that it can be typed, and stands in a log without quotes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TokenName(String);

/// The text cannot be the name of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenNameError {
    /// Its letters, or how many there are.
    #[error("a token's name is 1 to 64 of A-Z a-z 0-9 . _ -, and does not begin with -")]
    Letters,
    /// It would be mistaken for somebody without a token.
    #[error("local, public and nobody are what the log calls those without a token")]
    Reserved,
}

impl TokenName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TokenName {
    type Err = TokenNameError;

    fn from_str(text: &str) -> Result<Self, TokenNameError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=TOKEN_NAME_BYTES).contains(&text.len()) && !text.starts_with('-');
        if !fits || !text.bytes().all(is_plain) {
            Err(TokenNameError::Letters)
        } else if NOT_NAMES.contains(&text) {
            Err(TokenNameError::Reserved)
        } else {
            Ok(Self(text.to_owned()))
        }
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for TokenName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// One token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Tells it from every other token that there was or will be.
    pub id: Owner,
    /// What people call it.
    pub name: TokenName,
    /// The SHA-256 of its bytes: 256 random bits need no slow hash.
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

/// The digest under which a token is known.
pub fn token_digest(token: &Token) -> Digest {
    Digest { algorithm: Algorithm::Sha256, bytes: Sha256::digest(token.bytes()).into() }
}

/// What is wrong with the text of a tokens file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: {why}")]
pub struct BadText {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it. Never says a secret: somebody may have put one where none belongs.
    pub why: String,
}

impl BadText {
    fn at(line: usize, why: impl Into<String>) -> Self {
        Self { line, why: why.into() }
    }
}

/// Reads the text of a tokens file.
///
/// # Errors
/// At the first line that is not understood, or says what another one says already.
#[doc(hidden)]
pub fn parse_tokens(text: &[u8]) -> Result<Vec<Line>, BadText> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let mut lines = text.split(|&byte| byte == b'\n').zip(1..);
    if lines.next().is_none_or(|(first, _)| first != HEADER.as_bytes()) {
        return Err(BadText::at(
            1,
            format!("it is not {HEADER}: this is no tokens file, or a newer one"),
        ));
    }
    let mut parsed = Vec::new();
    let (mut ids, mut names, mut digests) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (text, number) in lines {
        if parsed.len() >= TOKENS_MAX {
            return Err(too_many(number));
        }
        let line: Line = serde_json::from_slice(text).map_err(|error| {
            let why = error.to_string().replace(" at line 1 column ", " at column ");
            let why = match why.contains(TOKEN_PREFIX) {
                true => "there is a token where none belongs; take it back".to_owned(),
                false => Escaped(why.as_bytes()).to_string(),
            };
            BadText::at(number, why)
        })?;
        let is_new =
            ids.insert(line.id) & names.insert(line.name.clone()) & digests.insert(line.digest);
        if !is_new {
            return Err(BadText::at(number, "its id, name or digest is that of an earlier line"));
        }
        if line.digest.algorithm != Algorithm::Sha256 {
            return Err(BadText::at(number, "the digest of a token is SHA-256"));
        }
        parsed.push(line);
    }
    Ok(parsed)
}

/// The text of a tokens file.
///
/// # Errors
/// When there is more than such a file may have.
#[doc(hidden)]
pub fn write_tokens(lines: &[Line]) -> Result<Vec<u8>, BadText> {
    let mut text = HEADER.as_bytes().to_vec();
    for (line, number) in lines.iter().zip(2..) {
        text.push(b'\n');
        serde_json::to_writer(&mut text, line)
            .map_err(|error| BadText::at(number, error.to_string()))?;
    }
    text.push(b'\n');
    match lines.len() > TOKENS_MAX || text.len() as u64 > FILE_BYTES_MAX {
        true => Err(too_many(lines.len())),
        false => Ok(text),
    }
}

fn too_many(line: usize) -> BadText {
    BadText::at(
        line,
        format!("there are more than {TOKENS_MAX} tokens, or more than 8 MiB of them"),
    )
}

/// A time as the file has it.
pub fn file_time(time: SystemTime) -> FileTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    FileTime::nearest(i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos())
}

/// That time again. What is before 1970 is 1970; what the system cannot say is 1970 as well: a token
/// that ends then has ended.
pub fn system_time(time: FileTime) -> SystemTime {
    let since = Duration::new(u64::try_from(time.seconds()).unwrap_or(0), time.nanoseconds());
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::access::rights::Right;

    const ALICE: &str = concat!(
        r#"{"id":"00112233445566ff","name":"alice","digest":"sha256:"#,
        "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        r#"","can":["write","list"],"under":"photos","made":[1700000000,0],"#,
        r#""expires":[1800000000,5],"max_bytes":10,"max_partials":3}"#
    );

    fn why(text: &str) -> String {
        parse_tokens(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_was_written_is_read() {
        let text = format!("{HEADER}\n{ALICE}\n");
        let lines = parse_tokens(text.as_bytes()).unwrap();
        let [line] = lines.as_slice() else { panic!("one line") };
        assert_eq!(line.name.as_str(), "alice");
        assert!(line.can.has(Right::Write) && line.can.has(Right::List));
        assert!(!line.can.has(Right::Read) && !line.can.is_drop());
        assert_eq!(parse_tokens(&write_tokens(&lines).unwrap()), Ok(lines));
        assert_eq!(parse_tokens(HEADER.as_bytes()), Ok(Vec::new()));
        assert_eq!(write_tokens(&[]).unwrap(), format!("{HEADER}\n").into_bytes());
    }

    #[test]
    fn what_is_not_understood_opens_nothing() {
        for (from, to, expected) in [
            ("\"list\"", "\"admin\"", "none of read"),
            ("\"list\"", "\"write\"", "twice"),
            ("\"list\"", "\"drop\"", "drop stands alone"),
            ("[\"write\",\"list\"]", "[]", "at least one"),
            ("[\"write\",\"list\"]", "null", "invalid type"),
            ("\"max_bytes\":10", "\"max_bytes\":-10", "invalid"),
            ("\"max_bytes\":10", "\"max_byte\":10", "unknown field"),
            ("\"max_bytes\":10", "\"max_bytes\":10,\"max_bytes\":11", "duplicate"),
            ("\"under\":\"photos\"", "\"under\":\"../photos\"", "bad name"),
            ("\"under\":\"photos\"", "\"under\":\"\"", "bad name"),
            ("\"alice\"", "\"al ice\"", "a token's name"),
            ("\"alice\"", "\"local\"", "the log"),
            ("sha256:", "blake3:", "SHA-256"),
            ("00112233445566ff", "0011", "an owner"),
            ("\"name\":\"alice\",", "", "missing field"),
            ("}", "} {}", "trailing"),
            ("\"name\":\"alice\"", "\"na\\u001bme\":1", "na\\x1bme"),
        ] {
            let text = format!("{HEADER}\n{}\n", ALICE.replacen(from, to, 1));
            let said = why(&text);
            assert!(said.starts_with("line 2: ") && said.contains(expected), "{from}: {said}");
        }
        for bad in ["", "\n", "{}", "{\"ftx_tokens\":2}", "{\"ftx_tokens\": 1}", ALICE] {
            assert!(why(bad).starts_with("line 1: "), "{bad}");
        }
        assert!(why(&format!("{HEADER}\n\n{ALICE}\n")).starts_with("line 2: "), "no empty lines");
        assert!(why(&format!("{HEADER}\n{ALICE}\n\n")).starts_with("line 3: "));
    }

    #[test]
    fn no_two_lines_are_of_one_token() {
        let other = ALICE.replace("66ff", "6600").replace("alice", "bob").replace("2cf2", "0000");
        assert!(parse_tokens(format!("{HEADER}\n{ALICE}\n{other}").as_bytes()).is_ok());
        for (from, to) in [("6600", "66ff"), ("bob", "alice"), ("0000", "2cf2")] {
            let twice = other.replacen(from, to, 1);
            let said = why(&format!("{HEADER}\n{ALICE}\n{twice}\n"));
            assert!(said.contains("earlier line"), "{from}: {said}");
        }
    }

    #[test]
    fn a_secret_that_was_put_into_the_file_is_not_repeated() {
        let secret = Token::new([7; 32]).text();
        for field in ["name", "digest", "expires"] {
            let line = ALICE.replacen(
                &format!("\"{field}\":"),
                &format!("\"{field}\":\"{secret}\",\"x\":"),
                1,
            );
            let said = why(&format!("{HEADER}\n{line}\n"));
            assert!(!said.contains("BwcH"), "{field}: {said}");
        }
    }

    #[test]
    fn there_is_an_end_to_it() {
        let line = parse_tokens(format!("{HEADER}\n{ALICE}").as_bytes()).unwrap().remove(0);
        let mut lines: Vec<Line> = (0..=TOKENS_MAX as u64)
            .map(|number| {
                let id = Owner(number.to_be_bytes());
                let mut digest = line.digest;
                digest.bytes[..8].copy_from_slice(&number.to_be_bytes());
                let name = format!("token-{number}").parse().unwrap();
                Line { id, name, digest, ..line.clone() }
            })
            .collect();
        assert!(write_tokens(&lines).is_err());
        lines.pop();
        let mut text = write_tokens(&lines).unwrap();
        assert_eq!(parse_tokens(&text).unwrap(), lines);
        text.extend_from_slice(format!("{ALICE}\n").as_bytes());
        assert!(parse_tokens(&text).is_err());
        let long = Name::parse(vec!["n".repeat(255); 15].join("/").as_bytes()).unwrap();
        lines.iter_mut().for_each(|line| line.under = Some(long.clone()));
        assert!(write_tokens(&lines).is_err(), "8 MiB");
    }

    #[test]
    fn a_name_can_be_typed_and_stands_in_a_log() {
        for good in ["alice", "a", "A-1_2.x", &"x".repeat(64)] {
            assert_eq!(good.parse::<TokenName>().unwrap().to_string(), good);
        }
        for bad in
            ["", "-x", "a b", "é", "a\n", "a/b", &"x".repeat(65), "local", "public", "nobody"]
        {
            assert!(bad.parse::<TokenName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_of_the_file_are_times_of_the_system() {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_764_000_000, 5);
        assert_eq!(system_time(file_time(time)), time);
        let early = FileTime::new(-5, 0).unwrap();
        assert_eq!(system_time(early), SystemTime::UNIX_EPOCH, "has ended");
    }
}
