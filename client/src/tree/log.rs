//! What a job has done, on disk: so that the same command, after an interruption, goes on behind
//! what is finished; and however many files there are, it takes no memory.
//!
//! A table of 128-bit hashes in a file, by open addressing. An entry is written after what it
//! stands for has happened. Losing one costs a file that is sent again; a torn one is the hash of
//! nothing.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// One entry.
pub(super) type Mark = [u8; MARK_BYTES as usize];

const MARK_BYTES: u64 = 16;

/// Entries that the smallest table has room for.
const ROOM_MIN: u64 = 4_096;

/// Entries that a new table has room for: a file with a hole of a megabyte, which most jobs never
/// have to make anew.
const FIRST_ROOM: u64 = 65_536;

/// No entry.
const EMPTY: Mark = [0; MARK_BYTES as usize];

/// The table.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    path: PathBuf,
    room: u64,
    used: u64,
}

impl Log {
    /// Opens a table, making it if it is not there. `None` when another process has it.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let room = file.metadata()?.len() / MARK_BYTES;
        let mut log = Self { file, path: path.to_owned(), room, used: 0 };
        if !room.is_power_of_two() || room < ROOM_MIN {
            // New, or not ours.
            log.file.set_len(0)?;
            log.file.set_len(FIRST_ROOM * MARK_BYTES)?;
            log.room = FIRST_ROOM;
        } else {
            log.used = log.marks()?.count() as u64;
        }
        Ok(Some(log))
    }

    /// Whether it has an entry.
    pub(super) fn has(&self, mark: &Mark) -> io::Result<bool> {
        let (_, found) = self.place(mark)?;
        Ok(found == *mark)
    }

    /// Whether it has no entry at all.
    pub(super) fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Adds an entry.
    pub(super) fn add(&mut self, mark: &Mark) -> io::Result<()> {
        let (place, found) = self.place(mark)?;
        if found == *mark {
            return Ok(());
        }
        self.file.write_all_at(mark, place * MARK_BYTES)?;
        self.used += 1;
        if self.used > self.room / 2 { self.grow() } else { Ok(()) }
    }

    /// The job is complete.
    pub(super) fn remove(self) {
        // One that stays costs room, and is found out when it is used.
        let _ = std::fs::remove_file(&self.path);
        crate::partials::forget(&self.path);
    }

    /// Where an entry is, or would be; and what is there.
    fn place(&self, mark: &Mark) -> io::Result<(u64, Mark)> {
        let mut number = [0; 8];
        number.copy_from_slice(mark.get(..8).unwrap_or(&[0; 8]));
        let mut place = u64::from_le_bytes(number) & (self.room - 1);
        for _ in 0..self.room {
            let mut found = EMPTY;
            self.file.read_exact_at(&mut found, place * MARK_BYTES)?;
            if found == EMPTY || found == *mark {
                return Ok((place, found));
            }
            place = (place + 1) & (self.room - 1);
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "the log of the job is damaged"))
    }

    /// Twice the room, in a new file that takes the place of the old one.
    fn grow(&mut self) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&new)?;
        file.lock()?;
        file.set_len(self.room * 2 * MARK_BYTES)?;
        let mut larger = Self { file, path: self.path.clone(), room: self.room * 2, used: 0 };
        for mark in self.marks()? {
            let (place, _) = larger.place(&mark)?;
            larger.file.write_all_at(&mark, place * MARK_BYTES)?;
            larger.used += 1;
        }
        std::fs::rename(&new, &self.path)?;
        *self = larger;
        Ok(())
    }

    fn marks(&self) -> io::Result<impl Iterator<Item = Mark> + use<>> {
        const BLOCK_BYTES: usize = 64 * 1024;
        let file = self.file.try_clone()?;
        let size = self.room * MARK_BYTES;
        let mut at = 0;
        let mut block: Vec<Mark> = Vec::new();
        Ok(std::iter::from_fn(move || {
            loop {
                if let Some(mark) = block.pop() {
                    return Some(mark);
                }
                if at >= size {
                    return None;
                }
                let mut bytes = vec![0; BLOCK_BYTES.min(usize::try_from(size - at).ok()?)];
                file.read_exact_at(&mut bytes, at).ok()?;
                at += bytes.len() as u64;
                let marks = bytes.as_chunks::<{ MARK_BYTES as usize }>().0.iter();
                block = marks.filter(|mark| **mark != EMPTY).copied().collect();
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ftx_disk::hash::Running;
    use ftx_protocol::Algorithm;

    fn mark(number: u64) -> Mark {
        let mut running = Running::new(Algorithm::Sha256);
        running.update(&number.to_le_bytes());
        let mut mark = EMPTY;
        mark.copy_from_slice(&running.digest().bytes[..16]);
        mark
    }

    #[test]
    fn a_log_knows_what_it_was_told_also_after_it_has_grown_and_was_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(&path).unwrap().unwrap();
        for number in 0..40_000 {
            log.add(&mark(number)).unwrap();
        }
        drop(log);
        let log = Log::open(&path).unwrap().unwrap();
        assert_eq!(log.used, 40_000);
        assert!((0..40_000).all(|number| log.has(&mark(number)).unwrap()));
        assert!((40_000..50_000).all(|number| !log.has(&mark(number)).unwrap()));
        log.remove();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_is_no_log_becomes_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "something else").unwrap();
        assert!(!Log::open(&path).unwrap().unwrap().has(&mark(1)).unwrap());
    }
}
