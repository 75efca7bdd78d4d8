//! Opening beneath a root without openat2: one component at a time, never following a symlink by
//! the kernel. What was opened is held, and nothing is resolved twice, so no rename or new symlink
//! in between leads out.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use ftx_protocol::Name;
use rustix::fs::{self, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::Want;

/// Symlinks followed for one name, as in Linux.
const LINKS_MAX: u32 = 40;

pub(super) fn open_beneath(root: &OwnedFd, name: &Name, want: Want) -> io::Result<OwnedFd> {
    let mut ahead: VecDeque<Vec<u8>> = name.parts().map(<[u8]>::to_vec).collect();
    // The directories from below the root down to where we are; `..` goes back along them.
    let mut held: Vec<OwnedFd> = Vec::new();
    let mut links: u32 = 0;
    while let Some(part) = ahead.pop_front() {
        match part.as_slice() {
            b"" | b"." => continue,
            b".." => {
                held.pop().ok_or(Errno::XDEV)?;
                continue;
            }
            _ => {}
        }
        let here = held.last().unwrap_or(root);
        let wanted = if ahead.is_empty() { want } else { Want::Directory };
        match open_one(here, &part, wanted) {
            Ok(opened) if ahead.is_empty() => return Ok(opened),
            Ok(opened) => held.push(opened),
            // ELOOP, or ENOTDIR where a directory was wanted: perhaps a symlink.
            Err(error @ (Errno::LOOP | Errno::NOTDIR | Errno::MLINK)) => {
                let target = match retry_on_intr(|| fs::readlinkat(here, &*part, Vec::new())) {
                    Ok(target) => target.into_bytes(),
                    Err(_) => return Err(error.into()),
                };
                links = links.saturating_add(1);
                if links > LINKS_MAX {
                    return Err(Errno::LOOP.into());
                }
                if target.starts_with(b"/") {
                    return Err(Errno::XDEV.into());
                }
                for part in target.split(|&byte| byte == b'/').rev() {
                    ahead.push_front(part.to_vec());
                }
                // An empty rest would be taken for the last part.
                while ahead.back().is_some_and(|part| part.is_empty() || part == b".") {
                    ahead.pop_back();
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    // A symlink led to a directory that is held already, or to the root.
    match (want, held.pop()) {
        (Want::Directory, Some(directory)) => Ok(directory),
        (Want::Directory, None) => Ok(root.try_clone()?),
        (Want::File, directory) => directory.map_or_else(|| root.try_clone(), Ok),
    }
}

fn open_one(here: &OwnedFd, part: &[u8], want: Want) -> Result<OwnedFd, Errno> {
    if want == Want::File {
        // See openat2's user: a FIFO or device is looked at, not opened. What cannot be looked at
        // without opening it (there is no O_PATH everywhere) is refused.
        let stat = retry_on_intr(|| fs::statat(here, part, fs::AtFlags::SYMLINK_NOFOLLOW))?;
        match fs::FileType::from_raw_mode(stat.st_mode) {
            fs::FileType::RegularFile | fs::FileType::Directory | fs::FileType::Symlink => {}
            _ => return Err(Errno::NXIO),
        }
    }
    let flags = match want {
        Want::File => OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY,
        Want::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
    };
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry_on_intr(|| fs::openat(here, part, flags, fs::Mode::empty()))
}
