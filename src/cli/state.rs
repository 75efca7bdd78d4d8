//! Where the state of a served directory is: its tokens and its key.
//!
//! A directory of its own that nobody but its owner can get at, never inside the served directory
//! nor around it: what is in it must not be fetched, and not be replaced by a put.

use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;
use ftx_disk::landing::Replace;
use ftx_protocol::{Escaped, Mode};
use rustix::io::Errno;
use rustix::process::geteuid;
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::directory::{Errand, Links, OwnDirectory};
use super::user::reaches;

/// The file in a state directory that says which directory is served with it.
const SERVED: &str = "served";

/// Which state a command is about.
#[derive(Debug, Clone, Args)]
pub struct StateOptions {
    /// The served directory. Without it and --state: the only one that has been served and wants
    /// tokens, or has some
    #[arg(long, value_name = "DIR", global = true, conflicts_with = "state")]
    of: Option<PathBuf>,

    /// The directory that the server keeps its tokens and its key in, as ftx serve --state has it
    #[arg(long, value_name = "DIR", global = true)]
    state: Option<PathBuf>,
}

impl StateOptions {
    /// `ftx token` about the same, for a person to type.
    pub fn command(&self) -> String {
        let said = [("--of", &self.of), ("--state", &self.state)];
        let said = said.into_iter().filter_map(|(option, path)| Some((option, path.as_deref()?)));
        said.fold("ftx token".to_owned(), |command, (option, path)| {
            let bytes = path.as_os_str().as_bytes();
            let quoted = shlex::bytes::try_quote(bytes).unwrap_or(bytes.into());
            format!("{command} {option} {}", Escaped(&quoted))
        })
    }
}

/// The state of a served directory.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    directory: OwnDirectory,
}

/// There is no state to use.
#[derive(Debug, Error)]
pub enum StateError {
    /// The environment does not say.
    #[error(
        "neither STATE_DIRECTORY, XDG_STATE_HOME nor HOME says where to keep tokens and keys: \
         say --state DIR"
    )]
    Nowhere,
    /// One of the two would be inside the other.
    #[error(
        "{inner} is inside {outer}: the directory that is served must not have the server's tokens \
         and keys in it, nor be among them. Say --state DIR, with a directory elsewhere"
    )]
    Nested { inner: String, outer: String },
    /// It belongs to another user.
    #[error(
        "{path} belongs to another user: run this as that user, such as with sudo -u '#{owner}'"
    )]
    NotOurs { path: String, owner: u32 },
    /// Others can get at it.
    #[error(
        "{path} is open to others (mode {mode:03o}), and the server's tokens and keys are in it: \
         chmod 700 {path} (in a unit of systemd: StateDirectoryMode=0700)"
    )]
    Open { path: String, mode: u32 },
    /// The server would not get there.
    #[error(
        "the user of --user does not get to {path}: say --state DIR, with a directory where that user does"
    )]
    OutOfReach { path: String },
    /// The system refuses.
    #[error("cannot {step} {path}: {}", ftx_disk::failure::plain(error))]
    System { step: &'static str, path: String, error: io::Error },
    /// Only directories are served.
    #[error("{path} is not a directory, and only directories are served")]
    NotADirectory { path: String },
    /// Nothing was served yet.
    #[error(
        "nothing has been served here yet that wants tokens, and none was made: a directory that only this machine \
         reaches wants none as it stands. To make the first of a directory: ftx token --of DIR add NAME --can \
         WORDS; if there are some, say where with --of DIR or --state DIR"
    )]
    None,
    /// Which one?
    #[error("several directories have been served here: say --of DIR with one of {}", .0.join(", "))]
    Several(Vec<String>),
}

impl StateError {
    fn system(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = Escaped::of(path).to_string();
        move |error| Self::System { step, path, error }
    }
}

impl State {
    /// The state for a directory that is served, which exists; made if it is not there. `asked` is
    /// what `--state` says.
    ///
    /// # Errors
    /// When there is no place for it, or the place is not safe.
    pub fn of(served: &Path, asked: Option<&Path>, errand: Errand) -> Result<Self, StateError> {
        let served = canonical_directory(served)?;
        let path = place(&served, asked)?;
        keep_apart(&path, &served)?;
        look_ahead(&path, errand)?;
        let directory = OwnDirectory::make(&path, Links::Followed, errand)
            .map_err(StateError::system("make", &path))?;
        let path = canonical(&path)?;
        keep_apart(&path, &served)?;
        check(&path, &directory, errand)?;
        let state = Self { path, directory };
        state.note(&served)?;
        Ok(state)
    }

