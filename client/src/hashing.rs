//! A digest that is computed beside the moving of the bytes, by a thread of its own: a core moves
//! them about as fast as another one hashes them.

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use ftx_disk::hash::{Running, Saved};
use ftx_protocol::Digest;
use ftx_protocol::limits::GRID_BYTES;

use crate::failure::Trouble;
use crate::link::READ_BYTES;
use crate::spent::timed;

/// Buffers that are filled or hashed at once. More would leave the cache before they are hashed.
const BUFFERS: usize = 4;

/// The digest, the buffers that its bytes come in, and the states that it passed.
pub(crate) struct Hashing {
    work: SyncSender<Work>,
    /// Buffers that were hashed.
    spare: Receiver<Vec<u8>>,
    /// How many more may be made.
    unmade: usize,
    passed: Receiver<Saved>,
}

enum Work {
    /// Bytes are these ranges of a buffer.
    Bytes { buffer: Vec<u8>, bytes: Vec<Range<usize>> },
    /// Wants the digest so far, and the time that it took.
    Digest(SyncSender<(Digest, Duration)>),
}

/// The thread's side.
struct Hasher {
    running: Running,
    spare: Sender<Vec<u8>>,
    passed: Sender<Saved>,
    spent: Duration,
}

impl Hashing {
    /// Goes on from a running digest.
    pub(crate) fn new(running: Running) -> Self {
        let (work, todo) = sync_channel(BUFFERS);
        let (give_back, spare) = channel();
        let (pass, passed) = channel();
        let hasher = Hasher { running, spare: give_back, passed: pass, spent: Duration::ZERO };
        // Ends when nobody has anything to hash any more.
        std::thread::spawn(move || hasher.run(&todo));
        Self { work, spare, unmade: BUFFERS, passed }
    }

    /// A buffer to be filled. Waits for one that is being hashed if there are enough.
    pub(crate) fn buffer(&mut self) -> Vec<u8> {
        if let Ok(buffer) = self.spare.try_recv() {
            return buffer;
        }
        if let Some(unmade) = self.unmade.checked_sub(1) {
            self.unmade = unmade;
            return vec![0; READ_BYTES];
        }
        // A thread that is gone has told why by its panic; the digest will be missed.
        self.spare.recv().unwrap_or_else(|_| vec![0; READ_BYTES])
    }

    /// Hashes ranges of a buffer, and takes it back.
    pub(crate) fn take(&self, buffer: Vec<u8>, bytes: Vec<Range<usize>>) {
        // As above.
        let _ = self.work.send(Work::Bytes { buffer, bytes });
    }

    /// The next state of those at the points of the grid that were passed.
    pub(crate) fn passed(&self) -> Option<Saved> {
        self.passed.try_recv().ok()
    }

    /// Waits until all is hashed; says the time that it took, too.
    pub(crate) fn digest(&self) -> Result<(Digest, Duration), Trouble> {
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
                Work::Bytes { buffer, bytes } => {
                    for range in bytes {
                        self.update(buffer.get(range).unwrap_or_default());
                    }
                    // Nobody fills it again when the transfer is over.
                    let _ = self.spare.send(buffer);
                }
                Work::Digest(answer) => {
                    // Nobody waits for it when the transfer is over.
                    let _ = answer.send((self.running.digest(), self.spent));
                }
            }
        }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let to_grid = GRID_BYTES.saturating_sub(self.running.offset() % GRID_BYTES);
            let count = usize::try_from(to_grid).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(count);
            timed(&mut self.spent, || self.running.update(now));
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
    use ftx_protocol::Algorithm;

    #[test]
    fn what_is_hashed_beside_has_the_same_digest_and_passes_the_same_points() {
        for algorithm in Algorithm::ALL {
            let bytes: Vec<u8> = (0..READ_BYTES).map(|at| (at % 251) as u8).collect();
            let mut whole = Running::new(algorithm);
            let mut hashing = Hashing::new(Running::new(algorithm));
            for _ in 0..2 * GRID_BYTES / READ_BYTES as u64 {
                let mut buffer = hashing.buffer();
                buffer.copy_from_slice(&bytes);
                hashing.take(buffer, vec![0..7, 9..READ_BYTES]);
                whole.update(&bytes[..7]);
                whole.update(&bytes[9..]);
            }
            assert_eq!(hashing.digest().unwrap().0, whole.digest());
            let passed: Vec<u64> =
                std::iter::from_fn(|| hashing.passed()).map(|saved| saved.offset()).collect();
            assert_eq!(passed, [GRID_BYTES]);
        }
    }
}
