//! The disk of this machine, by POSIX calls; what only Linux has is in `platform`.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use ftx_protocol::{FileTime, Kind, Mode, Name};
use rustix::fs::{self, AtFlags, FlockOperation, OFlags, Timespec, Timestamps};
use rustix::io::{Errno, pread, pwrite, retry_on_intr};

use super::{Disk, KnownNames, Medium, MediumKind, Stat, Want, platform};

/// The disk of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Native;

impl Native {
    /// Opens an entry that was just seen to be a regular file, for reading. Follows no symlink and
    /// waits for nothing; whether it is still what was seen is the caller's to see.
    ///
    /// # Errors
    /// That of the system call.
    pub fn open_seen(&self, dir: &OwnedFd, part: &[u8]) -> io::Result<OwnedFd> {
        let flags =
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(retry_on_intr(|| fs::openat(dir, part, flags, fs::Mode::empty()))?)
    }
}

impl Disk for Native {
    type Handle = OwnedFd;
    type Names = Names;

    fn open_root(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(retry_on_intr(|| fs::open(path, flags, fs::Mode::empty()))?)
    }

    fn open_beneath(&self, root: &OwnedFd, name: &Name, want: Want) -> io::Result<OwnedFd> {
        platform::open_beneath(root, name, want)
    }

    fn open_part(&self, dir: &OwnedFd, part: &[u8], want: Want) -> io::Result<OwnedFd> {
        let flags = match want {
            Want::File => OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY,
            Want::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
            Want::Way => platform::WAY,
        };
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(retry_on_intr(|| fs::openat(dir, part, flags, fs::Mode::empty()))?)
    }

    fn open_parent(&self, dir: &OwnedFd, want: Want) -> io::Result<OwnedFd> {
        let flags = match want {
            Want::File | Want::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
            Want::Way => platform::WAY,
        };
        let flags = flags | OFlags::CLOEXEC;
        Ok(retry_on_intr(|| fs::openat(dir, "..", flags, fs::Mode::empty()))?)
    }

    fn create(&self, dir: &OwnedFd, part: &[u8], mode: Mode) -> io::Result<OwnedFd> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(retry_on_intr(|| fs::openat(dir, part, flags, permissions(mode)))?)
    }

    fn create_nameless(&self, dir: &OwnedFd, mode: Mode) -> io::Result<OwnedFd> {
        platform::create_nameless(dir, permissions(mode))
    }

    fn link_nameless(&self, file: &OwnedFd, dir: &OwnedFd, part: &[u8]) -> io::Result<()> {
        platform::link_nameless(file, dir, part)
    }

    fn make_directory(&self, dir: &OwnedFd, part: &[u8], mode: Mode) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::mkdirat(dir, part, permissions(mode)))?)
    }

    fn rename(
        &self,
        from: &OwnedFd,
        from_part: &[u8],
        to: &OwnedFd,
        to_part: &[u8],
    ) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::renameat(from, from_part, to, to_part))?)
    }

    fn rename_new(
        &self,
        from: &OwnedFd,
        from_part: &[u8],
        to: &OwnedFd,
        to_part: &[u8],
    ) -> io::Result<()> {
        platform::rename_new(from, from_part, to, to_part)
    }

    fn link(&self, dir: &OwnedFd, part: &[u8], new_part: &[u8]) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::linkat(dir, part, dir, new_part, AtFlags::empty()))?)
    }

    fn remove(&self, dir: &OwnedFd, part: &[u8]) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::unlinkat(dir, part, AtFlags::empty()))?)
    }

    fn remove_directory(&self, dir: &OwnedFd, part: &[u8]) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::unlinkat(dir, part, AtFlags::REMOVEDIR))?)
    }

    fn stat_part(&self, dir: &OwnedFd, part: &[u8]) -> io::Result<Stat> {
        let stat = retry_on_intr(|| fs::statat(dir, part, AtFlags::SYMLINK_NOFOLLOW))?;
        Ok(from_stat(&stat))
    }

    fn stat(&self, handle: &OwnedFd) -> io::Result<Stat> {
        Ok(from_stat(&retry_on_intr(|| fs::fstat(handle))?))
    }

    fn born(&self, handle: &OwnedFd) -> io::Result<Option<FileTime>> {
        platform::born(handle)
    }

    fn names(&self, dir: &OwnedFd) -> io::Result<Names> {
        Ok(Names(fs::Dir::read_from(dir)?))
    }

    fn names_at_once(&self, dir: &OwnedFd, piece_bytes: usize) -> io::Result<Option<KnownNames>> {
        platform::names_at_once(dir, piece_bytes)
    }

    fn read_at(&self, file: &OwnedFd, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        Ok(retry_on_intr(|| pread(file, &mut *buffer, at))?)
    }

    fn write_at(&self, file: &OwnedFd, bytes: &[u8], at: u64) -> io::Result<usize> {
        Ok(retry_on_intr(|| pwrite(file, bytes, at))?)
    }

    fn truncate(&self, file: &OwnedFd, size: u64) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::ftruncate(file, size))?)
    }

    fn reserve(&self, file: &OwnedFd, size: u64) -> io::Result<()> {
        platform::reserve(file, size)
    }

    fn set_mode(&self, file: &OwnedFd, mode: Mode) -> io::Result<()> {
        match retry_on_intr(|| fs::fchmod(file, permissions(mode))) {
            Err(Errno::BADF) => platform::set_mode_of_way(file, permissions(mode)),
            result => Ok(result?),
        }
    }

    fn set_modified(&self, file: &OwnedFd, time: FileTime) -> io::Result<()> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: fs::UTIME_NOW },
            last_modification: Timespec {
                tv_sec: time.seconds(),
                tv_nsec: time.nanoseconds().into(),
            },
        };
        Ok(retry_on_intr(|| fs::futimens(file, &times))?)
    }

    fn sync(&self, handle: &OwnedFd) -> io::Result<()> {
        // Not repeated when interrupted: after any error nothing is known about what survives.
        platform::sync(handle)
    }

    fn sync_file_system(&self, handle: &OwnedFd) -> io::Result<()> {
        platform::sync_file_system(handle)
    }

    fn lock(&self, handle: &OwnedFd) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::flock(handle, FlockOperation::NonBlockingLockExclusive))?)
    }

    fn lock_shared(&self, handle: &OwnedFd) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::flock(handle, FlockOperation::NonBlockingLockShared))?)
    }

    fn medium(&self, handle: &OwnedFd) -> io::Result<Medium> {
        let stat = retry_on_intr(|| fs::fstatvfs(handle))?;
        let kind = if stat.f_flag.contains(fs::StatVfsMountFlags::RDONLY) {
            MediumKind::ReadOnly
        } else {
            platform::medium_kind(handle)?
        };
        Ok(Medium { free: stat.f_bavail.saturating_mul(stat.f_frsize), kind })
    }

    fn boot_id(&self) -> Option<String> {
        platform::boot_id()
    }
}

