//! `ftx put`, `ftx get` and `ftx cat`.

use std::cell::RefCell;
use std::ffi::OsString;
use std::num::NonZeroU64;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ftx_client::tree::TreeOptions;
use ftx_client::{
    Class, Client, Code, Condition, Failure, GetOptions, Name, PutOptions, Remote, Replace, Replay,
    Retry, ServerAddress, Sink, Source,
};
use serde_json::json;

use super::choice::{DigestKind, Level};
use super::exit::Exit;
use super::output::{self, is_directory, is_stdin, is_stdout, stdin, stdout};
use super::remote::{At, Clients, run, without_slash, wrong};
use super::report::{Cost, Form, Report, Results, say, told};

/// Gives the client of a server, or of the one that the command says.
type ClientOf<'a> = dyn Fn(Option<ServerAddress>) -> Client + 'a;

/// What put and get have in common.
#[derive(Debug, Args)]
pub struct Common {
    #[command(flatten)]
    at: At,

    /// How both sides compute the digest
    #[arg(long, value_enum, default_value = "sha256")]
    digest: DigestKind,

    /// When the connection breaks, go on trying for this long without progress; 0 for never
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "60s")]
    retry_for: Duration,

    /// Move no more than so many bytes a second, such as 500K or 10M
    #[arg(long, value_name = "RATE", value_parser = super::size::rate)]
    limit_rate: Option<NonZeroU64>,

    /// Show no progress, and no checksum line on standard error
    #[arg(short, long)]
    quiet: bool,

    /// Say where the time went
    #[arg(short, long, conflicts_with = "quiet")]
    verbose: bool,

    /// Print one JSON object a line for each event, instead of checksum lines
    #[arg(long)]
    json: bool,
}

/// Put files on a server.
///
/// Prints the checksum line of each file, with its name on the server, once the server has it
/// verified, durable and under its name. An interruption resumes by itself; after a crash or a
/// reboot the same command goes on where it ended.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ftx put photo.jpg --as photos/2026/photo.jpg\n  ftx put -r photos --as backup/photos\n  ftx put *.iso > SUMS\n  pg_dump db | ftx put - --as backup/db.sql"
)]
pub struct Put {
    /// Files; - is standard input, and needs --as. With -r, directories too
    #[arg(required_unless_present = "files_from", value_name = "FILE")]
    pub(super) files: Vec<OsString>,

    /// The name on the server; for one file or directory. Without it, the last part of its path
    #[arg(long = "as", value_name = "NAME", conflicts_with_all = ["to", "files_from"])]
    pub(super) name: Option<OsString>,

    #[command(flatten)]
    pub(super) tree: super::tree::PutOptions,

    /// Fail if the name is taken; a drop box stores the file under another one all the same
    #[arg(long)]
    no_clobber: bool,

    /// full: acknowledged when it survives a power cut of the server. none: when the server has
    /// stored it
    #[arg(long, value_enum, default_value = "full")]
    durability: Level,

    #[command(flatten)]
    common: Common,
}

/// Get files from a server.
///
/// Prints the checksum line of each file, with its local path, once it is verified, durable
/// and under its name. Until then, and if anything fails, an old file stays as it is.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ftx get photos/2026/photo.jpg\n  ftx get ftx://box:7389/backup/db.sql -o - | psql db\n  ftx get -r photos/2026 -o pictures/\n  ftx get a.iso b.iso -o downloads/"
)]
pub struct Get {
    /// Names on the server; with -r, / is all that it has
    #[arg(required = true, value_name = "NAME")]
    pub(super) names: Vec<OsString>,

    /// Where to: a file, a directory to put it in, or - for standard output, which takes no tree.
    /// Without it, the last part of the name, here
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,

    /// Fail if the file is there
    #[arg(long)]
    no_clobber: bool,

    /// full: told as done when it survives a power cut here. none: when it is written and verified
    #[arg(long, value_enum, default_value = "full")]
    durability: Level,

    #[command(flatten)]
    tree: super::tree::Selection,

