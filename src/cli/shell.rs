//! `ftx shell`: a prompt with a place on the server and a place here.
//!
//! Its commands are those of the command line, with names that begin where we are, on one
//! connection that is kept between them.

mod completion;

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use clap::{Args, CommandFactory, FromArgMatches, Parser};
use completion::Names;
use ftx_client::{Client, Failure, Kind, Name};
use ftx_protocol::Escaped;
use rustyline::completion::FilenameCompleter;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{CompletionType, Config, Editor};

use super::exit::Exit;
use super::remote::{At, Clients, run, wrong};
use super::report::{say, told};
use super::{ask, change, list, sum, transfer};

/// A prompt: look around on a server, and move files.
///
/// Commands that are piped in are done one after the other, up to the first that fails; none of
/// them can read standard input, where the others are.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  ftx shell -s box:7389\n  echo 'get -r photos' | ftx shell")]
pub struct Shell {
    #[command(flatten)]
    at: At,
}

/// What can be typed at the prompt.
#[derive(Debug, Parser)]
#[command(name = "ftx shell", no_binary_name = true, disable_help_subcommand = true)]
#[command(help_template = "{subcommands}\n\nA command and --help says more about it.")]
#[command(after_help = "")]
enum Line {
    Ls(list::Ls),
    /// Go to a directory on the server; without one, to the top
    Cd {
        /// The directory
        #[arg(value_name = "NAME", default_value = "/")]
        name: OsString,
    },
    /// Say where we are on the server
    Pwd,
    Put(transfer::Put),
    Get(transfer::Get),
    Cat(transfer::Cat),
    Rm(change::Rm),
    Mv(change::Mv),
    Mkdir(change::Mkdir),
    Stat(ask::Stat),
    Sum(sum::Sum),
    Du(list::Du),
    /// List files here, with the options of the system's ls
    Lls {
        /// What ls takes
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<OsString>,
    },
    /// Go to a directory here; without one, home
    Lcd {
        /// The directory
        path: Option<PathBuf>,
    },
    /// Say where we are here
    Lpwd,
    /// List the commands
    #[command(visible_alias = "?")]
    Help,
    /// Leave (or Ctrl-D)
    #[command(visible_alias = "quit")]
    Exit,
}

/// Commands that take files here, and all there are.
const TAKES_PATHS: [&str; 3] = ["put", "lls", "lcd"];
const COMMANDS: [&str; 17] = [
    "cat", "cd", "du", "exit", "get", "help", "lcd", "lls", "lpwd", "ls", "mkdir", "mv", "put",
    "pwd", "rm", "stat", "sum",
];

impl Shell {
    pub fn run(self, clients: Clients) -> Exit {
        run(|| self.talk(clients))
    }

    fn talk(&self, clients: Clients) -> Result<Exit, Failure> {
        let client = self.at.client_to_ask(&clients, None);
        // Says at once when there is no server, or when it lets nobody in.
        client.greet()?;
        let commands = Commands::of_stdin();
        let grammar = self.at.of_shell(Line::command());
        let there = There { clients, client, grammar, commands, place: None };
        let config = Config::builder().completion_type(CompletionType::List).build();
        let mut editor: Editor<Names, DefaultHistory> =
            Editor::with_config(config).map_err(|error| terminal(&error))?;
        editor.set_helper(Some(Names { there, here: FilenameCompleter::new() }));
        let history = match commands {
            Commands::Typed => history(),
            Commands::Piped => None,
        };
        if let Some(path) = &history {
            // The first time there is none.
            let _ = editor.load_history(path);
        }
        let exit = converse(&mut editor, commands, history.as_deref());
        exit.map_err(|error| terminal(&error))
    }
}

/// How the commands come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Commands {
    /// Somebody types them at a terminal.
    Typed,
    /// Standard input has them, whole.
    Piped,
}

impl Commands {
    fn of_stdin() -> Self {
        if std::io::stdin().is_terminal() { Self::Typed } else { Self::Piped }
    }
}

