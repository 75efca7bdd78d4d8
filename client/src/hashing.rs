//! A digest that is computed beside the moving of the bytes, by a thread of its own: a core moves
//! them about as fast as another one hashes them. That thread writes them, too, where it is asked to.

use std::io;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use ftx_disk::hash::{Running, Saved};
use ftx_disk::landing::Gap;
use ftx_disk::sys::Native;
use ftx_protocol::Digest;
use ftx_protocol::limits::GRID_BYTES;

use crate::failure::Trouble;
use crate::spent::timed;

/// Buffers that are filled or hashed at once: one for each side, and others that wait. With four a get took 4 to 6 % longer.
const BUFFERS: usize = 8;

/// Bytes of one. Each is a hand-over between two threads, which may sleep: with 256 KiB a get took 8 % longer, and one with
/// BLAKE3 23 %.
const BUFFER_BYTES: usize = 2 * 1024 * 1024;

/// The digest, the buffers that its bytes come in, and the states that it passed.
pub(crate) struct Hashing {
    work: SyncSender<Work>,
    /// Buffers that were hashed.
    done: Receiver<Vec<u8>>,
    /// Of these, those that were seen to be.
    spare: Vec<Vec<u8>>,
    /// How many more may be made.
    unmade: usize,
    passed: Receiver<Saved>,
    failed: Receiver<io::Error>,
}

/// Bytes to be hashed, a range of a buffer.
pub(crate) struct Piece {
    pub(crate) bytes: Range<usize>,
    /// Where they are to be written before that, unless they are written already.
    pub(crate) gap: Option<Gap<Native>>,
}

/// What was computed, and the time that it took.
pub(crate) struct Hashed {
    pub(crate) digest: Digest,
    pub(crate) hash: Duration,
    pub(crate) disk: Duration,
}

enum Work {
    Pieces {
        buffer: Vec<u8>,
        pieces: Vec<Piece>,
    },
    /// Wants the digest so far.
    Digest(SyncSender<Hashed>),
}

/// The thread's side.
struct Hasher {
    running: Running,
    done: Sender<Vec<u8>>,
    passed: Sender<Saved>,
    failed: Sender<io::Error>,
    hash: Duration,
    disk: Duration,
}

impl Hashing {
    /// Goes on from a running digest.
    pub(crate) fn new(running: Running) -> Self {
        let (work, todo) = sync_channel(BUFFERS);
        let (give_back, done) = channel();
        let (pass, passed) = channel();
        let (fail, failed) = channel();
        let hasher = Hasher {
            running,
            done: give_back,
            passed: pass,
            failed: fail,
            hash: Duration::ZERO,
            disk: Duration::ZERO,
        };
        // Ends when nobody has anything to hash any more.
        std::thread::spawn(move || hasher.run(&todo));
        Self { work, done, spare: Vec::new(), unmade: BUFFERS, passed, failed }
    }

    /// A buffer to be filled. Waits for one that is being hashed if there are enough.
    pub(crate) fn buffer(&mut self) -> Vec<u8> {
        self.see_what_is_done();
        if let Some(buffer) = self.spare.pop() {
            return buffer;
        }
        if let Some(unmade) = self.unmade.checked_sub(1) {
            self.unmade = unmade;
            return vec![0; BUFFER_BYTES];
        }
        // A thread that is gone has told why by its panic; the digest will be missed.
        self.done.recv().unwrap_or_else(|_| vec![0; BUFFER_BYTES])
    }

    /// Whether no more than half of the buffers wait for it. When it has fallen further behind, whoever fills them will
    /// have to wait.
    pub(crate) fn keeps_up(&mut self) -> bool {
        self.see_what_is_done();
        self.unmade.saturating_add(self.spare.len()) >= BUFFERS / 2
    }

    fn see_what_is_done(&mut self) {
        while let Ok(buffer) = self.done.try_recv() {
            self.spare.push(buffer);
        }
    }

    /// Writes and hashes pieces of a buffer, and takes it back.
    pub(crate) fn take(&self, buffer: Vec<u8>, pieces: Vec<Piece>) {
        // As above.
        let _ = self.work.send(Work::Pieces { buffer, pieces });
    }

    /// The next state of those at the points of the grid that were passed. What is before it was written.
    pub(crate) fn passed(&self) -> Option<Saved> {
        self.passed.try_recv().ok()
    }

    /// Why something could not be written. All was, if nothing is said once the digest is here.
    pub(crate) fn failed(&self) -> Option<io::Error> {
        self.failed.try_recv().ok()
    }

    /// Waits until all is hashed.
    pub(crate) fn digest(&self) -> Result<Hashed, Trouble> {
        let (sender, answer) = sync_channel(1);
        // As above.
        let _ = self.work.send(Work::Digest(sender));
        answer.recv().map_err(|_| Trouble::Corrupt("the digest was not computed".to_owned()))
    }
}

