//! `ftx serve`: the options of a server, its log, and its end.

use std::env::VarError;
use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use ftx::server::{Access, Listen, MadeDirectory, OpenMax, Options, SELECTORS_MAX, Server};
use ftx_client::DEFAULT_PORT;
use ftx_protocol::Escaped;
use ftx_protocol::limits::{
    INTEGER_MAX, PART_BYTES_PER_SECOND_MIN, READ_BYTES_PER_SECOND_MIN, REQUESTS, REQUESTS_TOTAL,
};
use rustix::fs::Mode;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use super::activation;
use super::admission::{Admission, Settled, reach};
use super::choice::Level;
use super::confine::{self, GivenUp};
use super::directory::{Errand, Links, OwnDirectory};
use super::log::{Guard, Log, lost_as_json, lost_as_text};
use super::signals::{hold_sighup, take_signals};
use super::size::Size;
use super::user::User;

const EXAMPLES: &str = "\
Examples:
  ftx serve ./dir --max-size 10G --min-free 1G
  ftx serve ./dir --listen 0.0.0.0:7389
  ftx token --of ./dir add alice --can read,list";

/// Fewer requests of a connection would not be enough to take up what a client has under way when it comes anew.
const REQUESTS_TOTAL_MIN: u64 = 2 * REQUESTS as u64;

/// How long what a token has left unfinished is kept after it. Who has put an old or a wrong tokens file in the place
/// hears of it at once, from all who are not let in, and has this time to put the right one back; who has removed a
/// token has the room soon.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);

/// Descriptors that the server has for itself: two of them for each of the threads that --threads may name.
const OWN_DESCRIPTORS: u64 = 64;

/// Descriptors that are enough for files, however many connections there may be.
const FEW_DESCRIPTORS: u64 = 4_096;

/// Connections at once, however few descriptors there are: one for each of two addresses.
const CONNECTIONS_MIN: u64 = 2;

/// Files that are sent at once, however few descriptors there are: what the system refuses is refused then, too.
const FILES_MIN: usize = 8;

/// The same of directories that are listed: a tree has some in each other.
const DIRECTORIES_MIN: usize = 32;

/// Directories that are listed at once, however many descriptors there are: each is memory, too.
const DIRECTORIES_MAX: usize = 2_048;

/// What may be open where the system does not say how many descriptors it gives: for puts an eighth of what most systems
/// give at the least.
const OPEN_ANYWHERE: OpenMax = OpenMax { puts: 128, files: 64, directories: 32 };

/// Which lines the log has unless RUST_LOG says otherwise.
const LOG_FILTER: &str = "info";

/// What the targets of all lines begin with that are this program's own.
const LOG_TARGETS: [&str; 2] = ["audit", "ftx"];

/// Serve a directory: take files with `put`, hand them out with `get`.
///
/// On an address of this machine alone, as is the default, whoever is there may use it as it is. On one that
/// others reach it speaks inside TLS only, and wants a token, which "ftx token add" makes.
///
/// Prints "listening on ADDRESS" for each address when it is ready, and how others log in. Ctrl-C or
/// SIGTERM lets what runs finish, or end so that it can be resumed; a second one quits at once.
/// SIGHUP reads the certificate anew.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, after_long_help = examples_and_fixed_limits())]
pub struct Serve {
    /// The directory. It is made if its parent exists
    directory: PathBuf,

    /// Where to listen, such as 0.0.0.0:7389 for all addresses of IPv4 or [::]:7389 for those of IPv6; port 0 takes
    /// a free one. May be given several times. Not where sockets are handed over, as systemd does [default:
    /// 127.0.0.1:7389]
    #[arg(long, value_name = "ADDR:PORT", value_parser = super::size::listen)]
    listen: Vec<SocketAddr>,

    /// Hand files out, and take none; the directory may be on a read-only disk
    #[arg(long)]
    read_only: bool,

    /// What an acknowledgement means. full: the file survives a power cut. none: it survives a
    /// crash of the server, but a power cut may lose it, or leave it empty or torn
    #[arg(long, value_enum, default_value = "full")]
    durability: Level,

    /// The largest file to take, such as 10G
    #[arg(long, value_name = "SIZE")]
    max_size: Option<Size>,

    /// Refuse a file that would leave less than this free on the disk
    #[arg(long, value_name = "SIZE", default_value = "64M")]
    min_free: Size,

