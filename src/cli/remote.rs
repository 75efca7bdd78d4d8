//! What the commands that ask have in common: which server, which names on it, and how an answer
//! is printed.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};

use clap::Args;
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use ftx_client::{
    Class, Client, Failure, Interrupt, Keeper, Name, Plaintext, Remote, Retry, ServerAddress,
    Session,
};
use ftx_protocol::Escaped;
use signal_hook::consts::SIGINT;

use super::exit::Exit;
use super::login::{Brought, Person};
use super::report::{say, told};

/// Which server, and how it may be spoken to.
#[derive(Debug, Clone, Args)]
pub struct At {
    /// The server: host or host:port. Without it, what FTX_SERVER says, else 127.0.0.1:7389
    #[arg(
        short,
        long,
        value_name = "HOST:PORT",
        default_value = default_server(),
        value_parser = AddressParser,
        hide_default_value = true
    )]
    pub server: ServerAddress,

    /// Speak without encryption to a server on another machine, unless it is known here: whoever is
    /// on the way reads and changes everything; no token is sent. As FTX_PLAINTEXT=1
    #[arg(long)]
    plaintext: bool,
}

impl At {
    /// A client of the server, or of another one that a name brought.
    pub fn client(&self, clients: &Clients, other: Option<ServerAddress>, retry: Retry) -> Client {
        let asked_for = self.plaintext || plaintext_by_environment();
        let plaintext = if asked_for { Plaintext::Everywhere } else { Plaintext::OnThisMachine };
        match other {
            // A name may have been sent by anybody: what the environment has is not for its server.
            Some(other) if other != self.server => {
                let person = Brought(Arc::clone(&clients.person));
                clients.make(other, plaintext, retry).with_introduction(Arc::new(person))
            }
            _ => clients.make(self.server.clone(), plaintext, retry),
        }
    }

    /// The same, for questions and changes of names.
    pub fn client_to_ask(&self, clients: &Clients, other: Option<ServerAddress>) -> Client {
        self.client(clients, other, Retry::default())
    }

    /// Parses names, and gathers those that follow on each other and are on the same server.
    pub fn by_server(
        &self,
        clients: &Clients,
        words: &[OsString],
    ) -> Result<Vec<(Client, Vec<Name>)>, Failure> {
        let mut groups: Vec<(Client, Vec<Name>)> = Vec::new();
        for word in words {
            let remote = Remote::parse(without_slash(word))?;
            let client = self.client_to_ask(clients, remote.server);
            match groups.last_mut() {
                Some((last, names)) if last.server() == client.server() => names.push(remote.name),
                _ => groups.push((client, vec![remote.name])),
            }
        }
        Ok(groups)
    }

    /// The commands of a shell at this server: theirs is the same, unless a name brings another one.
    pub fn of_shell(&self, shell: clap::Command) -> clap::Command {
        let plaintext = if self.plaintext { "true" } else { "false" };
        shell.mut_subcommands(|command| {
            if !command.get_arguments().any(|argument| argument.get_id() == "server") {
                return command;
            }
            let server = OfShell(self.server.clone());
            command
                .mut_arg("server", |argument| argument.hide(true).value_parser(server))
                .mut_arg("plaintext", |argument| argument.default_value(plaintext))
        })
    }
}

/// Gives a command of a shell the server that the shell has, and takes no other word for one.
#[derive(Debug, Clone)]
struct OfShell(ServerAddress);

impl TypedValueParser for OfShell {
    type Value = ServerAddress;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _: Option<&clap::Arg>,
        _: &OsStr,
    ) -> Result<ServerAddress, clap::Error> {
        let message = format!(
            "a shell has one server, and this one has {}; for another one, start another shell\n",
            self.0
        );
        Err(clap::Error::raw(ErrorKind::ValueValidation, message).with_cmd(command))
    }

    fn parse_ref_(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        word: &OsStr,
        source: ValueSource,
    ) -> Result<ServerAddress, clap::Error> {
        match source {
            ValueSource::DefaultValue => Ok(self.0.clone()),
            _ => self.parse_ref(command, argument, word),
        }
    }
}

