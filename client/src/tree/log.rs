//! What a job has done, on disk: so that the same command, after an interruption, goes on behind
//! what is finished; and however many files there are, it takes no memory.
//!
//! A table of 128-bit hashes in a file, by open addressing; one that is small is in memory too. An
//! entry is written after what it stands for has happened. Losing one costs a file that is sent
//! again; a torn one is the hash of nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ftx_protocol::{Durability, FileTime};
use sha2::{Digest as _, Sha256};

use crate::locked;
use crate::short_hash::{ShortHash, shortened};
use crate::state::boot_id;

/// One entry.
pub(super) type Mark = ShortHash;

const MARK_BYTES: u64 = size_of::<Mark>() as u64;

/// Entries that a new table has room for.
const FIRST_ROOM: u64 = 4_096;

/// Entries of a table that is kept in memory too: a MiB of them. To ask the file costs several
/// system calls a file of the job.
const ROOM_IN_MEMORY: u64 = 65_536;

/// No entry.
const EMPTY: Mark = [0; MARK_BYTES as usize];

/// The table.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    path: PathBuf,
    room: u64,
    used: u64,
    /// Whether it was there when it was opened.
    was_there: bool,
    /// All of the table, as it is in the file.
    copy: Option<Vec<Mark>>,
}

/// What stands for something that is done and lasts until this machine starts anew.
fn passing(mark: &Mark) -> Option<Mark> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let boot = BOOT.get_or_init(boot_id).as_ref()?;
    let mut hash = Sha256::new();
    hash.update(mark);
    hash.update(boot);
    Some(shortened(hash))
}

/// What stands for a run that asks for this. No file has an empty name.
fn asked(durability: Durability) -> Mark {
    super::mark(b"", 0, FileTime::nearest(0, 0), durability.as_str().as_bytes())
}

