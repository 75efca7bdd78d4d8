//! `ftx partials`: what interrupted transfers left on this machine.

use std::os::unix::ffi::OsStrExt;

use clap::Args;
use ftx_client::{JsonName, Leftover, Working, leftovers};
use ftx_protocol::Escaped;
use indicatif::{HumanBytes, HumanDuration};
use serde_json::json;

use super::exit::Exit;
use super::remote::{Tally, run};

/// List what interrupted transfers left on this machine, or remove it.
///
/// The same command as before goes on with each; nothing of this has to be removed. A put has left
/// nothing here but a note of how far it was; a get has left what has arrived, in a hidden file
/// beside its target.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  ftx partials\n  ftx partials --remove")]
pub struct Partials {
    /// Remove all of it, but what somebody is working on
    #[arg(long)]
    remove: bool,

    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// What became of something that was left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Became {
    /// It is none: somebody is working on it.
    Running,
    Removed,
    /// It stays as it was.
    Left,
}

impl Partials {
    pub fn run(self) -> Exit {
        run(|| {
            let mut tally = Tally::default();
            for leftover in leftovers()? {
                let became = match leftover.work {
                    Working::Now => Became::Running,
                    Working::NotNow if self.remove => match leftover.remove() {
                        Ok(()) => {
                            tally.done();
                            Became::Removed
                        }
                        Err(failure) => {
                            tally.failed(&failure);
                            Became::Left
                        }
                    },
                    Working::NotNow => Became::Left,
                };
                tally.print(&self.line(&leftover, became));
            }
            Ok(tally.exit())
        })
    }

    fn line(&self, leftover: &Leftover, became: Became) -> Vec<u8> {
        let about = &leftover.about;
        if self.json {
            return json!({
                "action": about.action,
                "server": about.server,
                "name": about.name,
                "path": JsonName(about.path.as_bytes()),
                "part": about.part.as_ref().map(|part| JsonName(part.as_bytes())),
                "part_bytes": leftover.part_bytes,
                "age_seconds": leftover.age.as_secs(),
                "running": became == Became::Running,
                "removed": became == Became::Removed,
            })
            .to_string()
            .into_bytes();
        }
        let path = Escaped::of(&about.path);
        let (from, to) = match about.action.starts_with("get") {
            true => (format!("{} on {}", about.name, about.server), path.to_string()),
            false => (path.to_string(), format!("{} on {}", about.name, about.server)),
        };
        let what = match became {
            Became::Running => "running ",
            Became::Removed => "removed ",
            Became::Left => "",
        };
        let mut line = format!("{what}{} {from} to {to}", about.action);
        if let Some(part) = &about.part {
            line.push_str(&format!(", what has arrived is in {}", Escaped::of(part)));
        }
        if let Some(bytes) = leftover.part_bytes {
            line.push_str(&format!(" ({})", HumanBytes(bytes)));
        }
        line.push_str(&format!(", {} ago", HumanDuration(leftover.age)));
        line.into_bytes()
    }
}
