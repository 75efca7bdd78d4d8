//! The calls that only Linux has.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use ftx_protocol::{FileTime, Name};
use rustix::fs::{self, AtFlags, FallocateFlags, OFlags, ResolveFlags, StatxFlags};
use rustix::io::{Errno, retry_on_intr};

use super::native::look_and_rename;
use super::{KnownNames, MediumKind, Want, walk};

/// openat2 says EAGAIN when a rename raced a `..` in a symlink. Each try is a fresh race; losing
/// so many in a row is somebody's purpose.
const RESOLVE_TRIES: u32 = 128;

/// The unit of `st_blocks`, whatever the file system's own is.
const STAT_BLOCK_BYTES: u64 = 512;

const TMPFS_MAGIC: u64 = 0x0102_1994;
const RAMFS_MAGIC: u64 = 0x8584_58f6;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is read outside the served directory, while it is served.
pub const READ_OUTSIDE: &[&str] = &[BOOT_ID];

/// How a directory is opened that is [`Want::Way`].
pub(super) const WAY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// openat2 is not there: an old kernel, or a sandbox that does not know it.
static WITHOUT_OPENAT2: AtomicBool = AtomicBool::new(false);

/// What getdents64 says of an entry before its name.
const ENTRY_HEAD_BYTES: usize = 19;

/// What it says of one at most: the kernel takes no name of as much as `PATH_MAX` from a file system.
const ENTRY_MAX_BYTES: usize = (ENTRY_HEAD_BYTES + 4_096).next_multiple_of(8);

/// What it says of one with such a name, which a NUL follows.
const fn entry_bytes(name: &[u8]) -> usize {
    ENTRY_HEAD_BYTES.saturating_add(name.len()).saturating_add(1).next_multiple_of(8)
}

/// getdents64 has the directory to itself as long as it runs, so what one call tells is of one moment. It is all, if
/// there was room for one more entry and a second call tells of none: what the first left out for want of room may be
/// where the second does not come to, if others replace it in between.
pub(super) fn names_at_once(dir: &OwnedFd, piece_bytes: usize) -> io::Result<Option<KnownNames>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let own = retry_on_intr(|| fs::openat(dir, ".", flags, fs::Mode::empty()))?;
    let mut buffer = Vec::with_capacity(piece_bytes);
    let mut piece = fs::RawDir::new(&own, buffer.spare_capacity_mut());
    let mut names = KnownNames::default();
    let mut room_bytes = Some(piece_bytes);
    while let Some(entry) = piece.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        room_bytes = room_bytes.and_then(|room| room.checked_sub(entry_bytes(name)));
        if !matches!(name, b"." | b"..") {
            names.push(name);
        }
        if piece.is_buffer_empty() {
            break;
        }
    }
    let had_room = room_bytes.is_some_and(|room| room >= ENTRY_MAX_BYTES);
    Ok((had_room && piece.next().transpose()?.is_none()).then_some(names))
}

pub(super) fn open_beneath(root: &OwnedFd, name: &Name, want: Want) -> io::Result<OwnedFd> {
    if WITHOUT_OPENAT2.load(Ordering::Relaxed) {
        return walk::open_beneath(root, name, want);
    }
    match want {
        Want::File => {}
        Want::Directory => {
            return resolve(root, name, want, OFlags::RDONLY | OFlags::DIRECTORY);
        }
        Want::Way => return resolve(root, name, want, WAY),
    }
    // A look before the opening: opening a FIFO would release whoever waits to write into it, and
    // opening a device may do anything.
    let seen = resolve(root, name, want, OFlags::PATH)?;
    let kind = fs::FileType::from_raw_mode(retry_on_intr(|| fs::fstat(&seen))?.st_mode);
    match kind {
        fs::FileType::RegularFile | fs::FileType::Directory => {
            resolve(root, name, want, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
        }
        _ => Ok(seen),
    }
}

pub(super) fn born(handle: &OwnedFd) -> io::Result<Option<FileTime>> {
    let wanted = StatxFlags::BTIME;
    let found = match retry_on_intr(|| fs::statx(handle, c"", AtFlags::EMPTY_PATH, wanted)) {
        // Older than the call, or a sandbox that does not know it.
        Err(Errno::NOSYS | Errno::PERM) => return Ok(None),
        found => found?,
    };
    let is_known = StatxFlags::from_bits_retain(found.stx_mask).contains(wanted);
    let born = found.stx_btime;
    Ok(is_known.then(|| FileTime::nearest(born.tv_sec, born.tv_nsec)))
}

fn resolve(root: &OwnedFd, name: &Name, want: Want, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..RESOLVE_TRIES {
        let opened =
            retry_on_intr(|| fs::openat2(root, name.as_bytes(), flags, fs::Mode::empty(), resolve));
        match opened {
            Err(Errno::AGAIN) => {}
            Err(Errno::NOSYS) => {
                WITHOUT_OPENAT2.store(true, Ordering::Relaxed);
                return walk::open_beneath(root, name, want);
            }
            // A sandbox may say EPERM for calls that it does not know; the walk tells which it is.
            Err(Errno::PERM) => return walk::open_beneath(root, name, want),
            result => return Ok(result?),
        }
    }
    Err(Errno::AGAIN.into())
}

pub(super) fn rename_new(
    from: &OwnedFd,
    from_part: &[u8],
    to: &OwnedFd,
    to_part: &[u8],
) -> io::Result<()> {
    let flags = fs::RenameFlags::NOREPLACE;
    match retry_on_intr(|| fs::renameat_with(from, from_part, to, to_part, flags)) {
        // A file system that cannot; or an old kernel.
        Err(Errno::INVAL | Errno::NOSYS) => look_and_rename(from, from_part, to, to_part),
        result => Ok(result?),
    }
}

pub(super) fn create_nameless(dir: &OwnedFd, mode: fs::Mode) -> io::Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(retry_on_intr(|| fs::openat(dir, c".", flags, mode))?)
}

