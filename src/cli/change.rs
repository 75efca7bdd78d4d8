//! `ftx mkdir`, `ftx mv` and `ftx rm`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use ftx_client::{
    Ask, Change, Class, Code, Condition, Depth, Failure, Kind, Mkdir as MkdirRequest, Move, Name,
    Parents, Remote, Remove, Stat,
};
use ftx_protocol::RequestId;

use super::choice::Level;
use super::exit::Exit;
use super::remote::{At, Clients, Tally, each_server, run, without_slash, wrong};

/// What the three have in common.
#[derive(Debug, Args)]
struct Common {
    /// full: acknowledged when it survives a power cut of the server. none: when the server has
    /// done it
    #[arg(long, value_enum, default_value = "full")]
    durability: Level,

    #[command(flatten)]
    at: At,
}

/// Make directories on a server.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ftx mkdir -p backup/2026/11")]
pub struct Mkdir {
    /// Directories on the server
    #[arg(required = true, value_name = "NAME")]
    pub(super) names: Vec<OsString>,

    /// Make missing directories above them too; one that is there already is fine
    #[arg(short, long)]
    parents: bool,

    #[command(flatten)]
    common: Common,
}

/// Give a file or directory on a server another name.
///
/// Where the new name is a directory, or ends in /, it is moved into that.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  ftx mv draft.txt final.txt\n  ftx mv 2025/ archive/")]
pub struct Mv {
    /// The old name
    #[arg(value_name = "OLD")]
    pub(super) from: OsString,

    /// The new name, or a directory
    #[arg(value_name = "NEW")]
    pub(super) to: OsString,

    /// Replace a file that has the new name
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    common: Common,
}

/// Remove files and directories on a server.
///
/// A directory goes with -r only, unless it is empty; then with everything in it, at once. No
/// symlink is followed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  ftx rm old.iso\n  ftx rm -r backup/2019")]
pub struct Rm {
    /// Names on the server
    #[arg(required = true, value_name = "NAME")]
    pub(super) names: Vec<OsString>,

    /// Directories with everything in them
    #[arg(short, long)]
    recursive: bool,

    #[command(flatten)]
    common: Common,
}

impl Mkdir {
    pub fn run(self, clients: &Clients) -> Exit {
        let (parents, condition) = match self.parents {
            true => (Parents::Make, Condition::Always),
            false => (Parents::Require, Condition::Absent),
        };
        let hints = [
            (Code::NotFound, "to make the directories above it too, say -p"),
            (Code::Exists, "to take one that is there already, say -p"),
        ];
        change_all(&self.common.at, clients, &self.names, &hints, &|name| {
            Change::Mkdir(MkdirRequest {
                id: RequestId(0),
                name,
                parents,
                mtime: None,
                mode: None,
                condition: condition.clone(),
                durability: self.common.durability.durability(),
                need: Vec::new(),
            })
        })
    }
}

impl Rm {
    pub fn run(self, clients: &Clients) -> Exit {
        let depth = if self.recursive { Depth::All } else { Depth::One };
        let hints = [(Code::NotEmpty, "to remove what is in it too, say -r")];
        change_all(&self.common.at, clients, &self.names, &hints, &|name| {
            let (id, need) = (RequestId(0), Vec::new());
            let durability = self.common.durability.durability();
            Change::Remove(Remove { id, name, depth, durability, need })
        })
    }
}

impl Mv {
    pub fn run(self, clients: &Clients) -> Exit {
        run(|| {
            let from = Remote::parse(without_slash(&self.from))?;
            let client = self.common.at.client_to_ask(clients, from.server.clone());
            let mut session = client.session()?;
            let into_top = matches!(self.to.as_bytes(), b"/" | b"." | b"./");
            let to = if into_top {
                inside(None, &from.name)?
            } else {
                let to = Remote::parse(without_slash(&self.to))?;
                let other = to.server.is_some_and(|server| !server.is_same_place(client.server()));
                if other {
                    return Err(wrong("both names have to be on the same server"));
                }
                let ends_in_slash = self.to.as_bytes().ends_with(b"/");
                match session.stat(Stat::of(to.name.clone())) {
                    Ok(info) if info.kind == Kind::Directory => inside(Some(&to.name), &from.name)?,
                    Ok(_) if ends_in_slash => {
                        let message = format!("mv {}: {} is no directory", from.name, to.name);
                        return Err(Failure::new(Class::Refused(Code::NotADirectory), message));
                    }
                    Err(failure) if ends_in_slash => return Err(failure),
                    Ok(_) | Err(_) => to.name,
                }
            };
            let (condition, hints) = match self.force {
                true => (Condition::Always, [].as_slice()),
                false => (Condition::Absent, [(Code::Exists, "to replace it, say -f")].as_slice()),
            };
            let moving = Move {
                id: RequestId(0),
                name: from.name,
                to,
                condition,
                durability: self.common.durability.durability(),
                need: Vec::new(),
            };
            session.change(Change::Move(moving)).map_err(|failure| hinted(failure, hints))?;
            Ok(Exit::Done)
        })
    }
}

fn inside(directory: Option<&Name>, name: &Name) -> Result<Name, Failure> {
    Name::inside(directory, name.last_part()).map_err(|error| wrong(&error.to_string()))
}

/// Makes one change for each name, on one connection to each server. The hints say what to do
/// about some refusals.
fn change_all(
    at: &At,
    clients: &Clients,
    words: &[OsString],
    hints: &[(Code, &str)],
    change: &dyn Fn(Name) -> Change,
) -> Exit {
    run(|| {
        let mut tally = Tally::default();
        let groups = at.by_server(clients, words)?;
        each_server(groups, &mut tally, &mut |session, names, tally| {
            let ask = |name: Name| ((), Ask::Change(change(name)));
            session.ask_all(&mut names.into_iter().map(ask), &mut |(), answer| match answer {
                Ok(_) => tally.done(),
                Err(failure) => tally.failed(&hinted(failure, hints)),
            })
        });
        Ok(tally.exit())
    })
}

fn hinted(failure: Failure, hints: &[(Code, &str)]) -> Failure {
    let hint = hints.iter().find(|(code, _)| failure.class == Class::Refused(*code));
    match hint {
        Some((_, hint)) => failure.with_hint(hint),
        None => failure,
    }
}
