//! `ftx serve`: the options of a server, its log, and its end.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use ftx::server::access::{Exposed, PolicyOptions, Rights};
use ftx::server::{
    Access, DoorOptions, Listen, MadeDirectory, Options, SELECTORS_MAX, Server, Stopper,
};
use ftx_client::DEFAULT_PORT;
use ftx_protocol::limits::INTEGER_MAX;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::activation;
use super::confine::{self, GivenUp};
use super::log::{Guard, Log};
use super::size::Size;

/// Serve a directory: take files with `put`, hand them out with `get`.
///
/// Prints "listening on ADDRESS" for each address when it is ready. Ctrl-C or SIGTERM lets what
/// runs finish, or end so that it can be resumed; a second one quits at once.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ftx serve ./dir --max-size 10G --min-free 1G")]
pub struct Serve {
    /// The directory. It is made if its parent exists
    directory: PathBuf,

    /// Where to listen; port 0 takes a free one. May be given several times. Not where sockets are
    /// handed over, as systemd does [default: 127.0.0.1:7389]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Vec<SocketAddr>,

    /// Hand files out, and take none; the directory may be on a read-only disk
    #[arg(long)]
    read_only: bool,

    /// What an acknowledgement means. full: the file survives a power cut. none: it survives a
    /// crash of the server, but a power cut may lose it, or leave it empty or torn
    #[arg(long, value_enum, default_value = "full")]
    durability: Durability,

    /// The largest file to take, such as 10G
    #[arg(long, value_name = "SIZE")]
    max_size: Option<Size>,

    /// Refuse a file that would leave less than this free on the disk
    #[arg(long, value_name = "SIZE", default_value = "64M")]
    min_free: Size,

    /// Connections at once; more wait until one ends
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    max_connections: usize,

    /// Threads that wait for sockets, besides those that wait for disks. One keeps two cores busy; where there
    /// are many, more may pay. With --limit-rate there is one
    #[arg(long, value_name = "N", value_parser = threads, default_value = "1")]
    threads: usize,

    /// Move no more than so many bytes a second, such as 10M, over all connections together; each
    /// gets its share
    #[arg(long, value_name = "RATE", value_parser = super::size::rate)]
    limit_rate: Option<NonZeroU64>,

    /// End a connection that says or reads nothing for this long while the server waits for it
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "60s")]
    idle_timeout: Duration,

    /// End a connection that has not introduced itself, or not ended a line, after this long
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "10s")]
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

    /// Listen on addresses that other machines can reach, although nobody is asked who they are:
    /// whoever reaches the port can read and replace every file
    #[arg(long)]
    allow_anyone: bool,

    /// Keep the rights that serving the directory does not need: to open what is outside it, to
    /// connect to others, to gain privileges. For systems on which it does not work otherwise
    #[arg(long)]
    unconfined: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Durability {
    Full,
    None,
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
        let descriptors = self.fit_connections();
        let (directory, log_format) = (self.directory.clone(), self.log_format);
        let (access, unconfined) = (self.access(), self.unconfined);
        let listen = self.listen()?;
        let prepared = Server::prepare(self.options(), listen)?;
        let given_up =
            if unconfined { GivenUp::Nothing } else { confine::give_up(prepared.root(), access) };
        let _log = start_log(log_format)?;
        descriptors.log();
        given_up.log();
        if prepared.made_directory() == MadeDirectory::New {
            tracing::info!(directory = %directory.display(), "made the directory");
        }
        let server = prepared.open()?;
        // Before it says that it is ready: whoever has read that may send a signal.
        stop_on_signal(server.stopper())?;
        let mut stdout = std::io::stdout().lock();
        for address in server.addresses() {
            writeln!(stdout, "listening on {address}").context("cannot say where it listens")?;
        }
        stdout.flush().ok();
        drop(stdout);
        server.run().context("the selector failed")
    }

    /// Leaves descriptors for files: a connection that is let in must be served.
    fn fit_connections(&mut self) -> Descriptors {
        // Two of them for each of the threads that --threads may name.
        const OWN_DESCRIPTORS: u64 = 64;
        let limit = match ftx_disk::sys::raise_descriptor_limit() {
            Ok(limit) => limit,
            Err(error) => return Descriptors::NotRaised(error),
        };
        let most = (limit - limit / 4).saturating_sub(OWN_DESCRIPTORS).max(1);
        let connections = usize::try_from(most).unwrap_or(usize::MAX);
        if self.max_connections <= connections {
            return Descriptors::Enough;
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

    fn options(self) -> Options {
        let access = self.access();
        Options {
            directory: self.directory,
            policy: if self.allow_anyone {
                PolicyOptions {
                    exposed: Exposed::PlainToo,
                    anyone: Some(Rights::ALL),
                    ..PolicyOptions::default()
                }
            } else {
                PolicyOptions::default()
            },
            identity: None,
            tokens: None,
            doors: DoorOptions::default(),
            access,
            durability: match self.durability {
                Durability::Full => ftx_protocol::Durability::Full,
                Durability::None => ftx_protocol::Durability::None,
            },
            size_max_bytes: self.max_size.map_or(INTEGER_MAX, Size::bytes).min(INTEGER_MAX),
            free_min_bytes: self.min_free.bytes(),
            connections_max: self.max_connections.max(1),
            threads: self.threads,
            limit_rate: self.limit_rate,
            header_timeout: self.header_timeout,
            idle_timeout: self.idle_timeout,
            partial_ttl: self.partial_ttl,
            drain_timeout: self.drain_timeout,
        }
    }
}

/// How the descriptors that the system gives compare to the connections asked for.
enum Descriptors {
    Enough,
    Few { limit: u64, connections: usize },
    NotRaised(std::io::Error),
}

impl Descriptors {
    fn log(&self) {
        match self {
            Self::Enough => {}
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

fn threads(word: &str) -> Result<usize, String> {
    let number = word.parse().ok().filter(|number| (1..=SELECTORS_MAX).contains(number));
    number.ok_or_else(|| format!("not a number from 1 to {SELECTORS_MAX}"))
}

/// Starts the log on stderr.
fn start_log(format: LogFormat) -> Result<Guard> {
    use tracing_subscriber::EnvFilter;
    let (log, guard) = Log::start(std::io::stderr()).context("cannot start a thread")?;
    let writer = move || log.clone();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr())
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            builder.with_target(false).with_ansi(colours).init();
        }
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(guard)
}

/// The first SIGTERM or SIGINT stops the server in order, the second at once.
fn stop_on_signal(stopper: Stopper) -> Result<()> {
    /// As a shell says it of a program that SIGINT ended.
    const QUIT: i32 = 130;
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot take signals")?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let mut asked = signals.forever();
            if asked.next().is_some() {
                stopper.stop();
            }
            if asked.next().is_some() {
                std::process::exit(QUIT);
            }
        })
        .context("cannot start a thread")?;
    Ok(())
}
