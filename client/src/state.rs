//! What a transfer has to remember over the end of the process: one small file each, under the
//! user's state directory, gone at success.
//!
//! The first line says what is being transferred; the following ones are states of the running
//! digest at points of the grid, appended as they are passed. A torn last line is normal. The file
//! is locked while a process works on it.

mod stale;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use data_encoding::HEXLOWER;
use ftx_disk::hash::Saved;
use ftx_disk::identity::{Identity, Inode};
use ftx_disk::sys::{Disk, Native};
use ftx_protocol::{Algorithm, Durability, FileTime, Mode, Name, TransferId, Version};
use serde::{Deserialize, Serialize};

use crate::address::ServerAddress;
use crate::failure::plain;
use crate::locked;
use crate::partials::{self, About};
use crate::short_hash::hash_of;
use crate::xdg;
use crate::{Notice, Observer};

/// Appended states between two syncs of the file: what a power cut of this machine may cost.
const SYNC_EVERY: u32 = 4;

/// What is being transferred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Subject {
    Put {
        transfer: TransferId,
        source: Identity,
        /// Absolute: where a later process looks whether the source is still there.
        path: OsString,
        /// What was asked for. An older version did not note it.
        #[serde(default)]
        durability: Durability,
    },
    Get {
        version: Version,
        size: u64,
        mtime: FileTime,
        mode: Mode,
        part: String,
        inode: Inode,
        boot: Option<String>,
    },
}

/// One line after the first.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    /// The running digest at a point of the grid.
    At(Saved),
    /// Everything before this offset was synced to the local disk.
    Synced(u64),
}

/// An open state file, locked.
#[derive(Debug)]
pub(crate) struct State {
    file: File,
    path: PathBuf,
    about: About,
    unsynced: u32,
    says: Says,
}

/// Whether a later process can go by a state file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    WhatIs,
    /// Nothing: it could not be written. Its lock is kept all the same, so that nobody else works on the
    /// transfer, and on its part file, before this is over.
    Nothing,
}

/// What an earlier process left.
#[derive(Debug)]
pub(crate) struct Earlier {
    pub(crate) subject: Subject,
    pub(crate) saved: Vec<Saved>,
    pub(crate) synced: u64,
}

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Put,
    Get,
}

impl Direction {
    /// What the names of its state files begin with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Put => "put-",
            Self::Get => "get-",
        }
    }
}

/// What tells one transfer from another.
pub(crate) struct Key<'a> {
    pub(crate) direction: Direction,
    pub(crate) server: &'a ServerAddress,
    pub(crate) name: &'a Name,
    pub(crate) path: &'a Path,
    pub(crate) algorithm: Algorithm,
}

impl State {
    /// Opens the state of a transfer, making it if it is not there. `None` when another process is
    /// working on the same one.
    pub(crate) fn open(key: &Key<'_>) -> io::Result<Option<(Self, Option<Earlier>)>> {
        Self::open_in(&xdg::prepared_state_directory()?, key)
    }