    #[command(flatten)]
    common: Common,

    /// The word for it in messages: cat is another one.
    #[arg(skip = "get")]
    called: &'static str,
}

/// Print files of a server.
///
/// As get with -o -: the bytes come as they come, and are verified at the end.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ftx cat logs/today.log | grep error")]
pub struct Cat {
    /// Names on the server
    #[arg(required = true, value_name = "NAME")]
    pub(super) names: Vec<OsString>,

    #[command(flatten)]
    at: At,
}

impl Cat {
    pub fn run(self, clients: &Clients) -> Exit {
        let Self { names, at } = self;
        let common = Common {
            at,
            digest: DigestKind::Sha256,
            retry_for: Retry::default().without_progress,
            limit_rate: None,
            quiet: true,
            verbose: false,
            json: false,
        };
        let output = Some(PathBuf::from("-"));
        let (no_clobber, durability, tree) = (false, Level::Full, Default::default());
        let called = "cat";
        Get { names, output, no_clobber, durability, tree, common, called }.run(clients)
    }
}

impl Put {
    pub fn run(self, clients: &Clients) -> Exit {
        if self.name.is_some() && self.files.len() > 1 {
            return usage("--as names one file; give one, or leave --as out");
        }
        if let Some(name) = &self.name
            && without_slash(name) != name.as_bytes()
        {
            let name = ftx_protocol::Escaped(name.as_bytes());
            return usage(&format!(
                "--as is the whole name on the server; to put it into {name}, say --to {name}"
            ));
        }
        if self.tree.is_wanted() {
            return self.tree_job(clients);
        }
        // With --as there is one file.
        let names = self.files.iter().filter_map(|file| Path::new(file).file_name());
        if let Some(twice) = first_repeated(names.map(OsStrExt::as_bytes)) {
            return usage(&format!("two of these files would be called {twice} on the server"));
        }
        let client = self.common.clients(clients);
        first_failure(self.files.iter().map(|file| self.one(&client, file)))
    }

    /// Whether it reads standard input, for content or for a list of files.
    pub fn reads_stdin(&self) -> bool {
        let list = self.tree.files_from.as_deref();
        self.files.iter().map(Path::new).chain(list).any(is_stdin)
    }

    fn one(&self, client: &ClientOf<'_>, file: &OsString) -> Exit {
        let (source, remote) = match self.source(file) {
            Ok(both) => both,
            Err(failure) => {
                Report::new(self.common.form(), Results::Stdout, "put", file.as_bytes())
                    .failed(&failure);
                return failure.class.into();
            }
        };
        let mut report =
            Report::new(self.common.form(), Results::Stdout, "put", remote.name.as_bytes());
        let options = self.options();
        let client = client(remote.server);
        let put = client.put(source, &remote.name, &options, &mut |notice| report.notice(notice));
        match put {
            Ok(done) => {
                if let Some(name) = &done.stored_as {
                    report.stored_as(name);
                }
                if done.replayed == Some(Replay::Changed) {
                    report.notice(ftx_client::Notice::Warning(format!(
                        "{} was stored, and has been given another file since",
                        remote.name
                    )));
                }
                let more = json!({"durability": done.durability.as_str()});
                told(report.done(
                    &done.digest,
                    done.size,
                    &Cost { counts: &done.counts, spent: &done.spent },
                    more,
                ))
            }
            Err(failure) => {
                report.failed(&failure);
                failure.class.into()
            }
        }
    }

    fn options(&self) -> PutOptions {
        PutOptions {
            algorithm: self.common.digest.algorithm(),
            condition: if self.no_clobber { Condition::Absent } else { Condition::Always },
            durability: self.durability.durability(),
        }
    }

    fn tree_job(&self, clients: &Clients) -> Exit {
        run(|| {
            let words = super::tree::Sources { files: &self.files, name: self.name.as_ref() };
            let PutOptions { algorithm, condition, durability } = self.options();
            let each = TreeOptions { algorithm, condition, durability, ..TreeOptions::default() };
            let job = self.tree.prepare(&words, each)?;
            let client = self.common.clients(clients)(job.server());
            Ok(job.run(&client, self.common.form()))
        })
    }