/// Without a capability only since Linux 6.10, and only for whoever opened the file.
pub(super) fn link_nameless(file: &OwnedFd, dir: &OwnedFd, part: &[u8]) -> io::Result<()> {
    Ok(retry_on_intr(|| fs::linkat(file, c"", dir, part, AtFlags::EMPTY_PATH))?)
}

/// A tmpfs would make every page now, for as long as a fifth of the whole transfer takes, with
/// nothing else going on; there it is only looked whether there is room, and nothing is reserved.
pub(super) fn reserve(file: &OwnedFd, size: u64) -> io::Result<()> {
    if file_system(file)? == TMPFS_MAGIC {
        let room = retry_on_intr(|| fs::fstatvfs(file))?;
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        let blocks = retry_on_intr(|| fs::fstat(file))?.st_blocks;
        let has = u64::try_from(blocks).unwrap_or(0).saturating_mul(STAT_BLOCK_BYTES);
        // One that is mounted without a limit has no blocks.
        let fits = room.f_blocks == 0 || free.saturating_add(has) >= size;
        return Err(if fits { Errno::OPNOTSUPP } else { Errno::NOSPC }.into());
    }
    Ok(retry_on_intr(|| fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, size))?)
}

pub(super) fn sync(handle: &OwnedFd) -> io::Result<()> {
    Ok(fs::fsync(handle)?)
}

pub(super) fn sync_file_system(handle: &OwnedFd) -> io::Result<()> {
    Ok(fs::syncfs(handle)?)
}

/// fchmod(2) does not take what was opened for the way; by the name that the process has for it chmod(2) finds it,
/// and follows nothing else.
pub(super) fn set_mode_of_way(way: &OwnedFd, mode: fs::Mode) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", way.as_raw_fd());
    Ok(retry_on_intr(|| fs::chmod(path.as_str(), mode))?)
}

pub(super) fn medium_kind(handle: &OwnedFd) -> io::Result<MediumKind> {
    Ok(match file_system(handle)? {
        TMPFS_MAGIC | RAMFS_MAGIC => MediumKind::Memory,
        _ => MediumKind::Disk,
    })
}

/// The magic number of statfs(2).
fn file_system(handle: &OwnedFd) -> io::Result<u64> {
    let stat = retry_on_intr(|| fs::fstatfs(handle))?;
    // The type of the field differs between architectures; the magic numbers have 32 bits.
    Ok((stat.f_type as u64) & 0xffff_ffff)
}

pub(super) fn boot_id() -> Option<String> {
    let text = std::fs::read_to_string(BOOT_ID).ok()?;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

/// Moves up to `limit` bytes of a file from `at` on to a socket, inside the kernel. Returns how
/// many; 0 is the end of the file.
///
/// # Errors
/// `WouldBlock` when a nonblocking socket takes no more; else what is wrong with either.
pub fn send_file(
    socket: BorrowedFd<'_>,
    file: &OwnedFd,
    at: u64,
    limit: usize,
) -> io::Result<usize> {
    let mut offset = at;
    Ok(retry_on_intr(|| fs::sendfile(socket, file, Some(&mut offset), limit))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_all_only_where_there_was_room_for_one_more() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["a", "name", "a-name-that-is-longer"];
        names.iter().for_each(|name| std::fs::write(dir.path().join(name), "").unwrap());
        let handle = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        let all_bytes: usize =
            [".", ".."].iter().chain(&names).map(|n| entry_bytes(n.as_bytes())).sum();
        let told = |piece_bytes| {
            let told = names_at_once(&handle, piece_bytes).unwrap();
            told.map(|names| {
                let mut names: Vec<_> = names.collect();
                names.sort_by_key(Vec::len);
                names
            })
        };
        let enough = all_bytes + ENTRY_MAX_BYTES;
        assert_eq!(told(enough), Some(names.map(|name| name.as_bytes().to_vec()).to_vec()));
        for piece_bytes in [all_bytes, enough - 1] {
            assert_eq!(told(piece_bytes), None, "{piece_bytes}");
        }
    }
}
