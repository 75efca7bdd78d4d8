//! `ftx token`: who may do what with a directory that is served from here.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::io::ErrorKind;
use std::num::{NonZeroU32, NonZeroU64};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Subcommand};
use ftx::server::access::{
    Line, Right, Rights, Taken, TokenName, TokensError, TokensFile, UsageFile, Used, file_time,
    system_time, token_digest,
};
use ftx_client::{Class, Failure, JsonName};
use ftx_disk::store::PRIVATE;
use ftx_protocol::{Escaped, Name, Owner, Token as Secret};
use indicatif::HumanBytes;
use serde_json::json;

use super::ask::YEAR_10_000;
use super::exit::Exit;
use super::output::check_stdout;
use super::remote::{Tally, print, run, wrong};
use super::report::say;
use super::size::Size;
use super::state::{State, StateError, StateOptions};

/// Give out tokens for a directory that is served from here, and take them back.
///
/// A token is what somebody on another machine logs in with; it allows what is said here and nothing
/// else. A change holds when the command has returned: a running server is not started again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ftx token add alice --can read,list
  ftx token add camera --can drop --under inbox/ --expires 30d --max-bytes 10G
  ftx token rm alice")]
pub struct Token {
    #[command(subcommand)]
    act: Act,

    #[command(flatten)]
    options: StateOptions,
}

#[derive(Debug, Subcommand)]
enum Act {
    Add(Add),
    Ls(Ls),
    Rm(Rm),
}

/// Make a token, and print it, this one time.
#[derive(Debug, Args)]
struct Add {
    /// What to call it, such as whose it is
    name: TokenName,

    /// What it allows: of read, list, write, replace and delete some, with commas between them; or
    /// drop, a box into which files are put, and nothing in it is seen or replaced
    #[arg(long, value_name = "WORDS", value_parser = rights)]
    can: Rights,

    /// Hold it to what is in this directory
    #[arg(long, value_name = "DIR/", value_parser = OsStringValueParser::new().try_map(scope))]
    under: Option<Name>,

    /// Let it end after this time, such as 7d
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    expires: Option<Duration>,

    /// Let it bring no more bytes than this in all, such as 10G
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    max_bytes: Option<NonZeroU64>,

    /// Let it have no more unfinished uploads than this at once [default: 64]
    #[arg(long, value_name = "N", value_parser = partials)]
    max_partials: Option<NonZeroU32>,
}

/// List the tokens; the secrets themselves are not kept.
#[derive(Debug, Args)]
struct Ls {
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Take a token back. What is under way with it ends.
#[derive(Debug, Args)]
struct Rm {
    /// What it is called
    name: TokenName,
}

impl Token {
    pub fn run(self) -> Exit {
        run(|| {
            let options = &self.options;
            match self.act {
                Act::Add(add) => add.run(&State::to_change(options).map_err(of_state)?, options),
                Act::Ls(ls) => ls.run(&State::to_look_at(options).map_err(of_state)?),
                Act::Rm(rm) => rm.run(&State::to_look_at(options).map_err(of_state)?, options),
            }
        })
    }
}

/// What a change of the tokens fails of.
enum Refused {
    Tokens(TokensError),
    Failure(Failure),
}

impl From<TokensError> for Refused {
    fn from(error: TokensError) -> Self {
        Self::Tokens(error)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Tokens(error) => local(&error.to_string()),
            Refused::Failure(failure) => failure,
        }
    }
}

impl Add {
    fn run(self, state: &State, options: &StateOptions) -> Result<Exit, Failure> {
        check_stdout()?;
        let scope = match (&self.under, state.served()) {
            (Some(scope), Some(served)) => look_at(scope, &served)?,
            (None, _) | (_, None) => Scope::There,
        };
        let secret = Secret::new(random()?);
        let line = self.line(&secret)?;
        let file = TokensFile::of_state(state.path());
        let ((), taken) = file.change(|lines| {
            if lines.iter().any(|other| other.name == line.name) {
                let why = format!(
                    "there is a token {} already: take it back with {} rm {0}, or choose another name",
                    line.name,
                    options.command()
                );
                return Err(Refused::Failure(local(&why)));
            }
            lines.push(line.clone());
            Ok(())
        })?;
        if let Err(error) = print(secret.text().as_bytes()) {
            // Nobody has it, and nobody ever will.
            remove(&file, &line.name, options)?;
            return Err(local(&format!(
                "cannot print the token, so it was taken back: {}",
                ftx_disk::failure::plain(&error)
            )));
        }
        let scope = match scope {
            Scope::There => "",
            Scope::NotYet => ", which is not there yet",
        };
        let server = match taken {
            Taken::ByAll => "",
            Taken::NotYet => "; a server has not taken it up yet",
        };
        say(&format!(
            "{} may {}{scope}{server}. The token is not shown again; with it: ftx login ADDRESS, where \
             ADDRESS is what ftx serve prints",
            line.name,
            allowed(&line),
        ));
        Ok(Exit::Done)
    }