    /// The same if it is there already: a server that needs none leaves nothing behind.
    ///
    /// # Errors
    /// When it is there, and is not safe.
    pub fn if_there(served: &Path, errand: Errand) -> Result<Option<Self>, StateError> {
        match place(&canonical_directory(served)?, None) {
            Ok(path) if path.exists() => Self::of(served, None, errand).map(Some),
            Ok(_) | Err(StateError::Nowhere) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The state that `ftx token` is about; made if it is not there, and is told by its path or by
    /// what is served.
    ///
    /// # Errors
    /// When there is none, or several, or it is not safe.
    pub fn to_change(options: &StateOptions) -> Result<Self, StateError> {
        match (&options.of, &options.state) {
            (Some(served), _) => Self::of(served, None, Errand::Own),
            (None, Some(path)) => {
                OwnDirectory::make(path, Links::Followed, Errand::Own)
                    .map_err(StateError::system("make", path))?;
                Self::there(path)
            }
            (None, None) => Self::to_look_at(options),
        }
    }

    /// As [`State::to_change`], but nothing is made.
    ///
    /// # Errors
    /// Those, and when it is not there.
    pub fn to_look_at(options: &StateOptions) -> Result<Self, StateError> {
        let path = options.state.clone().or_else(of_systemd);
        match (&options.of, path) {
            (_, Some(path)) => Self::there(&path),
            (Some(served), None) => {
                Self::there(&states()?.join(key(&canonical_directory(served)?)))
            }
            (None, None) => Self::there(&the_only_one()?),
        }
    }

    fn there(path: &Path) -> Result<Self, StateError> {
        match path.canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(StateError::None),
            result => {
                let path = result.map_err(StateError::system("find", path))?;
                let directory = OwnDirectory::open(&path, Links::Followed, Errand::Own)
                    .map_err(StateError::system("open", &path))?;
                check(&path, &directory, Errand::Own)?;
                Ok(Self { path, directory })
            }
        }
    }

    /// The directory: tokens and what they have used are in it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The same, open.
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.directory.handle()
    }

    /// The directory in it for the key that clients know the server by, and its certificate.
    pub fn identity(&self) -> PathBuf {
        self.path.join("identity")
    }

    /// The directory that is served with it, if that was noted.
    pub fn served(&self) -> Option<PathBuf> {
        noted(&self.directory)
    }

    /// Notes which directory is served with it, for those who ask without saying which.
    fn note(&self, served: &Path) -> Result<(), StateError> {
        if self.served().is_some_and(|noted| noted.as_os_str() == served.as_os_str()) {
            return Ok(());
        }
        let bytes = served.as_os_str().as_bytes();
        self.directory
            .write(SERVED, bytes, Mode::new(0o600), Replace::Yes)
            .map_err(StateError::system("write to", &self.path))
    }
}

fn noted(state: &OwnDirectory) -> Option<PathBuf> {
    let mut path = Vec::new();
    state.open_file(SERVED).ok()?.read_to_end(&mut path).ok()?;
    Some(OsString::from_vec(path).into())
}

/// Where the state for a served directory belongs.
fn place(served: &Path, asked: Option<&Path>) -> Result<PathBuf, StateError> {
    match asked.map(Path::to_owned).or_else(of_systemd) {
        Some(path) => Ok(path),
        None => Ok(states()?.join(key(served))),
    }
}

/// What systemd gives its service; the first, if there are several.
fn of_systemd() -> Option<PathBuf> {
    let paths = std::env::var_os("STATE_DIRECTORY")?;
    let first = paths.as_bytes().split(|&byte| byte == b':').next()?;
    Some(PathBuf::from(OsStr::from_bytes(first))).filter(|path| path.is_absolute())
}

/// The directory that has the state of each served directory of this user.
fn states() -> Result<PathBuf, StateError> {
    ftx_client::state_directory().map(|state| state.join("serve")).ok_or(StateError::Nowhere)
}

/// The name of a served directory's state: 16 digits of a hash of its path.
fn key(served: &Path) -> String {
    let hash: [u8; 32] = Sha256::digest(served.as_os_str().as_bytes()).into();
    data_encoding::HEXLOWER.encode(hash.first_chunk::<8>().unwrap_or(&[0; 8]))
}

