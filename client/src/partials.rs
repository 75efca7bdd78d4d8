//! What interrupted transfers have left on this machine.
//!
//! Beside each state there is a note of what it is the state of, so that somebody who has forgotten
//! can find out, and clean up.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ftx_disk::sys::{Native, sync_above};
use ftx_protocol::Durability;
use serde::{Deserialize, Serialize};

use crate::failure::{Class, Failure, shown};
use crate::sink::{directory, remove_left};
use crate::tree::{Private, forget_beside, left};
use crate::{locked, xdg};

/// What notes are called.
const ABOUT: &str = "about";

/// The action of a get of one file.
pub(crate) const GET: &str = "get";

/// What an interrupted transfer was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// `put`, `get`, `put -r` or `get -r`.
    pub action: String,
    /// The server.
    pub server: String,
    /// The name there, as it may be shown.
    pub name: String,
    /// The file or directory here.
    pub path: OsString,
    /// The hidden file or directory here that has what has arrived.
    pub part: Option<OsString>,
    /// Which directory it is that a tree comes into: its number, and when it was made, because the next one often
    /// gets the number. `None` until it is made.
    pub directory: Option<(u64, Option<SystemTime>)>,
}

/// Something that was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// What it was.
    pub about: About,
    /// Bytes of the hidden file, if there is one.
    pub part_bytes: Option<u64>,
    /// How long ago it was worked on.
    pub age: Duration,
    /// Whether somebody is working on it now.
    pub work: Working,
    state: PathBuf,
}

/// Whether a process works on a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Working {
    /// One does.
    Now,
    /// It was interrupted.
    NotNow,
}

/// What was left on this machine, by this user; the oldest first.
///
/// # Errors
/// When the directory of states cannot be read.
pub fn leftovers() -> Result<Vec<Leftover>, Failure> {
    let failed = |error: &io::Error| Failure::local("cannot read", Path::new("the states"), error);
    let directory = match xdg::prepared_state_directory() {
        Ok(directory) => directory,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(&error)),
    };
    let entries = std::fs::read_dir(&directory).map_err(|error| failed(&error))?;
    let mut found: Vec<Leftover> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == ABOUT))
        .filter_map(|path| look(&path))
        .collect();
    found.sort_by_key(|leftover| std::cmp::Reverse(leftover.age));
    Ok(found)
}

fn look(note: &Path) -> Option<Leftover> {
    let state = note.with_extension("");
    let mut about = about_of(&state)?;
    let needs_part = about.action == GET && about.part.is_some();
    // Of what came whole, nothing hidden is left.
    let part = about.part.take().filter(|part| is_of(&about, Path::new(part)));
    about.part = part;
    let metadata = match std::fs::metadata(&state) {
        Ok(metadata) => metadata,
        Err(_) => {
            // Of a state that is gone.
            let _ = std::fs::remove_file(note);
            return None;
        }
    };
    let age = SystemTime::now().duration_since(metadata.modified().ok()?).unwrap_or_default();
    let part = about.part.as_ref().and_then(|part| std::fs::metadata(part).ok());
    let part_bytes = part.filter(std::fs::Metadata::is_file).map(|part| part.len());
    // A shared lock, which keeps nobody from beginning.
    let work = match File::open(&state).ok()?.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Working::Now,
        Ok(()) | Err(TryLockError::Error(_)) => Working::NotNow,
    };
    if needs_part && about.part.is_none() && work == Working::NotNow {
        remove_without_part(&state);
        return None;
    }
    Some(Leftover { about, part_bytes, age, work, state })
}

/// Whether something hidden is there, and of this transfer. A server may have its own by now where a tree came.
fn is_of(about: &About, part: &Path) -> bool {
    match part.symlink_metadata() {
        Ok(metadata) => !metadata.is_dir() || left::whose(about, part) == Private::Ours,
        Err(_) => false,
    }
}

