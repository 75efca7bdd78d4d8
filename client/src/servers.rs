//! The servers that a user knows: which key each has to have, and with which token it is logged in
//! to. One small file under the user's state directory, which nobody else may read.
//!
//! It fails closed: a file that others can read, or that has anything in it that is not understood,
//! is no file, and the server is not spoken to. No message has anything of what is in it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ftx_channel::Pin;
use ftx_disk::landing::{Landing, Replace};
use ftx_disk::sys::Native;
use ftx_protocol::{Durability, FileTime, Mode, Token};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::address::ServerAddress;
use crate::failure::{Class, Failure, shown};
use crate::xdg;

/// The file's name, and that of the lock which whoever changes it holds.
const FILE: &str = "servers";
const LOCK: &str = "servers.lock";

/// Servers that are remembered: far more than a person has.
const SERVERS_MAX: usize = 4_096;

/// Bytes of the file: a line is less than 512, with the longest name of a host.
const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// Permission bits of which a file with secrets has none: those of the group, and of all others.
const OTHERS: u32 = 0o077;

/// Tells the part file of the list from others. The lock is held while there is one, so that one of
/// a run that was killed is replaced.
const PART: u64 = 0x7365_7276_6572_7300;

/// By what a server is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trusted {
    /// By its key.
    Pin(Pin),
    /// By a certificate for its name that the system's roots accept.
    Roots,
}

/// A server that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownServer {
    /// By what.
    pub trusted: Trusted,
    /// With what one logs in. Shows nothing of itself.
    pub token: Option<Token>,
}

/// The list of known servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Servers {
    directory: PathBuf,
}

/// A line of the file. What an older program does not know may be a restriction: it refuses it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    server: String,
    trust: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<Token>,
}

const ROOTS: &str = "roots";

impl Line {
    fn of(server: &ServerAddress, entry: KnownServer) -> Self {
        let trust = match entry.trusted {
            Trusted::Pin(pin) => pin.to_string(),
            Trusted::Roots => ROOTS.to_owned(),
        };
        Self { server: server.to_string(), trust, token: entry.token }
    }

    fn is_about(&self, server: &ServerAddress) -> bool {
        self.server.eq_ignore_ascii_case(&server.to_string())
    }

    fn trusted(&self) -> Option<Trusted> {
        match self.trust.as_str() {
            ROOTS => Some(Trusted::Roots),
            pin => pin.parse().ok().map(Trusted::Pin),
        }
    }
}

