//! The tokens file: what is read from it and written to it. `ftx token` writes it, the server reads it.
//!
//! It is replaced whole, so that nobody reads half of it. Whoever has taken up what is in a file
//! keeps a shared lock on it until the next one is taken up: so a writer knows when its change
//! holds, by how many servers the tokens are used. What was replaced has a name until nobody goes by it: a
//! later change finds it, and waits for it as well.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use ftx_disk::identity::Identity;
use ftx_disk::landing::{Landing, Replace};
use ftx_disk::sys::Native;
use ftx_protocol::{Durability, Escaped, Mode};
use rustix::fs::OFlags;
use rustix::io::Errno;
use thiserror::Error;

use super::line::{BadText, Line, file_time, parse_tokens, write_tokens};

/// Enough for 10,000 tokens with scopes of ordinary length.
pub(super) const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// How long a change waits for the servers to take it up; they look twenty times a second.
const TAKE_UP: Duration = Duration::from_secs(5);

/// A file that changed so lately may change again and look the same.
const COARSE_CLOCK: Duration = Duration::from_millis(100);

/// The number in the name of the part file of `tokens`. One of a run that was killed is replaced.
const TOKENS_PART: u64 = 1;

/// How the name begins of a file that was replaced while servers may go by it; its inode follows, which no other file
/// has as long as this one is there.
const OLD: &str = "tokens.old.";

/// To open what has the name: not what a link leads to, and a FIFO keeps nobody waiting.
const ITSELF: i32 = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits().cast_signed();

/// The tokens cannot be read or changed.
#[derive(Debug, Error)]
pub enum TokensError {
    /// The system refuses.
    #[error("cannot {step} {path}: {error}")]
    System {
        /// What was being done.
        step: &'static str,
        /// The file.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// Others than the owner can get at a file, or at the directory that it is in.
    #[error(
        "{path} is open to others (mode {mode:03o}), so what it says cannot be trusted; \
         look whether it is as it should be, then: chmod go= {path}"
    )]
    Open {
        /// The file or directory.
        path: String,
        /// Its permissions.
        mode: u32,
    },
    /// It is no file. A link is none either: who can change the directory, but not what is outside,
    /// could have that read and made in the name of whoever runs this, such as root.
    #[error("{path} is not a file, but a link or something else: remove it")]
    NotAFile {
        /// What it is not.
        path: String,
    },
    /// It is larger than such a file gets.
    #[error("{path} has more than 8 MiB")]
    TooLarge {
        /// The file.
        path: String,
    },
    /// It says something that is not understood; then nothing in it counts.
    #[error("{path}: {error}; nothing in it counts until it is put right")]
    Text {
        /// The file.
        path: String,
        /// Where, and what.
        error: BadText,
    },
}

impl TokensError {
    pub(super) fn system(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = Escaped::of(path).to_string();
        move |error| Self::System { step, path, error }
    }
}

/// Whether a change holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Every server that uses the file goes by it now.
    ByAll,
    /// A server has not looked yet; it will.
    NotYet,
}

/// The file in which the tokens of a served directory stand.
#[derive(Debug, Clone)]
pub struct TokensFile {
    state: PathBuf,
    path: PathBuf,
}