    fn source(&self, file: &OsString) -> Result<(Source, Remote), Failure> {
        let remote = match (&self.name, file.as_bytes()) {
            (Some(name), _) => Remote::parse(name.as_bytes())?,
            (None, b"-") => return Err(wrong("put - needs --as NAME")),
            (None, _) => {
                let name = Path::new(file)
                    .file_name()
                    .ok_or_else(|| wrong("that path has no last part; say --as NAME"))?;
                Remote::parse(name.as_bytes())?
            }
        };
        let source = match file.as_bytes() {
            b"-" => Source::stream(stdin()?),
            _ => Source::open(Path::new(file))?,
        };
        Ok((source, remote))
    }
}

/// Where files go, as -o says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To<'a> {
    /// Here, each under the last part of its name.
    Here,
    Stdout,
    Path(&'a Path),
}

impl Get {
    pub fn run(mut self, clients: &Clients) -> Exit {
        if self.output.as_ref().is_some_and(|path| is_stdout(path)) {
            self.output = Some(PathBuf::from("-"));
        }
        // As they will be called: a URL may say the same in other words. What is no name is told when its turn comes.
        let names = self.names.iter().filter_map(|word| Remote::parse(without_slash(word)).ok());
        let names: Vec<Name> = names.map(|remote| remote.name).collect();
        if self.to() != To::Stdout
            && let Some(twice) = first_repeated(names.iter().map(Name::last_part))
        {
            return usage(&format!("two of these would be called {twice} here"));
        }
        let client = self.common.clients(clients);
        let mut trees = Exit::Done;
        if self.tree.is_wanted() {
            if self.to() == To::Stdout {
                return usage(
                    "-o - is standard output, where no tree can go (-r, -u, -n and the like); for a \
                     directory that is called -, say -o ./-",
                );
            }
            match self.tree_job(&client) {
                Ok((exit, files)) if files.is_empty() => return exit,
                Ok((exit, files)) => (trees, self.names) = (exit, files),
                Err(failure) => {
                    say(&failure.to_string());
                    return failure.class.into();
                }
            }
        }
        if self.names.len() > 1
            && let To::Path(path) = self.to()
            && !is_directory(path)
        {
            return usage("several names need -o to be a directory that exists");
        }
        let files = self.names.iter().map(|name| self.one(&client, name));
        first_failure(std::iter::once(trees).chain(files))
    }

    fn one(&self, client: &ClientOf<'_>, name: &OsString) -> Exit {
        match self.get(client, name) {
            Ok(exit) => exit,
            Err(failure) => {
                Report::new(self.common.form(), self.results(), self.called, name.as_bytes())
                    .failed(&failure);
                failure.class.into()
            }
        }
    }

    fn get(&self, client: &ClientOf<'_>, name: &OsString) -> Result<Exit, Failure> {
        let remote = Remote::parse(without_slash(name))?;
        let (sink, shown) = self.sink(&remote.name)?;
        let mut report = Report::new(self.common.form(), self.results(), self.called, &shown);
        let options = GetOptions {
            algorithm: self.common.digest.algorithm(),
            replace: if self.no_clobber { Replace::No } else { Replace::Yes },
            durability: self.durability.durability(),
            called: self.called,
        };
        let client = client(remote.server);
        let got = client.get(&remote.name, sink, &options, &mut |notice| report.notice(notice));
        Ok(match got {
            Ok(done) => told(report.done(
                &done.digest,
                done.size,
                &Cost { counts: &done.counts, spent: &done.spent },
                json!({}),
            )),
            Err(failure) => {
                let failure = match failure.class {
                    Class::Refused(Code::IsDirectory) => failure.with_hint(match self.to() {
                        To::Stdout => "ftx get -r gets it with all that is in it",
                        To::Here | To::Path(_) => "to get it with all that is in it, say -r",
                    }),
                    _ => failure,
                };
                report.failed(&failure);
                failure.class.into()
            }
        })
    }

