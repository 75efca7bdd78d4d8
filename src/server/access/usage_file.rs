//! How much each token has used, beside the tokens file. Written by the server, at most every few
//! seconds: a crash forgives what came since.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use ftx_protocol::{Escaped, Owner};
use serde::Deserialize;

use super::file::{TokensError, open_lock, open_private, replace};
use super::line::BadText;

/// The first line.
const HEADER: &str = r#"{"ftx_usage":1}"#;

/// The number in the name of its part file.
const USAGE_PART: u64 = 2;

/// Bytes that each token has brought.
pub type Used = BTreeMap<Owner, u64>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UsedLine {
    id: Owner,
    bytes: u64,
}

/// Whether the file says what it is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Changed {
    Yes,
    /// Another server writes it.
    NotNow,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct UsageFile {
    path: PathBuf,
}

impl UsageFile {
    /// The one in this state directory.
    pub fn of_state(state: &Path) -> Self {
        Self { path: state.join("usage") }
    }

    /// What it says; nothing if it is not there.
    ///
    /// # Errors
    /// When it cannot be read, or says something that is not understood: nobody's share may grow
    /// by that.
    pub fn read(&self) -> Result<Used, TokensError> {
        let Some(opened) = open_private(&self.path)? else { return Ok(Used::new()) };
        parse(&opened.text(&self.path)?)
            .map_err(|error| TokensError::Text { path: Escaped::of(&self.path).to_string(), error })
    }

    /// Replaces what it says by what is made of that, while no other server does.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub(super) fn change(&self, act: impl FnOnce(&mut Used)) -> Result<Changed, TokensError> {
        let Some(_alone) = self.alone()? else { return Ok(Changed::NotNow) };
        let mut used = self.read()?;
        act(&mut used);
        replace(&self.path, USAGE_PART, &text_of(&used))?;
        Ok(Changed::Yes)
    }

    /// Excludes other servers until it is dropped; `None` while one is at it. Nobody waits: whoever writes this looks
    /// at the tokens too, for which `ftx token` waits. So the lock is another one than that of the tokens.
    fn alone(&self) -> Result<Option<File>, TokensError> {
        let path = self.path.with_extension("lock");
        let file = open_lock(&path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(None),
            // Where a file system has no locks, it goes without.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Some(file)),
        }
    }
}

fn text_of(used: &Used) -> Vec<u8> {
    let mut text = HEADER.as_bytes().to_vec();
    for (id, bytes) in used {
        text.extend_from_slice(format!("\n{{\"id\":\"{id}\",\"bytes\":{bytes}}}").as_bytes());
    }
    text.push(b'\n');
    text
}

fn parse(text: &[u8]) -> Result<Used, BadText> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let mut lines = text.split(|&byte| byte == b'\n').zip(1..);
    if lines.next().is_none_or(|(first, _)| first != HEADER.as_bytes()) {
        return Err(BadText { line: 1, why: format!("it is not {HEADER}") });
    }
    lines
        .map(|(text, line)| {
            let used: Result<UsedLine, _> = serde_json::from_slice(text);
            used.map(|used| (used.id, used.bytes)).map_err(|error| BadText {
                line,
                why: Escaped(error.to_string().as_bytes()).to_string(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_is_read_as_it_was_written() {
        let used: Used = [(Owner([1; 8]), 0), (Owner([2; 8]), u64::MAX)].into();
        assert_eq!(parse(&text_of(&used)), Ok(used));
        assert_eq!(parse(&text_of(&Used::new())), Ok(Used::new()));
        for bad in ["", "{}", "{\"ftx_usage\":2}", "{\"ftx_usage\":1}\n\n", "{\"ftx_usage\":1}\n{}"]
        {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
