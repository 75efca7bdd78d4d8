//! `ftx stat` and `ftx ping`.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use ftx_client::{Client, Failure, Info, Remote, Retry, ServerAddress};
use serde_json::json;

use super::exit::Exit;
use super::transfer::told;

/// Which server.
#[derive(Debug, Args)]
struct Where {
    /// The server: host or host:port
    #[arg(
        short,
        long,
        env = "FTX_SERVER",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:7389"
    )]
    server: ServerAddress,

    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Say what a name on a server stands for: kind, size, permissions, last modification, version.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ftx stat photos/2026/photo.jpg")]
pub struct Stat {
    /// Names on the server
    #[arg(required = true, value_name = "NAME")]
    names: Vec<OsString>,

    #[command(flatten)]
    at: Where,
}

/// Ask a server for a sign of life.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ftx ping -s box:7389")]
pub struct Ping {
    #[command(flatten)]
    at: Where,
}

impl Stat {
    pub fn run(self) -> Exit {
        let mut exit = Exit::Done;
        for name in &self.names {
            let result = self.one(name.as_bytes()).unwrap_or_else(|failure| {
                eprintln!("ftx: {failure}");
                failure.class.into()
            });
            if exit == Exit::Done {
                exit = result;
            }
        }
        exit
    }

    fn one(&self, name: &[u8]) -> Result<Exit, Failure> {
        let remote = Remote::parse(name)?;
        let server = remote.server.unwrap_or_else(|| self.at.server.clone());
        let info = Client::new(server, Retry::default()).stat(&remote.name)?;
        let line = if self.at.json {
            json!({"name": remote.name, "info": info_json(&info)}).to_string()
        } else {
            let Info { kind, size, mode, mtime, version, .. } = &info;
            let kind = match kind {
                ftx_protocol::Kind::File => "file",
                ftx_protocol::Kind::Directory => "directory",
            };
            let time = std::time::UNIX_EPOCH
                .checked_add(std::time::Duration::from_secs(mtime.seconds().max(0).unsigned_abs()))
                .map_or_else(String::new, |time| {
                    humantime::format_rfc3339_seconds(time).to_string()
                });
            let version = version.as_ref().map_or("-", |version| version.as_str());
            format!("{kind} {size} {:04o} {time} {version}  {}", mode.bits(), remote.name)
        };
        Ok(told(writeln!(std::io::stdout(), "{line}")))
    }
}

fn info_json(info: &Info) -> serde_json::Value {
    json!({
        "kind": info.kind,
        "size": info.size,
        "mtime": info.mtime,
        "mode": info.mode,
        "version": info.version,
    })
}

impl Ping {
    pub fn run(self) -> Exit {
        let client = Client::new(self.at.server.clone(), Retry::default());
        match client.ping() {
            Ok(time) => {
                let milliseconds = time.as_secs_f64() * 1_000.0;
                let line = if self.at.json {
                    json!({"server": self.at.server.to_string(), "milliseconds": milliseconds})
                        .to_string()
                } else {
                    format!("{} answered in {milliseconds:.1} ms", self.at.server)
                };
                told(writeln!(std::io::stdout(), "{line}"))
            }
            Err(failure) => {
                eprintln!("ftx: {failure}");
                failure.class.into()
            }
        }
    }
}