/// The state of the one directory that has some, of those that are still there.
fn the_only_one() -> Result<PathBuf, StateError> {
    let states = states()?;
    let entries = match std::fs::read_dir(&states) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StateError::None),
        result => result.map_err(StateError::system("list", &states))?,
    };
    let mut found: Vec<(PathBuf, PathBuf)> = Vec::new();
    for entry in entries {
        let path = entry.map_err(StateError::system("list", &states))?.path();
        let state = OwnDirectory::open(&path, Links::Refused, Errand::Own).ok();
        let served = state.as_ref().and_then(noted).filter(|served| served.is_dir());
        found.extend(served.map(|served| (served, path)));
    }
    found.sort();
    match found.as_slice() {
        [] => Err(StateError::None),
        [(_, path)] => Ok(path.clone()),
        several => Err(StateError::Several(
            several.iter().map(|(served, _)| Escaped::of(served).to_string()).collect(),
        )),
    }
}

/// Whoever the server is going to be has to get to its state: that is looked at before anything is made, or given away.
fn look_ahead(path: &Path, errand: Errand) -> Result<(), StateError> {
    let Errand::For(user, group) = errand else { return Ok(()) };
    let absolute = path.canonicalize().or_else(|_| std::path::absolute(path));
    let absolute = absolute.map_err(StateError::system("find", path))?;
    // It may be for root alone yet. What is not there will be that user's.
    let above = absolute.ancestors().skip(1).find(|above| above.exists());
    match above.map_or(Ok(()), |above| reaches(user, group, above)) {
        Err(Errno::ACCESS) => Err(StateError::OutOfReach { path: Escaped::of(path).to_string() }),
        result => result.map_err(|error| StateError::system("look at", path)(error.into())),
    }
}

/// Neither may be inside the other, nor both the same. Compared are directories, not their names: a bind mount of the
/// outer one itself is seen through as well. One of a directory in it is not: nothing there says what else is above it.
fn keep_apart(state: &Path, served: &Path) -> Result<(), StateError> {
    let state = std::path::absolute(state).map_err(StateError::system("find", state))?;
    // What of it is there already; the rest is not made before this is sure.
    let there = state.ancestors().find_map(|path| path.canonicalize().ok());
    let Some(there) = there else { return Ok(()) };
    let nested = |inner: &Path, outer: &Path| {
        Err(StateError::Nested {
            inner: Escaped::of(inner).to_string(),
            outer: Escaped::of(outer).to_string(),
        })
    };
    if is_inside(&there, served)? {
        return nested(&state, served);
    }
    match state.is_dir() && is_inside(served, &there)? {
        true => nested(served, &state),
        false => Ok(()),
    }
}

/// Whether a directory is another one, or is below it.
pub fn is_inside(inner: &Path, outer: &Path) -> Result<bool, StateError> {
    let look = |path: &Path| path.metadata().map_err(StateError::system("look at", path));
    let same =
        |one: &Metadata, other: &Metadata| (one.dev(), one.ino()) == (other.dev(), other.ino());
    let outer = look(outer)?;
    for path in inner.ancestors() {
        if same(&look(path)?, &outer) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Nobody but the user who is, or will be, the server may get at it.
fn check(path: &Path, directory: &OwnDirectory, errand: Errand) -> Result<(), StateError> {
    let owner = directory.owner();
    if owner != errand.server() && owner != geteuid() {
        return Err(StateError::NotOurs {
            path: Escaped::of(path).to_string(),
            owner: owner.as_raw(),
        });
    }
    match directory.mode() {
        mode if mode & 0o077 == 0 => Ok(()),
        mode => Err(StateError::Open { path: Escaped::of(path).to_string(), mode }),
    }
}

/// Where what is served is.
fn canonical_directory(path: &Path) -> Result<PathBuf, StateError> {
    let path = canonical(path)?;
    match path.metadata().map_err(StateError::system("look at", &path))?.is_dir() {
        true => Ok(path),
        false => Err(StateError::NotADirectory { path: Escaped::of(&path).to_string() }),
    }
}

fn canonical(path: &Path) -> Result<PathBuf, StateError> {
    path.canonicalize().map_err(StateError::system("find", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_does_not_say_what_is_served() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let path = at("state");
        let directory = OwnDirectory::make(&path, Links::Refused, Errand::Own).unwrap();
        let state = State { path, directory };
        std::fs::write(at("other"), "/etc").unwrap();
        std::os::unix::fs::symlink(at("other"), state.path.join(SERVED)).unwrap();
        assert_eq!(state.served(), None);
        state.note(Path::new("/srv")).unwrap();
        assert_eq!(state.served(), Some(PathBuf::from("/srv")));
        assert_eq!(std::fs::read(at("other")).unwrap(), b"/etc", "what it led to is as it was");
    }
}
