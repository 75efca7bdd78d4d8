//! The system calls that storage makes: the one boundary between ftx and an operating system.
//!
//! Everything above works on [`Disk`] and never on a path, a descriptor number or `std::fs`.
//! Behind it stand the real disk ([`Native`]: Linux, or a portable one) and, for tests, a
//! simulated one that fails on request and forgets at a crash what was not synced.
//!
//! A [`Disk`] makes exactly the calls it is asked for. It knows no staging, no journal, no order:
//! which call comes after which is the store's to decide and to answer for.

use std::io;
use std::path::Path;

use ftx_protocol::{FileTime, Kind, Mode, Name};

#[cfg(all(target_os = "linux", not(ftx_portable)))]
#[path = "linux.rs"]
mod platform;
#[cfg(not(all(target_os = "linux", not(ftx_portable))))]
#[path = "portable.rs"]
mod platform;

mod known;
mod native;
mod walk;

pub use known::KnownNames;
pub use native::{Native, make_durably, raise_descriptor_limit, sync_above};
pub use platform::{READ_OUTSIDE, send_file};
pub use walk::LINKS_MAX;

/// The calls. A `part` is one component (no `/`, not `.` or `..`), so such a call resolves
/// nothing and follows nothing: it acts in the directory that is held open, on that entry.
///
/// Interrupted calls are repeated inside; short reads and writes are handed up. All methods
/// return the error of the system call as it came.
pub trait Disk: Clone + Send + Sync + 'static {
    /// A file or directory held open. Closed when dropped.
    type Handle: Send + Sync + 'static;

    /// The names in a directory, without `.` and `..`, read as they are asked for.
    type Names: Iterator<Item = io::Result<Vec<u8>>> + Send + 'static;

    /// Opens the served directory, by the path that the operator typed: the only call that takes
    /// a path as the process sees it, and the only one that may leave what is held.
    fn open_root(&self, path: &Path) -> io::Result<Self::Handle>;

    /// Opens what `name` leads to below `root`, for reading. Symlinks are followed as long as they
    /// stay beneath `root`; magic links never. Leaving `root` is `EXDEV`. A FIFO or device is not
    /// opened, because that may have an effect: the handle is only good for [`Disk::stat`], or the
    /// error is `ENXIO`.
    fn open_beneath(
        &self,
        root: &Self::Handle,
        name: &Name,
        want: Want,
    ) -> io::Result<Self::Handle>;

    /// Opens an existing regular file or directory `part` of `dir`, not following a symlink
    /// (`ELOOP`, or `ENOTDIR` for a directory). Files for reading and writing.
    fn open_part(&self, dir: &Self::Handle, part: &[u8], want: Want) -> io::Result<Self::Handle>;

    /// Opens the directory that a directory is in, wherever that is: to sync it, or to see which it is.
    fn open_parent(&self, dir: &Self::Handle, want: Want) -> io::Result<Self::Handle>;

    /// Makes a new empty file for reading and writing, never opening what is there (`EEXIST`).
    fn create(&self, dir: &Self::Handle, part: &[u8], mode: Mode) -> io::Result<Self::Handle>;

    /// Makes a new empty file for reading and writing that is in no directory, on the file system of `dir`. It is
    /// gone with its handle, unless it is given a name. `EOPNOTSUPP`, or another error, where there is no such thing.
    fn create_nameless(&self, dir: &Self::Handle, mode: Mode) -> io::Result<Self::Handle>;

    /// Gives a file that was made without a name its first one, where nothing may have it (`EEXIST`).
    fn link_nameless(&self, file: &Self::Handle, dir: &Self::Handle, part: &[u8])
    -> io::Result<()>;

    /// Makes a directory (`EEXIST` when the part is taken).
    fn make_directory(&self, dir: &Self::Handle, part: &[u8], mode: Mode) -> io::Result<()>;

    /// Moves an entry, replacing an old file of that name atomically.
    fn rename(
        &self,
        from: &Self::Handle,
        from_part: &[u8],
        to: &Self::Handle,
        to_part: &[u8],
    ) -> io::Result<()>;

    /// As [`Disk::rename`], where nothing may have the new name (`EEXIST`). A system that cannot
    /// look and rename in one step looks first.
    fn rename_new(
        &self,
        from: &Self::Handle,
        from_part: &[u8],
        to: &Self::Handle,
        to_part: &[u8],
    ) -> io::Result<()>;

    /// Gives a file a second name in the same directory (`EEXIST` when it is taken).
    fn link(&self, dir: &Self::Handle, part: &[u8], new_part: &[u8]) -> io::Result<()>;

    /// Removes an entry that is not a directory.
    fn remove(&self, dir: &Self::Handle, part: &[u8]) -> io::Result<()>;

    /// Removes an empty directory (`ENOTEMPTY`, or `EEXIST`, when it is not).
    fn remove_directory(&self, dir: &Self::Handle, part: &[u8]) -> io::Result<()>;

    /// What the entry is, not following a symlink.
    fn stat_part(&self, dir: &Self::Handle, part: &[u8]) -> io::Result<Stat>;

    /// What the open handle is.
    fn stat(&self, handle: &Self::Handle) -> io::Result<Stat>;

    /// When it was made, by the kernel's clock, which nobody can set: two that had the same inode one after
    /// the other differ in this. `None` where the system or the file system does not say.
    fn born(&self, handle: &Self::Handle) -> io::Result<Option<FileTime>>;

    /// Begins to read the names in a directory.
    fn names(&self, dir: &Self::Handle) -> io::Result<Self::Names>;

    /// All names in a directory as they were at one moment, without `.` and `..`. `None` where the system
    /// cannot, or where `piece_bytes` are not enough to be sure that these are all.
    fn names_at_once(
        &self,
        dir: &Self::Handle,
        piece_bytes: usize,
    ) -> io::Result<Option<KnownNames>>;

    /// Reads at an offset; 0 is the end of the file.
    fn read_at(&self, file: &Self::Handle, buffer: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes at an offset; may write less than all.
    fn write_at(&self, file: &Self::Handle, bytes: &[u8], at: u64) -> io::Result<usize>;

    /// Cuts or extends a file, giving back what was reserved past the end.
    fn truncate(&self, file: &Self::Handle, size: u64) -> io::Result<()>;

    /// Reserves room for the first `size` bytes without changing the file's size. A file system
    /// that cannot says `EOPNOTSUPP`; one in memory says that too, and `ENOSPC` if there is no room now.
    fn reserve(&self, file: &Self::Handle, size: u64) -> io::Result<()>;

    /// Sets the permission bits, and clears setuid, setgid and sticky; of a [`Want::Way`] too.
    fn set_mode(&self, file: &Self::Handle, mode: Mode) -> io::Result<()>;

    /// Sets the time of last modification; the time of last access becomes now.
    fn set_modified(&self, file: &Self::Handle, time: FileTime) -> io::Result<()>;

    /// Makes a file's bytes and metadata, or a directory's entries, survive a power cut
    /// (`fsync`; on macOS `F_FULLFSYNC`). After an error nothing is known about what survives.
    fn sync(&self, handle: &Self::Handle) -> io::Result<()>;

    /// The same for all that is on the file system of `handle`, as for a directory that cannot be opened to be
    /// synced (`syncfs`). `EOPNOTSUPP` where there is no such thing.
    fn sync_file_system(&self, handle: &Self::Handle) -> io::Result<()>;

    /// Takes the exclusive lock of an open file, for as long as the handle lives; `EWOULDBLOCK`
    /// when another process has it.
    fn lock(&self, handle: &Self::Handle) -> io::Result<()>;

    /// The same for a shared lock, which others may have too. An exclusive one that the handle has becomes a
    /// shared one; `EWOULDBLOCK` also when another process was faster at that, and then there is none.
    fn lock_shared(&self, handle: &Self::Handle) -> io::Result<()>;

    /// What the file system of an open handle can do now.
    fn medium(&self, handle: &Self::Handle) -> io::Result<Medium>;

    /// Tells one boot of the machine from the next; `None` when the system does not say.
    fn boot_id(&self) -> Option<String>;
}

/// What the caller of an open expects to find. Anything else that is there is an error of the
/// caller's making out of [`Disk::stat`], except that a directory is asked for as such (`ENOTDIR`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// A file; opened without waiting and without becoming a controlling terminal.
    File,
    /// A directory.
    Directory,
    /// A directory on the way to something: to see which it is, and to go on from it. On Linux it need not be
    /// readable for that, and cannot be read or synced.
    Way,
}

/// The part of `struct stat` that storage uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// The file system it is on.
    pub device: u64,
    /// Its number on that file system.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: Mode,
    /// Owner's user id.
    pub owner: u32,
    /// Last modification of the bytes.
    pub modified: FileTime,
    /// Last change of bytes or metadata, by the kernel's clock. Nobody can set it.
    pub changed: FileTime,
}

/// What a file system can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Medium {
    /// Bytes that this process may still write.
    pub free: u64,
    /// Where the bytes are.
    pub kind: MediumKind,
}

/// Where a file system keeps its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediumKind {
    /// On something that survives a power cut.
    Disk,
    /// In memory (tmpfs, ramfs).
    Memory,
    /// Mounted read-only, on whatever.
    ReadOnly,
}
