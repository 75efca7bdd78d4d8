//! What is put: a file, which can be read again, or a stream, of which the bytes that may have to
//! be sent again are kept in memory.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use ftx_disk::hash::Running;
use ftx_disk::identity::Identity;
use ftx_disk::sys::Stat;
use ftx_protocol::{Algorithm, Digest, FileTime, Mode};

use crate::failure::{Failure, Trouble, shown};
use crate::interrupt::Interrupt;

/// Read from a stream at once, and kept together.
const CHUNK_BYTES: usize = 256 * 1024;

/// Pieces that the reading thread may be ahead.
const PIECES_AHEAD: usize = 4;

/// A quiet stream is waited for this long at once: whoever reads it may have to end meanwhile.
const LOOK: Duration = Duration::from_millis(500);

/// What is put.
#[derive(Debug)]
pub struct Source {
    pub(crate) kind: Kind,
    /// For messages.
    pub(crate) path: PathBuf,
}

#[derive(Debug)]
pub(crate) enum Kind {
    File { file: File, identity: Identity, mode: Mode },
    Stream(Stream),
}

/// What one read gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Bytes(usize),
    /// There is no more.
    End,
    /// There is nothing yet.
    Quiet,
}

impl Source {
    /// Opens a file. What is no regular file (a FIFO, a device) is read as a stream.
    ///
    /// # Errors
    /// Of class `Local`, when it cannot be opened, or is a directory.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |error: &io::Error| Failure::local("cannot read", path, error);
        let file = File::open(path).map_err(|error| failed(&error))?;
        let metadata = file.metadata().map_err(|error| failed(&error))?;
        let kind = metadata.file_type();
        if metadata.is_dir() {
            return Err(Failure::is_directory(path));
        }
        let path = path.to_owned();
        if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() || kind.is_socket() {
            return Ok(Self { kind: Kind::Stream(Stream::new(file)), path });
        }
        let identity = Identity::of_metadata(&metadata);
        let mode = Mode::new(metadata.mode());
        // Files that the system makes up as they are read say that they are empty.
        if identity.size == 0 && file.read_at(&mut [0], 0).is_ok_and(|count| count > 0) {
            return Ok(Self { kind: Kind::Stream(Stream::new(file)), path });
        }
        Ok(Self { kind: Kind::File { file, identity, mode }, path })
    }

    /// A regular file that is open, and is this.
    pub(crate) fn of_file(file: File, stat: &Stat, path: PathBuf) -> Self {
        Self { kind: Kind::File { file, identity: Identity::of(stat), mode: stat.mode }, path }
    }

    /// Fills the buffer from an offset on.
    ///
    /// # Errors
    /// When it cannot be read, or ends before that: it changed.
    pub(crate) fn read_full<'a>(
        &mut self,
        buffer: &'a mut [u8],
        at: u64,
    ) -> Result<&'a [u8], Failure> {
        let mut filled: usize = 0;
        while let Some(room) = buffer.get_mut(filled..)
            && !room.is_empty()
        {
            match self.read_at(room, at.saturating_add(filled as u64))? {
                Got::Bytes(count) => filled = filled.saturating_add(count),
                Got::End => return Err(self.changed()),
                Got::Quiet => {}
            }
        }
        Ok(buffer)
    }

    /// The digest of all of a file that has so many bytes; they pass the buffer.
    ///
    /// # Errors
    /// When it cannot be read, or changes, or somebody wants it to end.
    pub(crate) fn digest(
        mut self,
        size: u64,
        algorithm: Algorithm,
        buffer: &mut [u8],
        interrupt: &Interrupt,
    ) -> Result<Digest, Trouble> {
        let mut running = Running::new(algorithm);
        while running.offset() < size {
            interrupt.check()?;
            let left = size.saturating_sub(running.offset());
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let at = running.offset();
            running.update(self.read_full(buffer.get_mut(..room).unwrap_or_default(), at)?);
        }
        self.check_unchanged()?;
        Ok(running.digest())
    }

    /// Reads a stream, such as standard input, to its end.
    pub fn stream(input: impl Read + Send + 'static) -> Self {
        Self { kind: Kind::Stream(Stream::new(input)), path: PathBuf::from("standard input") }
    }

    /// Bytes of the whole, if known.
    pub fn size(&self) -> Option<u64> {
        match &self.kind {
            Kind::File { identity, .. } => Some(identity.size),
            Kind::Stream(_) => None,
        }
    }

    pub(crate) fn mode(&self) -> Option<Mode> {
        match &self.kind {
            Kind::File { mode, .. } => Some(*mode),
            Kind::Stream(_) => None,
        }
    }

    pub(crate) fn modified(&self) -> Option<FileTime> {
        match &self.kind {
            Kind::File { identity, .. } => Some(identity.modified),
            Kind::Stream(_) => None,
        }
    }

    /// Reads bytes at an offset.
    pub(crate) fn read_at(&mut self, buffer: &mut [u8], at: u64) -> Result<Got, Failure> {
        let path = &self.path;
        let failed = |error: io::Error| Failure::local("cannot read", path, &error);
        match &mut self.kind {
            Kind::File { file, .. } => loop {
                match file.read_at(buffer, at) {
                    Ok(0) => return Ok(Got::End),
                    Ok(count) => return Ok(Got::Bytes(count)),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(failed(error)),
                }
            },
            Kind::Stream(stream) => stream.read_at(buffer, at).map_err(failed),
        }
    }

    /// Bytes before this offset will not be asked for again.
    pub(crate) fn forget_before(&mut self, at: u64) {
        if let Kind::Stream(stream) = &mut self.kind {
            stream.forget_before(at);
        }
    }

    /// Whether bytes from this offset on can still be read.
    pub(crate) fn reaches_back_to(&self, at: u64) -> bool {
        match &self.kind {
            Kind::File { .. } => true,
            Kind::Stream(stream) => stream.begin <= at,
        }
    }

    /// Looks whether a file was written to since it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<(), Failure> {
        let Kind::File { file, identity: then, .. } = &self.kind else { return Ok(()) };
        let metadata = file
            .metadata()
            .map_err(|error| Failure::local("cannot look at", &self.path, &error))?;
        // The time of change too, which nobody can set back. A chmod in the meantime is a false
        // alarm, and a loud one.
        if Identity::of_metadata(&metadata) == *then { Ok(()) } else { Err(self.changed()) }
    }

    pub(crate) fn changed(&self) -> Failure {
        let message = format!("{} changed while it was read; put it again", shown(&self.path));
        Failure::source_changed(message)
    }
}