impl Hasher {
    fn run(mut self, todo: &Receiver<Work>) {
        while let Ok(work) = todo.recv() {
            match work {
                Work::Pieces { buffer, pieces } => {
                    for Piece { bytes, gap } in pieces {
                        self.take(buffer.get(bytes).unwrap_or_default(), gap);
                    }
                    // Nobody fills it again when the transfer is over.
                    let _ = self.done.send(buffer);
                }
                Work::Digest(answer) => {
                    let (digest, hash, disk) = (self.running.digest(), self.hash, self.disk);
                    // Nobody waits for it when the transfer is over.
                    let _ = answer.send(Hashed { digest, hash, disk });
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8], gap: Option<Gap<Native>>) {
        if let Some(gap) = gap
            && let Err(error) = timed(&mut self.disk, || gap.write(bytes))
        {
            // Before a state that would say that it was. Nobody hears of it when the transfer is over.
            let _ = self.failed.send(error);
        }
        self.update(bytes);
    }

    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let to_grid = GRID_BYTES.saturating_sub(self.running.offset() % GRID_BYTES);
            let count = usize::try_from(to_grid).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(count);
            timed(&mut self.hash, || self.running.update(now));
            bytes = later;
            if self.running.offset().is_multiple_of(GRID_BYTES)
                && let Some(saved) = self.running.save()
            {
                // Nobody notes it when the transfer is over.
                let _ = self.passed.send(saved);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ftx_disk::landing::Landing;
    use ftx_protocol::Algorithm;

    #[test]
    fn it_keeps_up_as_long_as_half_of_the_buffers_are_free() {
        let mut hashing = Hashing::new(Running::new(Algorithm::Sha256));
        // The thread waits until the answer is taken.
        let (held_up, answer) = sync_channel(0);
        hashing.work.send(Work::Digest(held_up)).unwrap();
        let mut buffer = hashing.buffer();
        for behind in 0..BUFFERS - 1 {
            assert_eq!(hashing.keeps_up(), behind < BUFFERS / 2);
            hashing.take(buffer, Vec::new());
            buffer = hashing.buffer();
        }
        answer.recv().unwrap();
        hashing.digest().unwrap();
        assert!(hashing.keeps_up());
    }

    #[test]
    fn what_is_hashed_beside_has_the_same_digest_and_passes_the_same_points() {
        for algorithm in Algorithm::ALL {
            let bytes: Vec<u8> = (0..BUFFER_BYTES).map(|at| (at % 251) as u8).collect();
            let mut whole = Running::new(algorithm);
            let mut hashing = Hashing::new(Running::new(algorithm));
            for _ in 0..2 * GRID_BYTES / BUFFER_BYTES as u64 {
                let mut buffer = hashing.buffer();
                buffer.copy_from_slice(&bytes);
                let piece = |bytes| Piece { bytes, gap: None };
                hashing.take(buffer, vec![piece(0..7), piece(9..BUFFER_BYTES)]);
                whole.update(&bytes[..7]);
                whole.update(&bytes[9..]);
            }
            assert_eq!(hashing.digest().unwrap().digest, whole.digest());
            let passed: Vec<u64> =
                std::iter::from_fn(|| hashing.passed()).map(|saved| saved.offset()).collect();
            assert_eq!(passed, [GRID_BYTES]);
        }
    }

    #[test]
    fn what_has_a_gap_is_written_there_before_it_counts_as_hashed() {
        let here = tempfile::tempdir().unwrap();
        let mut landing = Landing::create(Native, here.path(), 1).unwrap();
        let path = here.path().join(landing.part());
        let mut hashing = Hashing::new(Running::new(Algorithm::Blake3));
        let mut whole = Vec::new();
        let mut writes = 0;
        while hashing.passed().is_none() {
            let mut buffer = hashing.buffer();
            let value = (writes % 251) as u8;
            buffer.fill(value);
            whole.extend_from_slice(&buffer);
            // Some have been written already, as where this thread has more to do.
            let gap = match writes % 3 {
                0 => {
                    landing.write(&buffer).unwrap();
                    None
                }
                _ => Some(landing.leave(buffer.len() as u64)),
            };
            hashing.take(buffer, vec![Piece { bytes: 0..BUFFER_BYTES, gap }]);
            writes += 1;
        }
        let on_disk = std::fs::read(&path).unwrap();
        let grid = usize::try_from(GRID_BYTES).unwrap();
        assert!(on_disk[..grid] == whole[..grid], "a point that was passed is on the disk");
        let mut expected = Running::new(Algorithm::Blake3);
        expected.update(&whole);
        assert_eq!(hashing.digest().unwrap().digest, expected.digest());
        assert!(std::fs::read(&path).unwrap() == whole, "and so is all, once the digest is here");
        assert!(hashing.failed().is_none());
    }

    #[test]
    fn what_could_not_be_written_is_told_before_anybody_relies_on_it() {
        let here = tempfile::tempdir().unwrap();
        let mut landing = Landing::create(Native, here.path(), 1).unwrap();
        let mut hashing = Hashing::new(Running::new(Algorithm::Sha256));
        // Where no file can have bytes.
        landing.leave(i64::MAX as u64);
        let buffer = hashing.buffer();
        let gap = Some(landing.leave(buffer.len() as u64));
        hashing.take(buffer, vec![Piece { bytes: 0..BUFFER_BYTES, gap }]);
        hashing.digest().unwrap();
        assert!(hashing.failed().is_some());
    }
}
