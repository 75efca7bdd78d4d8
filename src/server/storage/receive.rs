//! A large body, from the socket to its upload. Knows one socket and one upload, and nothing of
//! jobs or slots.
//!
//! Where a core is free the digest is computed by a second thread, beside the reading and writing:
//! the two take about as long.

use std::io::{self, ErrorKind, Read};
use std::sync::mpsc::{Receiver, Sender, channel};

use ftx_disk::store::Hashing;
use ftx_protocol::Refusal;
use mio::net::TcpStream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::workers::{Crowd, Desk};
use super::{ReceiveEnd, Upload};
use crate::server::buffers::BUFFER_BYTES;

/// Taken in one go while others wait for a worker.
const SLICE_BYTES: u64 = 1024 * 1024;

/// Less than this is not worth a second thread: making one takes as long as hashing it.
const BESIDE_BYTES_MIN: u64 = 2 * 1024 * 1024;

/// A body of which so much came without a break comes fast.
const FAST_BYTES: u64 = 512 * 1024;

/// How long a worker waits for more of a body that comes fast, before it gives the socket back: a sender that
/// is a little slower than the disk would cost two hand-overs for each of its segments.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// How a body came in last. Decides whether waiting for more is worth holding a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Slow,
    Fast,
}

/// What one go brought.
pub(super) struct Received {
    /// Bytes that are gone from the socket.
    pub(super) count: u64,
    pub(super) end: ReceiveEnd,
    /// Whether they could be stored.
    pub(super) stored: Result<(), Refusal>,
}

impl Received {
    pub(super) fn flow(&self) -> Flow {
        if self.count >= FAST_BYTES { Flow::Fast } else { Flow::Slow }
    }
}

/// Takes up to `size` bytes; not past the next point of the grid, and less where others wait.
pub(super) fn receive(
    upload: &mut Upload,
    socket: &TcpStream,
    size: u64,
    flow: Flow,
    desk: &mut Desk<'_>,
) -> Received {
    let most = match desk.crowd {
        Crowd::Alone => size,
        Crowd::Others => size.min(SLICE_BYTES),
    };
    let size = most.min(upload.to_grid());
    let mut source = Source { socket, flow, left: size, count: 0 };
    let (stored, end) = match (desk.crowd, flow) {
        (Crowd::Alone, Flow::Fast) if size >= BESIDE_BYTES_MIN => {
            hash_beside(upload, &mut source, desk.scratch)
        }
        _ => hash_here(upload, &mut source, desk.scratch),
    };
    Received { count: source.count, end, stored }
}

/// The socket, as far as it may be read.
struct Source<'a> {
    socket: &'a TcpStream,
    flow: Flow,
    left: u64,
    count: u64,
}

impl Source<'_> {
    /// Fills a buffer. `Err`: there is no more for now, behind what is in the buffer.
    fn fill(&mut self, buffer: &mut [u8]) -> (usize, Result<(), ReceiveEnd>) {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = buffer.get_mut(..room).unwrap_or_default();
        let mut filled: usize = 0;
        let end = loop {
            let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) else {
                break if self.left == 0 { Err(ReceiveEnd::Complete) } else { Ok(()) };
            };
            match self.socket.read(room) {
                Ok(0) => break Err(ReceiveEnd::Ended),
                Ok(count) => {
                    filled = filled.saturating_add(count);
                    self.left = self.left.saturating_sub(count as u64);
                    self.count = self.count.saturating_add(count as u64);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => match self.wait() {
                    Ok(Waited::Ready) => {}
                    Ok(Waited::InVain) => break Err(ReceiveEnd::Blocked),
                    Err(_) => break Err(ReceiveEnd::Ended),
                },
                Err(_) => break Err(ReceiveEnd::Ended),
            }
        };
        (filled, end)
    }

    fn wait(&self) -> io::Result<Waited> {
        if self.flow == Flow::Slow {
            return Ok(Waited::InVain);
        }
        let mut wanted = [PollFd::new(self.socket, PollFlags::IN)];
        match poll(&mut wanted, Some(&PATIENCE)) {
            Ok(0) => Ok(Waited::InVain),
            // A signal is as good a reason to look.
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(Waited::Ready),
            Err(error) => Err(error.into()),
        }
    }
}

enum Waited {
    Ready,
    InVain,
}

fn hash_here(
    upload: &mut Upload,
    source: &mut Source<'_>,
    scratch: &mut [u8],
) -> (Result<(), Refusal>, ReceiveEnd) {
    let buffer = scratch.get_mut(..BUFFER_BYTES).unwrap_or_default();
    loop {
        let (filled, end) = source.fill(buffer);
        let bytes = buffer.get(..filled).unwrap_or_default();
        let stored = upload.halves().and_then(|(mut writing, mut hashing)| {
            writing.write(bytes)?;
            hashing.update(bytes);
            Ok(())
        });
        match (stored, end) {
            (Ok(()), Ok(())) => {}
            (stored, end) => return (stored, end.err().unwrap_or(ReceiveEnd::Unwanted)),
        }
    }
}

/// A buffer, and how much of it is filled.
type Filled<'a> = (&'a mut [u8], usize);

fn hash_beside(
    upload: &mut Upload,
    source: &mut Source<'_>,
    scratch: &mut [u8],
) -> (Result<(), Refusal>, ReceiveEnd) {
    let (mut writing, hashing) = match upload.halves() {
        Ok(halves) => halves,
        Err(refusal) => return (Err(refusal), ReceiveEnd::Unwanted),
    };
    let (give_back, spare) = channel();
    for buffer in scratch.chunks_mut(BUFFER_BYTES) {
        // The other end is here.
        let _ = give_back.send(buffer);
    }
    let (pass, passed) = channel::<Filled<'_>>();
    // `pass` goes at the end of the closure, and with it the other thread.
    std::thread::scope(move |scope| {
        let work = move || hash(hashing, &passed, &give_back);
        if std::thread::Builder::new().name("hash".into()).spawn_scoped(scope, work).is_err() {
            return (Ok(()), ReceiveEnd::Blocked);
        }
        loop {
            let Ok(buffer) = spare.recv() else { return (Ok(()), ReceiveEnd::Ended) };
            let (filled, end) = source.fill(buffer);
            let stored = writing.write(buffer.get(..filled).unwrap_or_default());
            // One that is gone has told why by its panic; the digest will be missed.
            let _ = pass.send((buffer, filled));
            match (stored, end) {
                (Ok(()), Ok(())) => {}
                (stored, end) => return (stored, end.err().unwrap_or(ReceiveEnd::Unwanted)),
            }
        }
    })
}

fn hash<'a>(mut hashing: Hashing<'_>, passed: &Receiver<Filled<'a>>, spare: &Sender<&'a mut [u8]>) {
    while let Ok((buffer, filled)) = passed.recv() {
        hashing.update(buffer.get(..filled).unwrap_or_default());
        // Nobody fills it again when the go is over.
        let _ = spare.send(buffer);
    }
}