    fn open_in(directory: &Path, key: &Key<'_>) -> io::Result<Option<(Self, Option<Earlier>)>> {
        let path = directory.join(key.file_name()?);
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600);
        let Some(mut file) = locked::open(&path, &options)? else { return Ok(None) };
        let mut text = String::new();
        let earlier = match file.read_to_string(&mut text) {
            Ok(_) => parse(&text),
            // Not ours, or damaged: it says nothing.
            Err(error) if error.kind() == ErrorKind::InvalidData => None,
            Err(error) => return Err(error),
        };
        stale::prune(directory, SystemTime::now());
        // A torn last line would swallow the next one.
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n")?;
        }
        Ok(Some((
            Self { file, path, about: key.about(), unsynced: 0, says: Says::WhatIs },
            earlier,
        )))
    }

    /// Forgets what an earlier process left of a transfer that turns out to be over, unless another one works on it.
    pub(crate) fn forget(key: &Key<'_>) {
        let Some(directory) = xdg::state_directory() else { return };
        // One that cannot be removed is found out when it is used.
        if let Ok(name) = key.file_name()
            && let path = directory.join(name)
            && let Ok(Some(_held)) = locked::open(&path, File::options().read(true))
        {
            partials::forget(&path);
            let _ = std::fs::remove_file(&path);
        }
    }

    /// A number that is the same for the same transfer, whatever process works on it.
    pub(crate) fn number(&self) -> Option<u64> {
        let name = self.path.file_name()?.to_str()?;
        let (_, digits) = name.split_once('-')?;
        u64::from_str_radix(digits.get(..16)?, 16).ok()
    }

    /// Begins anew with this subject.
    pub(crate) fn begin(&mut self, subject: &Subject) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.append(subject)?;
        self.file.sync_all()?;
        if let Subject::Get { part, .. } = subject {
            let target = Path::new(&self.about.path);
            self.about.part = Some(target.with_file_name(part).into_os_string());
        }
        partials::note(&self.path, &self.about, Durability::None)
    }

    /// Adds a point to go on from.
    pub(crate) fn passed(&mut self, saved: &Saved) -> io::Result<()> {
        self.append(&Line::At(saved.clone()))?;
        self.unsynced = self.unsynced.saturating_add(1);
        if self.unsynced >= SYNC_EVERY {
            self.unsynced = 0;
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// Notes that bytes before this offset were synced to the local disk, and syncs that.
    pub(crate) fn synced(&mut self, at: u64) -> io::Result<()> {
        self.append(&Line::Synced(at))?;
        self.unsynced = 0;
        self.file.sync_data()
    }

    /// Whether a later process can go on with the transfer.
    pub(crate) fn is_kept(&self) -> bool {
        self.says == Says::WhatIs
    }

    /// What it says would not be true any more.
    fn give_up(&mut self) {
        self.says = Says::Nothing;
        // Needs no room. If it fails all the same, whoever goes by it finds out, as of any old state.
        let _ = self.file.set_len(0);
    }

    /// The transfer is over.
    pub(crate) fn remove(self) {
        partials::forget(&self.path);
        // A state that stays says what is not true any more, and is found out when it is used.
        let _ = std::fs::remove_file(&self.path);
    }

    fn append<T: Serialize>(&mut self, line: &T) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.file.write_all(&bytes)
    }
}

/// Notes something, where there is a state. One that cannot be written is given up.
pub(crate) fn note(
    state: &mut Option<State>,
    observer: &mut Observer<'_>,
    write: impl FnOnce(&mut State) -> io::Result<()>,
) {
    if let Some(state) = state
        && state.is_kept()
        && let Err(error) = write(state)
    {
        state.give_up();
        warn_stateless(observer, &error);
    }
}

/// Says that only this process can resume.
pub(crate) fn warn_stateless(observer: &mut Observer<'_>, error: &io::Error) {
    let cause = plain(error);
    observer(Notice::Warning(format!(
        "cannot keep state for resuming after a crash of this program: {cause}"
    )));
}

impl Key<'_> {
    fn about(&self) -> About {
        let path = std::path::absolute(self.path).unwrap_or_else(|_| self.path.to_owned());
        About {
            action: match self.direction {
                Direction::Put => "put".to_owned(),
                Direction::Get => partials::GET.to_owned(),
            },
            server: self.server.to_string(),
            name: self.name.to_string(),
            path: path.into_os_string(),
            part: None,
            directory: None,
        }
    }

    fn file_name(&self) -> io::Result<String> {
        let path = std::path::absolute(self.path)?;
        let prefix = self.direction.prefix();
        let hash = hash_of(&[
            prefix.as_bytes(),
            self.server.to_string().as_bytes(),
            self.name.as_bytes(),
            path.as_os_str().as_bytes(),
            self.algorithm.as_str().as_bytes(),
        ]);
        Ok(format!("{prefix}{}", HEXLOWER.encode(&hash)))
    }
}

/// The states of digests that a state file of these bytes gives. For tests that make them up.
#[doc(hidden)]
pub fn saved_in(bytes: &[u8]) -> Vec<Saved> {
    let earlier = std::str::from_utf8(bytes).ok().and_then(parse);
    earlier.map(|earlier| earlier.saved).unwrap_or_default()
}

fn parse(text: &str) -> Option<Earlier> {
    let mut lines = text.lines();
    let subject = serde_json::from_str(lines.next()?).ok()?;
    let mut earlier = Earlier { subject, saved: Vec::new(), synced: 0 };
    for line in lines {
        match serde_json::from_str(line) {
            Ok(Line::At(saved)) => earlier.saved.push(saved),
            Ok(Line::Synced(at)) => earlier.synced = earlier.synced.max(at),
            Err(_) => {}
        }
    }
    Some(earlier)
}