    /// Gets directories. Returns the names that turned out to be files.
    fn tree_job(&self, client: &ClientOf<'_>) -> Result<(Exit, Vec<OsString>), Failure> {
        let each = TreeOptions {
            algorithm: self.common.digest.algorithm(),
            condition: if self.no_clobber { Condition::Absent } else { Condition::Always },
            durability: self.durability.durability(),
            ..TreeOptions::default()
        };
        self.tree.get(&self.names, self.output.as_deref(), each, self.common.form(), client)
    }

    fn to(&self) -> To<'_> {
        match &self.output {
            None => To::Here,
            Some(path) if path.as_os_str() == "-" => To::Stdout,
            Some(path) => To::Path(path),
        }
    }

    fn results(&self) -> Results {
        match self.to() {
            To::Stdout => Results::Stderr,
            To::Here | To::Path(_) => Results::Stdout,
        }
    }

    /// Where one file goes, and how that is called in its checksum line.
    fn sink(&self, name: &Name) -> Result<(Sink, Vec<u8>), Failure> {
        let last = PathBuf::from(OsString::from_vec(name.last_part().to_vec()));
        let path = match self.to() {
            To::Here => last,
            To::Stdout => {
                return Ok((Sink::Stream(Box::new(stdout()?)), name.as_bytes().to_vec()));
            }
            To::Path(path) if is_directory(path) => path.join(last),
            To::Path(path) if path.as_os_str().as_bytes().ends_with(b"/") => {
                let path = ftx_protocol::Escaped::of(path);
                return Err(wrong(&format!("-o {path}: there is no such directory")));
            }
            To::Path(path) => path.to_owned(),
        };
        let shown = path.as_os_str().as_bytes().to_vec();
        Ok((output::sink(path)?, shown))
    }
}

impl Common {
    /// The clients of one command: one for each server, which knows that it has reached it, and one rate for all.
    fn clients(&self, clients: &Clients) -> impl Fn(Option<ServerAddress>) -> Client {
        let retry = Retry { without_progress: self.retry_for };
        let made: RefCell<Vec<Client>> = RefCell::default();
        move |server| {
            let mut made = made.borrow_mut();
            let wanted = server.as_ref().unwrap_or(&self.at.server);
            if let Some(client) = made.iter().find(|client| client.server() == wanted) {
                return client.clone();
            }
            let client = self.at.client(clients, server, retry);
            let client = match (self.limit_rate, made.first()) {
                (Some(_), Some(first)) => client.with_rate_of(first),
                (Some(rate), None) => client.with_limit_rate(rate),
                (None, _) => client,
            };
            made.push(client.clone());
            client
        }
    }

    fn form(&self) -> Form {
        match (self.json, self.quiet, self.verbose) {
            (true, _, _) => Form::Json,
            (false, true, _) => Form::Quiet,
            (false, false, false) => Form::Text,
            (false, false, true) => Form::Verbose,
        }
    }
}

/// As humantime reads it, and a bare 0.
fn parse_duration(text: &str) -> Result<Duration, humantime::DurationError> {
    if text == "0" { Ok(Duration::ZERO) } else { humantime::parse_duration(text) }
}

/// The first that is there twice, as it may be shown.
fn first_repeated<'a>(mut names: impl Iterator<Item = &'a [u8]>) -> Option<String> {
    let mut seen = std::collections::HashSet::new();
    names.find(|name| !seen.insert(*name)).map(|name| ftx_protocol::Escaped(name).to_string())
}

/// Does all of them, unless somebody interrupts.
fn first_failure(exits: impl Iterator<Item = Exit>) -> Exit {
    let mut first = Exit::Done;
    for exit in exits {
        if exit == Exit::Interrupted {
            return exit;
        }
        if first == Exit::Done {
            first = exit;
        }
    }
    first
}

fn usage(message: &str) -> Exit {
    say(message);
    Exit::Usage
}
