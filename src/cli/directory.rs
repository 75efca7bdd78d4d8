//! A directory of the server's own, such as the one of its key: held open, so that what was looked at is what is
//! used.
//!
//! A server that root starts for another user needs some of it before it is that user. Whoever owns a directory on
//! the way could lead root elsewhere, by a link, at any moment. So root goes the way part by part, and never from
//! somebody's directory, or by somebody's link, into what belongs to another; and what it makes is the owner's of
//! the directory that it is in. Knows nothing of what the files are for.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path};
use std::time::SystemTime;

use ftx::server::access::file_time;
use ftx_disk::landing::{Landing, Replace};
use ftx_disk::sys::{LINKS_MAX, Native, make_durably};
use ftx_protocol::{Durability, Escaped};
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid, geteuid};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A name itself: not what a link leads to, and a FIFO keeps nobody waiting.
const ITSELF: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// For whom a directory is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Errand {
    /// For whoever does it: a link gets nobody further than his rights do.
    Own,
    /// By root, for a server that is going to be this user.
    For(Uid, Gid),
}

impl Errand {
    /// Who the server is going to be.
    pub fn server(self) -> Uid {
        match self {
            Self::Own => geteuid(),
            Self::For(user, _) => user,
        }
    }
}

/// Whether the last part of a way may be a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    Followed,
    Refused,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct OwnDirectory {
    handle: OwnedFd,
    stat: Stat,
}

impl OwnDirectory {
    pub fn open(path: &Path, links: Links, errand: Errand) -> io::Result<Self> {
        let way = Way::to(path, links, errand)?;
        match way.missing.is_empty() {
            true => Ok(way.there),
            false => Err(ErrorKind::NotFound.into()),
        }
    }

    /// Opens it; makes it, and those above it, durably, if they are not there.
    pub fn make(path: &Path, links: Links, errand: Errand) -> io::Result<Self> {
        if errand == Errand::Own {
            make_durably(path, 0o700)?;
            return Self::open(path, links, errand);
        }
        let Way { mut there, missing } = Way::to(path, links, errand)?;
        for part in missing {
            there = match there.make_below(&part, Mode::RWXU, errand)? {
                Some(made) => made,
                // Somebody else was faster.
                None => {
                    let found = there.below(&part)?;
                    led(there.owner(), found.owner(), &part)?;
                    found
                }
            };
        }
        Ok(there)
    }

    /// Makes a directory in it, durably, for the user of the errand. None if something has the name.
    pub fn make_below(&self, part: &OsStr, mode: Mode, errand: Errand) -> io::Result<Option<Self>> {
        match fs::mkdirat(&self.handle, part, mode) {
            Err(Errno::EXIST) => return Ok(None),
            result => result?,
        }
        let made = self.below(part)?;
        if let Errand::For(user, group) = errand {
            // It is what was just made, unless somebody could put another one in its place.
            if !made.owner().is_root() || !made.is_empty()? {
                return Err(Errno::PERM.into());
            }
            fs::fchown(&made.handle, Some(user), Some(group))?;
        }
        File::from(self.handle.try_clone()?).sync_all()?;
        Self::held(made.handle).map(Some)
    }

    /// Whose it is.
    pub fn owner(&self) -> Uid {
        Uid::from_raw(self.stat.st_uid)
    }

    /// Its permissions. The width of the field differs from system to system.
    #[allow(clippy::useless_conversion)]
    pub fn mode(&self) -> u32 {
        u32::from(self.stat.st_mode) & 0o777
    }

