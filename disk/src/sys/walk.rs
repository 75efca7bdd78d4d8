//! Opening beneath a root without openat2: one component at a time, never following a symlink by
//! the kernel. What was opened is held, and nothing is resolved twice, so no rename or new symlink
//! in between leads out.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use ftx_protocol::Name;
use rustix::fs::{self, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::{Want, platform};

/// Symlinks followed for one name, as in Linux.
pub const LINKS_MAX: u32 = 40;

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
        let wanted = if ahead.is_empty() { want } else { Want::Way };
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
    // A symlink led to a directory that is held already, for the way, or to the root.
    Ok(open_one(held.last().unwrap_or(root), b".", want)?)
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
        Want::Way => platform::WAY,
    };
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry_on_intr(|| fs::openat(here, part, flags, fs::Mode::empty()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::sys::{Disk, Native};

    type Way = fn(&OwnedFd, &Name, Want) -> io::Result<OwnedFd>;

    /// Both ways of opening beneath a root: the kernel's where there is one, and the walk.
    const WAYS: [Way; 2] = [|root, name, want| Native.open_beneath(root, name, want), open_beneath];

    fn name(text: &str) -> Name {
        Name::parse(text.as_bytes()).unwrap()
    }

    fn read(handle: &OwnedFd) -> Vec<u8> {
        let mut buffer = [0; 64];
        let count = Native.read_at(handle, &mut buffer, 0).unwrap();
        buffer[..count].to_vec()
    }

    /// A root with `dir/file`, and a file outside beside it.
    fn world() -> (tempfile::TempDir, OwnedFd) {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("root");
        std::fs::create_dir_all(root.join("dir/deep")).unwrap();
        std::fs::write(root.join("dir/file"), "inside").unwrap();
        std::fs::write(home.path().join("secret"), "outside").unwrap();
        let handle = Native.open_root(&root).unwrap();
        (home, handle)
    }

    #[test]
    fn links_that_stay_inside_are_followed_and_those_that_leave_are_not() {
        let (home, root) = world();
        let path = home.path().join("root");
        for (link, target) in [
            ("to-dir", "dir"),
            ("to-file", "dir/file"),
            ("dir/deep/up", "../file"),
            ("dir/deep/upper", "../../dir/./deep/../file"),
            ("twice", "to-dir/deep/up"),
            ("itself", "."),
            ("out", "../secret"),
            ("absolute", "/etc/hostname"),
            ("dir/out", "deep/../../../secret"),
            ("circle", "circle"),
        ] {
            symlink(target, path.join(link)).unwrap();
        }
        symlink("/proc/self/root", path.join("magic")).unwrap();
        for way in WAYS {
            for inside in [
                "dir/file",
                "to-dir/file",
                "to-file",
                "dir/deep/up",
                "dir/deep/upper",
                "twice",
                "itself/to-file",
            ] {
                assert_eq!(
                    read(&way(&root, &name(inside), Want::File).unwrap()),
                    b"inside",
                    "{inside}"
                );
            }
            for (outside, errno) in [
                ("out", Errno::XDEV),
                ("absolute", Errno::XDEV),
                ("dir/out", Errno::XDEV),
                ("magic/etc/hostname", Errno::XDEV),
                ("circle", Errno::LOOP),
                ("nothing", Errno::NOENT),
                ("dir/file/x", Errno::NOTDIR),
            ] {
                let error = way(&root, &name(outside), Want::File).unwrap_err();
                assert_eq!(Errno::from_io_error(&error), Some(errno), "{outside}");
            }
            assert!(way(&root, &name("to-dir"), Want::Directory).is_ok());
            assert!(way(&root, &name("dir/file"), Want::Directory).is_err());
        }
    }

    #[test]
    fn forty_links_are_followed_and_no_more() {
        let (home, root) = world();
        let path = home.path().join("root");
        symlink("dir/file", path.join("l1")).unwrap();
        for number in 2..=41 {
            symlink(format!("l{}", number - 1), path.join(format!("l{number}"))).unwrap();
        }
        for way in WAYS {
            assert!(way(&root, &name("l40"), Want::File).is_ok());
            let error = way(&root, &name("l41"), Want::File).unwrap_err();
            assert_eq!(Errno::from_io_error(&error), Some(Errno::LOOP));
        }
    }

    #[test]
    fn a_fifo_is_seen_and_not_opened() {
        let (home, root) = world();
        let fifo = home.path().join("root/fifo");
        fs::mknodat(fs::CWD, &fifo, fs::FileType::Fifo, fs::Mode::RUSR, 0).unwrap();
        for way in WAYS {
            match way(&root, &name("fifo"), Want::File) {
                Ok(handle) => {
                    assert_eq!(Native.stat(&handle).unwrap().kind, ftx_protocol::Kind::Special);
                }
                Err(error) => assert_eq!(Errno::from_io_error(&error), Some(Errno::NXIO)),
            }
        }
    }

    #[test]
    fn no_race_of_a_directory_with_a_link_leads_outside() {
        let (home, root) = world();
        let path = home.path().join("root");
        std::fs::create_dir(home.path().join("trap")).unwrap();
        std::fs::write(home.path().join("trap/file"), "outside").unwrap();
        symlink("../trap", path.join("link")).unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // The directory and the link change places, again and again.
                    let _ = fs::renameat_with(
                        fs::CWD,
                        path.join("dir"),
                        fs::CWD,
                        path.join("link"),
                        fs::RenameFlags::EXCHANGE,
                    );
                }
            });
            let mut inside: u32 = 0;
            for turn in 0..20_000 {
                let way = WAYS[turn % 2];
                if let Ok(handle) = way(&root, &name("dir/file"), Want::File) {
                    assert_eq!(read(&handle), b"inside");
                    inside += 1;
                }
            }
            over.store(true, Ordering::Relaxed);
            assert!(inside > 0);
        });
    }
}
