//! Bytes of an open file: read, or moved to a socket by the kernel. Knows nothing of gets.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use ftx_disk::hash::Running;
use ftx_disk::sys;
use ftx_disk::timed::timed;
use ftx_protocol::limits::GRID_BYTES;
use ftx_protocol::{Code, Refusal};
use mio::net::TcpStream;

use super::Reading;
use super::directory::Shared;
use crate::server::stream::Stream;

/// Bytes that the kernel is asked to move in one call.
const SEND_FILE_BYTES: usize = 1024 * 1024;

/// What one step of sending did.
pub(super) enum SendStep {
    Sent(u64),
    /// The file ended early, or could not be read.
    Short(Refusal),
    Socket(io::Error),
}

/// Sends bytes of the file that need not be looked at: by the kernel alone where that can be.
pub(super) fn send(
    reading: &Reading,
    at: u64,
    left: u64,
    stream: &Stream,
    scratch: &mut [u8],
    spent: &mut Duration,
) -> SendStep {
    if let Some(socket) = stream.plain() {
        return timed(spent, || send_file(reading, at, left, socket));
    }
    match read_to_grid(reading, at, left, scratch, spent) {
        Ok(bytes) => match timed(spent, || write(stream, bytes)) {
            Ok(count) => SendStep::Sent(count as u64),
            Err(error) => SendStep::Socket(error),
        },
        Err(refusal) => SendStep::Short(refusal),
    }
}

/// Writes as much as is taken: inside TLS it is taken in steps, and to read the rest of what is here
/// once more would cost as much as to send it.
pub(super) fn write(mut stream: &Stream, bytes: &[u8]) -> io::Result<usize> {
    let mut written: usize = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match stream.write(rest) {
            Ok(0) => break,
            Ok(count) => written = written.saturating_add(count),
            // What was taken counts; the error comes again.
            Err(_) if written > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

/// Has the kernel move bytes from the file to the socket.
fn send_file(reading: &Reading, at: u64, left: u64, socket: &TcpStream) -> SendStep {
    let limit = usize::try_from(left).unwrap_or(usize::MAX).min(SEND_FILE_BYTES);
    match sys::send_file(socket.as_fd(), reading.handle(), at, limit) {
        Ok(0) => SendStep::Short(ended_early()),
        Ok(count) => SendStep::Sent(count as u64),
        Err(error) if is_of_socket(&error) => SendStep::Socket(error),
        // One call reads and sends; what is not the socket's is the disk's.
        Err(error) => {
            let message = format!("reading the file: {error}");
            SendStep::Short(Refusal::new(Code::StorageFailed, message))
        }
    }
}

fn is_of_socket(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock
            | io::ErrorKind::Interrupted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
            | io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
    )
}

/// Reads from `at`, not past the next point of the grid, where the running digest can be saved.
pub(super) fn read_to_grid<'a>(
    reading: &Reading,
    at: u64,
    left: u64,
    scratch: &'a mut [u8],
    spent: &mut Duration,
) -> Result<&'a [u8], Refusal> {
    let to_grid = GRID_BYTES.saturating_sub(at % GRID_BYTES);
    let limit = usize::try_from(left.min(to_grid)).unwrap_or(usize::MAX).min(scratch.len());
    let room = scratch.get_mut(..limit).unwrap_or_default();
    let count = timed(spent, || reading.read_at(room, at))?;
    if count == 0 {
        return Err(ended_early());
    }
    Ok(room.get(..count).unwrap_or_default())
}

pub(super) fn ended_early() -> Refusal {
    Refusal::new(Code::Changed, "the file became shorter while it was read")
}

/// At each point of the grid, so that a get that is resumed after a crash need not read all again.
pub(super) fn remember(shared: &Shared, reading: &Reading, running: &Running) {
    if running.offset().is_multiple_of(GRID_BYTES) {
        shared.store.digests().remember_partial(reading.seen(), running);
    }
}
