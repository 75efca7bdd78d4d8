//! What a transfer has to remember over the end of the process: one small file each, under the
//! user's state directory, gone at success.
//!
//! The first line says what is being transferred; the following ones are states of the running
//! digest at points of the grid, appended as they are passed. A torn last line is normal. The file
//! is locked while a process works on it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ftx_disk::hash::Saved;
use ftx_disk::identity::{Identity, Inode};
use ftx_disk::sys::{Disk, Native};
use ftx_protocol::{Algorithm, FileTime, Mode, Name, TransferId, Version};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::address::ServerAddress;
use crate::failure::plain;
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
    unsynced: u32,
}

/// What an earlier process left.
#[derive(Debug)]
pub(crate) struct Earlier {
    pub(crate) subject: Subject,
    pub(crate) saved: Vec<Saved>,
    pub(crate) synced: u64,
}

/// What tells one transfer from another.
pub(crate) struct Key<'a> {
    pub(crate) direction: &'static str,
    pub(crate) server: &'a ServerAddress,
    pub(crate) name: &'a Name,
    pub(crate) path: &'a Path,
    pub(crate) algorithm: Algorithm,
}

impl State {
    /// Opens the state of a transfer, making it if it is not there. `None` when another process is
    /// working on the same one.
    pub(crate) fn open(key: &Key<'_>) -> io::Result<Option<(Self, Option<Earlier>)>> {
        let directory = prepared_directory()?;
        let path = directory.join(key.file_name()?);
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut text = String::new();
        let earlier = match file.read_to_string(&mut text) {
            Ok(_) => parse(&text),
            // Not ours, or damaged: it says nothing.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
            Err(error) => return Err(error),
        };
        // A torn last line would swallow the next one.
        if !text.is_empty() && !text.ends_with('\n') {
            file.write_all(b"\n")?;
        }
        Ok(Some((Self { file, path, unsynced: 0 }, earlier)))
    }

    /// A number that is the same for the same transfer, whatever process works on it.
    pub(crate) fn token(&self) -> Option<u64> {
        let name = self.path.file_name()?.to_str()?;
        let (_, digits) = name.split_once('-')?;
        u64::from_str_radix(digits.get(..16)?, 16).ok()
    }

    /// Begins anew with this subject.
    pub(crate) fn begin(&mut self, subject: &Subject) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.append(subject)?;
        self.file.sync_all()
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

    /// Notes that bytes before this offset were synced to the local disk.
    pub(crate) fn synced(&mut self, at: u64) -> io::Result<()> {
        self.append(&Line::Synced(at))
    }

    /// The transfer is over.
    pub(crate) fn remove(self) {
        // A state that stays says what is not true any more, and is found out when it is used.
        let _ = std::fs::remove_file(&self.path);
    }

    fn append<T: Serialize>(&mut self, line: &T) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.file.write_all(&bytes)
    }
}

/// Notes something, where there is a state. One that cannot be written is given up: what it says
/// would not be true any more.
pub(crate) fn note(
    state: &mut Option<State>,
    observer: &mut Observer<'_>,
    write: impl FnOnce(&mut State) -> io::Result<()>,
) {
    if let Some(open) = state
        && let Err(error) = write(open)
    {
        *state = None;
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
    fn file_name(&self) -> io::Result<String> {
        use std::os::unix::ffi::OsStrExt;
        let path = std::path::absolute(self.path)?;
        let mut hash = Sha256::new();
        for field in [
            self.direction.as_bytes(),
            self.server.to_string().as_bytes(),
            self.name.as_bytes(),
            path.as_os_str().as_bytes(),
            self.algorithm.as_str().as_bytes(),
        ] {
            hash.update((field.len() as u64).to_le_bytes());
            hash.update(field);
        }
        let digits: String =
            hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("{}-{digits}", self.direction))
    }
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

/// The directory for states, made if it is not there.
pub(crate) fn prepared_directory() -> io::Result<PathBuf> {
    let directory = directory().ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "neither XDG_STATE_HOME nor HOME is set")
    })?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    Ok(directory)
}

/// `$XDG_STATE_HOME/ftx`, else `~/.local/state/ftx`.
fn directory() -> Option<PathBuf> {
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

    #[test]
    fn a_torn_or_foreign_state_says_nothing_that_is_not_true() {
        assert!(parse("").is_none());
        assert!(parse("not ours\n").is_none());
        let subject = Subject::Get {
            version: Version::parse("v").unwrap(),
            size: 5,
            mtime: FileTime::new(1, 0).unwrap(),
            mode: Mode::new(0o600),
            part: "p".into(),
            inode: Inode { device: 1, number: 2 },
            boot: None,
        };
        let saved = Running::new(Algorithm::Sha256).save().unwrap();
        let first = serde_json::to_string(&subject).unwrap();
        let line = serde_json::to_string(&Line::At(saved)).unwrap();
        let torn = &line[..line.len() - 3];
        let earlier = parse(&format!("{first}\n{line}\n{torn}")).unwrap();
        assert_eq!(earlier.subject, subject);
        assert_eq!(earlier.saved.len(), 1);
    }
}
