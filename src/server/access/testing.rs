//! Tokens for the tests of the server.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ftx_protocol::{Name, Owner, Token};

use super::file::TokensFile;
use super::grant::Granted;
use super::line::{Line, file_time, token_digest};
use super::operation::{Operation, authorize};
use super::principal::Principal;
use super::rights::Rights;
use super::tokens::Tokens;

/// A state directory with a tokens file that is changed as `ftx token` does.
pub(in crate::server) struct State {
    pub(in crate::server) directory: tempfile::TempDir,
}

impl State {
    pub(in crate::server) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(in crate::server) fn tokens(&self) -> Arc<Tokens> {
        Tokens::open(self.directory.path()).unwrap()
    }

    pub(in crate::server) fn file(&self) -> TokensFile {
        TokensFile::of_state(self.directory.path())
    }

    pub(in crate::server) fn add(&self, line: Line) {
        self.change(|lines| lines.push(line));
    }

    pub(in crate::server) fn change(&self, act: impl FnOnce(&mut Vec<Line>)) {
        let act = |lines: &mut Vec<Line>| -> Result<(), super::TokensError> {
            act(lines);
            Ok(())
        };
        self.file().change(act).unwrap();
    }
}

/// The secret of the token with this number.
pub(in crate::server) fn secret(number: u8) -> Token {
    Token::new([number; 32])
}

/// The line of that token. It ends in an hour.
pub(in crate::server) fn line(number: u8, rights: Rights, under: Option<&str>) -> Line {
    let now = SystemTime::now();
    Line {
        id: Owner([number; 8]),
        name: format!("token-{number}").parse().unwrap(),
        digest: token_digest(&secret(number)),
        can: rights,
        under: under.map(|scope| Name::parse(scope.as_bytes()).unwrap()),
        made: file_time(now),
        expires: Some(file_time(now + Duration::from_secs(3_600))),
        max_bytes: None,
        max_partials: None,
    }
}

/// What whoever has the token with this number is granted now.
pub(in crate::server) fn granted(
    tokens: &Arc<Tokens>,
    number: u8,
    operation: &Operation<'_>,
) -> Granted {
    let now = SystemTime::now();
    let member = tokens.login(&secret(number), now).unwrap();
    authorize(&mut Principal::Token(member), operation, now).unwrap()
}
