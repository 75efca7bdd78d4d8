//! What an interrupted job has left in its target, for whoever does not want to go on with it.

use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ftx_disk::store::{self, LOCK, OpenError};
use ftx_disk::sys::Native;
use ftx_protocol::Name;

use super::called;
use super::ground::{OURS, Private};
use crate::failure::{Class, Failure, shown};
use crate::partials::About;

/// Whose the store's own directory in a target is: that of the job that a note is about, or of anybody else,
/// such as a server.
pub(crate) fn whose(about: &About, private: &Path) -> Private {
    let marker = std::fs::read(private.join(OURS)).unwrap_or_default();
    let (server, name) =
        marker.split_at(marker.iter().position(|byte| *byte == b'\n').unwrap_or(0));
    let is_same = match name.get(1..).unwrap_or_default() {
        b"" => called(None) == about.name,
        name => Name::parse(name).is_ok_and(|name| called(Some(&name)) == about.name),
    };
    match server == about.server.as_bytes() && is_same {
        true => Private::Ours,
        false => Private::Theirs,
    }
}

/// Removes it, unless it is another's, or is being used.
///
/// # Errors
/// When it stays.
pub(crate) fn remove(about: &About, private: &Path) -> Result<(), Failure> {
    let failed = |error: &io::Error| Failure::local("cannot remove", private, error);
    let stays = |why: &str| {
        let message = format!("{} {why}; it was left as it is", shown(private));
        Err(Failure::new(Class::Local, message))
    };
    match std::fs::symlink_metadata(private) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        there => there.map_err(|error| failed(&error))?,
    };
    let held = match store::keep_out(&Native, private.parent().unwrap_or(Path::new("/"))) {
        Ok(held) => held,
        Err(OpenError::Locked) => {
            return stays("is being used by another ftx, a server or a get");
        }
        Err(error) => return stays(&format!("cannot be removed: {error}")),
    };
    if whose(about, private) == Private::Theirs {
        return stays("is that of a server, or of another get");
    }
    empty(private).map_err(|error| failed(&error))?;
    // On some file systems, such as NFS, what is open stays there under another name until it is closed.
    drop(held);
    match std::fs::remove_dir(private) {
        // Another store has begun there meanwhile.
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|error| failed(&error)),
    }
}

/// Removes what was made for a job that cannot begin, unless another store has begun there meanwhile. What stays is
/// taken up by the next job there.
pub(super) fn take_back(private: &Path) {
    match store::keep_out(&Native, private.parent().unwrap_or(Path::new("/"))) {
        Err(OpenError::Locked) => return,
        Ok(held) => {
            let _ = empty(private);
            drop(held);
        }
        // Not even the lock could be made.
        Err(_) => {}
    }
    let _ = std::fs::remove_dir(private);
}

/// What says whose it is goes after all that is in it, and the lock that keeps others away goes last.
fn empty(private: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(private)? {
        let entry = entry?;
        let is_last = [LOCK, OURS.as_bytes()].contains(&entry.file_name().as_bytes());
        match entry.file_type()?.is_dir() {
            true => std::fs::remove_dir_all(entry.path())?,
            false if is_last => {}
            false => std::fs::remove_file(entry.path())?,
        }
    }
    for part in [OURS.as_bytes(), LOCK] {
        match std::fs::remove_file(private.join(std::ffi::OsStr::from_bytes(part))) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a job for the tree `a` of this server has left.
    fn left(home: &Path, server: &str) -> (About, std::path::PathBuf) {
        let private = home.join(".ftx");
        for directory in ["staging", "trash/tree"] {
            std::fs::create_dir_all(private.join(directory)).unwrap();
        }
        for file in ["lock", "journal", "staging/1", "trash/tree/1"] {
            std::fs::write(private.join(file), "").unwrap();
        }
        std::fs::write(private.join(OURS), format!("{server}\na\u{e9}")).unwrap();
        let about = About {
            action: "get -r".to_owned(),
            server: "box:1".to_owned(),
            name: Name::parse("a\u{e9}".as_bytes()).unwrap().to_string(),
            path: home.into(),
            part: Some(private.clone().into()),
            directory: None,
        };
        (about, private)
    }

    #[test]
    fn what_is_left_of_a_job_goes_once_nobody_uses_it() {
        let home = tempfile::tempdir().unwrap();
        let (about, private) = left(home.path(), "box:1");
        let held = store::keep_out(&Native, home.path()).map_err(drop).unwrap();
        let said = remove(&about, &private).unwrap_err().to_string();
        assert!(
            said.ends_with("by another ftx, a server or a get; it was left as it is"),
            "{said}"
        );
        assert!(private.join("staging/1").exists());
        drop(held);
        remove(&about, &private).unwrap();
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
        remove(&about, &private).unwrap();
    }

    #[test]
    fn what_is_left_of_a_job_for_all_of_a_server_is_its_own_too() {
        let home = tempfile::tempdir().unwrap();
        let (of_a, private) = left(home.path(), "box:1");
        std::fs::write(private.join(OURS), "box:1\n").unwrap();
        remove(&of_a, &private).unwrap_err();
        let about = About { name: called(None), ..of_a };
        remove(&about, &private).unwrap();
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_not_of_this_job_stays() {
        let home = tempfile::tempdir().unwrap();
        let (about, private) = left(home.path(), "box:2");
        let stays = || {
            let said = remove(&about, &private).unwrap_err().to_string();
            assert!(said.contains("is that of a server, or of another get"), "{said}");
            assert!(private.join("staging/1").exists());
        };
        stays();
        std::fs::write(private.join(OURS), "box:1\nanother").unwrap();
        stays();
        std::fs::write(private.join(OURS), "").unwrap();
        stays();
        std::fs::remove_file(private.join(OURS)).unwrap();
        stays();
    }
}
