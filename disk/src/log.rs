//! An append-only log of records with checksums: the form of the journal and of the digest cache.
//!
//! One record is one line: the CRC-32 of what follows in 8 hexadecimal digits, a space, compact
//! JSON, and `\n`. A torn tail is normal input: everything from the first line that is not whole is
//! cut off. Knows nothing of what its records mean.

use std::borrow::Borrow;
use std::io::{self, Write as _};
use std::marker::PhantomData;

use ftx_protocol::Mode;
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::aligned::PageAligned;
use crate::identity::Inode;
use crate::reserved::Reserved;
use crate::syncs::Syncs;
use crate::sys::{Disk, Want};

/// Read from the file at once.
const READ_BYTES: usize = 256 * 1024;

/// A record is shorter: three names, each of their bytes written as six, and little else.
const LINE_BYTES_MAX: usize = 128 * 1024;

/// Written at once: a whole round, and what a log that is written anew may take of memory.
const WRITE_BYTES: usize = 1024 * 1024;

/// A log, open for appending.
pub(crate) struct Log<D: Disk, R> {
    disk: D,
    file: D::Handle,
    size: u64,
    records: PhantomData<fn(R)>,
}

/// Whether records have to be on the disk before the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    Now,
    /// They only have to survive a crash of this program.
    Never,
}

/// Records that a log could not be given, or a log that another one could not take the place of.
#[derive(Debug)]
pub(crate) enum NotWritten {
    /// It is as it was.
    Stands(io::Error),
    /// Nobody knows what of them, or which of both logs, is on the disk.
    Doubtful(io::Error),
}

impl From<NotWritten> for io::Error {
    fn from(not_written: NotWritten) -> Self {
        let (NotWritten::Stands(error) | NotWritten::Doubtful(error)) = not_written;
        error
    }
}

impl<D: Disk, R: Serialize + DeserializeOwned> Log<D, R> {
    /// Opens the log `part` of `dir`, making it if it is not there, and reads it: one record after the other, for it may be
    /// much longer than what it says. Returns it, and the bytes at its end that were no whole record and were cut off.
    pub(crate) fn open(
        disk: &D,
        dir: &D::Handle,
        part: &[u8],
        reserved: &Reserved,
        replay: impl FnMut(R),
    ) -> io::Result<(Self, u64)> {
        let file = match disk.open_part(dir, part, Want::File) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {
                disk.create(dir, part, Mode::new(0o600))?
            }
            result => result?,
        };
        let stat = disk.stat(&file)?;
        reserved.reserve(Inode::of(&stat));
        let size = read(disk, &file, replay)?;
        let torn_bytes = stat.size.saturating_sub(size);
        if torn_bytes > 0 {
            disk.truncate(&file, size)?;
        }
        let log = Self { disk: disk.clone(), file, size, records: PhantomData };
        Ok((log, torn_bytes))
    }

    /// Replaces the log `part` of `dir` by one with just these records, durably. `syncs` are those of `dir`.
    pub(crate) fn replace<B: Borrow<R>>(
        disk: &D,
        (dir, syncs): (&D::Handle, &Syncs),
        part: &[u8],
        reserved: &Reserved,
        records: impl Iterator<Item = B>,
    ) -> Result<Self, NotWritten> {
        syncs.check().map_err(NotWritten::Stands)?;
        let new: Vec<u8> = [part, b".new"].concat();
        let log = Self::write_new(disk, dir, &new, reserved, records).map_err(|error| {
            // Where there is no room it would keep what there is from others.
            let _ = remove_stale(disk, dir, &new, reserved);
            NotWritten::Stands(error)
        })?;
        // Its inode may be given to a new file the moment it is replaced.
        if let Ok(old) = disk.stat_part(dir, part) {
            reserved.release(Inode::of(&old));
        }
        disk.rename(dir, &new, dir, part)
            .and_then(|()| syncs.sync(disk, dir))
            .map_err(NotWritten::Doubtful)?;
        Ok(log)
    }

    fn write_new<B: Borrow<R>>(
        disk: &D,
        dir: &D::Handle,
        new: &[u8],
        reserved: &Reserved,
        records: impl Iterator<Item = B>,
    ) -> io::Result<Self> {
        // Of an earlier try that was cut off.
        remove_stale(disk, dir, new, reserved)?;
        let file = disk.create(dir, new, Mode::new(0o600))?;
        reserved.reserve(Inode::of(&disk.stat(&file)?));
        let mut log = Self { disk: disk.clone(), file, size: 0, records: PhantomData };
        log.write(records)?;
        log.sync(Sync::Now)?;
        Ok(log)
    }

    /// Appends records, all of them or none. What could not be written whole is cut off again: that needs no room on a
    /// full disk.
    pub(crate) fn append<B: Borrow<R>>(
        &mut self,
        records: impl Iterator<Item = B>,
        sync: Sync,
    ) -> Result<(), NotWritten> {
        let before = self.size;
        match self.write(records) {
            Ok(()) => self.sync(sync).map_err(NotWritten::Doubtful),
            // A power cut must not bring back what was cut off of records that would have survived it.
            Err(error) => match self.cut_off(before).and_then(|()| self.sync(sync)) {
                Ok(()) => Err(NotWritten::Stands(error)),
                Err(_) => Err(NotWritten::Doubtful(error)),
            },
        }
    }

    fn write<B: Borrow<R>>(&mut self, records: impl Iterator<Item = B>) -> io::Result<()> {
        let mut bytes = Vec::new();
        for record in records {
            encode(record.borrow(), &mut bytes)?;
            if bytes.len() >= WRITE_BYTES {
                self.append_bytes(&bytes)?;
                bytes.clear();
            }
        }
        self.append_bytes(&bytes)
    }

    fn append_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        write_all(&self.disk, &self.file, bytes, self.size)?;
        self.size = self.size.saturating_add(bytes.len() as u64);
        Ok(())
    }

    fn cut_off(&mut self, size: u64) -> io::Result<()> {
        self.disk.truncate(&self.file, size)?;
        self.size = size;
        Ok(())
    }

    fn sync(&self, sync: Sync) -> io::Result<()> {
        match sync {
            Sync::Now => self.disk.sync(&self.file),
            Sync::Never => Ok(()),
        }
    }

    /// Bytes in the log.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

