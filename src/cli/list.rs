//! `ftx ls` and `ftx du`.

use std::ffi::OsString;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::ops::ControlFlow;

use clap::Args;
use ftx_client::{Class, Client, Code, Depth, Entry, Failure, Kind, Name, Unread};
use indicatif::HumanBytes;
use serde_json::json;

use super::ask::shown_time;
use super::exit::Exit;
use super::remote::{Clients, Place, Printed, Tally, Where, run, shown};
use super::report::{counted, say};

/// So many names are waited for, to be sorted.
const SORTED_MAX: usize = 10_000;

/// List a directory.
///
/// One name a line, sorted, but for -r and for directories of more than 10,000 names, which are
/// shown as the server reads them. Directories end in /. Without a name, the top.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ftx ls photos\n  ftx ls -lbr backup | sort -n -k 2\n  ftx ls -r --json | jq -r 'select(.size > 1e9) | .name'"
)]
pub struct Ls {
    /// Directories, or files, on the server
    #[arg(value_name = "NAME")]
    pub(super) names: Vec<OsString>,

    /// Permissions, size and last modification too
    #[arg(short, long)]
    long: bool,

    /// Everything below it too
    #[arg(short, long)]
    recursive: bool,

    /// Sizes in bytes
    #[arg(short, long)]
    bytes: bool,

    #[command(flatten)]
    at: Where,
}

/// The lines of one directory, on their way to stdout.
struct Screen<'a> {
    ls: &'a Ls,
    listed: Option<&'a Name>,
    /// What is still to be said above them.
    heading: Option<Vec<u8>>,
    /// What is to be sorted. `None` where lines are printed as they come.
    gathered: Option<Vec<Entry>>,
    out: BufWriter<StdoutLock<'static>>,
}

impl<'a> Screen<'a> {
    fn new(ls: &'a Ls, listed: Option<&'a Name>) -> Self {
        let several = ls.names.len() > 1 && !ls.at.json;
        let name = || listed.map_or_else(|| b"/".to_vec(), |name| shown(name.as_bytes()));
        Self {
            ls,
            listed,
            heading: several.then(|| [&name()[..], b":\n"].concat()),
            gathered: (!ls.recursive).then(Vec::new),
            out: BufWriter::new(std::io::stdout().lock()),
        }
    }

    fn take(&mut self, entries: Vec<Entry>) -> io::Result<()> {
        match &mut self.gathered {
            Some(gathered) => {
                gathered.extend(entries);
                if gathered.len() <= SORTED_MAX {
                    return Ok(());
                }
                let entries = self.gathered.take().unwrap_or_default();
                self.print(&entries)
            }
            None => self.print(&entries),
        }
    }

    fn end(&mut self) -> io::Result<()> {
        let mut entries = self.gathered.take().unwrap_or_default();
        entries.sort_by(|one, other| one.name.as_bytes().cmp(other.name.as_bytes()));
        self.print(&entries)
    }

    fn print(&mut self, entries: &[Entry]) -> io::Result<()> {
        if let Some(heading) = self.heading.take() {
            self.out.write_all(&heading)?;
        }
        for entry in entries {
            self.out.write_all(&self.ls.line(self.listed, entry))?;
            self.out.write_all(b"\n")?;
        }
        self.out.flush()
    }
}

/// Say how much is in directories: bytes, files, directories.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ftx du photos/2025 photos/2026")]
pub struct Du {
    /// Directories on the server; without one, all of it
    #[arg(value_name = "NAME")]
    pub(super) names: Vec<OsString>,

    /// Sizes in bytes
    #[arg(short, long)]
    bytes: bool,

    #[command(flatten)]
    at: Where,
}

/// What is listed: a directory, or the top of a server.
fn places(
    at: &Where,
    clients: &Clients,
    names: &[OsString],
) -> Result<Vec<(Client, Option<Name>)>, Failure> {
    if names.is_empty() {
        return Ok(vec![(at.client(clients, None), None)]);
    }
    let client = |place: Place| (at.client(clients, place.server), place.name);
    names.iter().map(|word| Place::parse(word).map(client)).collect()
}

/// Goes to one place after the other, whatever fails.
fn each(
    at: &Where,
    clients: &Clients,
    names: &[OsString],
    act: impl Fn(&Client, Option<&Name>, &mut Tally) -> Result<(), Failure>,
) -> Exit {
    run(|| {
        let mut tally = Tally::default();
        for (client, name) in places(at, clients, names)? {
            match act(&client, name.as_ref(), &mut tally) {
                Ok(()) => tally.done(),
                Err(failure) => tally.failed(&failure),
            }
        }
        Ok(tally.exit())
    })
}

impl Ls {
    pub fn run(self, clients: &Clients) -> Exit {
        each(&self.at, clients, &self.names, |client, name, tally| self.one(client, name, tally))
    }

