//! What a transfer has to remember over the end of the process: one small file each, under the
//! user's state directory, gone at success.
//!
//! The first line says what is being transferred; the following ones are states of the running
//! digest at points of the grid, appended as they are passed. A torn last line is normal. The file
//! is locked while a process works on it.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, ErrorKind, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

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
use crate::{Notice, Observer};

/// Appended states between two syncs of the file: what a power cut of this machine may cost.
const SYNC_EVERY: u32 = 4;

/// A state that nobody has touched for this long, and with which nobody can go on, is removed: that
/// of a put whose source is not what it was (of a tree: is gone), that of a get whose part file is gone.
const STALE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The longest first line: a path of 4,096 bytes takes four times as many in it.
const FIRST_LINE_BYTES_MAX: u64 = 64 * 1024;

/// How many states of others one transfer looks at, so that it never waits for an old crowd of them.
const LOOKED_AT_MAX: usize = 64;

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
        Self::open_in(&prepared_directory()?, key)
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
        prune(directory, SystemTime::now());
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
        let Some(directory) = directory() else { return };
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

/// Removes states that were left long ago and cannot be gone on with. Which of many are
/// looked at is left to chance, so that none is passed over for ever.
fn prune(directory: &Path, now: SystemTime) {
    // What cannot be looked at or removed now is there at the next transfer too.
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let is_state = |name: &OsString| {
        let name = name.as_bytes();
        let begins = |direction: Direction| name.starts_with(direction.prefix().as_bytes());
        // Not the log of a tree that is got, which is written in another way and goes with its job.
        let is_get = begins(Direction::Get) && !name.starts_with(b"get-tree-");
        (begins(Direction::Put) || is_get) && !name.contains(&b'.')
    };
    let mut names: Vec<OsString> =
        entries.flatten().map(|entry| entry.file_name()).filter(is_state).collect();
    if names.len() > LOOKED_AT_MAX {
        let chance = getrandom::u32().ok().and_then(|number| usize::try_from(number).ok());
        let first = chance.and_then(|number| number.checked_rem(names.len())).unwrap_or(0);
        names.rotate_left(first);
    }
    for name in names.iter().take(LOOKED_AT_MAX) {
        let path = directory.join(name);
        if let Ok(Some(_held)) = hold_stale(&path, now) {
            partials::forget(&path);
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Opens a state that is to be removed, and keeps others from it. `None` when it is to stay.
fn hold_stale(path: &Path, now: SystemTime) -> io::Result<Option<File>> {
    if !is_stale(path, now)? {
        return Ok(None);
    }
    let file = File::open(path)?;
    // Somebody may have taken it up since it was looked at, and be done with it again.
    let is_still = file.try_lock().is_ok()
        && locked::has_name(&file, path)?
        && is_old(&file.metadata()?, now)?;
    Ok(is_still.then_some(file))
}

fn is_old(metadata: &std::fs::Metadata, now: SystemTime) -> io::Result<bool> {
    Ok(now.duration_since(metadata.modified()?).unwrap_or_default() > STALE)
}

fn is_stale(path: &Path, now: SystemTime) -> io::Result<bool> {
    let metadata = std::fs::symlink_metadata(path)?;
    if !is_old(&metadata, now)? || !metadata.is_file() {
        return Ok(false);
    }
    let file = File::open(path)?;
    // Not as who works on it: one that begins now is to find it free.
    if file.try_lock_shared().is_err() {
        // A process is working on it.
        return Ok(false);
    }
    // The log of a tree is written in another way.
    if path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"put-tree-")) {
        let source = partials::source_of(path).map(std::fs::metadata);
        return Ok(source.is_none_or(|source| source.is_err_and(|error| says_gone(&error))));
    }
    // What comes behind it may be long, and does not matter here.
    let mut first = Vec::new();
    io::BufReader::new(file.take(FIRST_LINE_BYTES_MAX)).read_until(b'\n', &mut first)?;
    let (source, path) = match serde_json::from_slice(&first) {
        Ok(Subject::Put { source, path, .. }) => (source, path),
        Ok(Subject::Get { .. }) => return Ok(!partials::has_part(path)),
        // Damaged: nobody goes on with it.
        Err(_) => return Ok(true),
    };
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(!Identity::of_metadata(&metadata).is_same_after_reboot(&source)),
        Err(error) => Ok(says_gone(&error)),
    }
}

fn says_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
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

/// `$XDG_STATE_HOME/ftx`, else `~/.local/state/ftx`, made if it is not there; for its user only.
///
/// # Errors
/// When nothing says where it is, or it cannot be made.
pub fn prepared_directory() -> io::Result<PathBuf> {
    let directory = directory().ok_or_else(|| {
        io::Error::new(ErrorKind::NotFound, "neither XDG_STATE_HOME nor HOME is set")
    })?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    Ok(directory)
}