/// Appends the line of a record.
pub(crate) fn encode<R: Serialize>(record: &R, out: &mut Vec<u8>) -> io::Result<()> {
    const NO_SUM: &[u8] = b"00000000 ";
    let start = out.len();
    out.extend_from_slice(NO_SUM);
    serde_json::to_writer(&mut *out, record)?;
    let line = out.get_mut(start..).unwrap_or_default();
    if let Some((mut sum, json)) = line.split_at_mut_checked(NO_SUM.len()) {
        write!(sum, "{:08x}", crc32fast::hash(json))?;
    }
    out.push(b'\n');
    Ok(())
}

/// Replays the records up to the first line that is not whole, and says how many bytes they take.
pub(crate) fn decode<R: DeserializeOwned>(
    bytes: &[u8],
    mut replay: impl FnMut(R),
) -> io::Result<usize> {
    let mut good: usize = 0;
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let Some(json) = checked(line) else { break };
        // Whole, and not understood: a newer program wrote it, and it may matter.
        replay(serde_json::from_slice(json)?);
        good = good.saturating_add(line.len());
    }
    Ok(good)
}

/// The JSON of a line that is whole.
fn checked(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n")?;
    let (sum, rest) = line.split_at_checked(8)?;
    let json = rest.strip_prefix(b" ")?;
    // Just as it is written: reading a number would take a sign, too.
    if !sum.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let sum = u32::from_str_radix(std::str::from_utf8(sum).ok()?, 16).ok()?;
    (crc32fast::hash(json) == sum).then_some(json)
}

/// Replays the records of a file up to the first line that is not whole, and says how many bytes they take.
fn read<D: Disk, R: DeserializeOwned>(
    disk: &D,
    file: &D::Handle,
    mut replay: impl FnMut(R),
) -> io::Result<u64> {
    let mut buffer = PageAligned::new(READ_BYTES);
    // Lines that were read and not replayed: after each read only what is there of the last one.
    let mut lines = Vec::new();
    let mut good: u64 = 0;
    loop {
        let at = good.saturating_add(lines.len() as u64);
        let count = disk.read_at(file, &mut buffer, at)?;
        lines.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let whole = decode(&lines, &mut replay)?;
        lines.drain(..whole);
        good = good.saturating_add(whole as u64);
        if count == 0 || lines.len() > LINE_BYTES_MAX || lines.contains(&b'\n') {
            return Ok(good);
        }
    }
}