    /// Connections at once; more wait until one ends
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = super::size::count::<usize>)]
    max_connections: usize,

    /// Requests that one connection may make in all, at least 8192; then it has to come anew, which ftx does by
    /// itself
    #[arg(long, value_name = "N", default_value_t = REQUESTS_TOTAL,
          value_parser = requests)]
    max_requests: u64,

    /// Threads that wait for sockets, besides those that wait for disks. One keeps two cores busy; where there
    /// are many, more may pay, up to 16: each beyond five has 9 MiB more for what comes. With --limit-rate there is one
    #[arg(long, value_name = "N", value_parser = threads, default_value = "1")]
    threads: usize,

    /// Move no more than so many bytes a second, such as 10M, over all connections together; each
    /// gets its share
    #[arg(long, value_name = "RATE", value_parser = super::size::rate)]
    limit_rate: Option<NonZeroU64>,

    /// End a connection that says or reads nothing for this long while the server waits for it
    #[arg(long, value_name = "TIME", value_parser = patience, default_value = "60s")]
    idle_timeout: Duration,

    /// End a connection that has not introduced itself, or not ended a line, after this long
    #[arg(long, value_name = "TIME", value_parser = patience, default_value = "10s")]
    header_timeout: Duration,

    /// Keep what there is of an interrupted upload for this long, while the server runs
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "7d")]
    partial_ttl: Duration,

    /// When asked to stop, let transfers run on for this long
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "10s")]
    drain_timeout: Duration,

    /// How the log on stderr is written. RUST_LOG=debug shows every connection
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,

    /// Be this user once the port and the directories are there, when started as root. The log and
    /// the served files are this user's then; the group is the user's own, and no other. Where there
    /// are tokens, say --state DIR, with a directory that this user gets to
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// Keep the rights that serving the directory does not need: to open what is outside it, to
    /// connect to others, to gain privileges. For systems on which it does not work otherwise
    #[arg(long)]
    unconfined: bool,

    #[command(flatten)]
    admission: Admission,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl Serve {
    /// What needs the world outside the directory comes first, then what needs threads.
    pub fn run(mut self) -> Result<()> {
        confine::let_nobody_else_write();
        let held_back = hold_sighup()?;
        let descriptors = self.fit_connections();
        let (log_format, access, unconfined) = (self.log_format, self.access(), self.unconfined);
        let user = self.user.as_deref().map(User::find).transpose()?;
        let directory = self.directory.clone();
        let listen = self.listen()?;
        let errand = user.as_ref().map_or(Errand::Own, User::errand);
        let made = make_directory(&directory, access, errand)?;
        let settled = self.admission.settle(&directory, reach(&listen), errand)?;
        let prepared = Server::prepare(self.options(&settled, descriptors.open_max()), listen)?;
        if let Some(user) = &user {
            hand_over(user, &settled)?;
        }
        let introductions = settled.introductions(&prepared);
        let given_up = match unconfined {
            true => GivenUp::Nothing,
            false => confine::give_up(prepared.root(), access, &settled.outside()),
        };
        let filter = log_filter(std::env::var("RUST_LOG"));
        let (filter, misread) = match filter {
            Ok(filter) => (filter, None),
            Err(why) => (EnvFilter::new(LOG_FILTER), Some(why)),
        };
        let _log = start_log(log_format, filter)?;
        given_up.log();
        if let Some(why) = misread {
            tracing::warn!("RUST_LOG is not understood, and the log is as without it: {why}");
        }
        descriptors.log();
        settled.log();
        if let Some(user) = &user {
            tracing::info!(user = user.name(), "runs as this user");
        }
        if made == MadeDirectory::New {
            let directory = Escaped::of(&directory);
            tracing::info!(%directory, "made the directory");
        }
        let server = prepared.open()?;
        // Before it says that it is ready: whoever has read that may send a signal.
        take_signals(server.stopper(), settled.identity, &held_back)?;
        introduce(server.addresses(), &introductions).context("cannot say where it listens")?;
        server.run().context("the selector failed")
    }

    /// Leaves descriptors for files, half of few and a quarter of many: a connection that is let in must be served.
    fn fit_connections(&mut self) -> Descriptors {
        let limit = match ftx_disk::sys::raise_descriptor_limit() {
            Ok(limit) => limit,
            Err(error) => return Descriptors::NotRaised(error),
        };
        let free = limit.saturating_sub(OWN_DESCRIPTORS);
        let files = (free / 4).max(FEW_DESCRIPTORS.min(free / 2));
        let most = (free - files).max(CONNECTIONS_MIN);
        let connections = usize::try_from(most).unwrap_or(usize::MAX);
        if self.max_connections <= connections {
            return Descriptors::Enough { limit, connections: self.max_connections };
        }
        self.max_connections = connections;
        Descriptors::Few { limit, connections }
    }

    fn listen(&mut self) -> Result<Listen> {
        /// Other machines do not reach it.
        const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DEFAULT_PORT);
        let sockets = activation::handed_over()?;
        let addresses = std::mem::take(&mut self.listen);
        match (sockets.is_empty(), addresses.is_empty()) {
            (true, true) => Ok(Listen::At(vec![DEFAULT])),
            (true, false) => Ok(Listen::At(addresses)),
            (false, true) => Ok(Listen::On(sockets)),
            (false, false) => anyhow::bail!(
                "sockets were handed over (LISTEN_FDS), so there is nothing to --listen on"
            ),
        }
    }

    fn access(&self) -> Access {
        if self.read_only { Access::ReadOnly } else { Access::ReadWrite }
    }

    fn options(self, settled: &Settled, open_max: OpenMax) -> Options {
        let access = self.access();
        Options {
            directory: self.directory,
            policy: self.admission.policy(),
            identity: settled.identity.as_ref().map(|kept| Arc::clone(&kept.identity)),
            tokens: settled.state.as_ref().map(|state| state.path().to_owned()),
            doors: self.admission.doors(),
            access,
            durability: self.durability.durability(),
            size_max_bytes: self.max_size.map_or(INTEGER_MAX, Size::bytes).min(INTEGER_MAX),
            free_min_bytes: self.min_free.bytes(),
            connections_max: self.max_connections,
            open_max,
            requests_max: self.max_requests,
            threads: self.threads,
            limit_rate: self.limit_rate,
            header_timeout: self.header_timeout,
            idle_timeout: self.idle_timeout,
            partial_ttl: self.partial_ttl,
            abandoned_after: ABANDONED_AFTER,
            drain_timeout: self.drain_timeout,
        }
    }
}