/// What FTX_SERVER says, if anything. Not by clap, which would show the option as one that has to be given.
fn default_server() -> &'static str {
    static SERVER: OnceLock<String> = OnceLock::new();
    SERVER.get_or_init(|| {
        match std::env::var_os("FTX_SERVER").filter(|server| !server.is_empty()) {
            Some(server) => server.to_string_lossy().into_owned(),
            None => ServerAddress::default().to_string(),
        }
    })
}

/// Reads the address of a server. What is wrong is said by its own words: clap's would show what was given, which may be a token.
#[derive(Debug, Clone)]
struct AddressParser;

impl TypedValueParser for AddressParser {
    type Value = ServerAddress;

    fn parse_ref(
        &self,
        command: &clap::Command,
        _: Option<&clap::Arg>,
        text: &OsStr,
    ) -> Result<ServerAddress, clap::Error> {
        text.to_string_lossy().parse().map_err(|failure: Failure| {
            let message = format!("{failure}\n");
            clap::Error::raw(ErrorKind::ValueValidation, message).with_cmd(command)
        })
    }
}

/// Anything else than a clear yes leaves everything encrypted.
fn plaintext_by_environment() -> bool {
    std::env::var_os("FTX_PLAINTEXT").is_some_and(|value| value == "1" || value == "yes")
}

/// Which server, and in which form it is told.
#[derive(Debug, Clone, Args)]
pub struct Where {
    #[command(flatten)]
    pub at: At,

    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

impl Where {
    /// The server that a name is on.
    pub fn client(&self, clients: &Clients, server: Option<ServerAddress>) -> Client {
        self.at.client_to_ask(clients, server)
    }

    pub fn server(&self) -> &ServerAddress {
        &self.at.server
    }

    /// See [`At::by_server`].
    pub fn by_server(
        &self,
        clients: &Clients,
        words: &[OsString],
    ) -> Result<Vec<(Client, Vec<Name>)>, Failure> {
        self.at.by_server(clients, words)
    }
}

/// Makes the clients of this process. Ctrl-C interrupts all of them; a second one, while they end,
/// ends the process.
#[derive(Debug)]
pub struct Clients {
    interrupt: Interrupt,
    /// One for all of them: what was answered once is not asked again.
    person: Arc<Person>,
    keeper: Option<Keeper>,
}

impl Clients {
    /// From now on Ctrl-C is theirs.
    pub fn new() -> Self {
        let interrupt = Interrupt::default();
        let person = Arc::new(Person::new(interrupt.clone()));
        let clients = Self { interrupt, person, keeper: None };
        let flag = || clients.interrupt.flag();
        let code = i32::from(Exit::Interrupted as u8);
        // A system that refuses this ends the process at the first one.
        let _ = signal_hook::flag::register_conditional_shutdown(SIGINT, code, flag());
        let _ = signal_hook::flag::register(SIGINT, flag());
        clients
    }

    /// Keeps a connection from one command to the next one.
    pub fn keeping(self) -> Self {
        Self { keeper: Some(Keeper::default()), ..self }
    }

    /// A client of a server. Whoever sits here is asked about one that is not known.
    pub fn make(&self, server: ServerAddress, plaintext: Plaintext, retry: Retry) -> Client {
        let client = Client::new(server, retry)
            .with_plaintext(plaintext)
            .with_introduction(self.person.clone())
            .with_interrupt(self.interrupt.clone());
        match &self.keeper {
            Some(keeper) => client.with_keeper(keeper.clone()),
            None => client,
        }
    }

    /// Who sits here, if anybody does.
    pub fn person(&self) -> &Person {
        &self.person
    }

    /// What was interrupted has ended; something new may begin.
    pub fn go_on(&self) {
        self.interrupt.clear();
    }
}

/// How several things that were asked for turned out together.
#[derive(Debug, Default)]
pub struct Tally {
    done: u64,
    first_failure: Option<Exit>,
    output: Output,
}

/// What became of the lines that were printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Output {
    #[default]
    Written,
    /// The reader has enough.
    NotWanted,
    /// Some are lost.
    Lost,
}

impl Tally {
    pub fn done(&mut self) {
        self.done = self.done.saturating_add(1);
    }