impl TokensFile {
    /// The one in this state directory.
    pub fn of_state(state: &Path) -> Self {
        Self { state: state.to_owned(), path: state.join("tokens") }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What it says; nothing if it is not there.
    ///
    /// # Errors
    /// When it cannot be read, is open to others, or says something that is not understood.
    pub fn read(&self) -> Result<Vec<Line>, TokensError> {
        self.open()?.map_or_else(|| Ok(Vec::new()), |opened| opened.read(&self.path))
    }

    /// Changes what it says, durably, and waits until that holds. Nobody else changes it meanwhile.
    ///
    /// # Errors
    /// Those of `act`, and when it cannot be read or written; then it is as it was. Only if the
    /// last sync fails it has changed.
    pub fn change<T, E: From<TokensError>>(
        &self,
        act: impl FnOnce(&mut Vec<Line>) -> Result<T, E>,
    ) -> Result<(T, Taken), E> {
        // Until it holds: who comes next would wait for this file to be let go, which nobody may have taken up.
        let _alone = self.alone()?;
        let old = self.open()?;
        let was = match &old {
            Some(opened) => Some(opened.read(&self.path)?),
            None => None,
        };
        let mut lines = was.clone().unwrap_or_default();
        let answer = act(&mut lines)?;
        if was.as_ref() == Some(&lines) {
            return Ok((answer, Taken::ByAll));
        }
        let text = write_tokens(&lines).map_err(|error| TokensError::Text {
            path: Escaped::of(&self.path).to_string(),
            error,
        })?;
        let mut replaced = self.replaced()?;
        let aside = old.map(|old| self.set_aside(old));
        if let Err(error) = replace(&self.path, TOKENS_PART, &text) {
            // It has its own name still.
            if let Some(Replaced { name, .. }) = &aside {
                let _ = std::fs::remove_file(name);
            }
            return Err(error.into());
        }
        replaced.extend(aside);
        Ok((answer, wait_until_let_go(replaced)))
    }

    /// Makes the file if it is not there, so that there is one to keep a lock on.
    pub(super) fn make(&self) -> Result<(), TokensError> {
        match self.open()? {
            Some(_) => Ok(()),
            None => self.change(|_| Ok(())).map(|((), _)| ()),
        }
    }

    /// The files that earlier changes replaced, and did not see let go.
    fn replaced(&self) -> Result<Vec<Replaced>, TokensError> {
        let failed = || TokensError::system("look at", &self.state);
        let mut replaced = Vec::new();
        for entry in self.state.read_dir().map_err(failed())? {
            let entry = entry.map_err(failed())?;
            if entry.file_name().as_bytes().starts_with(OLD.as_bytes()) {
                let name = entry.path();
                let opened = open_private(&name)?;
                replaced.extend(opened.map(|Opened { file, .. }| Replaced { file, name }));
            }
        }
        Ok(replaced)
    }

    /// Gives the file that is about to be replaced a second name.
    fn set_aside(&self, Opened { file, version }: Opened) -> Replaced {
        let name = self.state.join(format!("{OLD}{}", version.inode.number));
        // It may have that already, of a change that failed. Where there are no links, this change waits for it
        // and no other does.
        let _ = std::fs::hard_link(&self.path, &name);
        Replaced { file, name }
    }

    /// Excludes other writers until it is dropped.
    fn alone(&self) -> Result<File, TokensError> {
        let path = self.state.join("tokens.lock");
        let file = open_lock(&path)?;
        file.lock().map_err(TokensError::system("lock", &path))?;
        Ok(file)
    }

    /// Opens it, if it is there.
    pub(super) fn open(&self) -> Result<Option<Opened>, TokensError> {
        open_private(&self.path)
    }
}

/// A file that only its owner can get at.
#[derive(Debug)]
pub(super) struct Opened {
    file: File,
    version: Identity,
}

fn cannot_open(error: io::Error, path: &Path) -> TokensError {
    match Errno::from_io_error(&error) {
        Some(Errno::LOOP) => TokensError::NotAFile { path: Escaped::of(path).to_string() },
        _ => TokensError::system("open", path)(error),
    }
}

/// Opens a file that is there to be locked; makes it, if it is not.
pub(super) fn open_lock(path: &Path) -> Result<File, TokensError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(ITSELF);
    options.open(path).map_err(|error| cannot_open(error, path))
}

/// Opens a file of the state directory, if it is there.
pub(super) fn open_private(path: &Path) -> Result<Option<Opened>, TokensError> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(ITSELF);
    let file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.map_err(|error| cannot_open(error, path))?,
    };
    let metadata = file.metadata().map_err(TokensError::system("look at", path))?;
    if !metadata.is_file() {
        return Err(TokensError::NotAFile { path: Escaped::of(path).to_string() });
    }
    // What is read is no secret, but who could write it could let himself in; and a file that others
    // read is a sign that something went wrong, as ssh has it with its keys.
    check_mode(path, &metadata, 0o077)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let above = directory.metadata().map_err(TokensError::system("look at", directory))?;
    check_mode(directory, &above, 0o022)?;
    Ok(Some(Opened { file, version: Identity::of_metadata(&metadata) }))
}

fn check_mode(path: &Path, metadata: &Metadata, wrong: u32) -> Result<(), TokensError> {
    let mode = metadata.permissions().mode() & 0o777;
    match mode & wrong {
        0 => Ok(()),
        _ => Err(TokensError::Open { path: Escaped::of(path).to_string(), mode }),
    }
}

