//! Files that one process at a time works with.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Opens a file, and keeps other processes from it until it is closed. `None` when one has it.
///
/// # Errors
/// When it cannot be opened, or the file system knows no locks.
pub(crate) fn open(path: &Path, options: &OpenOptions) -> io::Result<Option<File>> {
    loop {
        let file = options.open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if has_name(&file, path)? {
            return Ok(Some(file));
        }
    }
}

/// Whether a file still has its name: whoever had it may have removed it, between the opening and the locking.
fn has_name(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(named) => Ok((ours.dev(), ours.ino()) == (named.dev(), named.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_and_a_file_that_lost_its_name_is_nobodys() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a");
        let mut options = File::options();
        options.read(true).append(true).create(true);
        let first = open(&path, &options).unwrap().unwrap();
        assert!(open(&path, &options).unwrap().is_none());
        assert!(has_name(&first, &path).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(!has_name(&first, &path).unwrap());
        let second = open(&path, &options).unwrap().unwrap();
        assert!(!has_name(&first, &path).unwrap() && has_name(&second, &path).unwrap());
    }
}