/// `$XDG_STATE_HOME/ftx`, else `~/.local/state/ftx`: where this user's side of ftx keeps what it remembers. `None` where
/// neither says where.
pub fn directory() -> Option<PathBuf> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("ftx"))
}

/// Tells one boot of this machine from the next.
pub(crate) fn boot_id() -> Option<String> {
    Native.boot_id()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ftx_disk::hash::Running;

    fn got() -> Subject {
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
    fn left(directory: &Path, name: &str) -> (PathBuf, PathBuf) {
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

    #[test]
    fn old_states_of_puts_go_once_their_source_is_gone_or_another_one() {
        let home = tempfile::tempdir().unwrap();
        let (same, _) = left(home.path(), "same");
        let (gone, source) = left(home.path(), "gone");
        std::fs::remove_file(source).unwrap();
        let (changed, source) = left(home.path(), "changed");
        std::fs::write(source, "another size").unwrap();
        let (busy, source) = left(home.path(), "busy");
        std::fs::remove_file(source).unwrap();
        let lock = File::open(&busy).unwrap();
        lock.try_lock().unwrap();
        let damaged = home.path().join("put-damaged");
        std::fs::write(&damaged, b"\xff\n").unwrap();
        let tree = home.path().join("get-tree-1");
        std::fs::write(&tree, "a log\n").unwrap();
        let there = |now: SystemTime| {
            prune(home.path(), now);
            [&same, &busy, &tree, &gone, &changed, &damaged].map(|path| path.exists())
        };
        let now = SystemTime::now();
        assert_eq!(there(now), [true; 6]);
        assert_eq!(there(now + STALE - Duration::from_secs(60)), [true; 6]);
        let later = now + STALE + Duration::from_secs(60);
        assert_eq!(there(later), [true, true, true, false, false, false]);
        drop(lock);
        assert_eq!(there(later), [true, false, true, false, false, false]);
    }

    #[test]
    fn old_logs_of_trees_that_were_put_go_once_their_source_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let source = home.path().join("tree");
        std::fs::create_dir(&source).unwrap();
        let log = home.path().join("put-tree-1");
        std::fs::write(&log, [0; 64]).unwrap();
        let about = About {
            action: "put -r".to_owned(),
            server: String::new(),
            name: String::new(),
            path: source.clone().into(),
            part: None,
            directory: None,
        };
        partials::note(&log, &about, Durability::None).unwrap();
        let later = SystemTime::now() + STALE + Duration::from_secs(60);
        prune(home.path(), later);
        assert!(log.exists());
        std::fs::remove_dir(source).unwrap();
        prune(home.path(), SystemTime::now());
        assert!(log.exists());
        prune(home.path(), later);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_state_is_looked_at_beside_others_who_only_look() {
        let home = tempfile::tempdir().unwrap();
        let (gone, source) = left(home.path(), "gone");
        std::fs::remove_file(source).unwrap();
        let looks = File::open(&gone).unwrap();
        looks.try_lock_shared().unwrap();
        let later = SystemTime::now() + STALE + Duration::from_secs(60);
        assert!(is_stale(&gone, later).unwrap());
        assert!(hold_stale(&gone, later).unwrap().is_none(), "it is not removed under them");
        drop(looks);
        assert!(hold_stale(&gone, later).unwrap().is_some());
    }

    #[test]
    fn old_states_of_gets_go_once_their_part_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let subject = serde_json::to_string(&got()).unwrap() + "\n";
        let [kept, gone] = ["get-kept", "get-gone"].map(|name| home.path().join(name));
        for state in [&kept, &gone] {
            std::fs::write(state, &subject).unwrap();
            let part = state.with_extension("part");
            std::fs::write(&part, "some").unwrap();
            let about = About {
                action: partials::GET.to_owned(),
                server: String::new(),
                name: String::new(),
                path: OsString::new(),
                part: Some(part.into()),
                directory: None,
            };
            partials::note(state, &about, Durability::None).unwrap();
        }
        std::fs::remove_file(gone.with_extension("part")).unwrap();
        let now = SystemTime::now();
        prune(home.path(), now);
        assert!(kept.exists() && gone.exists());
        prune(home.path(), now + STALE + Duration::from_secs(60));
        assert!(kept.exists() && !gone.exists());
    }

    #[test]
    fn a_put_looks_at_a_bounded_number_of_old_states_and_gets_round_to_all() {
        let home = tempfile::tempdir().unwrap();
        let all = LOOKED_AT_MAX + 10;
        for number in 0..all {
            let (_, source) = left(home.path(), &number.to_string());
            std::fs::remove_file(source).unwrap();
        }
        let count = || std::fs::read_dir(home.path()).unwrap().count();
        let later = SystemTime::now() + STALE + Duration::from_secs(60);
        prune(home.path(), later);
        assert_eq!(count(), all - LOOKED_AT_MAX);
        prune(home.path(), later);
        assert_eq!(count(), 0);
    }
}