/// Reads lines and does what they say.
fn converse(
    editor: &mut Editor<Names, DefaultHistory>,
    commands: Commands,
    history: Option<&Path>,
) -> Result<Exit, ReadlineError> {
    loop {
        let prompt = match (commands, editor.helper()) {
            (Commands::Typed, Some(Names { there, .. })) => there.prompt(),
            (Commands::Typed, None) | (Commands::Piped, _) => String::new(),
        };
        let line = match editor.readline(&prompt) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(Exit::Done),
            Err(error) => return Err(error),
        };
        // A line that cannot be kept is only missing later.
        let _ = editor.add_history_entry(&line);
        if let Some(path) = history {
            let _ = editor.append_history(path);
        }
        let Some(Names { there, .. }) = editor.helper_mut() else { return Ok(Exit::Done) };
        match (there.obey(&line), commands) {
            (ControlFlow::Break(()), _) => return Ok(Exit::Done),
            (ControlFlow::Continue(Exit::Done), _) | (_, Commands::Typed) => {}
            (ControlFlow::Continue(exit), Commands::Piped) => return Ok(exit),
        }
    }
}

fn terminal(error: &ReadlineError) -> Failure {
    wrong(&format!("cannot read commands: {error}"))
}

fn history() -> Option<PathBuf> {
    Some(ftx_client::prepared_state_directory().ok()?.join("history"))
}

/// The place on the server.
struct There {
    clients: Clients,
    client: Client,
    /// What can be typed, as [`Line`] has it, for the same server.
    grammar: clap::Command,
    commands: Commands,
    /// `None` is the top.
    place: Option<Name>,
}

impl There {
    fn prompt(&self) -> String {
        format!("ftx {}:{}> ", self.client.server(), self.shown())
    }

    fn shown(&self) -> String {
        let place = self.place.as_ref().map(ToString::to_string);
        format!("/{}", place.unwrap_or_default())
    }

    /// Does what a line says.
    fn obey(&mut self, line: &str) -> ControlFlow<(), Exit> {
        let exit = match self.parse(line) {
            Ok(None) => Exit::Done,
            Ok(Some(Line::Exit)) => return ControlFlow::Break(()),
            Ok(Some(line)) => run(|| self.run(line)),
            Err(Unclear::Quote) => {
                say("a quote is not closed");
                Exit::Usage
            }
            Err(Unclear::Words(error)) => {
                let printed = error.print();
                if error.use_stderr() { Exit::Usage } else { told(printed) }
            }
        };
        self.clients.go_on();
        ControlFlow::Continue(exit)
    }

    fn parse(&self, line: &str) -> Result<Option<Line>, Unclear> {
        let words = shlex::split(line).ok_or(Unclear::Quote)?;
        if words.is_empty() {
            return Ok(None);
        }
        let matches = self.grammar.clone().try_get_matches_from(words);
        let line = matches.and_then(|mut matches| Line::from_arg_matches_mut(&mut matches));
        line.map(Some).map_err(Unclear::Words)
    }

    fn run(&mut self, mut line: Line) -> Result<Exit, Failure> {
        for word in line.names() {
            *word = self.absolute(word)?;
        }
        let clients = &self.clients;
        Ok(match line {
            Line::Ls(mut ls) => {
                ls.names = self.here_unless(ls.names);
                ls.run(clients)
            }
            Line::Du(mut du) => {
                du.names = self.here_unless(du.names);
                du.run(clients)
            }
            Line::Put(mut put) => {
                self.put_here(&mut put)?;
                put.run(clients)
            }
            Line::Get(get) => get.run(clients),
            Line::Cat(cat) => cat.run(clients),
            Line::Rm(rm) => rm.run(clients),
            Line::Mv(mv) => mv.run(clients),
            Line::Mkdir(mkdir) => mkdir.run(clients),
            Line::Stat(stat) => stat.run(clients),
            Line::Sum(sum) => sum.run(clients),
            Line::Cd { name } => {
                self.go(&name)?;
                Exit::Done
            }
            Line::Pwd => printed(self.shown().as_bytes()),
            Line::Lls { words } => list_here(&words)?,
            Line::Lcd { path } => {
                go_here(path)?;
                Exit::Done
            }
            Line::Lpwd => {
                let here = std::env::current_dir().unwrap_or_default();
                printed(&super::remote::shown(here.as_os_str().as_bytes()))
            }
            Line::Help | Line::Exit => told(Line::command().print_help()),
        })
    }

    /// Without names a command is about the place where we are.
    fn here_unless(&self, names: Vec<OsString>) -> Vec<OsString> {
        match &self.place {
            Some(place) if names.is_empty() => vec![word(place)],
            _ => names,
        }
    }