impl Servers {
    /// The list of this user. `None` where the environment does not say where one could be.
    pub fn of_user() -> Option<Self> {
        xdg::state_directory().map(|directory| Self { directory })
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// What is known about a server.
    ///
    /// # Errors
    /// When the file is not understood whole, or others can read it.
    pub fn find(&self, server: &ServerAddress) -> Result<Option<KnownServer>, Failure> {
        let lines = self.read()?;
        Ok(lines.into_iter().find(|line| line.is_about(server)).and_then(|line| {
            let trusted = line.trusted()?;
            Some(KnownServer { trusted, token: line.token })
        }))
    }

    /// Knows a server from now on with this token, or with none. One that is known by something else stays so: that may
    /// have been remembered since somebody looked.
    ///
    /// # Errors
    /// When it is known by something else, or the file cannot be read, or not written.
    pub fn remember(&self, server: &ServerAddress, entry: KnownServer) -> Result<(), Failure> {
        let trusted = entry.trusted;
        let changed = self.change(|lines| {
            if listed(lines, server).is_some_and(|listed| listed != trusted) {
                return Changed::No;
            }
            lines.retain(|line| !line.is_about(server));
            lines.push(Line::of(server, entry));
            Changed::Yes
        })?;
        match changed {
            Changed::Yes => Ok(()),
            Changed::No => Err(known_otherwise(server)),
        }
    }

    /// Knows a server from now on by this, without a token, unless it is known: then all stays as it is. Returns by what
    /// it is known.
    ///
    /// # Errors
    /// When the file cannot be read, or not written.
    pub fn meet(&self, server: &ServerAddress, trusted: Trusted) -> Result<Trusted, Failure> {
        let mut known = trusted;
        self.change(|lines| match listed(lines, server) {
            Some(listed) => {
                known = listed;
                Changed::No
            }
            None => {
                lines.push(Line::of(server, KnownServer { trusted, token: None }));
                Changed::Yes
            }
        })?;
        Ok(known)
    }

    /// Forgets a server, and the token for it.
    ///
    /// # Errors
    /// When the file cannot be read, or not written.
    pub fn forget(&self, server: &ServerAddress) -> Result<Changed, Failure> {
        if self.read()?.is_empty() {
            return Ok(Changed::No);
        }
        self.change(|lines| {
            let before = lines.len();
            lines.retain(|line| !line.is_about(server));
            if lines.len() == before { Changed::No } else { Changed::Yes }
        })
    }

    fn read(&self) -> Result<Vec<Line>, Failure> {
        let path = self.path();
        let failed = |error: &io::Error| Failure::local("cannot read", &path, error);
        let mut options = OpenOptions::new();
        // So that a FIFO of that name does not keep us waiting.
        options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
        let file = match options.open(&path) {
            Ok(file) => file,
            // Nor can there be one where there is no directory.
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                return Ok(Vec::new());
            }
            Err(error) => return Err(failed(&error)),
        };
        let metadata = file.metadata().map_err(|error| failed(&error))?;
        let owner = metadata.uid();
        let is_ours = owner == rustix::process::geteuid().as_raw() || owner == 0;
        if !metadata.is_file() {
            return Err(unusable(&path, "it is no file"));
        }
        if !is_ours || metadata.mode() & OTHERS != 0 {
            let hint = format!("make it yours alone: chmod 600 {}", shown(&path));
            return Err(unusable(&path, "others can read or change it").with_hint(&hint));
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|error| failed(&error))?;
        parse(&bytes).map_err(|why| {
            unusable(&path, &why).with_hint("mend it, or remove it and log in again with ftx login")
        })
    }

    fn change(&self, act: impl FnOnce(&mut Vec<Line>) -> Changed) -> Result<Changed, Failure> {
        let path = self.path();
        let failed = |error: &io::Error| Failure::local("cannot write", &path, error);
        let lock = self.lock().map_err(|error| failed(&error))?;
        let mut lines = self.read()?;
        let changed = act(&mut lines);
        if changed == Changed::Yes {
            if lines.len() > SERVERS_MAX {
                let why = format!("it would have more than {SERVERS_MAX} servers");
                return Err(
                    unusable(&path, &why).with_hint("ftx login --forget ADDRESS takes one out")
                );
            }
            self.write(&lines).map_err(|error| failed(&error))?;
        }
        drop(lock);
        Ok(changed)
    }

    /// One writer at a time. The lock goes with the file.
    fn lock(&self) -> io::Result<File> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.directory.join(LOCK))?;
        lock.lock()?;
        Ok(lock)
    }

    /// The new list takes the name of the old one when it is whole and on the disk.
    fn write(&self, lines: &[Line]) -> io::Result<()> {
        let mut landing = Landing::create(Native, &self.directory, PART)?;
        let written = lines.iter().try_for_each(|line| {
            let mut bytes = serde_json::to_vec(line)?;
            bytes.push(b'\n');
            landing.write(&bytes)
        });
        if let Err(error) = written {
            landing.discard();
            return Err(error);
        }
        landing.publish(FILE.as_bytes(), Mode::new(0o600), now(), Replace::Yes, Durability::Full)
    }
}

/// Whether there was something to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// There was.
    Yes,
    /// It was so before.
    No,
}

/// By what the lines know a server.
fn listed(lines: &[Line], server: &ServerAddress) -> Option<Trusted> {
    lines.iter().find(|line| line.is_about(server)).and_then(Line::trusted)
}

fn known_otherwise(server: &ServerAddress) -> Failure {
    let why = format!("{server} is known here by something else, since a moment ago");
    let anew =
        format!("if you know why: ftx login --forget {server}, and log in with the new line");
    Failure::new(Class::Untrusted, why).with_hint(&anew)
}

fn unusable(path: &Path, why: &str) -> Failure {
    Failure::new(
        Class::Local,
        format!("cannot use {}, the list of known servers: {why}", shown(path)),
    )
}