    fn one(&self, client: &Client, name: Option<&Name>, tally: &mut Tally) -> Result<(), Failure> {
        let mut session = client.session()?;
        let depth = if self.recursive { Depth::All } else { Depth::One };
        let mut screen = Screen::new(self, name);
        let listed = session.list(name, depth, &mut |entries| {
            for unread in &entries.unread {
                tell_unread(unread, tally);
            }
            match tally.print_with(|| screen.take(entries.entries)) {
                Printed::Yes => ControlFlow::Continue(()),
                Printed::NobodyReads => ControlFlow::Break(()),
            }
        });
        if listed.is_ok() {
            tally.print_with(|| screen.end());
        }
        drop(screen);
        match (listed, name) {
            (Err(failure), Some(name)) if failure.class == Class::Refused(Code::NotADirectory) => {
                let info = client.stat(name)?;
                let entry = Entry {
                    name: name.clone(),
                    kind: info.kind,
                    size: info.size,
                    mtime: info.mtime,
                    mode: info.mode,
                };
                tally.print(&self.line(None, &entry));
                Ok(())
            }
            (listed, _) => listed,
        }
    }

    fn line(&self, listed: Option<&Name>, entry: &Entry) -> Vec<u8> {
        let Entry { name, kind, size, mtime, mode } = entry;
        if self.at.json {
            return json!({
                "name": name, "kind": kind, "size": size, "mtime": mtime, "mode": mode
            })
            .to_string()
            .into_bytes();
        }
        let mut path = shown(below(listed, name));
        if *kind == Kind::Directory {
            path = coloured(path);
            path.push(b'/');
        }
        if !self.long {
            return path;
        }
        let size = match (kind, self.bytes) {
            (Kind::File, true) => size.to_string(),
            (Kind::File, false) => HumanBytes(*size).to_string(),
            _ => "-".to_owned(),
        };
        let time = shown_time(mtime.seconds());
        let line = format!("{}{} {size:>12} {time}  ", letter(*kind), rights(mode.bits()));
        [line.as_bytes(), &path].concat()
    }
}

impl Du {
    pub fn run(self, clients: &Clients) -> Exit {
        each(&self.at, clients, &self.names, |client, name, tally| self.one(client, name, tally))
    }

    fn one(&self, client: &Client, name: Option<&Name>, tally: &mut Tally) -> Result<(), Failure> {
        let (mut bytes, mut files, mut directories) = (0_u64, 0_u64, 0_u64);
        let listed = client.session()?.list(name, Depth::All, &mut |entries| {
            for unread in &entries.unread {
                tell_unread(unread, tally);
            }
            for entry in &entries.entries {
                match entry.kind {
                    Kind::File => {
                        files = files.saturating_add(1);
                        bytes = bytes.saturating_add(entry.size);
                    }
                    Kind::Directory => directories = directories.saturating_add(1),
                    Kind::Symlink | Kind::Special => {}
                }
            }
            ControlFlow::Continue(())
        });
        match (listed, name) {
            (Err(failure), Some(name)) if failure.class == Class::Refused(Code::NotADirectory) => {
                bytes = client.stat(name)?.size;
                files = 1;
            }
            (listed, _) => listed?,
        }
        let line = if self.at.json {
            json!({
                "name": name, "bytes": bytes, "files": files, "directories": directories
            })
            .to_string()
            .into_bytes()
        } else {
            let size = if self.bytes { bytes.to_string() } else { HumanBytes(bytes).to_string() };
            let files = counted(files, "file", "files");
            let directories = counted(directories, "directory", "directories");
            let counts = format!("{size}  {files}  {directories}  ");
            [counts.as_bytes(), &shown(name.map_or(b"/", Name::as_bytes))].concat()
        };
        tally.print(&line);
        Ok(())
    }
}

fn tell_unread(unread: &Unread, tally: &mut Tally) {
    let name = unread.name.as_ref().map_or_else(|| "/".to_owned(), ToString::to_string);
    let message = ftx_protocol::Escaped(unread.message.as_bytes()).to_string();
    say(&format!("cannot list all of {name} ({}): {message}", unread.code));
    tally.count(Exit::Refused);
}

/// The path of an entry below what was listed.
fn below<'a>(listed: Option<&Name>, name: &'a Name) -> &'a [u8] {
    let bytes = name.as_bytes();
    listed
        .and_then(|listed| bytes.strip_prefix(listed.as_bytes()))
        .and_then(|rest| rest.strip_prefix(b"/"))
        .unwrap_or(bytes)
}

/// Directories stand out where somebody looks.
fn coloured(path: Vec<u8>) -> Vec<u8> {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain || !std::io::stdout().is_terminal() {
        return path;
    }
    [b"\x1b[1;34m", path.as_slice(), b"\x1b[0m"].concat()
}

fn letter(kind: Kind) -> char {
    match kind {
        Kind::File => '-',
        Kind::Directory => 'd',
        Kind::Symlink => 'l',
        Kind::Special => 's',
    }
}

fn rights(mode: u32) -> String {
    (0..9)
        .rev()
        .map(|bit| if mode >> bit & 1 == 0 { '-' } else { ['x', 'w', 'r'][bit % 3] })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_written_as_everywhere() {
        assert_eq!(rights(0o754), "rwxr-xr--");
        assert_eq!(rights(0o001), "--------x");
    }
}