    fn line(&self, secret: &Secret) -> Result<Line, Failure> {
        let now = SystemTime::now();
        let expires = match self.expires {
            Some(lifetime) => {
                let end = now.checked_add(lifetime).filter(|end| *end < year_10_000());
                Some(end.ok_or_else(|| wrong("it would end later than can be said"))?)
            }
            None => None,
        };
        Ok(Line {
            id: Owner(random()?),
            name: self.name.clone(),
            digest: token_digest(secret),
            can: self.can,
            under: self.under.clone(),
            made: file_time(now),
            expires: expires.map(file_time),
            max_bytes: self.max_bytes.map(NonZeroU64::get),
            max_partials: self.max_partials.map(NonZeroU32::get),
        })
    }
}

impl Ls {
    fn run(self, state: &State) -> Result<Exit, Failure> {
        let lines = TokensFile::of_state(state.path()).read().map_err(Refused::Tokens)?;
        let used = UsageFile::of_state(state.path()).read().map_err(Refused::Tokens)?;
        let width = lines.iter().map(|line| line.name.as_str().len()).max().unwrap_or(0);
        let now = SystemTime::now();
        let mut tally = Tally::default();
        for line in &lines {
            let bytes = used_by(line, &used);
            let text = match self.json {
                true => as_json(line, bytes, now).to_string(),
                false => as_text(line, bytes, width, now),
            };
            tally.done();
            tally.print(text.as_bytes());
        }
        Ok(tally.exit())
    }
}

impl Rm {
    fn run(self, state: &State, options: &StateOptions) -> Result<Exit, Failure> {
        match remove(&TokensFile::of_state(state.path()), &self.name, options)? {
            Taken::ByAll => Ok(Exit::Done),
            Taken::NotYet => Err(local(&format!(
                "{} was taken back, but a server has not answered and may still let it in: it will \
                 know when it looks again, or stop it",
                self.name
            ))),
        }
    }
}

fn remove(file: &TokensFile, name: &TokenName, options: &StateOptions) -> Result<Taken, Failure> {
    let ((), taken) = file.change(|lines| {
        let before = lines.len();
        lines.retain(|line| line.name != *name);
        match lines.len() < before {
            true => Ok(()),
            false => {
                let command = options.command();
                let why = format!("there is no token {name}; {command} ls shows those there are");
                Err(Refused::Failure(local(&why)))
            }
        }
    })?;
    Ok(taken)
}

/// Whether there is something in a scope yet.
enum Scope {
    There,
    /// The first put makes it.
    NotYet,
}

/// Looks whether a token can be held to this: a server does not follow symlinks to a scope, or
/// whoever can change them could widen it.
fn look_at(scope: &Name, served: &Path) -> Result<Scope, Failure> {
    let mut path = served.to_owned();
    for part in scope.parts() {
        path.push(OsStr::from_bytes(part));
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                let why = format!(
                    "{} is not a directory, so nobody can be held to it",
                    Escaped::of(&path)
                );
                return Err(local(&why));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Scope::NotYet),
            // The server is another user, perhaps.
            Err(_) => return Ok(Scope::There),
        }
    }
    Ok(Scope::There)
}

/// What a token allows, in words: "may …".
fn allowed(line: &Line) -> String {
    let mut words = line.can.to_string();
    if let Some(end) = line.expires {
        let _ = write!(words, " until {}", humantime::format_rfc3339_seconds(system_time(end)));
    }
    if let Some(scope) = &line.under {
        let _ = write!(words, " in {scope}/");
    }
    words
}