    pub fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Whether something has this name in it.
    pub fn has(&self, name: &str) -> io::Result<bool> {
        match fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a file in it to read. What is a link, or anything else, is no file of ours.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        let file = File::from(fs::openat(&self.handle, name, ITSELF, Mode::empty())?);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(ErrorKind::InvalidInput.into()),
        }
    }

    /// Writes a file in it, whole and durable.
    pub fn write(
        &self,
        name: &str,
        bytes: &[u8],
        mode: ftx_protocol::Mode,
        replace: Replace,
    ) -> io::Result<()> {
        // Several may write it at the same time.
        let number = getrandom::u64()?;
        let mut landing = Landing::create_in(Native, self.handle.try_clone()?, number)?;
        let written = landing.write(bytes).and_then(|()| self.give(landing.file().as_fd()));
        if let Err(error) = written {
            landing.discard();
            return Err(error);
        }
        let now = file_time(SystemTime::now());
        landing.publish(name.as_bytes(), mode, now, replace, Durability::Full)
    }

    /// Gives a new file to whoever owns the directory.
    fn give(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        let owner = self.owner();
        if geteuid().is_root() && !owner.is_root() {
            fs::fchown(file, Some(owner), Some(Gid::from_raw(self.stat.st_gid)))?;
        }
        Ok(())
    }

    fn held(handle: OwnedFd) -> io::Result<Self> {
        let stat = fs::fstat(&handle)?;
        Ok(Self { handle, stat })
    }

    fn below(&self, part: &OsStr) -> io::Result<Self> {
        let flags = DIRECTORY | OFlags::NOFOLLOW;
        Self::held(fs::openat(&self.handle, part, flags, Mode::empty())?)
    }

    fn is_empty(&self) -> io::Result<bool> {
        for entry in Dir::read_from(&self.handle)? {
            if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// How far a path leads.
struct Way {
    there: OwnDirectory,
    /// What of it is not there, from above.
    missing: Vec<OsString>,
}

impl Way {
    fn to(path: &Path, links: Links, errand: Errand) -> io::Result<Self> {
        if let Errand::For(..) = errand {
            return Self::walked(&std::path::absolute(path)?, links);
        }
        let flags = match links {
            Links::Followed => DIRECTORY,
            Links::Refused => DIRECTORY | OFlags::NOFOLLOW,
        };
        let there = OwnDirectory::held(fs::open(path, flags, Mode::empty())?)?;
        Ok(Self { there, missing: Vec::new() })
    }

    /// Goes part by part. What belongs to root leads anywhere; what belongs to anybody else leads to what is his.
    fn walked(path: &Path, links: Links) -> io::Result<Self> {
        let mut there = OwnDirectory::held(fs::open("/", DIRECTORY, Mode::empty())?)?;
        let mut led_by = there.owner();
        let mut parts: Vec<OsString> = parts(path).rev().collect();
        let mut links_seen: u32 = 0;
        while let Some(part) = parts.pop() {
            match there.below(&part) {
                Ok(next) => {
                    led_by = led(led_by, next.owner(), &part)?;
                    there = next;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    parts.push(part);
                    break;
                }
                Err(error) => {
                    let stat = fs::statat(&there.handle, &part, AtFlags::SYMLINK_NOFOLLOW)?;
                    let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
                    if !is_link || (parts.is_empty() && links == Links::Refused) {
                        return Err(error);
                    }
                    links_seen = links_seen.saturating_add(1);
                    if links_seen > LINKS_MAX {
                        return Err(Errno::LOOP.into());
                    }
                    led_by = led(led_by, Uid::from_raw(stat.st_uid), &part)?;
                    let target = fs::readlinkat(&there.handle, &part, Vec::new())?.into_bytes();
                    let target = OsString::from_vec(target);
                    if Path::new(&target).is_absolute() {
                        there = OwnDirectory::held(fs::open("/", DIRECTORY, Mode::empty())?)?;
                        led_by = led(led_by, there.owner(), &part)?;
                    }
                    parts.extend(self::parts(Path::new(&target)).rev());
                }
            }
        }
        parts.reverse();
        Ok(Self { there, missing: parts })
    }
}

/// Whose word has led to something that belongs to `owner`.
fn led(by: Uid, owner: Uid, part: &OsStr) -> io::Result<Uid> {
    if by.is_root() || by == owner {
        return Ok(owner);
    }
    let why = format!(
        "{} belongs to another user than what leads there, who could lead root anywhere",
        Escaped::of(part)
    );
    Err(io::Error::new(ErrorKind::PermissionDenied, why))
}

/// The parts of a path, but for its root and what leads nowhere else.
fn parts(path: &Path) -> impl DoubleEndedIterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}