/// What --help has at its end: the limits that no option sets are there to be known, too.
fn examples_and_fixed_limits() -> String {
    use ftx::server::fixed;
    let time = |time| humantime::format_duration(time).to_string();
    format!(
        "{EXAMPLES}

Limits that no option sets:
  Connections without a login: {} of one address; of all there may be 1 of {}, and {} at least
  Wait after the first login that fails beyond --max-failed-logins: {}, twice as long each time, {} at most; forgotten after {}
  IPv6: a /64 is one address, and a /48 has {} times as much
  Slowest body, inside an announced part: {PART_BYTES_PER_SECOND_MIN} bytes/s; slowest reading: {READ_BYTES_PER_SECOND_MIN} bytes/s
  Unfinished uploads of those without a token: {}, and {} of one address",
        fixed::UNGREETED_PER_ADDRESS,
        fixed::UNGREETED_PART,
        fixed::UNGREETED_MIN,
        time(fixed::PENALTY_MIN),
        time(fixed::PENALTY_MAX),
        time(fixed::FORGET_AFTER),
        fixed::SITE_ADDRESSES,
        fixed::PARTIALS_OF_ANYONE,
        fixed::PARTIALS_OF_ADDRESS,
    )
}

/// How the descriptors that the system gives compare to the connections asked for.
enum Descriptors {
    Enough { limit: u64, connections: usize },
    Few { limit: u64, connections: usize },
    NotRaised(io::Error),
}

impl Descriptors {
    /// Half of the descriptors that no connection has are for puts, a quarter is for files that are sent, and one for
    /// directories that are listed. All of that is never open at once unless several addresses mean it: what a round
    /// opens finds descriptors, too.
    fn open_max(&self) -> OpenMax {
        match self {
            Self::Enough { limit, connections } | Self::Few { limit, connections } => {
                let connections = u64::try_from(*connections).unwrap_or(u64::MAX);
                let rest = limit.saturating_sub(OWN_DESCRIPTORS).saturating_sub(connections);
                let rest = usize::try_from(rest).unwrap_or(usize::MAX);
                OpenMax {
                    puts: rest / 2,
                    files: (rest / 4).max(FILES_MIN),
                    directories: (rest / 8).clamp(DIRECTORIES_MIN, DIRECTORIES_MAX),
                }
            }
            Self::NotRaised(_) => OPEN_ANYWHERE,
        }
    }

    fn log(&self) {
        match self {
            Self::Enough { .. } => {}
            Self::Few { limit, connections } => tracing::info!(
                limit,
                connections,
                "fewer connections than asked for: the system gives no more descriptors"
            ),
            Self::NotRaised(error) => {
                tracing::warn!(%error, "cannot raise the limit of open descriptors");
            }
        }
    }
}

fn requests(word: &str) -> Result<u64, String> {
    match super::size::count(word)? {
        number @ REQUESTS_TOTAL_MIN.. => Ok(number),
        _ => Err(format!("it is {REQUESTS_TOTAL_MIN} or more")),
    }
}

fn threads(word: &str) -> Result<usize, String> {
    let number = word.parse().ok().filter(|number| (1..=SELECTORS_MAX).contains(number));
    number.ok_or_else(|| format!("not a number from 1 to {SELECTORS_MAX}"))
}