fn as_text(line: &Line, used: u64, width: usize, now: SystemTime) -> String {
    let Line { name, can, under, expires, max_bytes, max_partials, .. } = line;
    let mut text = format!("{name:width$}  {can}");
    // To write to a string does not fail.
    if let Some(scope) = under {
        let _ = write!(text, "  in {scope}/");
    }
    if let Some(end) = expires {
        let end = system_time(*end);
        let word = if end <= now { "ended" } else { "until" };
        let _ = write!(text, "  {word} {}", humantime::format_rfc3339_seconds(end));
    }
    match max_bytes {
        Some(max) => {
            let _ = write!(text, "  brought {} of {}", HumanBytes(used), HumanBytes(*max));
        }
        None if used > 0 => {
            let _ = write!(text, "  brought {}", HumanBytes(used));
        }
        None => {}
    }
    if let Some(max) = max_partials {
        let _ = write!(text, "  {max} unfinished at most");
    }
    text
}

fn as_json(line: &Line, used: u64, now: SystemTime) -> serde_json::Value {
    json!({
        "name": line.name,
        "id": line.id,
        "can": line.can,
        "under": line.under.as_ref().map(|scope| JsonName(scope.as_bytes())),
        "made": line.made,
        "expires": line.expires,
        "ended": line.expires.is_some_and(|end| system_time(end) <= now),
        "used_bytes": used,
        "max_bytes": line.max_bytes,
        "max_partials": line.max_partials,
    })
}

fn used_by(line: &Line, used: &Used) -> u64 {
    used.get(&line.id).copied().unwrap_or(0)
}

fn random<const BYTES: usize>() -> Result<[u8; BYTES], Failure> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|error| local(&format!("the system gives no random bytes: {error}")))?;
    Ok(bytes)
}

/// What may be done, in words with commas between them.
pub(super) fn rights(words: &str) -> Result<Rights, String> {
    match Rights::from_words(words.split(',').map(str::trim)) {
        Ok(rights) if rights.has(Right::Replace) && !rights.has(Right::Write) => {
            Err("replace by itself allows nothing: say write,replace".to_owned())
        }
        result => result.map_err(|error| error.to_string()),
    }
}

fn scope(text: OsString) -> Result<Name, String> {
    let bytes = text.as_bytes();
    let name = Name::parse(bytes.strip_suffix(b"/").unwrap_or(bytes));
    match name.map_err(|error| error.to_string())? {
        name if name.parts().next() == Some(PRIVATE) => {
            Err("that is the server's own directory: nobody gets at what is in it".to_owned())
        }
        name => Ok(name),
    }
}

fn lifetime(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("it would have ended already".to_owned()),
        Ok(lifetime) => Ok(lifetime),
        Err(_) => Err("a time is a number with m, h, d or w, such as 12h or 7d".to_owned()),
    }
}

fn year_10_000() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(YEAR_10_000)
}

fn bytes(text: &str) -> Result<NonZeroU64, String> {
    let size: Size = text.parse()?;
    NonZeroU64::new(size.bytes()).ok_or_else(|| "it could bring nothing".to_owned())
}

fn partials(text: &str) -> Result<NonZeroU32, String> {
    let max = NonZeroU32::MAX;
    text.parse().map_err(|_| format!("write a number from 1 to {max}, such as 8"))
}

fn local(message: &str) -> Failure {
    Failure::new(Class::Local, message)
}

fn of_state(error: StateError) -> Failure {
    match error {
        StateError::Nowhere
        | StateError::NotADirectory { .. }
        | StateError::None
        | StateError::Several(_) => wrong(&error.to_string()),
        StateError::Nested { .. }
        | StateError::NotOurs { .. }
        | StateError::Open { .. }
        | StateError::OutOfReach { .. }
        | StateError::System { .. } => local(&error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_ends_before_the_year_10000_or_not_at_all() {
        let add = |expires| Add {
            name: "alice".parse().unwrap(),
            can: Rights::READING,
            under: None,
            expires: Some(lifetime(expires).unwrap()),
            max_bytes: None,
            max_partials: None,
        };
        let line = |expires| add(expires).line(&Secret::new([1; 32]));
        assert!(allowed(&line("7000y").unwrap()).starts_with("read,list until "));
        assert!(line("20000y").is_err());
    }
}
