//! `ftx stat` and `ftx ping`.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use ftx_client::{Client, Failure, Info, Remote, Retry, ServerAddress};
use serde_json::json;

use super::exit::Exit;
use super::report::say;
use super::transfer::{server_address, told};

/// Which server.
#[derive(Debug, Args)]
struct Where {
    /// The server: host or host:port. Without it, 127.0.0.1:7389
    #[arg(
        short,
        long,
        env = "FTX_SERVER",
        value_name = "HOST:PORT",
        default_value = "",
        value_parser = server_address,
        hide_default_value = true
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
                say(&failure.to_string());
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
            let kind = kind.as_str();
            let time = shown_time(mtime.seconds());
            let version = version.as_ref().map_or("-", |version| version.as_str());
            format!("{kind} {size} {:04o} {time} {version}  {}", mode.bits(), remote.name)
        };
        Ok(told(writeln!(std::io::stdout(), "{line}")))
    }
}

/// As people write it, where there is a way: between 1970 and 9999. Else the seconds since 1970.
fn shown_time(seconds: i64) -> String {
    const YEAR_10000: u64 = 253_402_300_800;
    match u64::try_from(seconds) {
        Ok(seconds) if seconds < YEAR_10000 => {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            humantime::format_rfc3339_seconds(time).to_string()
        }
        _ => format!("@{seconds}"),
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
                say(&failure.to_string());
                failure.class.into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_has_no_year_is_shown_all_the_same() {
        assert_eq!(shown_time(0), "1970-01-01T00:00:00Z");
        assert_eq!(shown_time(-1), "@-1");
        assert_eq!(shown_time(253_402_300_799), "9999-12-31T23:59:59Z");
        assert_eq!(shown_time(253_402_300_800), "@253402300800");
    }
}