/// Removes a part file. One that another user fills by now, under the same name, stays.
fn remove_file(part: &Path) -> io::Result<()> {
    let name = part.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
    match remove_left(&Native, directory(part), name) {
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes a state of which somebody has taken away what there was to go on with; unless it has been taken up
/// since that was seen.
fn remove_without_part(state: &Path) {
    if let Ok(Some(_held)) = locked::open(state, File::options().read(true))
        && !has_part(state)
    {
        forget(state);
        let _ = std::fs::remove_file(state);
    }
}

impl Leftover {
    /// Removes it: its state, and what has arrived.
    ///
    /// # Errors
    /// When somebody works on it by now, something cannot be removed, or what has arrived is where a server, or
    /// another get, has its own by now.
    pub fn remove(&self) -> Result<(), Failure> {
        let gone = |path: &Path, result: io::Result<()>| match result {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Failure::local("cannot remove", path, &error))
            }
            _ => Ok(()),
        };
        // Held until all of it is gone: nobody begins with what is being removed.
        let _held = match locked::open(&self.state, File::options().read(true)) {
            Ok(Some(held)) => held,
            Ok(None) => {
                let path = shown(Path::new(&self.about.path));
                let message = format!("cannot remove what is left of {path}: somebody works on it");
                return Err(Failure::new(Class::Local, message));
            }
            // Somebody has finished it, or removed it.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Failure::local("cannot remove", &self.state, &error)),
        };
        if let Some(part) = self.about.part.as_ref().map(Path::new) {
            match std::fs::symlink_metadata(part) {
                Ok(metadata) if metadata.is_dir() => left::remove(&self.about, part)?,
                Ok(_) => gone(part, remove_file(part))?,
                Err(error) => gone(part, Err(error))?,
            }
        }
        forget_beside(&self.state);
        let note = note_of(&self.state);
        gone(&note, std::fs::remove_file(&note))?;
        gone(&self.state, std::fs::remove_file(&self.state))
    }
}

/// Notes what a state is the state of. What was noted before is there until this is.
pub(crate) fn note(state: &Path, about: &About, durability: Durability) -> io::Result<()> {
    let (note, new) = (note_of(state), new_note_of(state));
    let mut file = File::create(&new)?;
    let lasts = durability > Durability::None;
    file.write_all(&serde_json::to_vec(about)?)?;
    if lasts {
        file.sync_all()?;
    }
    std::fs::rename(&new, &note)?;
    if lasts { sync_above(&note) } else { Ok(()) }
}

/// Whether the hidden file that a state is about is there. One whose name is not known is not.
pub(crate) fn has_part(state: &Path) -> bool {
    let part = about_of(state).and_then(|about| about.part);
    part.is_some_and(|part| Path::new(&part).symlink_metadata().is_ok())
}

/// What was being put, if that is known; of several sources the first.
pub(crate) fn source_of(state: &Path) -> Option<PathBuf> {
    about_of(state).map(|about| about.path.into())
}

/// What a note says.
pub(crate) fn about_of(state: &Path) -> Option<About> {
    serde_json::from_slice(&std::fs::read(note_of(state)).ok()?).ok()
}

/// The state is about to go: once it has no name, another run can make and note one of the same name.
pub(crate) fn forget(state: &Path) {
    // A note without its state is removed when it is come upon. One that was not finished says nothing.
    let _ = std::fs::remove_file(new_note_of(state));
    let _ = std::fs::remove_file(note_of(state));
}

fn note_of(state: &Path) -> PathBuf {
    let mut name = state.as_os_str().to_owned();
    name.push(".");
    name.push(ABOUT);
    PathBuf::from(name)
}