/// The lines. What is wrong with one is not said in the words of the parser: they may have a token
/// in them.
fn parse(bytes: &[u8]) -> Result<Vec<Line>, String> {
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("it is too large".to_owned());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is damaged".to_owned())?;
    let mut lines: Vec<Line> = Vec::new();
    for (number, line) in (1_usize..).zip(text.lines()) {
        let wrong = || format!("line {number} is damaged, or of a later version of ftx");
        let line: Line = serde_json::from_str(line).map_err(|_| wrong())?;
        let server: ServerAddress = line.server.parse().map_err(|_| wrong())?;
        if line.trusted().is_none() || server.pin().is_some() {
            return Err(wrong());
        }
        if lines.iter().any(|before| before.is_about(&server)) {
            return Err(format!("line {number} is about a server that is there already"));
        }
        lines.push(line);
        if lines.len() > SERVERS_MAX {
            return Err(format!("it has more than {SERVERS_MAX} servers"));
        }
    }
    Ok(lines)
}

fn now() -> FileTime {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    FileTime::nearest(i64::try_from(now.as_secs()).unwrap_or(0), now.subsec_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const PIN: &str = "sha256:5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";
    const TOKEN: &str = "ftx1_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    fn list() -> (tempfile::TempDir, Servers) {
        let home = tempfile::tempdir().unwrap();
        let servers = Servers { directory: home.path().join("state/ftx") };
        (home, servers)
    }

    fn server(text: &str) -> ServerAddress {
        text.parse().unwrap()
    }

    fn entry(token: Option<&str>) -> KnownServer {
        let token = token.map(|token| token.parse().unwrap());
        KnownServer { trusted: Trusted::Pin(PIN.parse().unwrap()), token }
    }

    #[test]
    fn what_is_remembered_is_found_until_it_is_forgotten() {
        let (_home, servers) = list();
        let (one, other) = (server("box:1"), server("[::1]:2"));
        assert_eq!(servers.find(&one).unwrap(), None);
        assert_eq!(servers.forget(&one).unwrap(), Changed::No);
        assert!(!servers.directory.exists(), "to look makes nothing");
        servers.remember(&one, entry(None)).unwrap();
        let roots = KnownServer { trusted: Trusted::Roots, token: Some(TOKEN.parse().unwrap()) };
        servers.remember(&other, roots.clone()).unwrap();
        servers.remember(&one, entry(Some(TOKEN))).unwrap();
        assert_eq!(servers.find(&server("BOX:1")).unwrap(), Some(entry(Some(TOKEN))));
        let pinned = server(&format!("box:1#{PIN}"));
        assert_eq!(servers.find(&pinned).unwrap(), Some(entry(Some(TOKEN))));
        assert_eq!(servers.find(&other).unwrap(), Some(roots));
        assert_eq!(servers.find(&server("box:2")).unwrap(), None);
        assert_eq!(servers.forget(&one).unwrap(), Changed::Yes);
        assert_eq!(servers.forget(&one).unwrap(), Changed::No);
        assert_eq!(servers.find(&one).unwrap(), None);
        assert!(servers.find(&other).unwrap().is_some());
    }

    #[test]
    fn what_was_remembered_since_somebody_looked_stays() {
        let (_home, servers) = list();
        let (one, by_pin) = (server("box:1"), Trusted::Pin(PIN.parse().unwrap()));
        let other = Trusted::Pin(PIN.replace("5a", "6b").parse().unwrap());
        assert_eq!(servers.meet(&one, by_pin).unwrap(), by_pin);
        servers.remember(&one, entry(Some(TOKEN))).unwrap();
        for trusted in [by_pin, other, Trusted::Roots] {
            assert_eq!(servers.meet(&one, trusted).unwrap(), by_pin);
            assert_eq!(servers.find(&one).unwrap(), Some(entry(Some(TOKEN))));
        }
        for trusted in [other, Trusted::Roots] {
            let failure = servers.remember(&one, KnownServer { trusted, token: None }).unwrap_err();
            assert_eq!(failure.class, Class::Untrusted);
            assert!(failure.to_string().contains("--forget box:1"), "{failure}");
            assert_eq!(servers.find(&one).unwrap(), Some(entry(Some(TOKEN))));
        }
    }

    #[test]
    fn the_list_is_for_its_owner_alone() {
        let (_home, servers) = list();
        servers.remember(&server("box:1"), entry(Some(TOKEN))).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&servers.directory), 0o700);
        assert_eq!(mode(&servers.path()), 0o600);
        assert_eq!(mode(&servers.directory.join(LOCK)), 0o600);
        let mut there: Vec<_> = std::fs::read_dir(&servers.directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        there.sort();
        assert_eq!(there, [FILE, LOCK], "nothing else stays");
        for bad in [0o640, 0o604, 0o660, 0o602] {
            std::fs::set_permissions(servers.path(), PermissionsExt::from_mode(bad)).unwrap();
            let failure = servers.find(&server("box:1")).unwrap_err();
            assert_eq!(failure.class, Class::Local);
            assert!(failure.to_string().contains("chmod 600"), "{failure}");
            servers.remember(&server("box:1"), entry(None)).unwrap_err();
            servers.forget(&server("box:1")).unwrap_err();
        }
    }

    #[test]
    fn what_is_no_file_is_no_list_and_keeps_nobody_waiting() {
        let (_home, servers) = list();
        servers.remember(&server("box:1"), entry(None)).unwrap();
        std::fs::remove_file(servers.path()).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, servers.path(), rustix::fs::Mode::RUSR).unwrap();
        for failure in [
            servers.find(&server("box:1")).unwrap_err(),
            servers.remember(&server("box:1"), entry(None)).unwrap_err(),
        ] {
            assert!(failure.to_string().contains("it is no file"), "{failure}");
        }
    }

    #[test]
    fn a_list_that_is_not_understood_whole_knows_nothing_and_shows_nothing() {
        let (_home, servers) = list();
        servers.remember(&server("box:1"), entry(Some(TOKEN))).unwrap();
        let good = std::fs::read_to_string(servers.path()).unwrap();
        assert!(good.ends_with('\n') && good.contains(TOKEN));
        for bad in [
            good.replace("\"token\"", "\"only\""),
            good.replace('}', ",\"until\":5}"),
            good.replace(PIN, "anything"),
            good.replace("box:1", "box:1/x"),
            good.replace("ftx1_", "ftx1_="),
            format!("{good}{good}"),
            format!("{good}{{"),
            format!("\n{good}"),
            "\0".to_owned(),
        ] {
            std::fs::write(servers.path(), &bad).unwrap();
            for failure in [
                servers.find(&server("box:1")).unwrap_err(),
                servers.remember(&server("box:2"), entry(None)).unwrap_err(),
            ] {
                assert_eq!(failure.class, Class::Local);
                assert!(!failure.to_string().contains("AAEC"), "{bad}: {failure}");
            }
            assert_eq!(
                std::fs::read_to_string(servers.path()).unwrap(),
                bad,
                "it is left as it is"
            );
        }
        let full: String = (0..SERVERS_MAX)
            .map(|number| good.replace("box:1", &format!("box{number}:1")))
            .collect();
        assert!(full.len() as u64 <= FILE_BYTES_MAX);
        std::fs::write(servers.path(), &full).unwrap();
        servers.find(&server("box:9")).unwrap();
        servers.remember(&server("box:9"), entry(None)).unwrap_err();
        std::fs::write(servers.path(), [good.as_str(), &" ".repeat(3_000_000)].concat()).unwrap();
        servers.find(&server("box:9")).unwrap_err();
    }

    #[test]
    fn those_who_remember_at_the_same_time_lose_nothing() {
        let (_home, servers) = list();
        std::thread::scope(|scope| {
            for number in 1..=8_u16 {
                let servers = &servers;
                scope.spawn(move || {
                    servers.remember(&server(&format!("box:{number}")), entry(None)).unwrap();
                });
            }
        });
        for number in 1..=8_u16 {
            assert!(servers.find(&server(&format!("box:{number}"))).unwrap().is_some(), "{number}");
        }
    }

    #[test]
    fn an_entry_does_not_print_its_token() {
        let shown = format!("{:?}", entry(Some(TOKEN)));
        assert!(shown.contains("ftx1_…") && !shown.contains("AAEC"), "{shown}");
    }
}
