//! Files that one process at a time works with.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// How often it is tried whether a file is free. Who only looks at it, as `ftx partials` does, is done with it
/// at once.
const TRIES: u32 = 10;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(10);

/// Opens a file, and keeps other processes from it until it is closed. `None` when one has it.
///
/// # Errors
/// When it cannot be opened, or the file system knows no locks.
pub(crate) fn open(path: &Path, options: &OpenOptions) -> io::Result<Option<File>> {
    loop {
        let file = options.open(path)?;
        match lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if has_name(&file, path)? {
            return Ok(Some(file));
        }
    }
}

fn lock(file: &File) -> Result<(), TryLockError> {
    for _ in 1..TRIES {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            locked => return locked,
        }
    }
    file.try_lock()
}

/// Whether a file still has its name: whoever had it may have removed it, between the opening and the locking.
pub(crate) fn has_name(file: &File, path: &Path) -> io::Result<bool> {
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
    fn who_only_looks_keeps_nobody_from_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a");
        std::fs::write(&path, "").unwrap();
        let looks = File::open(&path).unwrap();
        looks.try_lock_shared().unwrap();
        let looked = std::thread::spawn(move || {
            std::thread::sleep(PAUSE * 2);
            drop(looks);
        });
        assert!(open(&path, File::options().read(true)).unwrap().is_some());
        looked.join().unwrap();
    }

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