fn patience(word: &str) -> Result<Duration, String> {
    match humantime::parse_duration(word) {
        Ok(Duration::ZERO) => Err("nobody is that fast: zero never means unlimited".to_owned()),
        result => result.map_err(|error| error.to_string()),
    }
}

/// Which lines the log has, by what RUST_LOG says; or why that means nothing. A word by itself that is no level is taken
/// for a part of the program, of which all is logged then, and nothing of all others: a wrong letter would silence the
/// log, and the audit with it.
fn log_filter(said: Result<String, VarError>) -> Result<EnvFilter, String> {
    let said = match said {
        Ok(said) => said,
        Err(VarError::NotPresent) => String::new(),
        Err(VarError::NotUnicode(_)) => return Err("it is not UTF-8".to_owned()),
    };
    if said.trim().is_empty() {
        return Ok(EnvFilter::new(LOG_FILTER));
    }
    for word in said.split(',').map(str::trim) {
        let is_by_itself = !word.contains(['=', '[']);
        let is_of_ours = LOG_TARGETS.iter().any(|target| word.starts_with(target));
        if is_by_itself && !is_of_ours && word.parse::<LevelFilter>().is_err() {
            let word = Escaped(word.as_bytes());
            return Err(format!("{word} is no level: they are error, warn, info, debug and trace"));
        }
    }
    EnvFilter::try_new(&said).map_err(|error| format!("{}: {error}", Escaped(said.as_bytes())))
}

/// Starts the log on stderr.
fn start_log(format: LogFormat, filter: EnvFilter) -> Result<Guard> {
    let say_lost: fn(u64) -> String = match format {
        LogFormat::Text => lost_as_text,
        LogFormat::Json => lost_as_json,
    };
    let (log, guard) = Log::start(io::stderr(), say_lost).context("cannot start a thread")?;
    let writer = move || log.clone();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        LogFormat::Text => {
            let colours = io::stderr().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            builder.with_target(false).with_ansi(colours).init();
        }
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(guard)
}

/// Makes the directory that is to be served, for whoever the server is going to be.
fn make_directory(path: &Path, access: Access, errand: Errand) -> Result<MadeDirectory> {
    let absolute = std::path::absolute(path).context("cannot find the directory")?;
    let (Errand::For(..), Access::ReadWrite, Some(above), Some(name)) =
        (errand, access, absolute.parent(), absolute.file_name())
    else {
        return Ok(ftx::server::make_directory(path, access)?);
    };
    let make = || {
        let above = OwnDirectory::open(above, Links::Followed, errand)?;
        above.make_below(name, Mode::from_raw_mode(0o777), errand)
    };
    let made = make().with_context(|| format!("cannot make the directory {}", path.display()))?;
    Ok(if made.is_some() { MadeDirectory::New } else { MadeDirectory::Old })
}

/// Gives the state, which may have been made as root, to the user that the process then is.
fn hand_over(user: &User, settled: &Settled) -> Result<()> {
    if let Some(state) = &settled.state {
        user.take_over(state.handle())?;
    }
    user.become_it()
}

/// Says where the server is, once it is there.
fn introduce(addresses: &[SocketAddr], introductions: &[String]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    for address in addresses {
        writeln!(stdout, "listening on {address}")?;
    }
    // Whoever has read the first line may want no more.
    for introduction in introductions {
        let _ = writeln!(stdout, "to connect: {introduction}");
    }
    let _ = stdout.flush();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(said: &str) -> Result<String, String> {
        log_filter(Ok(said.to_owned())).map(|filter| filter.to_string())
    }

    #[test]
    fn what_rust_log_says_is_understood_or_told() {
        let plain = log_filter(Err(VarError::NotPresent)).unwrap().to_string();
        assert_eq!(plain, LOG_FILTER);
        for (said, expected) in [
            ("", "info"),
            ("debug", "debug"),
            ("WARN", "warn"),
            ("off", "off"),
            ("audit=info", "audit=info"),
            ("audit", "audit=trace"),
            ("ftx::server,", "ftx::server=trace"),
            ("mio=trace", "mio=trace"),
        ] {
            assert_eq!(filter(said).unwrap(), expected, "{said}");
        }
        for (said, expected) in [
            ("infoo", "infoo is no level"),
            ("audit=info, adebug", "adebug is no level"),
            ("in\x1bfo", r"in\x1bfo is no level"),
            ("audit=infoo", "audit=infoo: "),
            ("\x1b=info", r"\x1b=info: "),
        ] {
            let why = filter(said).unwrap_err();
            assert!(why.starts_with(expected), "{why}");
        }
    }
}
