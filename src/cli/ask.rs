//! `ftx stat` and `ftx ping`.

use std::ffi::OsString;

use clap::Args;
use ftx_client::{Answer, Ask, Client, Failure, Info, Name, Stat as Question};
use serde_json::json;

use super::exit::Exit;
use super::remote::{Clients, Tally, Where, each_server, print, run};
use super::report::told;

/// Say what a name on a server stands for: kind, size, permissions, last modification, version.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ftx stat photos/2026/photo.jpg")]
pub struct Stat {
    /// Names on the server
    #[arg(required = true, value_name = "NAME")]
    pub(super) names: Vec<OsString>,

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
    pub fn run(self, clients: &Clients) -> Exit {
        run(|| {
            let groups = self.at.by_server(clients, &self.names)?;
            Ok(print_each(groups, Question::of, |name, info| {
                Ok(self.line(name, info).into_bytes())
            }))
        })
    }

    fn line(&self, name: &Name, info: &Info) -> String {
        if self.at.json {
            return json!({"name": name, "info": info_json(info)}).to_string();
        }
        let Info { kind, size, mode, mtime, version, .. } = info;
        let time = shown_time(mtime.seconds());
        let version = version.as_ref().map_or("-", |version| version.as_str());
        format!("{} {size} {:04o} {time} {version}  {name}", kind.as_str(), mode.bits())
    }
}

/// Asks about each name, and prints the line of what is said.
pub fn print_each(
    groups: Vec<(Client, Vec<Name>)>,
    question: impl Fn(Name) -> Question,
    line: impl Fn(&Name, &Info) -> Result<Vec<u8>, Failure>,
) -> Exit {
    let mut tally = Tally::default();
    each_server(groups, &mut tally, &mut |session, names, tally| {
        let ask = |name: Name| (name.clone(), Ask::Stat(question(name)));
        session.ask_all(&mut names.into_iter().map(ask), &mut |name, answer| {
            let line = match answer {
                Ok(Answer::Info(info)) => line(&name, &info),
                Ok(Answer::Changed(_)) => return,
                Err(failure) => Err(failure),
            };
            match line {
                Ok(line) => {
                    tally.done();
                    tally.print(&line);
                }
                Err(failure) => tally.failed(&failure),
            }
        })
    });
    tally.exit()
}

/// In seconds since 1970. From here on a time cannot be written as others are.
pub const YEAR_10_000: u64 = 253_402_300_800;

/// As people write it, where there is a way: between 1970 and 9999. Else the seconds since 1970.
pub fn shown_time(seconds: i64) -> String {
    match u64::try_from(seconds) {
        Ok(seconds) if seconds < YEAR_10_000 => {
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
    pub fn run(self, clients: &Clients) -> Exit {
        run(|| {
            let time = self.at.client(clients, None).ping()?;
            let (server, milliseconds) = (self.at.server(), time.as_secs_f64() * 1_000.0);
            let line = if self.at.json {
                json!({"server": server.to_string(), "milliseconds": milliseconds}).to_string()
            } else {
                format!("{server} answered in {milliseconds:.1} ms")
            };
            Ok(told(print(line.as_bytes())))
        })
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