/// A note that is being written.
fn new_note_of(state: &Path) -> PathBuf {
    let mut name = note_of(state).into_os_string();
    name.push(".new");
    PathBuf::from(name)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A get that was interrupted, as it is found.
    fn left(home: &Path) -> (PathBuf, PathBuf) {
        let (state, part) = (home.join("get-1"), home.join(".ftx-0000000000000001.part"));
        std::fs::write(&state, "a state").unwrap();
        std::fs::write(&part, "some").unwrap();
        let about = About {
            action: GET.to_owned(),
            server: "box:1".to_owned(),
            name: "a".to_owned(),
            path: home.join("a").into(),
            part: Some(part.clone().into()),
            directory: None,
        };
        note(&state, &about, Durability::None).unwrap();
        (state, part)
    }

    fn works_on(state: &Path) -> File {
        locked::open(state, File::options().read(true)).unwrap().unwrap()
    }

    #[test]
    fn whoever_looks_is_not_taken_for_one_who_works_on_it() {
        let home = tempfile::tempdir().unwrap();
        let (state, _) = left(home.path());
        let found = || look(&note_of(&state)).unwrap().work;
        let looks = File::open(&state).unwrap();
        looks.try_lock_shared().unwrap();
        assert_eq!(found(), Working::NotNow);
        drop(looks);
        let _works = works_on(&state);
        assert_eq!(found(), Working::Now);
    }

    #[test]
    fn what_somebody_has_taken_up_since_it_was_listed_is_not_removed() {
        let home = tempfile::tempdir().unwrap();
        let (state, part) = left(home.path());
        let leftover = look(&note_of(&state)).unwrap();
        let works = works_on(&state);
        leftover.remove().unwrap_err();
        assert!([&state, &part, &note_of(&state)].iter().all(|path| path.exists()));
        drop(works);
        leftover.remove().unwrap();
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }

    /// Its own went with the end of the job, which a crash kept from removing its log.
    #[test]
    fn what_a_server_has_by_now_where_a_tree_came_is_not_listed_nor_removed() {
        let home = tempfile::tempdir().unwrap();
        let (state, private) = (home.path().join("get-tree-1"), home.path().join(".ftx"));
        std::fs::create_dir_all(private.join("staging")).unwrap();
        std::fs::write(private.join("lock"), "").unwrap();
        std::fs::write(&state, "a log").unwrap();
        let about = About {
            action: "get -r".to_owned(),
            server: "box:1".to_owned(),
            name: "a".to_owned(),
            path: home.path().into(),
            part: Some(private.clone().into()),
            directory: None,
        };
        note(&state, &about, Durability::None).unwrap();
        let leftover = look(&note_of(&state)).unwrap();
        assert_eq!(leftover.about.part, None);
        let seen_before = Leftover { about, ..leftover.clone() };
        seen_before.remove().unwrap_err();
        assert!(state.exists());
        leftover.remove().unwrap();
        assert!(!state.exists() && private.join("staging").exists());
    }

    #[test]
    fn a_part_file_that_another_user_fills_by_now_stays() {
        let home = tempfile::tempdir().unwrap();
        let (state, part) = left(home.path());
        let leftover = look(&note_of(&state)).unwrap();
        let other = ftx_disk::landing::Landing::create(Native, home.path(), 1).unwrap();
        assert_eq!(home.path().join(other.part()), part);
        leftover.remove().unwrap();
        assert!(part.exists() && !state.exists());
    }

    #[test]
    fn a_state_whose_part_was_taken_away_goes_unless_it_has_been_taken_up_since() {
        let home = tempfile::tempdir().unwrap();
        let (state, part) = left(home.path());
        remove_without_part(&state);
        assert!(state.exists(), "it has a part again");
        std::fs::remove_file(part).unwrap();
        let works = works_on(&state);
        remove_without_part(&state);
        assert!(state.exists());
        drop(works);
        assert!(look(&note_of(&state)).is_none());
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }

    /// What is removed from a directory, in that order.
    #[cfg(target_os = "linux")]
    pub(crate) fn removed_in_order(directory: &Path, act: impl FnOnce()) -> Vec<String> {
        use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
        let watch = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        add_watch(&watch, directory, WatchFlags::DELETE).unwrap();
        act();
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4_096];
        let mut events = Reader::new(watch, &mut buffer);
        let next = || Some(events.next().ok()?.file_name()?.to_str().ok()?.to_owned());
        std::iter::from_fn(next).collect()
    }
}
