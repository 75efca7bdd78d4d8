//! What stands in for the calls that only Linux has.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use ftx_protocol::FileTime;
use rustix::fs::OFlags;
use rustix::io::{Errno, pread, retry_on_intr, write};

use super::{KnownNames, MediumKind};
use crate::aligned::PageAligned;

pub(super) use super::native::look_and_rename as rename_new;
pub(super) use super::walk::open_beneath;

/// How a directory is opened that is [`super::Want::Way`].
pub(super) const WAY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// Read and sent in one call: what fits a core's cache.
const SEND_BYTES: usize = 128 * 1024;

pub(super) fn create_nameless(_: &OwnedFd, _: rustix::fs::Mode) -> io::Result<OwnedFd> {
    Err(Errno::OPNOTSUPP.into())
}

pub(super) fn link_nameless(_: &OwnedFd, _: &OwnedFd, _: &[u8]) -> io::Result<()> {
    Err(Errno::OPNOTSUPP.into())
}

pub(super) fn names_at_once(_: &OwnedFd, _: usize) -> io::Result<Option<KnownNames>> {
    Ok(None)
}

pub(super) fn born(_: &OwnedFd) -> io::Result<Option<FileTime>> {
    Ok(None)
}

pub(super) fn reserve(_: &OwnedFd, _: u64) -> io::Result<()> {
    Err(Errno::OPNOTSUPP.into())
}

/// fsync(2) of macOS does not reach the disk; F_FULLFSYNC does.
pub(super) fn sync(handle: &OwnedFd) -> io::Result<()> {
    #[cfg(target_vendor = "apple")]
    return Ok(rustix::fs::fcntl_fullfsync(handle)?);
    #[cfg(not(target_vendor = "apple"))]
    return Ok(rustix::fs::fsync(handle)?);
}

pub(super) fn sync_file_system(_: &OwnedFd) -> io::Result<()> {
    Err(Errno::OPNOTSUPP.into())
}

/// What is opened for the way is opened as all directories are.
pub(super) fn set_mode_of_way(_: &OwnedFd, _: rustix::fs::Mode) -> io::Result<()> {
    Err(Errno::BADF.into())
}

pub(super) fn medium_kind(_: &OwnedFd) -> io::Result<MediumKind> {
    Ok(MediumKind::Disk)
}

/// What is read outside the served directory, while it is served.
pub const READ_OUTSIDE: &[&str] = &[];

pub(super) fn boot_id() -> Option<String> {
    None
}

/// Moves up to `limit` bytes of a file from `at` on to a socket. Returns how many; 0 is the end of
/// the file.
///
/// # Errors
/// `WouldBlock` when a nonblocking socket takes no more; else what is wrong with either.
pub fn send_file(
    socket: BorrowedFd<'_>,
    file: &OwnedFd,
    at: u64,
    limit: usize,
) -> io::Result<usize> {
    let mut buffer = PageAligned::new(limit.min(SEND_BYTES));
    let count = retry_on_intr(|| pread(file, &mut *buffer, at))?;
    let bytes = buffer.get(..count).unwrap_or_default();
    if bytes.is_empty() {
        return Ok(0);
    }
    Ok(retry_on_intr(|| write(socket, bytes))?)
}