/// Replaces a file of the state directory, durably.
pub(super) fn replace(path: &Path, part: u64, text: &[u8]) -> Result<(), TokensError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().as_bytes();
    let write = || {
        let mut landing = Landing::create(Native, directory, part)?;
        if let Err(error) = landing.write(text) {
            landing.discard();
            return Err(error);
        }
        let (mode, now) = (Mode::new(0o600), file_time(SystemTime::now()));
        landing.publish(name, mode, now, Replace::Yes, Durability::Full)
    };
    write().map_err(TokensError::system("write", path))
}

impl Opened {
    pub(super) fn text(&self, path: &Path) -> Result<Vec<u8>, TokensError> {
        let mut text = Vec::new();
        let mut limited = (&self.file).take(FILE_BYTES_MAX.saturating_add(1));
        limited.read_to_end(&mut text).map_err(TokensError::system("read", path))?;
        match text.len() as u64 > FILE_BYTES_MAX {
            true => Err(TokensError::TooLarge { path: Escaped::of(path).to_string() }),
            false => Ok(text),
        }
    }

    pub(super) fn read(&self, path: &Path) -> Result<Vec<Line>, TokensError> {
        parse_tokens(&self.text(path)?)
            .map_err(|error| TokensError::Text { path: Escaped::of(path).to_string(), error })
    }

    /// What it was when it was opened.
    pub(super) fn version(&self) -> &Identity {
        &self.version
    }

    /// Says that what is in it is used, until it is dropped. Not when it is being replaced.
    pub(super) fn hold(&self) -> Holds {
        match self.file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Holds::No,
            // Where a file system has no locks, a writer does not wait.
            Ok(()) | Err(TryLockError::Error(_)) => Holds::Yes,
        }
    }
}

/// A file that was replaced, by which a server may still go.
#[derive(Debug)]
struct Replaced {
    file: File,
    name: PathBuf,
}

/// Waits until nobody uses what is in them, and takes their names away then. Not for ever: a server may hang.
fn wait_until_let_go(mut replaced: Vec<Replaced>) -> Taken {
    let end = Instant::now() + TAKE_UP;
    let mut taken = Taken::ByAll;
    loop {
        replaced.retain(|Replaced { file, name }| {
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => return true,
                Err(TryLockError::Error(_)) => taken = Taken::NotYet,
                Ok(()) => {}
            }
            // One that stays is let go, which the next change sees.
            let _ = std::fs::remove_file(name);
            false
        });
        if replaced.is_empty() {
            return taken;
        }
        if Instant::now() >= end {
            return Taken::NotYet;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a file is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Yes,
    No,
}

/// Whether the file may have changed since without a trace: the clock of a file system is
/// coarse.
pub(super) fn youth(version: &Identity) -> Youth {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let changed = Duration::new(
        u64::try_from(version.changed.seconds()).unwrap_or(0),
        version.changed.nanoseconds(),
    );
    match now.checked_sub(changed) {
        Some(past) if past >= COARSE_CLOCK => Youth::Settled,
        Some(_) | None => Youth::Young,
    }
}

/// Whether a file's version can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Youth {
    Young,
    Settled,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::usage_file::UsageFile;
    use super::*;

    #[test]
    fn links_in_the_state_directory_are_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let state = at("state");
        std::fs::create_dir(&state).unwrap();
        for name in ["tokens", "tokens.lock", "usage"] {
            let outside = at(name);
            symlink(&outside, state.join(name)).unwrap();
            let tokens = TokensFile::of_state(&state);
            let refused = || match name {
                "usage" => UsageFile::of_state(&state).read().map(|_| ()),
                _ => tokens.make(),
            };
            // Where the link leads nowhere, nothing is made there.
            assert!(matches!(refused(), Err(TokensError::NotAFile { .. })), "{name}");
            assert!(!outside.exists(), "{name}");
            std::fs::write(&outside, "of somebody else").unwrap();
            std::fs::set_permissions(&outside, PermissionsExt::from_mode(0o600)).unwrap();
            assert!(matches!(refused(), Err(TokensError::NotAFile { .. })), "{name}");
            std::fs::remove_file(state.join(name)).unwrap();
        }
        TokensFile::of_state(&state).make().unwrap();
    }
}