    /// Puts files where we are.
    fn put_here(&self, put: &mut transfer::Put) -> Result<(), Failure> {
        if self.commands == Commands::Piped && put.reads_stdin() {
            return Err(wrong(
                "put: standard input has the commands of this shell, and cannot be put or be a list of files; \
                 say ftx put outside of the shell",
            ));
        }
        if let Some(name) = put.name.as_mut().or(put.tree.to.as_mut()) {
            *name = self.absolute(name)?;
            return Ok(());
        }
        let last = match put.files.as_slice() {
            // It says itself that it needs a name.
            [file] if file == "-" => return Ok(()),
            [file] => Path::new(file).file_name().map(OsStr::to_owned),
            _ => None,
        };
        match (&self.place, last) {
            (None, _) => {}
            (Some(_), Some(last)) => put.name = Some(self.absolute(&last)?),
            (Some(place), None) => put.tree.to = Some(word(place)),
        }
        Ok(())
    }

    /// A word as a whole name; the top is `/`. One with a server in it stays.
    fn absolute(&self, word: &OsStr) -> Result<OsString, Failure> {
        let bytes = word.as_bytes();
        if bytes.starts_with(b"ftx://") {
            return Ok(word.to_owned());
        }
        Ok(match self.resolve(bytes)? {
            Some(name) if bytes.ends_with(b"/") => {
                OsString::from_vec([name.as_bytes(), b"/"].concat())
            }
            Some(name) => self::word(&name),
            None => OsString::from("/"),
        })
    }

    /// Where a word leads to from here, with `.` and `..` as everywhere.
    fn resolve(&self, word: &[u8]) -> Result<Option<Name>, Failure> {
        let mut parts: Vec<&[u8]> = match &self.place {
            Some(place) if !word.starts_with(b"/") => place.parts().collect(),
            _ => Vec::new(),
        };
        for part in word.split(|&byte| byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        if parts.is_empty() {
            return Ok(None);
        }
        let name = Name::parse(&parts.join(&b'/'));
        name.map(Some).map_err(|error| {
            wrong(&format!("\"{}\" is no name on the server: {error}", Escaped(word)))
        })
    }

    fn go(&mut self, word: &OsStr) -> Result<(), Failure> {
        let place = self.resolve(word.as_bytes())?;
        if let Some(name) = &place {
            let info = self.client.stat(name)?;
            if info.kind != Kind::Directory {
                return Err(wrong(&format!("{name} is no directory")));
            }
        }
        self.place = place;
        Ok(())
    }
}

/// Why a line is not done.
enum Unclear {
    Quote,
    Words(clap::Error),
}

impl Line {
    /// The words that are names on the server, but for those of put.
    fn names(&mut self) -> Vec<&mut OsString> {
        let names = match self {
            Self::Ls(ls) => &mut ls.names,
            Self::Du(du) => &mut du.names,
            Self::Get(get) => &mut get.names,
            Self::Cat(cat) => &mut cat.names,
            Self::Rm(rm) => &mut rm.names,
            Self::Mkdir(mkdir) => &mut mkdir.names,
            Self::Stat(stat) => &mut stat.names,
            Self::Sum(sum) => &mut sum.names,
            Self::Mv(mv) => return vec![&mut mv.from, &mut mv.to],
            _ => return Vec::new(),
        };
        names.iter_mut().collect()
    }
}

fn word(name: &Name) -> OsString {
    OsString::from_vec(name.as_bytes().to_vec())
}

fn printed(line: &[u8]) -> Exit {
    told(super::remote::print(line))
}

fn list_here(words: &[OsString]) -> Result<Exit, Failure> {
    match Process::new("ls").args(words).status() {
        Ok(status) if status.success() => Ok(Exit::Done),
        // It has said itself what was wrong.
        Ok(_) => Ok(Exit::Local),
        Err(error) => Err(Failure::local("cannot run", Path::new("ls"), &error)),
    }
}

fn go_here(path: Option<PathBuf>) -> Result<(), Failure> {
    let path = path.or_else(|| std::env::var_os("HOME").map(PathBuf::from)).unwrap_or_default();
    std::env::set_current_dir(&path).map_err(|error| Failure::local("cannot go to", &path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_that_is_offered_is_one() {
        let line = Line::command();
        let mut known: Vec<&str> = line.get_subcommands().map(clap::Command::get_name).collect();
        known.sort_unstable();
        assert_eq!(known, COMMANDS);
        assert!(TAKES_PATHS.iter().all(|word| known.contains(word)));
        line.debug_assert();
    }
}