/// See [`Disk::Names`].
pub struct Names(fs::Dir);

impl Iterator for Names {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.0.next()? {
                Ok(entry) => match entry.file_name().to_bytes() {
                    b"." | b".." => {}
                    name => return Some(Ok(name.to_vec())),
                },
                Err(error) => return Some(Err(error.into())),
            }
        }
    }
}

/// Raises the soft limit of open descriptors to the hard one, and returns it.
///
/// # Errors
/// When the system refuses; the old limit stays.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum.unwrap_or(u64::MAX))
}

/// Syncs the directory that a path is in: what is stored in a directory is as durable as the directory itself.
///
/// # Errors
/// When the system refuses.
pub fn sync_above(path: &Path) -> io::Result<()> {
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    std::fs::File::open(above.unwrap_or(Path::new(".")))?.sync_all()
}

/// Makes a directory with these permissions, and those above it that are not there, so that they last. None of them is
/// there when that fails: whoever tries again would take it for one that lasts.
///
/// # Errors
/// When the system refuses.
pub fn make_durably(path: &Path, mode: u32) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|path| !path.exists()).collect();
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    let lasts = made.and_then(|()| missing.iter().copied().try_for_each(sync_above));
    lasts.inspect_err(|_| {
        for path in missing {
            // One that was not made, or that somebody else has put something in.
            let _ = std::fs::remove_dir(path);
        }
    })
}

/// [`Disk::rename_new`] in two steps.
pub(super) fn look_and_rename(
    from: &OwnedFd,
    from_part: &[u8],
    to: &OwnedFd,
    to_part: &[u8],
) -> io::Result<()> {
    match Native.stat_part(to, to_part) {
        Ok(_) => Err(Errno::EXIST.into()),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {
            Native.rename(from, from_part, to, to_part)
        }
        Err(error) => Err(error),
    }
}

fn permissions(mode: Mode) -> fs::Mode {
    fs::Mode::from_bits_truncate(mode.bits() as fs::RawMode)
}

// The widths of these fields differ from system to system.
#[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
fn from_stat(stat: &fs::Stat) -> Stat {
    let kind = match fs::FileType::from_raw_mode(stat.st_mode) {
        fs::FileType::RegularFile => Kind::File,
        fs::FileType::Directory => Kind::Directory,
        fs::FileType::Symlink => Kind::Symlink,
        _ => Kind::Special,
    };
    Stat {
        kind,
        device: stat.st_dev as u64,
        inode: stat.st_ino as u64,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: Mode::new(u32::from(stat.st_mode)),
        owner: stat.st_uid,
        modified: file_time(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        changed: file_time(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
    }
}

/// A time that a file system made up beyond what the protocol can say is shown as the nearest one
/// that it can.
fn file_time(seconds: i64, nanoseconds: i64) -> FileTime {
    let nanoseconds = u32::try_from(nanoseconds).unwrap_or(0).min(999_999_999);
    FileTime::nearest(seconds, nanoseconds)
}
