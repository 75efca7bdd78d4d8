//! `ftx login`, and what every other command asks of the person and the environment about a server
//! that wants to be known, or wants to know who asks.
//!
//! A token is never a word of a command: those are seen by everybody on the machine, and kept by
//! shells.

use std::ffi::OsString;
use std::io::{self, BufRead, ErrorKind, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use clap::Args;
use ftx_client::{
    Changed, Class, Client, Failure, Interrupt, Introduce, Pin, Plaintext, Retry, RightKey,
    ServerAddress, Servers, Token,
};
use ftx_disk::lock::lock;
use ftx_protocol::token::TOKEN_PREFIX;

use super::exit::Exit;
use super::remote::{Clients, print, run, wrong};
use super::report::told;
use super::terminal::Terminal;

/// Where a token stands that is not remembered.
const TOKEN: &str = "FTX_TOKEN";
const TOKEN_FILE: &str = "FTX_TOKEN_FILE";

/// A file with a token is not read further than this.
const TOKEN_FILE_BYTES_MAX: u64 = 4 * 1024;

/// Get to know a server, and log in to it.
///
/// Makes sure that it is the right server: by its key, which stands in the line that ftx serve
/// prints; or by its certificate; or it asks. Then takes a token from the terminal, without showing
/// it, or from the first line of standard input; tries it; and remembers both in a file that only
/// you can read. All other commands go by that.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ftx login ftx://box:7389#sha256:8d1c…\n  ftx login box < token\n  ftx login --forget box\n\nWithout a login, FTX_TOKEN or FTX_TOKEN_FILE has the token for one command."
)]
pub struct Login {
    /// The server: the line that ftx serve prints, or host:port
    #[arg(value_name = "ADDRESS")]
    server: OsString,

    /// Take the token from this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["no_token", "forget"])]
    token_file: Option<PathBuf>,

    /// Remember the server, and no token
    #[arg(long, conflicts_with = "forget")]
    no_token: bool,

    /// Forget the server: its key, and the token for it
    #[arg(long)]
    forget: bool,

    /// A token would stand here, and is refused.
    #[arg(hide = true)]
    more: Vec<OsString>,
}

impl Login {
    pub fn run(self, clients: &Clients) -> Exit {
        run(|| {
            let server = self.server()?;
            if self.forget {
                return forget(&server);
            }
            let client = clients.make(server, Plaintext::Never, Retry::default());
            let trusted = client.meet()?;
            let token = match self.no_token {
                true => None,
                false => Some(self.token(clients, &client)?),
            };
            let has_token = token.is_some();
            client.log_in(trusted, token)?;
            let server = client.server();
            let line = match has_token {
                true => format!("logged in to {server}"),
                false => format!("{server} is known; there is no token for it"),
            };
            Ok(told(print(line.as_bytes())))
        })
    }

    fn server(&self) -> Result<ServerAddress, Failure> {
        let words = std::iter::once(&self.server).chain(&self.more);
        let has_token = |word: &OsString| word.to_string_lossy().contains(TOKEN_PREFIX);
        if words.into_iter().any(has_token) {
            return Err(wrong(
                "a token is not given as a word: everybody on this machine can read it there, and the \
                 shell keeps it. Leave it out, and ftx login asks for it; or say --token-file FILE. Who \
                 made this one should take it back",
            ));
        }
        if !self.more.is_empty() {
            return Err(wrong("ftx login takes one server"));
        }
        self.server.to_string_lossy().parse()
    }

    /// The token, from wherever it is.
    fn token(&self, clients: &Clients, client: &Client) -> Result<Token, Failure> {
        if let Some(path) = &self.token_file {
            return token_in(path)?.ok_or_else(|| missing(&in_file(path)));
        }
        if !io::stdin().is_terminal() {
            let line = first_line_of_stdin()?;
            let place = "on standard input";
            // Nothing there is no answer: a script has its token elsewhere.
            return match token(&line, place)? {
                Some(token) => Ok(token),
                None => token_of_environment()?.ok_or_else(|| missing(place)),
            };
        }
        let place = "at the terminal";
        let terminal = clients.person().terminal().ok_or_else(|| missing(place))?;
        let question = format!("Token for {} (it is not shown): ", client.server());
        match terminal.ask_secretly(&question) {
            Ok(line) => token(&line, place)?.ok_or_else(|| missing(place)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                Err(Failure::new(Class::Interrupted, "log in: interrupted"))
            }
            Err(error) => Err(Failure::local("cannot read", Path::new("/dev/tty"), &error)),
        }
    }
}

fn forget(server: &ServerAddress) -> Result<Exit, Failure> {
    let changed = match Servers::of_user() {
        Some(servers) => servers.forget(server)?,
        None => Changed::No,
    };
    let line = match changed {
        Changed::Yes => format!("{server} is forgotten"),
        Changed::No => format!("{server} was not known"),
    };
    Ok(told(print(line.as_bytes())))
}