/// Tells one boot of this machine from the next.
pub(crate) fn boot_id() -> Option<String> {
    Native.boot_id()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ftx_disk::hash::Running;

    use super::stale::{STALE, prune};
    use super::*;

    pub(super) fn got() -> Subject {
        Subject::Get {
            version: Version::parse("v").unwrap(),
            size: 5,
            mtime: FileTime::new(1, 0).unwrap(),
            mode: Mode::new(0o600),
            part: "p".into(),
            inode: Inode { device: 1, number: 2 },
            boot: None,
        }
    }

    /// What another version of this program has left is to be found.
    #[test]
    fn a_state_has_the_name_that_it_always_had() {
        let name = Name::parse(b"a/b").unwrap();
        let key = Key {
            direction: Direction::Get,
            server: &"box:1".parse().unwrap(),
            name: &name,
            path: Path::new("/x/b"),
            algorithm: Algorithm::Sha256,
        };
        assert_eq!(key.file_name().unwrap(), "get-3a35d5a23ac2f83645c07b218f79c528");
    }

    #[test]
    fn a_torn_or_foreign_state_says_nothing_that_is_not_true() {
        assert!(parse("").is_none());
        assert!(parse("not ours\n").is_none());
        let subject = got();
        let saved = Running::new(Algorithm::Sha256).save().unwrap();
        let first = serde_json::to_string(&subject).unwrap();
        let line = serde_json::to_string(&Line::At(saved)).unwrap();
        let torn = &line[..line.len() - 3];
        let earlier = parse(&format!("{first}\n{line}\n{torn}")).unwrap();
        assert_eq!(earlier.subject, subject);
        assert_eq!(earlier.saved.len(), 1);
    }

    #[test]
    fn a_state_of_an_older_version_is_gone_on_with() {
        let home = tempfile::tempdir().unwrap();
        let (state, _) = left(home.path(), "a");
        let text = std::fs::read_to_string(state).unwrap();
        let older = text.replace(",\"durability\":\"full\"", "");
        assert_ne!(older, text);
        assert_eq!(parse(&older).unwrap().subject, parse(&text).unwrap().subject);
    }

    /// Another process that took it up would write to the part file of this one.
    #[test]
    fn a_state_that_cannot_be_written_says_nothing_and_keeps_others_away() {
        let home = tempfile::tempdir().unwrap();
        let (server, name) = (ServerAddress::default(), Name::parse(b"a").unwrap());
        let key = Key {
            direction: Direction::Get,
            server: &server,
            name: &name,
            path: Path::new("/here/a"),
            algorithm: Algorithm::Sha256,
        };
        let open = || State::open_in(home.path(), &key).unwrap();
        let (mut state, _) = open().unwrap();
        state.begin(&got()).unwrap();
        let mut state = Some(state);
        let mut warned = 0;
        let mut observer = |_: Notice| warned += 1;
        for _ in 0..3 {
            note(&mut state, &mut observer, |_| Err(ErrorKind::StorageFull.into()));
        }
        assert_eq!(warned, 1);
        assert!(state.as_ref().is_some_and(|state| !state.is_kept()));
        assert!(open().is_none());
        drop(state);
        assert!(open().is_some_and(|(_, earlier)| earlier.is_none()));
    }

    /// Once the state has no name any more, the same command can begin anew, and note it.
    #[test]
    #[cfg(target_os = "linux")]
    fn the_note_goes_before_the_state() {
        let home = tempfile::tempdir().unwrap();
        let (server, name) = (ServerAddress::default(), Name::parse(b"a").unwrap());
        let path = Path::new("/here/a");
        let algorithm = Algorithm::Sha256;
        let key = Key { direction: Direction::Get, server: &server, name: &name, path, algorithm };
        let (mut state, _) = State::open_in(home.path(), &key).unwrap().unwrap();
        state.begin(&got()).unwrap();
        let removed = partials::tests::removed_in_order(home.path(), || state.remove());
        assert!(matches!(&removed[..], [note, state] if *note == format!("{state}.about")));
        let (_, source) = left(home.path(), "gone");
        std::fs::remove_file(source).unwrap();
        std::fs::write(home.path().join("put-gone.about"), "a note").unwrap();
        let later = SystemTime::now() + STALE + Duration::from_secs(60);
        let removed = partials::tests::removed_in_order(home.path(), || prune(home.path(), later));
        assert_eq!(removed, ["put-gone.about", "put-gone"]);
    }

    /// The state of a put of a file, and the file.
    pub(super) fn left(directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let path = directory.join(format!("{name}.bin"));
        std::fs::write(&path, name).unwrap();
        let source = Identity::of_metadata(&std::fs::metadata(&path).unwrap());
        let transfer = TransferId([7; 16]);
        let durability = Durability::Full;
        let subject = Subject::Put { transfer, source, path: path.clone().into(), durability };
        let state = directory.join(format!("put-{name}"));
        std::fs::write(&state, serde_json::to_string(&subject).unwrap() + "\n").unwrap();
        (state, path)
    }
}