/// Removes what was to take the place of a log and did not.
fn remove_stale<D: Disk>(
    disk: &D,
    dir: &D::Handle,
    new: &[u8],
    reserved: &Reserved,
) -> io::Result<()> {
    match disk.stat_part(dir, new) {
        Ok(stale) => {
            // Before it is removed: its inode may be given to a new file at once.
            let inode = Inode::of(&stale);
            reserved.release(inode);
            disk.remove(dir, new).inspect_err(|_| reserved.reserve(inode))
        }
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes all of `bytes` at an offset, however little the disk takes at once.
pub(crate) fn write_all<D: Disk>(
    disk: &D,
    file: &D::Handle,
    mut bytes: &[u8],
    mut at: u64,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = disk.write_at(file, bytes, at)?;
        if count == 0 {
            return Err(Errno::IO.into());
        }
        at = at.saturating_add(count as u64);
        bytes = bytes.get(count..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::sim::{Fault, Sim};

    #[test]
    fn a_checksum_that_is_written_in_another_way_is_none() {
        // The checksum of 33 begins with a zero, in the place of which a sign would be read.
        let mut line = Vec::new();
        encode(&33_u32, &mut line).unwrap();
        assert_eq!(line, b"0a6216d9 33\n");
        let decoded = |line: &[u8]| {
            let mut records = Vec::<u32>::new();
            (decode(line, |record| records.push(record)).unwrap(), records)
        };
        assert_eq!(decoded(&line), (12, vec![33]));
        for other in [&b"+a6216d9 33\n"[..], b"0A6216D9 33\n", b"0a6216d9 33"] {
            assert_eq!(decoded(other), (0, vec![]));
        }
    }

    #[test]
    fn records_that_cannot_be_written_whole_are_cut_off_again_and_else_the_log_is_doubtful() {
        // Several writes, with many records in each.
        let long: Vec<u32> = (0..200_000).collect();
        let append = |fault| {
            let sim = Sim::new();
            let root = sim.open_root(Path::new("/")).unwrap();
            let open = |replay: &mut dyn FnMut(u32)| {
                Log::open(&sim, &root, b"log", &Reserved::default(), replay).unwrap().0
            };
            let mut log = open(&mut |_| {});
            log.append([1_u32].iter(), Sync::Now).unwrap();
            sim.set_fault(fault);
            let appended = log.append(long.iter(), Sync::Now);
            let calls = sim.log();
            sim.set_fault(Fault::None);
            if let Err(NotWritten::Stands(_)) = appended {
                log.append([2].iter(), Sync::Now).unwrap();
                let mut records = Vec::new();
                open(&mut |record| records.push(record));
                assert_eq!(records, [1, 2], "{fault:?}");
            }
            (appended, calls)
        };
        let (appended, calls) = append(Fault::None);
        appended.unwrap();
        assert!(calls.len() > 3, "{calls:?}");
        for (nth, call) in (0..).zip(&calls) {
            let (appended, then) = append(Fault::Once(nth, Errno::NOSPC));
            let then: Vec<_> = then
                .iter()
                .skip(nth as usize + 1)
                .map(|call| call.split_once(' ').unwrap().1)
                .collect();
            match appended {
                Err(NotWritten::Stands(_)) => assert_eq!(then, ["truncate ", "sync log"]),
                appended => assert!(appended.is_err() && call.ends_with("sync log"), "{call}"),
            }
            let (appended, _) = append(Fault::FromThenOn(nth, Errno::IO));
            assert!(matches!(appended, Err(NotWritten::Doubtful(_))), "{call}");
        }
    }

    #[test]
    fn what_is_longer_than_one_read_is_replayed_and_what_is_no_record_is_cut_off() {
        let sim = Sim::new();
        let root = sim.open_root(Path::new("/")).unwrap();
        let open = || {
            let mut records = Vec::new();
            let replay = |record: String| records.push(record);
            let (log, torn) = Log::open(&sim, &root, b"log", &Reserved::default(), replay).unwrap();
            (log, torn, records)
        };
        let written: Vec<_> =
            (0..300).map(|number| number.to_string().repeat(number * 10)).collect();
        let (mut log, ..) = open();
        log.append(written.iter(), Sync::Never).unwrap();
        let whole = log.size();
        assert!(whole > READ_BYTES as u64 * 2, "{whole}");
        for torn in [&b"0a6216d9 3"[..], b"no record\n", &[b'x'; 3 * READ_BYTES]] {
            write_all(&sim, &log.file, torn, whole).unwrap();
            let (_, cut, records) = open();
            assert_eq!((cut, records.len()), (torn.len() as u64, 300));
            assert!(records == written);
            let (_, cut, _) = open();
            assert_eq!(cut, 0);
        }
    }
}
