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

/// Written at once: a whole round, and what a log that is written anew may take of memory.
const WRITE_BYTES: usize = 1024 * 1024;

/// A log, open for appending.
pub(crate) struct Log<D: Disk, R> {
    disk: D,
    file: D::Handle,
    size: u64,
    records: PhantomData<fn(R)>,
}

/// What was in a log when it was opened.
pub(crate) struct Replayed<R> {
    pub(crate) records: Vec<R>,
    /// Bytes at the end that were no whole record, and were cut off.
    pub(crate) torn_bytes: u64,
}

impl<D: Disk, R: Serialize + DeserializeOwned> Log<D, R> {
    /// Opens the log `part` of `dir`, making it if it is not there, and reads it.
    pub(crate) fn open(
        disk: &D,
        dir: &D::Handle,
        part: &[u8],
        reserved: &Reserved,
    ) -> io::Result<(Self, Replayed<R>)> {
        let file = match disk.open_part(dir, part, Want::File) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {
                disk.create(dir, part, Mode::new(0o600))?
            }
            result => result?,
        };
        reserved.reserve(Inode::of(&disk.stat(&file)?));
        let bytes = read_all(disk, &file)?;
        let (records, good) = decode(&bytes)?;
        let torn_bytes = (bytes.len() as u64).saturating_sub(good);
        if torn_bytes > 0 {
            disk.truncate(&file, good)?;
        }
        let log = Self { disk: disk.clone(), file, size: good, records: PhantomData };
        Ok((log, Replayed { records, torn_bytes }))
    }

    /// Replaces the log `part` of `dir` by one with just these records, durably. `syncs` are those of `dir`.
    pub(crate) fn replace<B: Borrow<R>>(
        disk: &D,
        (dir, syncs): (&D::Handle, &Syncs),
        part: &[u8],
        reserved: &Reserved,
        records: impl Iterator<Item = B>,
    ) -> io::Result<Self> {
        syncs.check()?;
        let new: Vec<u8> = [part, b".new"].concat();
        // Of an earlier try that failed.
        match disk.stat_part(dir, &new) {
            Ok(stale) => {
                disk.remove(dir, &new)?;
                reserved.release(Inode::of(&stale));
            }
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        let old = disk.stat_part(dir, part).ok();
        let file = disk.create(dir, &new, Mode::new(0o600))?;
        reserved.reserve(Inode::of(&disk.stat(&file)?));
        let mut log = Self { disk: disk.clone(), file, size: 0, records: PhantomData };
        log.append(records)?;
        log.sync()?;
        // Its inode may be given to a new file the moment it is replaced.
        if let Some(old) = old {
            reserved.release(Inode::of(&old));
        }
        disk.rename(dir, &new, dir, part)?;
        syncs.sync(disk, dir)?;
        Ok(log)
    }

    /// Appends records. They survive a crash of this program, and a power cut after
    /// [`Log::sync`]. After an error the log ends in a torn record at worst.
    pub(crate) fn append<B: Borrow<R>>(
        &mut self,
        records: impl Iterator<Item = B>,
    ) -> io::Result<()> {
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

    /// Makes what was appended survive a power cut.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.disk.sync(&self.file)
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

/// The records up to the first line that is not whole, and how many bytes they take.
pub(crate) fn decode<R: DeserializeOwned>(bytes: &[u8]) -> io::Result<(Vec<R>, u64)> {
    let mut records = Vec::new();
    let mut good: u64 = 0;
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let Some(json) = checked(line) else { break };
        // Whole, and not understood: a newer program wrote it, and it may matter.
        records.push(serde_json::from_slice(json)?);
        good = good.saturating_add(line.len() as u64);
    }
    Ok((records, good))
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

fn read_all<D: Disk>(disk: &D, file: &D::Handle) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = PageAligned::new(READ_BYTES);
    loop {
        let count = disk.read_at(file, &mut buffer, bytes.len() as u64)?;
        if count == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(buffer.get(..count).unwrap_or_default());
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
    use super::*;

    #[test]
    fn a_checksum_that_is_written_in_another_way_is_none() {
        // The checksum of 33 begins with a zero, in the place of which a sign would be read.
        let mut line = Vec::new();
        encode(&33_u32, &mut line).unwrap();
        assert_eq!(line, b"0a6216d9 33\n");
        assert_eq!(decode::<u32>(&line).unwrap(), (vec![33], 12));
        for other in [&b"+a6216d9 33\n"[..], b"0A6216D9 33\n", b"0a6216d9 33"] {
            assert_eq!(decode::<u32>(other).unwrap(), (vec![], 0));
        }
    }
}