/// A stream: a thread reads it, and what was read is kept until the server has it safe.
#[derive(Debug)]
pub(crate) struct Stream {
    pieces: Receiver<io::Result<Vec<u8>>>,
    /// The bytes from `begin` to `end`, in chunks that are full but for the last: however small
    /// the pieces in which they came, they take the room that they need.
    spool: VecDeque<Vec<u8>>,
    begin: u64,
    end: u64,
}

impl Stream {
    fn new(mut input: impl Read + Send + 'static) -> Self {
        let (sender, pieces) = sync_channel(PIECES_AHEAD);
        // Ends with its input, or when nobody takes its pieces any more.
        std::thread::spawn(move || {
            let mut buffer = vec![0; CHUNK_BYTES];
            loop {
                let read = match input.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(count) => Ok(buffer.get(..count).unwrap_or_default().to_vec()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                if sender.send(read).is_err() {
                    return;
                }
            }
        });
        Self { pieces, spool: VecDeque::new(), begin: 0, end: 0 }
    }

    fn read_at(&mut self, buffer: &mut [u8], at: u64) -> io::Result<Got> {
        if at >= self.end {
            match self.pieces.recv_timeout(LOOK) {
                Ok(piece) => self.keep(&piece?),
                Err(RecvTimeoutError::Timeout) => return Ok(Got::Quiet),
                Err(RecvTimeoutError::Disconnected) => return Ok(Got::End),
            }
        }
        let skip = usize::try_from(at.saturating_sub(self.begin)).unwrap_or(usize::MAX);
        let chunk =
            self.spool.get(skip / CHUNK_BYTES).and_then(|chunk| chunk.get(skip % CHUNK_BYTES..));
        let Some(bytes) = chunk else { return Ok(Got::End) };
        let count = bytes.len().min(buffer.len());
        for (to, byte) in buffer.iter_mut().zip(bytes) {
            *to = *byte;
        }
        Ok(Got::Bytes(count))
    }

    fn keep(&mut self, mut piece: &[u8]) {
        self.end = self.end.saturating_add(piece.len() as u64);
        while !piece.is_empty() {
            match self.spool.back_mut().filter(|last| last.len() < CHUNK_BYTES) {
                Some(last) => {
                    let room = CHUNK_BYTES.saturating_sub(last.len()).min(piece.len());
                    let (now, later) = piece.split_at(room);
                    last.extend_from_slice(now);
                    piece = later;
                }
                None => self.spool.push_back(Vec::new()),
            }
        }
    }

    fn forget_before(&mut self, at: u64) {
        while let Some(first) = self.spool.front() {
            let end = self.begin.saturating_add(first.len() as u64);
            // The last one may still grow.
            if end > at || first.len() < CHUNK_BYTES {
                return;
            }
            self.begin = end;
            self.spool.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_can_be_read_again_back_to_what_was_forgotten() {
        let bytes: Vec<u8> = (0..CHUNK_BYTES * 3 + 5).map(|at| (at % 251) as u8).collect();
        let mut source = Source::stream(io::Cursor::new(bytes.clone()));
        let mut read = Vec::new();
        let mut buffer = vec![0; 100_000];
        while let Got::Bytes(count) = source.read_at(&mut buffer, read.len() as u64).unwrap() {
            read.extend_from_slice(&buffer[..count]);
        }
        assert_eq!(read, bytes);
        source.forget_before(CHUNK_BYTES as u64 + 1);
        assert!(source.reaches_back_to(CHUNK_BYTES as u64));
        assert!(!source.reaches_back_to(CHUNK_BYTES as u64 - 1));
        let at = CHUNK_BYTES + 7;
        let Got::Bytes(count) = source.read_at(&mut buffer, at as u64).unwrap() else { panic!() };
        assert_eq!(buffer[..count], bytes[at..at + count]);
    }

    #[test]
    fn a_digest_that_is_interrupted_ends_before_the_end_of_the_file() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("a");
        File::create(&path).unwrap().set_len(100).unwrap();
        let interrupt = Interrupt::default();
        let digest = |interrupt: &Interrupt| {
            let source = Source::open(&path).unwrap();
            source.digest(100, Algorithm::Sha256, &mut [0; 10], interrupt)
        };
        assert!(digest(&interrupt).is_ok());
        interrupt.flag().store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(matches!(digest(&interrupt), Err(Trouble::Interrupted)));
    }

    #[test]
    fn a_stream_in_small_pieces_takes_no_more_room_than_its_bytes() {
        /// A source that gives one byte at a time.
        struct Drip(u32);
        impl Read for Drip {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0 = self.0.saturating_sub(1);
                buffer[0] = self.0 as u8;
                Ok(usize::from(self.0 > 0))
            }
        }
        let mut source = Source::stream(Drip(3_000));
        let mut read: u64 = 0;
        while let Got::Bytes(count) = source.read_at(&mut [0; 10], read).unwrap() {
            read += count as u64;
        }
        assert_eq!(read, 2_999);
        let Kind::Stream(stream) = &source.kind else { panic!() };
        assert_eq!(stream.spool.len(), 1);
        assert!(stream.spool[0].capacity() <= CHUNK_BYTES);
    }
}