    /// Tells of a failure, and counts it.
    pub fn failed(&mut self, failure: &Failure) {
        // What is begun after an interruption ends the same way.
        if self.first_failure != Some(Exit::Interrupted) {
            say(&failure.to_string());
        }
        self.count(failure.class.into());
    }

    /// Counts a failure that was told.
    pub fn count(&mut self, exit: Exit) {
        self.first_failure.get_or_insert(exit);
    }

    /// Prints a line, unless one before it could not be printed.
    pub fn print(&mut self, line: &[u8]) -> Printed {
        self.print_with(|| print(line))
    }

    /// The same with something that prints.
    pub fn print_with(&mut self, write: impl FnOnce() -> std::io::Result<()>) -> Printed {
        if self.output == Output::Written {
            let written = write();
            self.output = match (written.is_ok(), told(written)) {
                (true, _) => Output::Written,
                (false, Exit::Done) => Output::NotWanted,
                (false, _) => Output::Lost,
            };
        }
        match self.output {
            Output::Written => Printed::Yes,
            Output::NotWanted | Output::Lost => Printed::NobodyReads,
        }
    }

    /// What could not be said decides: it may be that something is wrong.
    pub fn exit(&self) -> Exit {
        match (self.first_failure, self.output, self.done) {
            (Some(Exit::Interrupted), _, _) => Exit::Interrupted,
            (_, Output::Lost, _) => Exit::Local,
            (None, _, _) => Exit::Done,
            (Some(first), _, 0) => first,
            (Some(_), _, _) => Exit::Partial,
        }
    }
}

/// Whether it makes sense to print more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Printed {
    Yes,
    NobodyReads,
}

/// Runs a command that may fail as a whole.
pub fn run(command: impl FnOnce() -> Result<Exit, Failure>) -> Exit {
    command().unwrap_or_else(|failure| {
        say(&failure.to_string());
        failure.class.into()
    })
}

/// What is done for names that are on one server.
pub type ForServer<'a> = dyn FnMut(&mut Session, Vec<Name>, &mut Tally) -> Result<(), Failure> + 'a;

/// Does something for the names of each server, on one connection to it.
pub fn each_server(groups: Vec<(Client, Vec<Name>)>, tally: &mut Tally, each: &mut ForServer<'_>) {
    for (client, names) in groups {
        let result = client.session().and_then(|mut session| each(&mut session, names, tally));
        if let Err(failure) = result {
            tally.failed(&failure);
        }
    }
}

/// A word for a name, as a shell completes that of a directory: with a slash behind it.
pub fn without_slash(word: &OsStr) -> &[u8] {
    let word = word.as_bytes();
    word.strip_suffix(b"/").filter(|rest| !rest.is_empty() && *rest != b"ftx:/").unwrap_or(word)
}

/// A directory on a server.
pub struct Place {
    /// Where it is, if the word says that.
    pub server: Option<ServerAddress>,
    /// None is the top, which has no name.
    pub name: Option<Name>,
}

impl Place {
    /// Reads a word. The top is `/`, `.`, or an address with nothing behind it: `ftx://host:port/`.
    pub fn parse(word: &OsStr) -> Result<Self, Failure> {
        let word = without_slash(word);
        if let b"/" | b"." = word {
            return Ok(Self { server: None, name: None });
        }
        match word.strip_prefix(b"ftx://") {
            Some(address) if !address.contains(&b'/') => {
                Ok(Self { server: Some(String::from_utf8_lossy(address).parse()?), name: None })
            }
            _ => Remote::parse(word)
                .map(|remote| Self { server: remote.server, name: Some(remote.name) }),
        }
    }
}

/// Bytes of a name as stdout takes them: a terminal takes some of them as commands.
pub fn shown(name: &[u8]) -> Vec<u8> {
    match std::io::stdout().is_terminal() {
        true => Escaped(name).to_string().into_bytes(),
        false => name.to_vec(),
    }
}

/// Prints a line.
pub fn print(line: &[u8]) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&[line, b"\n"].concat())?;
    stdout.flush()
}

pub fn wrong(message: &str) -> Failure {
    Failure::new(Class::Usage, message)
}