impl Log {
    /// Opens a table, making it if it is not there. `None` when another process has it.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let Some(file) = locked::open(path, &options)? else { return Ok(None) };
        Self::of(file, path.to_owned()).map(Some)
    }

    fn of(file: File, path: PathBuf) -> io::Result<Self> {
        let room = file.metadata()?.len() / MARK_BYTES;
        let was_there = room.is_power_of_two() && room >= FIRST_ROOM;
        let mut log = Self { file, path, room, used: 0, was_there, copy: None };
        if !was_there {
            // New, or not ours.
            log.file.set_len(0)?;
            log.file.set_len(FIRST_ROOM * MARK_BYTES)?;
            log.room = FIRST_ROOM;
        }
        if log.room <= ROOM_IN_MEMORY {
            log.copy = Some(log.read()?);
        }
        log.used = log.marks()?.count() as u64;
        Ok(log)
    }

    /// The same table, with no entry.
    pub(super) fn cleared(self) -> io::Result<Self> {
        self.file.set_len(0)?;
        Self::of(self.file, self.path)
    }

    /// Whether it has an entry.
    pub(super) fn has(&self, mark: &Mark) -> io::Result<bool> {
        let (_, found) = self.place(mark)?;
        Ok(found == *mark)
    }

    /// Whether something is done, as far as a job asks for that wants it so durable.
    pub(super) fn has_done(&self, mark: &Mark, durability: Durability) -> bool {
        let has = |mark| self.has(&mark).unwrap_or(false);
        has(*mark) || (durability == Durability::None && passing(mark).is_some_and(has))
    }

    /// Something is done, and is so durable. Where nobody can tell how long it lasts, it is not
    /// noted.
    pub(super) fn add_done(&mut self, mark: &Mark, durability: Durability) -> io::Result<()> {
        let mark = match durability {
            Durability::None => passing(mark),
            Durability::Memory | Durability::Full => Some(*mark),
        };
        mark.map_or(Ok(()), |mark| self.add(&mark))
    }

    /// Whether an earlier run of the job has left it: that may have done more than it came to note.
    pub(super) fn goes_on(&self) -> bool {
        self.was_there
    }

    /// Notes what a run of the job asks for. Of a log of an earlier version nobody knows what its runs asked for.
    pub(super) fn note_asked(&mut self, durability: Durability) -> io::Result<()> {
        match self.was_there && self.asked().next().is_none() {
            true => Ok(()),
            false => self.add(&asked(durability)),
        }
    }

    /// Whether an earlier run may have done something that it did not come to note, and that is so durable.
    pub(super) fn may_have_done(&self, durability: Durability) -> bool {
        self.was_there && self.asked().next().is_some_and(|least| least >= durability)
    }

    /// What its runs have asked for, the least first.
    fn asked(&self) -> impl Iterator<Item = Durability> {
        let levels = [Durability::None, Durability::Memory, Durability::Full];
        levels.into_iter().filter(|level| self.has(&asked(*level)).unwrap_or(false))
    }

    /// Whether nothing is noted that is done.
    pub(super) fn is_empty(&self) -> bool {
        self.used == self.asked().count() as u64
    }

    /// Adds an entry.
    pub(super) fn add(&mut self, mark: &Mark) -> io::Result<()> {
        let (place, found) = self.place(mark)?;
        if found == *mark {
            return Ok(());
        }
        self.write(mark, place)?;
        if self.used > self.room / 2 { self.grow() } else { Ok(()) }
    }

    /// The job is complete.
    pub(super) fn remove(self) {
        crate::partials::forget(&self.path);
        // One that stays costs room, and is found out when it is used.
        let _ = std::fs::remove_file(&self.path);
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where an entry is, or would be; and what is there.
    fn place(&self, mark: &Mark) -> io::Result<(u64, Mark)> {
        let mut number = [0; 8];
        number.copy_from_slice(mark.get(..8).unwrap_or(&[0; 8]));
        let mut place = u64::from_le_bytes(number) & (self.room - 1);
        for _ in 0..self.room {
            let found = self.at(place)?;
            if found == EMPTY || found == *mark {
                return Ok((place, found));
            }
            place = (place + 1) & (self.room - 1);
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "the log of the job is damaged"))
    }

    fn at(&self, place: u64) -> io::Result<Mark> {
        if let Some(copy) = &self.copy {
            let place = usize::try_from(place).unwrap_or(usize::MAX);
            return Ok(copy.get(place).copied().unwrap_or(EMPTY));
        }
        let mut found = EMPTY;
        self.file.read_exact_at(&mut found, place * MARK_BYTES)?;
        Ok(found)
    }

    fn write(&mut self, mark: &Mark, place: u64) -> io::Result<()> {
        self.file.write_all_at(mark, place * MARK_BYTES)?;
        self.note(mark, place);
        Ok(())
    }

    fn note(&mut self, mark: &Mark, place: u64) {
        self.used += 1;
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        if let Some(entry) = self.copy.as_mut().and_then(|copy| copy.get_mut(place)) {
            *entry = *mark;
        }
    }

    /// All of the table.
    fn read(&self) -> io::Result<Vec<Mark>> {
        let mut bytes = vec![0; usize::try_from(self.room * MARK_BYTES).unwrap_or(0)];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes.as_chunks::<{ MARK_BYTES as usize }>().0.to_vec())
    }

    /// Twice the room, in a new file that takes the place of the old one.
    fn grow(&mut self) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&new)?;
        file.lock()?;
        file.set_len(self.room * 2 * MARK_BYTES)?;
        let room = self.room * 2;
        let copy =
            (room <= ROOM_IN_MEMORY).then(|| vec![EMPTY; usize::try_from(room).unwrap_or(0)]);
        let mut larger =
            Self { file, path: self.path.clone(), room, used: 0, was_there: self.was_there, copy };
        for mark in self.marks()? {
            let (place, _) = larger.place(&mark)?;
            match larger.copy {
                Some(_) => larger.note(&mark, place),
                None => larger.write(&mark, place)?,
            }
        }
        if let Some(copy) = &larger.copy {
            larger.file.write_all_at(copy.as_flattened(), 0)?;
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
    fn what_was_done_without_durability_is_not_done_for_a_job_that_asks_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(&dir.path().join("log")).unwrap().unwrap();
        log.add_done(&mark(1), Durability::None).unwrap();
        log.add_done(&mark(2), Durability::Full).unwrap();
        let done = |durability| [1, 2, 3].map(|number| log.has_done(&mark(number), durability));
        assert_eq!(done(Durability::None), [boot_id().is_some(), true, false]);
        assert_eq!(done(Durability::Full), [false, true, false]);
    }

    #[test]
    fn a_log_knows_what_it_was_told_also_after_it_has_grown_and_was_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(&path).unwrap().unwrap();
        for number in 0..10_000 {
            log.add(&mark(number)).unwrap();
        }
        drop(log);
        let log = Log::open(&path).unwrap().unwrap();
        assert_eq!(log.used, 10_000);
        assert!((0..10_000).all(|number| log.has(&mark(number)).unwrap()));
        assert!((10_000..20_000).all(|number| !log.has(&mark(number)).unwrap()));
        log.remove();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// Once the log has no name any more, the same command can begin anew, and note it.
    #[test]
    #[cfg(target_os = "linux")]
    fn the_note_goes_before_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(&dir.path().join("log")).unwrap().unwrap();
        std::fs::write(dir.path().join("log.about"), "a note").unwrap();
        let removed = crate::partials::tests::removed_in_order(dir.path(), || log.remove());
        assert_eq!(removed, ["log.about", "log"]);
    }

    #[test]
    fn a_file_that_is_no_log_becomes_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "something else").unwrap();
        assert!(!Log::open(&path).unwrap().unwrap().has(&mark(1)).unwrap());
    }
}