fn token_of_environment() -> Result<Option<Token>, Failure> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let (found, place) = if let Some(text) = set(TOKEN) {
        let place = "in FTX_TOKEN".to_owned();
        (token(&text.to_string_lossy(), &place)?, place)
    } else if let Some(path) = set(TOKEN_FILE) {
        let path = PathBuf::from(path);
        (token_in(&path)?, format!("{}, where FTX_TOKEN_FILE says that it is", in_file(&path)))
    } else {
        return Ok(None);
    };
    found.map(Some).ok_or_else(|| nothing(&place))
}

fn token_in(path: &Path) -> Result<Option<Token>, Failure> {
    let failed = |error: &io::Error| Failure::local("cannot read", path, error);
    let file = std::fs::File::open(path).map_err(|error| failed(&error))?;
    let mut bytes = Vec::new();
    file.take(TOKEN_FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    token(&String::from_utf8_lossy(&bytes), &in_file(path))
}

fn in_file(path: &Path) -> String {
    format!("in {}", ftx_protocol::Escaped::of(path))
}

fn first_line_of_stdin() -> Result<String, Failure> {
    let mut line = Vec::new();
    io::stdin()
        .lock()
        .take(TOKEN_FILE_BYTES_MAX)
        .read_until(b'\n', &mut line)
        .map_err(|error| Failure::local("cannot read", Path::new("standard input"), &error))?;
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Reads a token, if there is anything, and shows nothing of what is none: it may be one with a letter too many.
fn token(text: &str, place: &str) -> Result<Option<Token>, Failure> {
    match text.trim() {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|error| wrong(&format!("what is {place} is no token: {error}"))),
    }
}

fn nothing(place: &str) -> Failure {
    wrong(&format!("there is no token {place}"))
}

/// The same for a login, which can do without.
fn missing(place: &str) -> Failure {
    nothing(place).with_hint("to remember the server without one, say --no-token")
}

/// Whoever runs this program.
#[derive(Debug)]
pub struct Person {
    interrupt: Interrupt,
    /// What is not the right server: that is said once.
    refused: Mutex<Vec<ServerAddress>>,
}

impl Person {
    pub fn new(interrupt: Interrupt) -> Self {
        Self { interrupt, refused: Mutex::default() }
    }

    fn terminal(&self) -> Option<Terminal> {
        Terminal::open(&self.interrupt)
    }
}

impl Introduce for Person {
    /// Asks, where somebody sees the question; one question at a time.
    fn trusts(&self, server: &ServerAddress, pin: Pin) -> RightKey {
        let seen = io::stderr().is_terminal();
        let Some(terminal) = self.terminal().filter(|_| seen) else { return RightKey::NobodyKnows };
        let mut refused = lock(&self.refused);
        if refused.contains(server) {
            return RightKey::No;
        }
        let question = format!(
            "The server at {server} is not known. Its key is {pin} (compare with what \"ftx serve\" \
             printed). Is that right? [y/N] "
        );
        match terminal.ask(&question) {
            Ok(answer) if matches!(answer.trim(), "y" | "Y" | "yes" | "Yes") => RightKey::Yes,
            Ok(_) => {
                refused.push(server.clone());
                RightKey::No
            }
            // Whoever interrupted is heard by the client.
            Err(_) => RightKey::NobodyKnows,
        }
    }

    /// What the environment says.
    fn token(&self, _: &ServerAddress) -> Result<Option<Token>, Failure> {
        token_of_environment()
    }
}

/// The same, to a server that a name brought. What FTX_TOKEN and FTX_TOKEN_FILE have is for the one
/// that -s or FTX_SERVER says.
#[derive(Debug)]
pub struct Brought(pub Arc<Person>);

impl Introduce for Brought {
    fn trusts(&self, server: &ServerAddress, pin: Pin) -> RightKey {
        self.0.trusts(server, pin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "ftx1_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    #[test]
    fn what_is_no_token_is_not_shown() {
        assert_eq!(token(&format!(" {TEXT}\r\n"), "here").unwrap().unwrap().text(), TEXT);
        for bad in [&TEXT[1..], &format!("{TEXT}{TEXT}"), "AAECAwQ"] {
            let failure = token(bad, "in FTX_TOKEN").unwrap_err();
            assert_eq!(failure.class, Class::Usage);
            let said = failure.to_string();
            assert!(said.contains("in FTX_TOKEN") && !said.contains("AAEC"), "{said}");
        }
        assert!(token(" \n", "on standard input").unwrap().is_none());
    }

    #[test]
    fn a_file_has_a_token_and_nothing_else() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("token");
        std::fs::write(&path, format!("{TEXT}\n")).unwrap();
        assert_eq!(token_in(&path).unwrap().unwrap().text(), TEXT);
        std::fs::write(&path, format!("{TEXT}\nmore\n")).unwrap();
        token_in(&path).unwrap_err();
        assert_eq!(token_in(&here.path().join("none")).unwrap_err().class, Class::Local);
    }
}
